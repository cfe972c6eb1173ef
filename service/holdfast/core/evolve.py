"""What the rows of a run are after a fact. The only place where rows change.

`evolve` never refuses: whether a fact may happen was `decide`'s question. Rows it touches
are noted in the state's `touched_…` sets, which is all that `store.record` writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.core import facts as f
from holdfast.core import limits, search
from holdfast.core import state as s
from holdfast.wire import codec
from holdfast.wire import events as e
from holdfast.wire.failures import Failure

STICKY_S = 5.0
"""How long a ready workflow task is kept for the worker that has the run in its cache."""
FAILURE_BYTES = 64 * 1024
"""How much of a failure stands beside the run."""
PROGRESS_S = 10.0
"""How long a lease lasts at most after its activity told its progress; the worker's own heartbeat goes on extending it."""


def evolve(state: s.RunState, fact: f.AnyFact, now: float) -> None:
    """Fold *fact*, which happens at *now*, onto the rows of *state*."""
    match fact:
        case f.Recorded():
            _record(state, fact.event, now)
        case f.TaskOpened():
            _open_workflow_task(state, now + fact.delay_s)
        case f.TaskHastened():
            state.tasks[0].ready_at = now
            _touch_task(state, 0)
        case f.TaskFreed():
            task = state.tasks[0]
            task.sticky_worker = task.sticky_until = None
            _touch_task(state, 0)
        case f.TaskLeased():
            _lease(state, fact, now)
        case f.TaskReleased():
            _release(state, fact, now)
        case f.TaskAttemptFailed():
            _fail_workflow_task(state, fact)
        case f.AttemptFailed():
            _fail_attempt(state, fact)
        case f.Progressed():
            _progress(state, fact, now)
        case f.BatchKept():
            run = state.run
            run.done_seq, run.done_fence = fact.seq, fact.fence
            state.is_touched = True
        case f.RequestKept():
            kept = s.KeptRequest(
                namespace=state.run.namespace,
                request_id=fact.request_id,
                hash=fact.hash,
                run_id=state.run.run_id,
            )
            state.requests[fact.request_id] = kept
            state.new_requests.append(kept)


def deadline(task: s.Task) -> float | None:
    """The next moment at which something must be decided about *task*: its lease's end or a timeout."""
    moments = [task.close_by]
    if task.worker is None:
        moments.append(task.start_by)
    else:
        moments.append(task.lease_until)
        if task.start_to_close_s is not None and task.leased_at is not None:
            moments.append(task.leased_at + task.start_to_close_s)
        if task.heartbeat_s is not None and task.heartbeat_at is not None:
            moments.append(task.heartbeat_at + task.heartbeat_s)
    known = [moment for moment in moments if moment is not None]
    return min(known) if known else None


def _record(state: s.RunState, event: e.AnyEvent, now: float) -> None:
    run = state.run
    # Time never goes backwards within a history, whatever the clock did.
    at = max(now, run.last_at)
    run.last_seq += 1
    run.last_at = at
    state.events.append((at, event))
    state.is_touched = True
    apply = _APPLY.get(type(event))
    if apply is not None:
        apply(state, event, at)
    elif type(event) in e.CLOSING:
        _close_run(state, e.CLOSING[type(event)], at)


def _on_started(state: s.RunState, event: e.WorkflowStarted, at: float) -> None:
    search.note(state, event.search_attributes, event.memo)
    limit = limits.first_limit(event, at)
    if limit is not None:
        state.timers[limit.seq] = limit
        limit.run_id = state.run.run_id
        state.opened_timers.add(limit.seq)
        state.run.open_timers += 1


def _on_upserted(state: s.RunState, event: Any, at: float) -> None:
    if isinstance(event, e.MemoUpserted):
        search.note(state, b"", event.memo)
    else:
        search.note(state, event.search_attributes, b"")


def _on_batch(state: s.RunState, event: e.WorkflowTaskCompleted, at: float) -> None:
    run = state.run
    run.status = s.RUNNING
    run.done_marker = run.last_seq
    run.done_head = run.last_seq + event.events
    run.task_failure = run.task_failure_cause = None
    run.sticky_worker = event.worker or None
    # The worker knows its own batch; it lacks what arrived between what it saw and the marker.
    is_complete = event.seen_seq == run.last_seq - 1
    run.sticky_seq = run.last_seq + event.events if is_complete else event.seen_seq
    if state.task is not None:
        _close_task(state, 0)


