"""Time zones as stretches of one offset: what local time is, over the line of UTC instants.

The walk of a schedule goes over UTC instants, stretch by stretch, and reads local time as instant plus offset. So a
local time that does not exist is met never and one that occurs twice is met twice, without a rule about either.

Zones come from the package `tzdata`, not from the machine: two processes with different zone files would take
different instants for the same slot.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from holdfast.exceptions import Invalid

DAY_S = 86_400
YEAR_MIN, YEAR_MAX = 2, 9998
"""The years of UTC that are looked at; local times stay within what a date can say."""

# Two changes that undo each other are never closer than 6.9 days in the zone data since 1970.
_STRIDE_S = 3 * DAY_S
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()

Stretch = tuple[int, int, int]
"""Instants from the first up to but not including the second, and local time minus UTC there; all in seconds."""


def day_number(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01."""
    return date(year, month, day).toordinal() - _EPOCH_DAY


def date_of(day: int) -> date:
    """The date so many days after 1970-01-01."""
    return date.fromordinal(day + _EPOCH_DAY)


def check_zone(name: str) -> None:
    """Nothing, or Invalid if there is no IANA zone of that name; the letters' case counts."""
    zone(name)


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Every IANA name, links included."""
    text = files("tzdata").joinpath("zones").read_text(encoding="ascii")
    return frozenset(text.split()) - {"Factory"}


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The zone called *name*; Invalid if there is none."""
    if name not in zone_names():
        near = difflib.get_close_matches(name[:64], zone_names(), n=1, cutoff=0.7)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise Invalid(f"time zone: found {name[:64]!r}, expected an IANA name like 'Europe/Berlin'{hint}")
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


def offset_at(name: str, at: int) -> int:
    """Local time minus UTC in zone *name* at instant *at*, in seconds."""
    offset = (_EPOCH + timedelta(seconds=at)).astimezone(zone(name)).utcoffset() or timedelta()
    return offset.days * DAY_S + offset.seconds


def stretches(name: str, at: int, direction: int) -> Iterator[Stretch]:
    """The stretches from instant *at* on, later ones (direction 1) or earlier ones (-1).

    The first one holds *at*. Years are cut at their ends, so neighbours may have the same offset.
    """
    year = date_of(min(max(at // DAY_S, day_number(YEAR_MIN, 1, 1)), day_number(YEAR_MAX, 12, 31))).year
    while YEAR_MIN <= year <= YEAR_MAX:
        of_year = stretches_of_year(name, year)
        for stretch in of_year if direction > 0 else reversed(of_year):
            start, end, _ = stretch
            if (end > at) if direction > 0 else (start <= at):
                yield stretch
        year += direction


@lru_cache(maxsize=8192)
def stretches_of_year(name: str, year: int) -> tuple[Stretch, ...]:
    """The stretches of one year of UTC, in order and without a gap."""
    start, end = day_number(year, 1, 1) * DAY_S, day_number(year + 1, 1, 1) * DAY_S
    marks = [*range(start, end, _STRIDE_S), end]
    offsets = [offset_at(name, mark) for mark in marks]
    changes = [
        change
        for i in range(len(marks) - 1)
        for change in _changes(name, marks[i], offsets[i], marks[i + 1], offsets[i + 1])
    ]
    found, since, offset = [], start, offsets[0]
    for at, new in changes:
        if at < end:
            found.append((since, at, offset))
            since, offset = at, new
    return (*found, (since, end, offset))


def _changes(name: str, low: int, before: int, high: int, after: int) -> list[tuple[int, int]]:
    """The instants in (low, high] from which on another offset is in force, with that offset."""
    if before == after:
        return []
    if high - low == 1:
        return [(high, after)]
    middle = (low + high) // 2
    between = offset_at(name, middle)
    return _changes(name, low, before, middle, between) + _changes(name, middle, between, high, after)
