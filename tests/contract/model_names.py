"""The model's namespaces, API keys, workers and schedules, and the figures that are counted from everything."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import msgspec

from holdfast.core import schedules as core
from holdfast.exceptions import AlreadyExists, Invalid, NotFound
from holdfast.store.contract.door import check_moment, check_number, check_unicode
from holdfast.wire import codec
from holdfast.wire.records import (
    OVERLAP_POLICIES,
    ApiKeyRecord,
    NamespaceRecord,
    NamespaceStats,
    QueueStats,
    SchedulePatch,
    WorkflowSchedule,
    WorkflowWorker,
)
from tests.contract.model_state import State, Tick, check_moments, replace

COUNT_MAX = 2**31 - 1
NAME_CHARS_MAX = 900


# -- namespaces ------------------------------------------------------------------------------------


async def create_namespace(self: State, name: str) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        raise Invalid(name)
    if name in self.namespaces:
        raise AlreadyExists(name)
    self.namespaces[name] = self.now()
    self.changed()


async def list_namespaces(self: State) -> list[NamespaceRecord]:
    return [NamespaceRecord(name=name, created_at=at) for name, at in sorted(self.namespaces.items())]


async def delete_namespace(self: State, name: str) -> bool:
    if name == "main" or name not in self.namespaces:
        return False
    del self.namespaces[name]
    self.changed()
    return True


async def get_namespace_stats(self: State, namespace: str) -> NamespaceStats:
    codec.check_text("namespace", namespace)
    of: dict[str, int] = defaultdict(int)
    for run in self.runs.values():
        if run.record.namespace == namespace:
            of[run.record.status] += 1
    return NamespaceStats(
        namespace=namespace,
        total_workflows=sum(of.values()),
        running=of["RUNNING"],
        pending=of["PENDING"],
        waiting=of["WAITING"],
        completed=of["COMPLETED"],
        failed=of["FAILED"],
        cancelled=of["CANCELLED"],
        timed_out=of["TIMED_OUT"],
        terminated=of["TERMINATED"],
        schedules=sum(space == namespace for space, _ in self.schedules),
        workers=sum(worker.namespace == namespace for worker in self.workers.values()),
    )


@dataclass
class _Counted:
    """What a queue has; `ready` are the times since when its work is ready."""

    pending_activities: int = 0
    running_activities: int = 0
    pending_workflow_tasks: int = 0
    running_workflow_tasks: int = 0
    workers: int = 0
    ready: tuple[float, ...] = ()


async def get_queue_stats(self: State, namespace: str) -> list[QueueStats]:
    codec.check_text("namespace", namespace)
    queues: dict[str, _Counted] = defaultdict(_Counted)
    now = self.now()
    for run, activity in self.all_activities():
        # Nobody claims what a closed run has left.
        if run.record.namespace == namespace and activity.status == "PENDING" and not run.is_closed:
            queues[activity.task_queue].pending_activities += 1
            queues[activity.task_queue].ready += (activity.scheduled_at,)
        if run.record.namespace == namespace and activity.status == "RUNNING":
            queues[activity.task_queue].running_activities += 1
    for run in self.runs.values():
        if run.record.namespace != namespace or run.is_closed:
            continue
        if run.worker is not None:
            queues[run.record.task_queue].running_workflow_tasks += 1
        elif run.ready_at is not None:
            queues[run.record.task_queue].pending_workflow_tasks += 1
            queues[run.record.task_queue].ready += (run.ready_at,)
    for worker in self.workers.values():
        if worker.namespace == namespace:
            queues[worker.task_queue].workers += 1
    return [
        QueueStats(
            queue=name,
            pending_activities=counted.pending_activities,
            running_activities=counted.running_activities,
            pending_workflow_tasks=counted.pending_workflow_tasks,
            running_workflow_tasks=counted.running_workflow_tasks,
            oldest_ready_age_secs=_age(now, [at for at in counted.ready if at <= now]),
            workers=counted.workers,
        )
        for name, counted in sorted(queues.items())
    ]


def _age(now: float, ready: list[float]) -> Tick | None:
    return Tick(now - min(ready)) if ready else None


# -- API keys --------------------------------------------------------------------------------------


async def create_api_key(
    self: State, key_hash: str, prefix: str, label: str | None, created_at: float
) -> None:
    codec.check_text("key_hash", key_hash)
    codec.check_text("prefix", prefix)
    check_unicode("label", label)
    check_moment("created_at", created_at)
    if prefix in self.keys or any(known == key_hash for known, _ in self.keys.values()):
        raise AlreadyExists(prefix)
    self.keys[prefix] = (key_hash, ApiKeyRecord(prefix=prefix, label=label, created_at=created_at))
    self.changed()


async def validate_api_key(self: State, key_hash: str) -> bool:
    return any(known == key_hash and key.revoked_at is None for known, key in self.keys.values())


async def list_api_keys(self: State) -> list[ApiKeyRecord]:
    return sorted((key for _, key in self.keys.values()), key=lambda key: (-key.created_at, key.prefix))


async def revoke_api_key(self: State, prefix: str) -> bool:
    key_hash, key = self.keys.get(prefix, ("", None))
    if key is None or key.revoked_at is not None:
        return False
    self.keys[prefix] = (key_hash, replace(key, revoked_at=self.now()))
    self.changed()
    return True


# -- workers ---------------------------------------------------------------------------------------


async def register_worker(self: State, worker: WorkflowWorker) -> None:
    for field in ("id", "namespace", "task_queue"):
        codec.check_text(field, getattr(worker, field))
    codec.check_text("identity", worker.identity, may_be_empty=True)
    for name in (*(worker.workflows or ()), *(worker.activities or ())):
        codec.check_text("name", name)
    for field in ("max_concurrent_workflows", "max_concurrent_activities", "active_tasks"):
        check_number(field, getattr(worker, field), 0, COUNT_MAX)
    check_moments(last_heartbeat=worker.last_heartbeat, registered_at=worker.registered_at)
    if self.workers.get(worker.id) != worker:
        self.workers[worker.id] = worker
        self.changed()


async def heartbeat_worker(self: State, id: str, now: float) -> bool:
    check_moment("now", now)
    worker = self.workers.get(id)
    if worker is None:
        return False
    if worker.last_heartbeat != now:
        self.workers[id] = replace(worker, last_heartbeat=now)
        self.changed()
    return True


async def list_workers(self: State, namespace: str) -> list[WorkflowWorker]:
    codec.check_text("namespace", namespace)
    workers = (worker for worker in self.workers.values() if worker.namespace == namespace)
    return sorted(workers, key=lambda worker: (worker.registered_at, worker.id))


async def remove_dead_workers(self: State, cutoff: float) -> list[str]:
    check_moment("cutoff", cutoff)
    dead = sorted(id for id, worker in self.workers.items() if worker.last_heartbeat < cutoff)
    now = self.now()
    for run in self.runs.values():
        if run.worker in dead:
            run.worker = run.beat_at = None
            if not run.is_closed and run.ready_at is None:
                run.ready_at = now
            self.changed()
    for run, activity in self.all_activities():
        if activity.status == "RUNNING" and activity.claimed_by in dead:
            run.activities[activity.seq] = replace(
                activity, status="PENDING", claimed_by=None, started_at=None, last_heartbeat=None
            )
            self.changed()
    for id in dead:
        del self.workers[id]
    self.changed(len(dead))
    return dead


async def try_acquire_scheduler_lock(self: State) -> bool:
    self.has_scheduler_lock = True
    return True


# -- schedules -------------------------------------------------------------------------------------


def _check_schedule(schedule: WorkflowSchedule) -> None:
    for field in ("namespace", "name", "workflow_type", "task_queue"):
        codec.check_text(field, getattr(schedule, field))
    if len(schedule.name) > NAME_CHARS_MAX:
        raise Invalid("name")
    if not 0 <= schedule.catchup_window_secs <= 10 * 366 * 86_400:
        raise Invalid("catchup_window_secs")
    if not 0 <= schedule.jitter_secs <= core.JITTER_MAX_S:
        raise Invalid("jitter_secs")
    check_moments(
        created_at=schedule.created_at, last_run_at=schedule.last_run_at, next_run_at=schedule.next_run_at
    )
    if schedule.overlap_policy not in OVERLAP_POLICIES:
        raise Invalid(schedule.overlap_policy)
    check_unicode("input", schedule.input)
    if schedule.last_workflow_id is not None:
        codec.check_text("last_workflow_id", schedule.last_workflow_id)


def _next(schedule: WorkflowSchedule, now: float) -> float | None:
    """When it fires next after *now*. Raises `Invalid` for a calendar that is none, or never fires."""
    spec = core.spec_of_cron(schedule.cron_expr, schedule.timezone, schedule.jitter_secs)
    core.check(spec, now)
    return core.next_due_at(spec, schedule.namespace, schedule.name, now)


async def create_schedule(self: State, schedule: WorkflowSchedule) -> None:
    _check_schedule(schedule)
    if schedule.namespace not in self.namespaces:
        raise NotFound(schedule.namespace)
    computed = _next(schedule, self.now())
    key = (schedule.namespace, schedule.name)
    if key in self.schedules:
        raise AlreadyExists(schedule.name)
    if schedule.next_run_at is None:
        schedule = replace(schedule, next_run_at=computed)
    self.schedules[key] = schedule
    self.changed()


async def get_schedule(self: State, namespace: str, name: str) -> WorkflowSchedule | None:
    return self.schedules.get((namespace, name))


async def list_schedules(self: State, namespace: str) -> list[WorkflowSchedule]:
    return [schedule for (space, _), schedule in sorted(self.schedules.items()) if space == namespace]


async def update_schedule_last_run(
    self: State, namespace: str, name: str, last_run_at: float, next_run_at: float, workflow_id: str
) -> None:
    check_moments(last_run_at=last_run_at, next_run_at=next_run_at)
    codec.check_text("workflow id", workflow_id)
    _save(
        self,
        self.schedules.get((namespace, name)),
        last_run_at=last_run_at,
        next_run_at=next_run_at,
        last_workflow_id=workflow_id,
    )


async def delete_schedule(self: State, namespace: str, name: str) -> bool:
    if self.schedules.pop((namespace, name), None) is None:
        return False
    self.changed()
    return True


async def update_schedule(
    self: State, namespace: str, name: str, patch: SchedulePatch
) -> WorkflowSchedule | None:
    known = self.schedules.get((namespace, name))
    if known is None:
        return None
    given = {
        field: value for field, value in msgspec.structs.asdict(patch).items() if value is not msgspec.UNSET
    }
    patched = replace(known, **given)
    _check_schedule(patched)
    calendars = [(s.cron_expr, s.timezone, s.jitter_secs) for s in (known, patched)]
    if calendars[0] != calendars[1]:
        given["next_run_at"] = _next(patched, self.now())
    return _save(self, known, **given)


async def set_schedule_paused(
    self: State, namespace: str, name: str, paused: bool
) -> WorkflowSchedule | None:
    known = self.schedules.get((namespace, name))
    if known is None or known.paused == paused:
        return known
    if paused:
        return _save(self, known, paused=True)
    return _save(self, known, paused=False, next_run_at=_next(known, self.now()))


def _save(self: State, known: WorkflowSchedule | None, **fields: object) -> WorkflowSchedule | None:
    if known is None:
        return None
    saved = replace(known, **fields)
    if saved != known:
        self.schedules[known.namespace, known.name] = saved
        self.changed()
    return saved
