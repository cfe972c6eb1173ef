"""A coalesced report: the result counts in any case, the turn only if nothing else happened in between."""

from __future__ import annotations

import pytest

from holdfast.exceptions import LeaseLost
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from tests.core.story import LEASE_S, activity, error_of, started, timer


def test_a_result_and_the_turn_it_leads_to_are_one_step() -> None:
    run = started(activity(1))

    answer = run.ask(run.done(1, run.claim(1), b'"paid"', turn=[activity(2)]))

    assert answer.is_turn_applied
    assert run.names[-3:] == ["ActivityCompleted", "WorkflowTaskCompleted", "ActivityScheduled"]
    assert run.events[-2] == e.WorkflowTaskCompleted(seen_seq=4, events=1, worker="w1")
    assert run.task is None, "the code has seen the result already"


def test_a_turn_may_close_the_run() -> None:
    run = started(activity(1))

    answer = run.ask(run.done(1, run.claim(1), turn=[c.CompleteWorkflow(result=b"1")]))

    assert (answer.is_turn_applied, answer.is_closed) == (True, True)
    assert run.run.status == "COMPLETED"
    assert run.tasks == {}


def test_a_turn_keeps_what_the_code_was_told() -> None:
    run = started(activity(1))
    turn = m.Turn(assumed_seq=4, now=12.5, build_id="b", sdk="py")

    run.ask(m.CompleteActivity(run_id="run-1", worker="w7", seq=1, fence=run.claim(1), turn=turn))

    assert run.last == e.WorkflowTaskCompleted(seen_seq=4, now=12.5, worker="w7", build_id="b", sdk="py")


def test_a_worker_whose_turn_counted_is_asked_first_next_time() -> None:
    run = started(activity(1))

    run.ask(run.done(1, run.claim(1), turn=[timer(2)]))

    assert (run.run.sticky_worker, run.run.sticky_seq) == ("w1", run.run.last_seq)


@pytest.mark.parametrize("between", ["signal", "cancel", "another result", "a timer", "a failed task"])
def test_whatever_happened_in_between_refuses_the_turn_alone(between: str) -> None:
    run = started(activity(1), activity(2), timer(3, 1))
    fence, other = run.claim(1), run.claim(2)
    report = run.done(1, fence, turn=[c.CompleteWorkflow()])
    match between:
        case "signal":
            run.signal()
        case "cancel":
            run.cancel()
        case "another result":
            run.ask(run.done(2, other))
        case "a timer":
            run.wait(1)
            run.fire(3)
        case "a failed task":
            run.signal()
            run.fail_task(run.claim())

    answer = run.ask(report)

    assert answer.is_turn_applied is False
    assert not answer.is_closed
    assert run.last == e.ActivityCompleted(seq=1, result=b"1", worker="w1"), "the result counts"
    assert run.run.is_open
    assert run.task is not None, "and the code is told of both in a task of its own"


def test_a_turn_is_refused_while_a_workflow_task_is_out_even_if_the_head_fits() -> None:
    run = started(activity(1))
    fence = run.claim(1)
    run.signal()
    task = run.claim(worker="w2")
    report = run.done(1, fence, turn=[timer(2)])

    assert run.ask(report).is_turn_applied is False
    run.complete(task, timer(2), worker="w2", seen=run.run.last_seq)


@pytest.mark.parametrize("off_by", [-2, -1, 1, 100])
def test_a_turn_on_a_wrong_assumption_is_refused_alone(off_by: int) -> None:
    run = started(activity(1))
    head = run.run.last_seq + 1

    answer = run.ask(run.done(1, run.claim(1), turn=[timer(2)], assumed=head + off_by))

    assert answer.is_turn_applied is False
    assert run.count(e.ActivityCompleted) == 1
    assert run.count(e.TimerStarted) == 0


@pytest.mark.parametrize(
    "commands",
    [
        [timer(1)],
        [c.CancelTimer(seq=9)],
        [c.CancelWorkflow()],
        [c.RecordMarker(kind="x", name="y", value=b"?")],
    ],
    ids=str,
)
def test_a_turn_with_wrong_commands_is_refused_alone(commands: list[c.AnyCommand]) -> None:
    """The worker meets the refusal again in a task of its own, where it is told."""
    run = started(activity(1))

    answer = run.ask(run.done(1, run.claim(1), turn=commands))

    assert answer.is_turn_applied is False
    assert run.last == e.ActivityCompleted(seq=1, result=b"1", worker="w1")
    assert run.task is not None


def test_two_results_with_a_turn_in_one_transaction_give_one_turn() -> None:
    run = started(activity(1), activity(2))
    one, two = run.claim(1), run.claim(2)
    head = run.run.last_seq + 1

    first, second = run.batch(
        run.done(1, one, turn=[timer(3)], assumed=head), run.done(2, two, turn=[timer(3)], assumed=head)
    )

    assert (first.is_turn_applied, second.is_turn_applied) == (True, False)
    assert run.count(e.ActivityCompleted) == 2
    assert run.count(e.TimerStarted) == 1


def test_a_result_of_an_old_lease_takes_its_turn_with_it() -> None:
    run = started(activity(1))
    old = run.claim(1)
    run.wait(LEASE_S)
    run.expire(1)
    run.wait(1)
    run.claim(1, worker="w2")

    error_of(LeaseLost, run, run.done(1, old, turn=[timer(2)]))


@pytest.mark.parametrize("is_applied", [True, False])
def test_the_same_report_again_gets_the_same_answer(is_applied: bool) -> None:
    run = started(activity(1))
    report = run.done(1, run.claim(1), turn=[timer(2)], assumed=run.run.last_seq + 1 if is_applied else 99)
    run.ask(report)
    before = run.rows()

    again = run.ask(report)

    assert run.rows() == before
    assert again.is_turn_applied is is_applied
    assert (again.marker_seq, again.head_seq) == ((5, 6) if is_applied else (0, 4))


def test_the_report_that_closed_the_run_may_come_again() -> None:
    run = started(activity(1))
    report = run.done(1, run.claim(1), turn=[c.CompleteWorkflow()])
    run.ask(report)

    again = run.ask(report)

    assert (again.is_turn_applied, again.is_closed) == (True, True)
    assert run.count(e.WorkflowCompleted) == 1


def test_a_turn_may_cancel_another_activity_and_is_told_of_it() -> None:
    run = started(activity(1), activity(2))

    run.ask(run.done(1, run.claim(1), turn=[c.RequestCancelActivity(seq=2)]))

    assert run.names[-2:] == ["ActivityCancelRequested", "ActivityCancelled"]
    assert run.task is not None


def test_a_plain_result_says_nothing_about_turns() -> None:
    run = started(activity(1))

    assert run.ask(run.done(1, run.claim(1))).is_turn_applied is None
