"""Cron expressions: read into a `Pattern`, and asked for their fires.

Five fields are Unix cron: minute, hour, day of month, month, day of week. Six put seconds first, seven add the year
last. The expansion is our own and not a library's, because the instants of a stored schedule must stay the same
whichever version of a library is installed. No clock is read here: what "now" is, the caller says.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from holdfast.core.fields import ALL_DAYS, ALL_WEEKDAYS, LAST, Pattern, next_match, previous_match, rising
from holdfast.core.zones import DAY_S, check_zone, day_number
from holdfast.exceptions import Invalid

EXPRESSION_LENGTH_MAX = 256
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ITEM = re.compile(
    r"(?P<low>\*|[0-9]{1,4}|[a-z]{3})(?:-(?P<high>[0-9]{1,4}|[a-z]{3}|l))?(?:/(?P<step>[0-9]{1,4}))?"
)
# From when on an expression is tried if the caller names no time: the answer must not depend on the day it is asked.
_REFERENCE_AT = float(day_number(2026, 1, 1) * DAY_S)


class Field(msgspec.Struct, frozen=True):
    """One field: what it is called and takes."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    may_wrap: bool = True
    """Whether a range may go over the end: FRI-MON, 22-2."""


SECOND = Field("second", 0, 59)
MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY = Field("day of month", 1, 31)
MONTH = Field("month", 1, 12, _MONTHS)
WEEKDAY = Field("day of week", 0, 7, _WEEKDAYS)
YEAR = Field("year", 1970, 2099, may_wrap=False)


class Cron(msgspec.Struct, frozen=True):
    """A cron expression in a time zone."""

    expr: str
    timezone: str
    pattern: Pattern


class Days(msgspec.Struct, frozen=True):
    """What a day field says: plain values, and what only a month can tell (see `Pattern`)."""

    values: tuple[int, ...]
    special: tuple[tuple[int, int], ...] = ()
    is_last_day: bool = False


def parse(expr: str, timezone: str, after: float | None = None) -> Cron:
    """The cron that *expr* says, its fields read as local time of *timezone*.

    Invalid for an expression that cannot be read, a zone that IANA does not know, and one that does not fire within
    50 years after *after*. Without *after* it must fire at some time: from 2026 on, or in the years it names.
    """
    cron = read(expr, timezone)
    start = after
    if start is None:
        years = cron.pattern.years
        start = _REFERENCE_AT if years is None else float((day_number(years[0], 1, 1) - 2) * DAY_S)
    if next_fire(cron, start) is None:
        raise Invalid(
            f"cron {_shown(expr)} in {timezone}: no fire within 50 years; expected at least one date and time that exist"
        )
    return cron


@lru_cache(maxsize=4096)
def read(expr: str, timezone: str) -> Cron:
    """As `parse`, but without asking whether it ever fires; for expressions that were parsed when they were stored."""
    check_zone(timezone)
    fields = _fields(expr)
    second, minute, hour, day, month, weekday, year = fields
    days, weekdays = _days(expr, day), _weekdays(expr, weekday)
    pattern = Pattern(
        seconds=_values(expr, SECOND, second),
        minutes=_values(expr, MINUTE, minute),
        hours=_values(expr, HOUR, hour),
        days=days.values,
        is_last_day=days.is_last_day,
        months=_values(expr, MONTH, month),
        weekdays=weekdays.values,
        nth_weekdays=weekdays.special,
        # Unix cron's own words: a field is restricted unless it starts with a star. So "*/2" and FRI is every second
        # day that is a Friday, while "1-31" and FRI is every day.
        is_either_day=not (day.startswith(("*", "?")) or weekday.startswith(("*", "?"))),
        years=None if year == "*" else _values(expr, YEAR, year),
    )
    return Cron(expr, timezone, pattern)


def next_fire(cron: Cron, after: float) -> float | None:
    """The first instant strictly after *after*, in epoch seconds; None if there is none within 50 years."""
    return next_match(cron.pattern, cron.timezone, after)


def previous_fire(cron: Cron, before: float) -> float | None:
    """The last instant strictly before *before*, in epoch seconds; None if there was none within 50 years."""
    return previous_match(cron.pattern, cron.timezone, before)


def fires(cron: Cron, after: float, upto: float, limit: int) -> list[float]:
    """The instants after *after* and not after *upto*, in order; the first *limit* of them."""
    found: list[float] = []
    at = next_fire(cron, after)
    while at is not None and at <= upto and len(found) < limit:
        found.append(at)
        at = next_fire(cron, at)
    return found


