"""Who gets a task in the very transaction that makes it ready.

A worker tells how many tasks it could take (its credit) with every claim, report and
heartbeat; the process that heard it last may lease fresh tasks to it without waiting to be
asked. Credit is a guess that costs nothing when wrong: a task leased to a worker that is
gone is taken back at once. Without credit a task is ready, a hint goes out, and whoever
claims gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from holdfast.core import facts as f
from holdfast.core import state as s
from holdfast.core.evolve import evolve
from holdfast.engine.workers import Roster

CREDIT_S = 15.0
"""How long a worker's word about its free slots is believed."""


class Credit(msgspec.Struct):
    """What one worker could take, as it said at `heard_at` (the process's monotonic clock)."""

    worker: str
    namespace: str
    task_queue: str
    workflow_slots: int
    activity_slots: int
    heard_at: float


class Assigned(msgspec.Struct, frozen=True):
    """Task `seq` of the state's run was leased to `worker` in the transaction at hand."""

    state: s.RunState
    seq: int
    worker: str
    namespace: str
    is_answer: bool


class Credits:
    """The credit of every worker heard of lately; `roster` knows what each registered for."""

    def __init__(self) -> None:
        self.roster = Roster()
        self._by_worker: dict[tuple[str, str], Credit] = {}
        self._by_queue: dict[tuple[str, str], dict[str, Credit]] = {}

    def hear(self, credit: Credit) -> Credit:
        """Believe what a worker says, instead of what it said before. One credit holds for all that it says at once.

        No more of it than the worker registered for.
        """
        self.roster.heard(credit.worker, credit.heard_at)
        credit.workflow_slots, credit.activity_slots = self.roster.capped(
            credit.worker, credit.workflow_slots, credit.activity_slots
        )
        known = self._by_worker.get((credit.namespace, credit.worker))
        if known is not None and known.task_queue == credit.task_queue:
            known.workflow_slots, known.activity_slots = credit.workflow_slots, credit.activity_slots
            known.heard_at = credit.heard_at
            return known
        self.forget(credit.namespace, credit.worker)
        self._by_worker[credit.namespace, credit.worker] = credit
        self._by_queue.setdefault((credit.namespace, credit.task_queue), {})[credit.worker] = credit
        return credit

    def forget(self, namespace: str, worker: str) -> None:
        """The worker is gone."""
        credit = self._by_worker.pop((namespace, worker), None)
        if credit is not None:
            queue = self._by_queue[namespace, credit.task_queue]
            del queue[worker]
            if not queue:
                del self._by_queue[namespace, credit.task_queue]

    def forget_silent(self, now: float) -> None:
        """Forget every worker that was not heard of lately."""
        for credit in list(self._by_worker.values()):
            if now - credit.heard_at > CREDIT_S:
                self.forget(credit.namespace, credit.worker)

    def of(self, namespace: str, worker: str, now: float) -> Credit | None:
        """The worker's credit, if it was heard of lately."""
        credit = self._by_worker.get((namespace, worker))
        if credit is not None and now - credit.heard_at > CREDIT_S:
            self.forget(namespace, worker)
            return None
        return credit

    def any_for_workflow(self, namespace: str, task_queue: str, now: float) -> Credit | None:
        """A worker of the queue that could take a workflow task; they take turns."""
        queue = self._by_queue.get((namespace, task_queue))
        if not queue:
            return None
        for worker in list(queue):
            credit = queue[worker]
            if now - credit.heard_at > CREDIT_S:
                self.forget(namespace, worker)
            elif credit.workflow_slots > 0:
                # To the end of the line.
                queue[worker] = queue.pop(worker)
                return credit
        return None

    def next_again(self, credit: Credit) -> None:
        """The worker got nothing: it is the next of its queue again."""
        queue = self._by_queue[credit.namespace, credit.task_queue]
        others = {worker: other for worker, other in queue.items() if worker != credit.worker}
        queue.clear()
        queue[credit.worker] = credit
        queue.update(others)

    def has_worker(self, namespace: str, task_queue: str, now: float) -> bool:
        """Whether a worker of the queue was heard of lately."""
        found = self._by_queue.get((namespace, task_queue), {})
        return any(now - credit.heard_at <= CREDIT_S for credit in found.values())

    def idle(self, namespace: str, task_queue: str, *, is_workflow: bool, now: float) -> list[Credit]:
        """The workers of the queue that said they could take a task of this kind."""
        return [
            credit
            for credit in self._by_queue.get((namespace, task_queue), {}).values()
            if now - credit.heard_at <= CREDIT_S
            and (credit.workflow_slots if is_workflow else credit.activity_slots) > 0
        ]


def assign(
    states: Iterable[s.RunState],
    reporters: dict[str, Credit],
    credits: Credits,
    *,
    now: float,
    heard_now: float,
    lease_s: float,
) -> list[Assigned]:
    """Lease what just became ready to whoever has credit, and say to whom.

    *reporters* maps a run to the worker whose report is being answered: it comes first, and its
    tasks travel in the answer. *now* is the database's time, *heard_now* the process's.
    """
    assigned: list[Assigned] = []
    for state in states:
        run = state.run
        if not state.opened_tasks or not run.is_open:
            continue
        reporter = reporters.get(run.run_id)
        for seq in sorted(state.opened_tasks):
            task = state.tasks[seq]
            if task.worker is not None or task.ready_at > now + 0.001 or seq in state.claim_only:
                continue
            credit = _taker(state, task, reporter, credits, heard_now)
            if credit is None:
                if task.sticky_worker and not credits.of(run.namespace, task.sticky_worker, heard_now):
                    evolve(state, f.TaskFreed(), now)
                continue
            if seq == 0:
                credit.workflow_slots -= 1
            else:
                credit.activity_slots -= 1
            evolve(state, f.TaskLeased(seq, credit.worker, lease_s), now)
            assigned.append(Assigned(state, seq, credit.worker, run.namespace, credit is reporter))
    return assigned


def give_back(assigned: Sequence[Assigned], credits: Credits, heard_now: float) -> None:
    """The transaction was rolled back: nobody got anything."""
    for item in reversed(assigned):
        credit = credits.of(item.namespace, item.worker, heard_now)
        if credit is None:
            continue
        if item.seq == 0:
            credit.workflow_slots += 1
            credits.next_again(credit)
        else:
            credit.activity_slots += 1


def _taker(
    state: s.RunState, task: s.Task, reporter: Credit | None, credits: Credits, heard_now: float
) -> Credit | None:
    if task.seq:
        is_fit = (
            reporter is not None and reporter.task_queue == task.task_queue and reporter.activity_slots > 0
        )
        return reporter if is_fit else None
    if reporter is not None and reporter.task_queue == task.task_queue and reporter.workflow_slots > 0:
        return reporter
    if state.run.sticky_worker is not None:
        sticky = credits.of(state.run.namespace, state.run.sticky_worker, heard_now)
        if sticky is not None:
            # A busy worker that has the run in its cache is worth a short wait (`evolve.STICKY_S`).
            return sticky if sticky.workflow_slots > 0 else None
    return credits.any_for_workflow(state.run.namespace, task.task_queue, heard_now)
