"""An engine without its loops: nothing happens but what the test does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.bus import Bus
from holdfast.engine.engine import Engine
from holdfast.metrics import Metrics
from holdfast.store import Store
from holdfast.store.session import Pool, open_pool
from tests.engine.archiving import Archiving
from tests.engine.parts import Parts
from tests.engine.scheduling import Scheduling
from tests.store.rows import Sql


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    opened = await open_pool(database, size=8, name="test")
    yield opened
    await opened.close()


@pytest.fixture
async def look(database: str) -> AsyncIterator[Sql]:
    """A connection to look at rows, and to let time pass for them."""
    async with Sql.connected(database) as connection:
        yield connection


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connection of its own, to hear what the engine says and to answer for workers."""
    opened = Bus(nats_url, name="test")
    await opened.start()
    await opened.connected(10.0)
    yield opened
    await opened.close()


@pytest.fixture
async def parts(pool: Pool, look: Sql, nats_url: str, namespace: str) -> AsyncIterator[Parts]:
    """An engine with two writers and no other loop, in a namespace of its own."""
    await look("INSERT INTO namespace (name) VALUES ($1)", namespace)
    own = Bus(nats_url, name="engine under test")
    await own.start()
    await own.connected(10.0)
    engine = Engine(pool, own, Metrics(), name="engine-1")
    writers = [asyncio.create_task(engine.changes.run()) for _ in range(2)]
    yield Parts(engine, namespace, look)
    await engine.changes.drain()
    await engine.spawner.finish(2.0)
    for writer in writers:
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writer
    await own.close()


@pytest.fixture
async def planned(parts: Parts, database: str) -> AsyncIterator[Scheduling]:
    """The schedules of that engine's namespace; nothing looks at them but the test."""
    async with await Store.connect(database) as store:
        yield Scheduling(parts, store)


@pytest.fixture
async def here(parts: Parts, database: str, tmp_path: Path) -> AsyncIterator[Archiving]:
    """That engine with an archive in a folder; nothing is archived but by the test."""
    async with await Store.connect(database) as store:
        yield Archiving(parts, store, tmp_path / "archive")
