"""Leases of workflow tasks, and which worker is asked first."""

from __future__ import annotations

import pytest

from holdfast.core.evolve import STICKY_S
from holdfast.exceptions import NotFound
from tests.core.story import LEASE_S, error_of, started, timer

# -- leases -------------------------------------------------------------------------------


def test_a_lease_that_ran_out_makes_the_task_ready_as_the_next_attempt() -> None:
    run = started()
    run.claim()
    run.wait(LEASE_S)

    assert run.expire() is True

    assert run.task is not None
    assert (run.task.worker, run.task.attempt, run.task.ready_at) == (None, 2, run.now)
    assert run.names == ["WorkflowStarted"], "no event"


def test_a_lease_does_not_run_out_early() -> None:
    run = started()
    run.claim()
    run.wait(LEASE_S - 0.001)
    before = run.rows()

    assert not run.expire()
    assert run.rows() == before


def test_leases_are_spared_while_workers_cannot_be_heard() -> None:
    """With the bus away, silence says nothing: and nothing handled means that the clock may sleep."""
    run = started()
    run.claim()
    run.wait(LEASE_S + 1)
    before = run.rows()

    assert not run.expire(spare=True)
    assert run.rows() == before


def test_a_task_that_nobody_holds_has_no_lease_to_lose() -> None:
    run = started()
    run.wait(1e6)

    assert not run.expire()


def test_a_task_that_is_given_back_is_ready_at_once_and_no_attempt() -> None:
    run = started()
    fence = run.claim()
    run.wait(3)

    run.ask(run.release(0, fence))

    assert run.task is not None
    assert (run.task.worker, run.task.attempt, run.task.ready_at) == (None, 1, run.now)


def test_giving_back_with_an_old_fence_changes_nothing() -> None:
    run = started()
    old = run.claim()
    run.ask(run.release(0, old))
    run.claim(worker="w2")
    before = run.rows()

    run.ask(run.release(0, old))

    assert run.rows() == before


# -- who is asked first -------------------------------------------------------------------


def test_the_worker_that_completed_the_last_turn_is_asked_first() -> None:
    run = started(timer(1))
    run.signal()

    assert run.task is not None
    assert (run.task.sticky_worker, run.task.sticky_until) == ("w1", run.now + STICKY_S)
    assert run.run.sticky_seq == run.run.last_seq - 1, "and lacks only the signal"


def test_a_worker_that_missed_something_is_sent_everything_since_what_it_saw() -> None:
    run = started()
    fence = run.claim()
    run.signal()

    run.complete(fence, timer(1), seen=1)

    assert run.run.sticky_seq == 1


@pytest.mark.parametrize("how", ["lost", "given back", "failed"])
def test_a_worker_that_did_not_complete_its_task_is_not_asked_first(how: str) -> None:
    run = started(timer(1))
    run.signal()
    fence = run.claim()
    if how == "lost":
        run.wait(LEASE_S + 1)
        run.expire()
    elif how == "given back":
        run.ask(run.release(0, fence))
    else:
        run.fail_task(fence)

    assert run.task is not None
    assert run.task.sticky_worker is None
    assert run.run.sticky_worker is None


def test_an_unknown_activity_is_not_found() -> None:
    run = started()

    error_of(NotFound, run, run.done(7, 1))
