"""The database in the words of the invariants: every table and column name of ours is mapped here, once.

`Snapshot` is one consistent reading of all rows; `tables` puts it, under the reference names (runs, events,
tasks, timers, activities, outbox, client_log, effects), into temporary tables that the SQL of `checks` reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import asyncpg
import msgspec

from holdfast.exceptions import Invalid
from holdfast.wire import codec
from holdfast.wire import events as e

OPEN_STATUSES = ("PENDING", "RUNNING")
OPENING = (e.ActivityScheduled, e.TimerStarted)
ACTIVITY_CLOSING = (e.ActivityCompleted, e.ActivityFailed, e.ActivityTimedOut, e.ActivityCancelled)
TIMER_CLOSING = (e.TimerFired, e.TimerCancelled)


Row = SimpleNamespace
"""A row of ours, its columns as attributes; `run` is the run's id as text."""


class Snapshot(msgspec.Struct, kw_only=True):
    """All rows as they were at one moment. Events are in order of run and number."""

    runs: dict[str, Row]
    events: dict[str, list[Row]]
    tasks: list[Row]
    activities: list[Row]
    timers: list[Row]
    outbox: list[Row]
    requests: list[Row]


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """What one client saw of one call. `outcome` is "ok", "refused" or "unknown", `key` its request id."""

    op: str
    run_id: str
    key: str
    outcome: str
    client: int = 0
    client_seq: int = 0


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """An activity did its work in the world, holding lease `fence`."""

    run_id: str
    seq: int
    fence: int


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """An event with what is only known from its body: see `decoded`."""

    row: Row
    event: e.AnyEvent | None


def decoded(events: Sequence[Row]) -> list[Read]:
    """The events with their bodies, None where the bytes are no event."""
    found = []
    for row in events:
        try:
            found.append(Read(row=row, event=codec.decode_event(row.body)))
        except Invalid:
            found.append(Read(row=row, event=None))
    return found


async def read(connection: asyncpg.Connection) -> Snapshot:
    """Every row of *connection*'s database, at one moment (inside its transaction)."""

    async def rows(statement: str) -> list[Row]:
        return [Row(**dict(record)) for record in await connection.fetch(statement)]

    events: dict[str, list[Row]] = {}
    for row in await rows("SELECT *, run_id::text AS run FROM holdfast.event ORDER BY run_id, seq"):
        events.setdefault(row.run, []).append(row)
    return Snapshot(
        runs={row.run: row for row in await rows("SELECT *, run_id::text AS run FROM holdfast.run")},
        events=events,
        tasks=await rows("SELECT *, run_id::text AS run FROM holdfast.task"),
        activities=await rows("SELECT *, run_id::text AS run FROM holdfast.activity"),
        timers=await rows("SELECT *, run_id::text AS run FROM holdfast.timer"),
        outbox=await rows("SELECT *, run_id::text AS run FROM holdfast.outbox"),
        requests=await rows("SELECT *, run_id::text AS run FROM holdfast.request"),
    )


TABLES = """
CREATE TEMP TABLE runs (ns text, workflow_id text, run_id text, status text, last_seq bigint, fence bigint,
    start_request_id text, created_at timestamptz, closed_at timestamptz);
CREATE TEMP TABLE events (ns text, run_id text, seq bigint, type text, decoded_type text, recorded_at timestamptz,
    ref_seq bigint, wft_seq bigint, cmd_index int, cmd_seq bigint, client_key text, batch_events bigint, seen_seq bigint);
CREATE TEMP TABLE tasks (ns text, run_id text, kind text, queue text, state text, cmd_seq bigint, attempt int,
    lease_token bigint, lease_expires_at timestamptz, available_at timestamptz);
CREATE TEMP TABLE activities (ns text, run_id text, cmd_seq bigint, sched_seq bigint, status text, attempt int,
    closed_token bigint, closed_at timestamptz);
CREATE TEMP TABLE timers (ns text, run_id text, cmd_seq bigint, sched_seq bigint, fire_at timestamptz, state text);
CREATE TEMP TABLE outbox (id bigint, run_id text, first_seq bigint, last_seq bigint, created_at timestamptz);
CREATE TEMP TABLE client_log (op text, run_id text, client int, client_seq bigint, key text, outcome text);
CREATE TEMP TABLE effects (run_id text, cmd_seq bigint, token bigint);
CREATE INDEX ON events (run_id, seq);
CREATE INDEX ON events (run_id, ref_seq);
CREATE INDEX ON events (run_id, wft_seq);
CREATE INDEX ON events (run_id, client_key);
CREATE INDEX ON runs (run_id);
CREATE INDEX ON tasks (run_id);
CREATE INDEX ON timers (run_id);
CREATE INDEX ON activities (run_id);
CREATE INDEX ON effects (run_id, cmd_seq);
"""
_TIMER_STATES = {0: "pending", 1: "fired", 2: "cancelled"}


