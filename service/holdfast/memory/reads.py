"""What `store.views` says in SQL, said of `Tables`: history, descriptions, lists, outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from holdfast.core import filters
from holdfast.core import state as s
from holdfast.memory.tables import Tables
from holdfast.store import searching
from holdfast.store import views as v
from holdfast.wire import codec


def read_events(
    tables: Tables,
    run_ids: Sequence[str],
    afters: Sequence[int],
    uptos: Sequence[int],
    limit: int,
    run_bytes: int,
    total_bytes: int,
) -> list[v.EventRow]:
    """The events of each run in their window; none behind so many bytes of its run or of all."""
    found: list[v.EventRow] = []
    total = 0
    for run_id, after, upto in zip(run_ids, afters, uptos, strict=True):
        own = 0
        for event in tables.events.get(run_id, [])[after : min(upto, after + limit)]:
            if own <= run_bytes and total <= total_bytes:
                found.append(event)
            if own <= run_bytes:
                total += len(event.body)
            own += len(event.body)
    return found


def find_run(tables: Tables, namespace: str, workflow_id: str, run_id: str | None) -> list[v.RunRow]:
    """The newest run of the id, or that one if it belongs to it."""
    chain = tables.chains.get((namespace, workflow_id), [])
    found = [known for known in reversed(chain) if run_id in (None, known)]
    return [_shown(tables, tables.runs[known]) for known in found[:1]]


def open_tasks(tables: Tables, run_id: str) -> list[v.OpenTask]:
    """The run's open tasks."""
    return [
        v.OpenTask(
            seq=task.seq,
            attempt=task.attempt,
            worker=task.worker,
            ready_at=task.ready_at,
            leased_at=task.leased_at,
        )
        for (owner, _), task in sorted(tables.tasks.items())
        if owner == run_id
    ]


def open_activities(tables: Tables, run_id: str) -> list[v.OpenActivity]:
    """The run's open activities."""
    return [
        v.OpenActivity(
            seq=activity.seq,
            activity_id=activity.activity_id,
            name=activity.name,
            task_queue=activity.task_queue,
            scheduled_at=activity.scheduled_at,
            options=codec.encode(activity.options),
            last_failure=None if activity.last_failure is None else codec.encode(activity.last_failure),
            last_heartbeat_at=activity.last_heartbeat_at,
            heartbeat_details=activity.heartbeat_details,
            is_cancel_requested=activity.is_cancel_requested,
        )
        for (owner, _), activity in sorted(tables.activities.items())
        if owner == run_id and activity.closed_at is None
    ]


def open_timers(tables: Tables, run_id: str) -> list[v.OpenTimer]:
    """The run's open timers."""
    return [
        v.OpenTimer(seq=timer.seq, fire_at=timer.fire_at)
        for (owner, _), timer in sorted(tables.timers.items())
        if owner == run_id and timer.seq > 0 and timer.state == s.TIMER_OPEN
    ]


def list_runs(
    tables: Tables,
    namespace: str,
    statuses: list[str] | None,
    workflow_type: str | None,
    before: str | None,
    limit: int,
    path: filters.Predicate | None,
    narrow: str | None = None,
) -> list[v.RunRow]:
    """Runs that match the filter, newest first. What narrows the search follows from it."""
    del statuses, workflow_type, narrow
    found = [run for run in _matching(tables, namespace, path) if before is None or run.run_id < before]
    found.sort(key=lambda run: run.run_id, reverse=True)
    return [_shown(tables, run) for run in found[:limit]]


def count_runs(
    tables: Tables,
    namespace: str,
    statuses: list[str] | None,
    workflow_type: str | None,
    path: filters.Predicate | None,
    search_path: filters.Predicate | None = None,
) -> list[searching.StatusCount]:
    """How many runs of each status match."""
    del statuses, workflow_type, search_path
    counts = Counter(run.status for run in _matching(tables, namespace, path))
    return [searching.StatusCount(status=status, runs=runs) for status, runs in counts.items()]


def _matching(tables: Tables, namespace: str, path: filters.Predicate | None) -> list[s.Run]:
    node = None if path is None else path.node
    return [
        run
        for run in tables.runs.values()
        if run.namespace == namespace
        and filters.matches(node, filters.document(run, tables.search.get(run.run_id)), tables.now)
    ]


def outcomes(tables: Tables, run_ids: Sequence[str]) -> list[v.OutcomeRow]:
    """How far each run has come."""
    found = []
    for run in (tables.runs[run_id] for run_id in run_ids if run_id in tables.runs):
        last = None if run.is_open else tables.events[run.run_id][-1]
        found.append(
            v.OutcomeRow(
                run_id=run.run_id,
                status=run.status,
                last_seq=run.last_seq,
                closed_at=run.closed_at,
                recorded_at=None if last is None else last.recorded_at,
                body=None if last is None else last.body,
            )
        )
    return found


def namespaces(tables: Tables) -> list[v.Name]:
    """Every namespace."""
    return [v.Name(name=name, feed=feed) for name, feed in sorted(tables.namespaces.items())]


ANSWERS: dict[Any, Callable[..., list[Any]]] = {
    v.READ_EVENTS: read_events,
    v.FIND_RUN: find_run,
    v.OPEN_TASKS: open_tasks,
    v.OPEN_ACTIVITIES: open_activities,
    v.OPEN_TIMERS: open_timers,
    searching.WALK: list_runs,
    searching.CHAIN: list_runs,
    searching.BY_ATTRIBUTE: list_runs,
    searching.COUNT: count_runs,
    searching.COUNT_BY_ATTRIBUTE: count_runs,
    v.OUTCOMES: outcomes,
    v.NAMESPACES: namespaces,
}
"""The function that answers each query."""


def _shown(tables: Tables, run: s.Run) -> v.RunRow:
    task = tables.tasks.get((run.run_id, 0))
    return v.RunRow(
        run_id=run.run_id,
        workflow_id=run.workflow_id,
        workflow_type=run.workflow_type,
        task_queue=run.task_queue,
        status=run.status,
        was_claimed=task is not None and (task.worker is not None or task.attempt > 1),
        created_at=run.created_at,
        closed_at=run.closed_at,
        last_seq=run.last_seq,
        task_failure_cause=run.task_failure_cause,
        task_failure=run.task_failure,
        sticky_worker=run.sticky_worker,
        is_cancel_requested=run.is_cancel_requested,
        search_attributes=_json(tables.search.get(run.run_id)),
        memo=_json(tables.memos.get(run.run_id)),
        now=tables.now,
    )


def _json(found: dict[str, Any] | None) -> str | None:
    return None if found is None else msgspec.json.encode(found).decode()
