"""Who gets a task that just became ready: the reporter first, then whoever has the run, then whoever has room."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.core import facts as f
from holdfast.core import state as s
from holdfast.core.decide import decide
from holdfast.core.evolve import evolve
from holdfast.engine.dispatch import CREDIT_S, Assigned, Credit, Credits, assign, give_back
from holdfast.wire import commands as c
from holdfast.wire import events as e
from tests.core.story import NOON, Story, activity, started, timer
from tests.engine.parts import credit

LEASE_S = 10.0


def heard(*credits: Credit) -> Credits:
    known = Credits()
    for one in credits:
        known.hear(one)
    return known


def woken(story: Story) -> s.RunState:
    """The state of the transaction in which a signal wakes the run."""
    state = story.state()
    for fact in (f.Recorded(e.SignalReceived(name="go")), f.TaskOpened()):
        evolve(state, fact, story.now)
    return state


def fresh() -> s.RunState:
    """The state of a run's first transaction."""
    story = started()
    state = story.state()
    state.opened_tasks.add(0)
    state.run.task_queue = state.tasks[0].task_queue = "q"
    return state


def assigned(
    state: s.RunState, credits: Credits, reporter: Credit | None = None, now: float = NOON
) -> list[Assigned]:
    reporters = {} if reporter is None else {state.run.run_id: reporter}
    return assign([state], reporters, credits, now=now, heard_now=0.0, lease_s=LEASE_S)


# -- workflow tasks -------------------------------------------------------------------------


def test_a_fresh_task_is_leased_to_a_worker_with_room() -> None:
    state, known = fresh(), heard(credit("w1", workflows=3))

    (item,) = assigned(state, known)

    assert (item.seq, item.worker, item.is_answer) == (0, "w1", False)
    task = state.tasks[0]
    assert (task.worker, task.lease_until) == ("w1", NOON + LEASE_S)
    left = known.of("main", "w1", 0.0)
    assert left is not None
    assert left.workflow_slots == 2


def test_without_credit_the_task_stays_ready() -> None:
    state = fresh()

    assert assigned(state, Credits()) == []
    assert state.tasks[0].worker is None


@pytest.mark.parametrize(
    "other",
    [
        credit("full", workflows=0),
        credit("elsewhere", task_queue="another"),
        credit("theirs", namespace="other"),
        credit("silent", heard_at=-CREDIT_S - 1),
    ],
    ids=lambda one: one.worker,
)
def test_who_has_no_room_or_is_not_of_the_queue_gets_nothing(other: Credit) -> None:
    assert assigned(fresh(), heard(other)) == []


def test_workers_take_turns() -> None:
    known = heard(credit("w1"), credit("w2"), credit("w3"))

    order = [assigned(fresh(), known)[0].worker for _ in range(6)]

    assert order == ["w1", "w2", "w3"] * 2


def test_credit_is_spent_and_not_overdrawn() -> None:
    known = heard(credit("w1", workflows=2), credit("w2", workflows=1))

    got = [item.worker for _ in range(5) for item in assigned(fresh(), known)]

    assert sorted(got) == ["w1", "w1", "w2"]


def test_what_is_rolled_back_is_given_back() -> None:
    known = heard(credit("w1", workflows=1))
    items = assigned(fresh(), known)
    assert assigned(fresh(), known) == []

    give_back(items, known, 0.0)

    assert len(assigned(fresh(), known)) == 1


def test_giving_back_to_a_worker_that_is_gone_is_nothing() -> None:
    known = heard(credit("w1"))
    items = assigned(fresh(), known)
    known.forget("main", "w1")

    give_back(items, known, 0.0)

    assert known.of("main", "w1", 0.0) is None


def sticky_run() -> s.RunState:
    """A run that w1 has in its cache, woken by a signal."""
    story = started(timer(1), task_queue="q")
    return woken(story)


def test_the_worker_that_has_the_run_goes_before_others() -> None:
    known = heard(credit("w2"), credit("w1"))

    assert assigned(sticky_run(), known)[0].worker == "w1"


