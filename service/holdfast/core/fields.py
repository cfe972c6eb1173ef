"""The fields of local time, and the walk over the instants whose local time matches them.

A cron expression and a calendar both become a `Pattern`. The walk jumps: to the next month, day, hour, minute and
second that may match, within one stretch of constant offset after the other; it never counts through instants.
"""

from __future__ import annotations

import calendar
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from math import ceil, floor, isfinite

import msgspec

from holdfast.core.zones import DAY_S, YEAR_MAX, YEAR_MIN, date_of, day_number, stretches

HORIZON_S = 50 * 31_557_600
"""How far the walk looks, 50 years: what does not match until then is taken to match never."""

FIRST_AT = day_number(YEAR_MIN, 1, 2) * DAY_S
LAST_AT = day_number(YEAR_MAX, 12, 30) * DAY_S

ALL_DAYS = tuple(range(1, 32))
ALL_MONTHS = tuple(range(1, 13))
ALL_WEEKDAYS = tuple(range(7))

LAST = -1
"""In `Pattern.nth_weekdays`: the last one of the month."""


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """The values that each field of local time may have; each tuple in rising order and not empty.

    Weekdays count from Sunday (0). Of the days of a month the weekday side matches `weekdays` or `nth_weekdays`
    (weekday and which one of the month, 1 to 5 or LAST), the other side `days` or, if so said, the last day. Both
    sides must match, or with `is_either_day` one of them. `years` is None for every year.
    """

    seconds: tuple[int, ...] = (0,)
    minutes: tuple[int, ...] = (0,)
    hours: tuple[int, ...] = (0,)
    days: tuple[int, ...] = ALL_DAYS
    is_last_day: bool = False
    months: tuple[int, ...] = ALL_MONTHS
    weekdays: tuple[int, ...] = ALL_WEEKDAYS
    nth_weekdays: tuple[tuple[int, int], ...] = ()
    is_either_day: bool = False
    years: tuple[int, ...] | None = None


def next_match(pattern: Pattern, timezone: str, after: float) -> float | None:
    """The first instant strictly after *after* whose local time matches, or None within 50 years."""
    if not isfinite(after) or not FIRST_AT <= after < LAST_AT:
        return None
    first = floor(after) + 1
    last = min(first + HORIZON_S, LAST_AT)
    for start, end, offset in stretches(timezone, first, 1):
        if start > last:
            return None
        local = _local_match(pattern, max(start, first) + offset, min(end - 1, last) + offset, 1)
        if local is not None:
            return float(local - offset)
    return None


def previous_match(pattern: Pattern, timezone: str, before: float) -> float | None:
    """The last instant strictly before *before* whose local time matches, or None within 50 years."""
    if not isfinite(before) or not FIRST_AT < before <= LAST_AT:
        return None
    last = ceil(before) - 1
    first = max(last - HORIZON_S, FIRST_AT)
    for start, end, offset in stretches(timezone, last, -1):
        if end <= first:
            return None
        local = _local_match(pattern, min(end - 1, last) + offset, max(start, first) + offset, -1)
        if local is not None:
            return float(local - offset)
    return None


def matches(pattern: Pattern, local: int) -> bool:
    """Whether the local time *local*, in seconds since 1970-01-01 00:00 on the wall clock, matches."""
    day, second = divmod(local, DAY_S)
    if _time_match(pattern, second, 1) != second:
        return False
    on = date_of(day)
    is_in_month = on.month in pattern.months and (pattern.years is None or on.year in pattern.years)
    return is_in_month and on.day in _days_of_month(pattern, on.year, on.month)


def _local_match(pattern: Pattern, local: int, limit: int, direction: int) -> int | None:
    """The match nearest to *local*, itself included, on the way to *limit*, also included; None if there is none."""
    day, second = divmod(local, DAY_S)
    limit_day = limit // DAY_S
    edge = 0 if direction > 0 else DAY_S - 1
    while True:
        matched = _day_match(pattern, day, limit_day, direction)
        if matched is None:
            return None
        time = _time_match(pattern, second if matched == day else edge, direction)
        if time is not None:
            found = matched * DAY_S + time
            return found if (limit - found) * direction >= 0 else None
        day, second = matched + direction, edge


