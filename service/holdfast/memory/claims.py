"""What `store.tasks` and `store.due_work` say in SQL, said of `Tables`: claims, leases, and what is due."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from holdfast.core import state as s
from holdfast.core.evolve import deadline
from holdfast.memory.tables import Tables
from holdfast.store import due_work as due
from holdfast.store import tasks as t

WORKFLOW_LEASE_MAX_S = 120.0


def claim_workflows(
    tables: Tables, namespace: str, queue: str, worker: str, limit: int, lease_s: float
) -> list[t.ClaimedWorkflow]:
    """Lease ready workflow tasks; one that is kept for another worker's cache is not ready for this one."""
    ready = [
        task
        for task in _waiting(tables, namespace, queue, is_workflow=True)
        if task.sticky_until is None or task.sticky_until <= tables.now or task.sticky_worker == worker
    ]
    for task in ready[:limit]:
        _lease(tables, task, worker, lease_s)
        task.sticky_worker = task.sticky_until = None
    return [_claimed_workflow(tables, task, worker, tables.now) for task in ready[:limit]]


def claim_activities(
    tables: Tables, namespace: str, queue: str, worker: str, limit: int, lease_s: float
) -> list[t.ClaimedActivity]:
    """Lease ready activity tasks."""
    ready = _waiting(tables, namespace, queue, is_workflow=False)[:limit]
    for task in ready:
        _lease(tables, task, worker, lease_s)
    return [_claimed_activity(tables, task, tables.now) for task in ready]


def held_workflows(tables: Tables, run_ids: Sequence[str], worker: str) -> list[t.ClaimedWorkflow]:
    """The workflow tasks of these runs that the worker holds."""
    return [
        _claimed_workflow(tables, task, worker, tables.now)
        for (run_id, seq), task in tables.tasks.items()
        if run_id in run_ids and seq == 0 and task.worker == worker
    ]


def held_activities(tables: Tables, run_ids: Sequence[str], worker: str) -> list[t.ClaimedActivity]:
    """The activities of these runs that the worker holds."""
    return [
        _claimed_activity(tables, task, task.leased_at or tables.now)
        for (run_id, seq), task in sorted(tables.tasks.items())
        if run_id in run_ids and seq and task.worker == worker
    ]


def extend(
    tables: Tables,
    run_ids: Sequence[str],
    seqs: Sequence[int],
    fences: Sequence[int],
    worker: str,
    lease_s: float,
    namespace: str,
) -> list[t.LeaseRow]:
    """Extend what the worker holds under its fence, and say what it does not hold."""
    rows = []
    for key, fence in zip(zip(run_ids, seqs, strict=True), fences, strict=True):
        task, activity = tables.tasks.get(key), tables.activities.get(key)
        is_ours = task is not None and (task.fence, task.worker, task.namespace) == (fence, worker, namespace)
        if task is not None and is_ours:
            task.lease_until = tables.now + lease_s
            if task.seq == 0 and task.leased_at is not None:
                task.lease_until = min(task.lease_until, task.leased_at + WORKFLOW_LEASE_MAX_S)
            task.deadline = deadline(task)
        is_asked_to_stop = activity is not None and activity.is_cancel_requested
        rows.append(
            t.LeaseRow(run_id=key[0], seq=key[1], is_ours=is_ours, is_cancel_requested=is_asked_to_stop)
        )
    return rows


def due_tasks(tables: Tables, limit: int) -> list[due.DueTask]:
    """Tasks whose deadline has passed."""
    late = [
        task for task in tables.tasks.values() if task.deadline is not None and task.deadline <= tables.now
    ]
    late.sort(key=lambda task: (task.deadline, task.run_id, task.seq))
    return [
        due.DueTask(
            run_id=task.run_id,
            seq=task.seq,
            namespace=task.namespace,
            task_queue=task.task_queue,
            worker=task.worker,
        )
        for task in late[:limit]
    ]


def due_timers(tables: Tables, limit: int) -> list[due.DueTimer]:
    """Timers that should fire."""
    late = [timer for timer in _open_timers(tables) if timer.fire_at <= tables.now]
    late.sort(key=lambda timer: (timer.fire_at, timer.run_id, timer.seq))
    return [
        due.DueTimer(
            run_id=timer.run_id,
            seq=timer.seq,
            namespace=tables.runs[timer.run_id].namespace,
            late_s=tables.now - timer.fire_at,
        )
        for timer in late[:limit]
    ]


