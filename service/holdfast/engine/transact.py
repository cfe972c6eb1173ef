"""The one way to change a workflow: lock, decide, record, in one transaction for a whole batch.

A refused request refuses alone; the rest of the batch commits. What must happen outside
(hints, pushes, answers' tasks) is told by the outcome and done after the commit.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec

from holdfast.core import facts as f
from holdfast.core import state as s
from holdfast.core.decide import Decision, decide, first_facts, open_run
from holdfast.core.evolve import evolve
from holdfast.core.ids import next_run_id
from holdfast.core.requests import Ask, ExpireTask, FireTimer, OpenRun, Request
from holdfast.core.schedules import run_id_of
from holdfast.engine.dispatch import Assigned, Credit, Credits, assign, give_back
from holdfast.engine.slot_starts import SlotStarts
from holdfast.exceptions import HoldfastError, NotFound, OutcomeUnknown, Refused
from holdfast.store import journal
from holdfast.store.journal import Address, Resolved
from holdfast.store.record import Written, record
from holdfast.store.session import Pool, Session
from holdfast.store.slot_rows import Taking
from holdfast.wire import commands as c
from holdfast.wire import messages as m


class Change(msgspec.Struct, frozen=True):
    """One request to the journal. Addressed by workflow id (clients) or by run id (workers, the clock).

    `reporter` is the worker whose report this is, with the credit it declared. `slot` is what a start is for: it is
    written as started with the run, and the run's id follows from it.
    """

    namespace: str
    request: m.Start | Request
    address: Address | None = None
    run_id: str = ""
    hash: bytes = b""
    reporter: Credit | None = None
    slot: Taking | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a change: the answer, the run's state after the whole batch, and tasks that travel with it.

    `head_seq` is the number of the last event that the change itself left, `marker_seq` that of its marker.
    `is_repeat` means that the same request had been carried out before and changed nothing now.
    """

    answer: Any
    state: s.RunState | None
    is_repeat: bool = False
    head_seq: int = 0
    marker_seq: int = 0
    refusal: HoldfastError | None = None
    assigned: tuple[Assigned, ...] = ()
    at: float = 0.0


class Committed(msgspec.Struct, frozen=True):
    """A committed batch: one outcome (or error) per change, in order; every touched state; who got which task.

    `version` is that of the rows it wrote, `told_at` the database's time when it wrote them; 0 if nothing was written.
    """

    outcomes: list[Outcome | HoldfastError]
    states: list[s.RunState]
    assigned: list[Assigned]
    now: float
    version: int = 0
    told_at: float = 0.0


class CommitUnknown(OutcomeUnknown):
    """Nobody knows whether the batch was committed; if it was, *assigned* are leases that no worker has heard of."""

    def __init__(self, message: str, assigned: Sequence[Assigned]) -> None:
        super().__init__(message)
        self.assigned = assigned


class Journal(msgspec.Struct, frozen=True):
    """Where runs are found, locked and written. Each function does what that of `holdfast.store` does."""

    resolve: Callable[[Session, Sequence[Address]], Awaitable[list[Resolved]]]
    lock: Callable[
        [
            Session,
            Iterable[str],
            Iterable[tuple[str, int]],
            Iterable[tuple[str, int]],
            Sequence[tuple[str, str]],
        ],
        Awaitable[tuple[dict[str, s.RunState], float]],
    ]
    record: Callable[..., Awaitable[Written]]


POSTGRES = Journal(journal.resolve, journal.lock, record)


class _Retry(HoldfastError):
    """The run that the change speaks of is another one by now: decide again in a new transaction."""

    code = "unavailable"


class Known(msgspec.Struct, frozen=True):
    """What a batch goes by that reads nothing: the runs' states by id, and the database's time."""

    states: dict[str, s.RunState]
    now: float


