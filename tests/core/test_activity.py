"""Activities: first settlement wins, retries are no history, and cancellation reaches whoever works on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.core import state as s
from holdfast.exceptions import LeaseLost, NotFound
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy
from tests.core.story import BOOM, LEASE_S, Story, activity, error_of, started, timer

ONCE = RetryPolicy(max_attempts=1)

Report = Callable[[Story, int, int], Any]
DONE: Report = lambda run, seq, fence: run.done(seq, fence)  # noqa: E731
FAILED: Report = lambda run, seq, fence: run.failed(seq, fence)  # noqa: E731
CANCELLED: Report = lambda run, seq, fence: run.cancelled(seq, fence)  # noqa: E731
SETTLING = {"completed": DONE, "failed": FAILED, "cancelled": CANCELLED}


def test_a_scheduled_activity_is_ready_at_once() -> None:
    run = started(activity(1, input=b"[7]"))

    task = run.tasks[1]
    assert (task.worker, task.ready_at, task.attempt) == (None, run.now, 1)
    assert run.activities[1].scheduled_seq == run.run.last_seq, "its input is read from there"


def test_a_result_is_recorded_and_wakes_the_run() -> None:
    run = started(activity(1))

    run.ask(run.done(1, run.claim(1), b'"paid"'))

    assert run.last == e.ActivityCompleted(seq=1, result=b'"paid"', attempt=1, worker="w1")
    assert run.activities[1].status == s.COMPLETED
    assert run.task is not None
    assert run.run.open_activities == 0


def test_many_results_want_one_look() -> None:
    run = started(activity(1), activity(2), activity(3))
    fences = [run.claim(seq) for seq in (1, 2, 3)]

    run.batch(*(run.done(seq, fence) for seq, fence in zip((1, 2, 3), fences, strict=True)))

    assert run.count(e.ActivityCompleted) == 3
    assert list(run.tasks) == [0]


def test_a_result_while_the_code_is_thinking_waits_for_it() -> None:
    run = started(activity(1))
    one = run.claim(1)
    run.signal()
    fence = run.claim()

    run.ask(run.done(1, one))

    assert run.task is not None
    assert run.task.fence == fence, "still the same task, with the same holder"


# -- first settlement wins ----------------------------------------------------------------


@pytest.mark.parametrize("first", SETTLING)
@pytest.mark.parametrize("second", SETTLING)
def test_another_settlement_is_refused_and_the_same_again_is_answered_again(first: str, second: str) -> None:
    run = started(activity(1, ONCE))
    fence = run.claim(1)
    run.ask(SETTLING[first](run, 1, fence))

    if first == second:
        before = run.rows()
        run.ask(SETTLING[second](run, 1, fence))
        assert run.rows() == before
    else:
        error = error_of(LeaseLost, run, SETTLING[second](run, 1, fence))
        assert "is already" in error.message


def test_a_late_result_does_not_count_twice() -> None:
    """A worker stalls past its lease; the retry succeeds; then the first one reports."""
    run = started(activity(1))
    slow = run.claim(1)
    run.wait(LEASE_S)
    run.expire(1)
    run.wait(1)
    run.ask(run.done(1, run.claim(1, worker="w2"), b'"second"'))

    error = error_of(LeaseLost, run, run.done(1, slow, b'"first"'))

    assert "activity 1 of run run-1 is already completed" in error.message


def test_a_report_after_the_attempt_was_given_up_is_refused_even_before_the_next_begins() -> None:
    run = started(activity(1))
    slow = run.claim(1)
    run.wait(LEASE_S)
    run.expire(1)

    error_of(LeaseLost, run, run.done(1, slow))


@pytest.mark.parametrize("late", SETTLING)
def test_a_report_after_the_activity_timed_out_for_good_is_refused(late: str) -> None:
    """The run was told that it timed out; the worker must not believe that its report counted."""
    run = started(activity(1, schedule_to_close_s=5))
    fence = run.claim(1)
    run.wait(5)
    run.expire(1)
    assert run.count(e.ActivityTimedOut) == 1

    error_of(LeaseLost, run, SETTLING[late](run, 1, fence))


@pytest.mark.parametrize("late", SETTLING)
@pytest.mark.parametrize("fence", [0, 1])
def test_nobody_reports_an_activity_that_was_cancelled_before_it_began(late: str, fence: int) -> None:
    run = started(activity(1))
    run.signal()
    run.turn(c.RequestCancelActivity(seq=1))

    error_of(LeaseLost, run, SETTLING[late](run, 1, fence))


def test_a_worker_that_gave_a_task_back_and_finished_it_after_all_counts_while_nobody_took_over() -> None:
    run = started(activity(1))
    fence = run.claim(1)
    run.ask(run.release(1, fence))

    run.ask(run.done(1, fence))

    assert run.count(e.ActivityCompleted) == 1
    run.ask(run.done(1, fence))
    assert run.count(e.ActivityCompleted) == 1


@pytest.mark.parametrize("fence", [0, 2, -1])
def test_a_fence_that_was_never_given_out_does_not_count(fence: int) -> None:
    run = started(activity(1))
    assert run.claim(1) == 1

    error_of(LeaseLost, run, run.done(1, fence))


@pytest.mark.parametrize("seq", [2, 3, 99, -1])
def test_what_is_no_activity_is_not_found(seq: int) -> None:
    run = started(activity(1), timer(2))

    error_of(NotFound, run, run.done(seq, 1))


# -- retries ------------------------------------------------------------------------------


def test_a_failed_attempt_is_tried_again_without_history() -> None:
    run = started(activity(1, RetryPolicy(initial_s=2)))
    before = len(run.history)

    run.ask(run.failed(1, run.claim(1)))

    task = run.tasks[1]
    assert len(run.history) == before
    assert run.task is None, "the run has nothing to react to"
    assert (task.worker, task.attempt, task.ready_at) == (None, 2, run.now + 2)
    assert run.activities[1].last_failure == BOOM


def test_attempts_back_off_and_the_last_one_is_history() -> None:
    run = started(activity(1, RetryPolicy(initial_s=1, coefficient=3, max_s=5, max_attempts=4)))
    waits = []
    while 1 in run.tasks:
        run.now = run.tasks[1].ready_at
        at = run.now
        run.ask(run.failed(1, run.claim(1)))
        waits += [run.tasks[1].ready_at - at] if 1 in run.tasks else []

    assert waits == [1, 3, 5]
    assert run.last == e.ActivityFailed(
        seq=1, failure=BOOM, attempt=4, retry_state="maximum_attempts_reached", worker="w1"
    )
    assert run.task is not None


def test_the_same_failure_report_again_is_not_a_second_attempt() -> None:
    run = started(activity(1))
    report = run.failed(1, run.claim(1))
    run.ask(report)
    before = run.rows()

    run.ask(report)

    assert run.rows() == before


def test_a_failure_report_after_the_next_attempt_began_is_refused() -> None:
    run = started(activity(1))
    report = run.failed(1, run.claim(1))
    run.ask(report)
    run.wait(1)
    run.claim(1)

    error_of(LeaseLost, run, report)


def test_another_failure_of_the_attempt_that_failed_already_is_refused() -> None:
    run = started(activity(1))
    fence = run.claim(1)
    run.ask(run.failed(1, fence))

    error_of(LeaseLost, run, run.failed(1, fence, Failure(message="another")))


@pytest.mark.parametrize(
    ("failure", "policy"),
    [
        (Failure(message="no", non_retryable=True), RetryPolicy()),
        (Failure(message="no", type="Fatal"), RetryPolicy(non_retryable=("Other", "Fatal"))),
    ],
)
def test_what_is_not_retryable_is_not_tried_again(failure: Failure, policy: RetryPolicy) -> None:
    run = started(activity(1, policy))

    run.ask(run.failed(1, run.claim(1), failure))

    assert run.last.retry_state == "non_retryable_failure"
    assert run.last.failure == failure


def test_a_failure_may_say_when_to_try_again() -> None:
    run = started(activity(1))

    run.ask(run.failed(1, run.claim(1), Failure(message="busy", next_retry_delay_s=77)))

    assert run.tasks[1].ready_at == run.now + 77


def test_an_attempt_that_could_not_begin_in_time_is_not_waited_for() -> None:
    run = started(activity(1, RetryPolicy(initial_s=10), schedule_to_close_s=8))
    fence = run.claim(1)
    run.wait(3)

    run.ask(run.failed(1, fence))

    assert run.last == e.ActivityFailed(seq=1, failure=BOOM, attempt=1, retry_state="timeout", worker="w1")


def test_progress_of_one_attempt_reaches_the_next() -> None:
    run = started(activity(1))
    fence = run.claim(1)
    run.heartbeat(1, fence, b"[42]")

    run.ask(run.failed(1, fence))

    assert run.activities[1].heartbeat_details == b"[42]"


def test_completed_says_in_which_attempt() -> None:
    run = started(activity(1))
    run.ask(run.failed(1, run.claim(1)))
    run.wait(1)

    run.ask(run.done(1, run.claim(1)))

    assert run.last.attempt == 2


# -- cancellation -------------------------------------------------------------------------


def test_an_activity_that_nobody_works_on_is_cancelled_at_once() -> None:
    run = started(activity(1))
    run.signal()

    run.turn(c.RequestCancelActivity(seq=1))

    assert run.names[-3:] == ["WorkflowTaskCompleted", "ActivityCancelRequested", "ActivityCancelled"]
    assert run.events[-3].events == 1, "the cancellation is no command's event"  # type: ignore[union-attr]
    assert 1 not in run.tasks
    assert run.task is not None, "the code must be told"


def test_an_activity_may_be_cancelled_in_the_batch_that_schedules_it() -> None:
    run = started(activity(1), c.RequestCancelActivity(seq=1))

    assert run.names[-3:] == ["ActivityScheduled", "ActivityCancelRequested", "ActivityCancelled"]
    assert run.activities[1].status == s.CANCELLED
    assert 1 not in run.tasks


def test_a_running_activity_is_asked_and_its_worker_told_even_if_it_never_heartbeats() -> None:
    run = started(activity(1))
    run.claim(1)
    run.signal()

    run.turn(c.RequestCancelActivity(seq=1))

    assert run.last == e.ActivityCancelRequested(seq=1)
    assert run.told_to_stop == [1]
    assert 1 in run.tasks, "it may still end as it likes"
    assert run.task is None


def test_an_activity_that_backs_off_is_cancelled_at_once() -> None:
    run = started(activity(1))
    run.ask(run.failed(1, run.claim(1)))
    run.signal()

    run.turn(c.RequestCancelActivity(seq=1))

    assert run.last == e.ActivityCancelled(seq=1)


def test_an_activity_that_was_asked_to_stop_hears_it_with_its_heartbeat() -> None:
    run = started(activity(1))
    fence = run.claim(1)
    assert not run.heartbeat(1, fence).is_cancel_requested
    run.signal()
    run.turn(c.RequestCancelActivity(seq=1))

    assert run.heartbeat(1, fence).is_cancel_requested


@pytest.mark.parametrize("end", SETTLING)
def test_an_activity_that_was_asked_to_stop_may_end_in_any_way(end: str) -> None:
    run = started(activity(1))
    fence = run.claim(1)
    run.signal()
    run.turn(c.RequestCancelActivity(seq=1))

    run.ask(SETTLING[end](run, 1, fence))

    assert type(run.last).__name__ == f"Activity{end.title()}"


def test_an_activity_that_was_asked_to_stop_is_not_tried_again() -> None:
    run = started(activity(1))
    fence = run.claim(1)
    run.signal()
    run.turn(c.RequestCancelActivity(seq=1))

    run.ask(run.failed(1, fence))

    assert run.last == e.ActivityFailed(seq=1, failure=BOOM, retry_state="cancel_requested", worker="w1")


def test_cancelling_what_has_settled_leaves_no_event() -> None:
    """Result and request crossed: the history shows the result before the batch's marker."""
    run = started(activity(1))
    run.ask(run.done(1, run.claim(1)))

    run.turn(c.RequestCancelActivity(seq=1))

    assert run.last == e.WorkflowTaskCompleted(seen_seq=run.run.last_seq - 1, events=0, worker="w1")