def _fields(expr: str) -> list[str]:
    """The seven fields of *expr* in lower case: second, minute, hour, day, month, weekday, year."""
    if len(expr) > EXPRESSION_LENGTH_MAX:
        raise Invalid(
            f"cron {_shown(expr)}: found {len(expr)} characters, expected at most {EXPRESSION_LENGTH_MAX}"
        )
    text = expr.strip(" \t").lower()
    if text.startswith("@") and text not in ALIASES:
        raise Invalid(f"cron {_shown(expr)}: found an unknown name, expected one of {', '.join(ALIASES)}")
    fields = re.split(r"[ \t]+", ALIASES.get(text, text))
    match len(fields):
        case 5:
            return ["0", *fields, "*"]
        case 6:
            return [*fields, "*"]
        case 7:
            return fields
        case count:
            found = 0 if fields == [""] else count
            raise Invalid(
                f"cron {_shown(expr)}: found {found} fields, expected 5 (minute hour day-of-month month day-of-week), "
                "6 (seconds first) or 7 (year last)"
            )


def _days(expr: str, text: str) -> Days:
    """What the day-of-month field says: values and ranges, L for the last day, 25-L for the 25th and all after it."""
    if text == "?":
        return Days(ALL_DAYS)
    items = text.split(",")
    plain = [item for item in items if item != "l"]
    values = [value for item in plain for value in _range(expr, DAY, item)]
    return Days(rising(values), is_last_day="l" in items)


def _weekdays(expr: str, text: str) -> Days:
    """What the day-of-week field says: values and ranges, FRI#2 for the second Friday, L5 for the last one."""
    if text == "?":
        return Days(ALL_WEEKDAYS)
    values: list[int] = []
    special: set[tuple[int, int]] = set()
    for item in text.split(","):
        which = 0
        plain = item
        if "#" in item:
            plain, _, ordinal = item.partition("#")
            if ordinal not in tuple("12345") or plain.startswith("*"):
                raise _fault(expr, WEEKDAY, item, "expected a day and 1 to 5 after '#', like FRI#2")
            which = int(ordinal)
        elif item.startswith("l"):
            plain, which = item[1:], LAST
            if not plain:
                raise _fault(expr, WEEKDAY, item, "expected a day after 'L', like L5 for the last Friday")
        found = _range(expr, WEEKDAY, plain)
        if which:
            special.update((weekday, which) for weekday in found)
        else:
            values.extend(found)
    return Days(rising(values), tuple(sorted(special)))


def _values(expr: str, field: Field, text: str) -> tuple[int, ...]:
    """The values of a field that has nothing special."""
    return rising(value for item in text.split(",") for value in _range(expr, field, item))


def _range(expr: str, field: Field, item: str) -> list[int]:
    """The values of one item of a list: `*`, `5`, `5-9`, each with `/step` behind it. Weekdays come as 0 to 6."""
    match = _ITEM.fullmatch(item)
    if match is None or (match["low"] == "*" and match["high"]):
        raise _fault(expr, field, item, f"expected {_expectation(field)}")
    top = 6 if field is WEEKDAY else field.high
    step = int(match["step"] or 1)
    if step == 0:
        raise _fault(expr, field, item, "expected a step of at least 1")
    if match["low"] == "*":
        low, high = field.low, top
    else:
        low = _number(expr, field, item, match["low"])
        is_open = match["step"] and not match["high"]
        high = _number(expr, field, item, match["high"]) if match["high"] else top if is_open else low
    if low > high and not field.may_wrap:
        raise _fault(expr, field, item, "expected the range to rise")
    values = range(low, high + 1) if low <= high else [*range(low, top + 1), *range(field.low, high + 1)]
    # Sunday has two numbers.
    return [value % 7 if field is WEEKDAY else value for value in values[::step]]


def _number(expr: str, field: Field, item: str, word: str) -> int:
    """The value that *word* names."""
    if word == "l" and field is DAY:
        return field.high
    if word in field.names:
        return field.names.index(word) + (1 if field is MONTH else 0)
    if not word.isdigit() or not field.low <= int(word) <= field.high:
        raise _fault(expr, field, item, f"found {word!r}, expected {_expectation(field)}")
    return int(word)


def _expectation(field: Field) -> str:
    """What may stand in a field."""
    names = f" or {field.names[0].upper()}-{field.names[-1].upper()}" if field.names else ""
    return f"{field.low}-{field.high}{names}, *, ranges like 1-5, steps like */2, lists with commas"


def _fault(expr: str, field: Field, item: str, problem: str) -> Invalid:
    """The error for one item of one field."""
    return Invalid(f"cron {_shown(expr)}: {field.name} {_shown(item)}: {problem}")


def _shown(text: str) -> str:
    """*text* in quotes, cut to what a message can bear."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
