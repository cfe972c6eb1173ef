"""What a client shows of runs: summaries, descriptions, histories. Data only; made from wire structs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import msgspec

from holdfast.converter import DataConverter
from holdfast.exceptions import Invalid
from holdfast.sdk import memo, search_attributes
from holdfast.sdk.search_attributes import TypedSearchAttributes
from holdfast.wire import messages as m
from holdfast.wire.events import HistoryEvent as WireEvent
from holdfast.wire.events import WorkflowStarted
from holdfast.wire.history import from_rows, to_rows


class WorkflowExecutionStatus(IntEnum):
    """What has become of a run. PENDING: no worker has taken it up yet."""

    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    CANCELED = 4
    TERMINATED = 5
    CONTINUED_AS_NEW = 6
    TIMED_OUT = 7
    PAUSED = 8
    PENDING = 9


_UNSET: Any = object()
_STATUS_NAMES = {"CANCELLED": "CANCELED"}


@dataclass(frozen=True)
class WorkflowExecution:
    """One run, as lists show it. `task_failure` says why its workflow code fails at present, None if it does not."""

    id: str
    run_id: str
    workflow_type: str
    task_queue: str
    namespace: str
    status: WorkflowExecutionStatus | None
    start_time: datetime
    close_time: datetime | None
    history_length: int
    task_failure: str | None
    typed_search_attributes: TypedSearchAttributes
    memo_values: Mapping[str, Any]

    @property
    def search_attributes(self) -> Mapping[str, Sequence[Any]]:
        """The search attributes in their older form: a list of values for each name."""
        return search_attributes.untyped(self.typed_search_attributes)

    async def memo(self) -> Mapping[str, Any]:
        """The memo."""
        return self.memo_values

    async def memo_value(self, key: str, default: Any = _UNSET) -> Any:
        """One value of the memo. Raises KeyError if it is not there and there is no *default*."""
        if key not in self.memo_values and default is _UNSET:
            raise KeyError(f"Memo does not have a value for key {key}")
        return self.memo_values.get(key, default)


@dataclass(frozen=True)
class WorkflowExecutionCountAggregationGroup:
    """A group of a count: how many, and the values that they share."""

    count: int
    group_values: Sequence[Any]


@dataclass(frozen=True)
class WorkflowExecutionCount:
    """How many runs matched, and the groups if the query asked for them."""

    count: int
    groups: Sequence[WorkflowExecutionCountAggregationGroup]


@dataclass(frozen=True)
class PendingActivity:
    """An activity that has not settled. `state` is "scheduled" (waiting, perhaps until `next_attempt_time`) or "started"."""

    activity_id: str
    activity_type: str
    task_queue: str
    state: str
    attempt: int
    maximum_attempts: int
    scheduled_time: datetime
    started_time: datetime | None
    next_attempt_time: datetime | None
    last_heartbeat_time: datetime | None
    heartbeat_details: Sequence[Any]
    last_failure: BaseException | None
    is_cancel_requested: bool
    worker: str | None


@dataclass(frozen=True)
class WorkflowExecutionDescription(WorkflowExecution):
    """Everything known about a run but its history.

    `task_attempt` > 1 means that its workflow code fails and is retried at `next_task_time`: `last_task_failure`
    is the newest exception, and `task_failure` its cause in one word.
    """

    task_attempt: int
    last_task_failure: BaseException | None
    next_task_time: datetime | None
    sticky_worker: str | None
    is_cancel_requested: bool
    pending_activities: Sequence[PendingActivity]
    timer_fire_times: Sequence[datetime]
    raw_description: m.Description


@dataclass(frozen=True)
class HistoryEvent:
    """One event of a history: its number from 1, its type, its time, and its attributes as plain values."""

    event_id: int
    event_type: str
    event_time: datetime
    attributes: dict[str, Any]


@dataclass(frozen=True)
class WorkflowHistory:
    """The history of one run, which can be kept as JSON."""

    workflow_id: str
    events: Sequence[HistoryEvent]
    recorded_run_id: str = ""

    @property
    def run_id(self) -> str:
        """The run's id; empty for a history read from JSON that does not tell it."""
        return self.recorded_run_id

    def to_json(self) -> str:
        """JSON text that `from_json` reads."""
        return msgspec.json.encode(self.to_json_dict()).decode()

    def to_json_dict(self) -> dict[str, Any]:
        """As `to_json`, as a dictionary."""
        rows = [
            {
                "event_id": event.event_id,
                "event_type": event.event_type,
                "event_time": event.event_time.timestamp(),
                "attributes": event.attributes,
            }
            for event in self.events
        ]
        return {"workflow_id": self.workflow_id, "run_id": self.run_id, "events": rows}

    @staticmethod
    def from_json(workflow_id: str, history: str | dict[str, Any]) -> WorkflowHistory:
        """The history in JSON text, or in the dictionary of it. Raises `Invalid` naming the row that is none."""
        found = msgspec.json.decode(history) if isinstance(history, str) else history
        if not isinstance(found, dict) or not isinstance(found.get("events"), list):
            raise Invalid('the JSON is not a history: expected an object with a list named "events"')
        return history_of(workflow_id, str(found.get("run_id", "")), from_rows(found["events"]))

    def wire_events(self) -> list[WireEvent]:
        """The events as replay takes them."""
        return from_rows(self.to_json_dict()["events"])


