"""Cron: what an expression means, which instants it names across the changes of the clock, and what is refused."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core import fields, zones
from holdfast.core.cron import ALIASES, Cron, fires, next_fire, parse, previous_fire, read
from holdfast.exceptions import Invalid
from tests.core.schedule_oracle import (
    ZONES,
    at,
    changes,
    changes_of_year,
    cron_fires,
    iso,
    random_expressions,
    window_of,
)

EXPRESSIONS = list(random_expressions(500, seed=20_240_310))
FAR = 4e9


def fires_of(expr: str, zone: str, after: str, count: int) -> list[str | None]:
    return [iso(fire) for fire in fires(parse(expr, zone), at(after), FAR, count)]


def backwards(cron: Cron, start: float, end: float) -> list[float]:
    """The fires of [start, end), found from the end."""
    found = []
    fire = previous_fire(cron, end)
    while fire is not None and fire >= start:
        found.append(fire)
        fire = previous_fire(cron, fire)
    return found[::-1]


# --- against the oracle -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
def test_500_expressions_fire_where_a_walk_through_every_instant_says(zone: str) -> None:
    """Around each change of the clock from 2024 to 2027; forwards and backwards."""
    eventful = 0
    for number, expr in enumerate(EXPRESSIONS):
        start, end = window_of(expr, zone, number)
        expected = cron_fires(expr, zone, start, end)
        cron = read(expr, zone)
        assert fires(cron, start - 1, end - 1, len(expected) + 1) == expected, (expr, zone, iso(start))
        if number % 5 == 0:
            assert backwards(cron, start, end) == expected, (expr, zone, iso(start))
        eventful += bool(expected)
    # A comparison of nothing with nothing proves nothing.
    assert eventful > 150


def test_every_change_of_a_zone_is_looked_at() -> None:
    assert [len(changes(zone)) for zone in ("America/New_York", "Europe/Berlin", "Australia/Lord_Howe")] == [
        8,
        8,
        8,
    ]
    # Governments may yet change their minds about the others.
    assert all(4 <= len(changes(zone)) < len(EXPRESSIONS) for zone in ZONES)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Africa/Casablanca", "Australia/Lord_Howe"])
def test_around_the_turn_of_four_years_as_well(zone: str) -> None:
    for number, expr in enumerate(EXPRESSIONS[:200]):
        if len(expr.split()) == 5:
            start = int(at(f"{2023 + number % 4}-12-30"))
            end = start + 4 * 86_400
            expected = cron_fires(expr, zone, start, end)
            assert fires(read(expr, zone), start - 1, end - 1, 6000) == expected, (expr, zone)


def test_croniter_agrees_where_clocks_do_not_change() -> None:
    """In UTC, five fields, and without what it joins differently: days with */2 in one field, or # or L5 in the other."""
    rng = random.Random(7)
    compared = 0
    for expr in EXPRESSIONS:
        if len(expr.split()) != 5:
            continue
        _, _, days, _, weekdays = expr.split()
        if days not in ("*", "?") and (days[0] == "*" or weekdays[:2] == "*/" or {"#", "L"} & {*weekdays}):
            continue
        after = at("2024-01-01") + rng.randrange(10**8)
        theirs = croniter(expr, datetime.fromtimestamp(after, UTC))
        assert fires(read(expr, "UTC"), after, FAR, 3) == [theirs.get_next(float) for _ in range(3)], expr
        compared += 1
    assert compared > 200


