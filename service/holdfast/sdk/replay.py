"""Histories cut into activations, and commands held against them. Pure.

A run's code is a function of its history. Each `WorkflowTaskCompleted` marks a moment at
which code had seen the history up to `seen_seq` and answered with the events behind the
marker. So a history is a list of *activations*: what the code learned, and what it asked
for then. To replay is to show a machine the former and hold its commands against the
latter. A machine that is already at some event is fed from there in the same way.

No clock, no I/O, no asyncio: this must give the same answer everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from holdfast.exceptions import HoldfastError
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire.commands import AnyCommand, Command
from holdfast.wire.events import AnyEvent, Event, HistoryEvent


class NondeterminismError(HoldfastError):
    """The code asks for something else than it did when its history was recorded.

    `expected` describes the recorded event and `actual` the command (None: there is none
    where one was due), `event_id` the event's place, `source_line` where the command came
    from, or where the code waits instead, `build_id` the worker that recorded it.
    """

    code = "nondeterminism"

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        actual: str | None = None,
        event_id: int = 0,
        source_line: str | None = None,
        build_id: str = "",
    ) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual
        self.event_id = event_id
        self.source_line = source_line
        self.build_id = build_id


class HistoryGap(HoldfastError):
    """Events are missing between what a run has seen and what it was given: read the history again."""

    code = "history_gap"


class Activation(msgspec.Struct):
    """One turn of the code.

    `events` are what it learns, in order, and `seen_seq` how far it then sees. With
    `marker` it already happened: `batch` holds the events of its commands, and `raced` the
    events that were recorded between what it saw and the marker. `now` is the turn's time.
    """

    events: list[HistoryEvent]
    seen_seq: int
    now: float
    marker: HistoryEvent | None = None
    batch: Sequence[HistoryEvent] = ()
    raced: Sequence[HistoryEvent] = ()


class Machine(Protocol):
    """What replays: workflow code, from one activation to the next."""

    def turn(self, activation: Activation) -> list[AnyCommand]:
        """Show the code what it learns, run it until idle, and return what it asks for."""

    def source_line(self, command: AnyCommand | None) -> str | None:
        """Where the code asked for *command* of the last turn, or where it waits now; None if not known."""


def activations(
    history: Sequence[HistoryEvent], *, seen_seq: int = 0, now: float = 0.0, live_now: float | None = None
) -> list[Activation]:
    """Cut *history*, which begins behind what is already seen, into turns.

    The last turn has no marker when the run is open: it is the one whose commands are to be
    reported. *now* is the time of the turn before. *live_now* is the time of that last turn;
    None takes the time of the newest event.
    """
    turns: list[Activation] = []
    waiting: list[HistoryEvent] = []
    position, end = 0, len(history)
    while position < end:
        entry = history[position]
        position += 1
        marker = entry.event
        if type(marker) is not e.WorkflowTaskCompleted:
            waiting.append(entry)
            continue
        batch = history[position : position + marker.events]
        position += marker.events
        learned, raced = _divide(waiting, marker.seen_seq)
        seen_seq = max(seen_seq, marker.seen_seq)
        now = marker_time(marker, learned, now)
        turns.append(Activation(learned, seen_seq, now, entry, batch, raced))
        waiting = list(raced)
    last = history[-1] if end else None
    if last is None or type(last.event) not in e.CLOSING:
        seen_seq = max(seen_seq, last.seq if last else 0)
        now = max(now, live_now) if live_now is not None else _newest_time(waiting, now)
        turns.append(Activation(waiting, seen_seq, now))
    return turns


def marker_time(marker: e.WorkflowTaskCompleted, learned: Sequence[HistoryEvent], before: float) -> float:
    """The time of a turn that happened: what the marker says, else that of the newest event it saw."""
    return max(before, marker.now) if marker.now else _newest_time(learned, before)


def replay(history: Sequence[HistoryEvent], machine: Machine) -> list[AnyCommand]:
    """Drive *machine* through *history*; the commands of its live turn, empty if the run is closed.

    Raises `NondeterminismError` at the first turn whose commands are not those recorded.
    """
    commands: list[AnyCommand] = []
    for turn in activations(history):
        commands = machine.turn(turn)
        if turn.marker is not None:
            check(turn, commands, machine)
            commands = []
    return commands


def check(turn: Activation, commands: Sequence[AnyCommand], machine: Machine) -> None:
    """Hold *commands* against the batch behind the marker of *turn*. Raises `NondeterminismError`."""
    batch = turn.batch
    position, end = 0, len(batch)
    for command in commands:
        while (
            position < end
            and _may_be_gone(batch[position].event)
            and not _matches(command, batch[position].event)
        ):
            position += 1
        if position < end and _matches(command, batch[position].event):
            position += 1
        elif not leaves_no_event(command, turn.raced):
            raise _mismatch(turn, batch[position] if position < end else None, command, machine)
    while position < end:
        if not _may_be_gone(batch[position].event):
            raise _mismatch(turn, batch[position], None, machine)
        position += 1


def leaves_no_event(command: AnyCommand, raced: Sequence[HistoryEvent]) -> bool:
    """Whether *command* cancels what had already settled when its batch was recorded."""
    if type(command) is c.CancelTimer:
        return any(type(r.event) is e.TimerFired and r.event.seq == command.seq for r in raced)
    if type(command) is c.RequestCancelActivity:
        return any(isinstance(r.event, ACTIVITY_CLOSING) and r.event.seq == command.seq for r in raced)
    return False


def placed(
    commands: Sequence[AnyCommand], first_seq: int, raced: Sequence[HistoryEvent]
) -> list[tuple[int, AnyCommand]]:
    """Number of the event that each of *commands* left, the batch's first being *first_seq*."""
    left = [command for command in commands if not (raced and leaves_no_event(command, raced))]
    return list(enumerate(left, first_seq))


