"""Tasks as workers get them, made of what a transaction left in hand or of what a claim read.

Events that are in hand are not read again; stored ones pass through undecoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from holdfast.core import state as s
from holdfast.engine.dispatch import Assigned
from holdfast.store import tasks, views
from holdfast.store.session import Pool
from holdfast.wire import bundle, codec
from holdfast.wire import events as e
from holdfast.wire import messages as m

PAGE_EVENTS = 1_000
PAGE_BYTES = 1024 * 1024
PAGES_BYTES = 4 * PAGE_BYTES


async def assigned_tasks(
    pool: Pool, assigned: Sequence[Assigned], now: float, lease_s: float
) -> tuple[list[m.WorkflowTask], list[m.ActivityTask]]:
    """The messages for tasks that a transaction leased. Reads history only where it is not in hand."""
    workflow_tasks: list[m.WorkflowTask] = []
    missing: list[tuple[str, int, int]] = []
    for item in assigned:
        if item.seq:
            continue
        state = item.state
        task, run = state.tasks.get(0), state.run
        if task is None or task.worker != item.worker:
            continue
        known = run.sticky_seq if run.sticky_worker == item.worker else 0
        history: list[e.HistoryEvent] = []
        if known + 1 >= state.first_new_seq:
            skipped = known + 1 - state.first_new_seq
            history = [
                e.HistoryEvent(seq, at, cast(e.AnyEvent, event))
                for seq, (at, event) in enumerate(state.events[skipped:], known + 1)
            ]
        else:
            missing.append((run.run_id, known, run.last_seq))
        workflow_tasks.append(_workflow_task(run, task, known, history, now, lease_s))
    if missing:
        pages = await read_pages(pool, missing)
        workflow_tasks = [
            msgspec.structs.replace(task, events=pages[task.run_id]) if task.run_id in pages else task
            for task in workflow_tasks
        ]
    activities = [_activity_task(item.state, item.seq, lease_s) for item in assigned if item.seq]
    return workflow_tasks, [task for task in activities if task is not None]


async def claimed_workflow_tasks(
    pool: Pool, claimed: Sequence[tasks.ClaimedWorkflow], lease_s: float
) -> list[m.WorkflowTask]:
    """The messages for workflow tasks that a claim leased."""
    if not claimed:
        return []
    pages = await read_pages(pool, [(row.run_id, row.known_seq, row.last_seq) for row in claimed])
    return [
        m.WorkflowTask(
            run_id=row.run_id,
            workflow_id=row.workflow_id,
            workflow_type=row.workflow_type,
            task_queue=row.task_queue,
            fence=row.fence,
            head_seq=row.last_seq,
            now=row.now,
            lease_s=lease_s,
            attempt=row.attempt,
            from_seq=row.known_seq,
            started_at=row.created_at,
            events=pages.get(row.run_id, []),
        )
        for row in claimed
    ]


def claimed_activity_tasks(claimed: Sequence[tasks.ClaimedActivity], lease_s: float) -> list[m.ActivityTask]:
    """The messages for activity tasks that a claim leased."""
    found = []
    for row in claimed:
        scheduled = codec.decode_event(row.scheduled)
        if not isinstance(scheduled, e.ActivityScheduled):
            continue
        found.append(
            m.ActivityTask(
                run_id=row.run_id,
                seq=row.seq,
                fence=row.fence,
                workflow_id=row.workflow_id,
                workflow_type=row.workflow_type,
                activity_id=scheduled.activity_id,
                name=scheduled.name,
                task_queue=row.task_queue,
                attempt=row.attempt,
                scheduled_at=row.scheduled_at,
                started_at=row.now,
                lease_s=lease_s,
                input=scheduled.input,
                schedule_to_close_s=scheduled.schedule_to_close_s,
                start_to_close_s=scheduled.start_to_close_s,
                heartbeat_s=scheduled.heartbeat_s,
                heartbeat_details=row.heartbeat_details,
                max_attempts=scheduled.retry.max_attempts,
            )
        )
    return found


async def read_pages(pool: Pool, asked: Sequence[tuple[str, int, int]]) -> dict[str, list[e.HistoryEvent]]:
    """The first page of each (run, after, upto), cut at about 1 MiB, and nothing of those for which there is no room."""
    pages: dict[str, list[Any]] = {run_id: [] for run_id, _, _ in asked}
    for row in await views.read_events(
        pool, asked, limit=PAGE_EVENTS, run_bytes=PAGE_BYTES, total_bytes=PAGES_BYTES
    ):
        pages[row.run_id].append(e.StoredEvent(row.seq, row.recorded_at, msgspec.Raw(row.body)))
    return cast(dict[str, list[e.HistoryEvent]], pages)


def page_of(events: Sequence[bundle.StoredEvent], after: int, upto: int) -> list[e.HistoryEvent]:
    """As `read_pages`, of one run whose *events* are in hand: all of them, in order."""
    page: list[Any] = []
    size = 0
    for event in events[after : min(upto, after + PAGE_EVENTS)]:
        if size > PAGE_BYTES:
            break
        page.append(e.StoredEvent(event.seq, event.recorded_at, msgspec.Raw(event.body)))
        size += len(event.body)
    return cast(list[e.HistoryEvent], page)


def outcome_of(state: s.RunState) -> m.Outcome:
    """The outcome of a run that a transaction just closed."""
    run = state.run
    at, event = state.events[-1]
    return m.Outcome(
        run_id=run.run_id, status=run.status, event=e.HistoryEvent(run.last_seq, at, cast(e.AnyEvent, event))
    )


def _workflow_task(
    run: s.Run, task: s.Task, known: int, history: list[e.HistoryEvent], now: float, lease_s: float
) -> m.WorkflowTask:
    return m.WorkflowTask(
        run_id=run.run_id,
        workflow_id=run.workflow_id,
        workflow_type=run.workflow_type,
        task_queue=run.task_queue,
        fence=task.fence,
        head_seq=run.last_seq,
        now=now,
        lease_s=lease_s,
        attempt=task.attempt,
        from_seq=known,
        started_at=run.created_at,
        events=history,
    )


def _activity_task(state: s.RunState, seq: int, lease_s: float) -> m.ActivityTask | None:
    run, task = state.run, state.tasks.get(seq)
    activity = state.activities[seq]
    event = state.events[activity.scheduled_seq - state.first_new_seq][1]
    if task is None or not isinstance(event, e.ActivityScheduled):
        return None
    return m.ActivityTask(
        run_id=run.run_id,
        seq=seq,
        fence=task.fence,
        workflow_id=run.workflow_id,
        workflow_type=run.workflow_type,
        activity_id=event.activity_id,
        name=event.name,
        task_queue=event.task_queue,
        attempt=task.attempt,
        scheduled_at=activity.scheduled_at,
        started_at=task.leased_at or activity.scheduled_at,
        lease_s=lease_s,
        input=event.input,
        schedule_to_close_s=event.schedule_to_close_s,
        start_to_close_s=event.start_to_close_s,
        heartbeat_s=event.heartbeat_s,
        max_attempts=event.retry.max_attempts,
    )
