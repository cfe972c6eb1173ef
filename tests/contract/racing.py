"""Two stores on one workflow, one of which can be stopped before any of its statements; what they left, comparably.

A fixture is written by hand, in a namespace of its own, so that races need no cleaning up between them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from holdfast.exceptions import HoldfastError
from holdfast.store import Store
from holdfast.store.session import Pool, open_pool
from holdfast.wire import codec
from holdfast.wire.records import JournalEntry
from tests.store.rows import Sql

_numbers = itertools.count(1)

Call = Callable[[Store, "Place"], Coroutine[Any, Any, Any]]

# Times are of the year 2001: whatever reads later was the clock's.
WRITE = """
    INSERT INTO namespace (name) VALUES ('{ns}');
    INSERT INTO run (
        run_id, last_at, created_at, closed_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq,
        done_marker, done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace, workflow_id,
        workflow_type, task_queue, status, request_id, request_hash
    )
    VALUES (
        '{run}', to_timestamp(1e9), to_timestamp(1e9), {closed}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, '{ns}', 'w',
        'order', 'q', '{status}', '', ''
    );
    INSERT INTO record (
        run_id, created_at, updated_at, completed_at, namespace, workflow_id, task_queue, ready_at, dispatch_worker,
        dispatch_heartbeat, event_count, search_attributes, search
    )
    VALUES (
        '{run}', 1e9, 1e9, extract(epoch FROM {closed}), '{ns}', 'w', 'q', {ready}, {worker}, {beat}, 1, '{{"n": 1}}',
        '{{"n": 1}}'
    );
    INSERT INTO tally (namespace, status, closed) SELECT '{ns}', '{status}', 1 WHERE {closed} IS NOT NULL;
    INSERT INTO record_event (run_id, timestamp, seq, event_type) VALUES ('{run}', 1e9, 1, 'Began');
    INSERT INTO record_activity (
        run_id, scheduled_at, started_at, initial_interval_secs, backoff_coefficient, start_to_close_secs, seq, attempt,
        max_attempts, namespace, name, task_queue, status, claimed_by
    )
    VALUES
        ('{run}', 1e9, NULL, 1, 2, 300, 1, 1, 3, '{ns}', 'go', 'q', 'PENDING', NULL),
        ('{run}', 1e9, 1e9, 1, 2, 300, 2, 1, 3, '{ns}', 'go', 'q', 'RUNNING', 'x1');
    INSERT INTO record_timer (run_id, fire_at, seq) VALUES ('{run}', 1e9, 1);
    INSERT INTO record_signal (run_id, received_at, name) VALUES ('{run}', 1e9, 'go');
    INSERT INTO snapshot (run_id, event_seq, created_at, state_json) VALUES ('{run}', 1, 1e9, '1');
"""
READY = {
    "closed": "NULL::timestamptz",
    "status": "PENDING",
    "ready": "to_timestamp(1e9)",
    "worker": "NULL",
    "beat": "NULL",
}
FIXTURES = {
    "ready": READY,
    "leased": {**READY, "ready": "NULL", "worker": "'x1'", "beat": "1e9"},
    "closed": {**READY, "ready": "NULL", "closed": "to_timestamp(1e9)", "status": "COMPLETED"},
}
FIRST_NUMBER = 10_000_000
"""What the database numbers begins here, so that it is known by its size."""

NUMBER_FROM = """
    ALTER TABLE record_event ALTER COLUMN id RESTART WITH 10000000;
    ALTER TABLE record_activity ALTER COLUMN id RESTART WITH 10000000;
    ALTER TABLE record_timer ALTER COLUMN id RESTART WITH 10000000;
    ALTER TABLE record_signal ALTER COLUMN id RESTART WITH 10000000
