"""The one function that decides what follows from a request. Pure.

`decide(state, request, now)` returns the facts, in order, and the answer; or raises one of
the service's errors, and then nothing happened. It looks only at the rows in *state*.
"""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.core import facts as f
from holdfast.core import limits, retry, search
from holdfast.core import state as s
from holdfast.core.batch import batch_facts, has_closing
from holdfast.core.requests import Ask, ExpireTask, FireTimer, OpenRun, Request
from holdfast.exceptions import AlreadyExists, Invalid, LeaseLost, NotFound, Refused
from holdfast.wire import events as e
from holdfast.wire import failures
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure

EVENTS_MAX = 50_000


class Decision(msgspec.Struct, frozen=True):
    """The facts that follow, and what to tell the caller.

    `refusal` is an error to raise to the caller although the facts happen (a closing
    command that has not seen a signal gives its task back).
    """

    facts: list[f.AnyFact]
    answer: Any = None
    refusal: Refused | None = None


def decide(state: s.RunState, request: Request, now: float) -> Decision:
    """The facts that follow from *request* at *now*, or an error if it must not happen."""
    if not state.run.last_seq:
        raise Refused(
            f"workflow {state.run.workflow_id!r} (run {state.run.run_id}) was written through the store contract "
            "and has no history to go on with: change it through the store"
        )
    match request:
        case m.CompleteActivity():
            return _complete_activity(state, request, now)
        case m.CompleteWorkflowTask():
            return _complete_workflow_task(state, request, now)
        case m.FailActivity():
            return _fail_activity(state, request, now)
        case m.CancelActivity():
            return _cancel_activity(state, request)
        case m.FailWorkflowTask():
            return _fail_workflow_task(state, request, now)
        case m.ReleaseTask():
            return _release_task(state, request)
        case m.ActivityHeartbeat():
            return _heartbeat(state, request)
        case Ask():
            return _ask(state, request, now)
        case FireTimer():
            return _fire_timer(state, request, now)
        case ExpireTask():
            return _expire_task(state, request, now)


def open_run(request: OpenRun, now: float) -> s.RunState | m.Started:
    """The state of a new run, or the existing run that answers the request.

    Raises `AlreadyExists` as the id policies demand, `Refused` when the request id was
    used before with another body. An open run that "terminate_existing" is to end has been
    ended in the same batch before this is asked.
    """
    start, newest = request.start, request.newest
    if request.repeat is not None:
        if request.repeat.request_hash != request.hash:
            raise Refused(
                f"request {start.request_id!r} already started run {request.repeat.run_id} with another body: "
                "use a new request id for a new request"
            )
        return m.Started(workflow_id=start.workflow_id, run_id=request.repeat.run_id, is_new=False)
    if newest is not None:
        if newest.is_open:
            if start.id_conflict == "use_existing":
                return m.Started(workflow_id=start.workflow_id, run_id=newest.run_id, is_new=False)
            if start.id_conflict != "terminate_existing":
                raise _already_started(newest, "is open")
        elif start.id_reuse == "reject" or (
            start.id_reuse == "allow_if_failed" and newest.status == s.COMPLETED
        ):
            raise _already_started(
                newest, f"ended as {newest.status}, and the id reuse policy is {start.id_reuse!r}"
            )
    return s.RunState(
        run=s.Run(
            run_id=request.run_id,
            namespace="",
            workflow_id=start.workflow_id,
            workflow_type=start.workflow_type,
            task_queue=start.task_queue,
            request_id=start.request_id,
            request_hash=request.hash,
            created_at=now,
        ),
        is_new=True,
    )


def first_facts(start: m.Start) -> list[f.AnyFact]:
    """What happens to a run that `open_run` allowed."""
    started = e.WorkflowStarted(
        workflow_id=start.workflow_id,
        workflow_type=start.workflow_type,
        task_queue=start.task_queue,
        input=start.input,
        request_id=start.request_id,
        identity=start.identity,
        execution_timeout_s=start.execution_timeout_s,
        run_timeout_s=start.run_timeout_s,
        task_timeout_s=start.task_timeout_s,
        start_delay_s=start.start_delay_s,
        memo=start.memo,
        search_attributes=start.search_attributes,
        search_types=start.search_types,
        summary=start.summary,
        details=start.details,
        priority=start.priority,
    )
    search.check_start(start)
    return [f.Recorded(started), f.TaskOpened(start.start_delay_s)]


def _already_started(run: s.Run, why: str) -> AlreadyExists:
    return AlreadyExists(
        f"workflow {run.workflow_id!r} already started: run {run.run_id} {why}",
        details={"workflow_id": run.workflow_id, "run_id": run.run_id},
    )


# -- workflow tasks --------------------------------------------------------------------


