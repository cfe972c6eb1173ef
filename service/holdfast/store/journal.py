"""Lock runs, and record what was decided about them. The only writer of workflow data.

The number of statements grows with the kinds of rows touched, never with their count:
every statement takes arrays. `_writes` lists, in order, which statement writes which kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec

from holdfast.core import state as s
from holdfast.store import owned_rows as own
from holdfast.store import run_rows as runs
from holdfast.store.session import Session, columns
from holdfast.wire import codec

_options = msgspec.msgpack.Decoder(s.Options)


class Address(msgspec.Struct, frozen=True):
    """How a client names a run: by workflow id, and by run id if it wants an older one than the newest."""

    namespace: str
    workflow_id: str
    run_id: str | None = None
    request_id: str = ""


class Resolved(msgspec.Struct, frozen=True):
    """The newest run of a workflow id, and the run that this request id started, if there are."""

    newest: s.Run | None
    repeat: s.Run | None
    now: float


async def resolve(session: Session, addresses: Sequence[Address]) -> list[Resolved]:
    """What is known under each of *addresses*, in order. Nothing is locked."""
    found = await session.rows(
        runs.RESOLVE,
        [address.namespace for address in addresses],
        [address.workflow_id for address in addresses],
        [address.request_id for address in addresses],
    )
    result: list[Resolved] = [Resolved(None, None, found[0].now)] * len(addresses)
    for row in found:
        seen = result[row.position - 1]
        run = row.run()
        if run is not None:
            is_newest = row.is_newest
            result[row.position - 1] = Resolved(
                run if is_newest else seen.newest, seen.repeat if is_newest else run, row.now
            )
    return result


async def lock(
    session: Session,
    run_ids: Iterable[str],
    named: Iterable[tuple[str, int]],
    named_timers: Iterable[tuple[str, int]],
    requests: Sequence[tuple[str, str]],
) -> tuple[dict[str, s.RunState], float]:
    """The states of these runs, locked until the transaction ends, and the time after the lock.

    *named* are the (run, seq) of activities, *named_timers* of timers, *requests* the
    (namespace, request id) that the batch's requests speak of. Unknown runs are missing from
    the answer. Runs are locked in id order, then their tasks, so that overlapping batches
    cannot deadlock.
    """
    ids = sorted(set(run_ids))
    locked = await session.rows(runs.LOCK_RUNS, ids)
    now = max(row.now for row in locked)
    states: dict[str, s.RunState] = {}
    for row in locked:
        run = row.run()
        if run is not None:
            states[run.run_id] = s.RunState(run=run, first_new_seq=run.last_seq + 1)
    if not states:
        return states, now
    activities = sorted({pair for pair in named if pair[0] in states})
    tasks = sorted({*activities, *((run_id, 0) for run_id in states)})
    for task in await session.rows(own.LOCK_TASKS, *_pairs(tasks)):
        states[task.run_id].tasks[task.seq] = task
    if activities:
        for found in await session.rows(own.READ_ACTIVITIES, *_pairs(activities)):
            states[found.run_id].activities[found.seq] = found.activity(_options.decode)
    timers = sorted({pair for pair in named_timers if pair[0] in states})
    if timers:
        for timer in await session.rows(own.READ_TIMERS, *_pairs(timers)):
            states[timer.run_id].timers[timer.seq] = timer
    if requests:
        kept = await session.rows(own.READ_REQUESTS, [n for n, _ in requests], [r for _, r in requests])
        for request in kept:
            for state in states.values():
                if state.run.namespace == request.namespace:
                    state.requests[request.request_id] = request
    return states, now


async def record(session: Session, states: Sequence[s.RunState]) -> set[str]:
    """Write everything the batch changed. Returns the ids of new runs that lost the race for their workflow id.

    Nothing of a lost run is written; its request is to be decided again in a new transaction.
    """
    touched = [state for state in states if state.is_touched and not state.is_new]
    if touched:
        await session.run(runs.UPDATE_RUNS, *columns([state.run for state in touched], runs.RUN_UPDATED))
    lost: set[str] = set()
    # In the order of the unique index, so that two batches with the same ids cannot deadlock.
    new = sorted((st for st in states if st.is_new), key=lambda st: (st.run.namespace, st.run.workflow_id))
    if new:
        won = await session.rows(runs.INSERT_RUNS, *columns([state.run for state in new], runs.RUN_COLUMNS))
        lost = {state.run.run_id for state in new} - {row.run_id for row in won}
    kept = [state for state in states if state.run.run_id not in lost]
    for statement, rows in _writes(kept):
        if rows:
            await session.run(statement, *rows)
    closing = [
        st.run.run_id for st in kept if st.run.closed_at is not None and st.is_touched and _has_open_work(st)
    ]
    if closing:
        await _close_open_work(session, kept, closing)
    return lost


def _writes(states: Sequence[s.RunState]) -> list[tuple[Any, list[list[Any]] | None]]:
    """Each kind of row with its statement and its arrays, None where nothing of the kind is touched."""
    opened_tasks = [
        st.tasks[q] for st in states for q in (*st.opened_tasks, *st.touched_tasks) if q in st.tasks
    ]
    closed_tasks = [(st.run.run_id, q) for st in states for q in st.closed_tasks]
    opened = [st.activities[q] for st in states for q in st.opened_activities]
    changed = [st.activities[q] for st in states for q in st.touched_activities - st.opened_activities]
    timers = [st.timers[q] for st in states for q in st.opened_timers]
    settled = [st.timers[q] for st in states for q in st.touched_timers - st.opened_timers]
    requests = list(chain.from_iterable(st.new_requests for st in states))
    owed = [st for st in states if st.events]
    return [
        (own.INSERT_EVENTS, _event_arrays(owed) if owed else None),
        (own.PUT_TASKS, columns(opened_tasks, own.TASK_COLUMNS) if opened_tasks else None),
        (own.DELETE_TASKS, _pairs(closed_tasks) if closed_tasks else None),
        (own.INSERT_ACTIVITIES, _activity_arrays(opened) if opened else None),
        (own.UPDATE_ACTIVITIES, _activity_change_arrays(changed) if changed else None),
        (own.INSERT_TIMERS, columns(timers, own.TIMER_COLUMNS) if timers else None),
        (own.UPDATE_TIMERS, columns(settled, ("run_id", "seq", "state")) if settled else None),
        (own.INSERT_REQUESTS, columns(requests, own.REQUEST_COLUMNS) if requests else None),
        (own.INSERT_OUTBOX, _outbox_arrays(owed) if owed else None),
    ]


def _has_open_work(state: s.RunState) -> bool:
    return bool(state.run.open_activities or state.run.open_timers)


async def _close_open_work(session: Session, states: Sequence[s.RunState], closing: list[str]) -> None:
    """Settle what closed runs still had open. Leased activities are told to stop after the commit."""
    by_id = {state.run.run_id: state for state in states}
    for task in await session.rows(own.CLOSE_TASKS, closing):
        if task.worker is not None:
            by_id[task.run_id].cancel_pushes.append(task)
    await session.run(own.CLOSE_ACTIVITIES, closing)
    await session.run(own.CLOSE_TIMERS, closing)


def _pairs(pairs: Sequence[tuple[str, int]]) -> list[list[Any]]:
    return [[run_id for run_id, _ in pairs], [seq for _, seq in pairs]]


def _event_arrays(states: Sequence[s.RunState]) -> list[list[Any]]:
    run_ids: list[str] = []
    seqs: list[int] = []
    times: list[float] = []
    types: list[str] = []
    bodies: list[bytes] = []
    for state in states:
        for seq, (at, event) in enumerate(state.events, state.first_new_seq):
            run_ids.append(state.run.run_id)
            seqs.append(seq)
            times.append(at)
            types.append(type(event).__name__)
            bodies.append(codec.encode_event(event))
    return [run_ids, times, seqs, types, bodies]


def _outbox_arrays(states: Sequence[s.RunState]) -> list[list[Any]]:
    return [
        [state.run.run_id for state in states],
        [state.first_new_seq for state in states],
        [state.run.last_seq for state in states],
    ]


def _activity_arrays(activities: Sequence[s.Activity]) -> list[list[Any]]:
    arrays = columns(activities, own.ACTIVITY_COLUMNS)
    return [*arrays, [codec.encode(activity.options) for activity in activities]]


def _activity_change_arrays(activities: Sequence[s.Activity]) -> list[list[Any]]:
    arrays = columns(activities, own.ACTIVITY_CHANGED)
    failures = [None if a.last_failure is None else codec.encode(a.last_failure) for a in activities]
    return [*arrays, failures]
