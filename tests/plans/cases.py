"""The statements that stores and engines run while there is much of everything, and what each may look at."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.core import state as s
from holdfast.store import (
    due_work,
    journal_feed,
    outbox,
    owned_rows,
    record_statements,
    retention,
    run_rows,
    schedule_rows,
    searching,
    slot_rows,
    tasks,
    views,
    worker_rows,
)
from holdfast.store.contract import (
    activities,
    addressing,
    archiving,
    dispatch,
    driven_activities,
    events,
    run_contents,
    signals,
    snapshots,
    stats,
    timers,
    workers,
    workflow_views,
    workflows,
)
from tests.plans.crowd import NOON, closed_run, open_run
from tests.plans.looking import Case, places

RUN, CLOSED = open_run(7), closed_run(7)
LEASED = "a0000000-0000-7000-8000-000000000030"
RUNS = [open_run(number) for number in range(1, 21)]
NAMED = ("busy", "w7", None)


def _row(run_id: str, workflow_id: str) -> tuple[Any, ...]:
    run = s.Run(
        run_id=run_id,
        namespace="busy",
        workflow_id=workflow_id,
        workflow_type="t",
        task_queue="q",
        last_seq=2,
        last_at=1.7e9,
        created_at=1.7e9,
        request_id="r",
    )
    return msgspec.structs.astuple(run)


def changed(version: int | None = None) -> list[Any]:
    """Twenty runs that record changes of every kind of row for. None of them has the *version*, if that is asked."""
    args: list[Any] = [None] * places(record_statements.CHANGE_RUNS)
    args[2], args[14], args[15] = [(run_id, 0) for run_id in RUNS], RUNS, [0]
    args[7] = [_row(run_id, "w") for run_id in RUNS]
    if version is not None:
        args[8], args[9] = [(run_id, version) for run_id in RUNS], [(run_id, 0, 1, None) for run_id in RUNS]
        args[10:13] = 0.0, -1e12, 1e12
    return args


def opened() -> list[Any]:
    """Twenty new runs, half of them with workflow ids that are taken."""
    ids = [f"f0000000-0000-0000-0000-{number:012x}" for number in range(20)]
    names = [f"w{n}" if n % 2 else f"new{n}" for n in range(1, 21)]
    args: list[Any] = [None] * places(record_statements.OPEN_RUNS)
    args[0] = [_row(run_id, name) for run_id, name in zip(ids, names, strict=True)]
    args[6] = False
    return args


CLAIMS: dict[str, Case] = {
    "workflow task": Case(tasks.CLAIM_WORKFLOWS, ("busy", "q", "w1", 1, 10.0), "task_workflow_ready", 1),
    "20 workflow tasks": Case(
        tasks.CLAIM_WORKFLOWS, ("busy", "q", "w1", 20, 10.0), "task_workflow_ready", 20
    ),
    "activity": Case(tasks.CLAIM_ACTIVITIES, ("busy", "q", "w1", 1, 10.0), "task_activity_ready", 1),
    "20 activities": Case(tasks.CLAIM_ACTIVITIES, ("busy", "q", "w1", 20, 10.0), "task_activity_ready", 20),
    "workflow task of an empty queue": Case(
        tasks.CLAIM_WORKFLOWS, ("busy", "none", "w1", 20, 10.0), "task_workflow_ready", 0
    ),
    "activity of an empty queue": Case(
        tasks.CLAIM_ACTIVITIES, ("busy", "none", "w1", 20, 10.0), "task_activity_ready", 0
    ),
    "contract's workflow task": Case(
        dispatch.CLAIM_WORKFLOW_TASK, ("q", "w1", "busy", None, None), "record_ready", 1
    ),
    "contract's workflow task of a worker": Case(
        dispatch.CLAIM_WORKFLOW_TASK, ("q", "x1", "busy", ["t"], 70), "record_held", 1, work=60
    ),
    "contract's activity": Case(
        dispatch.CLAIM_ACTIVITY, ("q", "w1", "busy", None, None), "record_activity_ready", 1
    ),
    "contract's activity of a worker": Case(
        dispatch.CLAIM_ACTIVITY, ("q", "x1", "busy", ["a"], 70), "record_activity_held", 1, work=60
    ),
    "contract's activity of an empty queue": Case(
        dispatch.CLAIM_ACTIVITY, ("none", "w1", "busy", None, None), "record_activity_ready", 0
    ),
}
ENGINE: dict[str, Case] = {
    "lock": Case(owned_rows.LOCK, (RUNS * 2, [0] * 20 + [1] * 20), "run_pkey", 40, work=60),
    "timers": Case(owned_rows.READ_TIMERS, (RUNS, [2] * 20), "timer_pkey", 20),
    "requests": Case(owned_rows.READ_REQUESTS, (["busy"] * 3, ["r1", "r2", "none"]), "request_pkey", 2),
    "resolve": Case(run_rows.RESOLVE, (["busy"] * 3, ["w1", "w2", "none"], ["r1", "", "x"]), "run_chain", 4),
    "extend": Case(tasks.EXTEND, (RUNS, [1] * 20, [1] * 20, "w1", 10.0, "busy"), "task_pkey", 20, work=40),
    "held activities": Case(tasks.HELD_ACTIVITIES, (RUNS, "w1"), "task_pkey", 0, work=40),
    "held workflows": Case(tasks.HELD_WORKFLOWS, (RUNS, "w1"), "task_pkey", 0, work=40),
    "change runs": Case(record_statements.CHANGE_RUNS, changed(), "run_pkey", 1, work=200),
    "change runs that moved on": Case(
        record_statements.CHANGE_RUNS, changed(version=1), "run_pkey", 1, work=250
    ),
    "open runs": Case(record_statements.OPEN_RUNS, opened(), "run_chain", 1, work=60),
    "close tasks": Case(record_statements.CLOSE_TASKS, (RUNS,), "task_pkey", 40),
    "close activities": Case(record_statements.CLOSE_ACTIVITIES, (RUNS,), "activity_pkey", 0, work=40),
    "close timers": Case(record_statements.CLOSE_TIMERS, (RUNS,), "timer_pkey", 0, work=40),
    "outcomes": Case(views.OUTCOMES, (RUNS,), "run_pkey", 20),
    "open tasks": Case(views.OPEN_TASKS, (RUN,), "task_pkey", 2),
    "open activities": Case(views.OPEN_ACTIVITIES, (RUN,), "activity_pkey", 1),
    "open timers": Case(views.OPEN_TIMERS, (RUN,), "timer_pkey", 1),
    "find run": Case(views.FIND_RUN, NAMED, "run_chain", 1),
    "pulse": Case(due_work.PULSE, (), "task_deadline", 1),
    "queues that are ready": Case(due_work.READY_QUEUES, (10,), "task_workflow_ready", 3, work=60),
    "tasks due": Case(due_work.DUE_TASKS, (1_000,), "task_deadline", 10),
    "timeouts due": Case(due_work.DUE_TIMEOUTS, (1_000,), "task_deadline", 0, work=10),
    "timers due": Case(due_work.DUE_TIMERS, (1_000,), "timer_due", 10),
    "owed": Case(outbox.READ_OWED, (50,), "outbox_pkey", 50),
    "journal": Case(journal_feed.READ_JOURNAL, (50,), "journal_pkey", 50),
    "next schedule": Case(schedule_rows.NEXT_SCHEDULE, (), "schedule_due", 1),
    "schedules due": Case(schedule_rows.LOCK_DUE, (NOON + 1e9, 10, "scheduler", "me", 1), "schedule_due", 10),
    "queued slots": Case(slot_rows.READ_QUEUED, ("", "", 10, 5), "schedule_fire_queued", 2),
    "list of an id": Case(searching.CHAIN, ("main", None, None, None, 10, None, "w7"), "run_chain", 1),
    "history": Case(views.READ_EVENTS, ([RUN], [0], [9], 100, 1_000_000, 1_000_000), "event_pkey", 1),
    "types of events": Case(views.EVENT_TYPES, (RUN, 1, 9), "event_pkey", 1),
    "delivered": Case(outbox.DELETE_OWED, ([1, 2, 3], "scheduler", "me", 1), "outbox_pkey", 0, work=6),
    "told": Case(journal_feed.DELETE_JOURNAL, ([1, 2, 3], "scheduler", "me", 1), "journal_pkey", 0, work=6),
    "old requests": Case(owned_rows.FORGET_REQUESTS, (-10.0, 10), "request_age", 0, work=20_000),
    "schedules looked at": Case(
        schedule_rows.MOVE_ON,
        (["busy"], ["s1"], [1.0], [1.0], ["false"], [None]),
        "schedule_pkey",
        0,
        work=2,
    ),
    "last fires": Case(slot_rows.LAST_FIRES, ("busy", "s1", 2e9, 10), "schedule_fire_pkey", 1),
    "slots to start": Case(slot_rows.LOCK_SLOTS, (["busy"], ["s1"], [1.0]), "schedule_pkey", 0, work=4),
    "slots that start": Case(
        slot_rows.FIRE_SLOTS, (["busy"], ["s1"], [1.0], ["w"], [RUN], [1.0]), "schedule_fire_pkey", 0, work=10
    ),
    "slots to skip": Case(
        slot_rows.SKIP_SLOTS, (["busy"], ["s1"], [1.0], ["late"]), "schedule_fire_pkey", 0, work=10
    ),
    "workers heard of": Case(
        worker_rows.REFRESH, (["x1", "x101"], ["busy"] * 2, [1] * 2, [0.0] * 2), "worker_pkey", 2
    ),
    "workers that leave": Case(
        worker_rows.TAKE_LEAVE, (["x1", "x101"], [""] * 2, "worker"), "worker_pkey", 2
    ),
    "silent workers": Case(worker_rows.IS_ANY_SILENT, (1.0,), "worker_silent", 1),
}
FILTERED = workflow_views.LIST_RUNS
CONTRACT: dict[str, Case] = {
    "get": Case(workflow_views.SHOW, (None, *NAMED), "run_chain", 1),
    "show": Case(workflow_views.SHOW, ([RUN, CLOSED], None, None, None), "run_pkey", 2),
    "list": Case(FILTERED, ("main", None, None, None, None, 10, 0, None), "run_newest", 10),
    "list by status": Case(FILTERED, ("main", "COMPLETED", None, None, None, 10, 0, None), "run_newest", 10),
    "list by type": Case(FILTERED, ("main", None, "t", None, None, 10, 0, None), "run_newest", 10),
    "list behind a cursor": Case(FILTERED, ("main", None, None, None, CLOSED, 5, 0, None), "run_newest", 5),
    "search among the newest": Case(
        FILTERED, ("main", None, None, '{"n": -1}', None, 10, 0, 500), "run_newest", 0, work=1000
    ),
    "search": Case(
        workflow_views.SEARCH_RUNS, ("main", None, None, '{"n": 77}', None, 10, 0), "record_search", 1
    ),
    "search by status and type": Case(
        workflow_views.SEARCH_RUNS, ("main", "COMPLETED", "t", '{"n": 77}', None, 10, 0), "record_search", 1
    ),
    "children": Case(workflow_views.LIST_CHILDREN, ("busy", "w7"), "record_child", 1),
    "archivable": Case(archiving.LIST_ARCHIVABLE, ("2200-01-01", 10, None), "run_retained", 10, work=60),
    "archivable in one namespace": Case(
        archiving.LIST_ARCHIVABLE, ("2200-01-01", 10, "main"), "run_retained", 10, work=60
    ),
    "terms of retention": Case(retention.TERMS, (1,), "run_retained", 1, work=20),
    "sizes of what is archived": Case(retention.SIZES, (RUNS,), "event_pkey", 20, work=400),
    "archived": Case(retention.LIST_ARCHIVED, ("busy", 10), "record_archived", 0),
    "pointer": Case(retention.POINTER, (CLOSED,), "record_pkey", 0),
    "before a new run": Case(workflows.BEFORE_NEW, ("main", "w77"), "run_chain", 1),
    "newer run": Case(workflows.NEWER_RUN, ("main", "w77", closed_run(1)), "run_chain", 1),
    "outcome": Case(workflows.LOCK_OUTCOME, (RUN,), "record_pkey", 1),
    "set outcome": Case(workflows.SET_OUTCOME, (RUN, "FAILED", None, None, True), "run_pkey", 0, work=5),
    "search attributes": Case(workflows.MERGE_ATTRIBUTES, (CLOSED, '{"a": 1}', []), "run_pkey", 1),
    "events": Case(events.LIST_EVENTS, (CLOSED, "w", 0, None), "record_event_run_id_seq_key", 1),
    "driven events": Case(events.LIST_DRIVEN_EVENTS, (RUN, 0, None), "event_pkey", 1),
    "new event": Case(events.ADD_EVENT, (CLOSED, 2, "X", None, 1), "record_pkey", 1),
    "event count": Case(events.COUNT_EVENTS, ("main", "w7", None), "run_chain", 1),
    "activity by number": Case(activities.GET_ACTIVITY, (100,), "record_activity_pkey", 1),
    "activity by seq": Case(activities.GET_ACTIVITY_BY_SEQ, (*NAMED, 1), "record_activity_run_id_seq_key", 1),
    "driven activity": Case(driven_activities.READ_DRIVEN, (*NAMED, 1), "activity_pkey", 1),
    "timeouts": Case(
        activities.TIMED_OUT_ACTIVITIES, (NOON + 350.5, None, None), "record_activity_deadline", 10
    ),
    "cancelled activities": Case(
        activities.CANCEL_PENDING, (RUN, "PENDING"), "record_activity_run_id_seq_key", 1
    ),
    "cancelled timers": Case(timers.CANCEL_TIMERS, (RUN, 0), "record_timer_run_id_seq_key", 1),
    "fired timers": Case(timers.FIRE_TIMERS, (NOON + 10, 1000, None), "record_timer_due", 10),
    "timer by seq": Case(timers.READ_TIMER, (*NAMED, 1), "record_timer_run_id_seq_key", 1),
    "signals": Case(signals.CONSUME_SIGNALS, (RUN, "s", "w7"), "record_signal_run", 1),
    "snapshot": Case(snapshots.LATEST_SNAPSHOT, NAMED, "snapshot_pkey", 1),
    "older snapshots": Case(snapshots.DROP_OLDER, (RUN, 0), "snapshot_pkey", 0, work=5),
    "owned": Case(run_contents.OWNS_ANYTHING, (RUN,), "event_pkey", 1),
    "purge": Case(archiving.PURGE, (CLOSED, "2020-01-01"), "run_pkey", 0, work=20),
    "stale leases": Case(dispatch.LOCK_STALE, (NOON + 45,), "record_leased", 4),
    "dead workers": Case(workers.LOCK_DEAD, (NOON + 250,), "worker_silent", 3),
    "held by the dead": Case(workers.LOCK_HELD_RUNS, (["x1"], ["busy"]), "task_deadline", 60, work=2500),
    "run by address": Case(addressing.LOCK_ADDRESSED, NAMED, "run_chain", 1),
    "run of an activity": Case(activities.LOCK_OWNER, (100,), "record_activity_pkey", 1),
    "stale leases released": Case(
        dispatch.RELEASE_STALE, ([LEASED], NOON + 100, "2020-01-01"), "record_pkey", 1, work=120
    ),
    "dispatched by the dead": Case(
        workers.FREE_DISPATCHED, ([LEASED], ["x1"], 1.7e9), "record_pkey", 1, work=60
    ),
    "run by the dead": Case(
        workers.FREE_ACTIVITIES, ([LEASED], ["x1"], "RUNNING"), "record_activity_run_id_seq_key", 1
    ),
    "leased to the dead": Case(workers.LAPSE_TASKS, ([RUN], ["x1"], ["busy"], 1.7e9), "task_pkey", 0, work=4),
    "namespace's figures": Case(stats.NAMESPACE_STATS, ("main",), "run_open", 1, work=80),
    "queues' figures": Case(stats.QUEUE_STATS, ("main",), "record_activity_ready", 1, work=4500),
}
CASES: dict[str, Case] = {
    f"{group} {name}": case
    for group, cases in (("claim:", CLAIMS), ("engine:", ENGINE), ("contract:", CONTRACT))
    for name, case in cases.items()
}
