"""Claims, leases, and what is due. These statements lock task rows only, and skip locked ones.

A claim is one statement whatever its size. Nothing here decides: what is found due goes
through the journal like every other change.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.store.session import Pool, Query

COUNTED_MAX = 1_000


class ClaimedWorkflow(msgspec.Struct, kw_only=True):
    """A workflow task just leased. `known_seq` is what the claiming worker's cache holds (0: nothing)."""

    run_id: str
    fence: int
    attempt: int
    ready_at: float
    now: float
    workflow_id: str
    workflow_type: str
    task_queue: str
    last_seq: int
    known_seq: int
    created_at: float


class ClaimedActivity(msgspec.Struct, kw_only=True):
    """An activity task just leased; `scheduled` is its encoded `ActivityScheduled` event."""

    run_id: str
    seq: int
    fence: int
    attempt: int
    ready_at: float
    now: float
    workflow_id: str
    workflow_type: str
    task_queue: str
    scheduled_at: float
    heartbeat_details: bytes
    scheduled: bytes


class DueTask(msgspec.Struct, kw_only=True):
    """A task whose deadline has passed."""

    run_id: str
    seq: int
    namespace: str
    task_queue: str
    worker: str | None


class DueTimer(msgspec.Struct, kw_only=True):
    """A timer whose moment has come."""

    run_id: str
    seq: int
    namespace: str
    late_s: float


class ReadyQueue(msgspec.Struct, kw_only=True):
    """A queue with ready tasks, counted up to `COUNTED_MAX`; times are epoch seconds."""

    namespace: str
    task_queue: str
    is_workflow: bool
    ready: int
    oldest_ready_at: float
    now: float


class Pulse(msgspec.Struct, kw_only=True):
    """What there is to do, told by one statement. Times are seconds from now, None for never.

    `has_waiting`: some task is not leased (it may be backing off).
    """

    next_deadline_s: float | None
    next_timer_s: float | None
    has_waiting: bool
    oldest_owed_s: float | None


class LeaseRow(msgspec.Struct, kw_only=True):
    """A lease a worker asked about, as it is after the extension. `is_ours` False: somebody else's, or gone."""

    run_id: str
    seq: int
    is_ours: bool
    is_cancel_requested: bool


CLAIM_WORKFLOWS = Query(
    """
    WITH ready AS (
        SELECT t.run_id
        FROM task AS t
        WHERE t.namespace = $1
            AND t.task_queue = $2
            AND t.worker IS NULL
            AND t.seq = 0
            AND t.ready_at <= now()
            AND (t.sticky_until IS NULL OR t.sticky_until <= now() OR t.sticky_worker = $3)
        ORDER BY t.ready_at, t.run_id
        LIMIT $4
        FOR UPDATE SKIP LOCKED
    ), leased AS (
        UPDATE task AS t
        SET
            worker = $3,
            fence = t.fence + 1,
            leased_at = now(),
            heartbeat_at = now(),
            lease_until = now() + make_interval(secs => $5),
            deadline = now() + make_interval(secs => $5),
            sticky_worker = NULL,
            sticky_until = NULL
        FROM ready
        WHERE t.run_id = ready.run_id AND t.seq = 0
        RETURNING t.run_id, t.fence, t.attempt, t.ready_at
    )
    SELECT
        l.run_id::text AS run_id,
        l.fence,
        l.attempt,
        extract(epoch FROM l.ready_at)::float8 AS ready_at,
        extract(epoch FROM now())::float8 AS now,
        r.workflow_id,
        r.workflow_type,
        r.task_queue,
        r.last_seq,
        CASE WHEN r.sticky_worker = $3 THEN r.sticky_seq ELSE 0 END AS known_seq,
        extract(epoch FROM r.created_at)::float8 AS created_at
    FROM leased AS l
    JOIN run AS r ON r.run_id = l.run_id
    ORDER BY l.ready_at, l.run_id
    """,
    ClaimedWorkflow,
)

