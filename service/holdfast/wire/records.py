"""The records of the store contract: what `holdfast.store.Store` takes and gives. Data only.

Times are epoch seconds. What is called `input`, `result`, `payload`, `state_json`, `search_attributes`, `memo` or
`details` is JSON text, kept byte for byte. `id` numbers are given by the store: None before a record is written.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

OPEN_STATUSES: Final = ("PENDING", "RUNNING", "WAITING")
TERMINAL_STATUSES: Final = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMED_OUT",
    "TERMINATED",
    "CONTINUED_AS_NEW",
)
WORKFLOW_STATUSES: Final = (*OPEN_STATUSES, *TERMINAL_STATUSES)
ACTIVITY_STATUSES: Final = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")
OVERLAP_POLICIES: Final = ("skip", "queue", "cancel_old", "terminate_old", "allow_all")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Root of the records."""


class NamespaceRecord(Record, frozen=True, kw_only=True):
    """A namespace."""

    name: str
    created_at: float


class NamespaceStats(Record, frozen=True, kw_only=True):
    """How many workflows a namespace has, in all and by status, and how many schedules and workers."""

    namespace: str
    total_workflows: int = 0
    running: int = 0
    pending: int = 0
    waiting: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    timed_out: int = 0
    terminated: int = 0
    schedules: int = 0
    workers: int = 0


class WorkflowRecord(Record, frozen=True, kw_only=True):
    """A run of a workflow. Without `run_id` the store gives one that is newer than every other run of the id."""

    id: str
    namespace: str = "main"
    run_id: str | None = None
    workflow_type: str
    task_queue: str = "main"
    status: str = "PENDING"
    input: str | None = None
    result: str | None = None
    error: str | None = None
    parent_id: str | None = None
    claimed_by: str | None = None
    search_attributes: str | None = None
    memo: str | None = None
    archived_at: float | None = None
    archive_uri: str | None = None
    created_at: float
    updated_at: float
    completed_at: float | None = None


class WorkflowEvent(Record, frozen=True, kw_only=True):
    """An entry of a run's history; `seq` counts from 1."""

    id: int | None = None
    workflow_id: str
    seq: int
    event_type: str
    payload: str | None = None
    timestamp: float


class WorkflowActivity(Record, frozen=True, kw_only=True):
    """An activity of a run; `seq` is its number in the run. Durations are seconds."""

    id: int | None = None
    workflow_id: str
    seq: int
    name: str
    task_queue: str = "main"
    input: str | None = None
    status: str = "PENDING"
    result: str | None = None
    error: str | None = None
    attempt: int = 1
    max_attempts: int = 3
    initial_interval_secs: float = 1.0
    backoff_coefficient: float = 2.0
    max_interval_secs: float | None = None
    start_to_close_secs: float = 300.0
    schedule_to_start_secs: float | None = None
    schedule_to_close_secs: float | None = None
    heartbeat_timeout_secs: float | None = None
    heartbeat_details: str | None = None
    claimed_by: str | None = None
    scheduled_at: float
    started_at: float | None = None
    completed_at: float | None = None
    last_heartbeat: float | None = None


class WorkflowTimer(Record, frozen=True, kw_only=True):
    """A timer of a run. A cancelled one reads as fired."""

    id: int | None = None
    workflow_id: str
    seq: int
    fire_at: float
    fired: bool = False


class WorkflowSignal(Record, frozen=True, kw_only=True):
    """A signal to a run."""

    id: int | None = None
    workflow_id: str
    name: str
    payload: str | None = None
    consumed: bool = False
    received_at: float
    request_id: str | None = None


class WorkflowSchedule(Record, frozen=True, kw_only=True):
    """What starts workflows by the calendar."""

    name: str
    namespace: str = "main"
    workflow_type: str
    cron_expr: str
    timezone: str = "UTC"
    input: str | None = None
    task_queue: str = "main"
    overlap_policy: str = "skip"
    paused: bool = False
    catchup_window_secs: float = 60
    jitter_secs: float = 0
    last_run_at: float | None = None
    next_run_at: float | None = None
    last_workflow_id: str | None = None
    created_at: float


class SchedulePatch(Record, frozen=True, kw_only=True):
    """Changes of a schedule; what is UNSET stays as it is. `input=None` clears the input."""

    workflow_type: str | msgspec.UnsetType = msgspec.UNSET
    cron_expr: str | msgspec.UnsetType = msgspec.UNSET
    timezone: str | msgspec.UnsetType = msgspec.UNSET
    input: str | msgspec.UnsetType | None = msgspec.UNSET
    task_queue: str | msgspec.UnsetType = msgspec.UNSET
    overlap_policy: str | msgspec.UnsetType = msgspec.UNSET
    catchup_window_secs: float | msgspec.UnsetType = msgspec.UNSET
    jitter_secs: float | msgspec.UnsetType = msgspec.UNSET


class WorkflowWorker(Record, frozen=True, kw_only=True):
    """A worker process; None for `workflows` or `activities` means that it did not say which it knows."""

    id: str
    namespace: str = "main"
    identity: str = ""
    task_queue: str = "main"
    workflows: list[str] | None = None
    activities: list[str] | None = None
    max_concurrent_workflows: int = 10
    max_concurrent_activities: int = 10
    active_tasks: int = 0
    last_heartbeat: float
    registered_at: float


class WorkflowSnapshot(Record, frozen=True, kw_only=True):
    """The state of a run after event `event_seq`."""

    workflow_id: str
    event_seq: int
    state_json: str
    created_at: float


class QueueStats(Record, frozen=True, kw_only=True):
    """What a task queue has to do. `oldest_ready_age_secs` is None when nothing is ready."""

    queue: str
    pending_activities: int = 0
    running_activities: int = 0
    pending_workflow_tasks: int = 0
    running_workflow_tasks: int = 0
    oldest_ready_age_secs: float | None = None
    workers: int = 0


class ApiKeyRecord(Record, frozen=True, kw_only=True):
    """An API key, never with its hash."""

    prefix: str
    label: str | None = None
    created_at: float
    namespace: str | None = None
    scopes: list[str] = []
    expires_at: float | None = None
    last_used_at: float | None = None
    revoked_at: float | None = None


class JournalEntry(Record, frozen=True, kw_only=True):
    """A change that is not history, as `hf.journal.<namespace>.<record>` tells it.

    *fact* is what happened, in the past tense; *record* the kind of thing, *key* its name; *fields* what is new.
    """

    fact: str
    record: str
    key: str
    at: float = 0.0
    fields: dict[str, Any] = {}
