"""A batch of commands is taken whole or refused whole, with the number of the command that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.exceptions import Invalid, Refused
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire.failures import RetryPolicy
from tests.core.story import BOOM, activity, error_of, started, timer, with_run

INF, NAN = float("inf"), float("nan")


def refused(*commands: c.AnyCommand, error: type[Refused | Invalid] = Refused) -> str:
    """The message with which a fresh run's first batch is refused; nothing of it was taken."""
    run = started()
    fence = run.claim()
    found = error_of(error, run, run.completion(fence, *commands))
    assert run.task is not None
    assert run.task.fence == fence, "the task stays with its worker, who may answer better"
    return found.message


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ([timer(1), timer(1)], "command 1: seq 1 was used before"),
        ([activity(1), timer(1)], "command 1: seq 1 was used before"),
        ([timer(1), activity(1)], "command 1: seq 1 was used before"),
        ([timer(0)], "command 0: seq is 0"),
        ([timer(-3)], "command 0: seq is -3"),
        ([activity(2**31)], "command 0: seq is 2147483648"),
        ([c.CancelTimer(seq=5)], "command 0: run run-1 has no timer 5 to cancel"),
        ([c.RequestCancelActivity(seq=5)], "command 0: run run-1 has no activity 5 to cancel"),
        ([activity(5), c.CancelTimer(seq=5)], "command 1: run run-1 has no timer 5"),
        ([timer(5), c.RequestCancelActivity(seq=5)], "command 1: run run-1 has no activity 5"),
        ([c.CancelTimer(seq=5), timer(5)], "command 0: run run-1 has no timer 5"),
        ([c.CompleteWorkflow(), timer(1)], "command 0 closes the run, but 1 commands follow it"),
        ([c.FailWorkflow(failure=BOOM), c.CompleteWorkflow()], "command 0 closes the run"),
    ],
    ids=str,
)
def test_a_batch_that_makes_no_sense_names_its_first_wrong_command(
    commands: list[c.AnyCommand], message: str
) -> None:
    assert message in refused(*commands)


@pytest.mark.parametrize("delay_s", [0, -1, NAN, INF, -INF, 3.2e9])
def test_a_timer_needs_a_delay_that_ends(delay_s: float) -> None:
    assert "command 0: timer 1 has delay" in refused(timer(1, delay_s))


@pytest.mark.parametrize(
    "name", ["schedule_to_close_s", "schedule_to_start_s", "start_to_close_s", "heartbeat_s"]
)
@pytest.mark.parametrize("value", [0, -1, NAN, INF, 3.2e9])
def test_an_activity_needs_timeouts_that_end(name: str, value: float) -> None:
    assert f"{name} of activity 1 is {value}" in refused(activity(1, **{name: value}))


@pytest.mark.parametrize(
    "policy",
    [
        {"initial_s": -1},
        {"initial_s": NAN},
        {"initial_s": INF},
        {"coefficient": 0.5},
        {"coefficient": NAN},
        {"coefficient": INF},
        {"max_s": -1},
        {"max_s": NAN},
        {"max_s": INF},
        {"max_attempts": -1},
    ],
    ids=str,
)
def test_an_activity_needs_a_retry_policy_that_can_be_computed(policy: dict[str, Any]) -> None:
    assert "retry policy of activity 1" in refused(activity(1, RetryPolicy(**policy)))


@pytest.mark.parametrize(
    "policy",
    [{"initial_s": 0}, {"coefficient": 1}, {"max_s": 0}, {"max_s": 0.5, "initial_s": 1}, {"max_attempts": 1}],
    ids=str,
)
def test_a_retry_policy_at_the_edge_is_fine(policy: dict[str, Any]) -> None:
    run = started(activity(1, RetryPolicy(**policy)))

    assert run.count(e.ActivityScheduled) == 1


@pytest.mark.parametrize(
    "bad",
    [
        c.ScheduleActivity(seq=2, name="a", input=b"not json"),
        c.ScheduleActivity(seq=2, name=""),
        c.RecordMarker(kind="patch", name="p", value=b"not json"),
        c.CompleteWorkflow(result=b"not json"),
    ],
    ids=repr,
)
def test_one_broken_payload_refuses_the_whole_batch(bad: c.AnyCommand) -> None:
    refused(timer(1), bad, error=Invalid)


