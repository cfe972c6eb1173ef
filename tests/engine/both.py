"""The engine on real Postgres and the one in memory, told the same under one clock that a test moves. Claims nothing.

Postgres tells the time of a table: its `now()` and `clock_timestamp()` are found in a schema that stands before its own.
Run ids are random, so each side's are read as the names of the order in which the runs were started.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from holdfast.bus import Bus, Msg
from holdfast.bus.local import LocalBus
from holdfast.core import state as s
from holdfast.engine.clock import Clock
from holdfast.engine.engine import Engine
from holdfast.engine.recent import DatabaseTime
from holdfast.engine.verbs import VERBS
from holdfast.exceptions import HoldfastError
from holdfast.memory import MemoryEngine, Tables
from holdfast.metrics import Metrics
from holdfast.store import Store
from holdfast.store.session import Pool, open_pool
from holdfast.wire import codec, subjects
from holdfast.wire import messages as m
from tests.store.rows import Sql

LEASE_S = 10.0
MAX_STEPS = 100
RUN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Postgres keeps microseconds: times that are whole 64ths of a second are the same there and here.
TICK_S = 1 / 64
BEGIN = 1_800_000_000.0

CLOCK = """
    CREATE SCHEMA moved;
    CREATE TABLE moved.clock (at timestamptz NOT NULL);
    INSERT INTO moved.clock VALUES (to_timestamp(0));
    CREATE FUNCTION moved.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM moved.clock';
    CREATE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT at FROM moved.clock';
"""
SCHEMAS = "moved, holdfast, pg_catalog"
MOVE = "UPDATE moved.clock SET at = to_timestamp($1)"
EMPTY = """
    DELETE FROM event; DELETE FROM task; DELETE FROM activity; DELETE FROM timer; DELETE FROM request;
    DELETE FROM outbox; DELETE FROM tally; DELETE FROM run;
"""


class Side:
    """An engine whose workers and listeners are here. *answering* are the workers that take what is pushed to them."""

    def __init__(
        self, engine: Engine, clock: Clock, namespaces: Iterable[str], answering: Iterable[str]
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.ids: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._said: list[str] = []
        bus = engine.bus
        bus.subscribe("hf.hint.>", self._hear_hint)
        bus.subscribe("hf.closed.>", self._hear_closed)
        for namespace in namespaces:
            for worker in answering:
                bus.subscribe(subjects.worker(namespace, worker), self._hear_push)

    def _hear_hint(self, message: Msg) -> None:
        self._said.append(f"{message.subject} {codec.decode(message.data, m.Hint)}")

    def _hear_closed(self, message: Msg) -> None:
        self._said.append(message.subject)

    def _hear_push(self, message: Msg) -> None:
        self._said.append(f"{message.subject} {codec.decode(message.data, m.Push)}")
        if message.reply:
            self.engine.bus.publish(message.reply, b"")

    def named(self, value: Any) -> str:
        """*value* in words, with names in place of run ids."""
        return RUN_ID.sub(
            lambda found: self._name(found[0]), value if isinstance(value, str) else repr(value)
        )

    def _name(self, run_id: str) -> str:
        if run_id not in self._names:
            self._names[run_id] = name = f"run-{len(self._names)}"
            self.ids[name] = run_id
        return self._names[run_id]

    async def ask(self, *questions: tuple[str, str, Any]) -> list[Any]:
        """What each (verb, namespace, request) of one moment is answered, or the error that it raises."""
        answers = await asyncio.gather(*(self._answer(*question) for question in questions))
        await self._settle()
        return answers

    async def _answer(self, verb: str, namespace: str, request: Any) -> Any:
        """As whoever asked reads it."""
        try:
            codec.check_request(request)
            await self.engine.check_namespace(namespace)
            answer = await VERBS[verb](self.engine, namespace, request)
        except HoldfastError as error:
            return error
        return codec.decode(codec.encode(answer), codec.RESPONSES[verb])

    async def look(self) -> int:
        """Everything that is due is done; how much that was."""
        handled = 0
        for _ in range(MAX_STEPS):
            step = await self.clock.step()
            await self._settle()
            handled += step
            if not step:
                return handled
        raise AssertionError("the clock finds no end")

    async def _settle(self) -> None:
        """What follows a commit is done, and everybody has heard of it."""
        spawner = self.engine.spawner
        while spawner._tasks:
            await spawner.finish(5.0)
        for _ in range(3):
            await asyncio.sleep(0)

    def said(self) -> list[str]:
        """What was said on the bus since the last call, in no order."""
        said, self._said = self._said, []
        return sorted(map(self.named, said))

    async def rows(
        self, runs: Iterable[str], owned: Iterable[tuple[str, int]], requests: list[tuple[str, str]]
    ) -> str:
        """Everything in the rows of these runs, of what they own under these numbers, and of these requests."""
        ids = [self.ids[name] for name in runs]
        if not ids:
            return ""
        keys = [(self.ids[name], seq) for name, seq in owned]
        async with self.engine.pool.session() as session:
            states, _ = await self.engine.journal.lock(session, ids, keys, keys, requests)
        return "\n".join(self.named(_row(state)) for _, state in sorted(states.items()))


def _row(state: s.RunState) -> str:
    run = msgspec.structs.replace(state.run, request_hash=b"")
    owned = [sorted(owned.items()) for owned in (state.tasks, state.activities, state.timers)]
    requests = sorted((name, kept.run_id) for name, kept in state.requests.items())
    return "\n  ".join(map(repr, [run, *owned, requests]))


class Told(DatabaseTime):
    """The database's time, which stands still, as an engine knows it that asks for it without delay."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self.now = now

    def at(self, own_now: float) -> float | None:
        return self.now


