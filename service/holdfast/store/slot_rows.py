"""Rows of schedules' slots: what becomes of each.

A slot that is to start a run is first written as `queued`, in the transaction that moves its schedule on; the run is
started afterwards, under an id and a request id that follow from the slot, so that it exists at most once however
often that is tried; then the row says `started`. A slot that starts nothing is `skipped`, with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.store.contract.opening import Writing
from holdfast.store.schedule_rows import ScheduleRow
from holdfast.store.session import Pool, Query, Statement

STARTED, SKIPPED, QUEUED = "started", "skipped", "queued"


class Fire(msgspec.Struct, kw_only=True):
    """What became of a slot. `overlap_policy` is the slot's own, None for its schedule's."""

    namespace: str
    schedule: str
    slot: float
    status: str
    reason: str = ""
    workflow_id: str | None = None
    run_id: str | None = None
    overlap_policy: str | None = None
    decided_at: float = 0.0


class Slot(msgspec.Struct, kw_only=True):
    """A slot of a schedule."""

    namespace: str
    schedule: str
    slot: float


class RunFound(msgspec.Struct, kw_only=True):
    """The id of a run."""

    run_id: str


class QueuedSlot(ScheduleRow, kw_only=True):
    """A slot that is to start a run, with its schedule and the run before it (see `DueSchedule`).

    `policy` is the overlap policy that applies to the slot. `is_manual` for a trigger's or a backfill's: it is started
    although the schedule is paused, and not counted.
    """

    slot: float
    policy: str
    is_manual: bool
    now: float
    last_run_id: str | None
    last_status: str | None
    last_closed_at: float | None


class Started(msgspec.Struct, kw_only=True):
    """A slot whose run exists now."""

    namespace: str
    schedule: str
    slot: float


INSERT_FIRES = Query(
    """
    INSERT INTO schedule_fire (namespace, schedule, slot, status, reason, workflow_id, overlap_policy)
    SELECT n.namespace, n.schedule, n.slot, n.status, n.reason, n.workflow_id, n.overlap_policy
    FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[], $5::text[], $6::text[], $7::text[])
        AS n (namespace, schedule, slot, status, reason, workflow_id, overlap_policy)
    ON CONFLICT (namespace, schedule, slot) DO NOTHING
    RETURNING namespace, schedule, slot
    """,
    Slot,
)


# As above, but a slot that was skipped once gets its chance.
REVIVE_FIRES = Query(
    """
    INSERT INTO schedule_fire AS f (namespace, schedule, slot, status, reason, workflow_id, overlap_policy)
    SELECT n.namespace, n.schedule, n.slot, n.status, n.reason, n.workflow_id, n.overlap_policy
    FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[], $5::text[], $6::text[], $7::text[])
        AS n (namespace, schedule, slot, status, reason, workflow_id, overlap_policy)
    ON CONFLICT (namespace, schedule, slot) DO UPDATE
    SET
        status = excluded.status,
        reason = excluded.reason,
        overlap_policy = excluded.overlap_policy,
        decided_at = clock_timestamp()
    WHERE f.status = 'skipped'
    RETURNING f.namespace, f.schedule, f.slot
    """,
    Slot,
)


# The oldest queued slots of some schedules: each step of `waiting` jumps to the next one that has any.
READ_QUEUED = Query(
    """
    WITH RECURSIVE waiting AS (
        (
            SELECT f.namespace, f.schedule
            FROM schedule_fire AS f
            WHERE f.status = 'queued' AND (f.namespace, f.schedule) >= ($1::text, $2::text)
                AND EXISTS (SELECT 1 FROM namespace AS n WHERE n.name = f.namespace)
            ORDER BY f.namespace, f.schedule, f.slot
            LIMIT 1
        )
        UNION ALL
        SELECT n.namespace, n.schedule
        FROM waiting AS w
        CROSS JOIN LATERAL (
            SELECT f.namespace, f.schedule
            FROM schedule_fire AS f
            WHERE f.status = 'queued' AND (f.namespace, f.schedule) > (w.namespace, w.schedule)
                AND EXISTS (SELECT 1 FROM namespace AS n WHERE n.name = f.namespace)
            ORDER BY f.namespace, f.schedule, f.slot
            LIMIT 1
        ) AS n
    ), page AS MATERIALIZED (
        SELECT w.namespace, w.schedule
        FROM waiting AS w
        LIMIT $3  -- in the order of the index, and no further
    )
    SELECT
        s.namespace, s.name, s.created_at, s.catchup_window_secs, s.jitter_secs, s.last_run_at, s.next_run_at,
        s.considered_at, s.remaining_actions, s.paused, s.is_pausing_on_failure, s.workflow_type, s.cron_expr,
        s.timezone, s.task_queue, s.overlap_policy, s.input, s.note, s.last_workflow_id, s.spec,
        q.slot,
        coalesce(q.overlap_policy, s.overlap_policy) AS policy,
        q.overlap_policy IS NOT NULL AS is_manual,
        extract(epoch FROM clock_timestamp())::float8 AS now,
        last.run_id::text AS last_run_id,
        last.status AS last_status,
        extract(epoch FROM last.closed_at)::float8 AS last_closed_at
    FROM page AS w
    JOIN schedule AS s ON s.namespace = w.namespace AND s.name = w.schedule
    CROSS JOIN LATERAL (
        SELECT f.slot, f.overlap_policy
        FROM schedule_fire AS f
        WHERE f.status = 'queued' AND f.namespace = w.namespace AND f.schedule = w.schedule
        ORDER BY f.slot
        LIMIT $4
    ) AS q
    LEFT JOIN LATERAL (
        SELECT r.run_id, r.status, r.closed_at
        FROM run AS r
        WHERE r.namespace = s.namespace AND r.workflow_id = s.last_workflow_id
        ORDER BY r.run_id DESC
        LIMIT 1
    ) AS last ON true
    ORDER BY w.namespace, w.schedule, q.slot
    """,
    QueuedSlot,
)


# Schedules are locked first and in order, as everywhere. A slot that another process settled is left out.
SETTLE_STARTED = Query(
    """
    WITH given AS (
        SELECT n.namespace, n.schedule, n.slot, n.run_id, n.workflow_id, n.at
        FROM unnest($1::text[], $2::text[], $3::float8[], $4::uuid[], $5::text[], $6::float8[])
            AS n (namespace, schedule, slot, run_id, workflow_id, at)
    ), locked AS MATERIALIZED (
        SELECT s.namespace, s.name
        FROM schedule AS s
        JOIN (SELECT DISTINCT g.namespace, g.schedule FROM given AS g) AS d
            ON d.namespace = s.namespace AND d.schedule = s.name
        ORDER BY s.namespace, s.name
        FOR UPDATE OF s
    ), fired AS (
        UPDATE schedule_fire AS f
        SET status = 'started', run_id = g.run_id, workflow_id = g.workflow_id
        FROM given AS g
        JOIN locked AS l ON l.namespace = g.namespace AND l.name = g.schedule
        WHERE f.namespace = g.namespace AND f.schedule = g.schedule AND f.slot = g.slot AND f.status = 'queued'
        RETURNING f.namespace, f.schedule, f.slot, f.overlap_policy, g.workflow_id, g.at
    ), newest AS (
        SELECT DISTINCT ON (f.namespace, f.schedule)
            f.namespace, f.schedule, f.workflow_id, f.at,
            count(*) FILTER (WHERE f.overlap_policy IS NULL)
                OVER (PARTITION BY f.namespace, f.schedule)::int AS counted
        FROM fired AS f
        ORDER BY f.namespace, f.schedule, f.slot DESC
    ), noted AS (
        UPDATE schedule AS s
        SET
            last_run_at = n.at,
            last_workflow_id = n.workflow_id,
            remaining_actions = CASE WHEN s.remaining_actions > n.counted THEN s.remaining_actions - n.counted
                WHEN s.remaining_actions IS NOT NULL THEN 0 END
        FROM newest AS n
        WHERE s.namespace = n.namespace AND s.name = n.schedule
    )
    SELECT f.namespace, f.schedule, f.slot
    FROM fired AS f
    """,
    Started,
)


SETTLE_SKIPPED = Query(
    """
    UPDATE schedule_fire AS f
    SET status = 'skipped', reason = n.reason
    FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[]) AS n (namespace, schedule, slot, reason)
    WHERE f.namespace = n.namespace AND f.schedule = n.schedule AND f.slot = n.slot AND f.status = 'queued'
    RETURNING f.namespace, f.schedule, f.slot
    """,
    Slot,
)


LAST_FIRES = Query(
    """
    SELECT
        f.namespace, f.schedule, f.slot, f.status, f.reason, f.workflow_id, f.run_id::text AS run_id, f.overlap_policy,
        extract(epoch FROM f.decided_at)::float8 AS decided_at
    FROM schedule_fire AS f
    WHERE f.namespace = $1 AND f.schedule = $2 AND f.slot <= $3
    ORDER BY f.slot DESC
    LIMIT $4
    """,
    Fire,
)


FIND_STARTED = Query(
    """
    SELECT r.run_id::text AS run_id
    FROM run AS r
    WHERE r.namespace = $1 AND r.workflow_id = $2 AND r.request_id = $3
    ORDER BY r.run_id DESC
    LIMIT 1
    """,
    RunFound,
)


FORGET_FIRES = Statement(
    """
    DELETE FROM schedule_fire AS d
    WHERE d.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM schedule AS s
        CROSS JOIN LATERAL (
            SELECT f.ctid
            FROM schedule_fire AS f
            WHERE f.namespace = s.namespace AND f.schedule = s.name AND f.slot < s.considered_at - $1
                AND f.status <> 'queued'
            ORDER BY f.slot
            LIMIT $2
        ) AS o
        LIMIT $2
    ))
    """
)


async def insert_fires(
    writing: Writing, fires: Sequence[Fire], *, may_revive: bool = False
) -> set[tuple[str, str, float]]:
    """Write what was decided about these slots: (namespace, schedule, slot) of those nothing was decided about before.

    With *may_revive* slots that were skipped count as new.
    """
    if not fires:
        return set()
    rows = await writing.rows(
        REVIVE_FIRES if may_revive else INSERT_FIRES,
        [fire.namespace for fire in fires],
        [fire.schedule for fire in fires],
        [fire.slot for fire in fires],
        [fire.status for fire in fires],
        [fire.reason for fire in fires],
        [fire.workflow_id for fire in fires],
        [fire.overlap_policy for fire in fires],
    )
    return {(row.namespace, row.schedule, row.slot) for row in rows}


async def read_queued(
    pool: Pool, slots_max: int, schedules_max: int, namespace: str = "", schedule: str = ""
) -> list[QueuedSlot]:
    """The oldest *slots_max* slots that wait to start, of each of *schedules_max* schedules that have some.

    By namespace, schedule and slot, from the given schedule on. Those of a namespace that is gone are left out.
    """
    return await pool.rows(READ_QUEUED, namespace, schedule, schedules_max, slots_max)


async def settle_started(writing: Writing, fires: Sequence[Fire], at: Sequence[float]) -> list[Started]:
    """Note that these queued slots have their runs, started *at*; which of them were queued still."""
    return await writing.rows(
        SETTLE_STARTED,
        [fire.namespace for fire in fires],
        [fire.schedule for fire in fires],
        [fire.slot for fire in fires],
        [fire.run_id for fire in fires],
        [fire.workflow_id for fire in fires],
        list(at),
    )


async def settle_skipped(writing: Writing, fires: Sequence[Fire]) -> list[Slot]:
    """Note that these queued slots start nothing after all; which of them were queued still."""
    return await writing.rows(
        SETTLE_SKIPPED,
        [fire.namespace for fire in fires],
        [fire.schedule for fire in fires],
        [fire.slot for fire in fires],
        [fire.reason for fire in fires],
    )


async def last_fires(pool: Pool, namespace: str, schedule: str, until: float, limit: int) -> list[Fire]:
    """What became of the last *limit* slots up to *until*, the newest first."""
    return await pool.rows(LAST_FIRES, namespace, schedule, until, limit)


async def find_started(pool: Pool, namespace: str, workflow_id: str, request_id: str) -> str | None:
    """The id of the run that this request started, or None."""
    rows = await pool.rows(FIND_STARTED, namespace, workflow_id, request_id)
    return rows[0].run_id if rows else None


async def forget_fires(pool: Pool, older_than_s: float, limit: int) -> int:
    """Forget up to *limit* slots that are so much older than what their schedules look at now; how many it were."""
    async with pool.session() as session:
        return await session.run(FORGET_FIRES, older_than_s, limit)
