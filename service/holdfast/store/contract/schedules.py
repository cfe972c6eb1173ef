"""Schedules: what starts workflows by the calendar. The scheduler (`engine.scheduler`) fires them.

A slot is owed from `considered_at` on, which registering, resuming and a new cron expression set to the database's
clock: none of them ever fires a slot of the past.
"""

from __future__ import annotations

import msgspec

from holdfast.core import schedules as core
from holdfast.exceptions import AlreadyExists, Invalid, NotFound
from holdfast.store.contract.door import (
    can_be_stored,
    check_json,
    check_moment,
    check_moment_if_any,
    check_seconds,
    check_unicode,
)
from holdfast.store.contract.namespaces import Name
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.schedule_rows import ScheduleRow, spec_of
from holdfast.store.session import Query, Statement
from holdfast.wire import codec
from holdfast.wire.records import OVERLAP_POLICIES, SchedulePatch, WorkflowSchedule

CATCHUP_MAX_S = 10 * 366 * 86_400.0
NAME_CHARS_MAX = 900
"""The ids of a schedule's workflows begin with its name, and must be short enough too."""


class LockedSchedule(ScheduleRow, kw_only=True):
    """A schedule, and the database's clock after the lock."""

    now: float


class Moment(msgspec.Struct, kw_only=True):
    """The database's clock."""

    now: float


# The namespace cannot go while a schedule is put into it.
KEEP_NAMESPACE = Query("SELECT n.name FROM namespace AS n WHERE n.name = $1 FOR KEY SHARE", Name)

CLOCK = Query("SELECT extract(epoch FROM clock_timestamp())::float8 AS now", Moment)

# Columns in the order of `ScheduleRow`'s fields.
INSERT_SCHEDULE = Query(
    """
    INSERT INTO schedule (
        namespace, name, created_at, catchup_window_secs, jitter_secs, last_run_at, next_run_at, considered_at,
        remaining_actions, paused, is_pausing_on_failure, workflow_type, cron_expr, timezone, task_queue,
        overlap_policy, input, note, last_workflow_id, spec
    )
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
    ON CONFLICT (namespace, name) DO NOTHING
    RETURNING name
    """,
    Name,
)

GET_SCHEDULE = Query(
    """
    SELECT
        s.namespace, s.name, s.created_at, s.catchup_window_secs, s.jitter_secs, s.last_run_at, s.next_run_at,
        s.considered_at, s.remaining_actions, s.paused, s.is_pausing_on_failure, s.workflow_type, s.cron_expr,
        s.timezone, s.task_queue, s.overlap_policy, s.input, s.note, s.last_workflow_id, s.spec
    FROM schedule AS s
    WHERE s.namespace = $1 AND s.name = $2
    """,
    ScheduleRow,
)

LIST_SCHEDULES = Query(
    """
    SELECT
        s.namespace, s.name, s.created_at, s.catchup_window_secs, s.jitter_secs, s.last_run_at, s.next_run_at,
        s.considered_at, s.remaining_actions, s.paused, s.is_pausing_on_failure, s.workflow_type, s.cron_expr,
        s.timezone, s.task_queue, s.overlap_policy, s.input, s.note, s.last_workflow_id, s.spec
    FROM schedule AS s
    WHERE s.namespace = $1
    ORDER BY s.name
    """,
    ScheduleRow,
)

# The clock is read outside the CTE: beside the locking SELECT it would be read before the wait.
LOCK_SCHEDULE = Query(
    """
    WITH locked AS MATERIALIZED (
        SELECT s.*
        FROM schedule AS s
        WHERE s.namespace = $1 AND s.name = $2
        FOR UPDATE
    )
    SELECT
        l.namespace, l.name, l.created_at, l.catchup_window_secs, l.jitter_secs, l.last_run_at, l.next_run_at,
        l.considered_at, l.remaining_actions, l.paused, l.is_pausing_on_failure, l.workflow_type, l.cron_expr,
        l.timezone, l.task_queue, l.overlap_policy, l.input, l.note, l.last_workflow_id, l.spec,
        extract(epoch FROM clock_timestamp())::float8 AS now
    FROM locked AS l
    """,
    LockedSchedule,
)

# Values in the order of `ScheduleRow`'s fields.
SAVE_SCHEDULE = Statement(
    """
    UPDATE schedule
    SET
        created_at = $3,
        catchup_window_secs = $4,
        jitter_secs = $5,
        last_run_at = $6,
        next_run_at = $7,
        considered_at = $8,
        remaining_actions = $9,
        paused = $10,
        is_pausing_on_failure = $11,
        workflow_type = $12,
        cron_expr = $13,
        timezone = $14,
        task_queue = $15,
        overlap_policy = $16,
        input = $17,
        note = $18,
        last_workflow_id = $19,
        spec = $20
    WHERE namespace = $1 AND name = $2
    """
)

DELETE_FIRES = Statement("DELETE FROM schedule_fire AS f WHERE f.namespace = $1 AND f.schedule = $2")