class Both:
    """The two sides of one example."""

    def __init__(self, real: Side, memory: Side, tables: Tables) -> None:
        self.real = real
        self.memory = memory
        self.tables = tables


class Bench:
    """A database whose clock stands still, the store contract on it, and the loop on which everything lives."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self.sql = self.do(self._stack.enter_async_context(Sql.connected(url)))
        self.do(self.sql.connection.execute(CLOCK))
        self.pool: Pool = self.do(open_pool(url, size=1, name="machine", schemas=SCHEMAS))
        self.store = Store(self.pool)
        self.verbs: set[str] = set()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def move(self, now: float) -> None:
        """It is *now* for the database."""
        await self.sql.connection.execute(MOVE, now)

    def close(self) -> None:
        self.do(self.store.close())
        self.do(self._stack.aclose())
        self.loop.close()


class Example:
    """Two fresh engines on an empty database."""

    def __init__(self, bench: Bench, namespaces: tuple[str, ...], answering: tuple[str, ...]) -> None:
        self.bench = bench
        self._told = Told(BEGIN)
        self._stack = AsyncExitStack()
        self.both: Both = bench.do(self._begin(namespaces, answering))

    async def _begin(self, namespaces: tuple[str, ...], answering: tuple[str, ...]) -> Both:
        sql = self.bench.sql
        await sql.connection.execute(EMPTY)
        for namespace in namespaces:
            await sql("INSERT INTO namespace (name) VALUES ($1) ON CONFLICT DO NOTHING", namespace)
        await self.bench.move(BEGIN)
        bus: Bus = LocalBus(name="real")
        await bus.start()
        self._stack.push_async_callback(bus.close, 0)
        engine = Engine(self.bench.pool, bus, Metrics(), name="real", lease_s=LEASE_S)
        engine.recent.time = self._told
        writer = asyncio.create_task(engine.changes.run())
        self._stack.push_async_callback(_ended, writer)
        tables = Tables(BEGIN, namespaces)
        memory = await self._stack.enter_async_context(MemoryEngine.running(tables, lease_s=LEASE_S))
        sides = [
            Side(one, clock, namespaces, answering)
            for one, clock in ((engine, Clock(engine, spared_s=0.0)), (memory, memory.clock))
        ]
        return Both(sides[0], sides[1], tables)

    def each(self, work: Callable[[Side], Coroutine[Any, Any, Any]]) -> tuple[Any, Any]:
        """What *work* gives on the real side and in memory."""

        async def on_both() -> tuple[Any, Any]:
            return await work(self.both.real), await work(self.both.memory)

        found: tuple[Any, Any] = self.bench.do(on_both())
        return found

    def move(self, now: float) -> None:
        """It is *now* on both sides."""
        self.both.tables.now = self._told.now = now
        self.bench.do(self.bench.move(now))

    def end(self) -> None:
        self.bench.do(self._stack.aclose())


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
