"""One engine: the journal's batcher, who has credit, who waits, and what follows a commit.

Everything here lives in memory and may be lost at any time: hints are found again by the
sweep, waiters ask again, credit is heard again.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from holdfast.bus import Bus
from holdfast.core import state as s
from holdfast.engine import answers
from holdfast.engine.archived import ArchivedHistories
from holdfast.engine.batching import Batcher
from holdfast.engine.dispatch import Assigned, Credits
from holdfast.engine.faults import failed_inside, failed_together
from holdfast.engine.fitting import pushes
from holdfast.engine.loops import Spawner
from holdfast.engine.outcomes import Outcomes
from holdfast.engine.recent import Item, Recent
from holdfast.engine.transact import (
    POSTGRES,
    Change,
    Committed,
    CommitUnknown,
    Journal,
    Known,
    Outcome,
    is_retry,
    transact,
)
from holdfast.exceptions import HoldfastError, Invalid, NotFound, Unavailable
from holdfast.metrics import Metrics
from holdfast.store import views
from holdfast.store.session import Conflict, Pool, Retryable, Unwritable
from holdfast.wire import codec, subjects
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.subjects import TaskKind

if TYPE_CHECKING:
    # Where archives are kept needs packages of its own; the engine in memory runs without them.
    from holdfast.archive import Archive

Tried = tuple[int, Change, Outcome | HoldfastError]

BATCH_MAX = 200
TRIES_MAX = 5
PUSH_TIMEOUT_S = 1.0
TAKE_BACK_AGAIN_S = 0.3
BACKOFFS_MAX = 10_000


class Engine:
    """What a service process knows and does about workflows. One per process; see `app` for its loops."""

    def __init__(
        self,
        pool: Pool,
        bus: Bus,
        metrics: Metrics,
        *,
        name: str,
        lease_s: float = 10.0,
        archive: Archive | None = None,
        journal: Journal = POSTGRES,
    ) -> None:
        self.pool = pool
        self.journal = journal
        self.bus = bus
        self.metrics = metrics
        self.name = name
        self.lease_s = lease_s
        self.credits = Credits()
        self.outcomes = Outcomes(pool)
        self.recent = Recent()
        self.archive = archive
        self.histories = ArchivedHistories(archive)
        self.spawner = Spawner()
        self.changes: Batcher[Change, Outcome] = Batcher(self._carry_out, size=BATCH_MAX)
        self.timer_wake = asyncio.Event()
        self.feed_wake = asyncio.Event()
        self.is_journal_owed = False
        self.next_due_at = 0.0
        self._backoffs: list[float] = []
        self._namespaces: dict[str, str] = {}
        self._namespaces_read_at = 0.0

    # -- changes -----------------------------------------------------------------------

    async def change(self, change: Change) -> Outcome:
        """Carry out one change, in whatever batch goes next. Raises the change's own error."""
        outcome = await self.changes.submit(change)
        if outcome.refusal is not None:
            raise outcome.refusal
        return outcome

    async def _carry_out(self, changes: Sequence[Change]) -> list[Outcome | BaseException]:
        results: list[Outcome | BaseException] = [Unavailable("not tried")] * len(changes)
        open_items = list(enumerate(changes))
        known, open_items = self.recent.split(open_items)
        for _ in range(TRIES_MAX):
            # What is known first, in a transaction of its own: nobody's lock keeps it waiting.
            done = await self._try_known(known) if known else []
            done += await self._try(open_items) if open_items else []
            known, open_items = [], []
            for index, change, outcome in done:
                if isinstance(outcome, HoldfastError) and (
                    is_retry(outcome) or isinstance(outcome, Retryable)
                ):
                    open_items.append((index, change))
                results[index] = outcome
            if not open_items:
                break
        for index, _ in open_items:
            results[index] = Unavailable("the run is contended: try again with the same request id")
        return results

    async def _try_known(self, items: list[Item]) -> list[Tried]:
        """Carry out what needs nothing read, if the database's time is known."""
        now = self.recent.time.at(time.monotonic())
        if now is None:
            return await self._try(items)
        states = {ch.run_id: self.recent.take(ch.run_id) for _, ch in items if ch.run_id}
        known = Known({run_id: state for run_id, state in states.items() if state is not None}, now)
        return await self._try(items, known)

    async def _try(self, items: list[Item], known: Known | None = None) -> list[Tried]:
        started = time.perf_counter()
        committed: Committed | None
        try:
            committed = await transact(
                self.pool,
                self.credits,
                [change for _, change in items],
                lease_s=self.lease_s,
                heard_now=time.monotonic(),
                known=known,
                journal=self.journal,
            )
        except (Conflict, Unwritable) as error:
            if len(items) == 1:
                index, change = items[0]
                own = Retryable(error.message) if isinstance(error, Conflict) else Invalid(error.message)
                return [(index, change, own)]
            committed = None
        except HoldfastError as error:
            if isinstance(error, CommitUnknown):
                # What was to travel in an answer is not taken back: the report comes again, and its answer then
                # names what the worker holds. Taken back meanwhile, it would be done twice.
                unheard = _releases([item for item in error.assigned if not item.is_answer])
                if unheard:
                    self.spawner.spawn(self._take_back(unheard.values()))
            self.recent.forget()
            self.metrics.store_failures.labels("transact", error.code).inc()
            return [(index, change, error) for index, change in items]
        except Exception as error:  # noqa: BLE001 - one request's fault is that request's alone
            # Ending the process would not help: the request would come again, here or to another one.
            if len(items) == 1:
                index, change = items[0]
                self.metrics.failed_inside.labels(type(change.request).__name__).inc()
                return [(index, change, failed_inside(change, error))]
            failed_together(len(items), error)
            committed = None
        if committed is None:
            return await self._try_alone(items)
        self.metrics.store_latency.labels("transact").observe(time.perf_counter() - started)
        self.metrics.store_calls.labels("transact").inc()
        self.metrics.batch.observe(len(items))
        if committed.version:
            self.recent.time.checked(
                committed.told_at, time.monotonic(), None if known is None else known.now
            )
            self.recent.keep(committed.states, committed.version)
        self._after_commit(committed)
        return [(index, change, out) for (index, change), out in zip(items, committed.outcomes, strict=True)]

    async def _try_alone(self, items: list[Item]) -> list[Tried]:
        """Each in a transaction of its own: the one that is to blame fails alone."""
        singles = []
        for item in items:
            singles += await self._try([item])
        return singles

    # -- after the commit --------------------------------------------------------------

    def _after_commit(self, committed: Committed) -> None:
        hints: dict[tuple[str, TaskKind, str], float] = {}
        pushed: dict[tuple[str, str], list[Assigned]] = {}
        for item in committed.assigned:
            self.metrics.dispatch_latency.labels("activity" if item.seq else "workflow").observe(0.0)
            if not item.is_answer:
                pushed.setdefault((item.namespace, item.worker), []).append(item)
        for state in committed.states:
            if state.events:
                self.feed_wake.set()
            self._note_lifecycle(state)
            self._collect_hints(state, committed.now, hints)
            self._push_cancellations(state)
            for seq in state.opened_timers:
                self.note_due(state.timers[seq].fire_at - committed.now)
        for (namespace, kind, queue), ready_at in hints.items():
            self.hint(namespace, kind, queue, ready_at)
        for (namespace, worker), items in pushed.items():
            self.spawner.spawn(self._push(namespace, worker, items, committed.now))

    def _note_lifecycle(self, state: s.RunState) -> None:
        run = state.run
        if state.is_new:
            self.metrics.workflows_started.labels(run.namespace, run.workflow_type).inc()
            self.outcomes.opened(run.namespace, run.workflow_id, run.run_id)
        if run.closed_at is None or not state.events or type(state.events[-1][1]) not in e.CLOSING:
            return
        self.metrics.workflows_closed.labels(run.namespace, run.workflow_type, run.status).inc()
        self.metrics.workflow_latency.labels(run.namespace, run.workflow_type).observe(
            run.closed_at - run.created_at
        )
        self.outcomes.settle(answers.outcome_of(state))
        self.bus.publish(subjects.closed(run.namespace, run.run_id), b"")

    def _collect_hints(
        self, state: s.RunState, now: float, hints: dict[tuple[str, TaskKind, str], float]
    ) -> None:
        if not state.run.is_open:
            return
        for seq in state.opened_tasks | state.touched_tasks:
            task = state.tasks.get(seq)
            if task is None or task.worker is not None:
                if task is not None and task.deadline is not None:
                    self.note_due(task.deadline - now)
                continue
            if task.deadline is not None:
                self.note_due(task.deadline - now)
            if task.sticky_worker is not None:
                look = codec.encode(m.Push(is_look=True))
                self.bus.publish(subjects.worker(state.run.namespace, task.sticky_worker), look)
            elif task.ready_at <= now:
                kind: TaskKind = "activity" if seq else "workflow"
                key = (task.namespace, kind, task.task_queue)
                hints[key] = min(hints.get(key, task.ready_at), task.ready_at)
            else:
                self._note_backoff(task.ready_at - now)

    def _push_cancellations(self, state: s.RunState) -> None:
        by_worker: dict[str, list[m.Lease]] = {}
        for task in state.cancel_pushes:
            if task.worker is not None:
                by_worker.setdefault(task.worker, []).append(m.Lease(task.run_id, task.seq, task.fence))
        for worker, leases in by_worker.items():
            push = codec.encode(m.Push(cancelled=leases))
            self.bus.publish(subjects.worker(state.run.namespace, worker), push)

    async def _push(self, namespace: str, worker: str, items: list[Assigned], now: float) -> None:
        """Hand a worker what was leased to it; take it back at once when the worker does not answer."""
        subject = subjects.worker(namespace, worker)
        owed = _releases(items)
        try:
            # Activities travel in answers only.
            tasks, _ = await answers.assigned_tasks(self.pool, items, now, self.lease_s)
            for message, pushed in pushes(tasks, self.bus.max_payload_bytes):
                await self.bus.request(subject, message, PUSH_TIMEOUT_S)
                for task in pushed:
                    del owed[task.run_id, 0]
        except Unavailable:
            self.credits.forget(namespace, worker)
            self.metrics.hints_lost.inc()
            await self._take_back(owed.values())

    async def _take_back(self, releases: Iterable[Change]) -> None:
        """Make leases ready again that no worker has heard of. What cannot be taken back in time runs out by itself."""
        changes = list(releases)
        until = time.monotonic() + self.lease_s
        while changes and time.monotonic() < until:
            futures = [self.changes.submit(change) for change in changes]
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
            changes = [ch for ch, out in zip(changes, outcomes, strict=True) if isinstance(out, Unavailable)]
            if changes:
                await asyncio.sleep(TAKE_BACK_AGAIN_S)

    def give_back(self, namespace: str, worker: str, leases: Iterable[m.Lease]) -> None:
        """*worker* will not hear of *leases*."""
        releases = [_release(namespace, worker, lease) for lease in leases]
        if releases:
            self.spawner.spawn(self._take_back(releases))

    def hint(self, namespace: str, kind: TaskKind, queue: str, ready_at: float) -> None:
        """Tell whoever works on *queue* that it has ready tasks."""
        if self.bus.hint(namespace, kind, queue, 1, ready_at):
            self.metrics.hints_published.inc()
        else:
            self.metrics.hints_lost.inc()

    def nudge(self, namespace: str, queue: str, *, is_workflow: bool) -> None:
        """Ask the workers that are known to be idle, by name: for when hints do not arrive."""
        look = codec.encode(m.Push(is_look=True))
        for credit in self.credits.idle(namespace, queue, is_workflow=is_workflow, now=time.monotonic()):
            self.bus.publish(subjects.worker(namespace, credit.worker), look)

    def owe_journal(self) -> None:
        """Something was journalled: the relay must look, now."""
        self.is_journal_owed = True
        self.feed_wake.set()

    def note_due(self, in_s: float) -> None:
        """Something falls due in *in_s* seconds: the clock's step must not sleep longer."""
        due_at = time.monotonic() + max(in_s, 0.0)
        if due_at < self.next_due_at:
            self.next_due_at = due_at
            self.timer_wake.set()

    def _note_backoff(self, in_s: float) -> None:
        """A task becomes ready in *in_s* seconds, and nobody will commit anything then: the clock must hint it."""
        if len(self._backoffs) < BACKOFFS_MAX:
            heapq.heappush(self._backoffs, time.monotonic() + in_s)
        self.note_due(in_s)

    def next_backoff_s(self) -> float:
        """Seconds until the next task that backs off becomes ready; those of the past are forgotten."""
        now = time.monotonic()
        while self._backoffs and self._backoffs[0] <= now:
            heapq.heappop(self._backoffs)
        return self._backoffs[0] - now if self._backoffs else math.inf

    # -- namespaces --------------------------------------------------------------------

    async def check_namespace(self, name: str) -> None:
        """Raise `NotFound` unless the namespace exists. Known ones cost nothing; misses are looked up once a second."""
        if name in self._namespaces:
            return
        now = time.monotonic()
        if now - self._namespaces_read_at > 1.0 or not self._namespaces:
            self._namespaces = await views.namespaces(self.pool)
            self._namespaces_read_at = now
        if name not in self._namespaces:
            raise NotFound(
                f"no namespace {name!r}: create it first, or use one of {', '.join(sorted(self._namespaces)[:5])}"
            )


def _releases(items: Iterable[Assigned]) -> dict[tuple[str, int], Change]:
    """The changes that give back what was leased, by run and number."""
    found = {}
    for item in items:
        task = item.state.tasks.get(item.seq)
        if task is not None:
            lease = m.Lease(task.run_id, task.seq, task.fence)
            found[task.run_id, task.seq] = _release(item.namespace, item.worker, lease)
    return found


def _release(namespace: str, worker: str, lease: m.Lease) -> Change:
    report = m.ReleaseTask(run_id=lease.run_id, worker=worker, seq=lease.seq, fence=lease.fence)
    return Change(namespace, report, run_id=lease.run_id)
