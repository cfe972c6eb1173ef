"""Questions and answers over the bus, and how a question can end otherwise."""

from __future__ import annotations

import asyncio
import json

import pytest

from holdfast.bus import Intake, NoResponders
from holdfast.exceptions import (
    DeadlineExceeded,
    HoldfastError,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from tests.bus.rig import PATIENCE_S, Heard, MakeBus, NatsServer, happens


async def echo(subject: str, data: bytes) -> bytes:
    return subject.encode() + b": " + data


async def test_a_request_gets_the_answer_of_a_responder(calm_nats: NatsServer, make_bus: MakeBus) -> None:
    asker, answerer = await make_bus(calm_nats), await make_bus(calm_nats)
    await answerer.respond("hf.rpc.*.echo", echo).ready()

    assert await asker.request("hf.rpc.default.echo", b"hello") == b"hf.rpc.default.echo: hello"


async def test_many_requests_are_answered_at_once_and_each_gets_its_own_answer(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)
    running, together = 0, asyncio.Event()

    async def respond(subject: str, data: bytes) -> bytes:
        nonlocal running
        running += 1
        if running == 500:
            together.set()
        await together.wait()
        return data

    bus.respond("parallel", respond)

    answers = await asyncio.gather(*[bus.request("parallel", b"%d" % number) for number in range(500)])

    assert answers == [b"%d" % number for number in range(500)]


async def test_more_requests_than_a_responder_can_hold_are_refused_at_once_as_retryable(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)
    gate = asyncio.Event()

    async def respond(subject: str, data: bytes) -> bytes:
        await gate.wait()
        return data

    bus.respond("busy", respond, intake=Intake(concurrency=1, backlog_max=1))
    held = [bus.ask("busy", b"%d" % number, PATIENCE_S) for number in range(2)]

    with pytest.raises(Unavailable, match="too much to do"):
        await bus.request("busy", b"2")

    gate.set()
    assert await asyncio.gather(*held) == [b"0", b"1"]


async def test_asking_where_nobody_listens_fails_at_once(calm_nats: NatsServer, make_bus: MakeBus) -> None:
    bus = await make_bus(calm_nats)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(NoResponders, match=r"nobody answers hf\.rpc\.default\.start") as caught:
            await bus.request("hf.rpc.default.start", b"", timeout_s=3600)
    assert isinstance(caught.value, Unavailable)
    assert caught.value.details == {"no_responders": "true"}


async def test_a_question_without_an_answer_ends_at_its_deadline_and_leaves_nothing(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)
    asked = Heard()
    bus.subscribe("mute", asked.add)

    with pytest.raises(DeadlineExceeded, match=r"mute did not answer within 0\.05 s"):
        await bus.request("mute", b"", timeout_s=0.05)

    assert len(asked.items) == 1
    assert len(bus.replies) == 0
    assert bus.stats.request_timeouts == 1


async def test_each_of_several_questions_ends_at_its_own_deadline(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)
    bus.subscribe("mute", Heard().add)
    ended = Heard()

    async def ask(timeout_s: float) -> None:
        with pytest.raises(DeadlineExceeded):
            await bus.request("mute", b"", timeout_s)
        ended.add(timeout_s)

    await asyncio.gather(ask(0.3), ask(0.1), ask(0.2))

    assert ended.items == [0.1, 0.2, 0.3]


async def test_a_cancelled_question_leaves_nothing_and_its_late_answer_is_ignored(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)
    started, gate, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def respond(subject: str, data: bytes) -> bytes:
        started.set()
        await gate.wait()
        answered.set()
        return data

    bus.respond("slow", respond)
    asking = asyncio.create_task(bus.request("slow", b""))
    await started.wait()

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(bus.replies) == 0
    gate.set()
    await answered.wait()
    bus.respond("echo", echo)
    assert await bus.request("echo", b"next") == b"echo: next"


async def test_a_service_error_of_the_responder_is_raised_at_the_asker(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)

    async def respond(subject: str, data: bytes) -> bytes:
        raise LeaseLost("task 7:\r\nlease 3 ended") if data else NotFound("no such workflow")

    bus.respond("failing", respond)

    with pytest.raises(LeaseLost, match="task 7:  lease 3 ended"):
        await bus.request("failing", b"x")
    with pytest.raises(NotFound, match="no such workflow"):
        await bus.request("failing", b"")


async def test_an_unforeseen_error_of_the_responder_is_told_without_its_text(
    calm_nats: NatsServer, make_bus: MakeBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await make_bus(calm_nats)

    async def respond(subject: str, data: bytes) -> bytes:
        raise ValueError("password=hunter2")

    bus.respond("broken", respond)

    with pytest.raises(HoldfastError, match="its log says why") as caught:
        await bus.request("broken", b"")
    assert caught.value.code == "internal"
    assert "hunter2" in caplog.text


async def test_an_answer_larger_than_the_server_takes_is_an_error_and_not_a_silence(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)

    async def respond(subject: str, data: bytes) -> bytes:
        return bytes(5_000_000)

    bus.respond("huge", respond)

    with pytest.raises(HoldfastError, match="NATS takes at most"):
        await bus.request("huge", b"")


async def test_questions_on_their_way_when_the_server_dies_end_at_once_as_unknown(
    nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(nats)
    asked = Heard()
    bus.subscribe("mute", asked.add)
    asking = [asyncio.create_task(bus.request("mute", b"", timeout_s=3600)) for _ in range(5)]
    await asked.count(5)

    nats.kill()

    async with asyncio.timeout(PATIENCE_S):
        ends = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(end) for end in ends} == {OutcomeUnknown}
    with pytest.raises(Unavailable, match="NATS is away"):
        await bus.request("mute", b"")


async def test_the_service_is_discoverable_the_way_nats_tools_discover(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    """What `nats micro ls`, `info` and `stats` ask."""
    bus = await make_bus(calm_nats, version="1.2.3")
    bus.respond("hf.rpc.*.start", echo)
    await bus.respond("hf.rpc.*.signal", echo).ready()
    await bus.request("hf.rpc.default.start", b"")

    ping = json.loads(await bus.request("$SRV.PING", b""))
    info = json.loads(await bus.request("$SRV.INFO.holdfast", b""))
    stats = json.loads(await bus.request(f"$SRV.STATS.holdfast.{ping['id']}", b""))

    identity = {"name": "holdfast", "id": ping["id"], "version": "1.2.3", "metadata": {}}
    assert ping == {"type": "io.nats.micro.v1.ping_response", **identity}
    assert info["type"] == "io.nats.micro.v1.info_response"
    assert info["endpoints"] == [
        {"name": verb, "subject": f"hf.rpc.*.{verb}", "queue_group": "hf", "metadata": {}}
        for verb in ("start", "signal")
    ]
    assert stats["type"] == "io.nats.micro.v1.stats_response"
    assert stats["started"].endswith("Z")
    assert [endpoint["num_requests"] for endpoint in stats["endpoints"]] == [1, 0]
    assert stats["endpoints"][0]["processing_time"] >= stats["endpoints"][0]["average_processing_time"] >= 0


async def test_questions_work_again_after_a_restart(nats: NatsServer, make_bus: MakeBus) -> None:
    asker, answerer = await make_bus(nats), await make_bus(nats)
    answerer.respond("echo", echo)
    ups = [happens(bus.on_up) for bus in (asker, answerer)]

    nats.kill()
    nats.start()
    await asyncio.gather(*ups)

    assert await asker.request("echo", b"again") == b"echo: again"
