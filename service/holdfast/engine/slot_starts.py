"""The slots of schedules whose runs one transaction starts: locked before anything is decided about them.

What the overlap policy allows was decided before, on what could be seen without a lock. Here it is held against what
the locked rows say: a slot that has its run keeps it, and one that must not start any more is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from holdfast.core import schedules as core
from holdfast.exceptions import Refused, Unavailable
from holdfast.store import slot_rows
from holdfast.store.session import Session
from holdfast.store.slot_rows import Fired, LockedSlot, Taking

Key = tuple[str, str, float]


class Overtaken(Unavailable):
    """The schedule has started another run meanwhile: whether the slot may start is to be decided again."""


class SlotStarts:
    """The slots of one transaction, and what it does about them."""

    def __init__(self) -> None:
        self.fired: list[Fired] = []
        self._locked: dict[Key, LockedSlot] = {}

    async def lock(self, session: Session, taking: Iterable[Taking]) -> float:
        """Lock these slots and their schedules. The time after the lock; 0 if there is nothing to lock."""
        wanted = list({_key(one): one for one in taking}.values())
        if not wanted:
            return 0.0
        await session.begin()
        found = await slot_rows.lock_slots(session, wanted)
        self._locked = {_key(slot): slot for slot in found}
        return max((slot.now for slot in found), default=0.0)

    def run_of(self, taking: Taking) -> str | None:
        """The id of the run that the slot has, or None: then it may start one.

        Raises `Refused` if it must not any more, `Overtaken` if that is to be decided again.
        """
        slot = self._locked.get(_key(taking))
        name = f"slot {taking.slot:.0f} of schedule {taking.schedule!r}"
        if slot is None:
            raise Refused(f"{name} is gone: the schedule was deleted, or its slots forgotten")
        if slot.status == slot_rows.STARTED:
            return slot.run_id
        if slot.status != slot_rows.QUEUED:
            raise Refused(f"{name} was {slot.status} meanwhile: a backfill starts it")
        if not slot.is_manual:
            why = core.standstill(is_paused=slot.paused, remaining=slot.remaining_actions)
            if why is not None:
                raise Refused(why)
        if taking.after is not msgspec.UNSET and taking.after != slot.last_workflow_id:
            raise Overtaken(f"{name}: {slot.last_workflow_id} was started after it was decided: decide again")
        return None

    def fire(self, taking: Taking, workflow_id: str, run_id: str, at: float) -> None:
        """The slot has this run from now on, and so its schedule."""
        slot = self._locked[_key(taking)]
        slot.status, slot.run_id = slot_rows.STARTED, run_id
        for other in self._locked.values():
            if (other.namespace, other.schedule) == (slot.namespace, slot.schedule):
                other.last_workflow_id = workflow_id
                if not slot.is_manual:
                    other.remaining_actions = core.remaining_after_start(other.remaining_actions)
        self.fired.append(
            Fired(
                namespace=slot.namespace,
                schedule=slot.schedule,
                slot=slot.slot,
                workflow_id=workflow_id,
                run_id=run_id,
                at=at,
            )
        )


def _key(slot: Taking | LockedSlot) -> Key:
    return slot.namespace, slot.schedule, slot.slot
