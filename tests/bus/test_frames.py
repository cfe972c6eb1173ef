"""Calls of one turn of the loop share a message; what comes back finds its caller."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from holdfast.bus import Bus, framed_caller, framed_responder
from holdfast.exceptions import Invalid, NotFound, OutcomeUnknown, Unavailable
from tests.bus.rig import MakeBus, NatsServer


def encoded(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


@pytest.fixture
async def frame_sizes(calm_nats: NatsServer, make_bus: MakeBus) -> list[int]:
    """The sizes of the frames that an echoing responder on `frames` has got."""
    bus = await make_bus(calm_nats)
    sizes: list[int] = []

    async def respond_many(subject: str, items: list[msgspec.Raw]) -> list[bytes]:
        sizes.append(len(items))
        return [bytes(item) for item in items]

    await bus.respond("frames", framed_responder(respond_many)).ready()
    return sizes


@pytest.fixture
async def bus(calm_nats: NatsServer, make_bus: MakeBus) -> Bus:
    return await make_bus(calm_nats)


async def test_calls_of_one_turn_are_one_message(bus: Bus, frame_sizes: list[int]) -> None:
    call = framed_caller(bus, "frames", timeout_s=5)

    answers = await asyncio.gather(*[call(encoded(number)) for number in range(100)])

    assert answers == [encoded(number) for number in range(100)]
    assert frame_sizes == [100]
    assert bus.stats.requests == 1


async def test_a_single_call_leaves_at_once(bus: Bus, frame_sizes: list[int]) -> None:
    call = framed_caller(bus, "frames", timeout_s=5)

    assert await call(encoded("a")) == encoded("a")
    assert await call(encoded("b")) == encoded("b")

    assert frame_sizes == [1, 1]


async def test_frames_are_bounded_by_count(bus: Bus, frame_sizes: list[int]) -> None:
    call = framed_caller(bus, "frames", timeout_s=5, frame_items_max=40)

    await asyncio.gather(*[call(encoded(number)) for number in range(100)])

    assert sorted(frame_sizes) == [20, 40, 40]


async def test_frames_are_bounded_by_bytes_and_a_large_request_goes_alone(
    bus: Bus, frame_sizes: list[int]
) -> None:
    call = framed_caller(bus, "frames", timeout_s=5, frame_bytes_max=1_000)
    large, small = encoded(bytes(3_000_000)), encoded(bytes(300))

    answers = await asyncio.gather(*[call(item) for item in (small, small, small, small, large, small)])

    assert answers == [small, small, small, small, large, small]
    assert sorted(frame_sizes) == [1, 1, 1, 3]


async def test_a_request_that_nats_cannot_take_fails_alone(bus: Bus, frame_sizes: list[int]) -> None:
    call = framed_caller(bus, "frames", timeout_s=5)

    large, small = await asyncio.gather(
        call(encoded(bytes(5_000_000))), call(encoded(1)), return_exceptions=True
    )

    assert isinstance(large, Invalid)
    assert small == encoded(1)


async def test_a_call_cancelled_in_the_same_turn_is_not_sent(bus: Bus, frame_sizes: list[int]) -> None:
    call = framed_caller(bus, "frames", timeout_s=5)
    cancelled, kept = asyncio.create_task(call(encoded(1))), asyncio.create_task(call(encoded(2)))
    asyncio.get_running_loop().call_soon(cancelled.cancel)

    ends = await asyncio.gather(cancelled, kept, return_exceptions=True)

    assert isinstance(ends[0], asyncio.CancelledError)
    assert ends[1] == encoded(2)
    assert sum(frame_sizes) <= 2


async def test_when_a_frame_fails_each_of_its_calls_gets_an_error_of_its_own(bus: Bus) -> None:
    async def refuse(subject: str, data: bytes) -> bytes:
        raise NotFound("no such namespace")

    bus.respond("refusing", refuse)
    call = framed_caller(bus, "refusing", timeout_s=5)

    ends = await asyncio.gather(call(encoded(1)), call(encoded(2)), return_exceptions=True)

    assert [(type(end), str(end)) for end in ends] == [(NotFound, "no such namespace")] * 2
    assert ends[0] is not ends[1]


async def test_nobody_answering_is_known_at_once(bus: Bus) -> None:
    call = framed_caller(bus, "nobody", timeout_s=3600)
    with pytest.raises(Unavailable) as caught:
        await call(encoded(1))
    assert caught.value.details == {"no_responders": "true"}


@pytest.mark.parametrize("reply", [b"\xc1", b"", encoded([1]), encoded([1, 2, 3])])
async def test_a_reply_that_does_not_match_the_frame_leaves_its_outcome_unknown(
    bus: Bus, reply: bytes
) -> None:
    async def respond(subject: str, data: bytes) -> bytes:
        return reply

    bus.respond("wrong", respond)
    call = framed_caller(bus, "wrong", timeout_s=5)

    ends = await asyncio.gather(call(encoded(1)), call(encoded(2)), return_exceptions=True)

    assert {type(end) for end in ends} == {OutcomeUnknown}


async def test_bytes_that_are_no_frame_are_refused(bus: Bus, frame_sizes: list[int]) -> None:
    with pytest.raises(Invalid, match="are not a frame"):
        await bus.request("frames", b"\xc1")
    assert frame_sizes == []