def test_cancelling_in_the_turn_of_its_own_result_leaves_no_event() -> None:
    run = started(activity(1))

    run.ask(run.done(1, run.claim(1), turn=[c.RequestCancelActivity(seq=1), timer(2)]))

    assert run.names[-3:] == ["ActivityCompleted", "WorkflowTaskCompleted", "TimerStarted"]


def test_a_batch_that_closes_the_run_cancels_without_waking_it() -> None:
    run = started(activity(1))
    run.signal()

    run.turn(c.RequestCancelActivity(seq=1), c.CompleteWorkflow())

    assert run.names[-2:] == ["ActivityCancelRequested", "WorkflowCompleted"]
    assert run.tasks == {}


# -- giving back and heartbeats -----------------------------------------------------------


def test_an_activity_that_is_given_back_is_ready_at_once_and_no_attempt() -> None:
    run = started(activity(1))
    fence = run.claim(1)
    run.wait(1)

    run.ask(run.release(1, fence))

    task = run.tasks[1]
    assert (task.worker, task.attempt, task.ready_at) == (None, 1, run.now)


def test_a_heartbeat_keeps_the_lease() -> None:
    run = started(activity(1))
    fence = run.claim(1)
    run.wait(LEASE_S - 1)

    run.heartbeat(1, fence)

    assert run.tasks[1].lease_until == run.now + LEASE_S
    run.wait(LEASE_S - 1)
    assert not run.expire(1)


def test_a_heartbeat_of_an_old_lease_is_refused_and_leaves_no_details() -> None:
    run = started(activity(1))
    old = run.claim(1)
    run.wait(LEASE_S)
    run.expire(1)
    run.wait(1)
    run.claim(1, worker="w2")

    beat = m.ActivityHeartbeat(run_id="run-1", seq=1, fence=old, worker="w1", details=b"[9]")
    error_of(LeaseLost, run, beat)


def test_a_heartbeat_after_the_lease_was_given_back_is_refused() -> None:
    run = started(activity(1))
    fence = run.claim(1)
    run.ask(run.release(1, fence))

    error_of(LeaseLost, run, m.ActivityHeartbeat(run_id="run-1", seq=1, fence=fence, worker="w1"))
