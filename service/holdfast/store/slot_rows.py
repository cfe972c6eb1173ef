"""Rows of schedules' slots: what becomes of each.

A slot that is to start a run is first written as `queued`, in the transaction that moves its schedule on. The
transaction that starts the run locks the slot first and writes it as `started`: no slot starts two, and none is lost.
A slot that starts nothing is `skipped`, with its reason.

One order of locks: runs, then schedules by name, then their slots. Whoever writes a slot has its schedule locked.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.store.contract.opening import Writing
from holdfast.store.schedule_rows import ScheduleRow
from holdfast.store.session import Pool, Query, Session, Statement

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


class Taking(msgspec.Struct, frozen=True, kw_only=True):
    """A slot whose run is about to start.

    `after` is the `last_workflow_id` that this was decided on: with another one it is to be decided again. UNSET if it
    does not matter, because runs may overlap.
    """

    namespace: str
    schedule: str
    slot: float
    after: str | msgspec.UnsetType | None = msgspec.UNSET


class LockedSlot(Slot, kw_only=True):
    """A slot and how its schedule stands, both locked. `run_id` is None unless the slot has its run."""

    status: str
    run_id: str | None
    is_manual: bool
    paused: bool
    remaining_actions: int | None
    last_workflow_id: str | None
    now: float


class Fired(Slot, kw_only=True):
    """A locked slot, and the run of it that was started `at`."""

    workflow_id: str
    run_id: str
    at: float


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


# What is waited for is read as it is then: both rows are locked in the statement that reads them.
LOCK_SLOTS = Query(
    """
    WITH given AS (
        SELECT DISTINCT n.namespace, n.schedule, n.slot
        FROM unnest($1::text[], $2::text[], $3::float8[]) AS n (namespace, schedule, slot)
    ), owner AS MATERIALIZED (
        SELECT s.namespace, s.name, s.paused, s.remaining_actions, s.last_workflow_id
        FROM (SELECT DISTINCT g.namespace, g.schedule FROM given AS g ORDER BY g.namespace, g.schedule) AS d
        JOIN schedule AS s ON s.namespace = d.namespace AND s.name = d.schedule
        ORDER BY s.namespace, s.name
        FOR UPDATE OF s
    ), locked AS MATERIALIZED (
        SELECT
            f.namespace, f.schedule, f.slot, f.status, f.run_id, f.overlap_policy, o.paused, o.remaining_actions,
            o.last_workflow_id
        FROM given AS g
        JOIN owner AS o ON o.namespace = g.namespace AND o.name = g.schedule
        JOIN schedule_fire AS f ON f.namespace = g.namespace AND f.schedule = g.schedule AND f.slot = g.slot
        FOR UPDATE OF f
    )
    SELECT
        l.namespace, l.schedule, l.slot, l.status,
        l.run_id::text AS run_id,
        l.overlap_policy IS NOT NULL AS is_manual,
        l.paused, l.remaining_actions, l.last_workflow_id,
        extract(epoch FROM clock_timestamp())::float8 AS now
    FROM locked AS l
    """,
    LockedSlot,
)

# The slots are locked, their schedules too, and were seen to be queued. A schedule's last run is that of its newest slot here.
FIRE_SLOTS = Statement(
    """
    WITH fired AS (
        UPDATE schedule_fire AS f
        SET status = 'started', run_id = n.run_id, workflow_id = n.workflow_id
        FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[], $5::uuid[], $6::float8[])
            AS n (namespace, schedule, slot, workflow_id, run_id, at)
        WHERE f.namespace = n.namespace AND f.schedule = n.schedule AND f.slot = n.slot
        RETURNING f.namespace, f.schedule, f.slot, f.overlap_policy, n.workflow_id, n.at
    ), newest AS (
        SELECT DISTINCT ON (f.namespace, f.schedule)
            f.namespace, f.schedule, f.workflow_id, f.at,
            count(*) FILTER (WHERE f.overlap_policy IS NULL)
                OVER (PARTITION BY f.namespace, f.schedule)::int AS counted
        FROM fired AS f
        ORDER BY f.namespace, f.schedule, f.slot DESC
    )
    UPDATE schedule AS s
    SET
        last_run_at = n.at,
        last_workflow_id = n.workflow_id,
        -- NULL is no limit, and stays; `greatest` would make it 0.
        remaining_actions = CASE WHEN s.remaining_actions > n.counted THEN s.remaining_actions - n.counted
            WHEN s.remaining_actions IS NOT NULL THEN 0 END
    FROM newest AS n
    WHERE s.namespace = n.namespace AND s.name = n.schedule
    """
)

SKIP_SLOTS = Query(
    """
    WITH given AS (
        SELECT n.namespace, n.schedule, n.slot, n.reason
        FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[]) AS n (namespace, schedule, slot, reason)
    ), owner AS MATERIALIZED (
        SELECT s.namespace, s.name
        FROM (SELECT DISTINCT g.namespace, g.schedule FROM given AS g ORDER BY g.namespace, g.schedule) AS d
        JOIN schedule AS s ON s.namespace = d.namespace AND s.name = d.schedule
        ORDER BY s.namespace, s.name
        FOR UPDATE OF s
    )
    UPDATE schedule_fire AS f
    SET status = 'skipped', reason = g.reason
    FROM given AS g
    WHERE (SELECT count(*) FROM owner) > 0  -- first of all, they are locked
        AND f.namespace = g.namespace AND f.schedule = g.schedule AND f.slot = g.slot
        -- That is, it is queued. Said so, all queued slots would be read for each of these.
        AND f.status NOT IN ('started', 'skipped')
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
            FOR UPDATE OF f SKIP LOCKED  -- a backfill may be about to give them their chance
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


