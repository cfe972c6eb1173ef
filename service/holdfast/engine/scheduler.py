"""The scheduler: finds schedules that are due, writes what becomes of their slots, starts the runs.

A pass has two halves. The first moves due schedules on and writes each of their slots, in one transaction: to start
(`queued`), or too late (`skipped`). The second takes the oldest queued slots of each schedule, asks the overlap policy
what to do with them now, and starts runs through the journal like everybody else. The transaction that starts a run
locks its slot first and writes it as started, and the run's ids follow from the slot: whoever tries again finds the run
that is there, and a process that ends anywhere loses nothing. One process at a time does this, by a row with an epoch,
but nothing depends on it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from itertools import groupby

import msgspec

from holdfast.core import schedules as core
from holdfast.engine.engine import Engine
from holdfast.engine.schedule_runs import Settled, Todo, carry_out, sort_out
from holdfast.exceptions import Invalid
from holdfast.store import schedule_rows as rows
from holdfast.store import slot_rows
from holdfast.store.contract.opening import Writing
from holdfast.store.leading import Candidate
from holdfast.store.schedule_rows import DueSchedule
from holdfast.store.session import Pool
from holdfast.store.slot_rows import Fire, QueuedSlot

ROLE = "scheduler"
TTL_S = 1.5
"""How long a leader that is frozen or cut off is missed. One that died is missed by the next who asks."""

RETRY_S = 0.25
LOOK_S = 1.0
LOOK_WITHOUT_S = 60.0
SCHEDULES_MAX = 500
SLOTS_MAX = 200
PASS_SLOTS_MAX = 5_000
QUEUED_SEEN_MAX = 150
PAGE_SCHEDULES = 200
FIRES_KEPT_S = 30 * 86_400.0
FORGET_MAX = 5_000


class Lead(msgspec.Struct, frozen=True):
    """Who leads, in which epoch."""

    holder: str
    epoch: int


class Pass(msgspec.Struct, frozen=True):
    """What a pass did: slots written, runs started, slots skipped; `waiting` slots could not start yet."""

    written: int = 0
    started: int = 0
    skipped: int = 0
    waiting: int = 0

    @property
    def handled(self) -> int:
        """How much there was to do."""
        return self.written + self.started + self.skipped


class Scheduler:
    """The scheduler of this process, and what it remembers between passes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._candidate = Candidate(engine.pool.url, ROLE, engine.name, engine.pool.counts)
        self._lead_held: Lead | None = None
        self._held_until = 0.0
        self._retry_at = 0.0
        self._look_at = 0.0
        self.wake = asyncio.Event()
        """Set to have it look at once."""

    async def step(self) -> int:
        """One pass, if some schedule wants to be looked at. Returns how much there was to do."""
        if self.wake.is_set():
            self._look_at = 0.0
        if time.monotonic() < self._look_at:
            return 0
        look = await rows.next_schedule(self._engine.pool)
        now = time.monotonic()
        in_s = math.inf if look.next_schedule_s is None else look.next_schedule_s
        self._look_at = now + (LOOK_S if look.has_schedules else LOOK_WITHOUT_S)
        if in_s > 0:
            self._look_at = min(self._look_at, now + in_s)
        if in_s > 0 and not look.has_queued:
            return 0
        lead = await self._lead()
        if lead is None:
            self._look_at = min(self._look_at, now + RETRY_S)
            return 0
        done = await run_pass(self._engine, lead, is_due=in_s <= 0)
        if done.handled:
            self._look_at = 0.0
        return done.handled

    def idle_s(self) -> float:
        """How long to wait after a pass that found nothing."""
        return max(self._look_at - time.monotonic(), 0.001)

    def hear(self, next_schedule_s: float | None) -> None:
        """Some schedule wants to be looked at in *next_schedule_s* seconds, as the clock's pulse has told."""
        if next_schedule_s is None:
            return
        look_at = time.monotonic() + max(next_schedule_s, 0.0)
        if look_at < self._look_at:
            self._look_at = look_at
            self.wake.set()

    async def forget(self) -> int:
        """Drop what became of slots long ago; a pass every ten minutes."""
        return await slot_rows.forget_fires(self._engine.pool, FIRES_KEPT_S, FORGET_MAX)

    async def close(self) -> None:
        """Give up the lead, if held; another process has it at once."""
        self._lead_held, self._held_until = None, 0.0
        await self._candidate.close()

    async def _lead(self) -> Lead | None:
        """Whether this process leads. Trusted for half the time it was granted for, from before it asked."""
        asked_at = time.monotonic()
        if asked_at < self._held_until:
            return self._lead_held
        if asked_at < self._retry_at:
            return None
        holder = self._engine.name
        epoch = await self._candidate.ask(TTL_S)
        if epoch is None:
            self._lead_held, self._retry_at = None, asked_at + RETRY_S
            return None
        self._lead_held, self._held_until = Lead(holder, epoch), asked_at + TTL_S / 2
        return self._lead_held


async def run_pass(
    engine: Engine,
    lead: Lead,
    *,
    now: float | None = None,
    is_due: bool = True,
    schedules_max: int = SCHEDULES_MAX,
) -> Pass:
    """Look at the schedules that are due at *now* (None: the database's clock), and start what may start.

    Raises what the store raises: then what was written is finished by the next pass.
    """
    written = await write_due(engine.pool, lead, now=now, schedules_max=schedules_max) if is_due else 0
    settled = await start_queued(engine)
    if written or settled.started or settled.skipped:
        engine.owe_journal()
    return Pass(written, settled.started, settled.skipped, settled.waiting)