CLAIM_ACTIVITIES = Query(
    """
    WITH ready AS (
        SELECT t.run_id, t.seq
        FROM task AS t
        WHERE t.namespace = $1
            AND t.task_queue = $2
            AND t.worker IS NULL
            AND t.seq > 0
            AND t.ready_at <= now()
        ORDER BY t.ready_at, t.run_id
        LIMIT $4
        FOR UPDATE SKIP LOCKED
    ), leased AS (
        UPDATE task AS t
        SET
            worker = $3,
            fence = t.fence + 1,
            leased_at = now(),
            heartbeat_at = now(),
            lease_until = now() + make_interval(secs => $5),
            deadline = least(
                now() + make_interval(secs => $5),
                t.close_by,
                now() + make_interval(secs => t.start_to_close_s),
                now() + make_interval(secs => t.heartbeat_s)
            )
        FROM ready
        WHERE t.run_id = ready.run_id AND t.seq = ready.seq
        RETURNING t.run_id, t.seq, t.fence, t.attempt, t.ready_at, t.task_queue
    )
    SELECT
        l.run_id::text AS run_id,
        l.seq,
        l.fence,
        l.attempt,
        extract(epoch FROM l.ready_at)::float8 AS ready_at,
        extract(epoch FROM now())::float8 AS now,
        r.workflow_id,
        r.workflow_type,
        l.task_queue,
        extract(epoch FROM a.scheduled_at)::float8 AS scheduled_at,
        a.heartbeat_details,
        e.body AS scheduled
    FROM leased AS l
    JOIN run AS r ON r.run_id = l.run_id
    JOIN activity AS a ON a.run_id = l.run_id AND a.seq = l.seq
    JOIN event AS e ON e.run_id = a.run_id AND e.seq = a.scheduled_seq
    ORDER BY l.ready_at, l.run_id
    """,
    ClaimedActivity,
)


async def claim_workflows(
    pool: Pool, namespace: str, queue: str, worker: str, limit: int, lease_s: float
) -> list[ClaimedWorkflow]:
    """Lease up to *limit* ready workflow tasks, the longest ready first."""
    return await pool.rows(CLAIM_WORKFLOWS, namespace, queue, worker, limit, lease_s)


async def claim_activities(
    pool: Pool, namespace: str, queue: str, worker: str, limit: int, lease_s: float
) -> list[ClaimedActivity]:
    """Lease up to *limit* ready activity tasks, the longest ready first. Backoff is honoured."""
    return await pool.rows(CLAIM_ACTIVITIES, namespace, queue, worker, limit, lease_s)


HELD_ACTIVITIES = Query(
    """
    SELECT
        t.run_id::text AS run_id,
        t.seq,
        t.fence,
        t.attempt,
        extract(epoch FROM t.ready_at)::float8 AS ready_at,
        extract(epoch FROM t.leased_at)::float8 AS now,
        r.workflow_id,
        r.workflow_type,
        t.task_queue,
        extract(epoch FROM a.scheduled_at)::float8 AS scheduled_at,
        a.heartbeat_details,
        e.body AS scheduled
    FROM task AS t
    JOIN run AS r ON r.run_id = t.run_id
    JOIN activity AS a ON a.run_id = t.run_id AND a.seq = t.seq
    JOIN event AS e ON e.run_id = a.run_id AND e.seq = a.scheduled_seq
    WHERE t.run_id = ANY($1::uuid[]) AND t.seq > 0 AND t.worker = $2
    """,
    ClaimedActivity,
)


HELD_WORKFLOWS = Query(
    """
    SELECT
        t.run_id::text AS run_id, t.fence, t.attempt, r.workflow_id, r.workflow_type, r.task_queue, r.last_seq,
        extract(epoch FROM t.ready_at)::float8 AS ready_at,
        extract(epoch FROM now())::float8 AS now,
        CASE WHEN r.sticky_worker = $2 THEN r.sticky_seq ELSE 0 END AS known_seq,
        extract(epoch FROM r.created_at)::float8 AS created_at
    FROM task AS t
    JOIN run AS r ON r.run_id = t.run_id
    WHERE t.run_id = ANY($1::uuid[]) AND t.seq = 0 AND t.worker = $2
    """,
    ClaimedWorkflow,
)


async def held_workflows(pool: Pool, run_ids: Sequence[str], worker: str) -> list[ClaimedWorkflow]:
    """As `held_activities`, the workflow tasks."""
    return await pool.rows(HELD_WORKFLOWS, list(run_ids), worker)


async def held_activities(pool: Pool, run_ids: Sequence[str], worker: str) -> list[ClaimedActivity]:
    """The activities of these runs that *worker* holds: told again when the first answer may have been lost."""
    return await pool.rows(HELD_ACTIVITIES, list(run_ids), worker)


