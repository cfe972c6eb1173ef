"""One run of workflow code, kept alive between turns: history in, commands out.

What the worker does with it:

    run = WorkflowRun(definition, Identity(run_id=..., workflow_id=..., ...), converter)
    commands = run.activate(events, head_seq=task.head_seq, now=task.now)
        # First call: the whole history from event 1, replayed and checked turn by turn.
        # Later calls (sticky cache): the events from `run.seen_seq + 1` on. Older ones
        # are ignored, missing ones raise `HistoryGap`: close the run, read everything.
    report(seen_seq=run.seen_seq, commands=commands)
    run.committed(head_seq=answer.head_seq, marker_seq=answer.marker_seq)

    commands = run.predict(event, now=...)
        # Coalesced turn: feed an event that is not committed yet. It is assumed to become
        # number `run.seen_seq` (after the call). None: cannot be predicted, report plainly.
        # If the service refuses the turn, close the run.

    run.is_closed   # the last commands end the run; keep it until they are accepted
    run.close()     # eviction; never raises, runs no workflow code but suspended `finally`s

The time of a turn is `run.loop.now`.

`activate` and `predict` raise `NondeterminismError`, or `WorkflowTaskFailure` whose
`cause` and `failure` are those of `FailWorkflowTask`. After any raise the run is broken:
close it. All calls are synchronous, may be made from inside another event loop, and must
not overlap for one run.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from holdfast.common import RawValue
from holdfast.exceptions import CancelledError, FailureError, Invalid, is_cancelled_exception
from holdfast.sdk import activities, signals, tracing
from holdfast.sdk.activities import ActivityHandle, ActivityOptions, Converter
from holdfast.sdk.definitions import WorkflowDefinition
from holdfast.sdk.loop import NOT_OF_USERS, Timer, new_loop
from holdfast.sdk.replay import (
    Activation,
    HistoryGap,
    NondeterminismError,
    activations,
    check,
    placed,
)
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import payloads
from holdfast.wire.commands import AnyCommand
from holdfast.wire.events import AnyEvent, HistoryEvent
from holdfast.wire.failures import Failure

logger = logging.getLogger("holdfast.workflow")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which run this is."""

    run_id: str
    workflow_id: str
    workflow_type: str
    task_queue: str
    namespace: str = "main"
    attempt: int = 1
    build_id: str = ""


class WorkflowTaskFailure(Exception):
    """Code could not be run; the run stays open. `cause` is one of those of `WorkflowTaskFailed`."""

    def __init__(self, cause: str, failure: Failure) -> None:
        super().__init__(f"{cause}: {failure.message}")
        self.cause = cause
        self.failure = failure


