"""Write everything that a batch changed: the only writer of workflow data.

One statement for the runs that exist and one for new runs, each with a step for every kind of row: a batch of any
size, with any mix of kinds, is one round trip (two if it has both). Rows travel as the core's structs have them.
Runs that schedules started take their slots along, with two more statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import astuple

from holdfast.core import state as s
from holdfast.store import attributes, slot_rows
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

Row = tuple[Any, ...]

_ACTIVITY = s.Activity.__struct_fields__
_OPTIONS, _FAILURE = _ACTIVITY.index("options"), _ACTIVITY.index("last_failure")

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
    session: Session,
    states: Sequence[s.RunState],
    fired: Sequence[slot_rows.Fired] = (),
    *,
    is_first: bool = False,
    at: float | None = None,
) -> Written:
    """Write what the batch changed. *fired* are the slots of schedules, locked, that new runs of the batch are for.

    States with a version are not locked: they are written if nobody has changed them since, and if the database's
    clock agrees with *at*, the time they were decided at. With *is_first*, new runs are opened only if they are the
    first of their workflow ids. Nothing of a lost run is written, nor its slot; its request is to be decided again, in a
    new transaction. What is one statement needs no transaction around it.
    """
    existing = [state for state in states if not state.is_new]
    changes = _changes(existing, at)
    openings = _openings([state for state in states if state.is_new], is_first, at)
    closing = [
        state
        for state in existing
        if state.run.closed_at is not None
        and state.is_touched
        and (state.run.open_activities or state.run.open_timers)
    ]
    extra = [state for state in states if attributes.has_extras(state)]
    if (changes and (openings or closing)) or extra:
        await session.begin()
    done = Written()
    if changes:
        # Before new runs are opened, so that one batch can end a run and start the next of its workflow id.
        done.heard(await session.write(CHANGE_RUNS, *changes))
    left = [state for state in closing if state.run.run_id not in done.lost]
    if left:
        await _close_open_work(session, left)
    if openings:
        done.heard(await session.write(OPEN_RUNS, *openings))
    whole = [state for state in extra if state.run.run_id not in done.lost]
    if whole:
        await attributes.write_extras(session, whole)
    kept = [fire for fire in fired if fire.run_id not in done.lost]
    if kept:
        await slot_rows.fire_slots(session, kept)
    return done


async def _close_open_work(session: Session, closing: Sequence[s.RunState]) -> None:
    by_id = {state.run.run_id: state for state in closing}
    for task in await session.rows(CLOSE_TASKS, list(by_id)):
        if task.worker is not None:
            by_id[task.run_id].cancel_pushes.append(task)
    await session.run(CLOSE_ACTIVITIES, list(by_id))
    await session.run(CLOSE_TIMERS, list(by_id))


def _changes(states: Sequence[s.RunState], at: float | None) -> list[Any]:
    """The arguments of `CHANGE_RUNS`, none if nothing is touched."""
    runs = [astuple(state.run) for state in states if state.is_written]
    requests = _requests(states)
    if not (runs or requests):
        return []
    gone = [(st.run.run_id, seq) for st in states for seq in st.closed_tasks]
    return [
        _events(states),
        _tasks(states),
        gone,
        [
            _activity(st.activities[seq])
            for st in states
            for seq in st.opened_activities | st.touched_activities
        ],
        [astuple(st.timers[seq]) for st in states for seq in st.opened_timers | st.touched_timers],
        requests,
        _owed(states),
        runs,
        [(st.run.run_id, st.version) for st in states if st.version and st.is_written],
        [row for st in states if st.known_tasks for row in _known_tasks(st)],
        at,
        TOO_EARLY_S,
        TOO_LATE_S,
        _closings(states),
        list({run_id for run_id, _ in gone}),
        list({seq for _, seq in gone}),
    ]


def _openings(states: Sequence[s.RunState], is_first: bool, at: float | None) -> list[Any]:
    """The arguments of `OPEN_RUNS`, none if there are no new runs."""
    if not states:
        return []
    runs = sorted((state.run for state in states), key=lambda run: (run.namespace, run.workflow_id))
    return [
        [astuple(run) for run in runs],
        _events(states),
        _tasks(states),
        _requests(states),
        _owed(states),
        _closings(states),
        is_first,
        at,
        TOO_EARLY_S,
        TOO_LATE_S,
    ]


def _known_tasks(state: s.RunState) -> list[Row]:
    """The (run, seq, fence, holder) that the tasks which change are believed to have."""
    changed = state.touched_tasks | state.closed_tasks | state.opened_tasks
    return [(state.run.run_id, seq, *known) for seq, known in state.known_tasks.items() if seq in changed]


def _events(states: Sequence[s.RunState]) -> list[Row]:
    return [
        (state.run.run_id, at, seq, type(event).__name__, codec.encode_event(event))
        for state in states
        for seq, (at, event) in enumerate(state.events, state.first_new_seq)
    ]


def _tasks(states: Sequence[s.RunState]) -> list[Row]:
    return [
        astuple(st.tasks[seq])
        for st in states
        for seq in (*st.opened_tasks, *st.touched_tasks)
        if seq in st.tasks
    ]


def _activity(activity: s.Activity) -> Row:
    row = list(astuple(activity))
    row[_OPTIONS] = codec.encode(activity.options)
    row[_FAILURE] = None if activity.last_failure is None else codec.encode(activity.last_failure)
    return tuple(row)


def _requests(states: Sequence[s.RunState]) -> list[Row]:
    return [astuple(request) for state in states for request in state.new_requests]


def _closings(states: Sequence[s.RunState]) -> list[Row]:
    """The (run, namespace, status) of those that closed in this batch."""
    return [
        (state.run.run_id, state.run.namespace, state.run.status)
        for state in states
        if state.events and type(state.events[-1][1]) in e.CLOSING
    ]


def _owed(states: Sequence[s.RunState]) -> list[Row]:
    """The (run, first and last number) of the new events."""
    return [(state.run.run_id, state.first_new_seq, state.run.last_seq) for state in states if state.events]
