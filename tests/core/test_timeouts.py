"""The four timeouts of an activity, and the lease of a worker that went silent."""

from __future__ import annotations

import pytest

from holdfast.wire import events as e
from holdfast.wire.failures import Failure, RetryPolicy
from tests.core.story import LEASE_S, Story, activity, started

ONCE = RetryPolicy(max_attempts=1)
LONG_S = 1_000.0


def due(run: Story, seq: int = 1) -> float:
    """Seconds until something must be decided about the activity."""
    deadline = run.tasks[seq].deadline
    assert deadline is not None
    return deadline - run.now


# -- schedule to start --------------------------------------------------------------------


def test_an_activity_that_nobody_takes_in_time_times_out_for_good() -> None:
    run = started(activity(1, schedule_to_start_s=5))
    assert due(run) == 5
    run.wait(5)

    assert run.expire(1)

    assert run.last == e.ActivityTimedOut(seq=1, timeout="schedule_to_start", retry_state="timeout")
    assert run.task is not None


def test_an_activity_that_was_taken_in_time_cannot_time_out_waiting() -> None:
    run = started(activity(1, schedule_to_start_s=5, start_to_close_s=LONG_S))
    run.wait(4)
    run.claim(1, lease_s=LONG_S)
    run.wait(4)

    assert not run.expire(1)


def test_waiting_is_about_the_first_start_only() -> None:
    run = started(activity(1, RetryPolicy(initial_s=60), schedule_to_start_s=5))
    run.ask(run.failed(1, run.claim(1)))
    run.wait(30)

    assert run.tasks[1].deadline is None
    assert not run.expire(1)


# -- schedule to close --------------------------------------------------------------------


@pytest.mark.parametrize("is_running", [True, False])
def test_the_total_time_ends_waiting_and_running_alike(is_running: bool) -> None:
    run = started(activity(1, schedule_to_close_s=5))
    if is_running:
        run.claim(1)
    assert due(run) == 5
    run.wait(5)

    assert run.expire(1)

    assert run.last == e.ActivityTimedOut(seq=1, timeout="schedule_to_close", retry_state="timeout")


def test_the_total_time_goes_on_over_attempts_and_tells_the_last_failure() -> None:
    run = started(activity(1, RetryPolicy(initial_s=2), schedule_to_close_s=5))
    late = Failure(message="first")
    run.ask(run.failed(1, run.claim(1), late))
    run.wait(2)
    run.claim(1)
    run.wait(3)

    run.expire(1)

    assert run.last == e.ActivityTimedOut(
        seq=1, timeout="schedule_to_close", attempt=2, retry_state="timeout", failure=late
    )


def test_the_total_time_is_final_whatever_the_policy() -> None:
    run = started(activity(1, RetryPolicy(initial_s=0), schedule_to_close_s=5))
    run.claim(1)
    run.wait(5)
    run.expire(1)

    assert 1 not in run.tasks


# -- start to close -----------------------------------------------------------------------


def test_an_attempt_that_takes_too_long_is_tried_again() -> None:
    run = started(activity(1, start_to_close_s=5))
    run.claim(1, lease_s=LONG_S)
    assert due(run) == 5
    run.wait(5)

    assert run.expire(1)

    assert run.tasks[1].attempt == 2
    assert run.count(e.ActivityTimedOut) == 0
    failure = run.activities[1].last_failure
    assert failure is not None
    assert (failure.kind, failure.timeout) == ("timeout", "start_to_close")


def test_the_last_attempt_that_takes_too_long_is_history() -> None:
    run = started(activity(1, ONCE, start_to_close_s=5))
    run.claim(1, lease_s=LONG_S)
    run.wait(5)

    run.expire(1)

    assert run.last == e.ActivityTimedOut(
        seq=1, timeout="start_to_close", retry_state="maximum_attempts_reached"
    )


def test_every_attempt_has_its_own_time() -> None:
    run = started(activity(1, start_to_close_s=5))
    run.claim(1, lease_s=LONG_S)
    run.wait(5)
    run.expire(1)
    run.wait(1)

    run.claim(1, lease_s=LONG_S)

    assert due(run) == 5


def test_progress_does_not_buy_time() -> None:
    run = started(activity(1, start_to_close_s=5))
    fence = run.claim(1)
    run.wait(4)
    run.heartbeat(1, fence)
    run.wait(1)

    assert run.expire(1)


# -- heartbeat ----------------------------------------------------------------------------


