"""A history made without a service: what a run asks for happens, in an order a test chooses.

It keeps the promises of the wire contract: one event per command behind the marker,
none for the cancellation of what had settled; nothing else about a service is here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.converter import DataConverter
from holdfast.sdk.definitions import WorkflowDefinition, must_define
from holdfast.sdk.runtime import Identity, WorkflowRun
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire.commands import AnyCommand
from holdfast.wire.events import AnyEvent, HistoryEvent
from holdfast.wire.failures import Failure

CONVERTER = DataConverter.default
NOON = 1_750_000_000.0


def identity(**changes: Any) -> Identity:
    return Identity(
        **({"run_id": "run-1", "workflow_id": "w-1", "workflow_type": "w", "task_queue": "q"} | changes)
    )


@dataclass
class Turn:
    """What one turn of the live run was shown and answered."""

    head_seq: int
    now: float
    commands: list[AnyCommand]


@dataclass
class Recorder:
    """A run that is kept alive, and its growing history."""

    workflow: Any
    args: Sequence[Any] = ()
    who: Identity = field(default_factory=identity)
    build_id: str = "build-1"
    failure_exception_types: Sequence[type[BaseException]] = ()

    def __post_init__(self) -> None:
        self.definition: WorkflowDefinition = must_define(self.workflow)
        self.history: list[HistoryEvent] = []
        self.turns: list[Turn] = []
        self.clock = NOON
        self.timers: dict[int, float] = {}
        self.activities: dict[int, str] = {}
        self.run = self.fresh()
        self.happen(
            e.WorkflowStarted(
                workflow_id="w-1", workflow_type="w", task_queue="q", input=CONVERTER.encode_args(self.args)
            )
        )

    def fresh(self) -> WorkflowRun:
        return WorkflowRun(
            self.definition, self.who, CONVERTER, failure_exception_types=self.failure_exception_types
        )

    @property
    def head(self) -> int:
        return len(self.history)

    def happen(self, event: AnyEvent) -> None:
        """*event* is recorded; what it settles is no longer open."""
        self.clock += 0.25
        self.history.append(HistoryEvent(self.head + 1, self.clock, event))
        if isinstance(event, e.TimerFired):
            self.timers.pop(event.seq)
        elif isinstance(
            event, e.ActivityCompleted | e.ActivityFailed | e.ActivityTimedOut | e.ActivityCancelled
        ):
            self.activities.pop(event.seq)

    def turn(self, *meanwhile: AnyEvent) -> list[AnyCommand]:
        """Let the live run see everything, then record its answer; *meanwhile* happens in between."""
        head, now = self.head, self.clock
        commands = list(self.run.activate(self.history[self.run.seen_seq :], head_seq=head, now=now))
        self.turns.append(Turn(head, now, list(commands)))
        for event in meanwhile:
            self.happen(event)
        self.record(commands, head)
        return commands

    def record(self, commands: Sequence[AnyCommand], seen_seq: int) -> None:
        """Record *commands* of a turn that saw the history up to *seen_seq*."""
        left = [event for event in map(self._effect, commands) if event is not None]
        now = self.run.loop.now
        self.happen(
            e.WorkflowTaskCompleted(seen_seq=seen_seq, events=len(left), now=now, build_id=self.build_id)
        )
        marker = self.head
        for event in left:
            self.happen(event)
        self.run.committed(head_seq=self.head, marker_seq=marker)

    def replay(self, head: int | None = None, now: float | None = None) -> list[AnyCommand]:
        """The commands of a fresh run shown the history up to *head*."""
        run = self.fresh()
        try:
            return list(run.activate(self.history[:head], head_seq=head or self.head, now=now or self.clock))
        finally:
            run.close()

    def replay_every_turn(self) -> None:
        """Assert that a fresh run, at each turn's moment, asks for what the live run asked for."""
        for number, turn in enumerate(self.turns):
            assert self.replay(turn.head_seq, turn.now) == turn.commands, f"turn {number}"

    def close(self) -> None:
        self.run.close()

    def _effect(self, command: AnyCommand) -> AnyEvent | None:
        match command:
            case c.ScheduleActivity(seq=seq, name=name, activity_id=activity_id, input=data):
                self.activities[seq] = name
                return e.ActivityScheduled(
                    seq=seq, name=name, activity_id=activity_id, task_queue="q", input=data
                )
            case c.RequestCancelActivity(seq=seq):
                return e.ActivityCancelRequested(seq=seq) if seq in self.activities else None
            case c.StartTimer(seq=seq, delay_s=delay_s):
                self.timers[seq] = self.clock + delay_s
                return e.TimerStarted(seq=seq, fire_at=self.clock + delay_s)
            case c.CancelTimer(seq=seq):
                return e.TimerCancelled(seq=seq) if self.timers.pop(seq, None) is not None else None
            case c.RecordMarker(kind=kind, name=name, seq=seq, value=value):
                return e.MarkerRecorded(kind=kind, name=name, seq=seq, value=value)
            case c.CompleteWorkflow(result=result):
                return e.WorkflowCompleted(result=result)
            case c.FailWorkflow(failure=failure):
                return e.WorkflowFailed(failure=failure)
            case c.CancelWorkflow():
                return e.WorkflowCancelled()

    def possible(self) -> list[AnyEvent]:
        """What could happen next to open work: the timer due first fires, any activity ends."""
        due = min(self.timers.items(), key=lambda item: (item[1], item[0]), default=None)
        timers: list[AnyEvent] = [e.TimerFired(seq=due[0])] if due is not None else []
        return [
            *timers,
            *(e.ActivityCompleted(seq=seq, result=b'"%d"' % seq) for seq in self.activities),
        ]

    def run_to_the_end(self, choose: Callable[[int], int], turns_max: int = 60) -> None:
        """Let things happen in the order that *choose(n)* (a number below n) picks, until the run closes."""
        for _ in range(turns_max):
            if self.run.is_closed:
                return
            meanwhile = self._picked(choose, choose(2))
            self.turn(*meanwhile)
            events = self._picked(choose, 1 + choose(2))
            if self.run.is_closed or not (meanwhile or events):
                return
            for event in events:
                self.happen(event)

    def _picked(self, choose: Callable[[int], int], count: int) -> list[AnyEvent]:
        found: list[AnyEvent] = []
        for _ in itertools.repeat(None, count):
            left = [event for event in self.possible() if event not in found]
            if left:
                found.append(left[choose(len(left))])
        return found


def started(workflow: Any, *args: Any, **options: Any) -> Recorder:
    """A recorder whose run had its first turn."""
    recorder = Recorder(workflow, args, **options)
    recorder.turn()
    return recorder


def completed(commands: Sequence[AnyCommand]) -> Any:
    """The result that the last of *commands* completes the workflow with."""
    last = commands[-1]
    assert isinstance(last, c.CompleteWorkflow), commands
    return CONVERTER.decode_value(last.result)


def failure_of(commands: Sequence[AnyCommand]) -> Failure:
    """The failure that the last of *commands* fails the workflow with."""
    last = commands[-1]
    assert isinstance(last, c.FailWorkflow), commands
    return last.failure


def signal(name: str, *args: Any) -> e.SignalReceived:
    return e.SignalReceived(name=name, input=CONVERTER.encode_args(args))