async def fill(
    connection: asyncpg.Connection, snapshot: Snapshot, log: Iterable[Op], effects: Iterable[Effect]
) -> None:
    """Put *snapshot* and what the test saw into the temporary tables."""
    space = {run_id: run.namespace for run_id, run in snapshot.runs.items()}
    opened: dict[tuple[str, str, int], int] = {}
    events = []
    for run_id, rows in snapshot.events.items():
        events += _event_records(space.get(run_id), run_id, rows, opened)

    async def copy(table: str, records: Iterable[tuple[Any, ...]]) -> None:
        await connection.copy_records_to_table(table, records=list(records), schema_name="pg_temp")

    await copy("events", events)
    await copy("runs", (_run_record(run) for run in snapshot.runs.values()))
    await copy("tasks", (_task_record(task) for task in snapshot.tasks))
    await copy(
        "activities",
        (
            (a.namespace, a.run, a.seq, a.scheduled_seq, a.status, a.attempt, a.closed_fence, a.closed_at)
            for a in snapshot.activities
        ),
    )
    await copy(
        "timers",
        (
            (
                space.get(t.run),
                t.run,
                t.seq,
                opened.get((t.run, "timer", t.seq)),
                t.fire_at,
                _TIMER_STATES.get(t.state, f"unknown {t.state}"),
            )
            for t in snapshot.timers
        ),
    )
    await copy("outbox", ((o.id, o.run, o.first_seq, o.last_seq, o.created_at) for o in snapshot.outbox))
    await copy("client_log", ((o.op, o.run_id, o.client, o.client_seq, o.key, o.outcome) for o in log))
    await copy("effects", ((f.run_id, f.seq, f.fence) for f in effects))


def _run_record(run: Row) -> tuple[Any, ...]:
    status = "running" if run.status in OPEN_STATUSES else run.status
    return (
        run.namespace,
        run.workflow_id,
        run.run,
        status,
        run.last_seq,
        run.fence,
        run.request_id or None,
        run.created_at,
        run.closed_at,
    )


def _task_record(task: Row) -> tuple[Any, ...]:
    return (
        task.namespace,
        task.run,
        "activity" if task.seq else "workflow",
        task.task_queue,
        "ready" if task.worker is None else "leased",
        task.seq,
        task.attempt,
        task.fence,
        task.lease_until,
        task.ready_at,
    )


def _event_records(
    namespace: str | None, run_id: str, rows: Sequence[Row], opened: dict[tuple[str, str, int], int]
) -> list[tuple[Any, ...]]:
    """The events with what they refer to: their opening event, and the batch they belong to, by place."""
    records = []
    marker, left, index = None, 0, 0
    for read_event in decoded(rows):
        row, event = read_event.row, read_event.event
        batch = batch_index = None
        if left:
            batch, batch_index = marker, index
            left, index = left - 1, index + 1
        if isinstance(event, e.WorkflowTaskCompleted):
            marker, left, index = row.seq, event.events, 0
        command = getattr(event, "seq", None)
        reference = None
        if isinstance(event, OPENING):
            opened[run_id, _kind(event), event.seq] = row.seq
        elif command is not None:
            reference = opened.get((run_id, _kind(event), command))
        records.append(
            (
                namespace,
                run_id,
                row.seq,
                row.type,
                type(event).__name__,
                row.recorded_at,
                reference,
                batch,
                batch_index,
                command,
                getattr(event, "request_id", "") or None,
                getattr(event, "events", None),
                getattr(event, "seen_seq", None),
            )
        )
    return records


def _kind(event: Any) -> str:
    return "timer" if isinstance(event, (e.TimerStarted, *TIMER_CLOSING)) else "activity"
