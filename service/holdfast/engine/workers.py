"""Who works: what workers say of themselves, kept in memory and, now and then, in the database.

A row is written when a worker is first heard of or says something new. That it lives stands in memory; its row hears of
it at most every `WRITE_EVERY_S`, all workers in one statement. Nothing depends on any of it: leases end by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from holdfast.bus import Bus
from holdfast.exceptions import Invalid
from holdfast.store import worker_rows
from holdfast.store.contract.opening import Opened
from holdfast.store.contract.workers import COUNT_MAX, remove_dead_workers
from holdfast.store.session import Pool
from holdfast.store.worker_rows import Announced, Presence
from holdfast.wire import codec
from holdfast.wire import messages as m

WRITE_EVERY_S = 30.0
SILENT_S = 60.0
PASS_EVERY_S = 10.0
LINGER_S = 0.2
"""So that workers that start together are written down together."""

WORKERS_MAX = 10_000
TYPES_MAX = 1_000
SLOTS_UNTOLD = 10
"""As in `WorkflowWorker`."""


class Seen(msgspec.Struct):
    """A worker that was heard of lately. `slots` are its workflow tasks and activities at once, None if it did not say.

    Times are the process's monotonic clock. `written_at` is when its row was told; None: what it says is not written yet.
    """

    who: Announced
    slots: tuple[int | None, int | None]
    active_tasks: int
    heard_at: float
    written_at: float | None = None


class Roster:
    """Every worker that this process has heard of lately."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.seen: dict[str, Seen] = {}
        self.leaving: set[str] = set()

    def announced(self, namespace: str, beat: m.WorkerHeartbeat, now: float) -> None:
        """A worker tells what it is. Raises `Invalid` for what a row cannot hold."""
        seen = announcement(namespace, beat)
        seen.heard_at = now
        known = self.seen.get(beat.worker)
        if known is None and len(self.seen) >= WORKERS_MAX:
            return
        if known is not None and known.who == seen.who:
            seen.written_at = known.written_at
        self.seen[beat.worker] = seen
        self.leaving.discard(beat.worker)
        if seen.written_at is None:
            self.wake.set()

    def heard(self, worker: str, now: float) -> None:
        """A worker that is known says something else."""
        known = self.seen.get(worker)
        if known is not None:
            known.heard_at = now

    def left(self, worker: str) -> None:
        """A worker stops. Which process wrote its row does not matter."""
        self.seen.pop(worker, None)
        if worker not in self.leaving and len(self.leaving) < WORKERS_MAX:
            self.leaving.add(worker)
            self.wake.set()

    def capped(self, worker: str, workflow_slots: int, activity_slots: int) -> tuple[int, int]:
        """So many slots, none below 0, and none of a kind beyond what the worker registered for."""
        known = self.seen.get(worker)
        if known is not None:
            workflows, activities = known.slots
            workflow_slots = workflow_slots if workflows is None else min(workflow_slots, workflows)
            activity_slots = activity_slots if activities is None else min(activity_slots, activities)
        return max(workflow_slots, 0), max(activity_slots, 0)