def test_a_busy_worker_that_has_the_run_is_waited_for() -> None:
    state, known = sticky_run(), heard(credit("w2"), credit("w1", workflows=0))

    assert assigned(state, known) == []
    assert state.tasks[0].sticky_worker == "w1"


def test_a_worker_that_had_the_run_and_is_gone_is_not_waited_for() -> None:
    state = sticky_run()

    assert assigned(state, heard(credit("w2")))[0].worker == "w2"


def test_when_nobody_is_known_the_task_is_freed_from_a_worker_that_is_gone() -> None:
    """Otherwise whoever claims next would have to wait for a worker that never comes."""
    state = sticky_run()

    assert assigned(state, Credits()) == []
    assert state.tasks[0].sticky_worker is None


# -- in the answer to a report ---------------------------------------------------------------


def after_turn(*commands: c.AnyCommand, **fields: Any) -> s.RunState:
    """The state of the transaction in which the first turn of a run on queue "q" is reported."""
    story = started(task_queue="q")
    fence = story.claim()
    state = story.state()
    for fact in decide(state, story.completion(fence, *commands, **fields), story.now).facts:
        evolve(state, fact, story.now)
    return state


def test_the_activities_of_a_turn_travel_in_its_answer_as_far_as_there_is_room() -> None:
    state, me = after_turn(activity(1), activity(2), activity(3)), credit("w1", activities=2)

    items = assigned(state, heard(me), me)

    assert [(item.seq, item.worker, item.is_answer) for item in items] == [(1, "w1", True), (2, "w1", True)]
    assert state.tasks[3].worker is None


@pytest.mark.parametrize("queue", ["gpu", "Q"])
def test_activities_of_other_queues_do_not_travel(queue: str) -> None:
    state, me = after_turn(activity(1, task_queue=queue)), credit("w1")

    assert assigned(state, heard(me), me) == []


def test_activities_are_never_pushed_to_workers_that_did_not_ask() -> None:
    state = after_turn(activity(1))

    assert assigned(state, heard(credit("w2"))) == []


def test_the_next_turn_of_the_run_travels_in_the_answer() -> None:
    story = started(task_queue="q")
    fence = story.claim()
    story.signal()
    state, me = story.state(), credit("w1")
    for fact in decide(state, story.completion(fence, timer(1), seen=1), story.now).facts:
        evolve(state, fact, story.now)

    (item,) = assigned(state, heard(me), me)

    assert (item.seq, item.worker, item.is_answer) == (0, "w1", True)


def test_a_closed_run_gives_nobody_anything() -> None:
    state, me = after_turn(activity(1), c.CompleteWorkflow()), credit("w1")

    assert assigned(state, heard(me), me) == []


def test_a_task_that_backs_off_is_not_given_early() -> None:
    state = fresh()
    state.tasks[0].ready_at = NOON + 5

    assert assigned(state, heard(credit("w1"))) == []


# -- what is known of workers -------------------------------------------------------------------


def test_the_last_word_counts() -> None:
    known = heard(credit("w1", workflows=5), credit("w1", workflows=0))

    assert assigned(fresh(), known) == []


def test_a_worker_is_forgotten_after_a_while_of_silence() -> None:
    known = heard(credit("w1"))

    assert known.of("main", "w1", CREDIT_S) is not None
    assert known.of("main", "w1", CREDIT_S + 0.1) is None


def test_equal_names_in_two_namespaces_are_two_workers() -> None:
    known = heard(credit("w1", workflows=0), credit("w1", workflows=4, namespace="other"))

    assert assigned(fresh(), known) == []
    other = known.of("other", "w1", 0.0)
    assert other is not None
    assert other.workflow_slots == 4


@pytest.mark.parametrize(("is_workflow", "expected"), [(True, ["a"]), (False, ["b"])])
def test_idle_workers_are_those_with_room_for_the_kind(is_workflow: bool, expected: list[str]) -> None:
    known = heard(
        credit("a", workflows=1, activities=0),
        credit("b", workflows=0, activities=1),
        credit("c", workflows=0, activities=0),
        credit("d", heard_at=-CREDIT_S - 1),
    )

    found = known.idle("main", "q", is_workflow=is_workflow, now=0.0)

    assert [one.worker for one in found] == expected
