"""History: the numbered facts that replay sees. Data only.

A run's history is gapless from 1. The number of an event (`HistoryEvent.seq`) is not
the number of the thing it is about: `ActivityScheduled.seq` is the command's own
counter, which later events about the same activity repeat.

Evolution: fields are only added, with defaults; names are never reused. The JSON
Schemas under `schemas/wire/` are generated from this module.
"""

from __future__ import annotations

import msgspec

from holdfast.wire.failures import Failure, RetryPolicy


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """Root of the event types; the wire tag is the class name under the key `type`."""


class WorkflowStarted(Event, frozen=True, kw_only=True):
    """The first event of every run.

    `input` is JSON array text, one element per argument. `request_id` is the key the
    caller may repeat to get the same run again. For the options see `wire.messages.Start`.
    """

    workflow_id: str
    workflow_type: str
    task_queue: str
    input: bytes = b"[]"
    request_id: str = ""
    identity: str = ""
    attempt: int = 1
    execution_timeout_s: float | None = None
    run_timeout_s: float | None = None
    task_timeout_s: float | None = None
    start_delay_s: float = 0.0
    memo: bytes = b""
    search_attributes: bytes = b""
    search_types: dict[str, str] = {}
    summary: str = ""
    details: str = ""
    priority: int = 0


class WorkflowTaskCompleted(Event, frozen=True, kw_only=True):
    """Marks a batch: the code saw history up to `seen_seq` and answered with `events` events.

    Those `events` events follow this one directly, one per command that left a trace
    (see `wire.commands` for the two kinds that may leave none). `now` is the time that the
    code was told (epoch seconds); 0 means that of the newest event it saw.
    """

    seen_seq: int
    events: int = 0
    now: float = 0.0
    worker: str = ""
    build_id: str = ""
    sdk: str = ""


class WorkflowTaskFailed(Event, frozen=True, kw_only=True):
    """The first of a row of failed workflow tasks; the run stays open and is tried again.

    `cause` is one of "unhandled_failure", "nondeterminism", "payload", "unknown_workflow_type",
    "bad_commands", "lease_expired".
    """

    cause: str
    failure: Failure
    worker: str = ""
    build_id: str = ""


class ActivityScheduled(Event, frozen=True, kw_only=True):
    """An activity is owed to the run. Timeouts in seconds; None means no such timeout."""

    seq: int
    activity_id: str
    name: str
    task_queue: str
    input: bytes = b"[]"
    schedule_to_close_s: float | None = None
    schedule_to_start_s: float | None = None
    start_to_close_s: float | None = None
    heartbeat_s: float | None = None
    retry: RetryPolicy = RetryPolicy()


class ActivityCompleted(Event, frozen=True, kw_only=True):
    """Activity `seq` returned `result` (JSON text) in attempt number `attempt`."""

    seq: int
    result: bytes = b"null"
    attempt: int = 1
    worker: str = ""


class ActivityFailed(Event, frozen=True, kw_only=True):
    """Activity `seq` failed for good; `retry_state` says why it was not tried again."""

    seq: int
    failure: Failure
    attempt: int = 1
    retry_state: str = ""
    worker: str = ""


class ActivityTimedOut(Event, frozen=True, kw_only=True):
    """Activity `seq` ran out of time for good; `timeout` names which limit.

    `failure` is what went wrong before that, if anything did; `last_heartbeat` is JSON array text
    of the newest details that an attempt reported, or empty.
    """

    seq: int
    timeout: str
    attempt: int = 1
    retry_state: str = ""
    failure: Failure | None = None
    last_heartbeat: bytes = b""


class ActivityCancelRequested(Event, frozen=True, kw_only=True):
    """The run asked for the cancellation of activity `seq`."""

    seq: int


class ActivityCancelled(Event, frozen=True, kw_only=True):
    """Activity `seq` ended as cancelled: before it began, or by its own code."""

    seq: int
    details: bytes = b""


