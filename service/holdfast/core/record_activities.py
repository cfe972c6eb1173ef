"""What may become of an activity that was written through the store contract. Pure.

Each function gives the activity as it is afterwards, or None when nothing changes.
"""

from __future__ import annotations

import msgspec

from holdfast.exceptions import AlreadyExists, Refused
from holdfast.wire.records import WorkflowActivity

PENDING, RUNNING = "PENDING", "RUNNING"
COMPLETED, FAILED, CANCELLED = "COMPLETED", "FAILED", "CANCELLED"


def check_is_same(found: WorkflowActivity, wanted: WorkflowActivity) -> None:
    """Raise `AlreadyExists` unless *wanted*, of the same run and number, asks for what was *found* there."""
    if (found.name, found.task_queue) != (wanted.name, wanted.task_queue):
        raise AlreadyExists(
            f"activity {found.seq} of workflow {found.workflow_id!r} is {found.name!r} on queue "
            f"{found.task_queue!r}, not {wanted.name!r} on {wanted.task_queue!r}: use another seq"
        )


def settle(
    activity: WorkflowActivity, *, result: str | None, error: str | None, failed: bool, now: float
) -> WorkflowActivity | None:
    """The activity with its outcome; None if it has this very outcome already.

    The first settlement wins: raises `Refused` if another one came before, a cancellation included.
    """
    status = FAILED if failed else COMPLETED
    if activity.status in (PENDING, RUNNING):
        return msgspec.structs.replace(activity, status=status, result=result, error=error, completed_at=now)
    if (activity.status, activity.result, activity.error) == (status, result, error):
        return None
    raise Refused(
        f"activity {activity.id} ({activity.name!r}) is {activity.status} already and cannot become "
        f"{status}{' with another outcome' if activity.status == status else ''}: the first settlement is final"
    )


def requeue(activity: WorkflowActivity, attempt: int, scheduled_at: float) -> WorkflowActivity | None:
    """The activity waiting for attempt number *attempt*, not before *scheduled_at*; None if it does already.

    What the last attempt reported by heartbeat stays for the next one. One that waits gets the new number and
    time. Raises `Refused` when it completed or was cancelled.
    """
    if activity.status in (COMPLETED, CANCELLED):
        raise Refused(
            f"activity {activity.id} ({activity.name!r}) is {activity.status}: only one that runs or failed is tried again"
        )
    again = msgspec.structs.replace(
        activity,
        status=PENDING,
        attempt=attempt,
        scheduled_at=scheduled_at,
        claimed_by=None,
        started_at=None,
        completed_at=None,
        last_heartbeat=None,
        result=None,
        error=None,
    )
    return None if again == activity else again


def beat(
    activity: WorkflowActivity, details: str | None, now: float, worker: str | None
) -> WorkflowActivity | None:
    """The activity after a sign of life; None if it does not run, or not for *worker* (None: whoever has it).

    Without *details*, those of the last heartbeat stay.
    """
    if not is_held(activity, worker):
        return None
    kept = activity.heartbeat_details if details is None else details
    return msgspec.structs.replace(activity, last_heartbeat=now, heartbeat_details=kept)


def is_held(activity: WorkflowActivity, worker: str | None) -> bool:
    """Whether the activity runs, and for *worker* unless that is None."""
    return activity.status == RUNNING and worker in (None, activity.claimed_by)


def deadline(activity: WorkflowActivity) -> float | None:
    """The moment after which the running attempt has timed out; None when it does not run, or never started."""
    if activity.status != RUNNING:
        return None
    started, last, timeout = activity.started_at, activity.last_heartbeat, activity.heartbeat_timeout_secs
    alive = started if last is None else last
    ends = [
        *([] if started is None else [started + activity.start_to_close_secs]),
        *([] if alive is None or timeout is None else [alive + timeout]),
    ]
    return min(ends, default=None)
