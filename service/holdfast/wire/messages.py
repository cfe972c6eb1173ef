"""What clients, workers and the service say to each other. Data only.

A message body is a *frame*: a msgpack array of requests of one verb; the reply is an
array of `Answer`s in the same order. `Answer.value` is the encoded response struct
named beside each request below. Durations are seconds, times epoch seconds.

| verb | request | response |
|---|---|---|
| start | Start | Started |
| signal | Signal | Done |
| cancel | Cancel | Done |
| terminate | Terminate | Done |
| describe | Describe | Description |
| history | History | HistoryPage |
| list | List | ListPage |
| result | Result | Outcome |
| claim | Claim | Tasks |
| report | one of `AnyReport` | Reported |
| heartbeat | WorkerHeartbeat | WorkerAnswer |
| activity_heartbeat | ActivityHeartbeat | HeartbeatAnswer |

What is asked of schedules stands in `wire.schedules`; `count` and `why` in `wire.visibility`.

Every mutating request of a client carries a `request_id`: the same id again returns the
first answer, the same id with another body is refused. A worker's reports are kept apart
by their fence instead.
"""

from __future__ import annotations

import msgspec

from holdfast.wire.commands import AnyCommand
from holdfast.wire.events import HistoryEvent
from holdfast.wire.failures import Failure

UNHANDLED_EVENTS = "unhandled_events"
"""The detail `cause` of the refusal of a closing batch that has not seen a message: the task is dispatched again."""

PAYLOAD_BYTES_MAX = 2 * 1024 * 1024
TEXT_CHARS_MAX = 1_000
TEXT_BYTES_MAX = 2_000
NO_VALUE = msgspec.Raw(b"\xc0")


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Root of the message structs."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What became of one request: `code` "ok" with a value, or an error's code with its message."""

    code: str = "ok"
    value: msgspec.Raw = msgspec.field(default_factory=lambda: NO_VALUE)
    message: str = ""
    details: dict[str, str] | None = None


# -- clients ---------------------------------------------------------------------------


class Start(Message, frozen=True, kw_only=True):
    """Start a run. `input` is JSON array text.

    `id_reuse` (about closed runs of this id): "allow", "allow_if_failed", "reject".
    `id_conflict` (about an open run of this id): "fail", "use_existing", "terminate_existing".
    The run's time limits count from the end of its start delay. `memo` is a JSON object of payloads and
    `search_attributes` one of plain values, whose types `search_types` names (`core.search.TYPES`); empty means none.
    `priority` is 1 to 5, 0 for the default.
    """

    request_id: str
    workflow_id: str
    workflow_type: str
    task_queue: str
    input: bytes = b"[]"
    id_reuse: str = "allow"
    id_conflict: str = "fail"
    identity: str = ""
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


class Started(Message, frozen=True, kw_only=True):
    """`is_new` is False when an existing run was answered (use_existing, or a repeated request id)."""

    workflow_id: str
    run_id: str
    is_new: bool = True


class Signal(Message, frozen=True, kw_only=True):
    """Add a signal to the newest run of the id, or to `run_id`."""

    request_id: str
    workflow_id: str
    name: str
    run_id: str | None = None
    input: bytes = b"[]"
    identity: str = ""


class Cancel(Message, frozen=True, kw_only=True):
    """Ask a run to cancel itself; a second request changes nothing."""

    request_id: str
    workflow_id: str
    run_id: str | None = None
    reason: str = ""
    identity: str = ""


class Terminate(Message, frozen=True, kw_only=True):
    """End a run at once."""

    request_id: str
    workflow_id: str
    run_id: str | None = None
    reason: str = ""
    details: bytes = b""
    identity: str = ""


class Done(Message, frozen=True, kw_only=True):
    """The mutation is durable, in `run_id`."""

    run_id: str


class Describe(Message, frozen=True, kw_only=True):
    """Everything known about a run without its history."""

    workflow_id: str
    run_id: str | None = None


class PendingActivity(Message, frozen=True, kw_only=True):
    """An open activity. `state` is "scheduled" (waiting, or backing off until `next_attempt_at`) or "started"."""

    seq: int
    activity_id: str
    name: str
    task_queue: str
    state: str
    attempt: int
    scheduled_at: float
    max_attempts: int = 0
    started_at: float | None = None
    next_attempt_at: float | None = None
    last_failure: Failure | None = None
    last_heartbeat_at: float | None = None
    heartbeat_details: bytes = b""
    is_cancel_requested: bool = False
    worker: str | None = None