def test_numbers_of_earlier_turns_cannot_be_used_again() -> None:
    run = started(activity(1), timer(7))
    run.signal()
    fence = run.claim()

    error_of(Refused, run, run.completion(fence, timer(7)))
    error_of(Refused, run, run.completion(fence, activity(3)))
    run.complete(fence, activity(8))


def test_an_activity_without_close_timeouts_gets_300_seconds() -> None:
    scheduled = started(activity(1)).last

    assert (scheduled.start_to_close_s, scheduled.schedule_to_close_s) == (300.0, None)


def test_an_activity_with_a_total_timeout_needs_no_other() -> None:
    scheduled = started(activity(1, schedule_to_close_s=9.0)).last

    assert (scheduled.start_to_close_s, scheduled.schedule_to_close_s) == (None, 9.0)


def test_an_activity_runs_on_the_runs_queue_unless_told_otherwise() -> None:
    run = started(activity(1), activity(2, task_queue="gpu"))

    assert [run.tasks[1].task_queue, run.tasks[2].task_queue] == ["main", "gpu"]


def test_an_activity_is_named_by_its_number_unless_told_otherwise() -> None:
    run = started(activity(1), activity(2, activity_id="pay"))

    assert [run.activities[1].activity_id, run.activities[2].activity_id] == ["1", "pay"]


# -- limits, inclusive ------------------------------------------------------------------


def test_2000_commands_go_and_one_more_does_not() -> None:
    markers = [c.RecordMarker(kind="side_effect", name="n", seq=n) for n in range(1, 2_002)]

    assert "2,001 commands in one batch: expected at most 2,000" in refused(*markers)
    assert started(*markers[:2_000]).run.last_seq == 2_002


@pytest.mark.parametrize("kind", ["activities", "timers"])
def test_2000_may_be_open_and_one_more_may_not(kind: str) -> None:
    make = activity if kind == "activities" else timer
    run = started(*(make(seq) for seq in range(1, 2_001)))
    run.signal()
    fence = run.claim()

    message = error_of(Refused, run, run.completion(fence, make(2_001))).message

    assert "2,001 open" in message
    assert "expected at most 2,000 of each" in message


def test_what_the_same_batch_cancels_makes_room() -> None:
    run = started(*(timer(seq) for seq in range(1, 2_001)))
    run.signal()

    run.turn(c.CancelTimer(seq=1), timer(2_001))

    assert run.run.open_timers == 2_000


def test_cancelling_the_same_timer_twice_makes_room_once() -> None:
    run = started(*(timer(seq) for seq in range(1, 2_001)))
    run.signal()
    fence = run.claim()
    commands = [c.CancelTimer(seq=1), c.CancelTimer(seq=1), timer(2_001), timer(2_002)]

    error_of(Refused, run, run.completion(fence, *commands))


def test_the_activity_that_a_coalesced_report_settles_makes_room() -> None:
    run = started(*(activity(seq) for seq in range(1, 2_001)))

    answer = run.ask(run.done(1, run.claim(1), turn=[activity(2_001)]))

    assert answer.is_turn_applied
    assert run.run.open_activities == 2_000


def test_a_run_holds_exactly_50000_events() -> None:
    run = with_run(started(), last_seq=49_998)
    fence = run.claim()

    error = error_of(Refused, run, run.completion(fence, timer(1), timer(2), seen=49_998))
    assert "the limit is 50,000" in error.message

    run.complete(fence, timer(1), seen=49_998)
    assert run.run.last_seq == 50_000


def test_a_full_run_may_still_close() -> None:
    run = with_run(started(), last_seq=50_000)

    assert run.turn(c.CompleteWorkflow()).is_closed


def test_a_full_run_takes_no_signals_but_can_be_terminated() -> None:
    run = with_run(started(), last_seq=49_999)

    run.signal(request_id="last")
    assert run.run.last_seq == 50_000
    with pytest.raises(Refused, match="the limit"):
        run.signal(request_id="one more")
    run.terminate()
    assert run.run.status == "TERMINATED"


def test_a_coalesced_turn_counts_its_completion_towards_the_limit() -> None:
    run = with_run(started(activity(1), activity(2)), last_seq=49_998)

    answer = run.ask(run.done(1, run.claim(1), turn=[timer(3)]))

    assert not answer.is_turn_applied, (
        "the completion is event 49,999; marker and timer would be 50,000 and 50,001"
    )
    assert run.last == e.ActivityCompleted(seq=1, result=b"1", worker="w1")
