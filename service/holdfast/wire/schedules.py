"""Schedules as they travel and as they are stored: when they fire, and what is asked of them. Data only.

| verb | request | response |
|---|---|---|
| create_schedule | CreateSchedule | ScheduleDone |
| update_schedule | UpdateSchedule | ScheduleDone |
| pause_schedule | PauseSchedule | ScheduleDone |
| trigger_schedule | TriggerSchedule | ScheduleDone |
| backfill_schedule | BackfillSchedule | ScheduleDone |
| delete_schedule | DeleteSchedule | ScheduleDone |
| describe_schedule | DescribeSchedule | ScheduleDescription |
| list_schedules | ListSchedules | SchedulePage |

`request_id` as in `wire.messages`: the same id again changes nothing more.
"""

from __future__ import annotations

import msgspec

from holdfast.wire.messages import Message

# -- when a schedule fires ---------------------------------------------------------------


class Range(msgspec.Struct, frozen=True):
    """Every *step*-th value from *start* to *end*, both included; without *end* just *start*."""

    start: int
    end: int | None = None
    step: int = 1


class CalendarSpec(msgspec.Struct, frozen=True, kw_only=True, tag="calendar", tag_field="kind"):
    """Instants whose local time is in a range of each field. The default is midnight, every day.

    Weekdays count from Sunday, 0 or 7. No range at all for `year` means every year; elsewhere it matches nothing and
    is refused. `comment` is for people.
    """

    second: tuple[Range, ...] = (Range(0),)
    minute: tuple[Range, ...] = (Range(0),)
    hour: tuple[Range, ...] = (Range(0),)
    day_of_month: tuple[Range, ...] = (Range(1, 31),)
    month: tuple[Range, ...] = (Range(1, 12),)
    year: tuple[Range, ...] = ()
    day_of_week: tuple[Range, ...] = (Range(0, 6),)
    comment: str = ""


class CronSpec(msgspec.Struct, frozen=True, kw_only=True, tag="cron", tag_field="kind"):
    """Slots by a cron expression."""

    expr: str


class IntervalSpec(msgspec.Struct, frozen=True, kw_only=True, tag="interval", tag_field="kind"):
    """Slots at the multiples of `every_s` since 1970, plus `offset_s`; zones play no part."""

    every_s: float
    offset_s: float = 0.0


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that says when a schedule has slots.

    A slot whose local time matches one of `exclusions` is none. `start_at` and `end_at` are included. Each slot is
    acted on up to `jitter_s` later, but before the next one.
    """

    specs: tuple[CronSpec | IntervalSpec | CalendarSpec, ...]
    exclusions: tuple[CalendarSpec, ...] = ()
    timezone: str = "UTC"
    start_at: float | None = None
    end_at: float | None = None
    jitter_s: float = 0.0


# -- what is asked -----------------------------------------------------------------------


class Schedule(Message, frozen=True, kw_only=True):
    """What a schedule starts, when, and what it does if runs overlap, fail or are missed.

    `input` is a JSON array of arguments. `remaining_actions` is how many runs it may start, None for any number.
    `note` says why it is paused, or whatever people want to say.
    """

    workflow_type: str
    task_queue: str
    spec: ScheduleSpec
    input: bytes = b"[]"
    overlap_policy: str = "skip"
    catchup_window_s: float = 60.0
    is_paused: bool = False
    note: str | None = None
    remaining_actions: int | None = None
    is_pausing_on_failure: bool = False


class CreateSchedule(Message, frozen=True, kw_only=True):
    """Keep a new schedule; its slots count from now on."""

    request_id: str
    schedule_id: str
    schedule: Schedule


class UpdateSchedule(Message, frozen=True, kw_only=True):
    """Make of a schedule what is given here, all of it."""

    request_id: str
    schedule_id: str
    schedule: Schedule


class PauseSchedule(Message, frozen=True, kw_only=True):
    """Pause a schedule, or let it go on from now on."""

    request_id: str
    schedule_id: str
    is_paused: bool = True
    note: str | None = None


class TriggerSchedule(Message, frozen=True, kw_only=True):
    """Start a run now, paused or not. `overlap_policy` None is the schedule's own."""

    request_id: str
    schedule_id: str
    overlap_policy: str | None = None


class BackfillSchedule(Message, frozen=True, kw_only=True):
    """Start the slots from `from_at` to `to_at`, both included, that have no run. `overlap_policy` as in a trigger."""

    request_id: str
    schedule_id: str
    from_at: float
    to_at: float
    overlap_policy: str | None = None


class DeleteSchedule(Message, frozen=True, kw_only=True):
    """Forget a schedule and what became of its slots. Its runs stay."""

    request_id: str
    schedule_id: str


class ScheduleDone(Message, frozen=True, kw_only=True):
    """The change is durable."""


class DescribeSchedule(Message, frozen=True, kw_only=True):
    """A schedule, with the last and the next slots; `fires` 0-100 of each."""

    schedule_id: str
    fires: int = 20


class SlotSummary(Message, frozen=True, kw_only=True):
    """What became of a slot: `status` "started", "queued" or "skipped", with the reason; `run_id` if it has its run."""

    slot: float
    status: str
    reason: str = ""
    workflow_id: str | None = None
    run_id: str | None = None


class ScheduleDescription(Message, frozen=True, kw_only=True):
    """A schedule as it stands. `last` has the newest slot first, `next_at` the earliest instant first."""

    schedule_id: str
    schedule: Schedule
    created_at: float
    last_run_at: float | None = None
    last_workflow_id: str | None = None
    last: tuple[SlotSummary, ...] = ()
    next_at: tuple[float, ...] = ()


class ListSchedules(Message, frozen=True, kw_only=True):
    """Schedules of the namespace by id, `limit` 1-1000 of them, behind `cursor` (the previous page's `next_cursor`)."""

    limit: int = 100
    cursor: str | None = None


class ScheduleSummary(Message, frozen=True, kw_only=True):
    """A schedule as lists show it. `next_at` is when it is looked at next, None for never."""

    schedule_id: str
    workflow_type: str
    spec: ScheduleSpec
    is_paused: bool
    note: str | None = None
    last_run_at: float | None = None
    next_at: float | None = None


class SchedulePage(Message, frozen=True, kw_only=True):
    """A page of schedules; `next_cursor` None means the end."""

    schedules: tuple[ScheduleSummary, ...] = ()
    next_cursor: str | None = None