class PendingTimer(Message, frozen=True, kw_only=True):
    """An open timer."""

    seq: int
    fire_at: float


class RunSummary(Message, frozen=True, kw_only=True):
    """One run as lists show it. `status` is one of the names in `wire.events.CLOSING`, or PENDING or RUNNING."""

    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: str
    started_at: float
    closed_at: float | None = None
    history_length: int = 0
    task_failure: str | None = None
    memo: bytes = b""
    search_attributes: bytes = b""


class Description(Message, frozen=True, kw_only=True):
    """`task_attempt` > 1 and `task_failure` tell that workflow code is failing and being retried."""

    summary: RunSummary
    task_attempt: int = 0
    task_failure: Failure | None = None
    task_failure_cause: str | None = None
    next_task_at: float | None = None
    sticky_worker: str | None = None
    is_cancel_requested: bool = False
    activities: list[PendingActivity] = []
    timers: list[PendingTimer] = []


class History(Message, frozen=True, kw_only=True):
    """A page of history after event number `after`, at most `limit` events (1-1000) and about 1 MiB."""

    workflow_id: str
    run_id: str | None = None
    after: int = 0
    limit: int = 1000


class HistoryPage(Message, frozen=True, kw_only=True):
    """`last_seq` is the head when the page was read; the page is the last when it reaches the head."""

    workflow_id: str
    run_id: str
    status: str
    last_seq: int
    events: list[HistoryEvent] = []


class List(Message, frozen=True, kw_only=True):
    """Runs of the namespace, newest first, all given filters together. `limit` 1-1000.

    `statuses` empty means all; "RUNNING" means every open run. `cursor` is the previous
    page's `next_cursor`. `query` is a filter as `core.filters` reads it.
    """

    statuses: list[str] = []
    workflow_type: str | None = None
    workflow_id: str | None = None
    task_failing: bool = False
    limit: int = 100
    cursor: str | None = None
    query: str = ""


class ListPage(Message, frozen=True, kw_only=True):
    """A page of runs; `next_cursor` None means the end."""

    runs: list[RunSummary] = []
    next_cursor: str | None = None


class Result(Message, frozen=True, kw_only=True):
    """Wait up to `wait_s` (0-10) seconds for the run to close."""

    workflow_id: str
    run_id: str | None = None
    wait_s: float = 5.0


class Outcome(Message, frozen=True, kw_only=True):
    """`event` is the closing event, or None while the run is open (ask again)."""

    run_id: str
    status: str
    event: HistoryEvent | None = None


# -- workers ---------------------------------------------------------------------------


class WorkflowTask(Message, frozen=True, kw_only=True):
    """Replay this run and tell its next commands.

    `events` are those after `from_seq`, at most about 1 MiB of them: while the last one's
    number is below `head_seq` the rest is read with `history`. `from_seq` > 0 assumes that
    the worker has the run in its cache; if not, it reads the history from the start.
    """

    run_id: str
    workflow_id: str
    workflow_type: str
    task_queue: str
    fence: int
    head_seq: int
    now: float
    lease_s: float
    attempt: int = 1
    from_seq: int = 0
    started_at: float = 0.0
    events: list[HistoryEvent] = []


class ActivityTask(Message, frozen=True, kw_only=True):
    """Call this function. `started_at` is when this attempt was leased."""

    run_id: str
    seq: int
    fence: int
    workflow_id: str
    workflow_type: str
    activity_id: str
    name: str
    task_queue: str
    attempt: int
    scheduled_at: float
    started_at: float
    lease_s: float
    input: bytes = b"[]"
    schedule_to_close_s: float | None = None
    start_to_close_s: float | None = None
    heartbeat_s: float | None = None
    heartbeat_details: bytes = b""
    max_attempts: int = 0


class Claim(Message, frozen=True, kw_only=True):
    """Lease up to so many ready tasks of `task_queue` to `worker`."""

    worker: str
    task_queue: str
    workflow_slots: int = 0
    activity_slots: int = 0
    build_id: str = ""


class Tasks(Message, frozen=True, kw_only=True):
    """Tasks leased to the worker. `is_more` True means: claim again at once."""

    workflow_tasks: list[WorkflowTask] = []
    activity_tasks: list[ActivityTask] = []
    is_more: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """Root of the reports. `workflow_slots`/`activity_slots` are what the worker has free when it sends
    the report (the slot this report frees included): the answer may fill them.
    """

    run_id: str
    worker: str
    task_queue: str = ""
    workflow_slots: int = 0
    activity_slots: int = 0


