"""From a queued slot to its run: what the overlap policy allows now, and the start through the journal.

The slot is written as started in the transaction that starts the run, whose ids follow from the slot: a slot that is
tried again, by whomever, finds its run.
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
from holdfast.engine.slot_starts import Overtaken
from holdfast.engine.transact import Change, Outcome
from holdfast.engine.verbs import request_hash
from holdfast.exceptions import AlreadyExists, HoldfastError, Internal, Invalid, Refused, Unavailable
from holdfast.store import slot_rows
from holdfast.store.contract.opening import Writing
from holdfast.store.journal import Address
from holdfast.store.session import Conflict
from holdfast.store.slot_rows import Fire, QueuedSlot, Taking
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
    made = await _start(engine, starting)
    skipped = [_skipped(slot, reason) for t in todo for slot, reason in t.skip]
    await _skip(engine, [*skipped, *made.refused])
    if made.started or skipped or made.refused:
        engine.owe_journal()
    return Settled(
        started=made.started,
        skipped=len(skipped) + len(made.refused),
        waiting=sum(t.waiting for t in todo) + len(left) + made.overtaken + len(made.failures),
        failure=made.failures[0] if made.failures else None,
    )


class _Starts(msgspec.Struct):
    """How many slots have their runs now; those that can never start; how many to decide again; what went wrong."""

    started: int = 0
    refused: list[Fire] = []
    overtaken: int = 0
    failures: list[HoldfastError] = []


async def _start(engine: Engine, slots: Sequence[QueuedSlot]) -> _Starts:
    """Start the runs of *slots*, each in one transaction with its slot."""
    starts = _Starts()
    futures: list[asyncio.Future[Outcome] | Invalid] = []
    for slot in slots:
        try:
            futures.append(engine.changes.submit(start_of(slot)))
        except Invalid as error:
            futures.append(error)
    await _all(futures)
    for slot, made in zip(slots, futures, strict=True):
        problem = made if isinstance(made, Invalid) else made.exception()
        match problem:
            case None:
                starts.started += 1
            case Overtaken():
                starts.overtaken += 1
            case AlreadyExists() | Refused() | Invalid():
                starts.refused.append(_skipped(slot, problem.message))
            case Unavailable() | Conflict():
                starts.failures.append(problem)
            case Internal():
                # Told in the log; the slot stays queued, and the others must not suffer.
                pass
            case _:
                raise problem
    return starts


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
    # Runs that may overlap need not know which one was the last.
    after = msgspec.UNSET if slot.policy == "allow_all" else slot.last_workflow_id
    taking = Taking(namespace=slot.namespace, schedule=slot.name, slot=slot.slot, after=after)
    return Change(slot.namespace, request, address=address, hash=request_hash(request), slot=taking)


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


async def _skip(engine: Engine, skipped: Sequence[Fire]) -> None:
    """Write that these slots start nothing, and tell it."""
    if not skipped:
        return
    async with engine.pool.transaction() as session:
        writing = Writing(session)
        reasons = {(fire.namespace, fire.schedule, fire.slot): fire.reason for fire in skipped}
        for slot in await slot_rows.skip_slots(writing, skipped):
            writing.tell(
                slot.namespace,
                "ScheduleSlotSkipped",
                "schedule",
                slot.schedule,
                slot=slot.slot,
                reason=reasons[slot.namespace, slot.schedule, slot.slot],
            )
        await writing.flush()


def _skipped(slot: QueuedSlot, reason: str) -> Fire:
    return Fire(
        namespace=slot.namespace,
        schedule=slot.name,
        slot=slot.slot,
        status=slot_rows.SKIPPED,
        reason=reason,
    )
