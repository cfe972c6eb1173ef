"""What clients may ask of schedules: one function per verb, from a decoded request to its response.

Changes are the store contract's, each with its request id in the same transaction: asked again, nothing changes more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.core import schedules as core
from holdfast.engine import schedule_verbs
from holdfast.engine.engine import Engine
from holdfast.engine.schedule_runs import arguments_of
from holdfast.engine.verbs import request_hash
from holdfast.exceptions import Invalid
from holdfast.store import schedule_rows as rows
from holdfast.store.asked import Asked, Repeated
from holdfast.store.contract import schedules as contract
from holdfast.store.schedule_rows import ScheduleRow
from holdfast.store.slot_rows import Fire
from holdfast.wire import schedules as sch
from holdfast.wire.records import SchedulePatch, WorkflowSchedule

FIRES_MAX = 100
LIST_MAX = 1_000

Change = (
    sch.CreateSchedule
    | sch.UpdateSchedule
    | sch.PauseSchedule
    | sch.TriggerSchedule
    | sch.BackfillSchedule
    | sch.DeleteSchedule
)


async def change(engine: Engine, namespace: str, request: Change) -> sch.ScheduleDone:
    """Carry out what is asked of a schedule. Raises `NotFound`, `AlreadyExists`, `Invalid`, `Refused`."""
    asked = Asked(engine.pool, namespace, request.request_id, request_hash(request))
    with contextlib.suppress(Repeated):
        await _carry_out(engine, asked, namespace, request)
    engine.owe_journal()
    return sch.ScheduleDone()


async def _carry_out(engine: Engine, asked: Asked, namespace: str, request: Change) -> None:
    name = request.schedule_id
    is_there: object = True
    match request:
        case sch.CreateSchedule():
            await _create(engine, asked, namespace, name, request.schedule)
        case sch.UpdateSchedule():
            is_there = await _update(asked, namespace, name, request.schedule)
        case sch.PauseSchedule():
            is_there = await contract.set_schedule_paused(
                asked, namespace, name, request.is_paused, note=request.note
            )
        case sch.DeleteSchedule():
            is_there = await contract.delete_schedule(asked, namespace, name)
        case sch.TriggerSchedule():
            await schedule_verbs.trigger(
                engine, namespace, name, overlap_policy=request.overlap_policy, store=asked
            )
        case sch.BackfillSchedule():
            await schedule_verbs.backfill(
                engine,
                namespace,
                name,
                request.from_at,
                request.to_at,
                overlap_policy=request.overlap_policy,
                store=asked,
            )
    if not is_there:
        raise schedule_verbs.unknown(namespace, name)


async def describe(engine: Engine, namespace: str, request: sch.DescribeSchedule) -> sch.ScheduleDescription:
    """A schedule, what became of its last slots, and its next ones."""
    if not 0 <= request.fires <= FIRES_MAX:
        raise Invalid(f"fires is {request.fires}: expected 0 to {FIRES_MAX}")
    found = await engine.pool.rows(contract.GET_SCHEDULE, namespace, request.schedule_id)
    if not found:
        raise schedule_verbs.unknown(namespace, request.schedule_id)
    row = found[0]
    fires = await schedule_verbs.fires(engine, namespace, row.name, limit=request.fires)
    return sch.ScheduleDescription(
        schedule_id=row.name,
        schedule=_schedule(row),
        created_at=row.created_at,
        last_run_at=row.last_run_at,
        last_workflow_id=row.last_workflow_id,
        last=tuple(map(_slot, fires.last)),
        next_at=tuple(fires.next_at),
    )


async def list_(engine: Engine, namespace: str, request: sch.ListSchedules) -> sch.SchedulePage:
    """A page of the namespace's schedules."""
    if not 1 <= request.limit <= LIST_MAX:
        raise Invalid(f"limit is {request.limit}: expected 1 to {LIST_MAX}")
    found = await rows.page_schedules(engine.pool, namespace, request.cursor or "", request.limit)
    is_full = len(found) == request.limit
    return sch.SchedulePage(
        schedules=tuple(map(_summary, found)),
        next_cursor=found[-1].name if is_full else None,
    )


