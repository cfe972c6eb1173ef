"""What can happen to a run. Past tense, data only.

`Recorded` facts are history; the others change rows that replay never sees.
"""

from __future__ import annotations

import msgspec

from holdfast.wire.events import AnyEvent
from holdfast.wire.failures import Failure


class Fact(msgspec.Struct, frozen=True):
    """Root of the facts."""


class Recorded(Fact, frozen=True):
    """An event took the next number of the run's history."""

    event: AnyEvent


class TaskOpened(Fact, frozen=True):
    """The run has something to react to: a workflow task became ready, or will in so many seconds."""

    delay_s: float = 0.0


class TaskHastened(Fact, frozen=True):
    """The run need not wait for the end of its start delay."""


class TaskFreed(Fact, frozen=True):
    """The worker that has the run in its cache is gone: the ready workflow task is anybody's."""


class TaskLeased(Fact, frozen=True):
    """A ready task was leased to a worker in the transaction that made it ready."""

    seq: int
    worker: str
    lease_s: float


class TaskReleased(Fact, frozen=True):
    """A lease ended without a report; the task is ready again. An expired one counts as an attempt."""

    seq: int
    is_expired: bool = False


class TaskAttemptFailed(Fact, frozen=True):
    """Workflow code could not be run; it is tried again at `ready_at`."""

    cause: str
    failure: Failure
    ready_at: float


class AttemptFailed(Fact, frozen=True):
    """An attempt of an activity failed; the next one may begin at `ready_at`."""

    seq: int
    failure: Failure
    ready_at: float


class Progressed(Fact, frozen=True):
    """A running activity told its progress."""

    seq: int
    details: bytes


class BatchKept(Fact, frozen=True):
    """Which report left the newest batch: activity `seq` (0: a workflow task) with `fence`."""

    seq: int
    fence: int


class RequestKept(Fact, frozen=True):
    """A client's request was carried out; the same id with the same hash is answered again."""

    request_id: str
    hash: bytes


AnyFact = (
    Recorded
    | TaskOpened
    | TaskHastened
    | TaskFreed
    | TaskLeased
    | TaskReleased
    | TaskAttemptFailed
    | AttemptFailed
    | Progressed
    | BatchKept
    | RequestKept
)
