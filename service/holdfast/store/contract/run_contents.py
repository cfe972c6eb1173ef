"""Everything that a run owns, as a bundle, and back. Whoever calls holds the run's lock, or a snapshot."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.store.session import Query, Session, Statement
from holdfast.wire.bundle import Bundle, StoredEvent
from holdfast.wire.records import (
    WorkflowActivity,
    WorkflowEvent,
    WorkflowRecord,
    WorkflowSignal,
    WorkflowSnapshot,
    WorkflowTimer,
)


class OwnedActivity(WorkflowActivity, frozen=True, kw_only=True):
    """An activity of the contract's with what its record does not tell."""

    is_cancel_requested: bool


class OwnedTimer(WorkflowTimer, frozen=True, kw_only=True):
    """A timer of the contract's. A cancelled one reads as fired."""

    is_cancelled: bool


class EngineActivity(msgspec.Struct, kw_only=True):
    """An activity as the engine keeps it; bytes are encoded."""

    seq: int
    scheduled_seq: int
    attempt: int
    scheduled_at: float
    last_heartbeat_at: float | None
    closed_at: float | None
    closed_fence: int
    is_cancel_requested: bool
    activity_id: str
    name: str
    task_queue: str
    status: str
    options: bytes
    last_failure: bytes | None
    heartbeat_details: bytes


class EngineTimer(msgspec.Struct, kw_only=True):
    """A timer as the engine keeps it."""

    seq: int
    fire_at: float
    state: int


class Presence(msgspec.Struct, kw_only=True):
    """Whether there is anything."""

    is_there: bool


READ_EVENTS = Query(
    """
    SELECT v.id, $2::text AS workflow_id, v.seq, v.event_type, v.payload, v.timestamp
    FROM record_event AS v
    WHERE v.run_id = $1::uuid
    ORDER BY v.seq
    """,
    WorkflowEvent,
)

READ_ACTIVITIES = Query(
    """
    SELECT
        a.id, $2::text AS workflow_id, a.seq, a.name, a.task_queue, a.input, a.status, a.result, a.error, a.attempt,
        a.max_attempts, a.initial_interval_secs, a.backoff_coefficient, a.max_interval_secs, a.start_to_close_secs,
        a.schedule_to_start_secs, a.schedule_to_close_secs, a.heartbeat_timeout_secs, a.heartbeat_details, a.claimed_by,
        a.scheduled_at, a.started_at, a.completed_at, a.last_heartbeat, a.is_cancel_requested
    FROM record_activity AS a
    WHERE a.run_id = $1::uuid
    ORDER BY a.seq
    """,
    OwnedActivity,
)

READ_TIMERS = Query(
    """
    SELECT
        t.id, $2::text AS workflow_id, t.seq, t.fire_at, t.state <> 0 AS fired, t.state = 2 AS is_cancelled
    FROM record_timer AS t
    WHERE t.run_id = $1::uuid
    ORDER BY t.seq
    """,
    OwnedTimer,
)

READ_SIGNALS = Query(
    """
    SELECT s.id, $2::text AS workflow_id, s.name, s.payload, s.consumed, s.received_at, s.request_id
    FROM record_signal AS s
    WHERE s.run_id = $1::uuid
    ORDER BY s.id
    """,
    WorkflowSignal,
)

READ_SNAPSHOTS = Query(
    """
    SELECT $2::text AS workflow_id, s.event_seq, s.state_json, s.created_at
    FROM snapshot AS s
    WHERE s.run_id = $1::uuid
    ORDER BY s.event_seq
    """,
    WorkflowSnapshot,
)

READ_HISTORY = Query(
    """
    SELECT v.seq, extract(epoch FROM v.recorded_at)::float8 AS recorded_at, v.type, v.body
    FROM event AS v
    WHERE v.run_id = $1::uuid
    ORDER BY v.seq
    """,
    StoredEvent,
)

READ_ENGINE_ACTIVITIES = Query(
    """
    SELECT
        a.seq, a.scheduled_seq, a.attempt, extract(epoch FROM a.scheduled_at)::float8 AS scheduled_at,
        extract(epoch FROM a.last_heartbeat_at)::float8 AS last_heartbeat_at,
        extract(epoch FROM a.closed_at)::float8 AS closed_at, a.closed_fence, a.is_cancel_requested, a.activity_id, a.name,
        a.task_queue, a.status, a.options, a.last_failure, a.heartbeat_details
    FROM activity AS a
    WHERE a.run_id = $1::uuid
    ORDER BY a.seq
    """,
    EngineActivity,
)

READ_ENGINE_TIMERS = Query(
    """
    SELECT t.seq, extract(epoch FROM t.fire_at)::float8 AS fire_at, t.state
    FROM timer AS t
    WHERE t.run_id = $1::uuid
    ORDER BY t.seq
    """,
    EngineTimer,
)


