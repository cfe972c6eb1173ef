"""Timers: never early, exactly once, and a fire that raced a cancel wins."""

from __future__ import annotations

import pytest

from holdfast.core import state as s
from holdfast.exceptions import Refused
from holdfast.wire import commands as c
from holdfast.wire import events as e
from tests.core.story import error_of, started, timer


def test_a_timer_counts_from_the_moment_its_batch_is_recorded() -> None:
    run = started()
    fence = run.claim()
    run.wait(5)

    run.complete(fence, timer(1, 60))

    assert run.last == e.TimerStarted(seq=1, fire_at=run.now + 60)
    assert run.timers[1].fire_at == run.now + 60


@pytest.mark.parametrize("early_s", [60, 1, 0.000_1])
def test_a_timer_never_fires_early(early_s: float) -> None:
    run = started(timer(1, 60))
    run.wait(60 - early_s)
    before = run.rows()

    assert not run.fire(1)
    assert run.rows() == before


@pytest.mark.parametrize("late_s", [0, 0.5, 1e6])
def test_a_timer_fires_when_its_moment_has_come_however_late(late_s: float) -> None:
    run = started(timer(1, 60))
    run.wait(60 + late_s)

    assert run.fire(1) is True

    assert run.last == e.TimerFired(seq=1)
    assert run.timers[1].state == s.TIMER_FIRED
    assert run.run.open_timers == 0
    assert run.task is not None


def test_two_clocks_that_see_the_same_timer_fire_it_once() -> None:
    run = started(timer(1))
    run.wait(60)

    run.fire(1)
    assert not run.fire(1)

    assert run.count(e.TimerFired) == 1


def test_timers_that_fall_due_together_want_one_look() -> None:
    run = started(timer(1), timer(2))
    run.wait(60)

    run.fire(1)
    run.fire(2)

    assert run.count(e.TimerFired) == 2
    assert list(run.tasks) == [0]


def test_a_cancelled_timer_does_not_fire() -> None:
    run = started(timer(1))
    run.signal()
    run.turn(c.CancelTimer(seq=1))
    assert run.last == e.TimerCancelled(seq=1)
    run.wait(60)

    assert not run.fire(1)
    assert run.count(e.TimerFired) == 0
    assert run.run.open_timers == 0


def test_a_fire_that_raced_a_cancel_wins_and_the_cancel_leaves_no_event() -> None:
    """The code decided to cancel before it could know; it learns of the fire in its next turn."""
    run = started(timer(1))
    run.signal()
    fence = run.claim()
    seen = run.run.last_seq
    run.wait(60)
    run.fire(1)

    run.complete(fence, c.CancelTimer(seq=1), seen=seen)

    assert run.names[-2:] == ["TimerFired", "WorkflowTaskCompleted"]
    assert run.last.events == 0
    assert run.task is not None


def test_a_timer_may_be_cancelled_in_the_batch_that_starts_it() -> None:
    run = started(timer(1), c.CancelTimer(seq=1))

    assert run.names[-2:] == ["TimerStarted", "TimerCancelled"]
    assert run.timers[1].state == s.TIMER_CANCELLED
    assert run.run.open_timers == 0


def test_cancelling_a_timer_again_leaves_no_second_event() -> None:
    run = started(timer(1))
    run.signal()

    run.turn(c.CancelTimer(seq=1), c.CancelTimer(seq=1))

    assert run.count(e.TimerCancelled) == 1
    assert run.run.open_timers == 0


def test_a_timer_that_never_was_cannot_be_cancelled() -> None:
    run = started(timer(1))
    run.signal()
    fence = run.claim()

    error_of(Refused, run, run.completion(fence, c.CancelTimer(seq=2)))


def test_an_unknown_timer_does_not_fire() -> None:
    run = started(timer(1))
    run.wait(60)

    assert not run.fire(2)
