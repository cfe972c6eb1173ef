"""A relay that was frozen for minutes, when the stream drops doubles no more, publishes nothing that it read before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.msg import Msg

from holdfast.engine.clock import Clock
from holdfast.engine.engine import Engine
from holdfast.engine.feed import Relay
from holdfast.exceptions import Unavailable
from holdfast.metrics import Metrics
from holdfast.store import Store, journal_feed, outbox
from tests.engine.parts import Parts
from tests.store.rows import PATIENCE_S

FROZEN_S = 200.0


class Freezer:
    """A clock that stands still and jumps, as for a process that is stopped and goes on: at its nth reading, or at will."""

    def __init__(self, frozen_at: int | None = None) -> None:
        self.now = 1_000.0
        self._left = frozen_at

    def __call__(self) -> float:
        if self._left is not None:
            self._left -= 1
            self.now += FROZEN_S * (self._left == 0)
        return self.now


class Wire:
    """What is really sent to the stream, doubles included: a subscriber hears what the stream drops."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._last = f"hf.event.{parts.namespace}.last"
        self._is_passed = asyncio.Event()
        self.ids: list[str] = []

    def note(self, message: Msg) -> None:
        if message.subject == self._last:
            self._is_passed.set()
        elif message.headers:
            self.ids.append(message.headers["Nats-Msg-Id"])

    async def settled(self) -> list[str]:
        """The ids of the messages that have been sent by now: what is said last on the same connection is heard last."""
        self._parts.engine.bus.publish(self._last, b"")
        async with asyncio.timeout(PATIENCE_S):
            await self._is_passed.wait()
        self._is_passed.clear()
        return self.ids


@pytest.fixture
async def wire(parts: Parts, nats_url: str) -> AsyncIterator[Wire]:
    await parts.engine.bus.ensure_streams()
    connection = await nats.connect(nats_url)
    heard = Wire(parts)

    async def note(message: Msg) -> None:
        heard.note(message)

    # One subscription, so that everything is heard in the order it was sent.
    await connection.subscribe(f"hf.*.{parts.namespace}.>", cb=note)
    await connection.flush()
    yield heard
    await connection.close()


def other_engine(parts: Parts) -> Engine:
    return Engine(parts.engine.pool, parts.engine.bus, Metrics(), name="engine-2")


async def another_relays(parts: Parts) -> None:
    """What happens meanwhile: the role runs out, another process has it and publishes all that is owed."""
    await parts.look("UPDATE leader SET until = now() - interval '1 s'")
    engine = other_engine(parts)
    await Clock(engine).step()
    relay = Relay(engine)
    while await relay.step():
        pass


async def test_frozen_between_reading_events_and_publishing_them(
    parts: Parts, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await parts.start()
    clock = Freezer()
    read = outbox.read_owed

    async def read_then_freeze(*args: object) -> list[outbox.Owed]:
        owed = await read(*args)  # type: ignore[arg-type]
        monkeypatch.undo()
        clock.now += FROZEN_S
        await another_relays(parts)
        return owed

    monkeypatch.setattr(outbox, "read_owed", read_then_freeze)

    assert await Relay(parts.engine, clock=clock).step() == 0

    assert await wire.settled() == [f"{run_id}:1"]
    assert await parts.look.one("SELECT holder FROM leader WHERE role = 'feed'") == "engine-2"


async def test_frozen_between_reading_the_journal_and_publishing_it(
    parts: Parts, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await Store.connect(parts.engine.pool.url) as store:
        await store.create_api_key("hash", "prefix", None, 1)
        await parts.look("UPDATE journal SET namespace = $1", parts.namespace)
    clock = Freezer()
    read = journal_feed.read_journal

    async def read_then_freeze(*args: object) -> list[journal_feed.OwedEntry]:
        owed = await read(*args)  # type: ignore[arg-type]
        monkeypatch.undo()
        clock.now += FROZEN_S
        await another_relays(parts)
        return owed

    monkeypatch.setattr(journal_feed, "read_journal", read_then_freeze)
    parts.engine.owe_journal()

    assert await Relay(parts.engine, clock=clock).step() == 0

    assert len(await wire.settled()) == 1


async def test_a_relay_that_has_its_role_back_reads_again_before_it_publishes(
    parts: Parts, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one published, and died: the role is to be had again, but what was read before is not owed any more."""
    run_id = await parts.start()
    clock = Freezer()
    read = outbox.read_owed

    async def read_then_freeze(*args: object) -> list[outbox.Owed]:
        owed = await read(*args)  # type: ignore[arg-type]
        monkeypatch.undo()
        clock.now += FROZEN_S
        await another_relays(parts)
        await parts.look("UPDATE leader SET until = now() - interval '1 s'")
        return owed

    monkeypatch.setattr(outbox, "read_owed", read_then_freeze)
    relay = Relay(parts.engine, clock=clock)

    assert await relay.step() == 0
    assert await wire.settled() == [f"{run_id}:1"]

    await parts.signal()
    assert await relay.step() == 1
    assert await wire.settled() == [f"{run_id}:1", f"{run_id}:2"]


async def test_frozen_in_the_middle_of_a_page_it_sends_no_further_message(parts: Parts, wire: Wire) -> None:
    await asyncio.gather(*(parts.start(f"w{number}") for number in range(5)))
    # It is looked at once for the step, once for the part, and once for each message.
    relay = Relay(parts.engine, clock=Freezer(frozen_at=2 + 4))

    with pytest.raises(Unavailable, match="lost its right to send"):
        await relay.step()

    assert len(await wire.settled()) == 3
    assert await parts.look.one("SELECT count(*) FROM outbox") == 5


async def test_a_page_of_many_parts_is_published_and_settled_whole(
    parts: Parts, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.feed.PART", 2)
    await asyncio.gather(*(parts.start(f"w{number}") for number in range(7)))

    assert await Relay(parts.engine).step() == 7

    assert len(await wire.settled()) == 7