async def transact(
    pool: Pool,
    credits: Credits,
    changes: Sequence[Change],
    *,
    lease_s: float,
    heard_now: float,
    known: Known | None = None,
    journal: Journal = POSTGRES,
) -> Committed:
    """Carry out *changes* in one transaction.

    With *known*, nothing is read: it takes starts, of workflow ids that have no run yet, and reports on the runs that
    are known. Whatever turns out otherwise is to be carried out again without it, as is what would be refused.

    Raises what `Pool.transaction` raises: then nothing happened, or (`CommitUnknown`) nobody knows.
    """
    batch = _Batch(journal)
    try:
        async with pool.transaction(is_deferred=True) as session:
            if known is None:
                await batch.load(session, changes)
            else:
                batch.believe(known, changes)
            for change in changes:
                batch.outcomes.append(batch.decide(change))
            batch.assigned = assign(
                batch.states(),
                batch.reporters,
                credits,
                now=batch.now,
                heard_now=heard_now,
                lease_s=lease_s,
            )
            written = await journal.record(
                session,
                batch.states(),
                batch.slots.fired,
                is_first=known is not None,
                at=None if known is None else known.now,
            )
    except OutcomeUnknown as error:
        raise CommitUnknown(error.message, batch.assigned) from error
    except BaseException:
        give_back(batch.assigned, credits, heard_now)
        raise
    give_back([item for item in batch.assigned if item.state.run.run_id in written.lost], credits, heard_now)
    return batch.committed(written)


def is_retry(outcome: Outcome | HoldfastError) -> bool:
    """Whether the change must be carried out again, in another transaction."""
    return isinstance(outcome, _Retry)


