"""What people ask of a schedule beyond keeping it: start now, make a range good, show what fired and what will.

Each works in any service process, whoever leads; what cannot start at once is left to the scheduler.
"""

from __future__ import annotations

import math

import msgspec

from holdfast.core import schedules as core
from holdfast.engine.engine import Engine
from holdfast.engine.scheduler import start_queued_of
from holdfast.exceptions import Invalid, NotFound, Unavailable
from holdfast.store import schedule_rows as rows
from holdfast.store import slot_rows
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.contract.schedules import CLOCK, GET_SCHEDULE, LockedSchedule, lock_schedule
from holdfast.store.schedule_rows import ScheduleRow
from holdfast.store.slot_rows import Fire
from holdfast.wire.records import OVERLAP_POLICIES

BACKFILL_MAX = 10_000
FIRES_SHOWN = 20


class Fires(msgspec.Struct, frozen=True):
    """What became of the last slots, the newest first, and when the next ones will be due, the earliest first.

    `next_at` are the instants of the slots; each is acted on up to the schedule's jitter later. Empty for a schedule
    that starts nothing any more, or is paused.
    """

    last: list[Fire]
    next_at: list[float]


async def trigger(
    engine: Engine,
    namespace: str,
    name: str,
    *,
    overlap_policy: str | None = None,
    store: Opened | None = None,
) -> Fire:
    """Start a run now, paused or not; the slot is this moment. What became of it: started, queued, or skipped.

    *overlap_policy* is the schedule's own unless given; *store* writes the slot. Raises `NotFound` for an unknown
    schedule.
    """
    _check_policy(overlap_policy)
    async with (store or Opened(engine.pool)).writing() as writing:
        schedule = await _locked(writing, namespace, name)
        fire = _asked(schedule, schedule.now, overlap_policy)
        if not await slot_rows.insert_fires(writing, [fire]):
            raise Unavailable(f"schedule {name!r} has a slot at this very moment: try again")
        writing.tell(namespace, "ScheduleTriggered", "schedule", name, slot=fire.slot)
    await _start(engine, namespace, name)
    (found,) = await slot_rows.last_fires(engine.pool, namespace, name, fire.slot, 1)
    return found


async def backfill(
    engine: Engine,
    namespace: str,
    name: str,
    from_at: float,
    to_at: float,
    *,
    overlap_policy: str | None = None,
    store: Opened | None = None,
) -> list[float]:
    """The slots between the two instants (both included) that had no run and get one now.

    Asked again, it starts nothing twice. Slots that were skipped get their chance; with a policy that does not
    overlap they run one after the other. *store* writes the slots. Raises `NotFound`, and `Invalid` for a range that holds more than
    `BACKFILL_MAX` slots or reaches into the future.
    """
    _check_policy(overlap_policy)
    if not -math.inf < from_at <= to_at:
        raise Invalid(f"backfill from {from_at} to {to_at}: expected a start that is not after the end")
    async with (store or Opened(engine.pool)).writing() as writing:
        schedule = await _locked(writing, namespace, name)
        if to_at > schedule.now:
            raise Invalid(
                f"backfill to {to_at}: expected an end that has passed, it is {schedule.now:.0f} now"
            )
        spec = rows.spec_of(schedule, schedule.spec)
        slots = core.backfill_slots(spec, from_at, to_at, BACKFILL_MAX + 1)
        if len(slots) > BACKFILL_MAX:
            raise Invalid(f"the range holds more than {BACKFILL_MAX:,} slots: make it good in parts")
        fires = [_asked(schedule, slot, overlap_policy) for slot in slots]
        new = await slot_rows.insert_fires(writing, fires, may_revive=True)
        if new:
            writing.tell(namespace, "ScheduleBackfilled", "schedule", name, slots=len(new))
    await _start(engine, namespace, name)
    return sorted(slot for _, _, slot in new)


async def fires(engine: Engine, namespace: str, name: str, *, limit: int = FIRES_SHOWN) -> Fires:
    """The last and next *limit* slots of a schedule. Raises `NotFound`."""
    found = await engine.pool.rows(GET_SCHEDULE, namespace, name)
    if not found:
        raise unknown(namespace, name)
    (clock,) = await engine.pool.rows(CLOCK)
    last = await slot_rows.last_fires(engine.pool, namespace, name, clock.now, limit)
    return Fires(last, _next_at(found[0], clock.now, limit))


def _next_at(schedule: ScheduleRow, now: float, limit: int) -> list[float]:
    if schedule.paused or schedule.next_run_at is None:
        return []
    if schedule.remaining_actions is not None:
        limit = min(limit, schedule.remaining_actions)
    considered_at = now if schedule.considered_at is None else schedule.considered_at
    spec = rows.spec_of(schedule, schedule.spec)
    # From where slots were looked at, not from now: a slot that is due this very moment will fire.
    oldest = max(considered_at, now - schedule.catchup_window_secs)
    return core.slots(spec, oldest, float("inf"), limit)


def _asked(schedule: ScheduleRow, slot: float, overlap_policy: str | None) -> Fire:
    return Fire(
        namespace=schedule.namespace,
        schedule=schedule.name,
        slot=slot,
        status=slot_rows.QUEUED,
        overlap_policy=overlap_policy or schedule.overlap_policy,
    )


def _check_policy(policy: str | None) -> None:
    if policy is not None and policy not in OVERLAP_POLICIES:
        raise Invalid(f"overlap_policy is {policy!r}: expected one of {', '.join(OVERLAP_POLICIES)}")


async def _locked(writing: Writing, namespace: str, name: str) -> LockedSchedule:
    schedule = await lock_schedule(writing, namespace, name)
    if schedule is None:
        raise unknown(namespace, name)
    return schedule


def unknown(namespace: str, name: str) -> NotFound:
    """There is no such schedule."""
    return NotFound(f"no schedule {name!r} in namespace {namespace!r}")


async def _start(engine: Engine, namespace: str, name: str) -> None:
    """Start what may start; the journal owes the bus what was told."""
    engine.owe_journal()
    while True:
        settled = await start_queued_of(engine, namespace, name)
        if not (settled.started or settled.skipped):
            return
