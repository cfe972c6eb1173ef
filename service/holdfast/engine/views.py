"""Reads as clients get them: rows of `store.views` made into messages. Nothing changes here."""

from __future__ import annotations

import msgspec

from holdfast.core import filters
from holdfast.core import state as s
from holdfast.engine.answers import page_of, read_pages
from holdfast.engine.archived import ArchivedHistories
from holdfast.exceptions import Invalid
from holdfast.store import retention, searching, views
from holdfast.store.session import Pool
from holdfast.wire import codec
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire import visibility as vis
from holdfast.wire.failures import Failure

_options = msgspec.msgpack.Decoder(s.Options)


def summary(run: views.RunRow) -> m.RunSummary:
    """A run as lists show it."""
    status = s.RUNNING if run.status == s.PENDING and run.was_claimed else run.status
    return m.RunSummary(
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        workflow_type=run.workflow_type,
        task_queue=run.task_queue,
        status=status,
        started_at=run.created_at,
        closed_at=run.closed_at,
        history_length=run.last_seq,
        task_failure=run.task_failure_cause,
        memo=(run.memo or "").encode(),
        search_attributes=(run.search_attributes or "").encode(),
    )


def description(found: views.RunAndWork) -> m.Description:
    """A run with its open work."""
    run = found.run
    by_seq = {task.seq: task for task in found.tasks}
    workflow_task = by_seq.get(0)
    return m.Description(
        summary=summary(run),
        task_attempt=0 if workflow_task is None else workflow_task.attempt,
        task_failure=None if run.task_failure is None else codec.decode(run.task_failure, Failure),
        task_failure_cause=run.task_failure_cause,
        next_task_at=None if workflow_task is None or workflow_task.worker else workflow_task.ready_at,
        sticky_worker=run.sticky_worker,
        is_cancel_requested=run.is_cancel_requested,
        activities=[
            _pending(activity, by_seq[activity.seq])
            for activity in found.activities
            if activity.seq in by_seq
        ],
        timers=[m.PendingTimer(seq=timer.seq, fire_at=timer.fire_at) for timer in found.timers],
    )


async def history_page(
    pool: Pool, histories: ArchivedHistories, run: views.RunRow, request: m.History
) -> m.HistoryPage:
    """A page of history after event number `request.after`; an archived run's comes through its pointer."""
    upto = min(run.last_seq, request.after + request.limit)
    events: list[e.HistoryEvent] = []
    if upto > request.after:
        events = (await read_pages(pool, [(run.run_id, request.after, upto)]))[run.run_id]
        if not events and (uri := await retention.pointer(pool, run.run_id)) is not None:
            # Looked for second: so an archival in between is not missed, and other runs pay nothing.
            events = page_of(await histories.events(uri, run.run_id), request.after, upto)
    return m.HistoryPage(
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        status=summary(run).status,
        last_seq=run.last_seq,
        events=events,
    )


async def list_page(pool: Pool, namespace: str, request: m.List) -> m.ListPage:
    """A page of runs, newest first."""
    if not 1 <= request.limit <= 1000:
        raise Invalid(f"limit is {request.limit}: expected 1 to 1000")
    if request.cursor is not None and not codec.is_run_id(request.cursor):
        raise Invalid(
            f"cursor {request.cursor[:40]!r} was not made by a list: pass next_cursor of the previous page"
        )
    rows = await searching.list_runs(
        pool, namespace, _asked(request), before=request.cursor, limit=request.limit
    )
    is_full = len(rows) == request.limit
    return m.ListPage(runs=[summary(row) for row in rows], next_cursor=rows[-1].run_id if is_full else None)


def _asked(request: m.List) -> filters.Filter:
    """The filter, with the fields that stand beside it put in its words."""
    words = [f"({request.query})"] if request.query.strip() else []
    if request.statuses:
        words.append(f"Status IN ({', '.join(map(_quoted, request.statuses))})")
    if request.workflow_type is not None:
        words.append(f"WorkflowType = {_quoted(request.workflow_type)}")
    if request.workflow_id is not None:
        words.append(f"WorkflowId = {_quoted(request.workflow_id)}")
    if request.task_failing:
        words.append("TaskFailing = true")
    # Alone it is parsed as it is: places in messages are the user's, and an ending may follow.
    return filters.parse(request.query if len(words) == 1 and request.query.strip() else " AND ".join(words))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def counted(pool: Pool, namespace: str, request: vis.Count) -> vis.Counted:
    """How many runs a filter matches, in groups if it asks for them."""
    asked = filters.parse(request.query)
    found = await searching.count_runs(pool, namespace, asked)
    return vis.Counted(count=sum(found.values()), groups=found if asked.is_grouped else {})


def _pending(activity: views.OpenActivity, task: views.OpenTask) -> m.PendingActivity:
    options = _options.decode(activity.options)
    is_started = task.worker is not None
    return m.PendingActivity(
        seq=activity.seq,
        activity_id=activity.activity_id,
        name=activity.name,
        task_queue=activity.task_queue,
        state="started" if is_started else "scheduled",
        attempt=task.attempt,
        scheduled_at=activity.scheduled_at,
        max_attempts=options.retry.max_attempts,
        started_at=task.leased_at,
        next_attempt_at=None if is_started else task.ready_at,
        last_failure=None if activity.last_failure is None else codec.decode(activity.last_failure, Failure),
        last_heartbeat_at=activity.last_heartbeat_at,
        heartbeat_details=activity.heartbeat_details,
        is_cancel_requested=activity.is_cancel_requested,
        worker=task.worker,
    )