class TimerStarted(Event, frozen=True, kw_only=True):
    """Timer `seq` will fire at `fire_at` (epoch seconds of the database's clock)."""

    seq: int
    fire_at: float


class TimerFired(Event, frozen=True, kw_only=True):
    """Timer `seq` fired."""

    seq: int


class TimerCancelled(Event, frozen=True, kw_only=True):
    """Timer `seq` was cancelled before it fired."""

    seq: int


class SignalReceived(Event, frozen=True, kw_only=True):
    """A signal; `input` is JSON array text of its arguments."""

    name: str
    input: bytes = b"[]"
    request_id: str = ""
    identity: str = ""


class WorkflowCancelRequested(Event, frozen=True, kw_only=True):
    """Somebody asked the run to cancel itself. Recorded once per run."""

    reason: str = ""
    request_id: str = ""
    identity: str = ""


class MarkerRecorded(Event, frozen=True, kw_only=True):
    """Something the code computed once; `value` is JSON text.

    `kind` is "side_effect", "side_effect_failed" (then `value` is a failure), "patch" (`value`
    true means deprecated) or "version".
    """

    kind: str
    name: str
    seq: int = 0
    value: bytes = b"null"


class SearchAttributesUpserted(Event, frozen=True, kw_only=True):
    """The code changed search attributes: see `wire.commands.UpsertSearchAttributes`."""

    search_attributes: bytes
    search_types: dict[str, str] = {}


class MemoUpserted(Event, frozen=True, kw_only=True):
    """The code changed the memo: see `wire.commands.UpsertMemo`."""

    memo: bytes


class WorkflowCompleted(Event, frozen=True, kw_only=True):
    """The run returned `result` (JSON text). Closing."""

    result: bytes = b"null"


class WorkflowFailed(Event, frozen=True, kw_only=True):
    """The run failed. Closing."""

    failure: Failure


class WorkflowCancelled(Event, frozen=True, kw_only=True):
    """The run ended as cancelled, after a cancel request. Closing."""

    details: bytes = b""


class WorkflowTerminated(Event, frozen=True, kw_only=True):
    """An operator ended the run at once. Closing."""

    reason: str = ""
    details: bytes = b""
    identity: str = ""
    request_id: str = ""


class WorkflowTimedOut(Event, frozen=True, kw_only=True):
    """The run exceeded its own time limit. Closing."""

    timeout: str = "run"


AnyEvent = (
    WorkflowStarted
    | WorkflowTaskCompleted
    | WorkflowTaskFailed
    | ActivityScheduled
    | ActivityCompleted
    | ActivityFailed
    | ActivityTimedOut
    | ActivityCancelRequested
    | ActivityCancelled
    | TimerStarted
    | TimerFired
    | TimerCancelled
    | SignalReceived
    | WorkflowCancelRequested
    | MarkerRecorded
    | SearchAttributesUpserted
    | MemoUpserted
    | WorkflowCompleted
    | WorkflowFailed
    | WorkflowCancelled
    | WorkflowTerminated
    | WorkflowTimedOut
)

CLOSING: dict[type[Event], str] = {
    WorkflowCompleted: "COMPLETED",
    WorkflowFailed: "FAILED",
    WorkflowCancelled: "CANCELLED",
    WorkflowTerminated: "TERMINATED",
    WorkflowTimedOut: "TIMED_OUT",
}
"""The status that each closing event leaves the run in."""


class HistoryEvent(msgspec.Struct, frozen=True, array_like=True):
    """An event in its place: number from 1, time (epoch seconds, database clock), and what happened."""

    seq: int
    time: float
    event: AnyEvent


class StoredEvent(msgspec.Struct, frozen=True, array_like=True):
    """A `HistoryEvent` whose event is still encoded: how the service passes history through unread."""

    seq: int
    time: float
    event: msgspec.Raw
