"""Rows of schedules, as the scheduler reads and moves them on. What is due is decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.core.schedules import decode_spec, spec_of_cron
from holdfast.store.contract.opening import Writing
from holdfast.store.session import Pool, Query, Statement
from holdfast.wire.records import WorkflowSchedule
from holdfast.wire.schedules import ScheduleSpec


class ScheduleRow(msgspec.Struct, kw_only=True):
    """A schedule as it is kept; `spec` is None unless it says more than the cron expression."""

    namespace: str
    name: str
    created_at: float
    catchup_window_secs: float
    jitter_secs: float
    last_run_at: float | None
    next_run_at: float | None
    considered_at: float | None
    remaining_actions: int | None
    paused: bool
    is_pausing_on_failure: bool
    workflow_type: str
    cron_expr: str
    timezone: str
    task_queue: str
    overlap_policy: str
    input: str | None
    note: str | None
    last_workflow_id: str | None
    spec: bytes | None

    def record(self) -> WorkflowSchedule:
        """What the contract shows of it."""
        return WorkflowSchedule(**{name: getattr(self, name) for name in _SHOWN})


_SHOWN = [field.name for field in msgspec.structs.fields(WorkflowSchedule)]


class DueSchedule(ScheduleRow, kw_only=True):
    """A schedule to look at, and the newest run of its `last_workflow_id`.

    `last_status` is None if there is no such run, `last_closed_at` while it is open.
    """

    now: float
    last_run_id: str | None
    last_status: str | None
    last_closed_at: float | None


class NextSchedule(msgspec.Struct, kw_only=True):
    """Seconds until some schedule wants to be looked at (None for never), whether slots wait to start, and whether there
    are any schedules.
    """

    next_schedule_s: float | None
    has_queued: bool
    has_schedules: bool


NEXT_SCHEDULE = Query(
    """
    SELECT
        (
            SELECT s.next_run_at
            FROM schedule AS s
            WHERE NOT s.paused AND s.next_run_at IS NOT NULL
            ORDER BY s.next_run_at
            LIMIT 1
        ) - extract(epoch FROM clock_timestamp())::float8 AS next_schedule_s,
        coalesce(
            (
                SELECT true FROM schedule_fire AS f WHERE f.status = 'queued'
                ORDER BY f.namespace, f.schedule, f.slot LIMIT 1
            ),
            false
        ) AS has_queued,
        coalesce((SELECT true FROM schedule AS s ORDER BY s.namespace, s.name LIMIT 1), false) AS has_schedules
    """,
    NextSchedule,
)

# A leader that was deposed meanwhile finds nothing. Schedules of a namespace that is gone do nothing.
LOCK_DUE = Query(
    """
    WITH due AS MATERIALIZED (
        SELECT s.*
        FROM schedule AS s
        WHERE NOT s.paused
            AND s.next_run_at IS NOT NULL
            AND s.next_run_at <= coalesce($1::float8, extract(epoch FROM clock_timestamp())::float8)
            AND EXISTS (SELECT 1 FROM namespace AS n WHERE n.name = s.namespace)
            AND EXISTS (SELECT 1 FROM leader AS l WHERE l.role = $3 AND l.holder = $4 AND l.epoch = $5)
        ORDER BY s.next_run_at
        LIMIT $2
        FOR UPDATE OF s SKIP LOCKED  -- another leader, or somebody who edits it, may be on it
    )
    SELECT
        d.namespace, d.name, d.created_at, d.catchup_window_secs, d.jitter_secs, d.last_run_at, d.next_run_at,
        d.considered_at, d.remaining_actions, d.paused, d.is_pausing_on_failure, d.workflow_type, d.cron_expr,
        d.timezone, d.task_queue, d.overlap_policy, d.input, d.note, d.last_workflow_id, d.spec,
        coalesce($1::float8, extract(epoch FROM clock_timestamp())::float8) AS now,
        last.run_id::text AS last_run_id,
        last.status AS last_status,
        extract(epoch FROM last.closed_at)::float8 AS last_closed_at
    FROM due AS d
    LEFT JOIN LATERAL (
        SELECT r.run_id, r.status, r.closed_at
        FROM run AS r
        WHERE r.namespace = d.namespace AND r.workflow_id = d.last_workflow_id
        ORDER BY r.run_id DESC
        LIMIT 1
    ) AS last ON true
    """,
    DueSchedule,
)


PAGE_SCHEDULES = Query(
    """
    SELECT
        s.namespace, s.name, s.created_at, s.catchup_window_secs, s.jitter_secs, s.last_run_at, s.next_run_at,
        s.considered_at, s.remaining_actions, s.paused, s.is_pausing_on_failure, s.workflow_type, s.cron_expr,
        s.timezone, s.task_queue, s.overlap_policy, s.input, s.note, s.last_workflow_id, s.spec
    FROM schedule AS s
    WHERE s.namespace = $1 AND s.name > $2
    ORDER BY s.name
    LIMIT $3
    """,
    ScheduleRow,
)

MOVE_ON = Statement(
    """
    UPDATE schedule
    SET
        considered_at = n.considered_at,
        next_run_at = n.next_run_at,
        paused = n.paused,
        note = n.note
    FROM unnest($1::text[], $2::text[], $3::float8[], $4::float8[], $5::boolean[], $6::text[])
        AS n (namespace, name, considered_at, next_run_at, paused, note)
    WHERE schedule.namespace = n.namespace AND schedule.name = n.name
    """
)


def spec_of(schedule: WorkflowSchedule | ScheduleRow, spec: bytes | None) -> ScheduleSpec:
    """What says when *schedule* fires: its cron expression or, if it has one, its encoded *spec*.

    Zone and jitter are the schedule's in either case. Raises `Invalid` for a spec that is none.
    """
    if spec is None:
        return spec_of_cron(schedule.cron_expr, schedule.timezone, schedule.jitter_secs)
    return msgspec.structs.replace(
        decode_spec(spec), timezone=schedule.timezone, jitter_s=schedule.jitter_secs
    )


async def next_schedule(pool: Pool) -> NextSchedule:
    """When the scheduler is to look next."""
    return (await pool.rows(NEXT_SCHEDULE))[0]


async def page_schedules(pool: Pool, namespace: str, after: str, limit: int) -> list[ScheduleRow]:
    """The first *limit* schedules of the namespace whose names come after *after*."""
    return await pool.rows(PAGE_SCHEDULES, namespace, after, limit)


async def lock_due(
    writing: Writing, now: float | None, limit: int, role: str, holder: str, epoch: int
) -> list[DueSchedule]:
    """Up to *limit* schedules that are due at *now* (None: the database's clock), locked.

    None if *holder* does not hold *role* in *epoch* any more.
    """
    return await writing.rows(LOCK_DUE, now, limit, role, holder, epoch)


async def move_on(writing: Writing, schedules: Sequence[ScheduleRow]) -> None:
    """Write where these locked schedules stand now."""
    await writing.run(
        MOVE_ON,
        [row.namespace for row in schedules],
        [row.name for row in schedules],
        [row.considered_at for row in schedules],
        [row.next_run_at for row in schedules],
        [row.paused for row in schedules],
        [row.note for row in schedules],
    )
