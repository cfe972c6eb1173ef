"""The rows that a decision looks at, and the working state of one run within a batch.

The structs mirror the tables in `schemas/postgres/`; times are epoch seconds of the
database's clock. They are mutable because `evolve` folds facts onto them; only the
engine's batch holds a state, and only for the time of one transaction.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import msgspec

from holdfast.wire.events import Event
from holdfast.wire.failures import Failure, RetryPolicy

PENDING = "PENDING"
RUNNING = "RUNNING"

# Settled states of an activity row; the open ones are PENDING and RUNNING.
COMPLETED = "COMPLETED"
FAILED = "FAILED"
CANCELLED = "CANCELLED"

TIMER_OPEN, TIMER_FIRED, TIMER_CANCELLED = 0, 1, 2


class Run(msgspec.Struct, kw_only=True):
    """The narrow, hot row of a run.

    `last_message_seq` is the newest signal or cancel request: a closing command that has not
    seen it is refused. `command_seq` is the highest number a command has used. `done_seq`/`done_fence` name the report whose batch was recorded
    last (`done_seq` 0: a workflow task; else a coalesced activity), `done_marker` its
    marker's number and `done_head` the batch's last: the same report again gets the same answer.
    """

    run_id: str
    namespace: str
    workflow_id: str
    workflow_type: str
    task_queue: str
    status: str = PENDING
    last_seq: int = 0
    last_at: float = 0.0
    last_message_seq: int = 0
    command_seq: int = 0
    fence: int = 0
    done_seq: int = 0
    done_fence: int = 0
    done_marker: int = 0
    done_head: int = 0
    open_activities: int = 0
    open_timers: int = 0
    is_cancel_requested: bool = False
    sticky_worker: str | None = None
    sticky_seq: int = 0
    task_failure: bytes | None = None
    task_failure_cause: str | None = None
    request_id: str = ""
    request_hash: bytes = b""
    created_at: float = 0.0
    closed_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether anything can still happen to the run."""
        return self.closed_at is None


class Task(msgspec.Struct, kw_only=True):
    """A piece of work that a worker can lease: the workflow task (`seq` 0) or activity `seq`.

    `worker` is the holder, or None while the task waits to be claimed (from `ready_at` on).
    `deadline` is the next moment at which something must be decided about the task.
    """

    run_id: str
    seq: int
    namespace: str
    task_queue: str
    ready_at: float
    fence: int = 0
    attempt: int = 1
    worker: str | None = None
    leased_at: float | None = None
    lease_until: float | None = None
    heartbeat_at: float | None = None
    start_to_close_s: float | None = None
    heartbeat_s: float | None = None
    start_by: float | None = None
    close_by: float | None = None
    deadline: float | None = None
    sticky_worker: str | None = None
    sticky_until: float | None = None


class Options(msgspec.Struct, frozen=True, array_like=True):
    """What an activity was scheduled with, as its row keeps it."""

    retry: RetryPolicy
    schedule_to_close_s: float | None = None
    schedule_to_start_s: float | None = None
    start_to_close_s: float | None = None
    heartbeat_s: float | None = None


class Activity(msgspec.Struct, kw_only=True):
    """An activity of a run; `scheduled_seq` is the event that holds its input."""

    run_id: str
    seq: int
    namespace: str
    activity_id: str
    name: str
    task_queue: str
    scheduled_seq: int
    options: Options
    scheduled_at: float
    status: str = PENDING
    attempt: int = 1
    is_cancel_requested: bool = False
    last_failure: Failure | None = None
    heartbeat_details: bytes = b""
    last_heartbeat_at: float | None = None
    closed_at: float | None = None
    closed_fence: int = 0


class Timer(msgspec.Struct, kw_only=True):
    """A timer of a run."""

    run_id: str
    seq: int
    fire_at: float
    state: int = TIMER_OPEN


class KeptRequest(msgspec.Struct, kw_only=True):
    """A mutating request that was carried out: the same id with the same hash is answered again."""

    namespace: str
    request_id: str
    hash: bytes
    run_id: str


class RunState(msgspec.Struct, kw_only=True):
    """One run within one batch: its rows as they are after what was decided so far.

    `activities`, `tasks` and `timers` hold the rows that the batch's requests name (and those it
    opened), by `seq`; the workflow task is `tasks.get(0)`. `events` are the new ones,
    numbered from `first_new_seq`. The `touched_…` sets say what `record` must write. `claim_only` are
    new activities that no answer may bring. `search_patch` and `memo_patch` are what changed in the run's search
    attributes and memo, None where a key goes.

    A state whose locks are not held has the `version` of the run's row in the database, and in `known_tasks` the
    fence and the holder of each task as they are believed to be there: it is written only if they still are.
    """

    run: Run
    is_new: bool = False
    first_new_seq: int = 0
    tasks: dict[int, Task] = {}
    activities: dict[int, Activity] = {}
    timers: dict[int, Timer] = {}
    events: list[tuple[float, Event]] = []
    requests: dict[str, KeptRequest] = {}
    new_requests: list[KeptRequest] = []
    is_touched: bool = False
    touched_tasks: set[int] = set()
    closed_tasks: set[int] = set()
    opened_tasks: set[int] = set()
    touched_activities: set[int] = set()
    opened_activities: set[int] = set()
    touched_timers: set[int] = set()
    opened_timers: set[int] = set()
    cancel_pushes: list[Task] = []
    claim_only: set[int] = set()
    search_patch: dict[str, Any] = {}
    memo_patch: dict[str, Any] = {}
    version: int = 0
    known_tasks: dict[int, tuple[int, str | None]] = {}

    @property
    def task(self) -> Task | None:
        """The open workflow task, leased or ready."""
        return self.tasks.get(0)

    @property
    def is_written(self) -> bool:
        """Whether the run's row is written: always, if one of a task or an activity is. Locks go by its version."""
        return bool(
            self.is_new
            or self.is_touched
            or self.opened_tasks
            or self.touched_tasks
            or self.closed_tasks
            or self.opened_activities
            or self.touched_activities
            or self.touched_timers
        )

    def as_known(self, version: int) -> RunState:
        """A copy for a later batch that holds no locks: what is open, as the rows with *version* have it."""
        tasks = {seq: copy(task) for seq, task in self.tasks.items()}
        activities = self.activities.items()
        return RunState(
            run=copy(self.run),
            first_new_seq=self.run.last_seq + 1,
            tasks=tasks,
            activities={seq: copy(row) for seq, row in activities if row.closed_at is None},
            timers={seq: copy(row) for seq, row in self.timers.items() if row.state == TIMER_OPEN},
            version=version,
            known_tasks={seq: (task.fence, task.worker) for seq, task in tasks.items()},
        )
