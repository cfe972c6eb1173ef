"""What follows from a slot: its run, and what to do while others are open."""

from __future__ import annotations

import uuid

import pytest

from holdfast.core.schedules import (
    CANCEL_THEN_START,
    QUEUE,
    SKIP,
    START,
    TERMINATE_THEN_START,
    Decision,
    decide,
    fire_at,
    pause_note,
    remaining_after_start,
    run_id_of,
    workflow_id_of,
)
from holdfast.exceptions import Invalid
from holdfast.wire.schedules import IntervalSpec, ScheduleSpec
from tests.core.schedule_oracle import at

NOW = at("2026-06-01 12:00")
HOURLY = ScheduleSpec(specs=(IntervalSpec(every_s=3600.0),), jitter_s=60.0)
FIRST_RUN_ID = "019e830e-1a00-7578-9bee-e29360eafb8a"
FIRST_FIRE_AT = 1780315232.830742


# --- what follows from a slot -------------------------------------------------------------------------------------


def test_a_run_id_is_a_uuid7_of_the_slots_time() -> None:
    run_id = uuid.UUID(run_id_of("main", "nightly", NOW))

    assert run_id.version == 7
    assert run_id.variant == uuid.RFC_4122
    assert run_id.int >> 80 == int(NOW * 1000)


def test_the_same_slot_has_the_same_run_id_and_no_other_has() -> None:
    asked = [
        ("main", "nightly", NOW),
        ("main", "nightly", NOW + 1),
        ("main", "nightly", NOW + 1e-6),
        ("main", "nightl", NOW),
        ("mainn", "ightly", NOW),
        ("other", "nightly", NOW),
        ("", "mainnightly", NOW),
    ]
    ids = [run_id_of(*one) for one in asked]

    assert ids == [run_id_of(*one) for one in asked]
    assert len(set(ids)) == len(ids)


def test_a_run_id_stays_what_it_was_in_the_first_version() -> None:
    """A new version of the service must not start a second run for a slot that an old one acted on."""
    assert run_id_of("main", "nightly", NOW) == FIRST_RUN_ID
    assert fire_at(HOURLY, "main", "nightly", NOW) == FIRST_FIRE_AT


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        (at("2026-01-01"), "report-2026-01-01T00:00:00Z"),
        (at("2026-12-31 23:59:59"), "report-2026-12-31T23:59:59Z"),
        (at("2026-01-01") + 0.5, "report-2026-01-01T00:00:00.500000Z"),
        (0.0, "report-1970-01-01T00:00:00Z"),
        (at("2286-11-20 17:46:40"), "report-2286-11-20T17:46:40Z"),
    ],
)
def test_a_workflow_id_carries_the_slot(slot: float, expected: str) -> None:
    assert workflow_id_of("report", slot) == expected


# --- overlap ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "when_open"),
    [
        ("skip", Decision(SKIP, "the last run is still open")),
        ("queue", Decision(QUEUE)),
        ("cancel_old", Decision(CANCEL_THEN_START)),
        ("terminate_old", Decision(TERMINATE_THEN_START)),
        ("allow_all", Decision(START)),
    ],
)
def test_the_policy_decides_while_the_last_run_is_open(policy: str, when_open: Decision) -> None:
    assert decide(policy, is_last_open=True) == when_open
    assert decide(policy, is_last_open=False) == Decision(START)


def test_the_queue_is_bounded_and_keeps_its_order() -> None:
    assert decide("queue", is_last_open=True, queued=99) == Decision(QUEUE)
    assert decide("queue", is_last_open=True, queued=100).action == SKIP
    assert "100 slots are queued" in decide("queue", is_last_open=True, queued=100).reason
    assert decide("queue", is_last_open=True, queued=2, queued_max=2).action == SKIP
    # The last run has just ended, but others wait longer.
    assert decide("queue", is_last_open=False, queued=1) == Decision(QUEUE)


@pytest.mark.parametrize("policy", ["skip", "queue", "cancel_old", "terminate_old", "allow_all"])
def test_nothing_starts_while_paused_or_when_no_runs_remain(policy: str) -> None:
    for is_last_open in (True, False):
        assert decide(policy, is_last_open=is_last_open, is_paused=True) == Decision(
            SKIP, "the schedule is paused"
        )
        assert decide(policy, is_last_open=is_last_open, remaining=0) == Decision(SKIP, "no runs remain")


def test_limited_runs_count_down_and_queued_slots_hold_theirs() -> None:
    assert decide("queue", is_last_open=True, queued=1, remaining=2) == Decision(QUEUE)
    assert decide("queue", is_last_open=True, queued=2, remaining=2).action == SKIP
    assert [remaining_after_start(n) for n in (None, 3, 1, 0)] == [None, 2, 0, 0]


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(Invalid, match="overlap policy: found 'buffer', expected one of skip, queue"):
        decide("buffer", is_last_open=False)


def test_only_failures_pause_and_only_if_asked_to() -> None:
    assert pause_note(True, "nightly-1", "FAILED") == "paused because nightly-1 ended as FAILED"
    assert pause_note(True, "nightly-1", "TIMED_OUT") is not None
    for status in ("COMPLETED", "CANCELLED", "TERMINATED", "CONTINUED_AS_NEW", "RUNNING"):
        assert pause_note(True, "nightly-1", status) is None
    assert pause_note(False, "nightly-1", "FAILED") is None
