"""Servers of NATS, and buses connected to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from holdfast.bus import Bus
from tests.bus.rig import PATIENCE_S, MakeBus, NatsServer


@pytest.fixture
def stopped_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that is not running yet."""
    server = NatsServer(tmp_path)
    yield server
    server.end()


@pytest.fixture
def nats(stopped_nats: NatsServer) -> NatsServer:
    stopped_nats.start()
    return stopped_nats


@pytest.fixture(scope="module")
def calm_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for the tests of a file that leave it alone."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.end()


@pytest.fixture
async def make_bus() -> AsyncIterator[MakeBus]:
    """Makes started buses, connected unless told otherwise, and closes them."""
    buses: list[Bus] = []

    async def make(
        server: NatsServer, *, credentials: str = "", is_connected: bool = True, **options: object
    ) -> Bus:
        name = str(options.pop("name", "test"))
        bus = Bus(f"nats://{credentials}{server.address}", name=name, **options)  # type: ignore[arg-type]
        buses.append(bus)
        await bus.start()
        if is_connected:
            await bus.connected(PATIENCE_S)
        return bus

    yield make
    for bus in buses:
        await bus.close(grace_s=0.2)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"a closed bus left tasks behind: {left}"
