"""The model's activities, timers and signals. The rules of an activity are the core's own."""

from __future__ import annotations

import math

from holdfast.core import record_activities as rules
from holdfast.exceptions import Invalid
from holdfast.store.contract.door import (
    check_json,
    check_moment,
    check_moment_if_any,
    check_number,
    check_unicode,
)
from holdfast.wire import codec
from holdfast.wire.records import (
    ACTIVITY_STATUSES,
    WorkflowActivity,
    WorkflowSignal,
    WorkflowTimer,
)
from tests.contract.model_state import Run, State, replace

DURATIONS = (
    *("initial_interval_secs", "backoff_coefficient", "max_interval_secs", "start_to_close_secs"),
    *("schedule_to_start_secs", "schedule_to_close_secs", "heartbeat_timeout_secs"),
)

# -- activities ------------------------------------------------------------------------------------


def _check_activity(activity: WorkflowActivity) -> None:
    codec.check_text("name", activity.name)
    codec.check_text("task_queue", activity.task_queue)
    if activity.claimed_by is not None:
        codec.check_text("claimed_by", activity.claimed_by)
    if activity.status not in ACTIVITY_STATUSES:
        raise Invalid(activity.status)
    for field in ("seq", "attempt", "max_attempts"):
        check_number(field, getattr(activity, field), 0, codec.SEQ_MAX)
    for field in ("input", "result", "heartbeat_details"):
        check_json(field, getattr(activity, field))
    check_unicode("error", activity.error)
    for field in DURATIONS:
        seconds = getattr(activity, field)
        if seconds is not None and not (math.isfinite(seconds) and 0 <= seconds <= 1e12):
            raise Invalid(field)
    for field in ("scheduled_at", "started_at", "completed_at", "last_heartbeat"):
        check_moment_if_any(field, getattr(activity, field))


async def create_activity(
    self: State, activity: WorkflowActivity, *, namespace: str = "main", run_id: str | None = None
) -> int:
    _check_activity(activity)
    run = self.known(namespace, activity.workflow_id, run_id)
    found = run.activities.get(activity.seq)
    if found is not None:
        rules.check_is_same(found, activity)
        return found.id or 0
    made = replace(activity, id=self.number())
    run.activities[activity.seq] = made
    self.changed()
    return made.id or 0


async def get_activity(self: State, id: int) -> WorkflowActivity | None:
    found = self.activity(id)
    return found and found[1]


async def get_activity_by_workflow_seq(
    self: State, workflow_id: str, seq: int, *, namespace: str = "main", run_id: str | None = None
) -> WorkflowActivity | None:
    run = self.find(namespace, workflow_id, run_id)
    return None if run is None else run.activities.get(seq)


async def claim_activity(
    self: State, task_queue: str, worker_id: str, *, namespace: str = "main"
) -> WorkflowActivity | None:
    for field, text in (("task_queue", task_queue), ("worker_id", worker_id), ("namespace", namespace)):
        codec.check_text(field, text)
    now, wall = self.now(), self.wall(worker_id, namespace)
    names, slots = self.slots(worker_id, "activities")
    if sum(a.claimed_by == worker_id and a.status == "RUNNING" for _, a in self.all_activities()) >= slots:
        return None
    due = [
        (activity.scheduled_at, activity.id or 0, run, activity)
        for run, activity in self.all_activities()
        if run.record.namespace == wall
        and not run.is_closed
        and activity.task_queue == task_queue
        and activity.status == "PENDING"
        and activity.scheduled_at <= now
        and (names is None or activity.name in names)
    ]
    if not due:
        return None
    _, _, run, activity = min(due, key=lambda item: item[:2])
    claimed = replace(
        activity,
        status="RUNNING",
        claimed_by=worker_id,
        started_at=now,
        completed_at=None,
        last_heartbeat=None,
    )
    return _write(self, run, claimed)


def _write(self: State, run: Run, activity: WorkflowActivity) -> WorkflowActivity:
    run.activities[activity.seq] = activity
    self.changed()
    return activity


async def requeue_activity_for_retry(
    self: State, id: int, next_attempt: int, next_scheduled_at: float
) -> None:
    check_number("next_attempt", next_attempt, 0, codec.SEQ_MAX)
    check_moment("next_scheduled_at", next_scheduled_at)
    found = self.activity(id)
    if found is None:
        return
    run, activity = found
    again = rules.requeue(activity, next_attempt, next_scheduled_at)
    if again is not None:
        run.stopping.discard(activity.seq)
        _write(self, run, again)


async def complete_activity(
    self: State, id: int, result: str | None, error: str | None, failed: bool
) -> None:
    check_json("result", result)
    check_unicode("error", error)
    found = self.activity(id)
    if found is None:
        return
    settled = rules.settle(found[1], result=result, error=error, failed=failed, now=self.now())
    if settled is not None:
        _write(self, found[0], settled)


