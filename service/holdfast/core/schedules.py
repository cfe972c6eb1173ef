"""Schedules: which instants are slots, when each is due, and what to do about it. No clock, no rows.

A slot is a nominal instant of a schedule in UTC; everything about its run follows from it, so that whoever acts on it
twice means the same run. A spec may name slots in several ways at once; an instant named twice is one slot.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from math import ceil, floor, inf, isfinite, nextafter
from typing import Final

import msgspec

from holdfast.core import cron
from holdfast.core.calendars import pattern_of
from holdfast.core.fields import FIRST_AT, HORIZON_S, LAST_AT, Pattern, covered, next_match, previous_match
from holdfast.core.ids import uuid7
from holdfast.core.zones import check_zone
from holdfast.exceptions import Invalid
from holdfast.wire.records import OVERLAP_POLICIES
from holdfast.wire.schedules import CalendarSpec, CronSpec, IntervalSpec, ScheduleSpec

SPECS_MAX = 100
EVERY_MIN_S, EVERY_MAX_S = 1.0, 1e9
JITTER_MAX_S = 1e8
QUEUED_MAX = 100
EXCLUDED_MAX = 10_000
"""How many excluded candidates in a row are looked at before the schedule counts as one without a slot."""

# What to do about a slot.
START: Final = "start"
SKIP: Final = "skip"
QUEUE: Final = "queue"
CANCEL_THEN_START: Final = "cancel_then_start"
TERMINATE_THEN_START: Final = "terminate_then_start"


class Skipped(msgspec.Struct, frozen=True):
    """A slot that starts nothing, and why."""

    slot: float
    reason: str


class Decision(msgspec.Struct, frozen=True):
    """What to do about a slot: one of START, SKIP, QUEUE, CANCEL_THEN_START, TERMINATE_THEN_START."""

    action: str
    reason: str = ""


# --- the spec -----------------------------------------------------------------------------------------------------


def spec_of_cron(expr: str, timezone: str = "UTC", jitter_s: float = 0.0) -> ScheduleSpec:
    """The spec of a schedule that is one cron expression."""
    return ScheduleSpec(specs=(CronSpec(expr=expr),), timezone=timezone, jitter_s=jitter_s)


def encode_spec(spec: ScheduleSpec) -> bytes:
    """*spec* as it is stored."""
    return msgspec.json.encode(spec)


def decode_spec(data: bytes | str) -> ScheduleSpec:
    """The spec that *data* holds; Invalid if it is none. Whether it has a slot is for `check` to say."""
    try:
        return msgspec.json.decode(data, type=ScheduleSpec)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise Invalid(f"schedule spec: {problem}") from problem


def check(spec: ScheduleSpec, now: float) -> None:
    """Nothing, or Invalid for a spec that cannot be read, is out of bounds, or has no slot after *now*."""
    if not 1 <= len(spec.specs) <= SPECS_MAX or len(spec.exclusions) > SPECS_MAX:
        raise Invalid(
            f"schedule: found {len(spec.specs)} specs and {len(spec.exclusions)} exclusions, "
            f"expected 1 to {SPECS_MAX} and at most {SPECS_MAX}"
        )
    for name in ("start_at", "end_at"):
        at = getattr(spec, name)
        if at is not None and not (isfinite(at) and FIRST_AT <= at <= LAST_AT):
            raise Invalid(f"schedule: {name}: found {at}, expected epoch seconds within the years 2 to 9998")
    if not 0 <= spec.jitter_s <= JITTER_MAX_S:
        raise Invalid(f"schedule: jitter_s: found {spec.jitter_s}, expected 0 to {JITTER_MAX_S:.0f} seconds")
    check_zone(spec.timezone)
    after = now if spec.start_at is None else max(now, _just_before(spec.start_at))
    for part in spec.specs:
        if isinstance(part, CronSpec):
            cron.parse(part.expr, spec.timezone, after)
        elif isinstance(part, IntervalSpec):
            _check_interval(part)
    if next_slot(spec, now) is None:
        raise Invalid(
            "schedule: found no slot between now, start_at and end_at that is not excluded, expected one"
        )


def _check_interval(interval: IntervalSpec) -> None:
    """Nothing, or Invalid."""
    if not EVERY_MIN_S <= interval.every_s <= EVERY_MAX_S:
        raise Invalid(
            f"interval: every_s: found {interval.every_s}, expected {EVERY_MIN_S:.0f} to {EVERY_MAX_S:.0f} seconds"
        )
    if not 0 <= interval.offset_s < interval.every_s:
        raise Invalid(
            f"interval: offset_s: found {interval.offset_s}, expected at least 0 and less than every_s, {interval.every_s}"
        )


# --- slots --------------------------------------------------------------------------------------------------------


class _Sources(msgspec.Struct, frozen=True):
    """What a spec comes down to: patterns, intervals (length and offset in microseconds), patterns to leave out."""

    patterns: tuple[Pattern, ...]
    intervals: tuple[tuple[int, int], ...]
    exclusions: tuple[Pattern, ...]


def next_slot(spec: ScheduleSpec, after: float) -> float | None:
    """The first slot strictly after *after*, or None if there is none within 50 years or none that is not excluded."""
    sources = _sources(spec)
    if spec.start_at is not None:
        after = max(after, _just_before(spec.start_at))
    end = min(inf if spec.end_at is None else spec.end_at, after + HORIZON_S)
    for _ in range(EXCLUDED_MAX):
        found = [next_match(pattern, spec.timezone, after) for pattern in sources.patterns]
        found += [_next_multiple(every, offset, after) for every, offset in sources.intervals]
        slot = min((at for at in found if at is not None), default=inf)
        if slot > end or not isfinite(slot):
            return None
        excluded = _excluded(sources, spec.timezone, slot)
        if excluded is None:
            return slot
        after = _just_before(excluded[1])
    return None


def previous_slot(spec: ScheduleSpec, before: float) -> float | None:
    """The last slot strictly before *before*, or None as in `next_slot`."""
    sources = _sources(spec)
    if spec.end_at is not None:
        before = min(before, nextafter(spec.end_at, inf))
    start = max(-inf if spec.start_at is None else spec.start_at, before - HORIZON_S)
    for _ in range(EXCLUDED_MAX):
        found = [previous_match(pattern, spec.timezone, before) for pattern in sources.patterns]
        found += [_previous_multiple(every, offset, before) for every, offset in sources.intervals]
        slot = max((at for at in found if at is not None), default=-inf)
        if slot < start or not isfinite(slot):
            return None
        excluded = _excluded(sources, spec.timezone, slot)
        if excluded is None:
            return slot
        before = float(excluded[0])
    return None


def slots(spec: ScheduleSpec, after: float, upto: float, limit: int) -> list[float]:
    """The slots after *after* and not after *upto*, in order; the first *limit* of them."""
    found: list[float] = []
    slot = next_slot(spec, after) if limit > 0 else None
    while slot is not None and slot <= upto:
        found.append(slot)
        slot = next_slot(spec, slot) if len(found) < limit else None
    return found


def backfill_slots(spec: ScheduleSpec, from_at: float, to_at: float, limit: int) -> list[float]:
    """The slots from *from_at* to *to_at*, both included; the first *limit* of them.

    More may follow if there are *limit*: go on behind the last one with `slots`.
    """
    return slots(spec, _just_before(from_at), to_at, limit)


def describe_fires(spec: ScheduleSpec, now: float, n: int) -> tuple[list[float], list[float]]:
    """The last *n* slots up to and including *now*, and the next *n*; each in order."""
    last: list[float] = []
    slot = previous_slot(spec, nextafter(now, inf))
    while slot is not None and len(last) < n:
        last.append(slot)
        slot = previous_slot(spec, slot)
    return last[::-1], slots(spec, now, inf, n)


def due_slots(
    spec: ScheduleSpec,
    considered_at: float,
    now: float,
    catchup_window_s: float,
    limit: int,
    *,
    namespace: str = "main",
    name: str = "",
) -> tuple[list[float], list[Skipped]]:
    """The slots after *considered_at* that are to be acted on, and those that came too late; *limit* in all.

    A slot is due at `fire_at`, which *namespace* and *name* have a part in. One that was due longer than the
    catch-up window ago is skipped. The next call goes on behind the last slot of either list; where both are empty
    nothing was due, and *considered_at* stays.
    """
    due: list[float] = []
    skipped: list[Skipped] = []
    slot = next_slot(spec, considered_at)
    while slot is not None and slot <= now and len(due) + len(skipped) < limit:
        following = next_slot(spec, slot)
        at = _jittered(spec, namespace, name, slot, following)
        if at > now:
            break
        if now - at > catchup_window_s:
            skipped.append(
                Skipped(slot, f"missed by {now - at:.0f} s, the catch-up window is {catchup_window_s:g} s")
            )
        else:
            due.append(slot)
        slot = following
    return due, skipped


def fire_at(spec: ScheduleSpec, namespace: str, name: str, slot: float) -> float:
    """When *slot* is due: up to `jitter_s` later, before the next slot, and always the same."""
    following = next_slot(spec, slot) if spec.jitter_s else None
    return _jittered(spec, namespace, name, slot, following)


def next_due_at(spec: ScheduleSpec, namespace: str, name: str, considered_at: float) -> float | None:
    """When the first slot after *considered_at* is due, None if there is none."""
    slot = next_slot(spec, considered_at)
    return None if slot is None else fire_at(spec, namespace, name, slot)


def _jittered(spec: ScheduleSpec, namespace: str, name: str, slot: float, following: float | None) -> float:
    """See `fire_at`."""
    room_us = _microseconds(spec.jitter_s)
    if following is not None:
        room_us = min(room_us, _microseconds(following) - _microseconds(slot))
    if room_us <= 0:
        return slot
    part = int.from_bytes(_digest("jitter", namespace, name, slot)[:8], "big") % room_us
    return (_microseconds(slot) + part) / 1e6


@lru_cache(maxsize=4096)
def _sources(spec: ScheduleSpec) -> _Sources:
    """See `_Sources`; Invalid for what cannot be read."""
    patterns: list[Pattern] = []
    intervals: list[tuple[int, int]] = []
    for part in spec.specs:
        match part:
            case CronSpec():
                patterns.append(cron.read(part.expr, spec.timezone).pattern)
            case IntervalSpec():
                _check_interval(part)
                intervals.append((_microseconds(part.every_s), _microseconds(part.offset_s)))
            case CalendarSpec():
                check_zone(spec.timezone)
                patterns.append(pattern_of(part))
    exclusions = tuple(_widened(pattern_of(part), patterns, intervals) for part in spec.exclusions)
    return _Sources(tuple(patterns), tuple(intervals), exclusions)


def _widened(exclusion: Pattern, patterns: list[Pattern], intervals: list[tuple[int, int]]) -> Pattern:
    """An exclusion that leaves out the same slots, but in long stretches.

    If all slots fall on seconds that it excludes (usually: second 0), it may as well exclude every second; and then so
    with minutes and hours. Otherwise a month left out of a minutely schedule would be 43,200 excluded candidates.
    """
    fields: dict[str, tuple[int, ...]] = {}
    is_on_minutes = all(every % 60_000_000 == 0 == offset % 60_000_000 for every, offset in intervals)
    for name, count in (("seconds", 60), ("minutes", 60), ("hours", 24)):
        used = {value for pattern in patterns for value in getattr(pattern, name)}
        if intervals:
            used |= {0} if name == "seconds" and is_on_minutes else set(range(count))
        if used <= set(getattr(exclusion, name)):
            fields[name] = tuple(range(count))
    return msgspec.structs.replace(exclusion, **fields)


def _excluded(sources: _Sources, timezone: str, slot: float) -> tuple[int, int] | None:
    """A stretch around *slot* in which every candidate is excluded, None if *slot* is not."""
    for exclusion in sources.exclusions:
        found = covered(exclusion, timezone, floor(slot))
        if found is not None:
            return found
    return None


def _next_multiple(every: int, offset: int, after: float) -> float | None:
    """The first instant of an interval (microseconds) strictly after *after*."""
    if not FIRST_AT <= after < LAST_AT:
        return None
    number = (floor(after * 1e6) - offset) // every
    # Compared as the floats they become: rounding may put an instant on either side of what it was made from.
    while (at := (number * every + offset) / 1e6) <= after:
        number += 1
    return at


def _previous_multiple(every: int, offset: int, before: float) -> float | None:
    """The last instant of an interval (microseconds) strictly before *before*."""
    if not FIRST_AT < before <= LAST_AT:
        return None
    number = (ceil(before * 1e6) - offset) // every + 1
    while (at := (number * every + offset) / 1e6) >= before:
        number -= 1
    return at


def _just_before(at: float) -> float:
    """The greatest time below *at*."""
    return nextafter(at, -inf)


# --- what follows from a slot -------------------------------------------------------------------------------------


def run_id_of(namespace: str, schedule: str, slot: float) -> str:
    """The id of the run that *slot* starts, a UUIDv7 whose time is the slot's (1970 for an earlier one)."""
    return uuid7(max(_microseconds(slot) // 1000, 0), _digest("run", namespace, schedule, slot))


def workflow_id_of(base: str, slot: float) -> str:
    """The workflow id of the run that *slot* starts: "report-2026-01-01T00:00:00Z"."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=_microseconds(slot))
    return f"{base}-{at.replace(tzinfo=None).isoformat()}Z"


def decide(
    policy: str,
    *,
    is_last_open: bool,
    queued: int = 0,
    queued_max: int = QUEUED_MAX,
    is_paused: bool = False,
    remaining: int | None = None,
) -> Decision:
    """What to do about a slot under overlap *policy*; Invalid if there is no such policy.

    *is_last_open*: whether the run last started is still open. *queued*: how many slots wait for it to end.
    *remaining*: how many runs the schedule may still start, None for any number.
    """
    if policy not in OVERLAP_POLICIES:
        raise Invalid(f"overlap policy: found {policy!r}, expected one of {', '.join(OVERLAP_POLICIES)}")
    # Those that wait will use up runs as well.
    why = standstill(is_paused=is_paused, remaining=None if remaining is None else remaining - queued)
    if why is not None:
        return Decision(SKIP, why)
    if policy == "queue" and (is_last_open or queued):
        if queued >= queued_max:
            return Decision(SKIP, f"{queued} slots are queued, which is as many as may be")
        return Decision(QUEUE)
    if not is_last_open:
        return Decision(START)
    match policy:
        case "skip":
            return Decision(SKIP, "the last run is still open")
        case "cancel_old":
            return Decision(CANCEL_THEN_START)
        case "terminate_old":
            return Decision(TERMINATE_THEN_START)
        case _:
            return Decision(START)


def standstill(*, is_paused: bool, remaining: int | None) -> str | None:
    """Why the schedule starts nothing by itself now, or None if it may. *remaining* as in `decide`."""
    if is_paused:
        return "the schedule is paused"
    if remaining is not None and remaining <= 0:
        return "no runs remain"
    return None


def remaining_after_start(remaining: int | None) -> int | None:
    """How many runs may still be started after one more was; None for any number."""
    return None if remaining is None else max(remaining - 1, 0)


def pause_note(is_pausing_on_failure: bool, workflow_id: str, status: str) -> str | None:
    """Why the schedule pauses now that its run ended with *status*, or None if it goes on.

    Failing and timing out are failures; being cancelled or terminated is someone's wish.
    """
    if not is_pausing_on_failure or status not in {"FAILED", "TIMED_OUT"}:
        return None
    return f"paused because {workflow_id} ended as {status}"


def _digest(purpose: str, namespace: str, schedule: str, slot: float) -> bytes:
    """32 bytes that follow from the arguments; each is preceded by its length, so no two lists of them look alike."""
    parts = [part.encode() for part in (purpose, namespace, schedule, str(_microseconds(slot)))]
    return sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


def _microseconds(seconds: float) -> int:
    """*seconds* in the unit that slots are told apart by."""
    return round(seconds * 1e6)
