"""Figures of a namespace and of its task queues: one statement each, which never reads what is closed."""

from __future__ import annotations

from holdfast.store.contract.opening import Opened
from holdfast.store.session import Query
from holdfast.wire import codec
from holdfast.wire.records import NamespaceStats, QueueStats

# Open runs are counted, closed ones were when they closed. A driven run that waits for its first claim is pending, as
# the engine's own views have it.
NAMESPACE_STATS = Query(
    """
    WITH opened AS (
        SELECT
            CASE
                WHEN r.status = 'PENDING' AND r.last_seq > 0 AND (
                    SELECT t.worker IS NOT NULL OR t.attempt > 1
                    FROM task AS t
                    WHERE t.run_id = r.run_id AND t.seq = 0
                ) THEN 'RUNNING'
                ELSE r.status
            END AS status,
            1::bigint AS runs
        FROM run AS r
        WHERE r.namespace = $1 AND r.closed_at IS NULL
    ), counted AS (
        SELECT o.status, o.runs
        FROM opened AS o
        UNION ALL
        SELECT c.status, c.closed
        FROM tally AS c
        WHERE c.namespace = $1
    )
    SELECT
        $1::text AS namespace,
        coalesce(sum(c.runs), 0)::bigint AS total_workflows,
        coalesce(sum(c.runs) FILTER (WHERE c.status = 'RUNNING'), 0)::bigint AS running,
        coalesce(sum(c.runs) FILTER (WHERE c.status = 'PENDING'), 0)::bigint AS pending,
        coalesce(sum(c.runs) FILTER (WHERE c.status = 'WAITING'), 0)::bigint AS waiting,
        coalesce(sum(c.runs) FILTER (WHERE c.status = 'COMPLETED'), 0)::bigint AS completed,
        coalesce(sum(c.runs) FILTER (WHERE c.status = 'FAILED'), 0)::bigint AS failed,
        coalesce(sum(c.runs) FILTER (WHERE c.status = 'CANCELLED'), 0)::bigint AS cancelled,
        coalesce(sum(c.runs) FILTER (WHERE c.status = 'TIMED_OUT'), 0)::bigint AS timed_out,
        coalesce(sum(c.runs) FILTER (WHERE c.status = 'TERMINATED'), 0)::bigint AS terminated,
        (SELECT count(*) FROM schedule AS s WHERE s.namespace = $1) AS schedules,
        (SELECT count(*) FROM worker AS w WHERE w.namespace = $1) AS workers
    FROM counted AS c
    """,
    NamespaceStats,
)

# Each step goes along an index that holds open work only; what a closed run left unclaimed nobody will claim. Leased
# tasks have a deadline, those that wait mostly none. Each run is looked up by itself: an EXISTS would become a join, which
# may begin with all the runs.
QUEUE_STATS = Query(
    """
    WITH counted AS (
        SELECT
            a.task_queue,
            count(*) AS pending_activities,
            0::bigint AS running_activities,
            0::bigint AS pending_workflow_tasks,
            0::bigint AS running_workflow_tasks,
            min(a.scheduled_at) AS ready_at,
            0::bigint AS workers
        FROM record_activity AS a
        WHERE a.namespace = $1
            AND a.status = 'PENDING'
            AND (SELECT r.closed_at IS NULL FROM run AS r WHERE r.run_id = a.run_id)
        GROUP BY a.task_queue
        UNION ALL
        SELECT a.task_queue, 0, count(*), 0, 0, NULL, 0
        FROM record_activity AS a
        WHERE a.namespace = $1 AND a.status = 'RUNNING'
        GROUP BY a.task_queue
        UNION ALL
        SELECT c.task_queue, 0, 0, count(*), 0, extract(epoch FROM min(c.ready_at))::float8, 0
        FROM record AS c
        WHERE c.namespace = $1
            AND c.ready_at IS NOT NULL
            AND c.dispatch_worker IS NULL
            AND (SELECT r.closed_at IS NULL FROM run AS r WHERE r.run_id = c.run_id)
        GROUP BY c.task_queue
        UNION ALL
        SELECT c.task_queue, 0, 0, 0, count(*), NULL, 0
        FROM record AS c
        WHERE c.namespace = $1
            AND c.dispatch_worker IS NOT NULL
            AND (SELECT r.closed_at IS NULL FROM run AS r WHERE r.run_id = c.run_id)
        GROUP BY c.task_queue
        UNION ALL
        SELECT t.task_queue, 0, 0, count(*), 0, extract(epoch FROM min(t.ready_at))::float8, 0
        FROM task AS t
        WHERE t.namespace = $1 AND t.worker IS NULL AND t.seq = 0
        GROUP BY t.task_queue
        UNION ALL
        SELECT t.task_queue, count(*), 0, 0, 0, extract(epoch FROM min(t.ready_at))::float8, 0
        FROM task AS t
        WHERE t.namespace = $1 AND t.worker IS NULL AND t.seq > 0
        GROUP BY t.task_queue
        UNION ALL
        SELECT
            t.task_queue, 0, count(*) FILTER (WHERE t.seq > 0), 0, count(*) FILTER (WHERE t.seq = 0), NULL, 0
        FROM task AS t
        WHERE t.namespace = $1 AND t.worker IS NOT NULL AND t.deadline IS NOT NULL
        GROUP BY t.task_queue
        UNION ALL
        SELECT w.task_queue, 0, 0, 0, 0, NULL, count(*)
        FROM worker AS w
        WHERE w.namespace = $1
        GROUP BY w.task_queue
    )
    SELECT
        c.task_queue AS queue,
        sum(c.pending_activities)::bigint AS pending_activities,
        sum(c.running_activities)::bigint AS running_activities,
        sum(c.pending_workflow_tasks)::bigint AS pending_workflow_tasks,
        sum(c.running_workflow_tasks)::bigint AS running_workflow_tasks,
        -- What is scheduled for later is not ready; the earliest of a queue tells for all.
        extract(epoch FROM now())::float8
            - min(c.ready_at) FILTER (WHERE c.ready_at <= extract(epoch FROM now())::float8) AS oldest_ready_age_secs,
        sum(c.workers)::bigint AS workers
    FROM counted AS c
    GROUP BY c.task_queue
    ORDER BY c.task_queue COLLATE "C"
    """,
    QueueStats,
)


async def get_namespace_stats(store: Opened, namespace: str) -> NamespaceStats:
    """How many runs a namespace has, by status, and how many schedules and workers, all at one moment.

    Runs that were continued as new count in `total_workflows` alone. An unknown namespace has none of anything.
    """
    codec.check_text("namespace", namespace)
    return (await store.pool.rows(NAMESPACE_STATS, namespace))[0]


async def get_queue_stats(store: Opened, namespace: str) -> list[QueueStats]:
    """What each task queue has to do, by name: those with open activities, open workflow tasks or workers."""
    codec.check_text("namespace", namespace)
    return await store.pool.rows(QUEUE_STATS, namespace)