async def read(session: Session, record: WorkflowRecord) -> Bundle:
    """The run *record* with everything it owns.

    `Bundle.run` has what has no other place: the engine's `activities` and `timers`, and of the contract's rows the
    numbers of `cancelled_timers` and of `stopping_activities`, whose cancellation was asked for.
    """
    named = (record.run_id, record.id)
    activities = await session.rows(READ_ACTIVITIES, *named)
    timers = await session.rows(READ_TIMERS, *named)
    return Bundle(
        record=record,
        run={
            "activities": [
                msgspec.structs.asdict(row)
                for row in await session.rows(READ_ENGINE_ACTIVITIES, record.run_id)
            ],
            "timers": [
                msgspec.structs.asdict(row) for row in await session.rows(READ_ENGINE_TIMERS, record.run_id)
            ],
            "stopping_activities": [row.seq for row in activities if row.is_cancel_requested],
            "cancelled_timers": [row.seq for row in timers if row.is_cancelled],
        },
        events=await session.rows(READ_EVENTS, *named),
        activities=[_plain(row, WorkflowActivity) for row in activities],
        timers=[_plain(row, WorkflowTimer) for row in timers],
        signals=await session.rows(READ_SIGNALS, *named),
        snapshots=await session.rows(READ_SNAPSHOTS, *named),
        history=await session.rows(READ_HISTORY, record.run_id),
    )


def _plain(row: msgspec.Struct, kind: Any) -> Any:
    return kind(**{name: getattr(row, name) for name in kind.__struct_fields__})


OWNS_ANYTHING = Query(
    """
    SELECT
        EXISTS (SELECT 1 FROM event AS v WHERE v.run_id = $1::uuid)
        OR EXISTS (SELECT 1 FROM record_event AS v WHERE v.run_id = $1)
        OR EXISTS (SELECT 1 FROM record_activity AS a WHERE a.run_id = $1)
        OR EXISTS (SELECT 1 FROM record_timer AS t WHERE t.run_id = $1)
        OR EXISTS (SELECT 1 FROM record_signal AS s WHERE s.run_id = $1)
        OR EXISTS (SELECT 1 FROM snapshot AS s WHERE s.run_id = $1) AS is_there
    """,
    Presence,
)


async def owns_anything(session: Session, run_id: str) -> bool:
    """Whether the run has rows of its own."""
    return (await session.rows(OWNS_ANYTHING, run_id))[0].is_there


# Rows come back with the numbers they had.
PUT_EVENTS = Statement(
    """
    INSERT INTO record_event (id, run_id, timestamp, seq, event_type, payload)
    OVERRIDING SYSTEM VALUE
    SELECT n.id, $1::uuid, n.timestamp, n.seq, n.event_type, n.payload
    FROM json_populate_recordset(NULL::record_event, $2::json) AS n
    """
)

PUT_ACTIVITIES = Statement(
    """
    INSERT INTO record_activity (
        id, run_id, scheduled_at, started_at, completed_at, last_heartbeat, initial_interval_secs, backoff_coefficient,
        max_interval_secs, start_to_close_secs, schedule_to_start_secs, schedule_to_close_secs, heartbeat_timeout_secs,
        seq, attempt, max_attempts, is_cancel_requested, namespace, name, task_queue, status, claimed_by, input, result,
        error, heartbeat_details
    )
    OVERRIDING SYSTEM VALUE
    SELECT
        n.id, r.run_id, n.scheduled_at, n.started_at, n.completed_at, n.last_heartbeat, n.initial_interval_secs,
        n.backoff_coefficient, n.max_interval_secs, n.start_to_close_secs, n.schedule_to_start_secs,
        n.schedule_to_close_secs, n.heartbeat_timeout_secs, n.seq, n.attempt, n.max_attempts, n.seq = ANY($3::int[]),
        r.namespace, n.name, n.task_queue, n.status, n.claimed_by, n.input, n.result, n.error, n.heartbeat_details
    FROM json_populate_recordset(NULL::record_activity, $2::json) AS n
    JOIN run AS r ON r.run_id = $1::uuid
    """
)

PUT_TIMERS = Statement(
    """
    INSERT INTO record_timer (id, run_id, fire_at, seq, state)
    OVERRIDING SYSTEM VALUE
    SELECT n.id, $1::uuid, n.fire_at, n.seq, CASE WHEN n.seq = ANY($3::int[]) THEN 2 WHEN n.fired THEN 1 ELSE 0 END
    FROM json_to_recordset($2::json) AS n (id bigint, fire_at double precision, seq integer, fired boolean)
    """
)

PUT_SIGNALS = Statement(
    """
    INSERT INTO record_signal (id, run_id, received_at, consumed, name, payload, request_id)
    OVERRIDING SYSTEM VALUE
    SELECT n.id, $1::uuid, n.received_at, n.consumed, n.name, n.payload, n.request_id
    FROM json_populate_recordset(NULL::record_signal, $2::json) AS n
    """
)