# The lease lasts from now on, that of a workflow task for two minutes in all; the activity's own limits stay where they are.
EXTEND = Query(
    """
    WITH asked AS (
        SELECT run_id, seq, fence
        FROM unnest($1::uuid[], $2::int[], $3::bigint[]) AS a (run_id, seq, fence)
    ), free AS (
        SELECT t.run_id, t.seq
        FROM task AS t
        JOIN asked AS a ON a.run_id = t.run_id AND a.seq = t.seq AND a.fence = t.fence
        WHERE t.worker = $4 AND t.namespace = $6
        ORDER BY t.run_id, t.seq
        FOR UPDATE OF t SKIP LOCKED  -- somebody is deciding about it right now
    ), extended AS (
        UPDATE task AS t
        SET
            lease_until = least(
                now() + make_interval(secs => $5),
                CASE WHEN t.seq = 0 THEN t.leased_at + interval '120 s' END
            ),
            deadline = least(
                now() + make_interval(secs => $5),
                CASE WHEN t.seq = 0 THEN t.leased_at + interval '120 s' END,
                t.close_by,
                t.leased_at + make_interval(secs => t.start_to_close_s),
                t.heartbeat_at + make_interval(secs => t.heartbeat_s)
            )
        FROM free AS f
        WHERE t.run_id = f.run_id AND t.seq = f.seq
        RETURNING t.run_id
    )
    SELECT
        a.run_id::text AS run_id,
        a.seq,
        coalesce(t.fence = a.fence AND t.worker = $4, false) AS is_ours,
        coalesce(c.is_cancel_requested, false) AS is_cancel_requested
    FROM asked AS a
    LEFT JOIN task AS t ON t.run_id = a.run_id AND t.seq = a.seq AND t.namespace = $6
    LEFT JOIN activity AS c ON c.run_id = a.run_id AND c.seq = a.seq
    """,
    LeaseRow,
)


async def extend(
    pool: Pool, namespace: str, worker: str, leases: Sequence[tuple[str, int, int]], lease_s: float
) -> list[LeaseRow]:
    """Extend the (run, seq, fence) that *worker* still holds to *lease_s* from now, and say which it does not."""
    return await pool.rows(
        EXTEND,
        [run_id for run_id, _, _ in leases],
        [seq for _, seq, _ in leases],
        [fence for _, _, fence in leases],
        worker,
        lease_s,
        namespace,
    )


DUE_TASKS = Query(
    """
    SELECT t.run_id::text AS run_id, t.seq, t.namespace, t.task_queue, t.worker
    FROM task AS t
    WHERE t.deadline <= now()
    ORDER BY t.deadline
    LIMIT $1
    """,
    DueTask,
)

# As `DUE_TASKS`, without those of which only the lease has run out.
DUE_TIMEOUTS = Query(
    """
    SELECT t.run_id::text AS run_id, t.seq, t.namespace, t.task_queue, t.worker
    FROM task AS t
    WHERE t.deadline <= now()
        AND (t.worker IS NULL OR t.close_by <= now()
            OR t.leased_at + make_interval(secs => t.start_to_close_s) <= now()
            OR t.heartbeat_at + make_interval(secs => t.heartbeat_s) <= now())
    ORDER BY t.deadline
    LIMIT $1
    """,
    DueTask,
)

DUE_TIMERS = Query(
    """
    SELECT
        t.run_id::text AS run_id,
        t.seq,
        r.namespace,
        extract(epoch FROM now() - t.fire_at)::float8 AS late_s
    FROM timer AS t
    JOIN run AS r ON r.run_id = t.run_id
    WHERE t.state = 0 AND t.fire_at <= now()
    ORDER BY t.fire_at, t.run_id, t.seq  -- equal timers of a run wake in the order they were made
    LIMIT $1
    """,
    DueTimer,
)

# Each subquery is one probe of a partial index.
PULSE = Query(
    """
    SELECT
        extract(epoch FROM (
            SELECT t.deadline FROM task AS t WHERE t.deadline IS NOT NULL ORDER BY t.deadline LIMIT 1
        ) - now())::float8 AS next_deadline_s,
        extract(epoch FROM (
            SELECT t.fire_at FROM timer AS t WHERE t.state = 0 ORDER BY t.fire_at LIMIT 1
        ) - now())::float8 AS next_timer_s,
        -- In the order of the index: a mere EXISTS may read the table instead, all of it if every task is leased.
        coalesce(
            (
                SELECT true FROM task AS t WHERE t.worker IS NULL AND t.seq = 0
                ORDER BY t.namespace, t.task_queue, t.ready_at LIMIT 1
            ),
            (
                SELECT true FROM task AS t WHERE t.worker IS NULL AND t.seq > 0
                ORDER BY t.namespace, t.task_queue, t.ready_at LIMIT 1
            ),
            false
        ) AS has_waiting,
        extract(epoch FROM now() - (SELECT o.created_at FROM outbox AS o ORDER BY o.id LIMIT 1))::float8 AS oldest_owed_s
    """,
    Pulse,
)