SCHEDULE_VERBS: dict[str, Callable[[Engine, str, Any], Awaitable[Any]]] = {
    "create_schedule": change,
    "update_schedule": change,
    "pause_schedule": change,
    "trigger_schedule": change,
    "backfill_schedule": change,
    "delete_schedule": change,
    "describe_schedule": describe,
    "list_schedules": list_,
}
"""The function of each verb."""


async def _create(engine: Engine, asked: Asked, namespace: str, name: str, schedule: sch.Schedule) -> None:
    cron_expr, spec = _kept_spec(schedule.spec)
    (clock,) = await engine.pool.rows(contract.CLOCK)
    record = WorkflowSchedule(
        name=name,
        namespace=namespace,
        workflow_type=schedule.workflow_type,
        cron_expr=cron_expr,
        timezone=schedule.spec.timezone,
        input=schedule.input.decode(),
        task_queue=schedule.task_queue,
        overlap_policy=schedule.overlap_policy,
        paused=schedule.is_paused,
        catchup_window_secs=schedule.catchup_window_s,
        jitter_secs=schedule.spec.jitter_s,
        created_at=clock.now,
    )
    await contract.create_schedule(
        asked,
        record,
        spec=spec,
        note=schedule.note,
        remaining_actions=schedule.remaining_actions,
        is_pausing_on_failure=schedule.is_pausing_on_failure,
    )


async def _update(asked: Asked, namespace: str, name: str, schedule: sch.Schedule) -> WorkflowSchedule | None:
    cron_expr, spec = _kept_spec(schedule.spec)
    patch = SchedulePatch(
        workflow_type=schedule.workflow_type,
        cron_expr=cron_expr,
        timezone=schedule.spec.timezone,
        input=schedule.input.decode(),
        task_queue=schedule.task_queue,
        overlap_policy=schedule.overlap_policy,
        catchup_window_secs=schedule.catchup_window_s,
        jitter_secs=schedule.spec.jitter_s,
    )
    return await contract.update_schedule(
        asked,
        namespace,
        name,
        patch,
        spec=spec,
        note=schedule.note,
        remaining_actions=schedule.remaining_actions,
        is_pausing_on_failure=schedule.is_pausing_on_failure,
        paused=schedule.is_paused,
    )


def _kept_spec(spec: sch.ScheduleSpec) -> tuple[str, bytes | None]:
    """The cron expression, if *spec* is nothing but one; otherwise none, and what is stored instead."""
    match spec.specs:
        case (sch.CronSpec(expr=expr),) if (
            not spec.exclusions and spec.start_at is None and spec.end_at is None
        ):
            return expr, None
    return "", core.encode_spec(spec)


def _schedule(row: ScheduleRow) -> sch.Schedule:
    return sch.Schedule(
        workflow_type=row.workflow_type,
        task_queue=row.task_queue,
        spec=rows.spec_of(row, row.spec),
        input=arguments_of(row.input),
        overlap_policy=row.overlap_policy,
        catchup_window_s=row.catchup_window_secs,
        is_paused=row.paused,
        note=row.note,
        remaining_actions=row.remaining_actions,
        is_pausing_on_failure=row.is_pausing_on_failure,
    )


def _summary(row: ScheduleRow) -> sch.ScheduleSummary:
    return sch.ScheduleSummary(
        schedule_id=row.name,
        workflow_type=row.workflow_type,
        spec=rows.spec_of(row, row.spec),
        is_paused=row.paused,
        note=row.note,
        last_run_at=row.last_run_at,
        next_at=None if row.paused else row.next_run_at,
    )


def _slot(fire: Fire) -> sch.SlotSummary:
    return sch.SlotSummary(
        slot=fire.slot,
        status=fire.status,
        reason=fire.reason,
        workflow_id=fire.workflow_id,
        run_id=fire.run_id,
    )