class _Batch:
    """The working set of one transaction."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.now = 0.0
        self.locked: dict[str, s.RunState] = {}
        self.opened: dict[tuple[str, str], s.RunState] = {}
        self.resolved: dict[Address, Resolved] = {}
        self.slots = SlotStarts()
        self.outcomes: list[Outcome | HoldfastError] = []
        self.reporters: dict[str, Credit] = {}
        self.last_report: dict[str, int] = {}
        # The runs opened in this batch that a refusal was about, by the refused change's place.
        self.refused_over: dict[int, str] = {}
        self.assigned: list[Assigned] = []
        self.is_believed = False

    def states(self) -> list[s.RunState]:
        """Every state of the batch, locked or new."""
        return [*self.locked.values(), *self.opened.values()]

    async def load(self, session: Session, changes: Sequence[Change]) -> None:
        """Find, lock and read what the changes speak of."""
        addresses = list(
            {ch.address: None for ch in changes if ch.address is not None and ch.address.run_id is None}
        )
        if addresses:
            found = await self.journal.resolve(session, addresses)
            self.resolved = dict(zip(addresses, found, strict=True))
            self.now = found[0].now
        run_ids = {run_id for change in changes if (run_id := self._to_lock(change))}
        if run_ids:
            await session.begin()
            activities, timers = _named(changes)
            requests = [
                (ch.namespace, ch.request.message.request_id) for ch in changes if isinstance(ch.request, Ask)
            ]
            self.locked, self.now = await self.journal.lock(session, run_ids, activities, timers, requests)
        self.now = max(self.now, await self.slots.lock(session, [ch.slot for ch in changes if ch.slot]))

    def believe(self, known: Known, changes: Sequence[Change]) -> None:
        """Take what is known for what is there."""
        self.is_believed, self.now = True, known.now
        self.locked = known.states
        self.resolved = {ch.address: Resolved(None, None, known.now) for ch in changes if ch.address}

    def decide(self, change: Change) -> Outcome | HoldfastError:
        """Decide one change on what the earlier ones of the batch left."""
        outcome = self._decide(change)
        if self.is_believed and (not isinstance(outcome, Outcome) or outcome.is_repeat):
            # Nothing will be written that could show whether what is believed is true.
            return _Retry("not decided on what was only believed")
        return outcome

    def _decide(self, change: Change) -> Outcome | HoldfastError:
        try:
            if isinstance(change.request, m.Start):
                start = self._start if change.slot is None else self._start_slot
                return start(change, change.request)
            state = self._target(change)
            decision = decide(state, change.request, self.now)
            if self.is_believed and _is_doubtful(decision):
                raise _Retry("not refused on what was only believed")
        except HoldfastError as error:
            address = change.address
            opened = self.opened.get((change.namespace, address.workflow_id)) if address else None
            if opened is not None:
                self.refused_over[len(self.outcomes)] = opened.run.run_id
            return error
        self._apply(state, decision)
        state.claim_only.update(_not_eager(change.request))
        if change.reporter is not None and decision.facts:
            self.reporters[state.run.run_id] = change.reporter
            self.last_report[state.run.run_id] = len(self.outcomes)
        is_repeat = not decision.facts and isinstance(change.request, m.Report)
        # Before later changes of the batch add events that the reporter has not seen.
        run = state.run
        has_batch = any(isinstance(fact, f.BatchKept) for fact in decision.facts)
        return Outcome(
            decision.answer,
            state,
            is_repeat,
            head_seq=run.done_head if has_batch else run.last_seq,
            marker_seq=run.done_marker if has_batch else 0,
            refusal=decision.refusal,
        )

    def committed(self, written: Written) -> Committed:
        """The batch as it stands in the database."""
        lost = written.lost
        outcomes: list[Outcome | HoldfastError] = []
        for index, out in enumerate(self.outcomes):
            state = out.state if isinstance(out, Outcome) else None
            run_id = self.refused_over.get(index, "") if state is None else state.run.run_id
            if run_id in lost:
                outcomes.append(_Retry("somebody else changed the run, or started its workflow id, first"))
                continue
            if not isinstance(out, Outcome) or state is None:
                outcomes.append(out)
                continue
            # The tasks travel with the last report of their run.
            is_last = self.last_report.get(run_id) == index
            mine = (
                tuple(item for item in self.assigned if item.is_answer and item.state is state)
                if is_last
                else ()
            )
            outcomes.append(msgspec.structs.replace(out, assigned=mine, at=self.now))
        assigned = [item for item in self.assigned if item.state.run.run_id not in lost]
        states = [state for state in self.states() if state.run.run_id not in lost]
        return Committed(outcomes, states, assigned, self.now, written.version, written.now)

    def _to_lock(self, change: Change) -> str | None:
        if change.address is None:
            return change.run_id
        if change.address.run_id is not None:
            return change.address.run_id
        newest = self.resolved[change.address].newest
        if newest is None:
            return None
        if isinstance(change.request, m.Start):
            return (
                newest.run_id
                if newest.is_open and change.request.id_conflict == "terminate_existing"
                else None
            )
        return newest.run_id

    def _start(self, change: Change, start: m.Start) -> Outcome:
        key = (change.namespace, start.workflow_id)
        address = change.address
        if address is None:
            raise Refused("a start needs the address of its workflow id")
        resolved = self.resolved[address]
        newest, repeat = resolved.newest, resolved.repeat
        before = self.opened.get(key)
        if before is not None:
            newest = before.run
            repeat = before.run if before.run.request_id == start.request_id else repeat
        elif newest is not None and newest.run_id in self.locked:
            newest = self.locked[newest.run_id].run
        if (
            before is not None
            and before.run.is_open
            and start.id_conflict == "terminate_existing"
            and repeat is None
        ):
            # Opened in this very batch: end it in the next one.
            raise _Retry("the workflow id was opened in the same batch")
        may_end = start.id_conflict == "terminate_existing" and repeat is None
        if newest is not None and newest.is_open and may_end:
            existing = self.locked[newest.run_id]
            ended = m.Terminate(
                # Of this run's own: one start's request id may stand for starts of several workflow ids.
                request_id=f"{newest.run_id}/terminate-existing",
                workflow_id=start.workflow_id,
                reason="replaced by a new start of the same workflow id",
                identity=start.identity,
            )
            self._apply(existing, decide(existing, Ask(ended, change.hash), self.now))
            newest = existing.run
        run_id = self._new_run_id(change, newest)
        opened = open_run(OpenRun(start, change.hash, run_id, newest, repeat), self.now)
        if isinstance(opened, m.Started):
            return Outcome(opened, before if before and before.run.run_id == opened.run_id else None, True)
        opened.run.namespace = change.namespace
        opened.first_new_seq = 1
        self._apply(opened, Decision(first_facts(start)))
        if before is not None:
            # The id's earlier run of this batch is closed already; both rows are written.
            self.locked[before.run.run_id] = before
        self.opened[key] = opened
        return Outcome(m.Started(workflow_id=start.workflow_id, run_id=run_id), opened)

    def _start_slot(self, change: Change, start: m.Start) -> Outcome:
        """As `_start`; a slot that has its run is a repeat, whatever its schedule has become since."""
        taking = change.slot
        if taking is None or change.address is None:
            raise Refused("the start of a slot needs the slot, and the address of its workflow id")
        run_id = self.slots.run_of(taking)
        if run_id is not None:
            opened = self.opened.get((change.namespace, start.workflow_id))
            state = opened if opened is not None and opened.run.run_id == run_id else None
            return Outcome(m.Started(workflow_id=start.workflow_id, run_id=run_id, is_new=False), state, True)
        repeat = self.resolved[change.address].repeat
        if repeat is not None:
            # Versions that did both in two transactions could end in between: the run is there, and the slot waits.
            change = msgspec.structs.replace(change, hash=repeat.request_hash)
        outcome = self._start(change, start)
        self.slots.fire(taking, start.workflow_id, outcome.answer.run_id, self.now)
        return outcome

    def _new_run_id(self, change: Change, newest: s.Run | None) -> str:
        """The id of the run that *change* starts; it sorts behind *newest*. A slot's first one follows from the slot."""
        if change.slot is not None and newest is None:
            return run_id_of(change.slot.namespace, change.slot.schedule, change.slot.slot)
        return next_run_id(self.now, os.urandom(10), None if newest is None else newest.run_id)

    def _target(self, change: Change) -> s.RunState:
        address = change.address
        if address is None:
            state = self.locked.get(change.run_id)
            if state is None or state.run.namespace != change.namespace:
                raise NotFound(f"no run {change.run_id} in namespace {change.namespace!r}")
            return state
        if address.run_id is not None:
            state = self.locked.get(address.run_id)
            if (
                state is None
                or state.run.namespace != change.namespace
                or state.run.workflow_id != address.workflow_id
            ):
                raise NotFound(
                    f"no run {address.run_id} of workflow {address.workflow_id!r} in namespace {change.namespace!r}"
                )
            return state
        opened = self.opened.get((change.namespace, address.workflow_id))
        if opened is not None:
            return opened
        newest = self.resolved[address].newest
        if newest is None:
            raise NotFound(f"no workflow {address.workflow_id!r} in namespace {change.namespace!r}")
        state = self.locked[newest.run_id]
        if newest.is_open and not state.run.is_open and not state.is_touched:
            # It closed between the look-up and the lock; there may be a newer run by now.
            raise _Retry(f"run {newest.run_id} closed meanwhile")
        return state

    def _apply(self, state: s.RunState, decision: Decision) -> None:
        for fact in decision.facts:
            evolve(state, fact, self.now)


