"""Activities that the engine made, as the contract shows them. Nothing is locked or changed."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.core.state import Options
from holdfast.store.contract.opening import Opened
from holdfast.store.session import Query
from holdfast.wire import codec
from holdfast.wire import events as e
from holdfast.wire.failures import timeout_message
from holdfast.wire.records import WorkflowActivity

_options = msgspec.msgpack.Decoder(Options)
_OPEN = ("PENDING", "RUNNING")


class DrivenActivity(msgspec.Struct, kw_only=True):
    """An activity of the engine's with its open task, if it has one, and the event that scheduled it."""

    run_id: str
    workflow_id: str
    seq: int
    name: str
    task_queue: str
    status: str
    attempt: int
    options: bytes
    heartbeat_details: bytes
    scheduled_at: float
    closed_at: float | None
    last_heartbeat: float | None
    worker: str | None
    started_at: float | None
    scheduled: bytes


class Outcome(msgspec.Struct, kw_only=True):
    """An event that may be about the activity."""

    body: bytes


READ_DRIVEN = Query(
    """
    SELECT
        r.run_id::text AS run_id,
        r.workflow_id,
        a.seq,
        a.name,
        a.task_queue,
        a.status,
        coalesce(t.attempt, a.attempt) AS attempt,
        a.options,
        a.heartbeat_details,
        extract(epoch FROM a.scheduled_at)::float8 AS scheduled_at,
        extract(epoch FROM a.closed_at)::float8 AS closed_at,
        extract(epoch FROM a.last_heartbeat_at)::float8 AS last_heartbeat,
        t.worker,
        extract(epoch FROM t.leased_at)::float8 AS started_at,
        e.body AS scheduled
    FROM (
        SELECT r.run_id, r.workflow_id
        FROM run AS r
        WHERE r.namespace = $1 AND r.workflow_id = $2 AND ($3::uuid IS NULL OR r.run_id = $3)
        ORDER BY r.run_id DESC
        LIMIT 1
    ) AS r
    CROSS JOIN LATERAL (
        SELECT activity.*
        FROM activity
        WHERE activity.run_id = r.run_id AND activity.seq = $4
        OFFSET 0  -- planned while there was nothing, a plain join would begin with all activities of that number
    ) AS a
    CROSS JOIN LATERAL (
        SELECT event.body
        FROM event
        WHERE event.run_id = a.run_id AND event.seq = a.scheduled_seq
        OFFSET 0
    ) AS e
    LEFT JOIN LATERAL (
        SELECT task.attempt, task.worker, task.leased_at
        FROM task
        WHERE task.run_id = a.run_id AND task.seq = a.seq
        OFFSET 0
    ) AS t ON true
    """,
    DrivenActivity,
)

# An activity closes at the moment of the event that settles it; others may have been settled at the same moment.
READ_OUTCOMES = Query(
    """
    SELECT e.body
    FROM activity AS a
    JOIN event AS e ON e.run_id = a.run_id AND e.seq > a.scheduled_seq AND e.recorded_at = a.closed_at
    WHERE a.run_id = $1::uuid
        AND a.seq = $2
        AND e.type IN ('ActivityCompleted', 'ActivityFailed', 'ActivityTimedOut', 'ActivityCancelled')
    """,
    Outcome,
)


async def read_driven(
    store: Opened, namespace: str, workflow_id: str, run_id: str | None, seq: int
) -> WorkflowActivity | None:
    """The engine's activity of this number, or None. It has no `id`; `error` is the failure's message."""
    row = await store.one(READ_DRIVEN, namespace, workflow_id, run_id, seq)
    if row is None:
        return None
    result, error = (None, None) if row.closed_at is None else await _outcome(store, row)
    return _record(row, result, error)


async def _outcome(store: Opened, row: DrivenActivity) -> tuple[str | None, str | None]:
    for found in await store.pool.rows(READ_OUTCOMES, row.run_id, row.seq):
        match codec.decode_event(found.body):
            case e.ActivityCompleted(seq=row.seq, result=result):
                return result.decode(), None
            case e.ActivityFailed(seq=row.seq, failure=failure):
                return None, failure.message
            case e.ActivityTimedOut(seq=row.seq, timeout=timeout):
                return None, timeout_message(timeout)
    return None, None


def _record(row: DrivenActivity, result: str | None, error: str | None) -> WorkflowActivity:
    options = _options.decode(row.options)
    scheduled: Any = codec.decode_event(row.scheduled)
    is_running = row.status in _OPEN and row.worker is not None
    return WorkflowActivity(
        workflow_id=row.workflow_id,
        seq=row.seq,
        name=row.name,
        task_queue=row.task_queue,
        input=scheduled.input.decode(),
        status="RUNNING" if is_running else row.status,
        result=result,
        error=error,
        attempt=row.attempt,
        heartbeat_details=row.heartbeat_details.decode() or None,
        claimed_by=row.worker,
        scheduled_at=row.scheduled_at,
        started_at=row.started_at if is_running else None,
        completed_at=row.closed_at,
        last_heartbeat=row.last_heartbeat,
        schedule_to_start_secs=options.schedule_to_start_s,
        schedule_to_close_secs=options.schedule_to_close_s,
        heartbeat_timeout_secs=options.heartbeat_s,
        **_limits(options),
    )


def _limits(options: Options) -> dict[str, Any]:
    """`max_attempts` 0 means without limit, as in the engine; an attempt without a limit has all of the activity's."""
    longest = (
        options.start_to_close_s if options.start_to_close_s is not None else options.schedule_to_close_s
    )
    return {
        "max_attempts": options.retry.max_attempts,
        "initial_interval_secs": options.retry.initial_s,
        "backoff_coefficient": options.retry.coefficient,
        "max_interval_secs": options.retry.max_s,
        **({} if longest is None else {"start_to_close_secs": longest}),
    }