class WorkflowRun:
    """One run of workflow code. See the module's docstring for its use."""

    def __init__(
        self,
        definition: WorkflowDefinition,
        identity: Identity,
        converter: Converter,
        *,
        failure_exception_types: Sequence[type[BaseException]] = (),
        is_traced: bool = False,
    ) -> None:
        self.definition = definition
        self.identity = identity
        self.converter = converter
        self.loop = new_loop(self)
        self.instance: Any = None
        self.started: HistoryEvent | None = None
        self.args: list[Any] = []
        self.seen_seq = 0
        self.is_replaying = False
        self.is_cancel_requested = False
        self.cancel_reason: str | None = None
        self.turn_in_progress: Activation | None = None
        self.activities: dict[int, ActivityHandle[Any]] = {}
        self.timers: dict[int, Timer] = {}
        self.conditions: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.signals = signals.Inbox(definition.signals)
        self.patches: dict[str, bool] = {}
        # Memo and search attributes, once the code looks at them: see `sdk.visibility`.
        self.shown: Any = None
        self.main: asyncio.Task[None] | None = None
        # What fails the workflow; anything else fails only the workflow task, which is tried again.
        self.failures = (
            FailureError,
            TimeoutError,
            *definition.failure_exception_types,
            *failure_exception_types,
        )
        self.commands: list[AnyCommand] = []
        self._seq = 0
        self._seq_before_turn = 0
        self.own_batch: tuple[int, int] | None = None
        self._closing: c.Closing | None = None
        self._broken: BaseException | None = None
        self._random: random.Random | None = None
        self._trace = tracing.Trace() if is_traced else None

    # -- for the worker ----------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether the code has ended: the last commands close the run, or its history is closed."""
        return self._closing is not None

    def activate(self, events: Sequence[HistoryEvent], *, head_seq: int, now: float) -> list[AnyCommand]:
        """Bring the code up to *head_seq*; the commands it asks for then (empty if nothing new)."""
        is_fresh = self.started is None
        needed = _needed(self, events, head_seq)
        commands: list[AnyCommand] = []
        try:
            for turn in activations(needed, seen_seq=self.seen_seq, now=self.loop.now, live_now=now):
                commands = self.turn(turn)
                if turn.marker is not None:
                    check(turn, commands, self)
                    _note_scheduled(self, [(entry.seq, entry.event) for entry in turn.batch])
                    commands = []
        except NondeterminismError as error:
            if is_fresh and self._trace is None:
                raise _traced(self, events, head_seq, now, error) from None
            raise
        self.seen_seq = head_seq
        return commands

    def predict(self, event: AnyEvent, *, now: float) -> list[AnyCommand] | None:
        """As `activate` with *event* as the next one of the history; None if unseen events stand before it."""
        if self.own_batch is not None or self._closing is not None:
            return None
        seq = self.seen_seq + 1
        commands = self.turn(Activation([HistoryEvent(seq, now, event)], seq, max(now, self.loop.now)))
        self.seen_seq = seq
        return commands

    def committed(self, *, head_seq: int, marker_seq: int) -> None:
        """The service recorded the last commands: their events end at *head_seq*, behind marker *marker_seq*."""
        if marker_seq == self.seen_seq + 1:
            _note_scheduled(self, placed(self.commands, marker_seq + 1, ()))
            self.seen_seq = head_seq
        else:
            self.own_batch = marker_seq, head_seq

    def close(self) -> None:
        """Drop the run and everything that is suspended in it."""
        # Clean-up code that logs must not be heard.
        self.is_replaying = True
        self.loop.close()
        self.main = None
        for handle in self.activities.values():
            # Tasks and what they wait for refer to each other until the latter is over.
            handle.cancel()
        self.activities.clear()
        self.timers.clear()
        self.conditions.clear()

    # -- for replay --------------------------------------------------------------------

    def turn(self, activation: Activation) -> list[AnyCommand]:
        """Show the code what it learns, run it until idle, and return what it asks for."""
        self.turn_in_progress = activation
        self.is_replaying = activation.marker is not None
        self.loop.now = activation.now
        commands: list[AnyCommand] = []
        self.commands = commands
        self._seq_before_turn = self._seq
        if self.is_closed:
            return commands
        try:
            _learn(self, activation.events)
            self.loop.run_until_idle()
        except Invalid as error:
            raise WorkflowTaskFailure("payload", self.converter.encode_failure(error)) from error
        except SystemExit as error:
            self._broken = error
        if self._broken is not None:
            failure = self.converter.encode_failure(self._broken)
            raise WorkflowTaskFailure("unhandled_failure", failure) from self._broken
        if self._closing is not None:
            commands.append(self._closing)
            if not self.is_replaying:
                self.signals.warn_if_unfinished()
        return commands

    def source_line(self, command: AnyCommand | None) -> str | None:
        """Where the code asked for *command*, or where it waits; None unless the run is traced."""
        if self._trace is None:
            return None
        return self._trace.line_of(command) if command is not None else tracing.waits_at(self.main)

    # -- for workflow code -------------------------------------------------------------

    def next_seq(self) -> int:
        """A number for something that is opened now."""
        self._seq = seq = self._seq + 1
        return seq

    def ask(self, command: AnyCommand) -> None:
        """Add *command* to what this turn asks for."""
        self.loop.must_be_open()
        self.commands.append(command)
        if self._trace is not None:
            self._trace.note(command)

    def withdraw(self, seq: int) -> bool:
        """Take back what was opened as *seq*, if that was in this turn."""
        if seq <= self._seq_before_turn:
            return False
        commands = self.commands
        for index in range(len(commands) - 1, -1, -1):
            command = commands[index]
            if isinstance(command, c.StartTimer | c.ScheduleActivity) and command.seq == seq:
                del commands[index]
                return True
        return False

    def start_activity(
        self, definition: Any, options: ActivityOptions, call_options: dict[str, Any], args: Sequence[Any]
    ) -> Any:
        """An awaitable of the result of a direct call; the activity is scheduled when it is awaited."""
        return _call(self, definition, options, call_options, args)

    def current_build_id(self) -> str:
        """Build of the worker that ran, or runs, the turn in progress."""
        marker = self.turn_in_progress.marker if self.turn_in_progress is not None else None
        if marker is not None and isinstance(marker.event, e.WorkflowTaskCompleted):
            return marker.event.build_id
        return self.identity.build_id

    @property
    def random(self) -> random.Random:
        """Random numbers seeded by the run's id."""
        if self._random is None:
            self._random = random.Random(self.identity.run_id)
        return self._random

    def returned(self, result: Any) -> None:
        """The run function ended with *result*: end the run."""
        self._closing = c.CompleteWorkflow(result=self.converter.encode_value(result))
        self.loop.drop_ready()

    def raised(self, error: BaseException) -> None:
        """The run function or a handler ended with *error*: end the run, or this workflow task."""
        if self.is_cancel_requested and is_cancelled_exception(error):
            self._closing = c.CancelWorkflow()
        elif isinstance(error, asyncio.CancelledError):
            failure = CancelledError(str(error) or "Cancelled")
            self._closing = c.FailWorkflow(failure=self.converter.encode_failure(failure))
        elif isinstance(error, self.failures):
            self._closing = c.FailWorkflow(failure=self.converter.encode_failure(error))
        else:
            self._broken = error
        self.loop.drop_ready()

    # -- for the loop ------------------------------------------------------------------

    def start_timer(self, timer: Timer, delay_s: float) -> None:
        """Called by the loop."""
        timer.seq = self.next_seq()
        self.timers[timer.seq] = timer
        self.ask(c.StartTimer(seq=timer.seq, delay_s=delay_s))

    def cancel_timer(self, timer: Timer) -> None:
        """Called by the loop."""
        if self.loop.is_closed():
            return
        del self.timers[timer.seq]
        if not self.withdraw(timer.seq):
            self.ask(c.CancelTimer(seq=timer.seq))

    def on_idle(self) -> None:
        """Called by the loop: wake whoever waits for a condition that has become true."""
        if not self.conditions or self._closing is not None or self._broken is not None:
            return
        kept = []
        for condition in self.conditions:
            is_true, waiter = condition
            if waiter.done():
                continue
            try:
                if is_true():
                    waiter.set_result(None)
                    continue
            except NOT_OF_USERS:
                raise
            except BaseException as error:  # noqa: BLE001 - the condition is the user's
                waiter.set_exception(error)
                continue
            kept.append(condition)
        self.conditions = kept

    def on_loop_error(self, context: dict[str, Any]) -> None:
        """Called by the loop: a callback raised, or nobody looked at a task's exception."""
        if not self.is_replaying:
            logger.error(
                "%s in workflow %s (run %s)",
                context.get("message") or "unhandled exception",
                self.identity.workflow_id,
                self.identity.run_id,
                exc_info=context.get("exception"),
            )


