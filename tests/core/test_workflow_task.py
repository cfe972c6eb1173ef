"""Workflow tasks: at most one, fenced, never losing what arrived while the code was thinking."""

from __future__ import annotations

import pytest

from holdfast.core import state as s
from holdfast.exceptions import LeaseLost, Refused
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure
from tests.core.story import BOOM, LEASE_S, Story, activity, error_of, started, timer

CLOSING = [c.CompleteWorkflow(result=b"1"), c.FailWorkflow(failure=BOOM), c.CancelWorkflow()]


# -- what a completed task leaves ---------------------------------------------------------


def test_a_batch_begins_with_its_marker_and_says_how_many_events_follow() -> None:
    run = started()

    answer = run.turn(activity(1), timer(2), c.RecordMarker(kind="patch", name="p"))

    assert run.names == [
        "WorkflowStarted",
        "WorkflowTaskCompleted",
        "ActivityScheduled",
        "TimerStarted",
        "MarkerRecorded",
    ]
    assert run.events[1] == e.WorkflowTaskCompleted(seen_seq=1, events=3, worker="w1")
    assert not answer.is_closed


def test_a_turn_that_asks_for_nothing_leaves_only_its_marker() -> None:
    run = started()

    run.turn()

    assert run.names == ["WorkflowStarted", "WorkflowTaskCompleted"]
    assert run.task is None


def test_the_marker_keeps_what_the_code_was_told() -> None:
    run = started()
    fence = run.claim()

    run.ask(
        m.CompleteWorkflowTask(
            run_id="run-1", worker="w7", fence=fence, seen_seq=1, now=12.5, build_id="b", sdk="py"
        )
    )

    assert run.last == e.WorkflowTaskCompleted(seen_seq=1, now=12.5, worker="w7", build_id="b", sdk="py")


def test_a_run_that_waits_for_something_has_no_task() -> None:
    assert started(activity(1)).task is None


def test_what_arrived_while_the_code_was_thinking_wants_another_look() -> None:
    run = started()
    fence = run.claim()
    run.signal()

    run.complete(fence, timer(1), seen=1)

    assert run.names[1:] == ["SignalReceived", "WorkflowTaskCompleted", "TimerStarted"]
    assert run.task is not None
    assert run.task.worker is None


def test_what_the_code_has_seen_wants_no_second_look() -> None:
    run = started()
    run.signal()

    run.turn(timer(1))

    assert run.task is None


@pytest.mark.parametrize("seen", [0, -1, 2, 2**40])
def test_code_cannot_have_seen_what_is_not_there(seen: int) -> None:
    run = started()
    fence = run.claim()

    error_of(Refused, run, run.completion(fence, seen=seen))


# -- closing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "event", "status"),
    [
        (c.CompleteWorkflow(result=b'"ok"'), e.WorkflowCompleted(result=b'"ok"'), "COMPLETED"),
        (c.FailWorkflow(failure=BOOM), e.WorkflowFailed(failure=BOOM), "FAILED"),
    ],
)
def test_a_closing_command_ends_the_run(command: c.AnyCommand, event: e.AnyEvent, status: str) -> None:
    run = started()

    answer = run.turn(command)

    assert answer.is_closed
    assert run.last == event
    assert (run.run.status, run.run.closed_at, run.tasks) == (status, run.now, {})


def test_a_run_ends_as_cancelled_once_somebody_asked_for_it() -> None:
    run = started()
    run.cancel()

    run.turn(c.CancelWorkflow(details=b"[1]"))

    assert run.last == e.WorkflowCancelled(details=b"[1]")
    assert run.run.status == "CANCELLED"


def test_a_run_that_nobody_asked_to_cancel_cannot_end_as_cancelled() -> None:
    run = started()
    fence = run.claim()

    error = error_of(Refused, run, run.completion(fence, c.CancelWorkflow()))

    assert "nobody asked" in error.message