def pulse(tables: Tables) -> list[due.Pulse]:
    """What there is to do. Nothing is owed to a feed."""
    deadlines = [task.deadline - tables.now for task in tables.tasks.values() if task.deadline is not None]
    moments = [timer.fire_at - tables.now for timer in _open_timers(tables)]
    return [
        due.Pulse(
            next_deadline_s=min(deadlines, default=None),
            next_timer_s=min(moments, default=None),
            has_waiting=any(task.worker is None for task in tables.tasks.values()),
            oldest_owed_s=None,
            has_journal=False,
            next_schedule_s=None,
        )
    ]


def ready_queues(tables: Tables, limit: int) -> list[due.ReadyQueue]:
    """Every queue with ready tasks."""

    def queue_of(task: s.Task) -> tuple[bool, str, str]:
        return task.seq > 0, task.namespace, task.task_queue

    ready = [task for task in tables.tasks.values() if task.worker is None and task.ready_at <= tables.now]
    found = []
    for (is_activity, namespace, queue), tasks in itertools.groupby(sorted(ready, key=queue_of), queue_of):
        moments = [task.ready_at for task in tasks]
        found.append(
            due.ReadyQueue(
                namespace=namespace,
                task_queue=queue,
                is_workflow=not is_activity,
                ready=min(len(moments), limit),
                oldest_ready_at=min(moments),
                now=tables.now,
            )
        )
    return found


ANSWERS: dict[Any, Callable[..., list[Any]]] = {
    t.CLAIM_WORKFLOWS: claim_workflows,
    t.CLAIM_ACTIVITIES: claim_activities,
    t.HELD_WORKFLOWS: held_workflows,
    t.HELD_ACTIVITIES: held_activities,
    t.EXTEND: extend,
    due.DUE_TASKS: due_tasks,
    due.DUE_TIMERS: due_timers,
    due.PULSE: pulse,
    due.READY_QUEUES: ready_queues,
}
"""The function that answers each query."""


def _open_timers(tables: Tables) -> Iterable[s.Timer]:
    return (timer for timer in tables.timers.values() if timer.state == s.TIMER_OPEN)


def _waiting(tables: Tables, namespace: str, queue: str, *, is_workflow: bool) -> list[s.Task]:
    """The queue's ready tasks of this kind, the longest ready first."""
    found = [
        task
        for task in tables.tasks.values()
        if (task.namespace, task.task_queue, task.worker) == (namespace, queue, None)
        and (task.seq == 0) == is_workflow
        and task.ready_at <= tables.now
    ]
    return sorted(found, key=lambda task: (task.ready_at, task.run_id, task.seq))


def _lease(tables: Tables, task: s.Task, worker: str, lease_s: float) -> None:
    task.worker = worker
    task.fence += 1
    task.leased_at = task.heartbeat_at = tables.now
    task.lease_until = tables.now + lease_s
    task.deadline = deadline(task)


def _claimed_workflow(tables: Tables, task: s.Task, worker: str, now: float) -> t.ClaimedWorkflow:
    run = tables.runs[task.run_id]
    return t.ClaimedWorkflow(
        run_id=task.run_id,
        fence=task.fence,
        attempt=task.attempt,
        ready_at=task.ready_at,
        now=now,
        workflow_id=run.workflow_id,
        workflow_type=run.workflow_type,
        task_queue=run.task_queue,
        last_seq=run.last_seq,
        known_seq=run.sticky_seq if run.sticky_worker == worker else 0,
        created_at=run.created_at,
    )


def _claimed_activity(tables: Tables, task: s.Task, now: float) -> t.ClaimedActivity:
    run, activity = tables.runs[task.run_id], tables.activities[task.run_id, task.seq]
    return t.ClaimedActivity(
        run_id=task.run_id,
        seq=task.seq,
        fence=task.fence,
        attempt=task.attempt,
        ready_at=task.ready_at,
        now=now,
        workflow_id=run.workflow_id,
        workflow_type=run.workflow_type,
        task_queue=task.task_queue,
        scheduled_at=activity.scheduled_at,
        heartbeat_details=activity.heartbeat_details,
        scheduled=tables.events[task.run_id][activity.scheduled_seq - 1].body,
    )