"""
ACTIVITIES = "SELECT id FROM record_activity WHERE run_id = $1::uuid ORDER BY seq"
LEFT = """
    WITH mine AS (
        SELECT r.run_id FROM run AS r WHERE r.namespace = $1
    )
    SELECT 'namespace' AS kind, to_jsonb(t)::text AS row FROM namespace AS t WHERE t.name = $1
    UNION ALL SELECT 'run', to_jsonb(t)::text FROM run AS t WHERE t.namespace = $1
    UNION ALL SELECT 'record', to_jsonb(t)::text FROM record AS t WHERE t.namespace = $1
    UNION ALL
    SELECT 'tally', jsonb_build_array(t.status, sum(t.closed))::text
    FROM tally AS t
    WHERE t.namespace = $1
    GROUP BY t.status
    UNION ALL SELECT 'event', to_jsonb(t)::text FROM mine JOIN record_event AS t USING (run_id)
    UNION ALL SELECT 'activity', to_jsonb(t)::text FROM mine JOIN record_activity AS t USING (run_id)
    UNION ALL SELECT 'timer', to_jsonb(t)::text FROM mine JOIN record_timer AS t USING (run_id)
    UNION ALL SELECT 'signal', to_jsonb(t)::text FROM mine JOIN record_signal AS t USING (run_id)
    UNION ALL SELECT 'snapshot', to_jsonb(t)::text FROM mine JOIN snapshot AS t USING (run_id)
"""
TOLD = "SELECT entry FROM journal WHERE namespace = $1 ORDER BY id"
WAITS = """
    SELECT EXISTS (
        SELECT 1 FROM pg_stat_activity AS a WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'
    )
"""
# No connection of a store is in a transaction, and none holds a lock.
AT_REST = """
    SELECT NOT EXISTS (
        SELECT 1
        FROM pg_stat_activity AS a
        WHERE a.application_name = 'holdfast store'
            AND a.datname = current_database()
            AND (a.state <> 'idle' OR EXISTS (SELECT 1 FROM pg_locks AS l WHERE l.pid = a.pid))
    )