def _complete_workflow_task(state: s.RunState, report: m.CompleteWorkflowTask, now: float) -> Decision:
    run = state.run
    if run.done_marker and run.done_seq == 0 and run.done_fence == report.fence:
        return Decision(
            [], m.Reported(head_seq=run.done_head, marker_seq=run.done_marker, is_closed=not run.is_open)
        )
    _held(state, 0, report.fence)
    if report.seen_seq > run.last_seq or report.seen_seq < 1:
        raise Refused(f"seen_seq is {report.seen_seq}: run {run.run_id} has events 1 to {run.last_seq}")
    if has_closing(report.commands) and run.last_message_seq > report.seen_seq:
        return Decision(
            [f.TaskReleased(0)],
            refusal=Refused(
                f"unhandled events: run {run.run_id} received a message (event {run.last_message_seq}) that the code "
                f"has not seen (it saw {report.seen_seq}): replay and answer again",
                details={"cause": m.UNHANDLED_EVENTS},
            ),
        )
    marker = e.WorkflowTaskCompleted(
        seen_seq=report.seen_seq,
        now=report.now,
        worker=report.worker,
        build_id=report.build_id,
        sdk=report.sdk,
    )
    batch = batch_facts(state, marker, report.commands, now)
    facts: list[f.AnyFact] = [*batch.facts, f.BatchKept(0, report.fence)]
    # What arrived while the task was out, and what the batch itself brought about, wants another look.
    if not batch.is_closing and (run.last_seq > report.seen_seq or batch.has_aftermath):
        facts.append(f.TaskOpened())
    return Decision(facts, m.Reported(head_seq=0, is_closed=batch.is_closing))


def _fail_workflow_task(state: s.RunState, report: m.FailWorkflowTask, now: float) -> Decision:
    task = _held(state, 0, report.fence)
    if task.worker is None and state.run.task_failure is not None:
        # The same report again: the attempt is counted already.
        return Decision([], m.Reported(head_seq=state.run.last_seq))
    facts: list[f.AnyFact] = []
    if state.run.task_failure is None:
        failed = e.WorkflowTaskFailed(
            cause=report.cause, failure=report.failure, worker=report.worker, build_id=report.build_id
        )
        facts.append(f.Recorded(failed))
    facts.append(f.TaskAttemptFailed(report.cause, report.failure, now + retry.task_delay_s(task.attempt)))
    return Decision(facts, m.Reported(head_seq=0))


def _release_task(state: s.RunState, report: m.ReleaseTask) -> Decision:
    task = state.tasks.get(report.seq)
    if task is None or task.fence != report.fence or task.worker is None:
        return Decision([], m.Reported(head_seq=state.run.last_seq))
    return Decision([f.TaskReleased(report.seq)], m.Reported(head_seq=0))


# -- activities ------------------------------------------------------------------------


def _complete_activity(state: s.RunState, report: m.CompleteActivity, now: float) -> Decision:
    run = state.run
    if _is_settled_by(state, report.seq, report.fence, s.COMPLETED):
        is_turn_known = run.done_seq == report.seq and run.done_fence == report.fence
        return Decision(
            [],
            m.Reported(
                head_seq=run.done_head if is_turn_known else run.last_seq,
                marker_seq=run.done_marker if is_turn_known else 0,
                is_turn_applied=None if report.turn is None else is_turn_known,
                is_closed=not run.is_open,
            ),
        )
    task = _held(state, report.seq, report.fence)
    completed = e.ActivityCompleted(
        seq=report.seq, result=report.result, attempt=task.attempt, worker=report.worker
    )
    facts: list[f.AnyFact] = [f.Recorded(completed)]
    turn = report.turn
    if turn is None:
        return _with_task(state, facts, m.Reported(head_seq=0))
    # The second part counts only if the history's head is the event that the worker predicted
    # and nobody else has the run's workflow task.
    if state.task is not None or turn.assumed_seq != run.last_seq + 1:
        return _with_task(state, facts, m.Reported(head_seq=0, is_turn_applied=False))
    marker = e.WorkflowTaskCompleted(
        seen_seq=turn.assumed_seq, now=turn.now, worker=report.worker, build_id=turn.build_id, sdk=turn.sdk
    )
    try:
        batch = batch_facts(state, marker, turn.commands, now, settled=report.seq)
    except (Invalid, Refused):
        # Refused alone: the worker drops its cached run, and meets the refusal again in a task of its own.
        return _with_task(state, facts, m.Reported(head_seq=0, is_turn_applied=False))
    facts += [*batch.facts, f.BatchKept(report.seq, report.fence)]
    if batch.has_aftermath and not batch.is_closing:
        facts.append(f.TaskOpened())
    return Decision(facts, m.Reported(head_seq=0, is_turn_applied=True, is_closed=batch.is_closing))