# One probe per queue, however many tasks wait in it: each step jumps behind the last queue found.
READY_QUEUES = Query(
    """
    WITH RECURSIVE workflow_queue AS (
        (
            SELECT t.namespace, t.task_queue
            FROM task AS t
            WHERE t.worker IS NULL AND t.seq = 0
            ORDER BY t.namespace, t.task_queue
            LIMIT 1
        )
        UNION ALL
        SELECT n.namespace, n.task_queue
        FROM workflow_queue AS q
        CROSS JOIN LATERAL (
            SELECT t.namespace, t.task_queue
            FROM task AS t
            WHERE t.worker IS NULL AND t.seq = 0 AND (t.namespace, t.task_queue) > (q.namespace, q.task_queue)
            ORDER BY t.namespace, t.task_queue
            LIMIT 1
        ) AS n
    ), activity_queue AS (
        (
            SELECT t.namespace, t.task_queue
            FROM task AS t
            WHERE t.worker IS NULL AND t.seq > 0
            ORDER BY t.namespace, t.task_queue
            LIMIT 1
        )
        UNION ALL
        SELECT n.namespace, n.task_queue
        FROM activity_queue AS q
        CROSS JOIN LATERAL (
            SELECT t.namespace, t.task_queue
            FROM task AS t
            WHERE t.worker IS NULL AND t.seq > 0 AND (t.namespace, t.task_queue) > (q.namespace, q.task_queue)
            ORDER BY t.namespace, t.task_queue
            LIMIT 1
        ) AS n
    )
    SELECT
        q.namespace,
        q.task_queue,
        true AS is_workflow,
        o.ready,
        extract(epoch FROM o.ready_at)::float8 AS oldest_ready_at,
        extract(epoch FROM now())::float8 AS now
    FROM workflow_queue AS q
    CROSS JOIN LATERAL (
        SELECT count(*)::int AS ready, min(r.ready_at) AS ready_at
        FROM (
            SELECT t.ready_at
            FROM task AS t
            WHERE t.worker IS NULL AND t.seq = 0 AND t.namespace = q.namespace AND t.task_queue = q.task_queue
                AND t.ready_at <= now()
            ORDER BY t.ready_at
            LIMIT $1
        ) AS r
    ) AS o
    WHERE o.ready > 0
    UNION ALL
    SELECT
        q.namespace,
        q.task_queue,
        false,
        o.ready,
        extract(epoch FROM o.ready_at)::float8,
        extract(epoch FROM now())::float8
    FROM activity_queue AS q
    CROSS JOIN LATERAL (
        SELECT count(*)::int AS ready, min(r.ready_at) AS ready_at
        FROM (
            SELECT t.ready_at
            FROM task AS t
            WHERE t.worker IS NULL AND t.seq > 0 AND t.namespace = q.namespace AND t.task_queue = q.task_queue
                AND t.ready_at <= now()
            ORDER BY t.ready_at
            LIMIT $1
        ) AS r
    ) AS o
    WHERE o.ready > 0
    """,
    ReadyQueue,
)


async def due_tasks(pool: Pool, limit: int, *, spare_leases: bool = False) -> list[DueTask]:
    """Tasks whose lease or timeout has passed, the oldest first; with *spare_leases* a timeout only."""
    return await pool.rows(DUE_TIMEOUTS if spare_leases else DUE_TASKS, limit)


async def due_timers(pool: Pool, limit: int) -> list[DueTimer]:
    """Timers that should fire, in fire order."""
    return await pool.rows(DUE_TIMERS, limit)


async def pulse(pool: Pool) -> Pulse:
    """What there is to do; the one statement that an idle system runs."""
    return (await pool.rows(PULSE))[0]


async def ready_queues(pool: Pool) -> list[ReadyQueue]:
    """Every queue with ready tasks."""
    return await pool.rows(READY_QUEUES, COUNTED_MAX)
