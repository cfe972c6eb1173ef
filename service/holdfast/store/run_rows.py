"""The statements about run rows: find, lock, insert, update.

Times go in and come out as epoch seconds, run ids as text.
"""

from __future__ import annotations

import msgspec

from holdfast.core import state as s
from holdfast.store.session import Query, Statement

RUN_COLUMNS = (
    "run_id",
    "last_at",
    "created_at",
    "closed_at",
    "fence",
    "done_fence",
    "last_seq",
    "last_message_seq",
    "command_seq",
    "done_seq",
    "done_marker",
    "done_head",
    "open_activities",
    "open_timers",
    "sticky_seq",
    "is_cancel_requested",
    "namespace",
    "workflow_id",
    "workflow_type",
    "task_queue",
    "status",
    "request_id",
    "request_hash",
    "sticky_worker",
    "task_failure_cause",
    "task_failure",
)
RUN_UPDATED = (
    "run_id",
    "last_at",
    "closed_at",
    "fence",
    "done_fence",
    "last_seq",
    "last_message_seq",
    "command_seq",
    "done_seq",
    "done_marker",
    "done_head",
    "open_activities",
    "open_timers",
    "sticky_seq",
    "is_cancel_requested",
    "status",
    "sticky_worker",
    "task_failure_cause",
    "task_failure",
)


class LockedRun(msgspec.Struct, kw_only=True):
    """A run as LEFT JOIN tells it: every column None where there is none."""

    now: float
    run_id: str | None
    last_at: float | None
    created_at: float | None
    closed_at: float | None
    fence: int | None
    done_fence: int | None
    last_seq: int | None
    last_message_seq: int | None
    command_seq: int | None
    done_seq: int | None
    done_marker: int | None
    done_head: int | None
    open_activities: int | None
    open_timers: int | None
    sticky_seq: int | None
    is_cancel_requested: bool | None
    namespace: str | None
    workflow_id: str | None
    workflow_type: str | None
    task_queue: str | None
    status: str | None
    request_id: str | None
    request_hash: bytes | None
    sticky_worker: str | None
    task_failure_cause: str | None
    task_failure: bytes | None

    def run(self) -> s.Run | None:
        """The run, or None."""
        if self.run_id is None:
            return None
        return s.Run(**{name: getattr(self, name) for name in RUN_COLUMNS})


class ResolvedRow(LockedRun, kw_only=True):
    """A run found for address number `position` (from 1)."""

    position: int
    is_newest: bool


class RunId(msgspec.Struct):
    """A run id."""

    run_id: str


RESOLVE = Query(
    """
    WITH asked AS (
        SELECT namespace, workflow_id, request_id, position::int
        FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS a (namespace, workflow_id, request_id, position)
    ), known AS (
        SELECT a.position, true AS is_newest, newest.run_id
        FROM asked AS a
        CROSS JOIN LATERAL (
            SELECT r.run_id
            FROM run AS r
            WHERE r.namespace = a.namespace AND r.workflow_id = a.workflow_id
            ORDER BY r.run_id DESC
            LIMIT 1
        ) AS newest
        UNION ALL
        SELECT a.position, false, repeat.run_id
        FROM asked AS a
        CROSS JOIN LATERAL (
            SELECT r.run_id
            FROM run AS r
            WHERE r.namespace = a.namespace AND r.workflow_id = a.workflow_id AND r.request_id = a.request_id
            ORDER BY r.run_id DESC
            LIMIT 1
        ) AS repeat
        WHERE a.request_id <> ''
    )
    SELECT
        coalesce(k.position, a.position) AS position,
        coalesce(k.is_newest, true) AS is_newest,
        extract(epoch FROM clock_timestamp())::float8 AS now,
        r.run_id::text AS run_id,
        extract(epoch FROM r.last_at)::float8 AS last_at,
        extract(epoch FROM r.created_at)::float8 AS created_at,
        extract(epoch FROM r.closed_at)::float8 AS closed_at,
        r.fence, r.done_fence, r.last_seq, r.last_message_seq, r.command_seq, r.done_seq, r.done_marker, r.done_head,
        r.open_activities, r.open_timers, r.sticky_seq, r.is_cancel_requested,
        r.namespace, r.workflow_id, r.workflow_type, r.task_queue, r.status, r.request_id, r.request_hash,
        r.sticky_worker, r.task_failure_cause, r.task_failure
    FROM asked AS a
    LEFT JOIN known AS k ON k.position = a.position
    LEFT JOIN run AS r ON r.run_id = k.run_id
    """,
    ResolvedRow,
)

