"""The statements that lock runs and read what they own: tasks, activities, timers, kept requests.

Times go in and come out as epoch seconds, run ids as text.
"""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.core import state as s
from holdfast.store.run_rows import RunRow
from holdfast.store.session import Query, Statement
from holdfast.wire import codec
from holdfast.wire.failures import Failure

_options = msgspec.msgpack.Decoder(s.Options)
_TASK_FIELDS = [name for name in s.Task.__struct_fields__ if name not in ("run_id", "seq")]
_ACTIVITY_FIELDS = [
    name for name in s.Activity.__struct_fields__ if name not in ("run_id", "seq", "options", "last_failure")
]


class WorkRow(RunRow, kw_only=True):
    """A named piece of work: its run, its open task and its activity, each if there is one.

    `is_stale` says that the run changed between the statement's snapshot and its lock: what it owns may be
    missing, or be as it was before.
    """

    seq: int
    is_stale: bool
    is_task: bool
    task_namespace: str | None
    task_task_queue: str | None
    task_ready_at: float | None
    task_fence: int | None
    task_attempt: int | None
    task_worker: str | None
    task_leased_at: float | None
    task_lease_until: float | None
    task_heartbeat_at: float | None
    task_start_to_close_s: float | None
    task_heartbeat_s: float | None
    task_start_by: float | None
    task_close_by: float | None
    task_deadline: float | None
    task_sticky_worker: str | None
    task_sticky_until: float | None
    activity_namespace: str | None
    activity_activity_id: str | None
    activity_name: str | None
    activity_task_queue: str | None
    activity_scheduled_seq: int | None
    activity_options: bytes | None
    activity_scheduled_at: float | None
    activity_status: str | None
    activity_attempt: int | None
    activity_is_cancel_requested: bool | None
    activity_last_failure: bytes | None
    activity_heartbeat_details: bytes | None
    activity_last_heartbeat_at: float | None
    activity_closed_at: float | None
    activity_closed_fence: int | None

    def task(self) -> s.Task | None:
        """The open task."""
        if self.run_id is None or not self.is_task:
            return None
        fields: dict[str, Any] = {name: getattr(self, f"task_{name}") for name in _TASK_FIELDS}
        return s.Task(run_id=self.run_id, seq=self.seq, **fields)

    def activity(self) -> s.Activity | None:
        """The activity, open or settled."""
        if self.run_id is None or self.activity_options is None:
            return None
        fields: dict[str, Any] = {name: getattr(self, f"activity_{name}") for name in _ACTIVITY_FIELDS}
        failure = self.activity_last_failure
        return s.Activity(
            run_id=self.run_id,
            seq=self.seq,
            options=_options.decode(self.activity_options),
            last_failure=None if failure is None else codec.decode(failure, Failure),
            **fields,
        )


