"""The change feed: every event once, a run's in order, from whichever process relays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext

from holdfast.engine.engine import Engine
from holdfast.engine.feed import ROLE, Relay
from holdfast.exceptions import Unavailable
from holdfast.metrics import Metrics
from holdfast.store import outbox
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import events as e
from tests.engine.parts import Parts, schedule

STREAM = "HF_EVENT"


@pytest.fixture
async def stream(parts: Parts, nats_url: str) -> AsyncIterator[JetStreamContext]:
    """The stream, looked at with a client of its own."""
    await parts.engine.bus.ensure_streams()
    connection = await nats.connect(nats_url)
    yield connection.jetstream()
    await connection.close()


async def stored(stream: JetStreamContext, namespace: str) -> list[Any]:
    """The messages of a namespace, in the order in which the stream has them."""
    wanted = f"hf.event.{namespace}.>"
    counts = (await stream.stream_info(STREAM, subjects_filter=wanted)).state.subjects or {}
    subscription = await stream.subscribe(wanted, stream=STREAM, ordered_consumer=True)
    found = [await subscription.next_msg(timeout=10) for _ in range(sum(counts.values()))]
    await subscription.unsubscribe()
    return found


def told(messages: list[Any]) -> list[tuple[str, list[int]]]:
    """Of each message its run and the numbers of its events."""
    return [
        (
            message.headers["Holdfast-Run"],
            [event.seq for event in codec.decode(message.data, list[e.StoredEvent])],
        )
        for message in messages
    ]


async def relayed(relay: Relay) -> int:
    """Rows settled until there are none left."""
    total = 0
    while handled := await relay.step():
        total += handled
    return total


def other_engine(parts: Parts) -> Engine:
    """Another process of the service."""
    return Engine(parts.engine.pool, parts.engine.bus, Metrics(), name="engine-2")


async def expire(parts: Parts) -> None:
    await parts.look("UPDATE leader SET until = now() - interval '1 s'")


async def test_each_transaction_of_a_run_is_one_message_in_order(
    parts: Parts, stream: JetStreamContext
) -> None:
    run_id = await parts.start()
    await parts.turn(schedule(1), schedule(2))
    await parts.signal()

    assert await relayed(Relay(parts.engine)) == 3

    messages = await stored(stream, parts.namespace)
    assert told(messages) == [(run_id, [1]), (run_id, [2, 3, 4]), (run_id, [5])]
    assert (
        messages[1].headers["Holdfast-Events"] == "WorkflowTaskCompleted,ActivityScheduled,ActivityScheduled"
    )
    assert messages[1].headers["Nats-Msg-Id"] == f"{run_id}:2"
    assert {message.subject for message in messages} == {subjects.event(parts.namespace, "order", "order-1")}
    assert await parts.look.one("SELECT count(*) FROM outbox") == 0


async def test_the_events_are_those_of_the_history(parts: Parts, stream: JetStreamContext) -> None:
    await parts.start(input=b'["x"]')
    await relayed(Relay(parts.engine))

    (message,) = await stored(stream, parts.namespace)

    (event,) = codec.decode(message.data, list[e.HistoryEvent])
    assert isinstance(event.event, e.WorkflowStarted)
    assert event.event.input == b'["x"]'
    at = await parts.look.one("SELECT extract(epoch FROM recorded_at)::float8 FROM event")
    assert event.time == pytest.approx(at, abs=1e-5)


async def test_runs_that_go_on_at_the_same_time_are_each_in_order(
    parts: Parts, stream: JetStreamContext
) -> None:
    runs = {name: await parts.start(name) for name in ("a", "b", "c")}
    relay = Relay(parts.engine)

    async def signals(name: str) -> None:
        for _ in range(15):
            await parts.signal(name)

    await asyncio.gather(*(signals(name) for name in runs), relay.step(), return_exceptions=True)
    await relayed(relay)

    found = told(await stored(stream, parts.namespace))
    for run_id in runs.values():
        assert [seq for other, seqs in found for seq in seqs if other == run_id] == list(range(1, 17))


async def test_odd_names_are_tokens_of_their_own(parts: Parts, stream: JetStreamContext) -> None:
    await parts.start("a.b > * ü", workflow_type="t.x *")
    await relayed(Relay(parts.engine))

    (message,) = await stored(stream, parts.namespace)

    assert message.subject.count(".") == 4
    assert message.subject == subjects.event(parts.namespace, "t.x *", "a.b > * ü")


# -- how much is told ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feed", "names"),
    [
        (
            "full",
            [
                "WorkflowStarted",
                "WorkflowTaskCompleted",
                "TimerStarted",
                "WorkflowTaskCompleted",
                "WorkflowCompleted",
            ],
        ),
        ("lifecycle", ["WorkflowStarted", "WorkflowCompleted"]),
        ("off", []),
    ],
)
async def test_a_namespace_decides_how_much_is_told(
    parts: Parts, stream: JetStreamContext, feed: str, names: list[str]
) -> None:
    await parts.look("UPDATE namespace SET feed = $1 WHERE name = $2", feed, parts.namespace)
    await parts.start()
    await parts.turn(c.StartTimer(seq=1, delay_s=60))
    await parts.look("UPDATE timer SET fire_at = now()")
    await parts.signal()
    await parts.turn(c.CompleteWorkflow())

    await relayed(Relay(parts.engine))

    found = [
        name
        for message in await stored(stream, parts.namespace)
        for name in message.headers["Holdfast-Events"].split(",")
        if name != "SignalReceived"
    ]
    assert found == names
    assert await parts.look.one("SELECT count(*) FROM outbox") == 0, "what is not told is settled too"


# -- who relays ------------------------------------------------------------------------------------


async def test_one_process_relays_at_a_time(parts: Parts, stream: JetStreamContext) -> None:
    first, second = Relay(parts.engine), Relay(other_engine(parts))
    await first.step()
    await parts.start()

    assert await second.step() == 0
    assert await first.step() == 1


async def test_when_the_relay_is_gone_another_takes_over(parts: Parts, stream: JetStreamContext) -> None:
    await Relay(parts.engine).step()
    await expire(parts)
    run_id = await parts.start()

    assert await Relay(other_engine(parts)).step() == 1

    assert told(await stored(stream, parts.namespace)) == [(run_id, [1])]


async def test_a_relay_that_died_between_publishing_and_forgetting_tells_nothing_twice(
    parts: Parts, stream: JetStreamContext
) -> None:
    """The next one publishes the same again, under the same ids, and the stream drops what it has."""
    run_id = await parts.start()
    await parts.signal()
    dying = Relay(parts.engine)
    messages, _ = await dying._messages(await outbox.read_owed(parts.engine.pool, 100))
    await parts.engine.bus.publish_acked(messages)

    assert await relayed(Relay(other_engine(parts))) == 2

    assert told(await stored(stream, parts.namespace)) == [(run_id, [1]), (run_id, [2])]


async def test_a_relay_that_was_deposed_while_it_published_forgets_nothing(
    parts: Parts, stream: JetStreamContext
) -> None:
    old = Relay(parts.engine)
    await old.step()
    await parts.start()
    await expire(parts)
    assert await outbox.take_role(parts.engine.pool, ROLE, "engine-2", 60.0) == 2

    await old.step()

    assert await parts.look.one("SELECT count(*) FROM outbox") == 1, "it is the other's to settle"


async def test_a_relay_that_was_deposed_stops_when_its_time_is_over(
    parts: Parts, stream: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.feed.TTL_S", 0.0)
    old = Relay(parts.engine)
    await old.step()
    await expire(parts)
    assert await outbox.take_role(parts.engine.pool, ROLE, "engine-2", 60.0) == 2
    await parts.start()

    assert await old.step() == 0


# -- trouble on the way -----------------------------------------------------------------------------


async def test_a_stream_that_was_wiped_is_made_again_and_nothing_owed_is_lost(
    parts: Parts, stream: JetStreamContext
) -> None:
    run_id = await parts.start()
    relay = Relay(parts.engine)
    await stream.delete_stream(STREAM)

    async with asyncio.timeout(20):
        while await parts.look.one("SELECT count(*) FROM outbox"):
            try:
                await relay.step()
            except Unavailable:
                await parts.engine.bus.ensure_streams()

    assert told(await stored(stream, parts.namespace)) == [(run_id, [1])]


async def test_without_the_bus_the_relay_waits_and_owes(parts: Parts) -> None:
    await parts.start()
    await parts.engine.bus.close()

    assert await Relay(parts.engine).step() == 0

    assert await parts.look.one("SELECT count(*) FROM outbox") == 1


async def test_a_page_is_settled_at_a_time(
    parts: Parts, stream: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.feed.PAGE", 3)
    for number in range(7):
        await parts.start(f"w{number}")
    relay = Relay(parts.engine)

    assert [await relay.step() for _ in range(4)] == [3, 3, 1, 0]


async def test_many_events_of_many_runs_all_arrive(parts: Parts, stream: JetStreamContext) -> None:
    runs = await asyncio.gather(*(parts.start(f"w{number}") for number in range(60)))
    await asyncio.gather(*(parts.signal(f"w{number % 60}") for number in range(240)))

    await relayed(Relay(parts.engine))

    found = told(await stored(stream, parts.namespace))
    for run_id in runs:
        assert [seq for other, seqs in found for seq in seqs if other == run_id] == [1, 2, 3, 4, 5]
