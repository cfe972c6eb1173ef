"""Rows after facts: time that never goes back, deadlines, and nothing written that did not change."""

from __future__ import annotations

import pytest

from holdfast.core import facts as f
from holdfast.core import state as s
from holdfast.core.evolve import deadline, evolve
from holdfast.core.ids import uuid7
from holdfast.wire import commands as c
from holdfast.wire import events as e
from tests.core.story import NOON, activity, started, timer


def test_time_never_goes_backwards_within_a_history() -> None:
    """The database's clock was set back an hour between two transactions."""
    run = started(timer(1))
    run.now -= 3_600

    run.signal()
    run.terminate()

    times = [at for at, _ in run.history]
    assert times == sorted(times)
    assert run.run.closed_at == NOON


def test_all_events_of_a_transaction_carry_its_time() -> None:
    run = started()
    run.wait(5)
    run.turn(activity(1), timer(2))

    assert [at - NOON for at, _ in run.history] == [0, 5, 5, 5]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"start_by": 5.0}, 5.0),
        ({"close_by": 7.0}, 7.0),
        ({"start_by": 5.0, "close_by": 3.0}, 3.0),
        ({"start_to_close_s": 1.0, "heartbeat_s": 1.0}, None),
        ({"worker": "w", "leased_at": 1.0, "heartbeat_at": 1.0, "lease_until": 11.0}, 11.0),
        (
            {"worker": "w", "leased_at": 1.0, "heartbeat_at": 2.0, "lease_until": 11.0, "heartbeat_s": 3.0},
            5.0,
        ),
        (
            {
                "worker": "w",
                "leased_at": 1.0,
                "heartbeat_at": 2.0,
                "lease_until": 11.0,
                "start_to_close_s": 3.0,
            },
            4.0,
        ),
        ({"worker": "w", "leased_at": 1.0, "lease_until": 11.0, "start_by": 2.0}, 11.0),
        ({"worker": "w", "leased_at": 1.0, "lease_until": 11.0, "close_by": 2.0}, 2.0),
    ],
    ids=str,
)
def test_a_deadline_is_the_next_moment_that_matters(fields: dict[str, float], expected: float | None) -> None:
    task = s.Task(run_id="r", seq=1, namespace="main", task_queue="q", ready_at=0.0, **fields)  # type: ignore[arg-type]

    assert deadline(task) == expected


def test_a_lease_ends_stickiness_and_raises_the_fence() -> None:
    run = started(timer(1))
    run.signal()
    before = run.task
    assert before is not None

    run.claim(worker="w2")

    assert run.task is not None
    assert (run.task.fence, run.task.sticky_worker, run.task.sticky_until) == (before.fence + 1, None, None)


def test_a_freed_task_is_anybodys() -> None:
    run = started(timer(1))
    run.signal()

    run.facts(f.TaskFreed())

    assert run.task is not None
    assert (run.task.sticky_worker, run.task.sticky_until, run.task.worker) == (None, None, None)


def test_a_task_opened_and_closed_in_one_transaction_leaves_no_row() -> None:
    """A worker completes in the transaction in which a signal opened the task it reports: impossible from
    outside, but a batch may terminate a run that it just woke.
    """
    run = started(timer(1))
    state = run.state()
    for fact in (f.Recorded(e.SignalReceived(name="n")), f.TaskOpened(), f.Recorded(e.WorkflowTerminated())):
        evolve(state, fact, run.now)

    assert 0 not in state.tasks
    assert 0 not in state.opened_tasks
    assert state.closed_tasks <= {0}


def test_a_task_reopened_in_the_transaction_that_closed_it_is_written_not_deleted() -> None:
    run = started()
    fence = run.claim()
    run.signal()
    state = run.state()
    for fact in (f.Recorded(e.WorkflowTaskCompleted(seen_seq=1)), f.TaskOpened()):
        evolve(state, fact, run.now)

    assert state.opened_tasks == {0}
    assert state.closed_tasks == set()
    assert state.tasks[0].fence == fence + 1


def test_what_did_not_change_is_not_written() -> None:
    run = started(activity(1), activity(2), timer(3))
    fence = run.claim(1)
    state = run.state()

    for fact in (f.Progressed(1, b"[1]"),):
        evolve(state, fact, run.now)

    assert (state.touched_tasks, state.touched_activities) == ({1}, {1})
    assert not state.is_touched, "the run's own row stays cold"
    assert not (state.opened_tasks | state.closed_tasks | state.touched_timers)
    assert state.tasks[1].fence == fence


def test_the_highest_number_that_a_command_used_is_kept() -> None:
    run = started(activity(3), timer(9), activity(5))

    assert run.run.command_seq == 9


def test_open_work_is_counted() -> None:
    run = started(activity(1), activity(2), timer(3), timer(4))
    assert (run.run.open_activities, run.run.open_timers) == (2, 2)

    run.ask(run.done(1, run.claim(1)))
    run.turn(c.CancelTimer(seq=3))

    assert (run.run.open_activities, run.run.open_timers) == (1, 1)


# -- ids ----------------------------------------------------------------------------------


def test_ids_sort_in_the_order_of_their_times() -> None:
    ids = [uuid7(ms, bytes(10)) for ms in (0, 1, 255, 256, 1_700_000_000_000, 2**48 - 1)]

    assert ids == sorted(ids)


@pytest.mark.parametrize("entropy", [bytes(10), b"\xff" * 10, bytes(range(16))])
def test_an_id_is_a_uuid_of_version_7(entropy: bytes) -> None:
    found = uuid7(1_700_000_000_000, entropy)

    assert [len(part) for part in found.split("-")] == [8, 4, 4, 4, 12]
    assert found[14] == "7"
    assert found[19] in "89ab"
    assert int(found.replace("-", "")[:12], 16) == 1_700_000_000_000


def test_different_randomness_gives_different_ids() -> None:
    assert len({uuid7(5, bytes([n]) * 10) for n in range(256)}) == 256