DELETE_SCHEDULE = Query(
    """
    DELETE FROM schedule AS s
    WHERE s.namespace = $1 AND s.name = $2
    RETURNING s.name
    """,
    Name,
)


async def create_schedule(
    store: Opened,
    schedule: WorkflowSchedule,
    *,
    spec: bytes | None = None,
    note: str | None = None,
    remaining_actions: int | None = None,
    is_pausing_on_failure: bool = False,
) -> None:
    """Keep a new schedule. It never fires at registration, whatever its `next_run_at` is.

    `next_run_at` None is computed from the database's clock. Raises `AlreadyExists`; `NotFound` for an unknown
    namespace; `Invalid` for a cron expression, zone, policy, name or number that is none. *spec* is what the cron
    expression cannot say (an encoded `core.schedules` spec), *remaining_actions* how many runs it may start.
    """
    _check(schedule)
    check_unicode("note", note)
    if remaining_actions is not None and remaining_actions < 0:
        raise Invalid(f"remaining_actions is {remaining_actions}: expected 0 or more, or None for no limit")
    calendar = spec_of(schedule, spec)
    async with store.writing() as writing:
        if await writing.one(KEEP_NAMESPACE, schedule.namespace) is None:
            raise NotFound(f"no namespace {schedule.namespace!r}: create it before its schedules")
        (clock,) = await writing.rows(CLOCK)
        core.check(calendar, clock.now)
        next_run_at = schedule.next_run_at
        if next_run_at is None:
            next_run_at = core.next_due_at(calendar, schedule.namespace, schedule.name, clock.now)
        row = ScheduleRow(
            **{
                **msgspec.structs.asdict(schedule),
                "next_run_at": next_run_at,
                "considered_at": clock.now,
                "remaining_actions": remaining_actions,
                "is_pausing_on_failure": is_pausing_on_failure,
                "note": note,
                "spec": spec,
            }
        )
        inserted = await writing.one(INSERT_SCHEDULE, *msgspec.structs.astuple(row))
        if inserted is None:
            raise AlreadyExists(
                f"schedule {schedule.name!r} exists already in namespace {schedule.namespace!r}"
            )
        writing.tell(
            schedule.namespace,
            "ScheduleCreated",
            "schedule",
            schedule.name,
            workflow_type=schedule.workflow_type,
            cron_expr=schedule.cron_expr,
            timezone=schedule.timezone,
            task_queue=schedule.task_queue,
            overlap_policy=schedule.overlap_policy,
            paused=schedule.paused,
            next_run_at=next_run_at,
        )


async def get_schedule(store: Opened, namespace: str, name: str) -> WorkflowSchedule | None:
    """The schedule of that name, or None."""
    if not (can_be_stored(namespace) and can_be_stored(name)):
        return None
    row = await store.one(GET_SCHEDULE, namespace, name)
    return None if row is None else row.record()


async def list_schedules(store: Opened, namespace: str) -> list[WorkflowSchedule]:
    """The namespace's schedules, by name."""
    if not can_be_stored(namespace):
        return []
    return [row.record() for row in await store.pool.rows(LIST_SCHEDULES, namespace)]


async def update_schedule_last_run(
    store: Opened, namespace: str, name: str, last_run_at: float, next_run_at: float | None, workflow_id: str
) -> None:
    """Note when the schedule started which workflow, and when it is to be looked at next. Unknown: nothing happens."""
    check_moment("last_run_at", last_run_at)
    check_moment_if_any("next_run_at", next_run_at)
    codec.check_text("workflow id", workflow_id)
    async with store.writing() as writing:
        row = await lock_schedule(writing, namespace, name)
        if row is None:
            return
        changed: dict[str, object] = {
            "last_run_at": last_run_at,
            "next_run_at": next_run_at,
            "last_workflow_id": workflow_id,
        }
        await _save(writing, row, changed, "ScheduleLastRunUpdated", changed)


async def delete_schedule(store: Opened, namespace: str, name: str) -> bool:
    """Whether the schedule was there and is gone now, with what became of its slots. Its runs stay."""
    async with store.writing() as writing:
        if await lock_schedule(writing, namespace, name) is None:
            return False
        await writing.run(DELETE_FIRES, namespace, name)
        await writing.one(DELETE_SCHEDULE, namespace, name)
        writing.tell(namespace, "ScheduleDeleted", "schedule", name)
        return True