class Attendance:
    """The step that keeps the rows of workers, and what it remembers between passes."""

    def __init__(
        self, pool: Pool, bus: Bus, roster: Roster, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._bus = bus
        self._roster = roster
        self._clock = clock
        self._up_since = clock()
        bus.on_up.append(self._on_up)

    async def step(self) -> int:
        """One pass: write down who is new, who was heard of, who left; remove who fell silent. 0: it may rest."""
        await asyncio.sleep(LINGER_S)
        roster, now = self._roster, self._clock()
        for worker, seen in list(roster.seen.items()):
            if now - seen.heard_at > SILENT_S:
                del roster.seen[worker]
        await self._announce([seen for seen in roster.seen.values() if seen.written_at is None], now)
        await self._refresh([seen for seen in roster.seen.values() if _is_owed(seen, now)], now)
        await self._take_leave()
        await self._remove_silent(now)
        return 0

    def idle_s(self) -> float:
        """How long to wait after a pass unless somebody new is heard of."""
        return PASS_EVERY_S

    async def _announce(self, new: Sequence[Seen], now: float) -> None:
        if not new:
            return
        written = await worker_rows.announce(self._pool, [(seen.who, _presence(seen, now)) for seen in new])
        for seen in new:
            # A row that was there already said the same, but may be about to be removed as silent.
            self._told(seen, now if seen.who.id in written else now - WRITE_EVERY_S)

    async def _refresh(self, owed: Sequence[Seen], now: float) -> None:
        if not owed:
            return
        found = await worker_rows.refresh(self._pool, [_presence(seen, now) for seen in owed])
        for seen in owed:
            if seen.who.id in found:
                self._told(seen, now)
            else:
                # It has said goodbye to another process, or was removed: it is new when it is heard again.
                self._roster.seen.pop(seen.who.id, None)

    async def _take_leave(self) -> None:
        leaving = sorted(self._roster.leaving)
        if leaving:
            await worker_rows.take_leave(self._pool, leaving)
            self._roster.leaving.difference_update(leaving)

    async def _remove_silent(self, now: float) -> None:
        """While the bus is away, and for a while after, silence tells nothing."""
        if not self._bus.is_connected or now - self._up_since < SILENT_S:
            return
        cutoff = await worker_rows.cutoff_if_silent(self._pool, SILENT_S)
        if cutoff is not None:
            await remove_dead_workers(Opened(self._pool), cutoff)

    def _told(self, seen: Seen, at: float) -> None:
        """The row knows what *seen* says; if the worker has said something else meanwhile, that is owed still."""
        known = self._roster.seen.get(seen.who.id)
        if known is not None and known.who == seen.who:
            known.written_at = at

    def _on_up(self) -> None:
        self._up_since = self._clock()


def announcement(namespace: str, beat: m.WorkerHeartbeat) -> Seen:
    """What a heartbeat says of its worker. Raises `Invalid` for what a row cannot hold.

    Of slots that it does not tell, the row says the contract's default.
    """
    codec.check_text("identity", beat.identity, may_be_empty=True)
    slots = (_count(beat.max_workflow_tasks), _count(beat.max_activities))
    who = Announced(
        id=beat.worker,
        namespace=namespace,
        identity=beat.identity or beat.worker,
        task_queue=beat.task_queue,
        workflows=_types("workflows", beat.workflows),
        activities=_types("activities", beat.activities),
        max_concurrent_workflows=SLOTS_UNTOLD if slots[0] is None else slots[0],
        max_concurrent_activities=SLOTS_UNTOLD if slots[1] is None else slots[1],
    )
    free = (beat.workflow_slots, beat.activity_slots)
    busy = sum(
        max(most - max(left, 0), 0) for most, left in zip(slots, free, strict=True) if most is not None
    )
    return Seen(who, slots, min(busy, COUNT_MAX), 0.0)


def _count(number: int | None) -> int | None:
    return None if number is None else min(max(number, 0), COUNT_MAX)


def _types(field: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if len(names) > TYPES_MAX:
        raise Invalid(
            f"{field} has {len(names):,} names: expected at most {TYPES_MAX:,}; None stands for any"
        )
    for name in names:
        codec.check_text(f"name in {field}", name)
    return tuple(sorted(set(names)))


def _presence(seen: Seen, now: float) -> Presence:
    return Presence(
        id=seen.who.id,
        namespace=seen.who.namespace,
        active_tasks=seen.active_tasks,
        silent_s=max(now - seen.heard_at, 0.0),
    )


def _is_owed(seen: Seen, now: float) -> bool:
    """Whether it was heard of since its row was, which is some time ago."""
    written_at = seen.written_at
    return written_at is not None and now - written_at >= WRITE_EVERY_S and seen.heard_at > written_at
