"""Run rows, and the statement that finds them.

Times go in and come out as epoch seconds, run ids as text.
"""

from __future__ import annotations

import msgspec

from holdfast.core import state as s
from holdfast.store.session import Query

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


class RunRow(msgspec.Struct, kw_only=True):
    """A run as LEFT JOIN tells it: every column but the clock's None where there is none."""

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


class ResolvedRow(RunRow, kw_only=True):
    """A run found for address number `position` (from 1)."""

    position: int
    is_newest: bool


RESOLVE = Query(
    """
    WITH asked AS (
        SELECT namespace, workflow_id, request_id, position::int
        FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS a (namespace, workflow_id, request_id, position)
    ), known AS (
        SELECT a.position, true AS is_newest, newest.run_id
        FROM asked AS a
        LEFT JOIN LATERAL (
            SELECT r.run_id
            FROM run AS r
            WHERE r.namespace = a.namespace AND r.workflow_id = a.workflow_id
            ORDER BY r.run_id DESC
            LIMIT 1
        ) AS newest ON true
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
        k.position,
        k.is_newest,
        extract(epoch FROM clock_timestamp())::float8 AS now,
        r.run_id::text AS run_id,
        extract(epoch FROM r.last_at)::float8 AS last_at,
        extract(epoch FROM r.created_at)::float8 AS created_at,
        extract(epoch FROM r.closed_at)::float8 AS closed_at,
        r.fence, r.done_fence, r.last_seq, r.last_message_seq, r.command_seq, r.done_seq, r.done_marker, r.done_head,
        r.open_activities, r.open_timers, r.sticky_seq, r.is_cancel_requested,
        r.namespace, r.workflow_id, r.workflow_type, r.task_queue, r.status, r.request_id, r.request_hash,
        r.sticky_worker, r.task_failure_cause, r.task_failure
    FROM known AS k
    LEFT JOIN run AS r ON r.run_id = k.run_id
    """,
    ResolvedRow,
)
