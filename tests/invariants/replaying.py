"""Every history replayed with the code that wrote it: it must ask for the same again.

Each history is shown to fresh code twice: whole, and at each of its markers only so far as the code had seen
when it answered, which must give exactly the events behind that marker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from holdfast.converter import DataConverter
from holdfast.sdk.definitions import WorkflowDefinition, definition_of, must_define
from holdfast.sdk.runtime import Identity, WorkflowRun
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire.events import HistoryEvent
from tests.invariants.vocabulary import Snapshot, decoded

TURN_BY_TURN_MAX = 200


def by_type(*workflows: Any) -> dict[str, WorkflowDefinition]:
    """The definitions of *workflows* under the names that histories have."""
    found = [must_define(workflow) for workflow in workflows]
    return {definition.name or "": definition for definition in found}


def defined_in(module: ModuleType) -> dict[str, WorkflowDefinition]:
    """The workflows that stand in a test module, or that it imports, under the names that histories have."""
    found = (definition_of(value) for value in vars(module).values() if callable(value))
    return {definition.name: definition for definition in found if definition is not None and definition.name}


def departures(snapshot: Snapshot, definitions: Mapping[str, WorkflowDefinition]) -> Iterator[str]:
    """Where replayed code asks for something else than the history says; runs of other types are passed over."""
    for run_id, run in snapshot.runs.items():
        definition = definitions.get(run.workflow_type)
        reads = decoded(snapshot.events.get(run_id, []))
        if definition is None or not reads or any(read.event is None for read in reads):
            continue
        who = Identity(
            run_id=run_id,
            workflow_id=run.workflow_id,
            workflow_type=run.workflow_type,
            task_queue=run.task_queue,
            namespace=run.namespace,
        )
        history = [
            HistoryEvent(read.row.seq, read.row.recorded_at.timestamp(), read.event)
            for read in reads
            if read.event is not None
        ]
        try:
            replay(definition, who, history)
        except Exception as error:
            yield f"replay: run {run_id} of {run.workflow_type}: {type(error).__name__}: {error}"


def replay(definition: WorkflowDefinition, who: Identity, history: list[HistoryEvent]) -> None:
    """Show fresh code *history*. Raises what the code raises, and AssertionError where its answers differ."""
    end = history[-1]
    _asked(definition, who, history, end.seq, end.time)
    # Turn by turn is quadratic: of a long history the first turns must do.
    for entry in history[:TURN_BY_TURN_MAX]:
        marker = entry.event
        if not isinstance(marker, e.WorkflowTaskCompleted):
            continue
        batch = history[entry.seq : entry.seq + marker.events]
        if any(isinstance(past.event, e.MarkerRecorded) for past in batch):
            # What is computed once would be computed again, and the rest of the batch may hang on it.
            continue
        seen = [past for past in history if past.seq <= marker.seen_seq]
        asked = _asked(definition, who, seen, marker.seen_seq, marker.now or seen[-1].time)
        left = [command for command in asked if not _may_leave_nothing(command)]
        events = [past for past in batch if not _may_be_missing(past.event)]
        same = [_shape(command) for command in left] == [_shape(past.event) for past in events]
        assert same, f"marker {entry.seq}: code asks for {left}, the history has {[x.event for x in events]}"


def _asked(
    definition: WorkflowDefinition, who: Identity, history: list[HistoryEvent], head: int, now: float
) -> list[c.AnyCommand]:
    run = WorkflowRun(definition, who, DataConverter.default)
    try:
        return list(run.activate(history, head_seq=head, now=now))
    finally:
        run.close()


def _may_leave_nothing(command: c.AnyCommand) -> bool:
    """A cancellation may have come too late; the whole replay looks at those."""
    return isinstance(command, c.CancelTimer | c.RequestCancelActivity)


def _may_be_missing(event: e.AnyEvent) -> bool:
    return isinstance(event, e.TimerCancelled | e.ActivityCancelRequested)


def _shape(thing: Any) -> tuple[Any, ...]:
    """What a command and the event it leaves have in common, contents included."""
    match thing:
        case c.ScheduleActivity() | e.ActivityScheduled():
            return "activity", thing.seq, thing.name, thing.input
        case c.StartTimer() | e.TimerStarted():
            return "timer", thing.seq
        case c.CompleteWorkflow() | e.WorkflowCompleted():
            return "completed", thing.result
        case c.FailWorkflow() | e.WorkflowFailed():
            return "failed", thing.failure.message, thing.failure.type
        case c.CancelWorkflow() | e.WorkflowCancelled():
            return "cancelled", thing.details
        case c.UpsertSearchAttributes() | e.SearchAttributesUpserted():
            return "attributes", thing.search_attributes, thing.search_types
        case c.UpsertMemo() | e.MemoUpserted():
            return "memo", thing.memo
        case _:
            return "unknown", thing