# -- from history to code ----------------------------------------------------------------


def _learn(run: WorkflowRun, events: Sequence[HistoryEvent]) -> None:
    """Make ready what *events* wake. Signals come first, so that code finds them handled."""
    if run.started is None:
        _begin(run, events)
    if len(events) > 1:
        events = sorted(events, key=_is_no_signal)
    for entry in events:
        learn = _LEARN.get(type(entry.event))
        if learn is not None:
            learn(run, entry.event)


def _is_no_signal(entry: HistoryEvent) -> bool:
    return type(entry.event) is not e.SignalReceived


def _begin(run: WorkflowRun, events: Sequence[HistoryEvent]) -> None:
    event = events[0].event if events else None
    if not isinstance(event, e.WorkflowStarted):
        raise HistoryGap(
            f"run {run.identity.run_id}: its history begins with {type(event).__name__}, expected WorkflowStarted: "
            "read it from event 1"
        )
    run.started = events[0]
    definition = run.definition
    if definition.name is None:
        count = len(payloads.split(event.input))
        run.args = [run.converter.decode_args(event.input, [RawValue] * count)]
    elif event.input != b"[]":
        run.args = run.converter.decode_args(event.input, definition.types[0])
    if definition.cls is not None:
        run.loop.call_soon(_instantiate, run, context=run.loop.context)


def _instantiate(run: WorkflowRun) -> None:
    cls = run.definition.cls
    try:
        run.instance = cls(*run.args if run.definition.takes_input else ()) if cls is not None else None
    except NOT_OF_USERS:
        raise
    except BaseException as error:  # noqa: BLE001 - __init__ is the user's
        run.raised(error)


