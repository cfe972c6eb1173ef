"""Write everything that a batch changed: the only writer of workflow data.

One statement for the runs that exist and one for new runs, each with a step for every kind of row. They take
arrays, so a batch of any size, with any mix of kinds, is one round trip (two if it has both). Columns travel in
the order of the core's structs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from holdfast.core import state as s
from holdfast.store.record_statements import (
    CHANGE_RUNS,
    CLOSE_ACTIVITIES,
    CLOSE_TASKS,
    CLOSE_TIMERS,
    OPEN_RUNS,
    Recorded,
)
from holdfast.store.session import Session
from holdfast.wire import codec
from holdfast.wire import events as e

# NULL is an array without rows, too, and the cheapest one to send.
Array = Sequence[Any] | None

TOO_EARLY_S, TOO_LATE_S = -0.01, 0.25
"""How far ahead of a batch's own time the database's clock may be when it is written, if that time is only believed."""


class Written:
    """What became of a batch: the runs that were left out, the version of the rows that were written, the clock."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.version = 0
        self.now = 0.0

    def heard(self, told: Sequence[Recorded]) -> None:
        """Take in what a statement told."""
        for row in told:
            self.lost.update(row.lost)
            self.version, self.now = row.version, row.now


async def record(
    session: Session, states: Sequence[s.RunState], *, is_first: bool = False, at: float | None = None
) -> Written:
    """Write what the batch changed.

    States with a version are not locked: they are written if nobody has changed them since, and if the database's
    clock agrees with *at*, the time they were decided at. With *is_first*, new runs are opened only if they are the
    first of their workflow ids. Nothing of a lost run is written; its request is to be decided again, in a new
    transaction. What is one statement needs no transaction around it.
    """
    existing = [state for state in states if not state.is_new]
    changes, openings = _changes(existing, at), _openings([state for state in states if state.is_new])
    closing = [
        state
        for state in existing
        if state.run.closed_at is not None
        and state.is_touched
        and (state.run.open_activities or state.run.open_timers)
    ]
    if changes and (openings or closing):
        await session.begin()
    done = Written()
    if changes:
        # Before new runs are opened, so that one batch can end a run and start the next of its workflow id.
        done.heard(await session.write(CHANGE_RUNS, *changes))
    left = [state for state in closing if state.run.run_id not in done.lost]
    if left:
        await _close_open_work(session, left)
    if openings:
        done.heard(await session.write(OPEN_RUNS, *openings, is_first, at, TOO_EARLY_S, TOO_LATE_S))
    return done


async def _close_open_work(session: Session, closing: Sequence[s.RunState]) -> None:
    by_id = {state.run.run_id: state for state in closing}
    for task in await session.rows(CLOSE_TASKS, list(by_id)):
        if task.worker is not None:
            by_id[task.run_id].cancel_pushes.append(task)
    await session.run(CLOSE_ACTIVITIES, list(by_id))
    await session.run(CLOSE_TIMERS, list(by_id))


def _fields(struct: type[msgspec.Struct], *names: str) -> tuple[int, ...]:
    """The positions of these fields (all by default)."""
    known = struct.__struct_fields__
    return tuple(known.index(name) for name in names) if names else tuple(range(len(known)))


# What an update may change, by position in the core's structs.
_RUN_ALL = _fields(s.Run)
_RUN_CHANGED = tuple(
    index
    for index, name in enumerate(s.Run.__struct_fields__)
    if name
    not in (
        "namespace",
        "workflow_id",
        "workflow_type",
        "task_queue",
        "request_id",
        "request_hash",
        "created_at",
    )
)
_TASK_ALL = _fields(s.Task)
_ACTIVITY_ALL = _fields(s.Activity)
_ACTIVITY_CHANGED = _fields(
    s.Activity,
    "run_id",
    "seq",
    "status",
    "attempt",
    "is_cancel_requested",
    "last_failure",
    "heartbeat_details",
    "last_heartbeat_at",
    "closed_at",
    "closed_fence",
)
_TIMER_ALL = _fields(s.Timer)
_TIMER_CHANGED = _fields(s.Timer, "run_id", "seq", "state")
_REQUEST_ALL = _fields(s.KeptRequest)
_OPTIONS, _FAILURE = _fields(s.Activity, "options", "last_failure")