PUT_SNAPSHOTS = Statement(
    """
    INSERT INTO snapshot (run_id, event_seq, created_at, state_json)
    SELECT $1::uuid, n.event_seq, n.created_at, n.state_json
    FROM json_populate_recordset(NULL::snapshot, $2::json) AS n
    """
)

PUT_HISTORY = Statement(
    """
    INSERT INTO event (run_id, recorded_at, seq, type, body)
    SELECT $1::uuid, to_timestamp(n.recorded_at), n.seq, n.type, n.body
    FROM unnest($2::float8[], $3::int[], $4::text[], $5::bytea[]) AS n (recorded_at, seq, type, body)
    """
)

PUT_ENGINE_ACTIVITIES = Statement(
    """
    INSERT INTO activity (
        run_id, scheduled_at, last_heartbeat_at, closed_at, closed_fence, seq, scheduled_seq, attempt,
        is_cancel_requested, namespace, activity_id, name, task_queue, status, options, last_failure, heartbeat_details
    )
    SELECT
        r.run_id, to_timestamp(n.scheduled_at), to_timestamp(n.last_heartbeat_at), to_timestamp(n.closed_at),
        n.closed_fence, n.seq, n.scheduled_seq, n.attempt, n.is_cancel_requested, r.namespace, n.activity_id, n.name,
        n.task_queue, n.status, n.options, n.last_failure, n.heartbeat_details
    FROM unnest(
        $2::int[], $3::int[], $4::int[], $5::float8[], $6::float8[], $7::float8[], $8::bigint[], $9::boolean[],
        $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::bytea[], $16::bytea[]
    ) AS n (
        seq, scheduled_seq, attempt, scheduled_at, last_heartbeat_at, closed_at, closed_fence, is_cancel_requested,
        activity_id, name, task_queue, status, options, last_failure, heartbeat_details
    )
    JOIN run AS r ON r.run_id = $1::uuid
    """
)

PUT_ENGINE_TIMERS = Statement(
    """
    INSERT INTO timer (run_id, fire_at, seq, state)
    SELECT $1::uuid, to_timestamp(n.fire_at), n.seq, n.state
    FROM unnest($2::int[], $3::float8[], $4::smallint[]) AS n (seq, fire_at, state)
    """
)

# What was copied from the engine's history stands there again.
UNMARK_RECORD = Statement(
    """
    UPDATE record AS c
    SET
        archived_at = NULL,
        archive_uri = NULL,
        closing = NULL,
        event_count = $2,
        input = CASE WHEN r.last_seq = 0 THEN c.input END,
        result = CASE WHEN r.last_seq = 0 THEN c.result END,
        error = CASE WHEN r.last_seq = 0 THEN c.error END
    FROM run AS r
    WHERE c.run_id = $1::uuid AND r.run_id = c.run_id
    """
)

UNMARK_RUN = Statement(
    """
    UPDATE run AS r
    SET archived_at = NULL
    WHERE r.run_id = $1::uuid
    """
)


async def put_back(session: Session, run_id: str, bundle: Bundle) -> None:
    """Write what the bundle has beneath the run, which owns nothing, and take its mark away."""
    run = bundle.run or {}
    if bundle.events:
        await session.run(PUT_EVENTS, run_id, _json(bundle.events))
    if bundle.activities:
        await session.run(
            PUT_ACTIVITIES, run_id, _json(bundle.activities), run.get("stopping_activities", [])
        )
    if bundle.timers:
        await session.run(PUT_TIMERS, run_id, _json(bundle.timers), run.get("cancelled_timers", []))
    if bundle.signals:
        await session.run(PUT_SIGNALS, run_id, _json(bundle.signals))
    if bundle.snapshots:
        await session.run(PUT_SNAPSHOTS, run_id, _json(bundle.snapshots))
    if bundle.history:
        names = ("recorded_at", "seq", "type", "body")
        await session.run(
            PUT_HISTORY, run_id, *([getattr(event, name) for event in bundle.history] for name in names)
        )
    if activities := run.get("activities"):
        await session.run(PUT_ENGINE_ACTIVITIES, run_id, *_columns(activities, EngineActivity))
    if timers := run.get("timers"):
        await session.run(PUT_ENGINE_TIMERS, run_id, *_columns(timers, EngineTimer))
    await session.run(UNMARK_RECORD, run_id, len(bundle.events))
    await session.run(UNMARK_RUN, run_id)


def _json(rows: list[Any]) -> str:
    return msgspec.json.encode(rows).decode()


def _columns(rows: list[dict[str, Any]], kind: type[msgspec.Struct]) -> list[list[Any]]:
    return [[row[name] for row in rows] for name in kind.__struct_fields__]
