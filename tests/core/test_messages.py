"""Signals, cancel requests and terminations: each exactly once, whatever the caller had to repeat."""

from __future__ import annotations

import pytest

from holdfast.core.requests import Ask
from holdfast.exceptions import Refused
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from tests.core.story import activity, started, timer


def test_a_signal_is_recorded_and_wakes_the_run() -> None:
    run = started(timer(1))

    answer = run.ask(
        Ask(m.Signal(request_id="s1", workflow_id="order-1", name="ship", input=b"[1]", identity="me"), b"h")
    )

    assert answer == m.Done(run_id="run-1")
    assert run.last == e.SignalReceived(name="ship", input=b"[1]", request_id="s1", identity="me")
    assert run.task is not None


def test_signals_keep_their_order() -> None:
    run = started()

    for number in range(20):
        run.signal(name=f"n{number}", request_id=f"r{number}")

    assert [event.name for event in run.events[1:]] == [f"n{n}" for n in range(20)]  # type: ignore[union-attr]


def test_many_signals_want_one_look() -> None:
    run = started(timer(1))

    for number in range(20):
        run.signal(request_id=f"r{number}")

    assert list(run.tasks) == [0]


def test_a_signal_while_the_code_is_thinking_leaves_the_task_with_its_holder() -> None:
    run = started()
    fence = run.claim()

    run.signal()

    assert run.task is not None
    assert (run.task.worker, run.task.fence) == ("w1", fence)


@pytest.mark.parametrize("verb", ["signal", "cancel", "terminate"])
def test_a_repeated_request_is_carried_out_once_and_answered_the_same(verb: str) -> None:
    run = started()
    first = getattr(run, verb)()
    before = run.rows()

    assert getattr(run, verb)() == first
    assert run.rows() == before


@pytest.mark.parametrize("verb", ["signal", "cancel", "terminate"])
def test_a_repeated_request_is_answered_even_when_the_run_has_closed(verb: str) -> None:
    """The first answer was lost, and the run ended before the caller could repeat it."""
    run = started()
    first = getattr(run, verb)()
    if verb != "terminate":
        run.terminate(request_id="other")

    assert getattr(run, verb)() == first


@pytest.mark.parametrize("verb", ["signal", "cancel", "terminate"])
def test_the_same_request_id_with_another_body_is_refused(verb: str) -> None:
    run = started()
    getattr(run, verb)(request_id="x", hash_=b"one")

    with pytest.raises(Refused, match=r"request 'x' was already carried out with another body \(run run-1\)"):
        getattr(run, verb)(request_id="x", hash_=b"two")


def test_a_request_id_repeated_within_one_transaction_counts_once() -> None:
    run = started()
    ask = Ask(m.Signal(request_id="s1", workflow_id="order-1", name="ship"), b"h")

    run.batch(ask, ask, ask)

    assert run.count(e.SignalReceived) == 1


# -- cancel -------------------------------------------------------------------------------


def test_a_cancel_request_is_recorded_and_wakes_the_run() -> None:
    run = started(timer(1))

    run.cancel()

    assert run.last == e.WorkflowCancelRequested(reason="why", request_id="c1")
    assert run.run.is_cancel_requested
    assert run.run.is_open, "it is a request: the code decides"
    assert run.task is not None


def test_a_second_cancel_request_changes_nothing_but_is_kept() -> None:
    run = started()
    run.cancel()

    run.cancel(request_id="c2")

    assert run.count(e.WorkflowCancelRequested) == 1
    assert set(run.requests) == {"c1", "c2"}, "so that repeating either is answered"


def test_two_cancel_requests_in_one_transaction_are_one() -> None:
    run = started()
    asks = [Ask(m.Cancel(request_id=f"c{n}", workflow_id="order-1"), b"h") for n in range(2)]

    run.batch(*asks)

    assert run.count(e.WorkflowCancelRequested) == 1


def test_a_run_may_go_on_after_a_cancel_request() -> None:
    run = started()
    run.cancel()
    run.turn(timer(1))

    run.fire(1)
    run.wait(60)
    run.fire(1)
    run.turn(c.CompleteWorkflow())

    assert run.run.status == "COMPLETED"


# -- terminate ----------------------------------------------------------------------------


def test_a_termination_ends_the_run_at_once() -> None:
    run = started(activity(1), timer(2))
    run.claim(1)
    run.signal()
    run.claim()

    run.terminate()

    assert run.last == e.WorkflowTerminated(reason="why", request_id="t1")
    assert run.run.status == "TERMINATED"
    assert run.run.closed_at == run.now
    assert run.tasks == {}
    assert run.told_to_stop == [1], (
        "the worker of the activity; the one of the turn learns it from its report"
    )


def test_a_termination_leaves_no_task() -> None:
    run = started(timer(1))

    run.terminate()

    assert run.task is None


def test_a_signal_that_lost_the_race_against_a_termination_is_refused() -> None:
    run = started()
    signal = Ask(m.Signal(request_id="s1", workflow_id="order-1", name="late"), b"h")
    end = Ask(m.Terminate(request_id="t1", workflow_id="order-1"), b"h")

    done, refused = run.batch(end, signal)

    assert isinstance(done, m.Done)
    assert isinstance(refused, Refused)
    assert refused.details == {"run_id": "run-1", "status": "TERMINATED"}
    assert run.count(e.SignalReceived) == 0
    assert "s1" not in run.requests, "a refused request leaves no trace"


def test_a_refused_request_refuses_alone() -> None:
    run = started()
    fence = run.claim()
    good = Ask(m.Signal(request_id="s1", workflow_id="order-1", name="good"), b"h")

    refused, done = run.batch(run.completion(fence + 7, timer(1)), good)

    assert isinstance(refused, Refused)
    assert isinstance(done, m.Done)
    assert run.names == ["WorkflowStarted", "SignalReceived"]