# Runs are locked before their tasks, both in the order of their ids. Tasks are locked because a claim locks nothing
# else, and its lease must not be overwritten. A lock may have been waited for: the locked rows are then as they are
# now, the others as they were when the statement began. That is told by the run's version (record.py writes the run
# with whatever it owns); read again, under the lock, nothing can be stale. The clock is read after the wait.
# OFFSET 0: planned while the tables were empty, a plain join would go through a whole index for each row ever after.
LOCK = Query(
    """
    SELECT
        extract(epoch FROM clock_timestamp())::float8 AS now,
        r.run_id::text AS run_id,
        extract(epoch FROM r.last_at)::float8 AS last_at,
        extract(epoch FROM r.created_at)::float8 AS created_at,
        extract(epoch FROM r.closed_at)::float8 AS closed_at,
        r.fence, r.done_fence, r.last_seq, r.last_message_seq, r.command_seq, r.done_seq, r.done_marker, r.done_head,
        r.open_activities, r.open_timers, r.sticky_seq, r.is_cancel_requested,
        r.namespace, r.workflow_id, r.workflow_type, r.task_queue, r.status, r.request_id, r.request_hash,
        r.sticky_worker, r.task_failure_cause, r.task_failure,
        asked.seq,
        before.ctid IS DISTINCT FROM r.version AS is_stale,
        t.run_id IS NOT NULL AS is_task,
        t.namespace AS task_namespace,
        t.task_queue AS task_task_queue,
        extract(epoch FROM t.ready_at)::float8 AS task_ready_at,
        t.fence AS task_fence,
        t.attempt AS task_attempt,
        t.worker AS task_worker,
        extract(epoch FROM t.leased_at)::float8 AS task_leased_at,
        extract(epoch FROM t.lease_until)::float8 AS task_lease_until,
        extract(epoch FROM t.heartbeat_at)::float8 AS task_heartbeat_at,
        t.start_to_close_s AS task_start_to_close_s,
        t.heartbeat_s AS task_heartbeat_s,
        extract(epoch FROM t.start_by)::float8 AS task_start_by,
        extract(epoch FROM t.close_by)::float8 AS task_close_by,
        extract(epoch FROM t.deadline)::float8 AS task_deadline,
        t.sticky_worker AS task_sticky_worker,
        extract(epoch FROM t.sticky_until)::float8 AS task_sticky_until,
        a.namespace AS activity_namespace,
        a.activity_id AS activity_activity_id,
        a.name AS activity_name,
        a.task_queue AS activity_task_queue,
        a.scheduled_seq AS activity_scheduled_seq,
        a.options AS activity_options,
        extract(epoch FROM a.scheduled_at)::float8 AS activity_scheduled_at,
        a.status AS activity_status,
        a.attempt AS activity_attempt,
        a.is_cancel_requested AS activity_is_cancel_requested,
        a.last_failure AS activity_last_failure,
        a.heartbeat_details AS activity_heartbeat_details,
        extract(epoch FROM a.last_heartbeat_at)::float8 AS activity_last_heartbeat_at,
        extract(epoch FROM a.closed_at)::float8 AS activity_closed_at,
        a.closed_fence AS activity_closed_fence
    FROM (
        SELECT a.run_id, a.seq
        FROM unnest($1::uuid[], $2::int[]) AS a (run_id, seq)
        ORDER BY a.run_id, a.seq
    ) AS asked
    LEFT JOIN LATERAL (
        SELECT run.*, run.ctid AS version
        FROM run
        WHERE run.run_id = asked.run_id
        FOR UPDATE
    ) AS r ON true
    LEFT JOIN LATERAL (
        SELECT task.*
        FROM task
        WHERE task.run_id = r.run_id AND task.seq = asked.seq
        FOR UPDATE
    ) AS t ON true
    LEFT JOIN LATERAL (
        SELECT run.ctid
        FROM run
        WHERE run.run_id = r.run_id
        OFFSET 0
    ) AS before ON true
    LEFT JOIN LATERAL (
        SELECT activity.*
        FROM activity
        WHERE asked.seq > 0 AND activity.run_id = r.run_id AND activity.seq = asked.seq
        OFFSET 0
    ) AS a ON true
    """,
    WorkRow,
)

READ_TIMERS = Query(
    """
    SELECT t.run_id::text AS run_id, t.seq, extract(epoch FROM t.fire_at)::float8 AS fire_at, t.state
    FROM unnest($1::uuid[], $2::int[]) AS asked (run_id, seq)
    CROSS JOIN LATERAL (
        SELECT timer.run_id, timer.seq, timer.fire_at, timer.state
        FROM timer
        WHERE timer.run_id = asked.run_id AND timer.seq = asked.seq
        OFFSET 0
    ) AS t
    """,
    s.Timer,
)

FORGET_REQUESTS = Statement(
    """
    DELETE FROM request AS r
    WHERE r.ctid = ANY (ARRAY(
        SELECT o.ctid  -- no request is ever changed: it stays where it is
        FROM request AS o
        WHERE o.created_at < now() - make_interval(secs => $1)
        LIMIT $2
    ))
    """
)

READ_REQUESTS = Query(
    """
    SELECT r.namespace, r.request_id, r.hash, r.run_id::text AS run_id
    FROM unnest($1::text[], $2::text[]) AS asked (namespace, request_id)
    CROSS JOIN LATERAL (
        SELECT request.namespace, request.request_id, request.hash, request.run_id
        FROM request
        WHERE request.namespace = asked.namespace AND request.request_id = asked.request_id
        OFFSET 0
    ) AS r
    """,
    s.KeptRequest,
)