def test_an_attempt_without_progress_is_tried_again() -> None:
    run = started(activity(1, heartbeat_s=2, start_to_close_s=LONG_S))
    run.claim(1, lease_s=LONG_S)
    assert due(run) == 2
    run.wait(2)

    assert run.expire(1)

    failure = run.activities[1].last_failure
    assert failure is not None
    assert (failure.kind, failure.timeout) == ("timeout", "heartbeat")
    assert run.tasks[1].attempt == 2


def test_progress_in_time_keeps_the_attempt() -> None:
    run = started(activity(1, heartbeat_s=2, start_to_close_s=LONG_S))
    fence = run.claim(1, lease_s=LONG_S)
    for _ in range(5):
        run.wait(1.9)
        assert not run.expire(1)
        run.heartbeat(1, fence)

    assert run.tasks[1].attempt == 1


def test_missing_progress_counts_while_the_bus_is_away_too() -> None:
    """It is the activity's own limit, not a matter of who can be heard."""
    run = started(activity(1, heartbeat_s=2))
    run.claim(1)
    run.wait(2)

    assert run.expire(1, spare=True)


# -- the lease ----------------------------------------------------------------------------


def test_a_worker_that_went_silent_is_a_failed_attempt() -> None:
    run = started(activity(1, RetryPolicy(initial_s=3)))
    run.claim(1)
    assert due(run) == LEASE_S
    run.wait(LEASE_S)

    assert run.expire(1)

    task = run.tasks[1]
    assert (task.worker, task.attempt, task.ready_at) == (None, 2, run.now + 3)
    failure = run.activities[1].last_failure
    assert failure is not None
    assert "'w1' was not heard of" in failure.message


def test_a_silent_worker_in_the_last_attempt_is_history() -> None:
    run = started(activity(1, ONCE))
    run.claim(1)
    run.wait(LEASE_S)

    run.expire(1)

    assert run.last == e.ActivityTimedOut(seq=1, timeout="heartbeat", retry_state="maximum_attempts_reached")


def test_silence_is_no_reason_while_workers_cannot_be_heard() -> None:
    run = started(activity(1))
    run.claim(1)
    run.wait(LEASE_S + 5)
    before = run.rows()

    assert not run.expire(1, spare=True)
    assert run.rows() == before


@pytest.mark.parametrize(
    ("limits", "after_s", "timeout"),
    [
        ({"schedule_to_close_s": 5.0}, 5, "schedule_to_close"),
        ({"start_to_close_s": 5.0}, 5, "start_to_close"),
        ({"heartbeat_s": 5.0}, 5, "heartbeat"),
    ],
    ids=str,
)
def test_real_limits_hold_while_workers_cannot_be_heard(
    limits: dict[str, float], after_s: float, timeout: str
) -> None:
    run = started(activity(1, ONCE, **limits))
    run.claim(1)
    run.wait(after_s)

    assert run.expire(1, spare=True)
    assert run.last.timeout == timeout


@pytest.mark.parametrize(
    ("limits", "timeout"),
    [
        ({"schedule_to_close_s": 5.0, "start_to_close_s": 5.0, "heartbeat_s": 5.0}, "schedule_to_close"),
        ({"start_to_close_s": 5.0, "heartbeat_s": 5.0}, "start_to_close"),
        ({"start_to_close_s": 9.0, "heartbeat_s": 5.0}, "heartbeat"),
    ],
    ids=str,
)
def test_when_several_limits_have_passed_the_final_one_is_told(
    limits: dict[str, float], timeout: str
) -> None:
    run = started(activity(1, ONCE, **limits))
    run.claim(1)
    run.wait(5)

    run.expire(1)

    assert run.last.timeout == timeout


@pytest.mark.parametrize(
    "limit", ["schedule_to_close_s", "schedule_to_start_s", "start_to_close_s", "heartbeat_s"]
)
def test_no_limit_passes_a_moment_early(limit: str) -> None:
    run = started(activity(1, **{limit: 5.0}))
    if limit in ("start_to_close_s", "heartbeat_s"):
        run.claim(1, lease_s=LONG_S)
    run.wait(4.999)
    before = run.rows()

    assert not run.expire(1)
    assert run.rows() == before


def test_two_clocks_that_see_the_same_timeout_record_it_once() -> None:
    run = started(activity(1, schedule_to_close_s=5))
    run.wait(5)

    run.expire(1)
    assert not run.expire(1)

    assert run.count(e.ActivityTimedOut) == 1