@pytest.mark.parametrize("command", CLOSING, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("message", ["signal", "cancel"])
def test_a_run_does_not_close_over_a_message_that_the_code_has_not_seen(
    command: c.AnyCommand, message: str
) -> None:
    """The message was acknowledged to its sender: it must reach the code."""
    run = started()
    fence = run.claim()
    getattr(run, message)()

    (refused,) = run.batch(run.completion(fence, command, seen=1))

    assert isinstance(refused, Refused)
    assert "unhandled events" in refused.message
    assert run.run.is_open
    assert run.task is not None
    assert run.task.worker is None, "the task is given back at once"
    assert run.task.attempt == 1, "nothing failed"


def test_after_the_unhandled_message_was_seen_the_run_closes() -> None:
    run = started()
    fence = run.claim()
    run.signal()
    run.batch(run.completion(fence, c.CompleteWorkflow(), seen=1))

    assert run.turn(c.CompleteWorkflow()).is_closed
    assert run.count(e.SignalReceived) == 1


def test_what_is_not_a_message_does_not_keep_a_run_open() -> None:
    """An activity that finished while the code decided to return is of no interest to it any more."""
    run = started(activity(1), timer(2))
    one = run.claim(1)
    run.signal()
    fence = run.claim()
    run.ask(run.done(1, one))

    assert run.complete(fence, c.CompleteWorkflow(), seen=run.run.last_seq - 1).is_closed


def test_closing_takes_all_open_work_with_it() -> None:
    run = started(activity(1), activity(2), timer(3))
    run.claim(1)
    run.signal()

    run.turn(c.CompleteWorkflow())

    assert run.tasks == {}
    assert {row.status for row in run.activities.values()} == {s.CANCELLED}
    assert run.timers[3].state == s.TIMER_CANCELLED
    assert run.told_to_stop == [1], "only the one that somebody works on"


def test_opening_and_closing_in_one_batch_leaves_no_open_work() -> None:
    run = started(activity(1), timer(2), c.CompleteWorkflow())

    assert run.run.status == "COMPLETED"
    assert run.tasks == {}
    assert run.timers[2].state == s.TIMER_CANCELLED


# -- terminal is final --------------------------------------------------------------------


def closed() -> tuple[Story, int, int]:
    """A closed run, with the fences of the workflow task and of the activity that were out."""
    run = started(activity(1), timer(2))
    one = run.claim(1)
    run.signal()
    fence = run.claim()
    run.terminate()
    return run, fence, one


@pytest.mark.parametrize("what", ["complete", "fail", "done", "failed", "cancelled", "heartbeat"])
def test_a_closed_run_takes_no_reports(what: str) -> None:
    run, fence, one = closed()
    report = {
        "complete": run.completion(fence, timer(9)),
        "fail": m.FailWorkflowTask(run_id="run-1", worker="w1", fence=fence, cause="payload", failure=BOOM),
        "done": run.done(1, one),
        "failed": run.failed(1, one),
        "cancelled": run.cancelled(1, one),
        "heartbeat": m.ActivityHeartbeat(run_id="run-1", seq=1, fence=one, worker="w1"),
    }[what]

    error = error_of(LeaseLost, run, report)

    assert "the run is closed (TERMINATED)" in error.message


@pytest.mark.parametrize("message", ["signal", "cancel", "terminate"])
def test_a_closed_run_takes_no_messages(message: str) -> None:
    run, _, _ = closed()
    before = run.rows()

    with pytest.raises(
        Refused, match=rf"cannot {message} workflow 'order-1': run run-1 is closed \(TERMINATED\)"
    ):
        getattr(run, message)(request_id="new")

    assert run.rows() == before


def test_nothing_falls_due_in_a_closed_run() -> None:
    run, _, _ = closed()
    before = run.rows()
    run.now += 1e6

    assert run.fire(2) is None
    assert run.expire(0) is None
    assert run.expire(1) is None
    assert run.rows() == before


@pytest.mark.parametrize("seq", [0, 1])
def test_giving_a_task_of_a_closed_run_back_changes_nothing(seq: int) -> None:
    run, fence, one = closed()
    before = run.rows()

    run.ask(run.release(seq, one if seq else fence))

    assert run.rows() == before


# -- fences -------------------------------------------------------------------------------


def test_only_the_newest_lease_counts() -> None:
    run = started()
    old = run.claim()
    run.wait(LEASE_S + 1)
    run.expire()
    new = run.claim(worker="w2")

    error = error_of(LeaseLost, run, run.completion(old, timer(1)))
    assert error.message == f"workflow task of run run-1: lease {old} ended, {new} is in force"
    run.complete(new, timer(1), worker="w2")
    assert run.count(e.TimerStarted) == 1


def test_a_lease_that_ran_out_still_counts_while_nobody_took_over() -> None:
    run = started()
    fence = run.claim()
    run.wait(LEASE_S + 1)
    run.expire()

    run.complete(fence, timer(1))

    assert run.count(e.TimerStarted) == 1


@pytest.mark.parametrize("fence", [0, 1, 3, -1, 2**62])
def test_a_fence_that_was_never_given_out_does_not_count(fence: int) -> None:
    run = started()
    assert run.claim() == 2

    error_of(LeaseLost, run, run.completion(fence, timer(1)))


def test_a_task_that_nobody_ever_held_takes_no_report() -> None:
    run = started()

    error_of(LeaseLost, run, run.completion(0))


def test_fences_rise_over_the_whole_run() -> None:
    """An old report must never fit a later task of the same run."""
    run = started()
    seen: list[int] = []
    for turn in range(5):
        seen.append(run.claim())
        run.complete(seen[-1], timer(turn + 1))
        run.signal(request_id=f"s{turn}")

    assert seen == sorted(set(seen))


def test_the_report_of_an_earlier_turn_is_refused_in_a_later_one() -> None:
    run = started()
    first = run.claim()
    run.complete(first, timer(1))
    run.signal()
    second = run.claim()
    run.complete(second, timer(2))
    run.signal(request_id="s2")

    error_of(LeaseLost, run, run.completion(first, timer(3)))


def test_a_report_without_an_open_task_is_refused() -> None:
    run = started(timer(1))
    fence = run.run.done_fence + 1

    error = error_of(LeaseLost, run, run.completion(fence))

    assert "no workflow task is open" in error.message


def test_the_same_report_again_gets_the_same_answer_and_changes_nothing() -> None:
    run = started()
    fence = run.claim()
    report = run.completion(fence, activity(1), timer(2))
    run.ask(report)
    run.signal()
    before = run.rows()

    again = run.ask(report)

    assert run.rows() == before
    assert (again.marker_seq, again.head_seq, again.is_closed) == (2, 4, False)


def test_the_report_that_closed_the_run_may_come_again() -> None:
    run = started()
    report = run.completion(run.claim(), c.CompleteWorkflow())
    run.ask(report)

    assert run.ask(report).is_closed
    assert run.count(e.WorkflowCompleted) == 1


# -- failing tasks ------------------------------------------------------------------------


def test_failing_code_leaves_the_run_open_with_one_event() -> None:
    run = started()

    run.fail_task(run.claim(), "nondeterminism", BOOM)

    assert run.last == e.WorkflowTaskFailed(cause="nondeterminism", failure=BOOM, worker="w1")
    assert run.run.status == s.RUNNING
    assert run.run.task_failure_cause == "nondeterminism"


def test_failing_code_is_tried_again_after_1_2_4_up_to_60_seconds() -> None:
    run = started()
    waits = []
    for attempt in range(1, 11):
        assert run.task is not None
        assert run.task.attempt == attempt
        run.fail_task(run.claim())
        waits.append(run.task.ready_at - run.now)
        run.now = run.task.ready_at

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert run.count(e.WorkflowTaskFailed) == 1, "later attempts only count"


def test_the_newest_cause_is_the_one_that_is_shown() -> None:
    run = started()
    run.fail_task(run.claim(), "unknown_workflow_type")
    run.wait(1)
    run.fail_task(run.claim(), "payload", Failure(message="second"))

    assert run.run.task_failure_cause == "payload"
    assert b"second" in (run.run.task_failure or b"")


def test_fixed_code_goes_on_and_forgets_the_failure() -> None:
    run = started()
    run.fail_task(run.claim())
    run.wait(1)

    run.turn(timer(1))

    assert run.run.task_failure is None
    assert run.run.task_failure_cause is None
    assert run.names[1:] == ["WorkflowTaskFailed", "WorkflowTaskCompleted", "TimerStarted"]


def test_the_next_row_of_failures_has_its_own_event_and_begins_at_one_second() -> None:
    run = started()
    run.fail_task(run.claim())
    run.wait(1)
    run.turn(timer(1))
    run.signal()

    run.fail_task(run.claim())

    assert run.count(e.WorkflowTaskFailed) == 2
    assert run.task is not None
    assert run.task.ready_at == run.now + 1


def test_the_same_failure_report_again_is_not_a_second_attempt() -> None:
    run = started()
    fence = run.claim()
    run.fail_task(fence)
    before = run.rows()

    run.fail_task(fence)

    assert run.rows() == before


def test_a_failure_report_of_an_old_lease_is_refused() -> None:
    run = started()
    old = run.claim()
    run.wait(LEASE_S + 1)
    run.expire()
    run.claim(worker="w2")

    with pytest.raises(LeaseLost):
        run.fail_task(old)
