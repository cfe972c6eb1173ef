"""A service process: opens what the configuration names, runs the loops of its roles, drains.

Nothing here decides anything; it wires engine, bus and HTTP together. Postgres and the
broker may both be away when it starts: it says so, retries, and goes on when they are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from holdfast.api.http import http_app
from holdfast.api.ops import Probe, Remembered, address_of, bind, serve_app, serve_ops
from holdfast.api.rpc import serve_rpc
from holdfast.archive import Archive, open_archive
from holdfast.bus import Bus
from holdfast.config import PREFIX, Config, invalid
from holdfast.engine.archiver import Archiver
from holdfast.engine.clock import FORGET_EVERY_S, Clock
from holdfast.engine.engine import Engine
from holdfast.engine.feed import Relay
from holdfast.engine.loops import TRANSIENT, repeat, start
from holdfast.engine.scheduler import Scheduler
from holdfast.engine.workers import Attendance
from holdfast.exceptions import HoldfastError, Invalid, Unavailable
from holdfast.metrics import Metrics, exposition
from holdfast.store import migrate
from holdfast.store.session import Pool, open_pool

log = logging.getLogger("holdfast.app")

WRITERS = 1
"""Transactions of this process at a time. Two would race for one run, and so change the order of its signals."""


class Parts:
    """What a running service process is made of. `addresses` tells where it listens, by name ("http", "ops")."""

    def __init__(
        self, pool: Pool, bus: Bus, engine: Engine, metrics: Metrics, addresses: dict[str, str]
    ) -> None:
        self.pool = pool
        self.bus = bus
        self.engine = engine
        self.metrics = metrics
        self.addresses = addresses
        self.is_serving = asyncio.Event()
        """Set once the engine answers on the bus."""
        self.loops: asyncio.Future[None] | None = None
        self._postgres = Remembered(self._check_postgres)

    async def watch(self) -> None:
        """Wait for ever, or until a bug ends one of the loops; then raise it."""
        if self.loops is not None:
            await asyncio.shield(self.loops)

    def exposition(self) -> bytes:
        """The process's metrics in Prometheus' text format."""
        self.metrics.commits.value = self.pool.counts.commits
        self.metrics.statements.value = self.pool.counts.statements
        self.metrics.workers.set(len(self.engine.credits.roster.seen))
        for name, value in dataclasses.asdict(self.bus.stats).items():
            self.metrics.bus.labels(name).value = value
        self.metrics.up.labels("bus").set(1.0 if self.bus.is_connected else 0.0)
        return exposition(self.metrics.families)

    def probes(self) -> list[Probe]:
        """Postgres and its migrations are required; the broker may be away."""
        return [
            Probe("postgres", self._postgres),
            Probe("bus", self._check_bus, is_required=False),
        ]

    async def _check_postgres(self) -> str | None:
        missing = await migrate.pending_on(self.pool)
        return f"migrations are missing ({', '.join(missing)}): run `holdfast migrate`" if missing else None

    async def _check_bus(self) -> str | None:
        return None if self.bus.is_connected else "the broker is away: work goes on at sweep latency"


async def serve(config: Config, *, roles: frozenset[str], on_ready: Callable[[dict[str, str]], None]) -> None:
    """Run the service with *roles* ("engine", "api") until cancelled, then drain.

    *on_ready* is called once with the bound addresses (`http`, `ops`). Raises `Invalid` for
    a port that cannot be had.
    """
    async with running(config, roles=roles | {"ops"}) as parts:
        on_ready(parts.addresses)
        await parts.watch()


@asynccontextmanager
async def running(config: Config, *, roles: frozenset[str] = frozenset({"engine"})) -> AsyncIterator[Parts]:
    """The service's parts, running in this event loop while the block lasts; drained when it ends.

    *roles*: "engine" answers on the bus and keeps the clock, "api" serves HTTP, "ops" health and metrics.
    """
    archive = _archive(config) if "engine" in roles else None
    sockets = _bound(config, roles)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        pool = await open_pool(config.postgres_url, size=config.pool_max, name=f"holdfast {name}")
    except BaseException:
        for sock in sockets.values():
            sock.close()
        raise
    bus = Bus(
        config.nats_url.split(","),
        name=f"holdfast service {name}",
        drop_hints=config.drop_hints,
        version=metadata.version("holdfast"),
    )
    metrics = Metrics()
    engine = Engine(pool, bus, metrics, name=name, lease_s=config.lease_s, archive=archive)
    addresses = {role: str(address_of(sock)) for role, sock in sockets.items()}
    parts = Parts(pool, bus, engine, metrics, addresses)
    await bus.start()
    stop = asyncio.Event()
    parts.loops = start([*_engine_loops(parts, config, roles), *_http_loops(parts, sockets)], stop)
    try:
        yield parts
    finally:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(config.drain_s):
                    # After a bug nobody is there who could finish anything.
                    if not parts.loops.done():
                        await _drain(engine)
            stop.set()
            await parts.loops
        finally:
            await bus.close()
            await pool.close()


def _archive(config: Config) -> Archive | None:
    """The archive that is configured, if any. Raises `Invalid` for one that cannot be."""
    if not config.archive_url:
        return None
    try:
        return open_archive(config.archive_url)
    except (Invalid, Unavailable) as error:
        raise invalid([(f"{PREFIX}ARCHIVE_URL", f"cannot be used: {error.message}")]) from error


def _bound(config: Config, roles: frozenset[str]) -> dict[str, socket.socket]:
    sockets: dict[str, socket.socket] = {}
    wanted = {"ops": config.ops} if "ops" in roles else {}
    if "api" in roles:
        wanted["http"] = config.http
    try:
        for name, address in wanted.items():
            sockets[name] = bind(address)
    except BaseException:
        for sock in sockets.values():
            sock.close()
        raise
    return sockets


def _http_loops(parts: Parts, sockets: dict[str, socket.socket]) -> list[Coroutine[Any, Any, None]]:
    loops = []
    if "ops" in sockets:
        loops.append(serve_ops(sockets["ops"], parts.probes(), parts.exposition))
    if "http" in sockets:
        loops.append(serve_app(sockets["http"], http_app(metadata.version("holdfast"), parts.probes())))
    return loops


def _engine_loops(parts: Parts, config: Config, roles: frozenset[str]) -> list[Coroutine[Any, Any, None]]:
    if "engine" not in roles:
        return []
    engine = parts.engine
    scheduler = Scheduler(engine)
    clock = Clock(
        engine,
        sweep_s=config.sweep_s,
        sweep_away_s=config.sweep_away_s,
        hear_schedule=scheduler.hear,
    )
    relay = Relay(engine)
    archiving = []
    if engine.archive is not None:
        archiver = Archiver(
            engine.pool,
            engine.archive,
            engine.metrics,
            name=engine.name,
            retention_s=config.retention_s,
            on_archived=engine.owe_journal,
        )
        archiving.append(repeat("archive", archiver.step, archiver.idle_s))
    roster = engine.credits.roster
    attendance = Attendance(engine.pool, engine.bus, roster)
    return [
        *(engine.changes.run() for _ in range(WRITERS)),
        repeat("clock", clock.step, clock.idle_s, engine.timer_wake),
        repeat("requests", clock.forget, lambda: FORGET_EVERY_S),
        repeat("feed", relay.step, relay.idle_s, engine.feed_wake),
        _fire(scheduler),
        repeat("fires", scheduler.forget, lambda: FORGET_EVERY_S),
        repeat("workers", attendance.step, attendance.idle_s, roster.wake),
        *archiving,
        engine.spawner.watch(),
        _open_door(parts),
    ]


async def _fire(scheduler: Scheduler) -> None:
    """Fire schedules, and give up the lead in the end."""
    try:
        await repeat("schedules", scheduler.step, scheduler.idle_s, scheduler.wake)
    finally:
        await scheduler.close()


async def _open_door(parts: Parts) -> None:
    """Answer on the bus once the database can be used."""
    engine = parts.engine
    wait_s, told = 0.05, ""
    while True:
        try:
            missing = await migrate.pending(engine.pool.url)
            problem = (
                f"migrations are missing ({', '.join(missing)}): run `holdfast migrate`" if missing else ""
            )
        except HoldfastError as error:
            problem = error.message
        if not problem:
            break
        if problem != told:
            log.warning("not ready: %s", problem)
            told = problem
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, 1.0)
    if told:
        log.info("ready now")
    await serve_rpc(engine, engine.bus)
    parts.is_serving.set()
    with contextlib.suppress(*TRANSIENT):
        # Looked after by the bus from now on; a broker that is away gets its streams later.
        await engine.bus.ensure_streams()


async def _drain(engine: Engine) -> None:
    """Take no new requests, finish what was taken."""
    await engine.changes.drain()
    await engine.spawner.finish(1.0)