def history_of(workflow_id: str, run_id: str, events: Sequence[WireEvent]) -> WorkflowHistory:
    """The history made of these events."""
    if not workflow_id and events and isinstance(events[0].event, WorkflowStarted):
        workflow_id = events[0].event.workflow_id
    return WorkflowHistory(workflow_id, [event_of(event) for event in events], run_id)


def event_of(event: WireEvent) -> HistoryEvent:
    """One event as users see it."""
    (row,) = to_rows([event])
    return HistoryEvent(row["event_id"], row["event_type"], time_of(event.time), row["attributes"])


def execution_of(run: m.RunSummary, namespace: str, converter: DataConverter) -> WorkflowExecution:
    """A run of a list."""
    return WorkflowExecution(**_summary_fields(run, namespace, converter))


def description_of(
    found: m.Description, namespace: str, converter: DataConverter
) -> WorkflowExecutionDescription:
    """A run described; failures become exceptions."""
    return WorkflowExecutionDescription(
        **_summary_fields(found.summary, namespace, converter),
        task_attempt=found.task_attempt,
        last_task_failure=converter.decode_failure(found.task_failure) if found.task_failure else None,
        next_task_time=_time_or_none(found.next_task_at),
        sticky_worker=found.sticky_worker,
        is_cancel_requested=found.is_cancel_requested,
        pending_activities=[_pending_activity(activity, converter) for activity in found.activities],
        timer_fire_times=[time_of(timer.fire_at) for timer in found.timers],
        raw_description=found,
    )


def status_of(name: str) -> WorkflowExecutionStatus | None:
    """The status that the service calls *name*; None for one that this version does not know."""
    return WorkflowExecutionStatus.__members__.get(_STATUS_NAMES.get(name, name))


def status_name(name: str) -> str:
    """What clients call the status that the service calls *name*."""
    return _STATUS_NAMES.get(name, name)


def time_of(epoch_s: float) -> datetime:
    """The moment, in UTC."""
    return datetime.fromtimestamp(epoch_s, UTC)


def _summary_fields(run: m.RunSummary, namespace: str, converter: DataConverter) -> dict[str, Any]:
    return {
        "id": run.workflow_id,
        "run_id": run.run_id,
        "workflow_type": run.workflow_type,
        "task_queue": run.task_queue,
        "namespace": namespace,
        "status": status_of(run.status),
        "start_time": time_of(run.started_at),
        "close_time": _time_or_none(run.closed_at),
        "history_length": run.history_length,
        "task_failure": run.task_failure,
        "typed_search_attributes": search_attributes.decoded(run.search_attributes),
        "memo_values": _memo(run.memo, converter),
    }


def _memo(text: bytes, converter: DataConverter) -> dict[str, Any]:
    try:
        return memo.decoded(converter, text)
    except (Invalid, msgspec.DecodeError):
        # Made by another converter, or through the store, where it may be any text.
        return {}


def _pending_activity(found: m.PendingActivity, converter: DataConverter) -> PendingActivity:
    try:
        details = converter.decode_args(found.heartbeat_details)
    except Invalid:
        # Made by another converter; the description is worth more than the details.
        details = [found.heartbeat_details]
    return PendingActivity(
        activity_id=found.activity_id,
        activity_type=found.name,
        task_queue=found.task_queue,
        state=found.state,
        attempt=found.attempt,
        maximum_attempts=found.max_attempts,
        scheduled_time=time_of(found.scheduled_at),
        started_time=_time_or_none(found.started_at),
        next_attempt_time=_time_or_none(found.next_attempt_at),
        last_heartbeat_time=_time_or_none(found.last_heartbeat_at),
        heartbeat_details=details,
        last_failure=converter.decode_failure(found.last_failure) if found.last_failure else None,
        is_cancel_requested=found.is_cancel_requested,
        worker=found.worker,
    )


def _time_or_none(epoch_s: float | None) -> datetime | None:
    return None if epoch_s is None else time_of(epoch_s)
