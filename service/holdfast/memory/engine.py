"""An engine in memory, ready to be asked, and the clock that its owner moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from holdfast.bus import Bus
from holdfast.bus.local import LocalBus
from holdfast.engine.clock import Clock
from holdfast.engine.engine import Engine
from holdfast.engine.loops import start
from holdfast.engine.transact import Journal
from holdfast.memory.pool import MemoryPool
from holdfast.memory.tables import Tables
from holdfast.metrics import Metrics


class MemoryEngine(Engine):
    """An engine like any other: `engine.verbs.VERBS` and `api.rpc.serve_rpc` take it. Make one with `running`."""

    def __init__(self, tables: Tables, bus: Bus, *, lease_s: float = 10.0) -> None:
        super().__init__(
            MemoryPool(tables),
            bus,
            Metrics(),
            name="memory",
            lease_s=lease_s,
            journal=Journal(tables.resolve, tables.lock, tables.record),
        )
        self.tables = tables
        # This bus is never away, so no worker is ever silent for lack of it.
        self.clock = Clock(self, spared_s=0.0)

    @classmethod
    @asynccontextmanager
    async def running(cls, tables: Tables, *, lease_s: float = 10.0) -> AsyncIterator[Self]:
        """An engine over *tables* with a bus of its own, able to answer while the block lasts."""
        bus = LocalBus(name="memory")
        await bus.start()
        engine, stop = cls(tables, bus, lease_s=lease_s), asyncio.Event()
        loops = start([engine.changes.run(), engine.spawner.watch()], stop)
        try:
            yield engine
        finally:
            stop.set()
            await loops
            await engine.spawner.finish(0)
            await bus.close(0)

    @property
    def now(self) -> float:
        """The time in epoch seconds."""
        return self.tables.now

    def next_due(self) -> float | None:
        """When something happens by itself next, None if never: see `Tables.next_due`."""
        return self.tables.next_due()

    async def look(self) -> int:
        """Do what is due now; how many things that were. Hints for what waits go out again."""
        handled = 0
        while step := await self.clock.step():
            handled += step
        return handled

    async def advance(self, seconds: float) -> int:
        """Let so much time pass, stopping at each moment at which something is due; how many things were done.

        What follows from one moment can fall due before the end, and is done too; what workers do in answer is not
        waited for.
        """
        until = self.tables.now + seconds
        handled = await self.look()
        while (due := self.next_due()) is not None and due <= until:
            self.tables.now = due
            handled += await self.look()
        self.tables.now = until
        return handled
