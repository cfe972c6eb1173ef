"""What workflow code asks for. Data only.

`seq` is one counter per run, allocated in code order by everything that opens
something (activities, timers, side-effect markers); cancel commands name the `seq` they cancel.

Each accepted command leaves exactly one event, in the order of the commands, directly
behind the batch's `WorkflowTaskCompleted`, with two exceptions that leave none: a
`CancelTimer` whose timer had already fired when the batch was recorded (a fire that
raced a cancel wins), and a `RequestCancelActivity` whose activity had already settled.
Both can be told from the history alone: the `TimerFired`, or the activity's closing
event, then stands before the batch's marker.

A closing command (`CompleteWorkflow`, `FailWorkflow`, `CancelWorkflow`) is the last of its batch.
"""

from __future__ import annotations

import msgspec

from holdfast.wire.failures import Failure, RetryPolicy


class Command(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True, forbid_unknown_fields=True
):
    """Root of the command types; the wire tag is the class name under the key `type`."""


class ScheduleActivity(Command, frozen=True, kw_only=True):
    """Call activity `name` with `input` (JSON array text). Leaves `ActivityScheduled`.

    `task_queue` None means the run's own. Times in seconds; when neither close timeout
    is given the service sets `start_to_close_s` to 300. `is_eager` False keeps the
    activity from being handed back in the answer to this batch.
    """

    seq: int
    name: str
    input: bytes = b"[]"
    activity_id: str = ""
    task_queue: str | None = None
    schedule_to_close_s: float | None = None
    schedule_to_start_s: float | None = None
    start_to_close_s: float | None = None
    heartbeat_s: float | None = None
    retry: RetryPolicy = RetryPolicy()
    is_eager: bool = True


class RequestCancelActivity(Command, frozen=True, kw_only=True):
    """Ask activity `seq` to stop. Leaves `ActivityCancelRequested`, or nothing if it had settled."""

    seq: int


class StartTimer(Command, frozen=True, kw_only=True):
    """Fire once, `delay_s` seconds (> 0) after this batch is recorded. Leaves `TimerStarted`."""

    seq: int
    delay_s: float


class CancelTimer(Command, frozen=True, kw_only=True):
    """Drop timer `seq`. Leaves `TimerCancelled`, or nothing if it had fired."""

    seq: int


class RecordMarker(Command, frozen=True, kw_only=True):
    """Keep something the code computed once. Leaves `MarkerRecorded`."""

    kind: str
    name: str
    seq: int = 0
    value: bytes = b"null"


class UpsertSearchAttributes(Command, frozen=True, kw_only=True):
    """Change search attributes. Leaves `SearchAttributesUpserted`.

    `search_attributes` is a JSON object: null removes a key. `search_types` names the types of those it sets.
    """

    search_attributes: bytes
    search_types: dict[str, str] = {}


class UpsertMemo(Command, frozen=True, kw_only=True):
    """Change the memo: a JSON object of payloads, null removes a key. Leaves `MemoUpserted`."""

    memo: bytes


class CompleteWorkflow(Command, frozen=True, kw_only=True):
    """The run returns `result` (JSON text). Leaves `WorkflowCompleted`."""

    result: bytes = b"null"


class FailWorkflow(Command, frozen=True, kw_only=True):
    """The run fails. Leaves `WorkflowFailed`."""

    failure: Failure


class CancelWorkflow(Command, frozen=True, kw_only=True):
    """The run ends as cancelled; only after a cancel request. Leaves `WorkflowCancelled`."""

    details: bytes = b""


AnyCommand = (
    ScheduleActivity
    | RequestCancelActivity
    | StartTimer
    | CancelTimer
    | RecordMarker
    | UpsertSearchAttributes
    | UpsertMemo
    | CompleteWorkflow
    | FailWorkflow
    | CancelWorkflow
)

Closing = CompleteWorkflow | FailWorkflow | CancelWorkflow
