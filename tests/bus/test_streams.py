"""The two streams: made, made again, and written with confirmation."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from holdfast.bus import Bus, StreamLimits, decode_hint
from holdfast.exceptions import Invalid, Unavailable
from holdfast.wire import subjects
from tests.bus.rig import PATIENCE_S, Heard, MakeBus, NatsServer, happens


async def stream(bus: Bus, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await bus.request(f"$JS.API.STREAM.INFO.{name}", b""))
    return answer


async def stored(bus: Bus, sequence: int) -> bytes:
    return await bus.request("$JS.API.DIRECT.GET.HF_EVENT", json.dumps({"seq": sequence}).encode())


async def until_made(bus: Bus, times: int) -> None:
    """The bus looks after the streams in the background; its count tells when it is through."""
    async with asyncio.timeout(PATIENCE_S):
        while bus.stats.streams_ensured < times:
            await stream(bus, "HF_EVENT")


def events(count: int, workflow: str = "w") -> list[tuple[str, bytes, dict[str, str]]]:
    subject = subjects.event("default", "Order", workflow)
    return [(subject, b"%d" % number, {"Nats-Msg-Id": f"{workflow}-{number}"}) for number in range(count)]


@pytest.fixture
async def bus(nats: NatsServer, make_bus: MakeBus) -> Bus:
    return await make_bus(nats)


async def test_the_streams_are_made_as_the_specification_says(bus: Bus) -> None:
    await bus.ensure_streams(StreamLimits(event_age_s=3600, event_bytes=50_000_000))

    hint, event = (await stream(bus, "HF_HINT"))["config"], (await stream(bus, "HF_EVENT"))["config"]
    assert hint["subjects"] == ["hf.hint.>"]
    assert (hint["max_msgs_per_subject"], hint["discard"], hint["retention"]) == (1, "old", "limits")
    assert event["subjects"] == ["hf.event.>", "hf.journal.>"]
    assert (event["storage"], event["max_age"], event["max_bytes"]) == ("file", 3600 * 10**9, 50_000_000)
    assert event["duplicate_window"] == 120 * 10**9
    assert event["allow_atomic"] is True
    assert hint["max_consumers"] > 0
    assert event["max_consumers"] > 0


async def test_making_the_streams_again_changes_limits_and_keeps_what_is_stored(bus: Bus) -> None:
    await bus.ensure_streams()
    await bus.publish_acked(events(3))

    await asyncio.gather(bus.ensure_streams(), bus.ensure_streams())
    await bus.ensure_streams(StreamLimits(event_age_s=60))

    found = await stream(bus, "HF_EVENT")
    assert found["config"]["max_age"] == 60 * 10**9
    assert found["state"]["messages"] == 3


async def test_streams_whose_store_was_wiped_while_the_server_was_down_are_made_again(
    nats: NatsServer, bus: Bus
) -> None:
    await bus.ensure_streams(StreamLimits(event_age_s=77))
    up = happens(bus.on_up)

    nats.kill()
    nats.wipe()
    nats.start()
    await up
    await until_made(bus, 2)

    assert (await stream(bus, "HF_EVENT"))["config"]["max_age"] == 77 * 10**9
    assert (await stream(bus, "HF_HINT"))["state"]["messages"] == 0


async def test_a_bus_that_never_asked_for_the_streams_makes_none(nats: NatsServer, bus: Bus) -> None:
    up = happens(bus.on_up)
    nats.kill()
    nats.start()
    await up

    assert (await stream(bus, "HF_EVENT"))["error"]["code"] == 404


@pytest.mark.parametrize("name", ["HF_HINT", "HF_EVENT"])
async def test_a_deleted_stream_is_made_again_by_whoever_looks_after_the_streams(bus: Bus, name: str) -> None:
    await bus.ensure_streams()

    await bus.request(f"$JS.API.STREAM.DELETE.{name}", b"")
    await until_made(bus, 2)

    assert (await stream(bus, name))["config"]["name"] == name


async def test_streams_asked_for_while_the_server_is_away_are_made_when_it_comes(
    stopped_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(stopped_nats, is_connected=False)
    with pytest.raises(Unavailable, match="NATS is away"):
        await bus.ensure_streams()

    stopped_nats.start()
    await bus.connected(PATIENCE_S)
    await until_made(bus, 1)

    assert "config" in await stream(bus, "HF_EVENT")


async def test_confirmed_messages_are_stored_in_order(bus: Bus) -> None:
    await bus.ensure_streams()

    assert await bus.publish_acked(events(5_000)) == 5_000

    assert (await stream(bus, "HF_EVENT"))["state"]["messages"] == 5_000
    assert [await stored(bus, sequence) for sequence in (1, 2_500, 5_000)] == [b"0", b"2499", b"4999"]
    assert bus.stats.acked == 5_000


async def test_repeated_messages_are_confirmed_and_stored_once(bus: Bus) -> None:
    await bus.ensure_streams()
    await bus.publish_acked(events(10))

    assert await bus.publish_acked(events(12)) == 12

    assert (await stream(bus, "HF_EVENT"))["state"]["messages"] == 12


async def test_nothing_to_publish_is_confirmed_at_once(bus: Bus) -> None:
    assert await bus.publish_acked([]) == 0


async def test_a_missing_stream_is_made_by_who_publishes_to_it(bus: Bus) -> None:
    assert await bus.publish_acked(events(3)) == 3

    assert (await stream(bus, "HF_EVENT"))["state"]["messages"] == 3


async def test_nothing_is_sent_behind_a_message_until_the_stream_is_known_to_be_there(
    nats: NatsServer, bus: Bus, make_bus: MakeBus
) -> None:
    """Made by another process while 500 messages passed, the stream kept the last ones, and then the first ones."""
    heard = Heard()
    other = await make_bus(nats)
    # With a listener beside it, a missing stream is silent.
    await other.subscribe("hf.event.>", heard.add).ready()
    publishing = asyncio.create_task(bus.publish_acked(events(500), timeout_s=1.0))
    await heard.count(1)

    await other.ensure_streams()

    with pytest.raises(Unavailable, match="0 of 500 messages are stored: no confirmation"):
        await publishing
    assert len(heard.items) == 1
    assert await bus.publish_acked(events(500)) == 500
    assert [await stored(bus, sequence) for sequence in (1, 2, 500)] == [b"0", b"1", b"499"]


async def test_who_may_send_no_more_sends_nothing_more(nats: NatsServer, bus: Bus, make_bus: MakeBus) -> None:
    await bus.ensure_streams()
    heard = Heard()
    await (await make_bus(nats)).subscribe("hf.event.>", heard.add).ready()
    answers = iter([True, True, True, False])

    with pytest.raises(Unavailable, match="of 10 messages are stored: the sender lost its right to send"):
        await bus.publish_acked(events(10), may_send=lambda: next(answers))

    bus.publish("hf.event.end", b"end")
    assert [msg.data for msg in await heard.count(4)] == [b"0", b"1", b"2", b"end"]  # type: ignore[attr-defined]


async def test_an_outage_in_the_middle_tells_how_many_are_stored_and_leaves_nothing_behind(
    nats: NatsServer, bus: Bus
) -> None:
    """nats-py's publish_async keeps the futures of confirmations that an outage swallowed."""
    await bus.ensure_streams()
    count = 200_000
    heard = Heard()
    bus.subscribe("hf.event.>", heard.add)
    publishing = asyncio.create_task(bus.publish_acked(events(count), timeout_s=PATIENCE_S))
    await heard.count(20_000)

    nats.kill()

    with pytest.raises(
        Unavailable, match=rf"of {count} messages are stored: the connection to NATS was lost"
    ) as caught:
        await publishing
    acked = int(caught.value.details["acked"])
    assert 0 < acked < count
    assert len(bus.replies) == 0
    assert bus.replies._inlets == {}

    up = happens(bus.on_up)
    nats.start()
    await up
    await bus.publish_acked(events(acked + 5_000)[acked:])
    assert (await stream(bus, "HF_EVENT"))["state"]["messages"] >= acked


