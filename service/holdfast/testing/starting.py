"""Puts a time-skipping engine together: tables, bus, verbs, and who moves the time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.api.rpc import serve_rpc
from holdfast.bus.local import LocalBus
from holdfast.memory import MemoryEngine
from holdfast.testing.skipping import FlowingTables, Skipper


@asynccontextmanager
async def skipping(now: float, namespace: str) -> AsyncIterator[Skipper]:
    """An engine of its own that begins at *now* (epoch seconds), by who moves its time, while the block lasts."""
    tables = FlowingTables(now, ["main", namespace])
    async with MemoryEngine.running(tables) as engine:
        if not isinstance(engine.bus, LocalBus):
            raise TypeError(
                f"the engine in memory runs on a {type(engine.bus).__name__}: expected a LocalBus"
            )
        await serve_rpc(engine, engine.bus)
        skipper = Skipper(engine, engine.bus)
        async with skipper.running():
            yield skipper