def _on_activity_scheduled(state: s.RunState, event: e.ActivityScheduled, at: float) -> None:
    run = state.run
    options = s.Options(
        event.retry,
        event.schedule_to_close_s,
        event.schedule_to_start_s,
        event.start_to_close_s,
        event.heartbeat_s,
    )
    state.activities[event.seq] = s.Activity(
        run_id=run.run_id,
        seq=event.seq,
        namespace=run.namespace,
        activity_id=event.activity_id,
        name=event.name,
        task_queue=event.task_queue,
        scheduled_seq=run.last_seq,
        options=options,
        scheduled_at=at,
    )
    close_by = None if event.schedule_to_close_s is None else at + event.schedule_to_close_s
    task = s.Task(
        run_id=run.run_id,
        seq=event.seq,
        namespace=run.namespace,
        task_queue=event.task_queue,
        ready_at=at,
        start_to_close_s=event.start_to_close_s,
        heartbeat_s=event.heartbeat_s,
        start_by=None if event.schedule_to_start_s is None else at + event.schedule_to_start_s,
        close_by=close_by,
    )
    task.deadline = deadline(task)
    state.tasks[event.seq] = task
    state.opened_tasks.add(event.seq)
    state.opened_activities.add(event.seq)
    run.open_activities += 1
    run.command_seq = max(run.command_seq, event.seq)


_SETTLED: dict[type[e.Event], str] = {e.ActivityCompleted: s.COMPLETED, e.ActivityCancelled: s.CANCELLED}


def _on_activity_closed(state: s.RunState, event: Any, at: float) -> None:
    activity = state.activities[event.seq]
    activity.status = _SETTLED.get(type(event), s.FAILED)
    activity.closed_at = at
    task = state.tasks.get(event.seq)
    if task is not None:
        # The report that settles an activity may come again; what the clock or the run itself settled
        # was nobody's report, and the one that comes late is refused.
        is_unreported = isinstance(event, e.ActivityTimedOut) or (
            isinstance(event, e.ActivityCancelled) and task.worker is None
        )
        activity.closed_fence = 0 if is_unreported else task.fence
        _close_task(state, event.seq)
    state.touched_activities.add(event.seq)
    state.run.open_activities -= 1


def _on_cancel_activity(state: s.RunState, event: e.ActivityCancelRequested, at: float) -> None:
    activity = state.activities[event.seq]
    activity.is_cancel_requested = True
    state.touched_activities.add(event.seq)
    task = state.tasks.get(event.seq)
    if task is not None and task.worker is not None:
        state.cancel_pushes.append(task)


def _on_timer_started(state: s.RunState, event: e.TimerStarted, at: float) -> None:
    state.timers[event.seq] = s.Timer(run_id=state.run.run_id, seq=event.seq, fire_at=event.fire_at)
    state.opened_timers.add(event.seq)
    state.run.open_timers += 1
    state.run.command_seq = max(state.run.command_seq, event.seq)


def _on_timer_closed(state: s.RunState, event: Any, at: float) -> None:
    timer = state.timers[event.seq]
    timer.state = s.TIMER_FIRED if isinstance(event, e.TimerFired) else s.TIMER_CANCELLED
    state.touched_timers.add(event.seq)
    state.run.open_timers -= 1


def _on_message(state: s.RunState, event: Any, at: float) -> None:
    state.run.last_message_seq = state.run.last_seq
    if isinstance(event, e.WorkflowCancelRequested):
        state.run.is_cancel_requested = True


_APPLY: dict[type[e.Event], Callable[[s.RunState, Any, float], None]] = {
    e.WorkflowStarted: _on_started,
    e.SearchAttributesUpserted: _on_upserted,
    e.MemoUpserted: _on_upserted,
    e.WorkflowTaskCompleted: _on_batch,
    e.ActivityScheduled: _on_activity_scheduled,
    e.ActivityCompleted: _on_activity_closed,
    e.ActivityFailed: _on_activity_closed,
    e.ActivityTimedOut: _on_activity_closed,
    e.ActivityCancelled: _on_activity_closed,
    e.ActivityCancelRequested: _on_cancel_activity,
    e.TimerStarted: _on_timer_started,
    e.TimerFired: _on_timer_closed,
    e.TimerCancelled: _on_timer_closed,
    e.SignalReceived: _on_message,
    e.WorkflowCancelRequested: _on_message,
}


def _close_run(state: s.RunState, status: str, at: float) -> None:
    run = state.run
    run.status = status
    run.closed_at = at
    run.sticky_worker = None
    if state.task is not None:
        _close_task(state, 0)


