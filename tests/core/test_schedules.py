"""Schedules: which instants are slots, when they are due, and what becomes of them."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core import fields
from holdfast.core.schedules import (
    backfill_slots,
    check,
    decode_spec,
    describe_fires,
    due_slots,
    encode_spec,
    fire_at,
    next_due_at,
    next_slot,
    previous_slot,
    slots,
    spec_of_cron,
)
from holdfast.exceptions import Invalid
from holdfast.wire.schedules import CalendarSpec, CronSpec, IntervalSpec, Range, ScheduleSpec
from tests.core.schedule_oracle import at, changes, iso, random_specs, spec_slots

NOW = at("2026-06-01 12:00")
DAY = 86_400
MINUTELY = spec_of_cron("* * * * *")
ALL_DAY = {"second": (Range(0, 59),), "minute": (Range(0, 59),), "hour": (Range(0, 23),)}
CHRISTMAS = CalendarSpec(**ALL_DAY, day_of_month=(Range(24, 26),), month=(Range(12),), comment="closed")
ALWAYS = CalendarSpec(**ALL_DAY)


def interval(every_s: float, offset_s: float = 0.0, **more: float) -> ScheduleSpec:
    return ScheduleSpec(specs=(IntervalSpec(every_s=every_s, offset_s=offset_s),), **more)


def backwards(spec: ScheduleSpec, start: float, end: float) -> list[float]:
    found = []
    slot = previous_slot(spec, end)
    while slot is not None and slot >= start:
        found.append(slot)
        slot = previous_slot(spec, slot)
    return found[::-1]


# --- slots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(100))
def test_mixed_specs_have_the_slots_that_a_walk_through_every_minute_finds(number: int) -> None:
    """Crons, intervals and calendars together, less their exclusions, around a change of the clock."""
    spec = SPECS[number]
    middle = changes(spec.timezone)[number % len(changes(spec.timezone))]
    start, end = middle - DAY, middle + DAY
    spec = msgspec.structs.replace(
        spec,
        start_at=float(start + 7200) if number % 3 == 0 else None,
        end_at=float(end - 7200) if number % 4 == 0 else None,
    )

    expected = spec_slots(spec, start, end)

    assert slots(spec, start - 1, end - 1, 3000) == expected
    assert backwards(spec, start, end) == expected


SPECS = list(random_specs(100, seed=99))


def test_an_interval_fires_at_multiples_since_1970_plus_its_offset() -> None:
    assert slots(interval(3600, 900), at("2026-01-01"), NOW, 2) == [
        at("2026-01-01 00:15"),
        at("2026-01-01 01:15"),
    ]
    assert next_slot(interval(3600), NOW) == NOW + 3600
    assert previous_slot(interval(3600), NOW) == NOW - 3600


@given(
    every=st.floats(1, 1e7),
    share=st.floats(0, 1, exclude_max=True),
    after=st.floats(at("1980-01-01"), at("2200-01-01")),
)
def test_an_interval_of_any_length_goes_on_evenly(every: float, share: float, after: float) -> None:
    every = round(every, 6)
    spec = interval(every, round(every * share, 6) % every)

    found = slots(spec, after, float("inf"), 5)

    assert after < found[0] <= after + every + 1e-5
    assert all(abs(b - a - every) < 1e-5 for a, b in pairwise(found))
    assert backwards(spec, found[0], found[-1] + 1e-3) == found


def test_an_instant_that_two_parts_name_is_one_slot() -> None:
    spec = ScheduleSpec(
        specs=(CronSpec(expr="0 * * * *"), IntervalSpec(every_s=1800), CalendarSpec(hour=(Range(13),)))
    )

    assert slots(spec, NOW, NOW + 7200, 100) == [NOW + 1800, NOW + 3600, NOW + 5400, NOW + 7200]


def test_a_calendar_fires_when_all_of_its_fields_match() -> None:
    """Unlike cron, where one of the two day fields is enough: Friday the 13th is both."""
    friday_13th = CalendarSpec(day_of_month=(Range(13),), day_of_week=(Range(5),), hour=(Range(9),))

    found = slots(ScheduleSpec(specs=(friday_13th,)), at("2026-01-01"), at("2027-01-01"), 10)

    assert [iso(slot) for slot in found] == [
        "2026-02-13 09:00:00",
        "2026-03-13 09:00:00",
        "2026-11-13 09:00:00",
    ]


def test_a_calendar_skips_a_missing_time_and_fires_twice_at_one_that_comes_twice() -> None:
    spec = ScheduleSpec(
        specs=(CalendarSpec(hour=(Range(2),), minute=(Range(30),)),), timezone="Europe/Berlin"
    )

    assert slots(spec, at("2026-03-28 12:00"), at("2026-03-29 12:00"), 5) == []
    assert slots(spec, at("2026-10-24 12:00"), at("2026-10-25 12:00"), 5) == [
        at("2026-10-25 00:30"),
        at("2026-10-25 01:30"),
    ]


def test_start_and_end_belong_to_the_time_between_them() -> None:
    spec = interval(60, start_at=NOW, end_at=NOW + 120)

    assert slots(spec, 0, float("inf"), 10) == [NOW, NOW + 60, NOW + 120]
    assert backwards(spec, 0, 4e9) == [NOW, NOW + 60, NOW + 120]
    assert next_slot(spec, NOW + 120) is None
    assert previous_slot(spec, NOW) is None


def test_excluded_days_have_no_slots_in_the_schedules_zone() -> None:
    spec = ScheduleSpec(
        specs=(CronSpec(expr="0 */12 * * *"),), exclusions=(CHRISTMAS,), timezone="America/New_York"
    )

    found = slots(spec, at("2026-12-23 12:00"), at("2026-12-28"), 10)

    # New York is five hours behind: from 24 December 05:00Z to 27 December 05:00Z.
    assert [iso(slot) for slot in found] == [
        "2026-12-23 17:00:00",
        "2026-12-27 05:00:00",
        "2026-12-27 17:00:00",
    ]


def test_an_exclusion_ends_exactly_where_it_ends() -> None:
    half_a_minute = CalendarSpec(second=(Range(10, 38),), minute=(Range(0),), hour=(Range(12),))
    for part in (CronSpec(expr="* * * * * *"), IntervalSpec(every_s=1)):
        spec = ScheduleSpec(specs=(part,), exclusions=(half_a_minute,))
        expected = [*(NOW + n for n in range(5, 10)), *(NOW + n for n in range(39, 45))]

        assert slots(spec, NOW + 4, NOW + 44, 100) == expected
        assert backwards(spec, NOW + 5, NOW + 45) == expected


def test_a_schedule_that_excludes_all_of_itself_has_no_slot_and_finds_out_quickly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    original = fields.date_of
    monkeypatch.setattr(fields, "date_of", lambda day: looks.append(day) or original(day))
    for spec in (
        ScheduleSpec(specs=MINUTELY.specs, exclusions=(ALWAYS,)),
        ScheduleSpec(
            specs=MINUTELY.specs, exclusions=(CalendarSpec(minute=(Range(0, 59),), hour=(Range(0, 23),)),)
        ),
        ScheduleSpec(specs=(IntervalSpec(every_s=60),), exclusions=(ALWAYS,)),
        ScheduleSpec(specs=(CronSpec(expr="0 0 * * *"),), exclusions=(CalendarSpec(),)),
    ):
        assert next_slot(spec, NOW) is None
        assert previous_slot(spec, NOW) is None
        with pytest.raises(Invalid, match="found no slot"):
            check(spec, NOW)
    assert len(looks) < 60_000


def test_a_month_left_out_of_a_minutely_schedule_is_stepped_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # Second 0 is all that it excludes, and all that the schedule has.
    december = CalendarSpec(minute=(Range(0, 59),), hour=(Range(0, 23),), month=(Range(12),))
    spec = ScheduleSpec(specs=MINUTELY.specs, exclusions=(december,))
    looks: list[int] = []
    original = fields.date_of
    monkeypatch.setattr(fields, "date_of", lambda day: looks.append(day) or original(day))

    assert iso(next_slot(spec, at("2026-11-30 23:59"))) == "2027-01-01 00:00:00"
    assert len(looks) < 20


# --- when slots are due -------------------------------------------------------------------------------------------


def test_a_slot_is_due_once_its_time_has_come() -> None:
    assert due_slots(MINUTELY, NOW, NOW + 59, 60, 10) == ([], [])
    assert due_slots(MINUTELY, NOW, NOW + 60, 60, 10) == ([NOW + 60], [])
    assert due_slots(MINUTELY, NOW + 60, NOW + 60, 60, 10) == ([], [])


def test_slots_older_than_the_catch_up_window_are_skipped_with_the_reason() -> None:
    due, skipped = due_slots(MINUTELY, NOW, NOW + 300, 60, 100)

    assert due == [NOW + 240, NOW + 300]
    assert [item.slot for item in skipped] == [NOW + 60, NOW + 120, NOW + 180]
    assert skipped[0].reason == "missed by 240 s, the catch-up window is 60 s"


def test_a_long_outage_is_worked_off_in_bounded_steps_and_no_slot_is_lost() -> None:
    considered, now = NOW, NOW + DAY
    due: list[float] = []
    skipped: list[float] = []
    while True:
        some, late = due_slots(MINUTELY, considered, now, 3600, 100)
        assert len(some) + len(late) <= 100
        if not some and not late:
            break
        due += some
        skipped += [item.slot for item in late]
        considered = max([*some, *(item.slot for item in late)])

    assert skipped + due == slots(MINUTELY, NOW, now, 10_000)
    assert len(due) == 61


@given(
    jitter=st.floats(0, 1e5),
    every=st.integers(1, 10**5),
    name=st.text(max_size=20),
    number=st.integers(0, 10**4),
)
def test_jitter_is_the_same_each_time_within_its_bound_and_before_the_next_slot(
    jitter: float, every: int, name: str, number: int
) -> None:
    spec = interval(every, jitter_s=jitter)
    slot = slots(spec, NOW + number, float("inf"), 1)[0]

    fires_at = fire_at(spec, "main", name, slot)

    assert fires_at == fire_at(spec, "main", name, slot)
    assert slot <= fires_at < slot + every
    assert fires_at < slot + jitter or fires_at == slot


def test_jitter_spreads_schedules_and_slots() -> None:
    spec = interval(3600, jitter_s=60.0)
    by_name = {fire_at(spec, "main", f"schedule {n}", NOW) - NOW for n in range(1000)}
    by_slot = {fire_at(spec, "main", "one", slot) - slot for slot in slots(spec, NOW, 4e9, 1000)}

    for spread in (by_name, by_slot):
        assert len(spread) > 990
        assert 28 < sum(spread) / len(spread) < 32
        assert min(spread) < 1
        assert 59 < max(spread) < 60


def test_with_jitter_a_slot_is_due_when_its_own_time_has_come() -> None:
    spec = interval(3600, jitter_s=600.0)
    slot = NOW + 3600
    fires_at = fire_at(spec, "main", "nightly", slot)
    assert fires_at > slot + 1
    asked = {"namespace": "main", "name": "nightly"}

    assert next_due_at(spec, "main", "nightly", NOW) == fires_at
    assert due_slots(spec, NOW, fires_at - 0.001, 60, 10, **asked) == ([], [])
    # It was not late before that, however short the window.
    assert due_slots(spec, NOW, fires_at, 0, 10, **asked) == ([slot], [])
    assert due_slots(spec, NOW, fires_at + 1, 0, 10, **asked)[0] == []


def test_a_schedule_that_is_over_is_never_due() -> None:
    spec = interval(60, end_at=NOW)

    assert next_due_at(spec, "main", "over", NOW) is None
    assert due_slots(spec, NOW, NOW + DAY, 60, 10) == ([], [])


@pytest.mark.parametrize("zone", ["America/New_York", "Africa/Cairo", "UTC"])
def test_the_fires_shown_are_those_that_come_to_pass(zone: str) -> None:
    """Across a change of the clock: look ahead, let time pass by the minute, look back."""
    spec = spec_of_cron("15 */2 * * *", zone)
    start = changes(zone)[1] - DAY
    shown = describe_fires(spec, start, 20)[1]
    came: list[float] = []
    considered = float(start)
    for now in range(start, int(shown[-1]) + 60, 60):
        due, skipped = due_slots(spec, considered, now, 60, 10)
        assert skipped == []
        came += due
        considered = due[-1] if due else considered

    assert came == shown
    assert describe_fires(spec, shown[-1], 20)[0] == shown


def test_what_is_shown_ends_where_the_schedule_does() -> None:
    spec = interval(60, start_at=NOW - 60, end_at=NOW + 60)

    assert describe_fires(spec, NOW, 20) == ([NOW - 60, NOW], [NOW + 60])
    assert describe_fires(spec, NOW, 0) == ([], [])


def test_a_backfill_takes_both_of_its_ends() -> None:
    assert backfill_slots(MINUTELY, NOW, NOW + 120, 100) == [NOW, NOW + 60, NOW + 120]
    assert backfill_slots(MINUTELY, NOW, NOW + 120, 2) == [NOW, NOW + 60]
    assert backfill_slots(interval(1.1), 1.1, 3.3, 10) == [1.1, 2.2, 3.3]
    assert backfill_slots(MINUTELY, NOW + 1, NOW + 59, 100) == []
    assert backfill_slots(MINUTELY, NOW, NOW - 60, 100) == []


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_good_spec_passes_and_survives_storage() -> None:
    spec = ScheduleSpec(
        specs=(
            CronSpec(expr="0 9 * * MON-FRI"),
            IntervalSpec(every_s=3600.0, offset_s=60.0),
            CalendarSpec(hour=(Range(9, 17, 2),)),
        ),
        exclusions=(CHRISTMAS,),
        timezone="Europe/Berlin",
        start_at=NOW,
        end_at=NOW + 365 * DAY,
        jitter_s=30.0,
    )
    check(spec, NOW)

    assert decode_spec(encode_spec(spec)) == spec


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"specs":[{"kind":"moon"}]}', b"\xff", b'{"specs":[{"kind":"cron"}]}']
)
def test_what_is_no_spec_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="schedule spec: "):
        decode_spec(data)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ScheduleSpec(specs=()), "found 0 specs"),
        (ScheduleSpec(specs=MINUTELY.specs * 101), "found 101 specs"),
        (ScheduleSpec(specs=MINUTELY.specs, exclusions=(CHRISTMAS,) * 101), "and 101 exclusions"),
        (spec_of_cron("* * *"), "found 3 fields"),
        (spec_of_cron("0 0 30 2 *"), "no fire within 50 years"),
        (spec_of_cron("0 0 0 1 1 * 2025"), "no fire within 50 years"),
        (spec_of_cron("* * * * *", "Mars/Olympus"), "time zone: found 'Mars/Olympus'"),
        (ScheduleSpec(specs=(IntervalSpec(every_s=60),), timezone="Mars/Olympus"), "time zone"),
        (spec_of_cron("* * * * *", jitter_s=-1.0), "jitter_s: found -1.0, expected 0"),
        (spec_of_cron("* * * * *", jitter_s=float("nan")), "jitter_s: found nan"),
        (spec_of_cron("* * * * *", jitter_s=float("inf")), "jitter_s: found inf"),
        (interval(0.5), "every_s: found 0.5, expected 1 to"),
        (interval(float("nan")), "every_s: found nan"),
        (interval(60, 60), "offset_s: found 60, expected at least 0 and less than every_s, 60"),
        (interval(60, -1), "offset_s: found -1"),
        (interval(60, start_at=float("nan")), "start_at: found nan, expected epoch seconds"),
        (interval(60, end_at=1e300), "end_at: found 1e"),
        (interval(60, end_at=NOW), "found no slot"),
        (interval(60, start_at=NOW + 120, end_at=NOW + 60), "found no slot"),
        (
            ScheduleSpec(specs=(CalendarSpec(hour=(Range(24),)),)),
            "hour: found 24 to 24, expected a rising range within 0 to 23",
        ),
        (
            ScheduleSpec(specs=(CalendarSpec(hour=(Range(9, 8),)),)),
            "hour: found 9 to 8, expected a rising range",
        ),
        (ScheduleSpec(specs=(CalendarSpec(month=(Range(1, 12, 0),)),)), "month: found step 0"),
        (ScheduleSpec(specs=(CalendarSpec(minute=()),)), "minute: found 0 ranges, expected 1 to 100"),
        (ScheduleSpec(specs=(CalendarSpec(comment="x" * 2000),)), "found a comment of 2000 characters"),
        (ScheduleSpec(specs=(CalendarSpec(day_of_month=(Range(30),), month=(Range(2),)),)), "found no slot"),
        (
            ScheduleSpec(specs=MINUTELY.specs, exclusions=(CalendarSpec(second=(Range(-1, 5),)),)),
            "second: found -1 to 5",
        ),
    ],
)
def test_a_spec_out_of_bounds_is_refused_with_what_was_found_and_expected(
    spec: ScheduleSpec, message: str
) -> None:
    with pytest.raises(Invalid) as refused:
        check(spec, NOW)
    assert message in refused.value.message