def _start_main(run: WorkflowRun, _: Any) -> None:
    run.main = run.loop.create_task(_main(run), name="run", context=run.loop.context.copy())


async def _main(run: WorkflowRun) -> None:
    definition = run.definition
    try:
        if definition.cls is not None:
            result = await definition.run_fn(run.instance, *run.args)
        else:
            result = await definition.run_fn(*run.args)
        run.returned(result)
    except NOT_OF_USERS:
        raise
    except BaseException as error:  # noqa: BLE001 - the run function is the user's
        run.raised(error)


def _request_cancel(run: WorkflowRun, event: e.WorkflowCancelRequested) -> None:
    if not run.is_cancel_requested and run.main is not None:
        run.is_cancel_requested = True
        run.cancel_reason = event.reason
        # Behind what is ready already: a run that has not begun yet shall see its cancellation.
        run.loop.call_soon(run.main.cancel, context=run.loop.context)


def _fire(run: WorkflowRun, event: e.TimerFired) -> None:
    # None if the code cancelled it before it learned that the fire had won.
    timer = run.timers.pop(event.seq, None)
    if timer is not None:
        run.loop.fire(timer)


_LEARN: dict[type[e.Event], Callable[[WorkflowRun, Any], None]] = {
    e.WorkflowStarted: _start_main,
    e.SignalReceived: signals.receive,
    e.WorkflowCancelRequested: _request_cancel,
    e.TimerFired: _fire,
    e.ActivityCompleted: activities.completed,
    e.ActivityFailed: activities.failed,
    e.ActivityTimedOut: activities.timed_out,
    e.ActivityCancelled: activities.cancelled,
}
"""What code learns from each event; of the others it learns nothing."""


async def _call(
    run: WorkflowRun,
    definition: Any,
    options: ActivityOptions,
    call_options: dict[str, Any],
    args: Sequence[Any],
) -> Any:
    handle = activities.schedule(
        run,
        definition.name,
        args,
        activities.wire_options(options),
        result_type=definition.types[1],
        **(activities.call_keywords(call_options) if call_options else call_options),
    )
    return await activities.result_of(handle)


# -- around a history --------------------------------------------------------------------


def _needed(run: WorkflowRun, events: Sequence[HistoryEvent], head_seq: int) -> Sequence[HistoryEvent]:
    """Those of *events* that *run* has not seen. Raises `HistoryGap` if some are missing."""
    first, last = (events[0].seq, events[-1].seq) if events else (head_seq + 1, head_seq)
    expected = run.seen_seq + 1
    # A head behind what the code has seen is an old one, read just before a commit: the code cannot go back.
    if first > expected or last < head_seq or head_seq < run.seen_seq:
        raise HistoryGap(
            f"run {run.identity.run_id}: given events {first} to {last} of {head_seq}, expected them "
            f"from {expected} on: close the run and read its history from the start"
        )
    if run.own_batch is None:
        return events if first == expected else [entry for entry in events if entry.seq >= expected]
    own_first, own_last = run.own_batch
    needed = [entry for entry in events if expected <= entry.seq < own_first or entry.seq > own_last]
    raced = [entry for entry in needed if entry.seq < own_first]
    _note_scheduled(run, placed(run.commands, own_first + 1, raced))
    run.own_batch = None
    return needed


def _note_scheduled(run: WorkflowRun, batch: Sequence[tuple[int, object]]) -> None:
    # Users see this number in ActivityError.scheduled_event_id.
    for seq, fact in batch:
        if isinstance(fact, c.ScheduleActivity | e.ActivityScheduled):
            handle = run.activities.get(fact.seq)
            if handle is not None:
                handle.event_seq = seq


def _traced(
    run: WorkflowRun, events: Sequence[HistoryEvent], head_seq: int, now: float, error: NondeterminismError
) -> NondeterminismError:
    """The same error, of a second replay that notes where each command comes from."""
    second = WorkflowRun(
        run.definition, run.identity, run.converter, failure_exception_types=run.failures, is_traced=True
    )
    try:
        second.activate(events, head_seq=head_seq, now=now)
    except NondeterminismError as traced:
        return traced
    except Exception:  # noqa: BLE001 - user code runs here, and it has just shown that it does not repeat itself
        return error
    finally:
        second.close()
    return error
