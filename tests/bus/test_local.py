"""The bus inside one process behaves as the one over NATS, to those who share it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from holdfast.bus import Msg, NoResponders, decode_hint
from holdfast.bus.local import LocalBus
from holdfast.exceptions import DeadlineExceeded, Refused


@pytest.fixture
async def bus() -> AsyncIterator[LocalBus]:
    opened = LocalBus(name="test")
    await opened.start()
    yield opened
    await opened.close(0)


async def heard(bus: LocalBus, pattern: str, queue_group: str | None = None) -> list[Msg]:
    """What is said on these subjects from now on."""
    messages: list[Msg] = []
    await bus.subscribe(pattern, messages.append, queue_group).ready()
    return messages


async def until_delivered(bus: LocalBus) -> None:
    assert bus.link is not None
    await bus.link.flush()


async def test_it_is_connected_at_once() -> None:
    bus = LocalBus(name="test")
    assert not bus.is_connected

    await bus.start()

    assert bus.is_connected
    await bus.close(0)
    assert not bus.is_connected


@pytest.mark.parametrize(
    ("pattern", "is_heard"),
    [
        ("a.b.c", True),
        ("a.*.c", True),
        ("a.>", True),
        (">", True),
        ("a.b", False),
        ("a.b.c.>", False),
        ("a.*", False),
        ("a.b.d", False),
    ],
)
async def test_who_subscribed_hears_what_is_published(bus: LocalBus, pattern: str, is_heard: bool) -> None:
    messages = await heard(bus, pattern)

    bus.publish("a.b.c", b"one", {"name": "value"})
    await until_delivered(bus)

    assert [(message.subject, message.data) for message in messages] == [("a.b.c", b"one")] * is_heard
    assert [message.headers for message in messages] == [{"name": "value"}] * is_heard


async def test_messages_come_in_order_and_not_before_the_turn_is_over(bus: LocalBus) -> None:
    messages = await heard(bus, "a")

    for number in range(3):
        bus.publish("a", b"%d" % number)
    assert messages == []
    await until_delivered(bus)

    assert [message.data for message in messages] == [b"0", b"1", b"2"]


async def test_one_member_of_a_queue_group_gets_a_message_and_they_take_turns(bus: LocalBus) -> None:
    members = [await heard(bus, "a", "group") for _ in range(2)]

    for _ in range(4):
        bus.publish("a", b"x")
    await until_delivered(bus)

    assert [len(messages) for messages in members] == [2, 2]


async def test_who_has_unsubscribed_hears_nothing(bus: LocalBus) -> None:
    messages: list[Msg] = []
    subscription = bus.subscribe("a", messages.append)
    await subscription.unsubscribe()

    bus.publish("a", b"x")
    await until_delivered(bus)

    assert messages == []


async def test_a_request_is_answered(bus: LocalBus) -> None:
    async def double(_: str, data: bytes) -> bytes:
        return data * 2

    bus.respond("twice.*", double)

    assert await bus.request("twice.a", b"ab") == b"abab"


async def test_the_responders_error_is_raised_at_the_asker(bus: LocalBus) -> None:
    async def refuse(_: str, __: bytes) -> bytes:
        raise Refused("not today")

    bus.respond("ask", refuse)

    with pytest.raises(Refused, match="not today"):
        await bus.request("ask", b"")


async def test_who_asks_where_nobody_listens_is_told_at_once(bus: LocalBus) -> None:
    with pytest.raises(NoResponders):
        await bus.request("nobody", b"")


async def test_who_is_not_answered_is_told_when_the_time_is_over(bus: LocalBus) -> None:
    await heard(bus, "silent")

    with pytest.raises(DeadlineExceeded):
        await bus.request("silent", b"", 0.01)


async def test_hints_are_heard(bus: LocalBus) -> None:
    messages = await heard(bus, "hf.hint.>")

    assert bus.hint("main", "workflow", "q", 3, 5.0)
    await until_delivered(bus)

    assert decode_hint(messages[0].data).count == 3
