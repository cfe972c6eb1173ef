"""The statements about what a run owns: events, tasks, activities, timers, requests, outbox.

Times go in and come out as epoch seconds, run ids as text.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from holdfast.core import state as s
from holdfast.store.session import Query, Statement
from holdfast.wire import codec
from holdfast.wire.failures import Failure

TASK_COLUMNS = (
    "run_id",
    "ready_at",
    "deadline",
    "leased_at",
    "lease_until",
    "heartbeat_at",
    "start_by",
    "close_by",
    "sticky_until",
    "fence",
    "start_to_close_s",
    "heartbeat_s",
    "seq",
    "attempt",
    "namespace",
    "task_queue",
    "worker",
    "sticky_worker",
)
ACTIVITY_COLUMNS = (
    "run_id",
    "scheduled_at",
    "closed_at",
    "closed_fence",
    "seq",
    "scheduled_seq",
    "attempt",
    "is_cancel_requested",
    "namespace",
    "activity_id",
    "name",
    "task_queue",
    "status",
)
ACTIVITY_CHANGED = (
    "run_id",
    "seq",
    "status",
    "attempt",
    "is_cancel_requested",
    "heartbeat_details",
    "last_heartbeat_at",
    "closed_at",
    "closed_fence",
)
TIMER_COLUMNS = ("run_id", "fire_at", "seq", "state")
REQUEST_COLUMNS = ("namespace", "request_id", "run_id", "hash")


class ActivityRow(msgspec.Struct, kw_only=True):
    """An activity whose options and failure are still encoded."""

    run_id: str
    scheduled_at: float
    last_heartbeat_at: float | None
    closed_at: float | None
    closed_fence: int
    seq: int
    scheduled_seq: int
    attempt: int
    is_cancel_requested: bool
    namespace: str
    activity_id: str
    name: str
    task_queue: str
    status: str
    options: bytes
    last_failure: bytes | None
    heartbeat_details: bytes

    def activity(self, decode_options: Callable[[bytes], s.Options]) -> s.Activity:
        """The row as the core knows it."""
        failure = None if self.last_failure is None else codec.decode(self.last_failure, Failure)
        names = [name for name in self.__struct_fields__ if name not in ("options", "last_failure")]
        fields = {name: getattr(self, name) for name in names}
        return s.Activity(**fields, options=decode_options(self.options), last_failure=failure)


# Tasks are locked too: a claim locks nothing else, and its lease must not be overwritten.
LOCK_TASKS = Query(
    """
    SELECT
        t.run_id::text AS run_id,
        t.seq,
        t.namespace,
        t.task_queue,
        extract(epoch FROM t.ready_at)::float8 AS ready_at,
        t.fence,
        t.attempt,
        t.worker,
        extract(epoch FROM t.leased_at)::float8 AS leased_at,
        extract(epoch FROM t.lease_until)::float8 AS lease_until,
        extract(epoch FROM t.heartbeat_at)::float8 AS heartbeat_at,
        t.start_to_close_s,
        t.heartbeat_s,
        extract(epoch FROM t.start_by)::float8 AS start_by,
        extract(epoch FROM t.close_by)::float8 AS close_by,
        extract(epoch FROM t.deadline)::float8 AS deadline,
        t.sticky_worker,
        extract(epoch FROM t.sticky_until)::float8 AS sticky_until
    FROM task AS t
    JOIN unnest($1::uuid[], $2::int[]) AS asked (run_id, seq) ON asked.run_id = t.run_id AND asked.seq = t.seq
    ORDER BY t.run_id, t.seq
    FOR UPDATE OF t
    """,
    s.Task,
)

READ_ACTIVITIES = Query(
    """
    SELECT
        a.run_id::text AS run_id,
        extract(epoch FROM a.scheduled_at)::float8 AS scheduled_at,
        extract(epoch FROM a.last_heartbeat_at)::float8 AS last_heartbeat_at,
        extract(epoch FROM a.closed_at)::float8 AS closed_at,
        a.closed_fence, a.seq, a.scheduled_seq, a.attempt, a.is_cancel_requested,
        a.namespace, a.activity_id, a.name, a.task_queue, a.status, a.options, a.last_failure, a.heartbeat_details
    FROM activity AS a
    JOIN unnest($1::uuid[], $2::int[]) AS asked (run_id, seq) ON asked.run_id = a.run_id AND asked.seq = a.seq
    """,
    ActivityRow,
)

READ_TIMERS = Query(
    """
    SELECT t.run_id::text AS run_id, t.seq, extract(epoch FROM t.fire_at)::float8 AS fire_at, t.state
    FROM timer AS t
    JOIN unnest($1::uuid[], $2::int[]) AS asked (run_id, seq) ON asked.run_id = t.run_id AND asked.seq = t.seq
    """,
    s.Timer,
)

READ_REQUESTS = Query(
    """
    SELECT r.namespace, r.request_id, r.hash, r.run_id::text AS run_id
    FROM request AS r
    JOIN unnest($1::text[], $2::text[]) AS asked (namespace, request_id)
        ON asked.namespace = r.namespace AND asked.request_id = r.request_id
    """,
    s.KeptRequest,
)

INSERT_EVENTS = Statement(
    """
    INSERT INTO event (run_id, recorded_at, seq, type, body)
    SELECT n.run_id, to_timestamp(n.recorded_at), n.seq, n.type, n.body
    FROM unnest($1::uuid[], $2::float8[], $3::int[], $4::text[], $5::bytea[]) AS n (run_id, recorded_at, seq, type, body)
    """
)

PUT_TASKS = Statement(
    """
    INSERT INTO task (
        run_id, ready_at, deadline, leased_at, lease_until, heartbeat_at, start_by, close_by, sticky_until, fence,
        start_to_close_s, heartbeat_s, seq, attempt, namespace, task_queue, worker, sticky_worker
    )
    SELECT
        n.run_id, to_timestamp(n.ready_at), to_timestamp(n.deadline), to_timestamp(n.leased_at),
        to_timestamp(n.lease_until), to_timestamp(n.heartbeat_at), to_timestamp(n.start_by), to_timestamp(n.close_by),
        to_timestamp(n.sticky_until), n.fence, n.start_to_close_s, n.heartbeat_s, n.seq, n.attempt, n.namespace,
        n.task_queue, n.worker, n.sticky_worker
    FROM unnest(
        $1::uuid[], $2::float8[], $3::float8[], $4::float8[], $5::float8[], $6::float8[], $7::float8[], $8::float8[],
        $9::float8[], $10::bigint[], $11::float8[], $12::float8[], $13::int[], $14::int[], $15::text[], $16::text[],
        $17::text[], $18::text[]
    ) AS n (
        run_id, ready_at, deadline, leased_at, lease_until, heartbeat_at, start_by, close_by, sticky_until, fence,
        start_to_close_s, heartbeat_s, seq, attempt, namespace, task_queue, worker, sticky_worker
    )
    ON CONFLICT (run_id, seq) DO UPDATE
    SET
        ready_at = excluded.ready_at,
        deadline = excluded.deadline,
        leased_at = excluded.leased_at,
        lease_until = excluded.lease_until,
        heartbeat_at = excluded.heartbeat_at,
        start_by = excluded.start_by,
        close_by = excluded.close_by,
        sticky_until = excluded.sticky_until,
        fence = excluded.fence,
        attempt = excluded.attempt,
        worker = excluded.worker,
        sticky_worker = excluded.sticky_worker
    """
)

DELETE_TASKS = Statement(
    """
    DELETE FROM task AS t
    USING unnest($1::uuid[], $2::int[]) AS gone (run_id, seq)
    WHERE t.run_id = gone.run_id AND t.seq = gone.seq
    """
)

INSERT_ACTIVITIES = Statement(
    """
    INSERT INTO activity (
        run_id, scheduled_at, closed_at, closed_fence, seq, scheduled_seq, attempt, is_cancel_requested, namespace,
        activity_id, name, task_queue, status, options, heartbeat_details
    )
    SELECT
        n.run_id, to_timestamp(n.scheduled_at), to_timestamp(n.closed_at), n.closed_fence, n.seq, n.scheduled_seq,
        n.attempt, n.is_cancel_requested, n.namespace, n.activity_id, n.name, n.task_queue, n.status, n.options, ''
    FROM unnest(
        $1::uuid[], $2::float8[], $3::float8[], $4::bigint[], $5::int[], $6::int[], $7::int[], $8::boolean[],
        $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[]
    ) AS n (
        run_id, scheduled_at, closed_at, closed_fence, seq, scheduled_seq, attempt, is_cancel_requested, namespace,
        activity_id, name, task_queue, status, options
    )
    """
)

UPDATE_ACTIVITIES = Statement(
    """
    UPDATE activity AS a
    SET
        status = n.status,
        attempt = n.attempt,
        is_cancel_requested = n.is_cancel_requested,
        heartbeat_details = n.heartbeat_details,
        last_heartbeat_at = to_timestamp(n.last_heartbeat_at),
        closed_at = to_timestamp(n.closed_at),
        closed_fence = n.closed_fence,
        last_failure = n.last_failure
    FROM unnest(
        $1::uuid[], $2::int[], $3::text[], $4::int[], $5::boolean[], $6::bytea[], $7::float8[], $8::float8[],
        $9::bigint[], $10::bytea[]
    ) AS n (
        run_id, seq, status, attempt, is_cancel_requested, heartbeat_details, last_heartbeat_at, closed_at,
        closed_fence, last_failure
    )
    WHERE a.run_id = n.run_id AND a.seq = n.seq
    """
)

INSERT_TIMERS = Statement(
    """
    INSERT INTO timer (run_id, fire_at, seq, state)
    SELECT n.run_id, to_timestamp(n.fire_at), n.seq, n.state
    FROM unnest($1::uuid[], $2::float8[], $3::int[], $4::smallint[]) AS n (run_id, fire_at, seq, state)
    """
)

UPDATE_TIMERS = Statement(
    """
    UPDATE timer AS t
    SET state = n.state
    FROM unnest($1::uuid[], $2::int[], $3::smallint[]) AS n (run_id, seq, state)
    WHERE t.run_id = n.run_id AND t.seq = n.seq
    """
)

INSERT_REQUESTS = Statement(
    """
    INSERT INTO request (namespace, request_id, run_id, hash)
    SELECT n.namespace, n.request_id, n.run_id, n.hash
    FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[]) AS n (namespace, request_id, run_id, hash)
    """
)

INSERT_OUTBOX = Statement(
    """
    INSERT INTO outbox (run_id, first_seq, last_seq)
    SELECT n.run_id, n.first_seq, n.last_seq
    FROM unnest($1::uuid[], $2::int[], $3::int[]) AS n (run_id, first_seq, last_seq)
    """
)

CLOSE_TASKS = Query(
    """
    DELETE FROM task
    WHERE run_id = ANY($1::uuid[])
    RETURNING
        run_id::text AS run_id,
        seq,
        namespace,
        task_queue,
        extract(epoch FROM ready_at)::float8 AS ready_at,
        fence,
        worker
    """,
    s.Task,
)

CLOSE_ACTIVITIES = Statement(
    """
    UPDATE activity
    SET status = 'CANCELLED', closed_at = clock_timestamp()
    WHERE run_id = ANY($1::uuid[]) AND closed_at IS NULL
    """
)

CLOSE_TIMERS = Statement(
    """
    UPDATE timer
    SET state = 2
    WHERE run_id = ANY($1::uuid[]) AND state = 0
    """
)