async def test_publishing_while_the_server_is_away_fails_at_once(nats: NatsServer, bus: Bus) -> None:
    down = happens(bus.on_down)
    nats.kill()
    await down

    with pytest.raises(Unavailable, match="0 of 3 messages are stored: NATS is away") as caught:
        await bus.publish_acked(events(3))
    assert caught.value.details == {"acked": "0"}


async def test_a_frozen_server_confirms_nothing_and_the_publisher_hears_so_in_time(
    nats: NatsServer, bus: Bus
) -> None:
    await bus.ensure_streams()
    nats.freeze()

    with pytest.raises(Unavailable, match=r"0 of 3 messages are stored: no confirmation for 0\.2 s"):
        await bus.publish_acked(events(3), timeout_s=0.2)

    nats.thaw()
    assert await bus.publish_acked(events(3)) == 3
    assert (await stream(bus, "HF_EVENT"))["state"]["messages"] == 3


async def test_a_message_that_nats_can_never_take_is_named(bus: Bus) -> None:
    await bus.ensure_streams()
    subject = subjects.event("default", "T", "w")

    with pytest.raises(Invalid, match="NATS takes at most") as caught:
        await bus.publish_acked([(subject, b"fine", None), (subject, bytes(5_000_000), None)])

    assert caught.value.details == {"index": "1"}