async def update_schedule(
    store: Opened,
    namespace: str,
    name: str,
    patch: SchedulePatch,
    *,
    spec: bytes | msgspec.UnsetType | None = msgspec.UNSET,
    note: str | msgspec.UnsetType | None = msgspec.UNSET,
    remaining_actions: int | msgspec.UnsetType | None = msgspec.UNSET,
    is_pausing_on_failure: bool | msgspec.UnsetType = msgspec.UNSET,
    paused: bool | msgspec.UnsetType = msgspec.UNSET,
) -> WorkflowSchedule | None:
    """The schedule after the patch, or None if there is none. What is UNSET stays; `input=None` clears the input.

    One that was *paused* and is not any more counts from now on. When *what says when it fires* changes (cron, zone, jitter, spec), `next_run_at` is computed anew from the
    database's clock; slots of the past are not made good. Raises `Invalid`, and then nothing changed.
    """
    given = {
        **msgspec.structs.asdict(patch),
        "spec": spec,
        "note": note,
        "remaining_actions": remaining_actions,
        "is_pausing_on_failure": is_pausing_on_failure,
        "paused": paused,
    }
    async with store.writing() as writing:
        row = await lock_schedule(writing, namespace, name)
        if row is None:
            return None
        if spec is msgspec.UNSET and patch.cron_expr is not msgspec.UNSET:
            # The expression is what the schedule is from now on.
            given["spec"] = None
        changed = {
            field: value
            for field, value in given.items()
            if value is not msgspec.UNSET and value != getattr(row, field)
        }
        told = {field: value for field, value in changed.items() if field not in ("input", "spec")}
        patched = msgspec.structs.replace(row, **changed)
        _check(patched.record())
        check_unicode("note", patched.note)
        is_respecified = bool(changed.keys() & {"cron_expr", "timezone", "jitter_secs", "spec"})
        if is_respecified:
            core.check(spec_of(patched, patched.spec), row.now)
        if is_respecified or changed.get("paused") is False:
            changed |= _from_now_on(patched, row.now)
            told["next_run_at"] = changed["next_run_at"]
        return await _save(writing, row, changed, "ScheduleUpdated", told)


async def set_schedule_paused(
    store: Opened, namespace: str, name: str, paused: bool, *, note: str | None = None
) -> WorkflowSchedule | None:
    """The schedule, paused or going on, or None if there is none. What it is already changes nothing.

    A schedule that goes on fires next when its calendar says so from now on (the database's clock): slots that passed
    meanwhile are not made good. *note* says why; going on without one forgets the old one.
    """
    check_unicode("note", note)
    async with store.writing() as writing:
        row = await lock_schedule(writing, namespace, name)
        if row is None:
            return None
        if row.paused == paused:
            return row.record()
        changed: dict[str, object] = {"paused": paused, "note": note}
        if not paused:
            changed |= _from_now_on(row, row.now)
        told = {field: value for field, value in changed.items() if field in ("note", "next_run_at")}
        return await _save(writing, row, changed, "SchedulePaused" if paused else "ScheduleResumed", told)


def _from_now_on(row: ScheduleRow, now: float) -> dict[str, object]:
    """What makes a schedule fire next when its calendar says so after *now*."""
    next_run_at = core.next_due_at(spec_of(row, row.spec), row.namespace, row.name, now)
    return {"next_run_at": next_run_at, "considered_at": now}


async def lock_schedule(writing: Writing, namespace: str, name: str) -> LockedSchedule | None:
    """The schedule, locked until the transaction ends. A name that cannot be is one that is not there."""
    if not (can_be_stored(namespace) and can_be_stored(name)):
        return None
    return await writing.one(LOCK_SCHEDULE, namespace, name)


async def _save(
    writing: Writing, row: LockedSchedule, changed: dict[str, object], fact: str, told: dict[str, object]
) -> WorkflowSchedule:
    """The schedule with what *changed*; written, and told as *fact*, if anything is new."""
    changed = {field: value for field, value in changed.items() if getattr(row, field) != value}
    if not changed:
        return row.record()
    row = msgspec.structs.replace(row, **changed)
    *columns, _ = msgspec.structs.astuple(row)
    await writing.run(SAVE_SCHEDULE, *columns)
    writing.tell(row.namespace, fact, "schedule", row.name, **told)
    return row.record()


def _check(schedule: WorkflowSchedule) -> None:
    """Raise `Invalid` for what could never be kept."""
    for field in ("namespace", "name", "workflow_type", "task_queue"):
        codec.check_text(field, getattr(schedule, field))
    if len(schedule.name) > NAME_CHARS_MAX:
        raise Invalid(f"name has {len(schedule.name)} characters: expected at most {NAME_CHARS_MAX}")
    check_seconds("catchup_window_secs", schedule.catchup_window_secs, CATCHUP_MAX_S)
    check_seconds("jitter_secs", schedule.jitter_secs, core.JITTER_MAX_S)
    for field in ("cron_expr", "timezone"):
        if not can_be_stored(getattr(schedule, field)):
            raise Invalid(f"{field} is {getattr(schedule, field)!r}: expected text")
    check_moment("created_at", schedule.created_at)
    for field in ("last_run_at", "next_run_at"):
        check_moment_if_any(field, getattr(schedule, field))
    if schedule.overlap_policy not in OVERLAP_POLICIES:
        raise Invalid(
            f"overlap_policy is {schedule.overlap_policy!r}: expected one of {', '.join(OVERLAP_POLICIES)}"
        )
    check_json("input", schedule.input)
    if schedule.last_workflow_id is not None:
        codec.check_text("last_workflow_id", schedule.last_workflow_id)
