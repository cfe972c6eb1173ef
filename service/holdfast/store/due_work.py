"""What is due, and what waits: the statements that the clock asks. Nothing is locked or changed.

What is found due goes through the journal like every other change.
"""

from __future__ import annotations

import msgspec

from holdfast.store.session import Pool, Query

COUNTED_MAX = 1_000


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

    `has_waiting`: some task is not leased (it may be backing off). `has_journal`: the journal owes entries to the bus.
    `next_schedule_s`: a schedule that is not paused is due then.
    """

    next_deadline_s: float | None
    next_timer_s: float | None
    has_waiting: bool
    oldest_owed_s: float | None
    has_journal: bool
    next_schedule_s: float | None


DUE_TASKS = Query(
    """
    SELECT t.run_id::text AS run_id, t.seq, t.namespace, t.task_queue, t.worker
    FROM task AS t
    WHERE t.deadline <= now()
    ORDER BY t.deadline, t.run_id, t.seq  -- equal ones of a run end in the order they were made
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
    ORDER BY t.deadline, t.run_id, t.seq
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
        extract(epoch FROM now() - (SELECT o.created_at FROM outbox AS o ORDER BY o.id LIMIT 1))::float8 AS oldest_owed_s,
        coalesce((SELECT true FROM journal AS j ORDER BY j.id LIMIT 1), false) AS has_journal,
        (
            SELECT s.next_run_at FROM schedule AS s
            WHERE NOT s.paused AND s.next_run_at IS NOT NULL
            ORDER BY s.next_run_at LIMIT 1
        ) - extract(epoch FROM now())::float8 AS next_schedule_s
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