def _is_doubtful(decision: Decision) -> bool:
    """Whether a part of the request was refused: rows that are merely not at hand may be the reason."""
    return isinstance(decision.answer, m.Reported) and decision.answer.is_turn_applied is False


def _named(changes: Sequence[Change]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The (run, seq) of the activities and of the timers that the changes speak of."""
    activities: list[tuple[str, int]] = []
    timers: list[tuple[str, int]] = []
    for change in changes:
        request, run_id = change.request, change.run_id
        match request:
            case m.CompleteActivity():
                activities.append((run_id, request.seq))
                if request.turn is not None:
                    _named_by_commands(run_id, request.turn.commands, activities, timers)
            case m.FailActivity() | m.CancelActivity() | m.ActivityHeartbeat():
                activities.append((run_id, request.seq))
            case m.ReleaseTask() | ExpireTask() if request.seq:
                activities.append((run_id, request.seq))
            case m.CompleteWorkflowTask():
                _named_by_commands(run_id, request.commands, activities, timers)
            case FireTimer():
                timers.append((run_id, request.seq))
    return activities, timers


def _not_eager(request: Request) -> list[int]:
    """The activities that the request schedules and that its answer must not bring."""
    commands: list[c.AnyCommand] = []
    if isinstance(request, m.CompleteWorkflowTask):
        commands = request.commands
    elif isinstance(request, m.CompleteActivity) and request.turn is not None:
        commands = request.turn.commands
    return [cmd.seq for cmd in commands if isinstance(cmd, c.ScheduleActivity) and not cmd.is_eager]


def _named_by_commands(
    run_id: str,
    commands: list[c.AnyCommand],
    activities: list[tuple[str, int]],
    timers: list[tuple[str, int]],
) -> None:
    for command in commands:
        match command:
            case c.RequestCancelActivity():
                activities.append((run_id, command.seq))
            case c.CancelTimer():
                timers.append((run_id, command.seq))