# The clock is read outside the CTE: beside the locking SELECT it would be read before the wait.
LOCK_RUNS = Query(
    """
    WITH locked AS MATERIALIZED (
        SELECT r.*
        FROM run AS r
        WHERE r.run_id = ANY($1::uuid[])
        ORDER BY r.run_id
        FOR UPDATE
    )
    SELECT
        extract(epoch FROM clock_timestamp())::float8 AS now,
        r.run_id::text AS run_id,
        extract(epoch FROM r.last_at)::float8 AS last_at,
        extract(epoch FROM r.created_at)::float8 AS created_at,
        extract(epoch FROM r.closed_at)::float8 AS closed_at,
        r.fence, r.done_fence, r.last_seq, r.last_message_seq, r.command_seq, r.done_seq, r.done_marker, r.done_head,
        r.open_activities, r.open_timers, r.sticky_seq, r.is_cancel_requested,
        r.namespace, r.workflow_id, r.workflow_type, r.task_queue, r.status, r.request_id, r.request_hash,
        r.sticky_worker, r.task_failure_cause, r.task_failure
    FROM unnest($1::uuid[]) AS asked (run_id)
    LEFT JOIN locked AS r ON r.run_id = asked.run_id
    """,
    LockedRun,
)

UPDATE_RUNS = Statement(
    """
    UPDATE run
    SET
        last_at = to_timestamp(n.last_at),
        closed_at = to_timestamp(n.closed_at),
        fence = n.fence,
        done_fence = n.done_fence,
        last_seq = n.last_seq,
        last_message_seq = n.last_message_seq,
        command_seq = n.command_seq,
        done_seq = n.done_seq,
        done_marker = n.done_marker,
        done_head = n.done_head,
        open_activities = n.open_activities,
        open_timers = n.open_timers,
        sticky_seq = n.sticky_seq,
        is_cancel_requested = n.is_cancel_requested,
        status = n.status,
        sticky_worker = n.sticky_worker,
        task_failure_cause = n.task_failure_cause,
        task_failure = n.task_failure
    FROM unnest(
        $1::uuid[], $2::float8[], $3::float8[], $4::bigint[], $5::bigint[], $6::int[], $7::int[], $8::int[], $9::int[],
        $10::int[], $11::int[], $12::int[], $13::int[], $14::int[], $15::boolean[], $16::text[], $17::text[], $18::text[],
        $19::bytea[]
    ) AS n (
        run_id, last_at, closed_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq,
        done_marker, done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, status, sticky_worker,
        task_failure_cause, task_failure
    )
    WHERE run.run_id = n.run_id
    """
)

# A workflow id that somebody else opened meanwhile is left out, not an error: its request is decided again.
INSERT_RUNS = Query(
    """
    INSERT INTO run (
        run_id, last_at, created_at, closed_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq,
        done_marker, done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace, workflow_id,
        workflow_type, task_queue, status, request_id, request_hash, sticky_worker, task_failure_cause, task_failure
    )
    SELECT
        n.run_id, to_timestamp(n.last_at), to_timestamp(n.created_at), to_timestamp(n.closed_at), n.fence, n.done_fence,
        n.last_seq, n.last_message_seq, n.command_seq, n.done_seq, n.done_marker, n.done_head, n.open_activities, n.open_timers,
        n.sticky_seq, n.is_cancel_requested, n.namespace, n.workflow_id, n.workflow_type, n.task_queue, n.status,
        n.request_id, n.request_hash, n.sticky_worker, n.task_failure_cause, n.task_failure
    FROM unnest(
        $1::uuid[], $2::float8[], $3::float8[], $4::float8[], $5::bigint[], $6::bigint[], $7::int[], $8::int[], $9::int[],
        $10::int[], $11::int[], $12::int[], $13::int[], $14::int[], $15::int[], $16::boolean[], $17::text[], $18::text[],
        $19::text[], $20::text[], $21::text[], $22::text[], $23::bytea[], $24::text[], $25::text[], $26::bytea[]
    ) WITH ORDINALITY AS n (
        run_id, last_at, created_at, closed_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq,
        done_marker, done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace, workflow_id,
        workflow_type, task_queue, status, request_id, request_hash, sticky_worker, task_failure_cause, task_failure,
        position
    )
    ORDER BY n.position
    ON CONFLICT (namespace, workflow_id) WHERE closed_at IS NULL DO NOTHING
    RETURNING run_id::text AS run_id
    """,
    RunId,
)
