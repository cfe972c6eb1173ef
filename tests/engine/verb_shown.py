"""What the store contract should show of runs that the engine drives, said of the tables in memory. Claims nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from holdfast.core import state as s
from holdfast.memory import Tables
from holdfast.wire import codec, history
from holdfast.wire import events as e
from holdfast.wire.failures import timeout_message
from holdfast.wire.records import (
    NamespaceStats,
    QueueStats,
    WorkflowActivity,
    WorkflowEvent,
    WorkflowRecord,
    WorkflowTimer,
)

Expected = tuple[str, tuple[Any, ...], Any]
SETTLING = (e.ActivityCompleted, e.ActivityFailed, e.ActivityTimedOut, e.ActivityCancelled)


def of_run(tables: Tables, run: s.Run) -> Iterator[Expected]:
    """Methods about a run, their arguments, and what they should answer."""
    name = (run.workflow_id,)
    yield "get_workflow", name, workflow(tables, run)
    yield "get_event_count", name, run.last_seq
    yield "list_events", name, events(tables, run)
    for (owner, seq), activity in tables.activities.items():
        if owner == run.run_id:
            yield "get_activity_by_workflow_seq", (*name, seq), shown_activity(tables, run, activity)
    for (owner, seq), timer in tables.timers.items():
        if owner == run.run_id:
            shown = WorkflowTimer(
                workflow_id=run.workflow_id, seq=seq, fire_at=timer.fire_at, fired=timer.state != s.TIMER_OPEN
            )
            yield "get_timer_by_workflow_seq", (*name, seq), shown
    yield "get_timer_by_workflow_seq", (*name, 10_000), None


def of_namespace(tables: Tables, namespace: str) -> Iterator[Expected]:
    """As `of_run`, for a namespace."""
    runs = [run for run in tables.runs.values() if run.namespace == namespace]
    runs.sort(key=lambda run: (-run.created_at, run.workflow_id))
    records = [workflow(tables, run) for run in runs]
    yield "list_workflows", (namespace,), records
    for status in ("PENDING", "RUNNING", "COMPLETED", "TERMINATED"):
        yield "list_workflows", (namespace, status), [one for one in records if one.status == status]
    counts = {
        status.lower(): sum(one.status == status for one in records)
        for status in ("RUNNING", "PENDING", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT", "TERMINATED")
    }
    yield (
        "get_namespace_stats",
        (namespace,),
        NamespaceStats(namespace=namespace, total_workflows=len(runs), **counts),
    )
    tasks = [task for task in tables.tasks.values() if task.namespace == namespace]
    queues = sorted({task.task_queue for task in tasks})
    yield (
        "get_queue_stats",
        (namespace,),
        [queue_of(tables, queue, [task for task in tasks if task.task_queue == queue]) for queue in queues],
    )


def workflow(tables: Tables, run: s.Run) -> WorkflowRecord:
    task = tables.tasks.get((run.run_id, 0))
    is_claimed = task is not None and (task.worker is not None or task.attempt > 1)
    first, last = (codec.decode_event(tables.events[run.run_id][index].body) for index in (0, -1))
    assert isinstance(first, e.WorkflowStarted)
    result, error = outcome(last)
    return WorkflowRecord(
        id=run.workflow_id,
        namespace=run.namespace,
        run_id=run.run_id,
        workflow_type=run.workflow_type,
        task_queue=run.task_queue,
        status="RUNNING" if run.status == "PENDING" and is_claimed else run.status,
        input=first.input.decode(),
        result=result,
        error=error,
        created_at=run.created_at,
        updated_at=run.last_at,
        completed_at=run.closed_at,
    )


def outcome(last: e.Event) -> tuple[str | None, str | None]:
    match last:
        case e.WorkflowCompleted(result=result):
            return result.decode(), None
        case e.WorkflowFailed(failure=failure):
            return None, failure.message
        case e.WorkflowTerminated(reason=reason):
            return None, reason or None
    return None, None


def events(tables: Tables, run: s.Run) -> list[WorkflowEvent]:
    found = []
    for stored in tables.events[run.run_id]:
        event = codec.decode_event(stored.body)
        (row,) = history.to_rows([e.HistoryEvent(stored.seq, stored.recorded_at, event)])
        shown = WorkflowEvent(
            id=stored.seq,
            workflow_id=run.workflow_id,
            seq=stored.seq,
            event_type=type(event).__name__,
            payload=msgspec.json.encode(row["attributes"]).decode(),
            timestamp=stored.recorded_at,
        )
        found.append(shown)
    return found


def shown_activity(tables: Tables, run: s.Run, activity: s.Activity) -> WorkflowActivity:
    task = tables.tasks.get((run.run_id, activity.seq))
    history_of = [codec.decode_event(stored.body) for stored in tables.events[run.run_id]]
    scheduled = history_of[activity.scheduled_seq - 1]
    assert isinstance(scheduled, e.ActivityScheduled)
    settled = [event for event in history_of if isinstance(event, SETTLING) and event.seq == activity.seq]
    result = error = None
    match settled:
        case [e.ActivityCompleted(result=given)]:
            result = given.decode()
        case [e.ActivityFailed(failure=failure)]:
            error = failure.message
        case [e.ActivityTimedOut(timeout=timeout)]:
            error = timeout_message(timeout)
    options, worker = activity.options, None if task is None else task.worker
    longest = options.start_to_close_s or options.schedule_to_close_s
    return WorkflowActivity(
        workflow_id=run.workflow_id,
        seq=activity.seq,
        name=activity.name,
        task_queue=activity.task_queue,
        input=scheduled.input.decode(),
        status="RUNNING" if worker else activity.status,
        result=result,
        error=error,
        attempt=activity.attempt if task is None else task.attempt,
        max_attempts=options.retry.max_attempts,
        initial_interval_secs=options.retry.initial_s,
        backoff_coefficient=options.retry.coefficient,
        max_interval_secs=options.retry.max_s,
        start_to_close_secs=longest or 300.0,
        schedule_to_start_secs=options.schedule_to_start_s,
        schedule_to_close_secs=options.schedule_to_close_s,
        heartbeat_timeout_secs=options.heartbeat_s,
        heartbeat_details=activity.heartbeat_details.decode() or None,
        claimed_by=worker,
        scheduled_at=activity.scheduled_at,
        started_at=task.leased_at if task is not None and worker else None,
        completed_at=activity.closed_at,
        last_heartbeat=activity.last_heartbeat_at,
    )


def queue_of(tables: Tables, queue: str, tasks: list[s.Task]) -> QueueStats:
    waiting = [task for task in tasks if task.worker is None]
    # What waits for later is not ready; the earliest of a kind tells for all of it.
    ready = [task.ready_at for task in waiting if task.ready_at <= tables.now]
    return QueueStats(
        queue=queue,
        pending_activities=sum(task.seq > 0 for task in waiting),
        running_activities=sum(task.seq > 0 for task in tasks) - sum(task.seq > 0 for task in waiting),
        pending_workflow_tasks=sum(task.seq == 0 for task in waiting),
        running_workflow_tasks=sum(task.seq == 0 for task in tasks) - sum(task.seq == 0 for task in waiting),
        oldest_ready_age_secs=tables.now - min(ready) if ready else None,
    )
