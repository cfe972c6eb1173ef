"""From a queued slot to its run: what the overlap policy allows now, and the start through the journal.

Everything about the run follows from the slot, so that a slot that is tried again, by whomever, finds its run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec

from holdfast.core import schedules as core
from holdfast.core.requests import Ask
from holdfast.engine.engine import Engine
from holdfast.engine.loops import TRANSIENT
from holdfast.engine.transact import Change, Outcome
from holdfast.engine.verbs import request_hash
from holdfast.exceptions import AlreadyExists, HoldfastError, Internal, Invalid, Refused
from holdfast.store import schedule_rows as rows
from holdfast.store.contract.opening import Writing
from holdfast.store.journal import Address
from holdfast.store.schedule_rows import Fire, QueuedSlot
from holdfast.wire import codec
from holdfast.wire import messages as m

REPLACED = "replaced by the slot after it"


class Todo(msgspec.Struct):
    """What to do now about the queued slots of one schedule: end its last run, start, skip (with the reason)."""

    cancel: QueuedSlot | None = None
    terminate: QueuedSlot | None = None
    start: list[QueuedSlot] = []
    skip: list[tuple[QueuedSlot, str]] = []
    waiting: int = 0


class Settled(msgspec.Struct, frozen=True):
    """How many slots were started and skipped, and how many wait; what went wrong with those that could not start."""

    started: int = 0
    skipped: int = 0
    waiting: int = 0
    failure: HoldfastError | None = None

    def plus(self, other: Settled) -> Settled:
        """Both together."""
        return Settled(
            self.started + other.started,
            self.skipped + other.skipped,
            self.waiting + other.waiting,
            self.failure or other.failure,
        )


def sort_out(slots: Sequence[QueuedSlot]) -> Todo:
    """What to do about *slots*, all of one schedule and in order.

    Unless runs may overlap, at most one slot starts; the others are looked at when its run is known.
    """
    todo = Todo()
    first = slots[0]
    is_open = first.last_status is not None and first.last_closed_at is None
    remaining = first.remaining_actions
    held: QueuedSlot | None = None
    for slot in slots:
        decision = core.decide(
            slot.policy,
            is_last_open=is_open,
            queued=todo.waiting,
            # Who asked for slots by hand gets them all.
            queued_max=sys.maxsize if slot.is_manual else core.QUEUED_MAX,
            is_paused=slot.paused and not slot.is_manual,
            remaining=None if slot.is_manual else remaining,
        )
        match decision.action:
            case core.SKIP:
                todo.skip.append((slot, decision.reason))
                continue
            case core.QUEUE:
                todo.waiting += 1
                continue
            case core.CANCEL_THEN_START:
                if held is not None:
                    todo.skip.append((held, REPLACED))
                held = todo.cancel = slot
                continue
            case core.TERMINATE_THEN_START:
                todo.terminate = slot
        todo.start.append(slot)
        if slot.policy != "allow_all":
            break
        is_open = True
        if not slot.is_manual:
            remaining = core.remaining_after_start(remaining)
    todo.waiting += held is not None
    return todo


async def carry_out(engine: Engine, todo: Sequence[Todo]) -> Settled:
    """Do it. What fails for a while is left queued, and told."""
    await _end_last(engine, [t.cancel for t in todo if t.cancel is not None], is_at_once=False)
    left = await _end_last(engine, [t.terminate for t in todo if t.terminate is not None], is_at_once=True)
    starting = [slot for t in todo for slot in t.start if slot not in left]
    started, refused, failures = await _start(engine, starting)
    skipped = [_fire(slot, rows.SKIPPED, reason) for t in todo for slot, reason in t.skip]
    await _settle(engine, started, [*skipped, *refused])
    return Settled(
        started=len(started),
        skipped=len(skipped) + len(refused),
        waiting=sum(t.waiting for t in todo) + len(left) + len(failures),
        failure=failures[0] if failures else None,
    )


async def _start(
    engine: Engine, slots: Sequence[QueuedSlot]
) -> tuple[list[tuple[Fire, float]], list[Fire], list[HoldfastError]]:
    """The slots whose runs exist now, and since when; those that can never start; what went wrong with the others."""
    started: list[tuple[Fire, float]] = []
    refused: list[Fire] = []
    failures: list[HoldfastError] = []
    futures: list[asyncio.Future[Outcome] | Invalid] = []
    for slot in slots:
        try:
            futures.append(engine.changes.submit(start_of(slot)))
        except Invalid as error:
            futures.append(error)
    await _all(futures)
    for slot, made in zip(slots, futures, strict=True):
        problem = made if isinstance(made, Invalid) else made.exception()
        if problem is None and isinstance(made, asyncio.Future):
            outcome = made.result()
            started.append((_fire(slot, rows.STARTED, "", outcome.answer.run_id), outcome.at or slot.now))
        elif isinstance(problem, TRANSIENT):
            failures.append(problem)
        elif isinstance(problem, AlreadyExists | Refused | Invalid):
            found = await _find(engine, slot)
            if found is None:
                refused.append(_fire(slot, rows.SKIPPED, problem.message))
            else:
                started.append((_fire(slot, rows.STARTED, "", found), slot.now))
        elif problem is not None and not isinstance(problem, Internal):
            # A slot that the engine fails on is told in its log and stays queued; the others must not suffer.
            raise problem
    return started, refused, failures


async def _all(futures: Sequence[asyncio.Future[Outcome] | Invalid]) -> None:
    """Return when all of them are done."""
    pending = [future for future in futures if isinstance(future, asyncio.Future)]
    if pending:
        await asyncio.wait(pending)


def start_of(slot: QueuedSlot) -> Change:
    """The start of the slot's run. Raises `Invalid` if the schedule's input is no JSON."""
    request = m.Start(
        request_id=request_id_of(slot),
        workflow_id=core.workflow_id_of(slot.name, slot.slot),
        workflow_type=slot.workflow_type,
        task_queue=slot.task_queue,
        input=arguments_of(slot.input),
        id_reuse="reject",
        identity=f"schedule {slot.name}",
    )
    codec.check_payload(f"input of schedule {slot.name!r}", request.input, is_array=True)
    address = Address(slot.namespace, request.workflow_id, None, request.request_id)
    return Change(slot.namespace, request, address=address, hash=request_hash(request))


def request_id_of(slot: QueuedSlot) -> str:
    """The request id of the slot's start."""
    return f"schedule:{core.run_id_of(slot.namespace, slot.name, slot.slot)}"