def _fail_activity(state: s.RunState, report: m.FailActivity, now: float) -> Decision:
    is_repeat = _is_settled_by(state, report.seq, report.fence, s.FAILED) or _is_counted(state, report)
    if is_repeat:
        return Decision([], m.Reported(head_seq=state.run.last_seq, is_closed=not state.run.is_open))
    _held(state, report.seq, report.fence)
    facts = _attempt_failed(state, report.seq, report.failure, now, worker=report.worker)
    return _with_task(state, facts, m.Reported(head_seq=0))


def _cancel_activity(state: s.RunState, report: m.CancelActivity) -> Decision:
    if _is_settled_by(state, report.seq, report.fence, s.CANCELLED):
        return Decision([], m.Reported(head_seq=state.run.last_seq, is_closed=not state.run.is_open))
    _held(state, report.seq, report.fence)
    facts: list[f.AnyFact] = [f.Recorded(e.ActivityCancelled(seq=report.seq, details=report.details))]
    return _with_task(state, facts, m.Reported(head_seq=0))


def _is_settled_by(state: s.RunState, seq: int, fence: int, status: str) -> bool:
    """Whether it was this very report that settled the activity. 0 is nobody's fence."""
    activity = state.activities.get(seq)
    return (
        activity is not None
        and activity.closed_at is not None
        and activity.closed_fence == fence > 0
        and activity.status == status
    )


def _is_counted(state: s.RunState, report: m.FailActivity) -> bool:
    """Whether it was this very report that began the backoff which nobody has ended yet."""
    task, activity = state.tasks.get(report.seq), state.activities.get(report.seq)
    if task is None or activity is None:
        return False
    is_next = task.worker is None and task.fence == report.fence + 1
    return is_next and report.fence > 0 and activity.last_failure == report.failure


def _heartbeat(state: s.RunState, request: m.ActivityHeartbeat) -> Decision:
    task = _held(state, request.seq, request.fence)
    if task.worker is None:
        raise LeaseLost(f"activity {request.seq} of run {request.run_id}: the lease ended")
    should_stop = state.activities[request.seq].is_cancel_requested
    return Decision(
        [f.Progressed(request.seq, request.details)], m.HeartbeatAnswer(is_cancel_requested=should_stop)
    )


def _attempt_failed(
    state: s.RunState, seq: int, failure: Failure, now: float, worker: str = "", timeout: str | None = None
) -> list[f.AnyFact]:
    """Another attempt, or the event that says that there will be none."""
    activity, task = state.activities[seq], state.tasks[seq]
    at, why = retry.next_attempt(activity.options.retry, task.attempt, failure, now, task.close_by)
    if activity.is_cancel_requested:
        at, why = None, retry.CANCEL_REQUESTED
    if at is not None:
        return [f.AttemptFailed(seq, failure, at)]
    event: e.AnyEvent
    if timeout is not None and why == retry.NO_TIME_LEFT:
        # There is no next attempt because the total time ends before it: that is the limit that was met.
        event = _timed_out(state, seq, failures.SCHEDULE_TO_CLOSE, why, failure)
    elif timeout is not None:
        event = _timed_out(state, seq, timeout, why, activity.last_failure)
    else:
        event = e.ActivityFailed(
            seq=seq, failure=failure, attempt=task.attempt, retry_state=why, worker=worker
        )
    return [f.Recorded(event)]


def _timed_out(
    state: s.RunState, seq: int, timeout: str, retry_state: str, before: Failure | None
) -> e.ActivityTimedOut:
    return e.ActivityTimedOut(
        seq=seq,
        timeout=timeout,
        attempt=state.tasks[seq].attempt,
        retry_state=retry_state,
        failure=before,
        last_heartbeat=state.activities[seq].heartbeat_details,
    )


# -- clients ---------------------------------------------------------------------------


def _ask(state: s.RunState, ask: Ask, now: float) -> Decision:
    run, message = state.run, ask.message
    done = m.Done(run_id=run.run_id)
    kept = state.requests.get(message.request_id)
    if kept is not None:
        if kept.hash != ask.hash:
            raise Refused(
                f"request {message.request_id!r} was already carried out with another body (run {kept.run_id}): "
                "use a new request id for a new request"
            )
        return Decision([], m.Done(run_id=kept.run_id))
    if not run.is_open:
        verb = type(message).__name__.lower()
        raise Refused(
            f"cannot {verb} workflow {run.workflow_id!r}: run {run.run_id} is closed ({run.status})",
            details={"run_id": run.run_id, "status": run.status},
        )
    facts: list[f.AnyFact] = [f.RequestKept(message.request_id, ask.hash)]
    match message:
        case m.Signal():
            if run.last_seq >= EVENTS_MAX:
                raise Refused(
                    f"run {run.run_id} has {run.last_seq} events, the limit: continue as new, or terminate it"
                )
            event = e.SignalReceived(
                name=message.name,
                input=message.input,
                request_id=message.request_id,
                identity=message.identity,
            )
            facts.append(f.Recorded(event))
        case m.Cancel():
            # Delivered once: a second request is durable as a request and changes nothing.
            if run.is_cancel_requested:
                return Decision(facts, done)
            asked = e.WorkflowCancelRequested(
                reason=message.reason, request_id=message.request_id, identity=message.identity
            )
            facts.append(f.Recorded(asked))
        case m.Terminate():
            ended = e.WorkflowTerminated(
                reason=message.reason,
                details=message.details,
                identity=message.identity,
                request_id=message.request_id,
            )
            return Decision([*facts, f.Recorded(ended)], done)
    if limits.is_delayed(state, now):
        facts.append(f.TaskHastened())
    return _with_task(state, facts, done)


