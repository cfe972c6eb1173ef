"""Calendars: lists of ranges for each field of local time, all of which must match. The long form of a cron expression."""

from __future__ import annotations

from functools import lru_cache

from holdfast.core.fields import Pattern, rising
from holdfast.exceptions import Invalid
from holdfast.wire.schedules import CalendarSpec, Range

RANGES_MAX = 100
COMMENT_LENGTH_MAX = 1_000


_BOUNDS = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day_of_month": (1, 31),
    "month": (1, 12),
    "year": (1970, 2099),
    "day_of_week": (0, 7),
}


@lru_cache(maxsize=4096)
def pattern_of(calendar: CalendarSpec) -> Pattern:
    """What *calendar* matches; Invalid for a range that its field cannot have."""
    if len(calendar.comment) > COMMENT_LENGTH_MAX:
        raise Invalid(
            f"calendar: found a comment of {len(calendar.comment)} characters, expected {COMMENT_LENGTH_MAX} at most"
        )
    values = {name: _values(name, getattr(calendar, name)) for name in _BOUNDS}
    return Pattern(
        seconds=values["second"],
        minutes=values["minute"],
        hours=values["hour"],
        days=values["day_of_month"],
        months=values["month"],
        weekdays=rising(weekday % 7 for weekday in values["day_of_week"]),
        years=values["year"] or None,
    )


def _values(field: str, ranges: tuple[Range, ...]) -> tuple[int, ...]:
    """The values of one field."""
    low, high = _BOUNDS[field]
    if len(ranges) > RANGES_MAX or (not ranges and field != "year"):
        raise Invalid(f"calendar: {field}: found {len(ranges)} ranges, expected 1 to {RANGES_MAX}")
    for part in ranges:
        end = part.start if part.end is None else part.end
        if not low <= part.start <= end <= high:
            raise Invalid(
                f"calendar: {field}: found {part.start} to {end}, expected a rising range within {low} to {high}"
            )
        if part.step < 1:
            raise Invalid(f"calendar: {field}: found step {part.step}, expected at least 1")
    return rising(
        value
        for part in ranges
        for value in range(part.start, (part.start if part.end is None else part.end) + 1, part.step)
    )
