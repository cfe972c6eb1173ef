"""The tables of `schemas/postgres/` as dicts of core structs, and the journal over them. Decides nothing.

What leaves is a copy and what comes is copied: nobody but `record` changes a row of a run, as in the database. The
clock is a number. Only claims, in `claims`, write beside it: they change tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from holdfast.core import state as s
from holdfast.store.journal import Address, Resolved
from holdfast.store.record import Written
from holdfast.store.session import Conflict, Session
from holdfast.store.views import EventRow
from holdfast.wire import codec

Row = TypeVar("Row", s.Task, s.Activity, s.Timer)
Key = tuple[str, int]


class Tables:
    """Everything that is kept. `now` is the time in epoch seconds; `namespaces` are names with their feed setting.

    Tasks, activities and timers have the key (run id, number), requests (namespace, request id).
    """

    def __init__(self, now: float, namespaces: Iterable[str] = ("main",)) -> None:
        self.now = now
        self.namespaces = dict.fromkeys(namespaces, "full")
        self.runs: dict[str, s.Run] = {}
        self.chains: dict[tuple[str, str], list[str]] = {}
        """The runs of each (namespace, workflow id), the newest last."""
        self.events: dict[str, list[EventRow]] = {}
        self.tasks: dict[Key, s.Task] = {}
        self.activities: dict[Key, s.Activity] = {}
        self.timers: dict[Key, s.Timer] = {}
        self.search: dict[str, dict[str, Any]] = {}
        self.memos: dict[str, dict[str, Any]] = {}
        self.requests: dict[tuple[str, str], s.KeptRequest] = {}
        self.requested_at: dict[tuple[str, str], float] = {}

    # -- the journal -------------------------------------------------------------------

    async def resolve(self, _: Session, addresses: Sequence[Address]) -> list[Resolved]:
        """As `store.journal.resolve`."""
        return [self._resolved(address) for address in addresses]

    def _resolved(self, address: Address) -> Resolved:
        chain = self.chains.get((address.namespace, address.workflow_id), [])
        runs = [self.runs[run_id] for run_id in reversed(chain)]
        repeats = (run for run in runs if run.request_id == address.request_id != "")
        newest, repeat = next(iter(runs), None), next(repeats, None)
        return Resolved(copy.copy(newest), copy.copy(repeat), self.now)

    async def lock(
        self,
        _: Session,
        run_ids: Iterable[str],
        named: Iterable[Key],
        named_timers: Iterable[Key],
        requests: Sequence[tuple[str, str]],
    ) -> tuple[dict[str, s.RunState], float]:
        """As `store.journal.lock`."""
        ids = sorted(set(run_ids) & self.runs.keys())
        asked = sorted({*named, *((run_id, 0) for run_id in ids)})
        asked_timers = sorted(set(named_timers))
        states: dict[str, s.RunState] = {}
        for run_id in ids:
            run = self.runs[run_id]
            states[run_id] = s.RunState(
                run=copy.copy(run),
                first_new_seq=run.last_seq + 1,
                tasks=_copies(self.tasks, run_id, asked),
                activities=_copies(self.activities, run_id, asked),
                timers=_copies(self.timers, run_id, asked_timers),
                requests={
                    name: copy.copy(self.requests[namespace, name])
                    for namespace, name in requests
                    if namespace == run.namespace and (namespace, name) in self.requests
                },
            )
        return states, self.now

    async def record(
        self,
        _: Session,
        states: Sequence[s.RunState],
        fired: Sequence[object] = (),  # noqa: ARG002 - there are no schedules in memory
        *,
        is_first: bool = False,  # noqa: ARG002
        at: float | None = None,  # noqa: ARG002
    ) -> Written:
        """As `store.record.record`; nobody can be faster, so no new run is lost.

        Rows have no version, so the engine believes nothing about them: reading them costs nothing.

        Raises `Conflict`, and then writes nothing, if a request id was used twice in one batch.
        """
        names = [(kept.namespace, kept.request_id) for state in states for kept in state.new_requests]
        if len(set(names)) < len(names) or self.requests.keys() & names:
            raise Conflict("one request id stands for several requests of a batch")
        # Runs that exist first, so that one batch can end a run and start the next of its workflow id.
        for state in sorted(states, key=lambda state: state.is_new):
            self._write(state)
        return Written()

    def _write(self, state: s.RunState) -> None:
        run = state.run
        if state.is_new:
            self.chains.setdefault((run.namespace, run.workflow_id), []).append(run.run_id)
        self.runs[run.run_id] = copy.copy(run)
        for seq in state.closed_tasks:
            self.tasks.pop((run.run_id, seq), None)
        self.tasks |= _rows(run, state.tasks)
        self.activities |= _rows(run, state.activities)
        self.timers |= _rows(run, state.timers)
        for table, patch in ((self.search, state.search_patch), (self.memos, state.memo_patch)):
            if patch:
                merged = table.get(run.run_id, {}) | patch
                table[run.run_id] = {name: value for name, value in merged.items() if value is not None}
        for kept in state.new_requests:
            self.requests[kept.namespace, kept.request_id] = kept
            self.requested_at[kept.namespace, kept.request_id] = self.now
        self.events.setdefault(run.run_id, []).extend(
            EventRow(
                run_id=run.run_id,
                seq=seq,
                recorded_at=at,
                type=type(event).__name__,
                body=codec.encode_event(event),
            )
            for seq, (at, event) in enumerate(state.events, state.first_new_seq)
        )
        if state.events and not run.is_open:
            self._close_open_work(state)

    def _close_open_work(self, state: s.RunState) -> None:
        """A closed run owns no open work. Whoever holds some is told to stop after the commit."""
        run_id = state.run.run_id
        for key in [key for key in self.tasks if key[0] == run_id]:
            task = self.tasks.pop(key)
            if task.worker is not None:
                state.cancel_pushes.append(task)
        for key, activity in self.activities.items():
            if key[0] == run_id and activity.closed_at is None:
                activity.status, activity.closed_at = s.CANCELLED, self.now
        for key, timer in self.timers.items():
            if key[0] == run_id and timer.state == s.TIMER_OPEN:
                timer.state = s.TIMER_CANCELLED

    # -- the clock ---------------------------------------------------------------------

    def next_due(self, after: float | None = None) -> float | None:
        """The next moment, later than *after* (None: than now), at which a timer fires, a deadline passes or a task becomes ready."""
        moments: list[float | None] = [
            timer.fire_at for timer in self.timers.values() if timer.state == s.TIMER_OPEN
        ]
        for task in self.tasks.values():
            moments.append(task.deadline)
            if task.worker is None:
                moments += (task.ready_at, task.sticky_until)
        after = self.now if after is None else after
        return min((moment for moment in moments if moment is not None and moment > after), default=None)


def _copies(table: dict[Key, Row], run_id: str, asked: Iterable[Key]) -> dict[int, Row]:
    return {key[1]: copy.copy(table[key]) for key in asked if key[0] == run_id and key in table}


def _rows(run: s.Run, rows: dict[int, Row]) -> dict[Key, Row]:
    return {(run.run_id, seq): copy.copy(row) for seq, row in rows.items()}
