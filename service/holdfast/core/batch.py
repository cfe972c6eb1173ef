"""A batch of commands as facts: the marker, one event per command, and what they bring about. Pure.

The whole batch is checked before any fact is made, so a refused batch leaves nothing.
"""

from __future__ import annotations

import msgspec

from holdfast.core import facts as f
from holdfast.core import search
from holdfast.core import state as s
from holdfast.exceptions import Refused
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire.codec import check_commands

COMMANDS_MAX = 2_000
OPEN_MAX = 2_000
EVENTS_MAX = 50_000
START_TO_CLOSE_S = 300.0


class Batch(msgspec.Struct, frozen=True):
    """The facts of a batch. `has_aftermath`: it also settled something that the code must be told."""

    facts: list[f.AnyFact]
    is_closing: bool
    has_aftermath: bool


def has_closing(commands: list[c.AnyCommand]) -> bool:
    """Whether this batch would close the run."""
    return bool(commands) and isinstance(commands[-1], c.Closing)


def batch_facts(
    state: s.RunState,
    marker: e.WorkflowTaskCompleted,
    commands: list[c.AnyCommand],
    now: float,
    settled: int = 0,
) -> Batch:
    """The facts of *commands* behind *marker*. Raises `Refused` or `Invalid` with the first thing that is wrong.

    *settled* is the activity whose completion goes before the batch in the same decision (0: none).
    """
    _check(state, commands, settled)
    events: list[e.AnyEvent] = []
    aftermath: list[e.AnyEvent] = []
    # Timers and activities that this very batch opened or settled.
    timers: set[int] = set()
    gone: set[int] = {settled}
    for command in commands:
        match command:
            case c.ScheduleActivity():
                events.append(_scheduled(state.run, command))
            case c.StartTimer():
                timers.add(command.seq)
                events.append(e.TimerStarted(seq=command.seq, fire_at=now + command.delay_s))
            case c.CancelTimer():
                timer = state.timers.get(command.seq)
                is_open = command.seq in timers or (timer is not None and timer.state == s.TIMER_OPEN)
                if is_open and command.seq not in gone:
                    gone.add(command.seq)
                    events.append(e.TimerCancelled(seq=command.seq))
            case c.RequestCancelActivity():
                activity = state.activities.get(command.seq)
                if command.seq in gone or (activity is not None and activity.closed_at is not None):
                    continue
                events.append(e.ActivityCancelRequested(seq=command.seq))
                task = state.tasks.get(command.seq)
                if task is None or task.worker is None:
                    # Nobody works on it: it is cancelled at once.
                    gone.add(command.seq)
                    aftermath.append(e.ActivityCancelled(seq=command.seq))
            case _:
                events.append(_plain(command))
    is_closing = has_closing(commands)
    if is_closing:
        # The close settles everything that is still open, without telling code that has ended.
        aftermath = []
    counted = msgspec.structs.replace(marker, events=len(events))
    facts: list[f.AnyFact] = [f.Recorded(event) for event in (counted, *events, *aftermath)]
    return Batch(facts, is_closing, bool(aftermath))


def _plain(command: c.AnyCommand) -> e.AnyEvent:
    """The event of a command that needs nothing but itself."""
    match command:
        case c.RecordMarker():
            return e.MarkerRecorded(
                kind=command.kind, name=command.name, seq=command.seq, value=command.value
            )
        case c.UpsertSearchAttributes():
            return e.SearchAttributesUpserted(
                search_attributes=command.search_attributes, search_types=command.search_types
            )
        case c.UpsertMemo():
            return e.MemoUpserted(memo=command.memo)
        case c.CompleteWorkflow():
            return e.WorkflowCompleted(result=command.result)
        case c.FailWorkflow():
            return e.WorkflowFailed(failure=command.failure)
        case c.CancelWorkflow():
            return e.WorkflowCancelled(details=command.details)
    raise Refused(f"{type(command).__name__} is no command that this version can carry out")


def _scheduled(run: s.Run, command: c.ScheduleActivity) -> e.ActivityScheduled:
    start_to_close_s = command.start_to_close_s
    if start_to_close_s is None and command.schedule_to_close_s is None:
        start_to_close_s = START_TO_CLOSE_S
    return e.ActivityScheduled(
        seq=command.seq,
        activity_id=command.activity_id or str(command.seq),
        name=command.name,
        task_queue=command.task_queue or run.task_queue,
        input=command.input,
        schedule_to_close_s=command.schedule_to_close_s,
        schedule_to_start_s=command.schedule_to_start_s,
        start_to_close_s=start_to_close_s,
        heartbeat_s=command.heartbeat_s,
        retry=command.retry,
    )