async def test_a_full_stream_that_discards_old_messages_goes_on_taking_new_ones(bus: Bus) -> None:
    await bus.ensure_streams(StreamLimits(event_bytes=100_000))
    subject = subjects.event("default", "T", "w")

    await bus.publish_acked([(subject, bytes(1_000), None)] * 1_000)

    state = (await stream(bus, "HF_EVENT"))["state"]
    assert state["bytes"] <= 100_000
    assert state["last_seq"] == 1_000


async def test_the_stream_remembers_the_newest_hint_of_each_task_queue(bus: Bus) -> None:
    await bus.ensure_streams()
    odd = "a > queue.* " + "long " * 40
    bus.hint("default", "workflow", "orders", 1, 100.0)
    bus.hint("default", "workflow", "orders", 7, 200.0)
    bus.hint("default", "activity", odd, 2, 300.0)
    bus.hint("other", "workflow", "orders", 3)

    # A hint is not confirmed, and the stream may take it a moment after the listeners.
    async with asyncio.timeout(PATIENCE_S):
        while not await bus.last_hints("other", "workflow", "orders"):
            pass
    held = {each.subject: each.hint for each in await bus.last_hints("default")}

    assert set(held) == {
        subjects.hint("default", "workflow", "orders"),
        subjects.hint("default", "activity", odd),
    }
    newest = held[subjects.hint("default", "workflow", "orders")]
    assert (newest.count, newest.oldest_ready_at) == (7, 200.0)
    assert len(await bus.last_hints("default", "activity")) == 1
    assert await bus.last_hints("other", "activity", "orders") == []


async def test_without_a_stream_there_are_no_hints_to_remember(bus: Bus) -> None:
    assert await bus.last_hints("default") == []


async def test_a_hint_reaches_who_listens_on_that_queue_only(bus: Bus) -> None:
    orders, star = Heard(), Heard()
    bus.subscribe(
        subjects.hint("default", "workflow", "orders"), lambda msg: orders.add(decode_hint(msg.data))
    )
    bus.subscribe(subjects.hint("default", "workflow", "*"), lambda msg: star.add(decode_hint(msg.data)))

    bus.hint("default", "workflow", "orders", 4, 5.0)
    bus.hint("default", "workflow", "*", 6)

    (hint,) = await orders.count(1)
    assert getattr(hint, "count", None) == 4
    (other,) = await star.count(1)
    assert getattr(other, "count", None) == 6
    assert len(orders.items) == 1


async def test_hints_are_dropped_while_the_switch_is_on(bus: Bus) -> None:
    heard = Heard()
    bus.subscribe(subjects.hints("default"), heard.add)

    bus.drop_hints = True
    assert bus.hint("default", "workflow", "q") is False
    bus.drop_hints = False
    assert bus.hint("default", "workflow", "q", 2) is True

    await heard.count(1)
    assert len(heard.items) == 1
    assert bus.stats.hints_suppressed == 1


@pytest.mark.parametrize("forged", [b"", b"\xc1", b"not msgpack", b"\x81\xa5count\xa1x", b"\x93\x01\x02\x03"])
def test_a_forged_hint_says_nothing(forged: bytes) -> None:
    assert decode_hint(forged) is None