def _changes(states: Sequence[s.RunState], at: float | None) -> list[Any]:
    """The arguments of `CHANGE_RUNS`, none if nothing is touched."""
    touched = [state.run for state in states if state.is_written]
    gone = [(st.run.run_id, q) for st in states for q in st.closed_tasks]
    changed = [st.activities[q] for st in states for q in st.touched_activities - st.opened_activities]
    settled = [st.timers[q] for st in states for q in st.touched_timers - st.opened_timers]
    tasks, requests, owed = _tasks(states), _requests(states), _owed(states)
    if not (touched or tasks or gone or changed or settled or requests or owed):
        return []
    return [
        *_transposed(_event_rows(states), 5),
        *_arrays(tasks, _TASK_ALL),
        *_transposed(gone, 2),
        *_arrays([st.activities[q] for st in states for q in st.opened_activities], _ACTIVITY_ALL),
        *_arrays(changed, _ACTIVITY_CHANGED),
        *_arrays([st.timers[q] for st in states for q in st.opened_timers], _TIMER_ALL),
        *_arrays(settled, _TIMER_CHANGED),
        *_arrays(requests, _REQUEST_ALL),
        *_transposed(owed, 3),
        *_arrays(touched, _RUN_CHANGED),
        *_transposed([(st.run.run_id, st.version) for st in states if st.version and st.is_written], 2),
        *_transposed([row for st in states if st.known_tasks for row in _known_tasks(st)], 4),
        at,
        *_transposed(_closings(states), 3),
        TOO_EARLY_S,
        TOO_LATE_S,
    ]


def _openings(states: Sequence[s.RunState]) -> list[Array]:
    """The arrays of `OPEN_RUNS`, empty if there are no new runs."""
    if not states:
        return []
    runs = sorted((state.run for state in states), key=lambda run: (run.namespace, run.workflow_id))
    return [
        *_arrays(runs, _RUN_ALL),
        *_transposed(_event_rows(states), 5),
        *_arrays(_tasks(states), _TASK_ALL),
        *_arrays(_requests(states), _REQUEST_ALL),
        *_transposed(_owed(states), 3),
        *_transposed(_closings(states), 3),
    ]


def _known_tasks(state: s.RunState) -> list[tuple[str, int, int, str | None]]:
    """The (run, seq, fence, holder) that the tasks which change are believed to have."""
    changed = state.touched_tasks | state.closed_tasks | state.opened_tasks
    return [(state.run.run_id, seq, *known) for seq, known in state.known_tasks.items() if seq in changed]


def _tasks(states: Sequence[s.RunState]) -> list[s.Task]:
    return [st.tasks[q] for st in states for q in (*st.opened_tasks, *st.touched_tasks) if q in st.tasks]


def _requests(states: Sequence[s.RunState]) -> list[s.KeptRequest]:
    return list(chain.from_iterable(state.new_requests for state in states))


def _closings(states: Sequence[s.RunState]) -> list[tuple[str, str, str]]:
    """The (run, namespace, status) of those that closed in this batch."""
    return [
        (state.run.run_id, state.run.namespace, state.run.status)
        for state in states
        if state.events and type(state.events[-1][1]) in e.CLOSING
    ]


def _owed(states: Sequence[s.RunState]) -> list[tuple[str, int, int]]:
    """The (run, first and last number) of the new events."""
    return [(state.run.run_id, state.first_new_seq, state.run.last_seq) for state in states if state.events]


def _arrays(rows: Sequence[msgspec.Struct], fields: tuple[int, ...]) -> list[Array]:
    """The values of *rows* as one array per field."""
    if not rows:
        return [None] * len(fields)
    arrays: list[Sequence[Any]] = list(zip(*map(msgspec.structs.astuple, rows), strict=True))
    if isinstance(rows[0], s.Activity):
        arrays[_OPTIONS] = [codec.encode(options) for options in arrays[_OPTIONS]]
        arrays[_FAILURE] = [
            None if failure is None else codec.encode(failure) for failure in arrays[_FAILURE]
        ]
    return [arrays[index] for index in fields]


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[Array]:
    return list(zip(*rows, strict=True)) if rows else [None] * width


def _event_rows(states: Sequence[s.RunState]) -> list[tuple[str, float, int, str, bytes]]:
    return [
        (state.run.run_id, at, seq, type(event).__name__, codec.encode_event(event))
        for state in states
        for seq, (at, event) in enumerate(state.events, state.first_new_seq)
    ]