"""


@dataclass
class Place:
    """A workflow "w" in a namespace that only one race uses. Its second activity is running, for worker "x1"."""

    namespace: str
    run_id: str
    next_run_id: str
    activities: list[int] = field(default_factory=list)

    @property
    def address(self) -> dict[str, str]:
        return {"namespace": self.namespace}


async def place(sql: Sql, fixture: str) -> Place:
    """A new one, as *fixture* has it."""
    number = next(_numbers)
    made = Place(f"place-{number:06}", _run_id(2 * number), _run_id(2 * number + 1))
    await sql.connection.execute(WRITE.format(ns=made.namespace, run=made.run_id, **FIXTURES[fixture]))
    made.activities = await sql(ACTIVITIES, made.run_id)
    return made


def _run_id(number: int) -> str:
    return f"01900000-0000-7000-8000-{number:012x}"


async def left(sql: Sql, at: Place) -> list[tuple[str, str]]:
    """All rows of that place, and what was told of each record, in order.

    Without what the database numbers; its clock's times are made alike. Of two records, either may be told of first:
    claims do not wait for whoever changes the run.
    """
    found = [(kind, json.loads(row)) for kind, row in await sql(LEFT, at.namespace)]
    told: dict[Any, list[Any]] = {}
    for entry in [codec.decode(entry, JournalEntry) for entry in await sql(TOLD, at.namespace)]:
        of = (entry.record, entry.key, entry.fields.get("run_id"))
        told.setdefault(of, []).append([entry.fact, entry.record, entry.fields])
    found += [("told", facts) for facts in told.values()]
    return sorted((kind, json.dumps(_plain(row, at), sort_keys=True)) for kind, row in found)


def differences(found: Any, allowed: list[Any]) -> str:
    """What is not as in any of the serial results."""
    answers, rows = found
    lines = [f"  answers {answers}"]
    for other_answers, other_rows in allowed:
        lines.append(f"  allowed {other_answers}")
        lines += [f"    too much: {row}" for row in rows if row not in other_rows]
        lines += [f"    missing:  {row}" for row in other_rows if row not in rows]
    return "\n".join(lines)


async def outcome(work: Coroutine[Any, Any, Any], at: Place) -> Any:
    """What the call answers or raises, comparably. Only what a caller is to expect: anything else is a fault."""
    try:
        answer = await work
    except HoldfastError as error:
        return type(error).__name__
    return _plain(msgspec.to_builtins(answer), at)


def _plain(value: Any, at: Place) -> Any:
    match value:
        case dict():
            return {key: _plain(item, at) for key, item in value.items()}
        case list():
            return [_plain(item, at) for item in value]
        case bool() | None:
            return value
        case int() if FIRST_NUMBER <= value < 1e9:
            return "number"
        case int() | float():
            return "clock" if value > 1.6e9 else value
        case str():
            named = (
                value.replace(at.namespace, "NS").replace(at.run_id, "RUN").replace(at.next_run_id, "NEXT")
            )
            return "clock" if re.match(r"20[2-9]\d-\d\d-\d\dT", named) else named
    return value


class Gate:
    """Where a store stops: before statement number *stop* of its transactions, the commit counted as one."""

    def __init__(self) -> None:
        self.stop: int | None = None
        self.count = 0
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    def set(self, stop: int | None) -> None:
        self.stop, self.count = stop, 0
        self.reached.clear()
        self.go.clear()

    async def __call__(self) -> None:
        self.count += 1
        if self.count == self.stop:
            self.reached.set()
            await self.go.wait()


class _GatedSession:
    def __init__(self, session: Any, gate: Gate) -> None:
        self._session = session
        self._gate = gate

    async def rows(self, query: Any, *args: object) -> Any:
        await self._gate()
        return await self._session.rows(query, *args)

    async def run(self, statement: Any, *args: object) -> int:
        await self._gate()
        return int(await self._session.run(statement, *args))

    async def write(self, query: Any, *args: object) -> Any:
        await self._gate()
        return await self._session.write(query, *args)

    async def begin(self) -> None:
        await self._session.begin()


class GatedPool(Pool):
    """A pool whose transactions stop where its gate says."""

    def __init__(self, pool: Any, url: str, gate: Gate) -> None:
        super().__init__(pool, url)
        self.gate = gate

    @asynccontextmanager
    async def transaction(self, *, is_deferred: bool = False) -> AsyncIterator[Any]:
        async with super().transaction(is_deferred=is_deferred) as session:
            yield _GatedSession(session, self.gate)
            await self.gate()


async def gated(url: str) -> tuple[Store, Gate]:
    """A store with one connection, and its gate."""
    gate = Gate()
    return Store(await gated_pool(url, gate, size=1)), gate


async def gated_pool(url: str, gate: Gate, *, size: int) -> GatedPool:
    """A pool of up to *size* connections behind *gate*."""
    opened = await open_pool(url, size=size, name="gated")
    return GatedPool(opened._pool, url, gate)


async def first_of(task: asyncio.Task[Any], event: asyncio.Event) -> None:
    """Return when the task is done or the event has happened."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def done_or_waiting(task: asyncio.Task[Any], sql: Sql) -> None:
    """Return when the task is done or somebody waits for a lock."""
    while not task.done() and not await sql.one(WAITS):
        pass


class CancelledAt:
    """*work*, whose task is cancelled when it waits for the *stop*th time. `count` is how often it waited."""

    def __init__(self, work: Coroutine[Any, Any, Any], stop: int) -> None:
        self._work = work
        self._stop = stop
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        go_on, value = self._work.send, None
        while True:
            try:
                future = go_on(value)
            except StopIteration as done:
                return done.value
            self.count += 1
            if self.count == self._stop:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield future
                go_on, value = self._work.send, None
            except BaseException as error:
                go_on, value = self._work.throw, error


async def finished(work: CancelledAt) -> Any:
    """The work's answer."""
    return await work