ACTIVITY_CLOSING = (e.ActivityCompleted, e.ActivityFailed, e.ActivityTimedOut, e.ActivityCancelled)

PATCH = "patch"
DEPRECATED = b"true"
"""The value of the marker that `deprecate_patch` records; such a marker may vanish from the code."""


def _divide(waiting: list[HistoryEvent], seen_seq: int) -> tuple[list[HistoryEvent], Sequence[HistoryEvent]]:
    # Nearly always everything that waited was seen.
    if not waiting or waiting[-1].seq <= seen_seq:
        return waiting, ()
    return [w for w in waiting if w.seq <= seen_seq], [w for w in waiting if w.seq > seen_seq]


def _newest_time(learned: Sequence[HistoryEvent], before: float) -> float:
    return max(before, learned[-1].time) if learned else before


def _may_be_gone(event: Event) -> bool:
    return type(event) is e.MarkerRecorded and event.kind == PATCH and event.value == DEPRECATED


def _same_seq(command: Any, event: Any) -> bool:
    return bool(command.seq == event.seq)


def _same_activity(command: Any, event: Any) -> bool:
    return (
        command.seq == event.seq
        and command.name == event.name
        and (not command.activity_id or command.activity_id == event.activity_id)
    )


def _same_marker(command: Any, event: Any) -> bool:
    return bool(command.kind == event.kind and command.name == event.name and command.seq == event.seq)


def _same_kind(_command: Any, _event: Any) -> bool:
    return True


_LEAVES: dict[type[Command], tuple[type[Event], Callable[[Any, Any], bool]]] = {
    c.ScheduleActivity: (e.ActivityScheduled, _same_activity),
    c.RequestCancelActivity: (e.ActivityCancelRequested, _same_seq),
    c.StartTimer: (e.TimerStarted, _same_seq),
    c.CancelTimer: (e.TimerCancelled, _same_seq),
    c.RecordMarker: (e.MarkerRecorded, _same_marker),
    c.UpsertSearchAttributes: (e.SearchAttributesUpserted, _same_kind),
    c.UpsertMemo: (e.MemoUpserted, _same_kind),
    c.CompleteWorkflow: (e.WorkflowCompleted, _same_kind),
    c.FailWorkflow: (e.WorkflowFailed, _same_kind),
    c.CancelWorkflow: (e.WorkflowCancelled, _same_kind),
}
"""The event that a command leaves, and when it is the same thing. Arguments and delays are
not compared: changing them is a safe change, the recorded ones hold."""


def _matches(command: AnyCommand, event: AnyEvent) -> bool:
    kind, same = _LEAVES[type(command)]
    return type(event) is kind and same(command, event)


def describe(fact: Event | Command) -> str:
    """*fact* in a few words: its type, and what it is compared by."""
    shown = [
        f"{name}={value!r}"
        for name in ("kind", "seq", "name", "activity_id")
        if (value := getattr(fact, name, None)) not in (None, "")
    ]
    return f"{type(fact).__name__}({', '.join(shown)})"


def _mismatch(
    turn: Activation, recorded: HistoryEvent | None, command: AnyCommand | None, machine: Machine
) -> NondeterminismError:
    marker = turn.marker.event if turn.marker is not None else None
    build_id = marker.build_id if isinstance(marker, e.WorkflowTaskCompleted) else ""
    last = turn.batch[-1].seq if turn.batch else (turn.marker.seq if turn.marker is not None else 0)
    event_id = recorded.seq if recorded is not None else last + 1
    expected = describe(recorded.event) if recorded is not None else None
    actual = describe(command) if command is not None else None
    line = machine.source_line(command)
    where = f" ({'from' if command is not None else 'it waits at'} {line})" if line else ""
    by = f", recorded by build {build_id!r}" if build_id else ""
    message = (
        f"event {event_id}: expected {expected or 'no further command in this turn'}{by}, "
        f"but the code now asks for {actual or 'nothing more'}{where}. "
        "The code changed since this history was recorded, or it depends on something that is not in the history. "
        "Restore the old behaviour for this run: guard the change with workflow.patched(), or deploy the previous "
        "build; the run stays open and goes on by itself."
    )
    return NondeterminismError(
        message, expected=expected, actual=actual, event_id=event_id, source_line=line, build_id=build_id
    )