def _open_workflow_task(state: s.RunState, now: float) -> None:
    run = state.run
    state.tasks[0] = s.Task(
        run_id=run.run_id,
        seq=0,
        namespace=run.namespace,
        task_queue=run.task_queue,
        ready_at=now,
        # One past every fence that was ever held, so that no old report fits a task nobody has yet.
        fence=run.fence + 1,
        sticky_worker=run.sticky_worker,
        sticky_until=None if run.sticky_worker is None else now + STICKY_S,
    )
    state.closed_tasks.discard(0)
    state.opened_tasks.add(0)


def _close_task(state: s.RunState, seq: int) -> None:
    task = state.tasks.pop(seq)
    if seq == 0:
        state.run.fence = max(state.run.fence, task.fence)
    if seq in state.opened_tasks:
        state.opened_tasks.discard(seq)
        if not (seq == 0 and not state.is_new):
            return
    state.touched_tasks.discard(seq)
    state.closed_tasks.add(seq)


def _lease(state: s.RunState, fact: f.TaskLeased, now: float) -> None:
    task = state.tasks[fact.seq]
    task.worker = fact.worker
    task.fence += 1
    task.leased_at = task.heartbeat_at = now
    task.lease_until = now + fact.lease_s
    task.sticky_worker = task.sticky_until = None
    task.deadline = deadline(task)
    _touch_task(state, fact.seq)
    if fact.seq == 0 and state.run.status == s.PENDING:
        state.run.status = s.RUNNING
        state.is_touched = True


def _unlease(task: s.Task, ready_at: float) -> None:
    task.worker = task.leased_at = task.lease_until = task.heartbeat_at = None
    task.sticky_worker = task.sticky_until = None
    task.ready_at = ready_at
    task.deadline = deadline(task)


def _release(state: s.RunState, fact: f.TaskReleased, now: float) -> None:
    task = state.tasks[fact.seq]
    _unlease(task, now)
    if fact.is_expired:
        task.attempt += 1
    if fact.seq == 0 and state.run.sticky_worker is not None:
        state.run.sticky_worker = None
        state.is_touched = True
    _touch_task(state, fact.seq)


def _fail_workflow_task(state: s.RunState, fact: f.TaskAttemptFailed) -> None:
    task = state.tasks[0]
    _unlease(task, fact.ready_at)
    task.attempt += 1
    run = state.run
    run.task_failure = _in_short(fact.failure)
    run.task_failure_cause = fact.cause
    run.sticky_worker = None
    if run.status == s.PENDING:
        run.status = s.RUNNING
    state.is_touched = True
    _touch_task(state, 0)


def _in_short(failure: Failure) -> bytes:
    """*failure* as the run's row keeps it; the row is read and written with every change, the event keeps it whole."""
    encoded = codec.encode(failure)
    if len(encoded) <= FAILURE_BYTES:
        return encoded
    message, stack = failure.message[: FAILURE_BYTES // 8], failure.stack[-FAILURE_BYTES // 8 :]
    return codec.encode(Failure(message=message, kind=failure.kind, type=failure.type, stack=stack))


def _fail_attempt(state: s.RunState, fact: f.AttemptFailed) -> None:
    task, activity = state.tasks[fact.seq], state.activities[fact.seq]
    _unlease(task, fact.ready_at)
    # A late report of the attempt that just failed must not count.
    task.fence += 1
    task.attempt += 1
    # Schedule-to-start is about the first start only.
    task.start_by = None
    task.deadline = deadline(task)
    activity.attempt = task.attempt
    activity.last_failure = fact.failure
    state.touched_activities.add(fact.seq)
    _touch_task(state, fact.seq)


def _progress(state: s.RunState, fact: f.Progressed, now: float) -> None:
    activity = state.activities[fact.seq]
    activity.heartbeat_details = fact.details
    activity.last_heartbeat_at = now
    state.touched_activities.add(fact.seq)
    task = state.tasks[fact.seq]
    # The lease may have been extended since: then this is the time since then as well, and means nothing.
    lease_s = min((task.lease_until or now) - (task.heartbeat_at or task.leased_at or now), PROGRESS_S)
    task.heartbeat_at = now
    task.lease_until = max(task.lease_until or now, now + lease_s)
    task.deadline = deadline(task)
    _touch_task(state, fact.seq)


def _touch_task(state: s.RunState, seq: int) -> None:
    if seq not in state.opened_tasks:
        state.touched_tasks.add(seq)