def _check(state: s.RunState, commands: list[c.AnyCommand], settled: int) -> None:
    run = state.run
    check_commands(commands)
    if len(commands) > COMMANDS_MAX:
        raise Refused(f"{len(commands):,} commands in one batch: expected at most {COMMANDS_MAX:,}")
    last_seq = run.last_seq + (1 if settled else 0)
    if last_seq + len(commands) + 1 > EVENTS_MAX and not has_closing(commands):
        raise Refused(
            f"run {run.run_id} has {last_seq:,} events and the limit is {EVENTS_MAX:,}: "
            "close it, or continue as new"
        )
    activities: set[int] = set()
    timers: set[int] = set()
    dropped: set[int] = set()
    for index, command in enumerate(commands):
        match command:
            case c.ScheduleActivity():
                _check_new(state, command.seq, (activities, timers), index)
                _check_times(command, index)
                activities.add(command.seq)
            case c.StartTimer():
                _check_new(state, command.seq, (activities, timers), index)
                if not 0 < command.delay_s < 3.2e9:
                    raise Refused(
                        f"command {index}: timer {command.seq} has delay {command.delay_s}: expected 0 < seconds < 3.2e9"
                    )
                timers.add(command.seq)
            case c.CancelTimer():
                timer = state.timers.get(command.seq)
                if command.seq not in timers and timer is None:
                    raise Refused(f"command {index}: run {run.run_id} has no timer {command.seq} to cancel")
                if timer is None or timer.state == s.TIMER_OPEN:
                    dropped.add(command.seq)
            case c.RequestCancelActivity():
                if command.seq not in activities and command.seq not in state.activities:
                    raise Refused(
                        f"command {index}: run {run.run_id} has no activity {command.seq} to cancel"
                    )
            case c.UpsertSearchAttributes() | c.UpsertMemo():
                search.check_command(command)
            case c.CancelWorkflow() if not run.is_cancel_requested:
                raise Refused(f"command {index}: CancelWorkflow, but nobody asked run {run.run_id} to cancel")
        if isinstance(command, c.Closing) and index != len(commands) - 1:
            raise Refused(
                f"command {index} closes the run, but {len(commands) - 1 - index} commands follow it"
            )
    _check_open(
        run,
        run.open_activities + len(activities) - (1 if settled else 0),
        run.open_timers + len(timers) - len(dropped),
    )


def _check_open(run: s.Run, activities: int, timers: int) -> None:
    if activities > OPEN_MAX or timers > OPEN_MAX:
        raise Refused(
            f"the batch would leave run {run.run_id} with {activities:,} open activities and {timers:,} open timers: "
            f"expected at most {OPEN_MAX:,} of each"
        )


def _check_new(state: s.RunState, seq: int, opened: tuple[set[int], set[int]], index: int) -> None:
    if seq < 1 or seq > 2**31 - 1:
        raise Refused(f"command {index}: seq is {seq}: expected 1 to {2**31 - 1}")
    if seq in opened[0] or seq in opened[1] or seq <= state.run.command_seq:
        raise Refused(
            f"command {index}: seq {seq} was used before in run {state.run.run_id} (newest: {state.run.command_seq})"
        )


def _check_times(command: c.ScheduleActivity, index: int) -> None:
    for name in ("schedule_to_close_s", "schedule_to_start_s", "start_to_close_s", "heartbeat_s"):
        value = getattr(command, name)
        if value is not None and not 0 < value < 3.2e9:
            raise Refused(
                f"command {index}: {name} of activity {command.seq} is {value}: expected 0 < seconds < 3.2e9"
            )
    policy = command.retry
    # Written so that NaN is refused too.
    is_sane = 0 <= policy.initial_s < 3.2e9 and 1 <= policy.coefficient < 1e9 and policy.max_attempts >= 0
    if not is_sane or not (policy.max_s is None or 0 <= policy.max_s < 3.2e9):
        raise Refused(
            f"command {index}: retry policy of activity {command.seq} has initial_s={policy.initial_s}, "
            f"coefficient={policy.coefficient}, max_s={policy.max_s}, max_attempts={policy.max_attempts}: "
            "expected 0 <= seconds < 3.2e9, 1 <= coefficient < 1e9 and attempts >= 0"
        )