# -- the clock -------------------------------------------------------------------------


def _fire_timer(state: s.RunState, request: FireTimer, now: float) -> Decision:
    timer = state.timers.get(request.seq)
    if timer is None or timer.state != s.TIMER_OPEN or not state.run.is_open or timer.fire_at > now:
        return Decision([])
    if request.seq in limits.NAMES:
        return Decision([f.Recorded(e.WorkflowTimedOut(timeout=limits.NAMES[request.seq]))], True)
    return _with_task(state, [f.Recorded(e.TimerFired(seq=request.seq))], True)


def _expire_task(state: s.RunState, request: ExpireTask, now: float) -> Decision:
    task = state.tasks.get(request.seq)
    if task is None or task.deadline is None or task.deadline > now or not state.run.is_open:
        return Decision([])
    if request.seq == 0:
        return Decision([]) if request.spare_leases else Decision([f.TaskReleased(0, is_expired=True)], True)
    timeout = _timeout_of(task, now)
    if timeout is None:
        if request.spare_leases:
            return Decision([])
        silent = Failure(
            message=f"worker {task.worker!r} was not heard of until the end of its lease",
            kind=failures.TIMEOUT,
            timeout=failures.HEARTBEAT,
        )
        facts = _attempt_failed(state, request.seq, silent, now, timeout=failures.HEARTBEAT)
    elif timeout in (failures.SCHEDULE_TO_CLOSE, failures.SCHEDULE_TO_START):
        before = state.activities[request.seq].last_failure
        facts = [f.Recorded(_timed_out(state, request.seq, timeout, retry.NO_TIME_LEFT, before))]
    else:
        late = Failure(message=failures.timeout_message(timeout), kind=failures.TIMEOUT, timeout=timeout)
        facts = _attempt_failed(state, request.seq, late, now, timeout=timeout)
    return _with_task(state, facts, True)


def _timeout_of(task: s.Task, now: float) -> str | None:
    """Which of the activity's own limits has passed, the final ones first; None when only the lease has."""
    if task.close_by is not None and now >= task.close_by:
        return failures.SCHEDULE_TO_CLOSE
    if task.worker is None:
        return failures.SCHEDULE_TO_START
    if task.start_to_close_s is not None and now >= (task.leased_at or now) + task.start_to_close_s:
        return failures.START_TO_CLOSE
    if task.heartbeat_s is not None and now >= (task.heartbeat_at or now) + task.heartbeat_s:
        return failures.HEARTBEAT
    return None


# -- shared ----------------------------------------------------------------------------


def _with_task(state: s.RunState, facts: list[f.AnyFact], answer: Any) -> Decision:
    """The decision, with a workflow task for what it recorded unless one is open already."""
    if state.task is None and any(isinstance(fact, f.Recorded) for fact in facts):
        facts = [*facts, f.TaskOpened()]
    return Decision(facts, answer)


def _held(state: s.RunState, seq: int, fence: int) -> s.Task:
    """Task *seq*, if *fence* is its newest. Raises `LeaseLost` otherwise, `NotFound` for no such activity."""
    run = state.run
    what = f"activity {seq} of run {run.run_id}" if seq else f"workflow task of run {run.run_id}"
    if not run.is_open:
        raise LeaseLost(f"{what}: the run is closed ({run.status})", details={"status": run.status})
    task = state.tasks.get(seq)
    if task is None:
        if seq and seq not in state.activities:
            raise NotFound(f"run {run.run_id} has no activity {seq}")
        if seq:
            raise LeaseLost(f"{what} is already {state.activities[seq].status.lower()}")
        raise LeaseLost(f"{what}: lease {fence} ended, no workflow task is open")
    # The fence decides, not the clock: a worker paused longer than its lease wakes
    # up believing nothing has changed, and counts as long as nobody took over.
    if task.fence != fence:
        raise LeaseLost(f"{what}: lease {fence} ended, {task.fence} is in force")
    return task
