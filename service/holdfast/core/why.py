"""Why a run does not move on, in one sentence made of its rows. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from holdfast.wire import messages as m


def why_not(run: m.Description, now: float, is_served: Callable[[str], bool]) -> str:
    """The one sentence; *is_served* tells whether a worker of a task queue was heard of lately."""
    summary = run.summary
    if summary.closed_at is not None:
        return f"It is closed: {summary.status} at {_at(summary.closed_at)}."
    if run.task_attempt > 1 and run.task_failure_cause is not None:
        told = f": {run.task_failure.message}" if run.task_failure and run.task_failure.message else ""
        then = (
            "a worker is trying again" if run.next_task_at is None else f"next try at {_at(run.next_task_at)}"
        )
        return f"Its workflow task fails ({run.task_failure_cause}, attempt {run.task_attempt - 1}){told}; {then}."
    if run.task_attempt and run.next_task_at is None:
        return "It moves: a worker has its workflow task."
    if run.next_task_at is not None and run.next_task_at > now:
        return f"It starts at {_at(run.next_task_at)}, when its start delay ends."
    if run.next_task_at is not None:
        return _ready("its workflow task", summary.task_queue, is_served)
    if run.activities:
        return _activity(run, now, is_served)
    if run.timers:
        timer = min(run.timers, key=lambda timer: timer.fire_at)
        more = f", the first of {len(run.timers)}" if len(run.timers) > 1 else ""
        return f"It waits for timer {timer.seq} until {_at(timer.fire_at)}{more}."
    return "It waits for a signal: no activity, timer or task of it is open."


def _activity(run: m.Description, now: float, is_served: Callable[[str], bool]) -> str:
    # The one that is worst off says most.
    activity = max(run.activities, key=lambda found: (found.attempt, found.state == "scheduled", -found.seq))
    more = f" and {len(run.activities) - 1} more" if len(run.activities) > 1 else ""
    failure = activity.last_failure
    last = f"; the last failed with {failure.type or failure.kind}: {failure.message}" if failure else ""
    what = f"activity {activity.name} (attempt {activity.attempt}{last}){more}"
    if activity.worker is not None:
        return f"It waits for {what}, which runs on worker {activity.worker}."
    if activity.next_attempt_at is not None and activity.next_attempt_at > now:
        return f"It waits for {what}, which is tried next at {_at(activity.next_attempt_at)}."
    return _ready(what, activity.task_queue, is_served)


def _ready(what: str, queue: str, is_served: Callable[[str], bool]) -> str:
    if is_served(queue):
        return f"It waits for {what}: ready, but every worker of queue {queue!r} is busy or about to take it."
    return f"It waits for {what}: ready, but no worker of queue {queue!r} has been heard of lately."


def _at(epoch_s: float) -> str:
    return f"{datetime.fromtimestamp(epoch_s, UTC):%Y-%m-%d %H:%M:%SZ}"