# --- the changes of the clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "day", "time", "instants"),
    [
        ("America/New_York", "2026-03-08", "02:30", []),
        ("America/New_York", "2026-11-01", "01:30", ["2026-11-01 05:30:00", "2026-11-01 06:30:00"]),
        ("Europe/Berlin", "2026-03-29", "02:30", []),
        ("Europe/Berlin", "2026-10-25", "02:30", ["2026-10-25 00:30:00", "2026-10-25 01:30:00"]),
        ("Australia/Lord_Howe", "2026-04-05", "01:45", ["2026-04-04 14:45:00", "2026-04-04 15:15:00"]),
        ("Australia/Lord_Howe", "2026-10-04", "02:15", []),
        ("Pacific/Apia", "2011-12-30", "12:00", []),
        ("America/Sao_Paulo", "2018-11-04", "00:30", []),
        ("Africa/Casablanca", "2026-02-15", "02:30", ["2026-02-15 01:30:00", "2026-02-15 02:30:00"]),
        ("Africa/Casablanca", "2026-03-22", "02:30", []),
        ("Asia/Kathmandu", "2026-03-29", "02:30", ["2026-03-28 20:45:00"]),
    ],
)
def test_a_time_that_is_missing_is_skipped_and_one_that_comes_twice_fires_twice(
    zone: str, day: str, time: str, instants: list[str]
) -> None:
    _, month, of_month = (int(part) for part in day.split("-"))
    hour, minute = (int(part) for part in time.split(":"))
    cron = read(f"{minute} {hour} {of_month} {month} *", zone)

    found = fires(cron, at(day) - 2 * 86_400, at(day) + 2 * 86_400, 10)

    assert [iso(fire) for fire in found] == instants


@pytest.mark.parametrize("expr", ["* * 30 12 *", "0 * 30 12 *", "* * * 30 12 * 2011"])
def test_the_day_that_apia_left_out_has_no_fire_at_all(expr: str) -> None:
    assert fires(read(expr, "Pacific/Apia"), at("2011-12-29"), at("2012-01-02"), 10) == []


def test_kathmandu_fires_every_day_of_four_years_at_one_time_of_utc() -> None:
    found = fires(read("30 2 * * *", "Asia/Kathmandu"), at("2024-01-01"), at("2028-01-01"), 2000)

    assert len(found) == 1461
    assert {fire % 86_400 for fire in found} == {20 * 3600 + 45 * 60}


def test_an_hourly_cron_goes_on_every_hour_of_utc_through_both_changes() -> None:
    for change in ("2026-03-08 07:00", "2026-11-01 06:00"):
        found = fires(read("@hourly", "America/New_York"), at(change) - 86_400, at(change) + 86_400, 100)
        assert [b - a for a, b in pairwise(found)] == [3600.0] * 47


def test_a_daily_cron_at_a_missing_time_fires_364_times_a_year() -> None:
    found = fires(read("30 2 * * *", "Europe/Berlin"), at("2025-12-31 23:00"), at("2026-12-31 22:59"), 400)

    # 29 March has none, 25 October has two.
    assert len(found) == 365
    assert len({datetime.fromtimestamp(fire, UTC).date() for fire in found}) == 364


def test_midnight_that_is_missing_is_skipped_too() -> None:
    assert fires_of("@daily", "Africa/Cairo", "2026-04-22 23:00", 2) == [
        "2026-04-24 21:00:00",
        "2026-04-25 21:00:00",
    ]


@pytest.mark.parametrize(
    ("zone", "year"),
    [
        ("America/Recife", 2000),
        ("America/Boa_Vista", 2000),
        ("America/Noronha", 2000),
        ("America/Fortaleza", 2000),
        ("America/Argentina/Tucuman", 2004),
        ("Africa/Cairo", 2010),
        ("Asia/Gaza", 2040),
        ("Asia/Hebron", 2054),
        ("Asia/Gaza", 2072),
        ("Africa/Casablanca", 2019),
        ("Antarctica/Troll", 2026),
    ],
)
def test_no_change_of_a_year_is_missed(zone: str, year: int) -> None:
    """Among them the closest pairs of changes since 1970 that undo each other, not quite a week apart."""
    found = zones.stretches_of_year(zone, year)

    assert [(u, offset) for u, _, offset in found[1:]] == changes_of_year(zone, year)
    assert [end for _, end, _ in found[:-1]] == [start for start, _, _ in found[1:]]


