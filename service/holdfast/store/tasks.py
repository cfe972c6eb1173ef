"""Claims and leases. These statements lock task rows only, and skip locked ones.

A claim is one statement whatever its size. Nothing here decides: what is found due goes
through the journal like every other change.

Plans are kept, also those that were made while no task was there; a plain join would then begin with all tasks for ever.
So whatever joins tasks says whose (`run_id = ANY`), or looks each up by itself (`OFFSET 0`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.store.session import Pool, Query


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
        WHERE t.run_id = ANY (ARRAY(SELECT ready.run_id FROM ready)) AND t.seq = 0
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
        WHERE t.run_id = ANY (ARRAY(SELECT ready.run_id FROM ready))
            AND t.run_id = ready.run_id
            AND t.seq = ready.seq
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
        WHERE t.run_id = ANY($1::uuid[]) AND t.worker = $4 AND t.namespace = $6
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
        WHERE t.run_id = ANY($1::uuid[]) AND t.run_id = f.run_id AND t.seq = f.seq
        RETURNING t.run_id
    )
    SELECT
        a.run_id::text AS run_id,
        a.seq,
        coalesce(t.fence = a.fence AND t.worker = $4, false) AS is_ours,
        coalesce(c.is_cancel_requested, false) AS is_cancel_requested
    FROM asked AS a
    LEFT JOIN LATERAL (
        SELECT task.fence, task.worker
        FROM task
        WHERE task.run_id = a.run_id AND task.seq = a.seq AND task.namespace = $6
        OFFSET 0
    ) AS t ON true
    LEFT JOIN LATERAL (
        SELECT activity.is_cancel_requested
        FROM activity
        WHERE activity.run_id = a.run_id AND activity.seq = a.seq
        OFFSET 0
    ) AS c ON true
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