def arguments_of(text: str | None) -> bytes:
    """A schedule's input as a workflow's arguments: an array is all of them, anything else the only one."""
    if text is None:
        return b"[]"
    encoded = text.encode()
    return encoded if encoded.lstrip().startswith(b"[") else b"[" + encoded + b"]"


async def _end_last(engine: Engine, slots: Sequence[QueuedSlot], *, is_at_once: bool) -> list[QueuedSlot]:
    """Cancel or terminate the run before each of *slots*; those for which nobody knows whether that was done.

    A run that has ended by itself, or that the engine may not end, is left as it is.
    """
    futures: list[asyncio.Future[Outcome]] = []
    for slot in slots:
        workflow_id = slot.last_workflow_id or ""
        kind = m.Terminate if is_at_once else m.Cancel
        request = kind(
            request_id=f"{request_id_of(slot)}/end-last",
            workflow_id=workflow_id,
            run_id=slot.last_run_id,
            reason=f"schedule {slot.name!r} starts its next run",
            identity=f"schedule {slot.name}",
        )
        address = Address(slot.namespace, workflow_id, slot.last_run_id)
        change = Change(slot.namespace, Ask(request, request_hash(request)), address=address)
        futures.append(engine.changes.submit(change))
    await _all(futures)
    unknown = []
    for slot, future in zip(slots, futures, strict=True):
        problem = future.exception()
        if isinstance(problem, TRANSIENT):
            unknown.append(slot)
        elif problem is not None and not isinstance(problem, HoldfastError):
            raise problem
    return unknown


async def _find(engine: Engine, slot: QueuedSlot) -> str | None:
    """The run that the slot started before: its schedule may have changed since."""
    workflow_id = core.workflow_id_of(slot.name, slot.slot)
    return await rows.find_started(engine.pool, slot.namespace, workflow_id, request_id_of(slot))


async def _settle(engine: Engine, started: Sequence[tuple[Fire, float]], skipped: Sequence[Fire]) -> None:
    """Write what became of these slots, and tell it."""
    if not (started or skipped):
        return
    async with engine.pool.transaction() as session:
        writing = Writing(session)
        if started:
            fires = {(fire.namespace, fire.schedule, fire.slot): fire for fire, _ in started}
            for row in await rows.settle_started(writing, list(fires.values()), [at for _, at in started]):
                fire = fires[row.namespace, row.schedule, row.slot]
                writing.tell(
                    row.namespace,
                    "ScheduleFired",
                    "schedule",
                    row.schedule,
                    slot=row.slot,
                    workflow_id=fire.workflow_id,
                    run_id=fire.run_id,
                )
        if skipped:
            reasons = {(fire.namespace, fire.schedule, fire.slot): fire.reason for fire in skipped}
            for slot in await rows.settle_skipped(writing, skipped):
                writing.tell(
                    slot.namespace,
                    "ScheduleSlotSkipped",
                    "schedule",
                    slot.schedule,
                    slot=slot.slot,
                    reason=reasons[slot.namespace, slot.schedule, slot.slot],
                )
        await writing.flush()


def _fire(slot: QueuedSlot, status: str, reason: str, run_id: str | None = None) -> Fire:
    return Fire(
        namespace=slot.namespace,
        schedule=slot.name,
        slot=slot.slot,
        status=status,
        reason=reason,
        run_id=run_id,
        workflow_id=core.workflow_id_of(slot.name, slot.slot) if run_id else None,
    )