async def start_queued(engine: Engine, schedules_max: int = PAGE_SCHEDULES) -> Settled:
    """Start what may start of all queued slots, *schedules_max* schedules at a time.

    Raises `Unavailable` after everything that could be done was done.
    """
    settled = Settled()
    last = ("", "")
    while True:
        page = await slot_rows.read_queued(engine.pool, QUEUED_SEEN_MAX, schedules_max, *last)
        # A page begins with the schedule that the one before it ended with.
        slots = [slot for slot in page if _key(slot) != last]
        settled = settled.plus(await carry_out(engine, _sorted_out(slots)))
        if not slots or len({_key(slot) for slot in page}) < schedules_max:
            break
        last = _key(page[-1])
    if settled.failure is not None:
        raise settled.failure
    return settled


async def start_queued_of(engine: Engine, namespace: str, schedule: str) -> Settled:
    """As `start_queued`, for one schedule."""
    page = await slot_rows.read_queued(engine.pool, QUEUED_SEEN_MAX, 1, namespace, schedule)
    slots = [slot for slot in page if _key(slot) == (namespace, schedule)]
    settled = await carry_out(engine, _sorted_out(slots))
    if settled.failure is not None:
        raise settled.failure
    return settled


def _sorted_out(slots: list[QueuedSlot]) -> list[Todo]:
    return [sort_out(list(own)) for _, own in groupby(slots, key=_key)]


def _key(slot: QueuedSlot) -> tuple[str, str]:
    return slot.namespace, slot.name


async def write_due(
    pool: Pool, lead: Lead, *, now: float | None = None, schedules_max: int = SCHEDULES_MAX
) -> int:
    """Write the slots of the schedules that are due at *now*, and move these on. How many schedules it were."""
    async with pool.transaction() as session:
        writing = Writing(session)
        due = await rows.lock_due(writing, now, schedules_max, ROLE, lead.holder, lead.epoch)
        if not due:
            return 0
        fires: list[Fire] = []
        moved: list[DueSchedule] = []
        for schedule in due:
            after, own = _moved_on(schedule)
            moved.append(after)
            fires += own
            if after.paused:
                writing.tell(after.namespace, "SchedulePaused", "schedule", after.name, note=after.note)
            if len(fires) >= PASS_SLOTS_MAX:
                # The others stay due.
                break
        new = await slot_rows.insert_fires(writing, fires)
        tell_skipped(
            writing,
            [f for f in fires if f.status == slot_rows.SKIPPED and (f.namespace, f.schedule, f.slot) in new],
        )
        await rows.move_on(writing, moved)
        await writing.flush()
        return len(moved)


def tell_skipped(writing: Writing, fires: Iterable[Fire]) -> None:
    """Tell of slots that start nothing."""
    for fire in fires:
        writing.tell(
            fire.namespace,
            "ScheduleSlotSkipped",
            "schedule",
            fire.schedule,
            slot=fire.slot,
            reason=fire.reason,
        )


def _moved_on(schedule: DueSchedule) -> tuple[DueSchedule, list[Fire]]:
    """The schedule as it stands once its due slots are looked at, and what becomes of these."""
    replace = msgspec.structs.replace
    try:
        spec = rows.spec_of(schedule, schedule.spec)
        considered_at = schedule.now if schedule.considered_at is None else schedule.considered_at
        due, late = core.due_slots(
            spec,
            considered_at,
            schedule.now,
            schedule.catchup_window_secs,
            SLOTS_MAX,
            namespace=schedule.namespace,
            name=schedule.name,
        )
        considered_at = max([considered_at, *due, *(skip.slot for skip in late)])
        next_run_at = core.next_due_at(spec, schedule.namespace, schedule.name, considered_at)
    except Invalid as error:
        # It was valid once: zones and rules change with versions. The others must not suffer.
        return replace(schedule, paused=True, note=f"paused because it cannot be read: {error.message}"), []
    fires = [_fire(schedule, skip.slot, slot_rows.SKIPPED, skip.reason) for skip in late]
    note = _failure_note(schedule)
    if note is not None:
        fires += [_fire(schedule, slot, slot_rows.SKIPPED, note) for slot in due]
        after = replace(
            schedule, paused=True, note=note, considered_at=considered_at, next_run_at=next_run_at
        )
        return after, fires
    if schedule.remaining_actions == 0:
        return replace(schedule, considered_at=considered_at, next_run_at=None), [
            *fires,
            *(_fire(schedule, slot, slot_rows.SKIPPED, "no runs remain") for slot in due),
        ]
    fires += [_fire(schedule, slot, slot_rows.QUEUED, "") for slot in due]
    return replace(schedule, considered_at=considered_at, next_run_at=next_run_at), fires


def _fire(schedule: DueSchedule, slot: float, status: str, reason: str) -> Fire:
    return Fire(namespace=schedule.namespace, schedule=schedule.name, slot=slot, status=status, reason=reason)


def _failure_note(schedule: DueSchedule) -> str | None:
    """Why the schedule pauses, if the run before failed; one that ended before it went on again is forgiven."""
    if schedule.last_status is None or schedule.last_closed_at is None:
        return None
    if schedule.considered_at is not None and schedule.last_closed_at <= schedule.considered_at:
        return None
    return core.pause_note(
        schedule.is_pausing_on_failure, schedule.last_workflow_id or "", schedule.last_status
    )