# --- fields -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("*/20 * * * *", ["2026-01-01 00:20:00", "2026-01-01 00:40:00", "2026-01-01 01:00:00"]),
        ("50/5 12 * * *", ["2026-01-01 12:50:00", "2026-01-01 12:55:00", "2026-01-02 12:50:00"]),
        ("5-5 0 * * *", ["2026-01-01 00:05:00", "2026-01-02 00:05:00", "2026-01-03 00:05:00"]),
        ("0 22-1 * * *", ["2026-01-01 01:00:00", "2026-01-01 22:00:00", "2026-01-01 23:00:00"]),
        ("*/20 0 0 * * *", ["2026-01-01 00:00:20", "2026-01-01 00:00:40", "2026-01-02 00:00:00"]),
        ("0 30 9 * * *", ["2026-01-01 09:30:00", "2026-01-02 09:30:00", "2026-01-03 09:30:00"]),
        ("0 0 0 1 1 * 2028,2031", ["2028-01-01 00:00:00", "2031-01-01 00:00:00"]),
        ("59 59 23 31 12 * 2026/2", ["2026-12-31 23:59:59", "2028-12-31 23:59:59", "2030-12-31 23:59:59"]),
        ("0 0 * * 0", ["2026-01-04 00:00:00", "2026-01-11 00:00:00", "2026-01-18 00:00:00"]),
        ("0 0 * * 7", ["2026-01-04 00:00:00", "2026-01-11 00:00:00", "2026-01-18 00:00:00"]),
        ("0 0 * * Fri-Sun", ["2026-01-02 00:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00"]),
        ("0 0 * * 6-1", ["2026-01-03 00:00:00", "2026-01-04 00:00:00", "2026-01-05 00:00:00"]),
        ("0 0 * * 7-1", ["2026-01-04 00:00:00", "2026-01-05 00:00:00", "2026-01-11 00:00:00"]),
        ("0 0 1 nov-jan/2 *", ["2026-11-01 00:00:00", "2027-01-01 00:00:00", "2027-11-01 00:00:00"]),
        ("0 0 ? * TUE", ["2026-01-06 00:00:00", "2026-01-13 00:00:00", "2026-01-20 00:00:00"]),
        # Friday the 13th of Unix cron: every Friday, and every 13th.
        ("0 0 13 2 5", ["2026-02-06 00:00:00", "2026-02-13 00:00:00", "2026-02-20 00:00:00"]),
        ("0 0 15 * MON", ["2026-01-05 00:00:00", "2026-01-12 00:00:00", "2026-01-15 00:00:00"]),
        # A field that starts with a star is not restricted in this sense: odd days that are Fridays.
        ("0 0 */2 * 5", ["2026-01-09 00:00:00", "2026-01-23 00:00:00", "2026-02-13 00:00:00"]),
        ("0 0 L * *", ["2026-01-31 00:00:00", "2026-02-28 00:00:00", "2026-03-31 00:00:00"]),
        ("0 0 1,l * *", ["2026-01-31 00:00:00", "2026-02-01 00:00:00", "2026-02-28 00:00:00"]),
        ("0 0 30-L * *", ["2026-01-30 00:00:00", "2026-01-31 00:00:00", "2026-03-30 00:00:00"]),
        ("0 0 * * L5", ["2026-01-30 00:00:00", "2026-02-27 00:00:00", "2026-03-27 00:00:00"]),
        ("0 0 * * 5#2", ["2026-01-09 00:00:00", "2026-02-13 00:00:00", "2026-03-13 00:00:00"]),
        ("0 0 * * sun#5", ["2026-03-29 00:00:00", "2026-05-31 00:00:00", "2026-08-30 00:00:00"]),
        ("0 0 * * 7#1,WED#1", ["2026-01-04 00:00:00", "2026-01-07 00:00:00", "2026-02-01 00:00:00"]),
        ("0 0 L * 5#1", ["2026-01-02 00:00:00", "2026-01-31 00:00:00", "2026-02-06 00:00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00", "2036-02-29 00:00:00"]),
        ("0 0 31 * *", ["2026-01-31 00:00:00", "2026-03-31 00:00:00", "2026-05-31 00:00:00"]),
        ("59 23 31 12 *", ["2026-12-31 23:59:00", "2027-12-31 23:59:00", "2028-12-31 23:59:00"]),
        ("  0\t0  1 1 *  ", ["2027-01-01 00:00:00", "2028-01-01 00:00:00", "2029-01-01 00:00:00"]),
    ],
)
def test_an_expression_fires_when_it_says(expr: str, expected: list[str]) -> None:
    assert fires_of(expr, "UTC", "2026-01-01", 3) == expected