async def lock_slots(session: Session, taking: Sequence[Taking]) -> list[LockedSlot]:
    """These slots, locked with their schedules until the transaction ends. Those that are gone are left out."""
    return await session.rows(
        LOCK_SLOTS,
        [one.namespace for one in taking],
        [one.schedule for one in taking],
        [one.slot for one in taking],
    )


async def fire_slots(session: Session, fired: Sequence[Fired]) -> None:
    """Write that these locked slots have their runs, count them on their schedules, and tell it."""
    writing = Writing(session)
    await writing.run(
        FIRE_SLOTS,
        [fire.namespace for fire in fired],
        [fire.schedule for fire in fired],
        [fire.slot for fire in fired],
        [fire.workflow_id for fire in fired],
        [fire.run_id for fire in fired],
        [fire.at for fire in fired],
    )
    for fire in fired:
        writing.tell(
            fire.namespace,
            "ScheduleFired",
            "schedule",
            fire.schedule,
            slot=fire.slot,
            workflow_id=fire.workflow_id,
            run_id=fire.run_id,
        )
    await writing.flush()


async def skip_slots(writing: Writing, fires: Sequence[Fire]) -> list[Slot]:
    """Note that these queued slots start nothing after all; which of them were queued still."""
    return await writing.rows(
        SKIP_SLOTS,
        [fire.namespace for fire in fires],
        [fire.schedule for fire in fires],
        [fire.slot for fire in fires],
        [fire.reason for fire in fires],
    )


async def last_fires(pool: Pool, namespace: str, schedule: str, until: float, limit: int) -> list[Fire]:
    """What became of the last *limit* slots up to *until*, the newest first."""
    return await pool.rows(LAST_FIRES, namespace, schedule, until, limit)


async def forget_fires(pool: Pool, older_than_s: float, limit: int) -> int:
    """Forget up to *limit* slots that are so much older than what their schedules look at now; how many it were."""
    async with pool.session() as session:
        return await session.run(FORGET_FIRES, older_than_s, limit)
