"""Changes that are not history reach the bus: in commit order, once, whatever happens to the relay or the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext

from holdfast.engine.clock import Clock
from holdfast.engine.engine import Engine
from holdfast.engine.feed import Relay
from holdfast.metrics import Metrics
from holdfast.store import Store
from holdfast.store.contract.opening import Counted
from holdfast.store.session import Query
from holdfast.wire import codec
from holdfast.wire.records import JournalEntry
from tests.engine.parts import Parts

STREAM = "HF_EVENT"
IS_OWED = Query("SELECT count(*)::int AS count FROM journal", Counted)


@pytest.fixture
async def stream(parts: Parts, nats_url: str) -> AsyncIterator[JetStreamContext]:
    await parts.engine.bus.ensure_streams()
    connection = await nats.connect(nats_url)
    yield connection.jetstream()
    await connection.close()


@pytest.fixture
async def store(parts: Parts) -> AsyncIterator[Store]:
    async with await Store.connect(parts.engine.pool.url) as opened:
        yield opened


async def told(stream: JetStreamContext, namespace: str) -> list[tuple[str, JournalEntry]]:
    """The journal of a namespace as the stream has it."""
    wanted = f"hf.journal.{namespace}.>"
    counts = (await stream.stream_info(STREAM, subjects_filter=wanted)).state.subjects or {}
    subscription = await stream.subscribe(wanted, stream=STREAM, ordered_consumer=True)
    found: list[Any] = [await subscription.next_msg(timeout=10) for _ in range(sum(counts.values()))]
    await subscription.unsubscribe()
    return [(message.subject, codec.decode(message.data, JournalEntry)) for message in found]


async def relayed(parts: Parts) -> int:
    """Entries settled by a relay that was told by the clock's pulse, until none is left."""
    await Clock(parts.engine).step()
    relay, total = Relay(parts.engine), 0
    while handled := await relay.step():
        total += handled
    return total


async def test_a_change_is_told_on_the_subject_of_its_kind(
    parts: Parts, store: Store, stream: JetStreamContext
) -> None:
    name = f"{parts.namespace}-x"
    await store.create_namespace(name)

    assert await relayed(parts) == 1

    ((subject, entry),) = await told(stream, name)
    assert subject == f"hf.journal.{name}.namespace"
    assert (entry.fact, entry.record, entry.key) == ("NamespaceCreated", "namespace", name)
    assert entry.at > 1_600_000_000
    assert await parts.look.one("SELECT count(*) FROM journal") == 0


async def test_changes_are_told_in_the_order_of_their_commits(
    parts: Parts, store: Store, stream: JetStreamContext
) -> None:
    name = f"{parts.namespace}-x"
    for _ in range(3):
        await store.create_namespace(name)
        await store.delete_namespace(name)

    await relayed(parts)

    facts = [entry.fact for _, entry in await told(stream, name)]
    assert facts == ["NamespaceCreated", "NamespaceDeleted"] * 3


async def test_a_relay_that_died_before_it_deleted_tells_nothing_twice(
    parts: Parts, store: Store, stream: JetStreamContext
) -> None:
    """It published, was acknowledged and died; its successor publishes the same rows with the same ids."""
    name = f"{parts.namespace}-x"
    await store.create_namespace(name)
    await parts.look("CREATE TEMP TABLE kept AS SELECT * FROM journal")
    await relayed(parts)
    await parts.look("INSERT INTO journal OVERRIDING SYSTEM VALUE SELECT * FROM kept")

    assert await relayed(parts) == 1

    assert len(await told(stream, name)) == 1


async def test_two_relays_and_ten_writers_tell_each_change_once(
    parts: Parts, store: Store, stream: JetStreamContext
) -> None:
    names = [f"{parts.namespace}-{number}" for number in range(10)]
    other = Engine(parts.engine.pool, parts.engine.bus, Metrics(), name="engine-2")

    async def relay(engine: Engine) -> None:
        publishing = Relay(engine)
        while not written.is_set() or (await engine.pool.rows(IS_OWED))[0].count:
            await Clock(engine).step()
            await publishing.step()

    written = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for engine in (parts.engine, other):
            group.create_task(relay(engine))
        async with asyncio.TaskGroup() as writers:
            for name in names:
                writers.create_task(store.create_namespace(name))
        written.set()

    for name in names:
        assert [entry.fact for _, entry in await told(stream, name)] == ["NamespaceCreated"]


async def test_a_namespace_whose_feed_is_off_is_not_told_of(
    parts: Parts, store: Store, stream: JetStreamContext
) -> None:
    name = f"{parts.namespace}-x"
    await store.create_namespace(name)
    await parts.look("UPDATE namespace SET feed = 'off' WHERE name = $1", name)

    assert await relayed(parts) == 1

    assert await told(stream, name) == []