@pytest.mark.parametrize(
    ("alias", "first"),
    [
        ("@hourly", "2026-01-01 01:00:00"),
        ("@daily", "2026-01-02 00:00:00"),
        ("@midnight", "2026-01-02 00:00:00"),
        ("@weekly", "2026-01-04 00:00:00"),
        ("@monthly", "2026-02-01 00:00:00"),
        ("@yearly", "2027-01-01 00:00:00"),
        ("@Annually", "2027-01-01 00:00:00"),
    ],
)
def test_aliases_work(alias: str, first: str) -> None:
    assert fires_of(alias, "UTC", "2026-01-01", 1) == [first]
    assert alias.lower() in ALIASES


def test_29_february_waits_eight_years_around_2100() -> None:
    cron = read("0 0 29 2 *", "UTC")

    assert iso(next_fire(cron, at("2096-03-01"))) == "2104-02-29 00:00:00"
    assert iso(previous_fire(cron, at("2104-02-29"))) == "2096-02-29 00:00:00"


def test_the_next_fire_is_strictly_later_and_the_previous_strictly_earlier() -> None:
    cron, noon = read("0 12 * * *", "UTC"), at("2026-01-01 12:00")

    assert next_fire(cron, noon) == noon + 86_400
    assert next_fire(cron, noon - 0.25) == noon
    assert previous_fire(cron, noon) == noon - 86_400
    assert previous_fire(cron, noon + 0.25) == noon


def test_fires_end_where_they_are_told_to() -> None:
    cron, start = read("* * * * *", "UTC"), at("2026-01-01")

    assert fires(cron, start, start + 120, 100) == [start + 60, start + 120]
    assert fires(cron, start, start + 120, 1) == [start + 60]
    assert fires(cron, start, start + 120, 0) == []
    assert fires(cron, start, start, 100) == []


def test_a_time_that_is_none_has_no_fire() -> None:
    cron = read("* * * * *", "Europe/Berlin")

    for time in (float("nan"), float("inf"), float("-inf"), 1e15, -1e15):
        assert next_fire(cron, time) is None
        assert previous_fire(cron, time) is None


@settings(max_examples=300, deadline=None)
@given(
    expr=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from(ZONES),
    after=st.floats(at("1990-01-01"), at("2090-01-01")),
)
def test_there_and_back_is_where_one_was(expr: str, zone: str, after: float) -> None:
    cron = read(expr, zone)
    first = next_fire(cron, after)
    if first is None:
        return
    assert first > after
    assert previous_fire(cron, first + 0.5) == first
    earlier = previous_fire(cron, first)
    assert earlier is None or (earlier <= after and next_fire(cron, earlier) == first)
    second = next_fire(cron, first)
    assert second is None or (second > first and previous_fire(cron, second) == first)


# --- effort -----------------------------------------------------------------------------------------------------


def test_a_rare_fire_is_found_by_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new year's second 50 years from now: not a look at each day, let alone each minute."""
    looks: list[int] = []
    original = fields.date_of
    monkeypatch.setattr(fields, "date_of", lambda day: looks.append(day) or original(day))

    assert iso(next_fire(read("59 59 23 31 12 * 2075", "America/New_York"), at("2026-01-01"))) is not None
    assert len(looks) < 500