def _day_match(pattern: Pattern, day: int, limit: int, direction: int) -> int | None:
    """The nearest day from *day* to *limit* that matches, in days since 1970-01-01."""
    if (limit - day) * direction < 0:
        return None
    on = date_of(day)
    year, month, bound = on.year, on.month, on.day
    end = date_of(limit)
    edge = 1 if direction > 0 else 31
    while True:
        if pattern.years is not None and year not in pattern.years:
            near = _nearest(pattern.years, year, direction)
            if not near:
                return None
            year, month, bound = near[0], (1 if direction > 0 else 12), edge
        if (
            ((end.year, end.month) < (year, month))
            if direction > 0
            else ((end.year, end.month) > (year, month))
        ):
            return None
        if month in pattern.months:
            near = _nearest(_days_of_month(pattern, year, month), bound, direction)
            if near:
                found = day_number(year, month, near[0])
                return found if (limit - found) * direction >= 0 else None
        month, bound = month + direction, edge
        if not 1 <= month <= 12:
            year, month = year + direction, (1 if direction > 0 else 12)


def _days_of_month(pattern: Pattern, year: int, month: int) -> tuple[int, ...]:
    """The days of that month that match, in order."""
    # Sunday is 0 here and 6 there.
    first, length = (calendar.weekday(year, month, 1) + 1) % 7, calendar.monthrange(year, month)[1]
    days = {day for day in pattern.days if day <= length}
    if pattern.is_last_day:
        days.add(length)
    if not pattern.is_either_day and len(pattern.weekdays) == 7:
        return tuple(sorted(days))
    weekdays = {day for day in range(1, length + 1) if (first + day - 1) % 7 in pattern.weekdays}
    for weekday, which in pattern.nth_weekdays:
        of_weekday = range(1 + (weekday - first) % 7, length + 1, 7)
        if which == LAST or which <= len(of_weekday):
            weekdays.add(of_weekday[-1 if which == LAST else which - 1])
    return tuple(sorted(days | weekdays if pattern.is_either_day else days & weekdays))


def _time_match(pattern: Pattern, second_of_day: int, direction: int) -> int | None:
    """The nearest second of a day that matches, from *second_of_day* to the day's end (or beginning)."""
    hour, rest = divmod(second_of_day, 3600)
    minute, second = divmod(rest, 60)
    edge = 0 if direction > 0 else 59
    for h in _nearest(pattern.hours, hour, direction):
        for m in _nearest(pattern.minutes, minute if h == hour else edge, direction):
            is_same_minute = h == hour and m == minute
            seconds = _nearest(pattern.seconds, second if is_same_minute else edge, direction)
            if seconds:
                return h * 3600 + m * 60 + seconds[0]
    return None


def _nearest(values: tuple[int, ...], bound: int, direction: int) -> tuple[int, ...]:
    """Of *values*, which rise, those from *bound* on in the given direction, the nearest first."""
    if direction > 0:
        return values[bisect_left(values, bound) :]
    return values[: bisect_right(values, bound)][::-1]


def rising(values: Iterable[int]) -> tuple[int, ...]:
    """Each of *values* once, in order."""
    return tuple(sorted(set(values)))


def covered(pattern: Pattern, timezone: str, at: int) -> tuple[int, int] | None:
    """A stretch of instants around *at*, all of which match: the first, and the first behind it. None if *at* does not.

    As long as the pattern makes it, up to a month, so that whoever skips matching instants does not count through them.
    """
    start, end, offset = next(stretches(timezone, at, 1))
    local = at + offset
    if not matches(pattern, local):
        return None
    low, high = _covered_local(pattern, local)
    return max(start, low - offset), min(end, high - offset)


def _covered_local(pattern: Pattern, local: int) -> tuple[int, int]:
    """The same on the wall clock."""
    for values, all_of_them, length in (
        (pattern.seconds, 60, 1),
        (pattern.minutes, 60, 60),
        (pattern.hours, 24, 3600),
    ):
        if len(values) < all_of_them:
            return local - local % length, local - local % length + length
    on = date_of(local // DAY_S)
    if len(_days_of_month(pattern, on.year, on.month)) < calendar.monthrange(on.year, on.month)[1]:
        return local - local % DAY_S, local - local % DAY_S + DAY_S
    year, month = (on.year, on.month + 1) if on.month < 12 else (on.year + 1, 1)
    return day_number(on.year, on.month, 1) * DAY_S, day_number(year, month, 1) * DAY_S