async def heartbeat_activity(
    self: State, id: int, details: str | None, *, worker_id: str | None = None
) -> bool:
    check_json("details", details)
    found = self.activity(id)
    if found is None:
        return True
    run, activity = found
    alive = rules.beat(activity, details, self.now(), worker_id)
    if alive is not None:
        _write(self, run, alive)
    return alive is None or activity.seq in run.stopping or run.is_closed


async def get_timed_out_activities(
    self: State, now: float, *, limit: int | None = None, namespace: str | None = None
) -> list[WorkflowActivity]:
    check_moment("now", now)
    over = []
    for run, activity in self.all_activities():
        at = rules.deadline(activity)
        if at is not None and at < now and namespace in (None, run.record.namespace):
            over.append((at, activity.id or 0, activity))
    return [activity for _, _, activity in sorted(over, key=lambda item: item[:2])][:limit]


async def cancel_pending_activities(
    self: State, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> int:
    run = self.find(namespace, workflow_id, run_id)
    if run is None:
        return 0
    pending = [activity for activity in run.activities.values() if activity.status == "PENDING"]
    for activity in pending:
        _write(self, run, replace(activity, status="CANCELLED", completed_at=self.now()))
    running = {activity.seq for activity in run.activities.values() if activity.status == "RUNNING"}
    self.changed(len(running - run.stopping))
    run.stopping |= running
    return len(pending)


# -- timers ----------------------------------------------------------------------------------------


async def cancel_pending_timers(
    self: State, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> int:
    run = self.find(namespace, workflow_id, run_id)
    if run is None:
        return 0
    pending = [timer for timer in run.timers.values() if not timer.fired]
    for timer in pending:
        run.timers[timer.seq] = replace(timer, fired=True)
        run.timer_states[timer.seq] = "cancelled"
    self.changed(len(pending))
    return len(pending)


async def create_timer(
    self: State, timer: WorkflowTimer, *, namespace: str = "main", run_id: str | None = None
) -> int:
    check_number("seq", timer.seq, 0, codec.SEQ_MAX)
    check_moment("fire_at", timer.fire_at)
    run = self.known(namespace, timer.workflow_id, run_id)
    known = run.timers.get(timer.seq)
    if known is not None:
        return known.id or 0
    made = replace(timer, id=self.number())
    run.timers[timer.seq] = made
    run.timer_states[timer.seq] = "fired" if timer.fired else "open"
    self.changed()
    return made.id or 0


async def get_timer_by_workflow_seq(
    self: State, workflow_id: str, seq: int, *, namespace: str = "main", run_id: str | None = None
) -> WorkflowTimer | None:
    run = self.find(namespace, workflow_id, run_id)
    return None if run is None else run.timers.get(seq)


async def fire_due_timers(
    self: State, now: float, *, limit: int = 1_000, namespace: str | None = None
) -> list[WorkflowTimer]:
    check_moment("now", now)
    if namespace is not None:
        codec.check_text("namespace", namespace)
    check_number("limit", limit, 1, 10_000)
    due = [
        (timer.fire_at, timer.id or 0, run, timer)
        for run in self.runs.values()
        for timer in run.timers.values()
        if not timer.fired
        and timer.fire_at <= now
        and not run.is_closed
        and run.record.namespace in self.namespaces
        and namespace in (None, run.record.namespace)
    ]
    fired = []
    for _, _, run, timer in sorted(due, key=lambda item: item[:2])[:limit]:
        run.timers[timer.seq] = replace(timer, fired=True)
        run.timer_states[timer.seq] = "fired"
        fired.append(run.timers[timer.seq])
    self.changed(len(fired))
    return fired


# -- signals ---------------------------------------------------------------------------------------


async def send_signal(
    self: State, signal: WorkflowSignal, *, namespace: str = "main", run_id: str | None = None
) -> int:
    codec.check_text("name", signal.name)
    check_json("payload", signal.payload)
    check_moment("received_at", signal.received_at)
    if signal.request_id is not None:
        codec.check_text("request_id", signal.request_id)
    run = self.known(namespace, signal.workflow_id, run_id)
    for known in run.signals:
        if signal.request_id is not None and known.request_id == signal.request_id:
            return known.id or 0
    made = replace(signal, id=self.number())
    run.signals.append(made)
    self.changed()
    return made.id or 0


async def consume_signals(
    self: State, workflow_id: str, name: str, *, namespace: str = "main", run_id: str | None = None
) -> list[WorkflowSignal]:
    codec.check_text("name", name)
    run = self.find(namespace, workflow_id, run_id)
    if run is None:
        return []
    taken = [replace(s, consumed=True) for s in run.signals if s.name == name and not s.consumed]
    by_id = {signal.id: signal for signal in taken}
    run.signals = [by_id.get(signal.id, signal) for signal in run.signals]
    self.changed(len(taken))
    return taken
