"""What this process knows without asking: the runs that it changed last, and the database's time.

Both are beliefs. A batch that rests on them is written on condition that they are true (see `record`); if not, or if
it would refuse or change nothing, it is decided again on rows that are read and locked. So they save work and never
decide anything. Lost connections, other processes and long pauses make them wrong at any time.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from holdfast.core import state as s
from holdfast.engine.transact import Change
from holdfast.store.record import TOO_EARLY_S, TOO_LATE_S
from holdfast.wire import messages as m

RUNS_MAX = 10_000
ROWS_MAX = 32
"""Of a run with more open work than that nothing is kept: it would be copied with every turn."""

WINDOW_S = 5.0

# They stand or fall with a fence, which the write compares, and need nothing that is not open.
_REPORTS = (m.CompleteActivity, m.CompleteWorkflowTask, m.FailActivity, m.FailWorkflowTask, m.CancelActivity)

Item = tuple[int, Change]


class DatabaseTime:
    """The database's clock as an answer from it would tell, without asking; never ahead of it while it runs evenly.

    Each answer was written a little before it arrived: of the last ones the quickest counts.
    """

    def __init__(self) -> None:
        self._lead, self._lead_before = float("-inf"), float("-inf")
        self._since, self._heard_at = 0.0, float("-inf")

    def heard(self, database_now: float, own_now: float) -> None:
        """An answer that was written at *database_now* arrived at *own_now*, on this process's monotonic clock."""
        if own_now - self._since > WINDOW_S:
            is_old = own_now - self._since > 2 * WINDOW_S
            self._lead_before = float("-inf") if is_old else self._lead
            self._lead, self._since = float("-inf"), own_now
        self._lead = max(self._lead, database_now - own_now)
        self._heard_at = own_now

    def checked(self, database_now: float, own_now: float, believed: float | None) -> None:
        """As `heard`, of an answer to a request for which the database's time was *believed* to be that, if it was."""
        if believed is not None and not TOO_EARLY_S <= database_now - believed <= TOO_LATE_S:
            self.forget()
        self.heard(database_now, own_now)

    def at(self, own_now: float) -> float | None:
        """The database's time at *own_now*, in epoch seconds; None if nothing was heard of it lately."""
        if own_now - self._heard_at > WINDOW_S:
            return None
        # As Postgres would keep it, which knows microseconds.
        return math.floor((own_now + max(self._lead, self._lead_before)) * 1e6) / 1e6

    def forget(self) -> None:
        """One of the clocks was set."""
        self._lead = self._lead_before = self._heard_at = float("-inf")


class Recent:
    """The states of the runs that this process changed last."""

    def __init__(self) -> None:
        self.time = DatabaseTime()
        self._states: OrderedDict[str, s.RunState] = OrderedDict()

    def take(self, run_id: str) -> s.RunState | None:
        """The state of a run, to be worked on: it is known no more until it is kept again."""
        return self._states.pop(run_id, None)

    def keep(self, states: Iterable[s.RunState], version: int) -> None:
        """What was written of these states was written with *version*."""
        for state in states:
            if not state.is_written:
                continue
            self._states.pop(state.run.run_id, None)
            rows = len(state.tasks) + len(state.activities) + len(state.timers)
            if state.run.is_open and rows <= ROWS_MAX:
                self._states[state.run.run_id] = state.as_known(version)
        while len(self._states) > RUNS_MAX:
            self._states.popitem(last=False)

    def leased(self, run_id: str, seq: int, fence: int, worker: str, now: float) -> None:
        """A claim leased the task."""
        state = self._states.get(run_id)
        task = None if state is None else state.tasks.get(seq)
        if state is not None and task is not None:
            task.worker, task.fence = worker, fence
            task.leased_at = task.heartbeat_at = now
            task.sticky_worker = task.sticky_until = None
            state.known_tasks[seq] = (fence, worker)

    def forget(self) -> None:
        """The database may be another one by now."""
        self._states.clear()
        self.time.forget()

    def split(self, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
        """Which of the changes need nothing read first; the others. Those of one workflow id stay together, in their order."""
        keys = [self._key(change) for _, change in items]
        asked = Counter(key for key in keys if key is not None)
        to_read = {
            key
            for key, (_, change) in zip(keys, items, strict=True)
            if key is not None
            and not isinstance(change.request, _REPORTS)
            and (change.slot is not None or not isinstance(change.request, m.Start) or asked[key] > 1)
        }
        known: list[Item] = []
        others: list[Item] = []
        for key, item in zip(keys, items, strict=True):
            (others if key is None or key in to_read else known).append(item)
        return known, others

    def _key(self, change: Change) -> tuple[str, str] | None:
        """The namespace and workflow id that a change is about, as far as it is known."""
        if change.address is not None:
            return change.namespace, change.address.workflow_id
        state = self._states.get(change.run_id)
        return None if state is None else (state.run.namespace, state.run.workflow_id)
