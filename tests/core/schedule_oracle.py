"""A second opinion on schedules: walk through every instant of a window and look at the clock on the wall.

Slow, naive, and sharing nothing with `holdfast.core` but the structs that a schedule is written in: each field's text is asked about each value it might allow, and
each instant about each field.
"""

from __future__ import annotations

import calendar
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import pairwise
from zoneinfo import ZoneInfo

from holdfast.wire.schedules import CalendarSpec, CronSpec, IntervalSpec, Range, ScheduleSpec

MONTHS = ["", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
DAY_S, MINUTE_S = 86_400, 60

ZONES = (
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "UTC",
    "America/St_Johns",
    "Africa/Cairo",
)


def at(text: str) -> float:
    """Epoch seconds of a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def iso(instant: float | None) -> str | None:
    """The time in UTC of epoch seconds."""
    return None if instant is None else datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M:%S")


@cache
def zone(name: str) -> ZoneInfo:
    """The zone by the data that the product uses, so that opinions differ about rules and not about data."""
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


@cache
def changes(name: str) -> list[int]:
    """The hours in which the zone's offset changed, 2024 to 2027; arbitrary instants where it never does."""
    first, end = int(at("2024-01-01")), int(at("2028-01-01"))
    offsets = [(u, datetime.fromtimestamp(u, zone(name)).utcoffset()) for u in range(first, end, 3600)]
    found = [u for (_, before), (u, now) in pairwise(offsets) if before != now]
    return found or [int(at(t)) for t in ("2024-02-29", "2025-03-30 01:00", "2026-11-01 06:00", "2027-12-31")]


def changes_of_year(name: str, year: int) -> list[tuple[int, int]]:
    """The instants, to the quarter of an hour, at which another offset comes into force, with that offset in seconds."""
    walls = walk(name, int(at(f"{year}-01-01")), int(at(f"{year + 1}-01-01")), 15 * MINUTE_S)
    return [
        (u, round((now.utcoffset() or timedelta()).total_seconds()))
        for (_, before), (u, now) in pairwise(walls)
        if before.utcoffset() != now.utcoffset()
    ]


@cache
def walk(name: str, start: int, end: int, step: int) -> list[tuple[int, datetime]]:
    """Each instant of [start, end) with the time on the wall."""
    return [(u, datetime.fromtimestamp(u, zone(name))) for u in range(start, end, step)]


def cron_fires(expr: str, name: str, start: int, end: int) -> list[float]:
    """The instants of [start, end) at which the expression fires."""
    texts = expr.split()
    step = MINUTE_S if len(texts) == 5 or texts[0] == "0" else 1
    seconds = texts.pop(0) if len(texts) > 5 else "0"
    years = texts.pop() if len(texts) > 5 else "*"
    minutes, hours, days, months, weekdays = texts
    is_second = {v for v in range(60) if allows(seconds, v, 59)}
    is_minute = {v for v in range(60) if allows(minutes, v, 59)}
    is_hour = {v for v in range(24) if allows(hours, v, 23)}
    is_month = {v for v in range(1, 13) if allows(months, v, 12, MONTHS)}
    is_year = {v for v in range(1970, 2100) if allows(years, v, 2099)}
    return [
        float(u)
        for u, wall in walk(name, start, end, step)
        if wall.second in is_second
        and wall.minute in is_minute
        and wall.hour in is_hour
        and wall.month in is_month
        and wall.year in is_year
        and is_day(days, weekdays, wall.year, wall.month, wall.day)
    ]


@cache
def is_day(days: str, weekdays: str, year: int, month: int, day: int) -> bool:
    """Whether both day fields allow a date, or one of them if neither starts with a star."""
    length = calendar.monthrange(year, month)[1]
    by_day = any(day == length if item == "L" else allows(item, day, 31) for item in days.split(","))
    by_weekday = any(_is_weekday(item, year, month, day, length) for item in weekdays.split(","))
    if days[0] in "*?" or weekdays[0] in "*?":
        return by_day and by_weekday
    return by_day or by_weekday


def _is_weekday(item: str, year: int, month: int, day: int, length: int) -> bool:
    weekday = calendar.weekday(year, month, day) + 1  # Monday 1, Sunday 7
    if item.startswith("L"):
        return _is_weekday(item[1:], year, month, day, length) and day + 7 > length
    if "#" in item:
        plain, which = item.split("#")
        return _is_weekday(plain, year, month, day, length) and (day - 1) // 7 + 1 == int(which)
    return allows(item, weekday, 7, WEEKDAYS) or (weekday == 7 and allows(item, 0, 6, WEEKDAYS))


def allows(text: str, value: int, high: int, names: list[str] | None = None) -> bool:
    """Whether a field's text allows a value."""
    return any(_item_allows(item.lower(), value, high, names or []) for item in text.split(","))


def _item_allows(item: str, value: int, high: int, names: list[str]) -> bool:
    item, _, step = item.partition("/")
    if item in ("*", "?"):
        # Steps count from the least value a field has; of weekdays that is Sunday, of years 1970.
        least = 1 if high in (31, 12) else 1970 if high == 2099 else 0
        return (value - least) % int(step or 1) == 0
    first, _, last = item.partition("-")
    begin = names.index(first) if first in names else int(first)
    if last:
        finish = names.index(last) if last in names else int(last)
    else:
        finish = high if step else begin
    return begin <= value <= finish and (value - begin) % int(step or 1) == 0


def random_expressions(count: int, seed: int) -> Iterator[str]:
    """Expressions of 5, 6 and 7 fields, most of which fire at night, when clocks change."""
    rng = random.Random(seed)
    for _ in range(count):
        minute = _pick(rng, ["*", "*/15", "*/7", "0", "30", "0,30", "15,45", "5-50/9"], 0, 59)
        hour = _pick(rng, ["*", "0-3", "1", "2", "*/2", "0,1,2", "1-4/2", "23,0,1"], 0, 23)
        day = _pick(rng, ["*"] * 6 + ["?", "*/2", "L", "1,L", "25-31", "1-7", "8-14,L"], 1, 31)
        month = rng.choice(["*"] * 5 + ["MAR,NOV", "3-4,10-11", "jan-jun", "*/3,4", "9/1", "2/2"])
        weekday = rng.choice(
            ["*"] * 6
            + [
                "?",
                "0",
                "7",
                "SUN",
                "5-7",
                "mon-fri",
                "0#1",
                "7#2",
                "SUN#4,6#1",
                "L7",
                "L0,L5",
                "*/2",
                "0-6/3",
            ]
        )
        expr = f"{minute} {hour} {day} {month} {weekday}"
        kind = rng.random()
        if kind < 0.3:
            expr = f"{_pick(rng, ['0', '0', '*/20', '*', '30', '7-50/11'], 0, 59)} {expr}"
            if kind < 0.15:
                expr += " " + rng.choice(["*", "2024-2026", "2025,2027", "*/2", "2024/3"])
        yield expr


def _pick(rng: random.Random, usual: list[str], low: int, high: int) -> str:
    """One of the usual texts, or sometimes any."""
    if rng.random() < 0.75:
        return rng.choice(usual)
    first, last = sorted(rng.sample(range(low, high + 1), 2))
    return rng.choice(
        [str(first), f"{first},{last}", f"{first}-{last}", f"{first}-{last}/{rng.randint(1, 9)}"]
    )


def window_of(expr: str, name: str, number: int) -> tuple[int, int]:
    """Where to compare: around one of the zone's changes, two days each way, or 70 minutes if seconds must be walked."""
    of_zone = changes(name)
    middle = of_zone[number % len(of_zone)]
    fields = expr.split()
    reach = 2 * DAY_S if len(fields) == 5 or fields[0] == "0" else 70 * MINUTE_S
    return middle - reach, middle + reach


def spec_slots(spec: ScheduleSpec, start: int, end: int) -> list[float]:
    """The slots of [start, end): every minute is asked whether a part names it, and no exclusion does."""
    found = []
    crons = {
        u
        for part in spec.specs
        if isinstance(part, CronSpec)
        for u in cron_fires(part.expr, spec.timezone, start, end)
    }
    for u, wall in walk(spec.timezone, start, end, MINUTE_S):
        is_named = u in crons or any(
            (u - part.offset_s) % part.every_s == 0
            if isinstance(part, IntervalSpec)
            else isinstance(part, CalendarSpec) and is_on_calendar(part, wall)
            for part in spec.specs
        )
        is_within = (spec.start_at is None or u >= spec.start_at) and (
            spec.end_at is None or u <= spec.end_at
        )
        if is_named and is_within and not any(is_on_calendar(part, wall) for part in spec.exclusions):
            found.append(float(u))
    return found


def is_on_calendar(calendar_spec: CalendarSpec, wall: datetime) -> bool:
    """Whether each field of the time on the wall lies in a range of the calendar's field."""
    weekday = wall.isoweekday()
    return (
        _is_in(calendar_spec.second, wall.second)
        and _is_in(calendar_spec.minute, wall.minute)
        and _is_in(calendar_spec.hour, wall.hour)
        and _is_in(calendar_spec.day_of_month, wall.day)
        and _is_in(calendar_spec.month, wall.month)
        and (not calendar_spec.year or _is_in(calendar_spec.year, wall.year))
        and (
            _is_in(calendar_spec.day_of_week, weekday)
            or (weekday == 7 and _is_in(calendar_spec.day_of_week, 0))
        )
    )


def _is_in(ranges: tuple[Range, ...], value: int) -> bool:
    return any(value in range(r.start, (r.start if r.end is None else r.end) + 1, r.step) for r in ranges)


def random_specs(count: int, seed: int) -> Iterator[ScheduleSpec]:
    """Specs of one to three parts, on whole minutes, most with something excluded."""
    rng = random.Random(seed)
    exprs = [expr for expr in random_expressions(count * 4, seed) if len(expr.split()) == 5]
    for _ in range(count):
        parts: list[CronSpec | IntervalSpec | CalendarSpec] = []
        for kind in rng.choices(["cron", "interval", "calendar"], k=rng.randint(1, 3)):
            if kind == "cron":
                parts.append(CronSpec(expr=rng.choice(exprs)))
            elif kind == "interval":
                every = 60 * rng.choice([1, 7, 30, 60, 90, 1440, 10_000])
                parts.append(IntervalSpec(every_s=every, offset_s=60 * rng.randrange(every // 60)))
            else:
                parts.append(_random_calendar(rng, [(Range(0),)]))
        yield ScheduleSpec(
            specs=tuple(parts),
            exclusions=tuple(
                _random_calendar(rng, [(Range(0),), (Range(0, 59),)]) for _ in range(rng.randint(0, 2))
            ),
            timezone=rng.choice(ZONES),
        )


def _random_calendar(rng: random.Random, seconds: list[tuple[Range, ...]]) -> CalendarSpec:
    every = (Range(0, 59),)
    return CalendarSpec(
        second=rng.choice(seconds),
        minute=rng.choice([(Range(0),), every, (Range(5, 55, 10), Range(30))]),
        hour=rng.choice([(Range(0, 23),), (Range(1, 3),), (Range(0, 23, 2),), (Range(0), Range(2))]),
        day_of_month=rng.choice([(Range(1, 31),), (Range(1, 31),), (Range(25, 31),), (Range(1, 31, 3),)]),
        month=rng.choice([(Range(1, 12),), (Range(1, 12),), (Range(3), Range(10, 11))]),
        year=rng.choice([(), (), (Range(2024, 2026, 2),)]),
        day_of_week=rng.choice([(Range(0, 6),), (Range(0, 7),), (Range(7),), (Range(0),), (Range(1, 5),)]),
    )