def test_the_changes_of_a_year_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cron = read("30 2 * * *", "Europe/Berlin")
    fires(cron, at("2026-01-01"), at("2027-01-01"), 400)
    looks: list[int] = []
    original = zones.offset_at
    monkeypatch.setattr(zones, "offset_at", lambda name, time: looks.append(time) or original(name, time))

    assert len(fires(cron, at("2026-01-01"), at("2026-12-31"), 400)) > 360
    assert looks == []


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("", r"cron '': found 0 fields, expected 5 .* 6 .* or 7"),
        ("* * * *", "found 4 fields, expected 5"),
        ("* * * * * * * *", "found 8 fields, expected 5"),
        ("61 * * * *", r"cron '61 \* \* \* \*': minute '61': found '61', expected 0-59"),
        ("* 24 * * *", "hour '24': found '24', expected 0-23"),
        ("* * 0 * *", "day of month '0': found '0', expected 1-31"),
        ("* * 32 * *", "day of month '32'"),
        ("* * * 13 *", "month '13': found '13', expected 1-12 or JAN-DEC"),
        ("* * * 0 *", "month '0'"),
        ("* * * foo *", "month 'foo': found 'foo'"),
        ("* * * * 8", "day of week '8': found '8', expected 0-7 or SUN-SAT"),
        ("60 * * * * *", "second '60': found '60', expected 0-59"),
        ("0 0 0 1 1 * 1969", "year '1969': found '1969', expected 1970-2099"),
        ("0 0 0 1 1 * 2100", "year '2100'"),
        ("0 0 0 1 1 * 2031-2030", "year '2031-2030': expected the range to rise"),
        ("*/0 * * * *", r"minute '\*/0': expected a step of at least 1"),
        ("1/2/3 * * * *", "minute '1/2/3': expected 0-59"),
        ("1,,2 * * * *", "minute '': expected 0-59"),
        ("-1 * * * *", "minute '-1': expected 0-59"),
        ("1.5 * * * *", "minute '1.5': expected 0-59"),
        ("*-5 * * * *", r"minute '\*-5': expected 0-59"),
        ("? * * * *", r"minute '\?': expected 0-59"),
        ("* * * * 5#6", "day of week '5#6': expected a day and 1 to 5 after '#'"),
        ("* * * * 5#0", "day of week '5#0'"),
        ("* * * * 5#", "day of week '5#'"),
        ("* * * * #2", "day of week '': expected 0-7"),
        ("* * * * *#2", r"day of week '\*#2': expected a day"),
        ("* * * * L", "day of week 'l': expected a day after 'L'"),
        ("* * L-3 * *", "day of month 'l-3'"),
        ("* * 15W * *", "day of month '15w'"),
        ("* * * L *", "month 'l'"),
        ("H * * * *", "minute 'h'"),
        ("R * * * *", "minute 'r'"),
        ("* * * * ٣", "day of week '٣'"),
        ("*\u00a0* * * *", "found 4 fields"),
        ("@reboot", "found an unknown name, expected one of @yearly"),
        ("@every 5m", "found an unknown name"),
        ("x" * 10_000, "found 10000 characters, expected at most 256"),
        ("0 0 30 2 *", "cron '0 0 30 2 \\*' in UTC: no fire within 50 years"),
        ("0 0 31 4,6,9,11 *", "no fire within 50 years"),
        ("0 0 0 29 2 * 2027", "no fire within 50 years"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_and_what_may_stand_there(expr: str, message: str) -> None:
    with pytest.raises(Invalid, match=message) as refused:
        parse(expr, "UTC")
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "Mars/Olympus",
        "europe/berlin",
        "../../etc/passwd",
        "right/UTC",
        "localtime",
        "Factory",
        "A\0B",
        "CEST",
    ],
)
def test_a_zone_that_iana_does_not_know_is_refused(zone: str) -> None:
    with pytest.raises(Invalid, match=r"time zone: found .*, expected an IANA name"):
        parse("* * * * *", zone)


def test_a_zone_spelt_nearly_right_is_suggested() -> None:
    with pytest.raises(Invalid, match="did you mean 'Europe/Berlin'"):
        parse("* * * * *", "europe/berlin")


def test_a_cron_that_always_falls_into_the_gap_is_refused() -> None:
    """The second Sunday of March at half past two: New York has not had that time since 2007."""
    assert parse("30 2 * 3 0#2", "UTC")
    with pytest.raises(Invalid, match="no fire within 50 years"):
        parse("30 2 * 3 0#2", "America/New_York")


def test_a_cron_whose_years_are_over_is_refused_by_whoever_knows_the_time() -> None:
    over = "0 0 0 1 1 * 2025"

    assert parse(over, "UTC")
    assert parse(over, "UTC", at("2024-06-01"))
    with pytest.raises(Invalid, match="no fire within 50 years"):
        parse(over, "UTC", at("2025-01-01"))


def test_a_cron_first_due_in_more_than_50_years_is_refused() -> None:
    assert parse("0 0 0 1 1 * 2075", "UTC", at("2026-01-01"))
    with pytest.raises(Invalid, match="no fire within 50 years"):
        parse("0 0 0 1 1 * 2077", "UTC", at("2026-01-01"))