class CompleteWorkflowTask(Report, frozen=True, kw_only=True):
    """The code saw history up to `seen_seq`, was told the time `now`, and asks for `commands`."""

    fence: int
    seen_seq: int
    now: float = 0.0
    commands: list[AnyCommand] = []
    build_id: str = ""
    sdk: str = ""


class FailWorkflowTask(Report, frozen=True, kw_only=True):
    """The code could not be run; the run stays open and waits for fixed code. `cause`: see `WorkflowTaskFailed`."""

    fence: int
    cause: str
    failure: Failure
    build_id: str = ""


class Turn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A workflow-task completion on the assumption that this report's activity event gets number `assumed_seq`."""

    assumed_seq: int
    now: float = 0.0
    commands: list[AnyCommand] = []
    build_id: str = ""
    sdk: str = ""


class CompleteActivity(Report, frozen=True, kw_only=True):
    """Activity `seq` returned `result` (JSON text). With `turn`, the report is coalesced."""

    seq: int
    fence: int
    result: bytes = b"null"
    turn: Turn | None = None


class FailActivity(Report, frozen=True, kw_only=True):
    """This attempt of activity `seq` failed. With `turn`, only valid if the failure turns out final."""

    seq: int
    fence: int
    failure: Failure


class CancelActivity(Report, frozen=True, kw_only=True):
    """Activity `seq` stopped because it was asked to."""

    seq: int
    fence: int
    details: bytes = b""


class ReleaseTask(Report, frozen=True, kw_only=True):
    """Give a lease back unused (shut down, or more tasks than slots). `seq` 0 is the workflow task."""

    fence: int
    seq: int = 0


AnyReport = (
    CompleteWorkflowTask | FailWorkflowTask | CompleteActivity | FailActivity | CancelActivity | ReleaseTask
)


class Reported(Message, frozen=True, kw_only=True):
    """The report is durable.

    `is_turn_applied` is None for a report without a turn; False means that the second part
    was refused alone and the worker must drop its cached run. `marker_seq` is the number of
    the `WorkflowTaskCompleted` it left (0 if none), `head_seq` that of the last event of its
    batch, or the run's newest number if it left no batch. The tasks are leased to the reporting worker.
    """

    head_seq: int
    marker_seq: int = 0
    is_turn_applied: bool | None = None
    is_closed: bool = False
    workflow_task: WorkflowTask | None = None
    activity_tasks: list[ActivityTask] = []


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """A task a worker holds: run, command seq (0 = the workflow task), fence."""

    run_id: str
    seq: int
    fence: int


class WorkerHeartbeat(Message, frozen=True, kw_only=True):
    """This worker lives and has so many free slots; extend `leases` (only those older than a third of their length).

    `identity` is what people call it, `max_…` what it takes at once; `workflows` and `activities` are the types that it
    knows. None: it does not say, or takes any. One that `is_stopping` is given nothing more.
    """

    worker: str
    task_queue: str
    workflow_slots: int = 0
    activity_slots: int = 0
    leases: list[Lease] = []
    build_id: str = ""
    sdk: str = ""
    is_stopping: bool = False
    identity: str = ""
    workflows: list[str] | None = None
    activities: list[str] | None = None
    max_workflow_tasks: int | None = None
    max_activities: int | None = None


class WorkerAnswer(Message, frozen=True, kw_only=True):
    """`lost`: leases that are no longer this worker's; `cancelled`: activities asked to stop.

    `next_s` is when the service wants to hear again.
    """

    lost: list[Lease] = []
    cancelled: list[Lease] = []
    next_s: float = 3.0


class ActivityHeartbeat(Message, frozen=True, kw_only=True):
    """Progress of a running activity; `details` (JSON array text) reach the next attempt."""

    run_id: str
    seq: int
    fence: int
    worker: str
    details: bytes = b""


class HeartbeatAnswer(Message, frozen=True, kw_only=True):
    """Whether the activity should stop."""

    is_cancel_requested: bool = False


class Push(Message, frozen=True, kw_only=True):
    """From the service to one worker, acknowledged at once with an empty reply.

    Tasks are already leased to the worker. `cancelled` names running activities that
    should stop. `is_look` means: claim now (ready work is kept for this worker).
    """

    workflow_tasks: list[WorkflowTask] = []
    activity_tasks: list[ActivityTask] = []
    cancelled: list[Lease] = []
    is_look: bool = False


class Hint(Message, frozen=True, kw_only=True):
    """This queue has ready tasks. Ids only; never trusted for content."""

    count: int = 1
    oldest_ready_at: float = 0.0
