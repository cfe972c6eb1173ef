"""What the engine knows without asking saves reading, and decides nothing when it is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.engine import Engine
from holdfast.engine.recent import ROWS_MAX, WINDOW_S, DatabaseTime
from holdfast.exceptions import AlreadyExists, LeaseLost, OutcomeUnknown, Refused
from holdfast.metrics import Metrics
from holdfast.store.session import Pool
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy
from tests.engine.parts import Parts, completion, schedule
from tests.store.rows import Sql

WAITING = (
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'test' AND wait_event_type = 'Lock'"
    " AND datname = current_database()"
)


@pytest.fixture
async def second(parts: Parts, pool: Pool) -> AsyncIterator[Parts]:
    """Another engine on the same database."""
    engine = Engine(pool, parts.engine.bus, Metrics(), name="engine-2")
    writer = asyncio.create_task(engine.changes.run())
    yield Parts(engine, parts.namespace, parts.look)
    await engine.changes.drain()
    await engine.spawner.finish(2.0)
    writer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writer


@asynccontextmanager
async def counted(parts: Parts) -> AsyncIterator[list[int]]:
    """How many statements and commits the block took, filled in at its end."""
    counts, spent = parts.engine.pool.counts, [0, 0]
    before = counts.statements, counts.commits
    yield spent
    spent[:] = [counts.statements - before[0], counts.commits - before[1]]


async def warm(parts: Parts) -> None:
    """The engine has heard of the database's time."""
    await parts.start(f"warm-up of {parts.engine.name}")
    await parts.claim(workflows=1)


async def started(parts: Parts, workflow_id: str = "order-1") -> m.WorkflowTask:
    """The claimed first task of a new run."""
    await parts.start(workflow_id)
    (task,) = (await parts.claim(workflows=1)).workflow_tasks
    return task


async def complete(parts: Parts, task: m.WorkflowTask, *commands: c.AnyCommand, **fields: Any) -> m.Reported:
    reported: m.Reported = await parts.ask("report", completion(task, *commands, **fields))
    return reported


# -- what it saves --------------------------------------------------------------------------


async def test_a_run_that_this_engine_started_and_leased_is_never_read(parts: Parts) -> None:
    """A start, a turn that schedules, the activity's completion with the closing turn."""
    await warm(parts)

    async with counted(parts) as start:
        await parts.start()
    (task,) = (await parts.claim(workflows=1)).workflow_tasks
    async with counted(parts) as turn:
        await complete(parts, task, schedule())
    (work,) = (await parts.claim(activities=1)).activity_tasks
    last = m.Turn(assumed_seq=4, commands=[c.CompleteWorkflow()])
    done = m.CompleteActivity(run_id=task.run_id, worker="w1", seq=1, fence=work.fence, turn=last)
    async with counted(parts) as end:
        await parts.ask("report", done)

    assert (start, turn, end) == ([1, 1], [1, 1], [1, 1])
    assert (await parts.history())[-1] == "WorkflowCompleted"


async def test_a_turn_that_cancels_what_is_not_at_hand_is_looked_up_rather_than_refused(parts: Parts) -> None:
    """A timer that was cancelled is not remembered; cancelling it again changes nothing, and is no fault."""
    await warm(parts)
    task = await started(parts)
    await complete(parts, task, schedule(1), c.StartTimer(seq=2, delay_s=9.0), c.CancelTimer(seq=2))
    (work,) = (await parts.claim(activities=1)).activity_tasks

    last = m.Turn(assumed_seq=6, commands=[c.CancelTimer(seq=2), c.CompleteWorkflow()])
    done = m.CompleteActivity(run_id=task.run_id, worker="w1", seq=1, fence=work.fence, turn=last)
    reported = await parts.ask("report", done)

    assert reported.is_turn_applied
    assert (await parts.history())[-1] == "WorkflowCompleted"


async def test_a_run_with_much_open_work_is_read_rather_than_copied_with_every_turn(parts: Parts) -> None:
    await warm(parts)
    task = await started(parts)

    await complete(parts, task, *(schedule(seq) for seq in range(1, ROWS_MAX + 2)))

    assert parts.engine.recent.take(task.run_id) is None


@pytest.mark.parametrize("is_reported", [True, False], ids=["by a report", "by a client"])
async def test_a_closed_run_is_forgotten(parts: Parts, is_reported: bool) -> None:
    await warm(parts)
    task = await started(parts)

    if is_reported:
        await complete(parts, task, c.CompleteWorkflow())
    else:
        await parts.ask("terminate", m.Terminate(request_id="t", workflow_id="order-1"))

    assert parts.engine.recent.take(task.run_id) is None


# -- what others did ------------------------------------------------------------------------


async def test_a_message_that_another_engine_recorded_keeps_the_run_from_closing(
    parts: Parts, second: Parts
) -> None:
    await warm(parts)
    task = await started(parts)
    await second.signal()

    with pytest.raises(Refused, match="has not seen"):
        await complete(parts, task, c.CompleteWorkflow())

    assert await parts.history() == ["WorkflowStarted", "SignalReceived"]


async def test_a_run_that_another_engine_ended_stays_ended(parts: Parts, second: Parts) -> None:
    await warm(parts)
    task = await started(parts)
    await second.ask("terminate", m.Terminate(request_id="t", workflow_id="order-1"))

    with pytest.raises(LeaseLost, match="closed"):
        await complete(parts, task, schedule())

    assert await parts.history() == ["WorkflowStarted", "WorkflowTerminated"]


async def test_two_engines_that_take_turns_lose_nothing(parts: Parts, second: Parts) -> None:
    await warm(parts)
    await warm(second)
    await parts.start()

    for seq in range(1, 9):
        (task,) = (await second.claim(workflows=1)).workflow_tasks
        await complete((parts, second)[seq % 2], task, schedule(seq))
        (work,) = (await parts.claim(activities=1)).activity_tasks
        done = m.CompleteActivity(run_id=task.run_id, worker="w1", seq=seq, fence=work.fence)
        await (second, parts)[seq % 2].ask("report", done)

    turn = ["WorkflowTaskCompleted", "ActivityScheduled", "ActivityCompleted"]
    assert await parts.history() == ["WorkflowStarted", *turn * 8]


async def test_a_lease_that_another_engine_gave_counts(parts: Parts, second: Parts) -> None:
    """The engine that started the run believes that nobody has its task."""
    await warm(parts)
    await parts.start()
    (task,) = (await second.claim("w2", workflows=1)).workflow_tasks

    with pytest.raises(LeaseLost):
        await complete(parts, msgspec.structs.replace(task, fence=task.fence - 1), schedule(), worker="w2")
    await complete(parts, task, schedule(), worker="w2")

    assert await parts.history() == ["WorkflowStarted", "WorkflowTaskCompleted", "ActivityScheduled"]


async def test_an_activity_that_another_engine_leased_is_asked_to_stop_not_taken_for_idle(
    parts: Parts, second: Parts
) -> None:
    await warm(parts)
    task = await started(parts)
    await complete(parts, task, schedule())
    await parts.signal()
    (task,) = (await parts.claim(workflows=1)).workflow_tasks
    await second.claim("w2", activities=1)

    await complete(parts, task, c.RequestCancelActivity(seq=1))

    assert (await parts.history())[-1] == "ActivityCancelRequested"
    assert await parts.look("SELECT worker FROM task WHERE seq = 1 AND namespace = $1", parts.namespace) == [
        "w2"
    ]


async def test_progress_that_another_engine_recorded_reaches_the_next_attempt(
    parts: Parts, second: Parts
) -> None:
    """It leaves no event, and neither fence nor holder of the task changes."""
    await warm(parts)
    task = await started(parts)
    await complete(parts, task, schedule(retry=RetryPolicy(initial_s=0.0)))
    (work,) = (await parts.claim(activities=1)).activity_tasks
    beat = m.ActivityHeartbeat(run_id=task.run_id, worker="w1", seq=1, fence=work.fence, details=b"7")
    await second.ask("activity_heartbeat", beat)

    failed = m.FailActivity(
        run_id=task.run_id, worker="w1", seq=1, fence=work.fence, failure=Failure(message="no")
    )
    await parts.ask("report", failed)

    (work,) = (await parts.claim(activities=1)).activity_tasks
    assert (work.attempt, work.heartbeat_details) == (2, b"7")


async def test_an_id_that_has_a_run_is_looked_up_after_all(parts: Parts) -> None:
    await warm(parts)
    task = await started(parts)

    with pytest.raises(AlreadyExists):
        await parts.start()
    await complete(parts, task, c.CompleteWorkflow())
    with pytest.raises(AlreadyExists):
        await parts.start(id_reuse="reject")
    again = await parts.start(request_id="r")

    assert again > task.run_id
    assert await parts.start(request_id="r") == again


# -- at the same moment ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "meanwhile",
    [
        "UPDATE run SET sticky_seq = 0 WHERE run_id = $1::uuid",
        "UPDATE task SET fence = fence + 1, worker = 'w9' WHERE run_id = $1::uuid",
    ],
    ids=["the run", "its task"],
)
async def test_a_write_that_waits_for_somebody_sees_what_they_did(
    parts: Parts, database: str, meanwhile: str
) -> None:
    await warm(parts)
    task = await started(parts)
    recent = parts.engine.recent
    async with Sql.connected(database) as other:
        await other("BEGIN")
        await other(meanwhile, task.run_id)
        report = asyncio.create_task(complete(parts, task, schedule()))
        await parts.look.until(WAITING)
        await other("COMMIT")

    if "run" in meanwhile.split()[1]:
        await report
        assert len(await parts.history()) == 3
    else:
        with pytest.raises(LeaseLost):
            await report
        assert await parts.history() == ["WorkflowStarted"]
    assert recent.time.at(time.monotonic()) is not None


async def test_after_a_commit_that_nobody_knows_of_nothing_is_believed(parts: Parts, database: str) -> None:
    await warm(parts)
    task = await started(parts)
    other_run = await parts.start("order-2")
    async with Sql.connected(database) as other:
        await other("BEGIN")
        await other("SELECT 1 FROM run WHERE run_id = $1::uuid FOR UPDATE", task.run_id)
        report = asyncio.create_task(complete(parts, task, schedule()))
        await parts.look.until(WAITING)
        await parts.look(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'test' AND wait_event_type = 'Lock' AND datname = current_database()"
        )
        with pytest.raises(OutcomeUnknown):
            await report
        await other("COMMIT")

    assert parts.engine.recent.take(other_run) is None
    await complete(parts, task, schedule())
    assert len(await parts.history()) == 3


# -- time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("off_s", [-3600.0, 3600.0])
async def test_a_wrong_idea_of_the_time_is_found_out(parts: Parts, look: Sql, off_s: float) -> None:
    await warm(parts)
    clock = parts.engine.recent.time
    database_now = await look.one("SELECT extract(epoch FROM clock_timestamp())::float8")
    clock.forget()
    clock.heard(database_now + off_s, time.monotonic())

    run_id = await parts.start()

    at = await look.one(
        "SELECT extract(epoch FROM created_at)::float8 FROM run WHERE run_id = $1::uuid", run_id
    )
    assert database_now <= at < database_now + 60
    believed = clock.at(time.monotonic())
    assert believed is not None
    assert abs(believed - at) < 60


@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 2.0)), min_size=1, max_size=30),
    st.floats(0.0, WINDOW_S),
    st.floats(-1e6, 1e6),
)
def test_the_database_time_is_never_ahead_and_as_late_as_the_quickest_answer(
    answers: list[tuple[float, float]], later_s: float, lead: float
) -> None:
    """Answers arrive one after the other, each so long after the one before, and so long after it was written."""
    clock, now = DatabaseTime(), 1_000.0
    for after_s, old_s in answers:
        now += after_s
        clock.heard(now - old_s + lead, now)

    believed = clock.at(now + later_s)

    assert believed is not None
    late_s = now + later_s + lead - believed
    assert -1e-6 <= late_s <= answers[-1][1] + 1e-6


def test_the_database_time_is_not_known_after_a_silence() -> None:
    clock = DatabaseTime()
    assert clock.at(5.0) is None

    clock.heard(100.0, 5.0)

    assert clock.at(5.0 + WINDOW_S) == 100.0 + WINDOW_S
    assert clock.at(5.1 + WINDOW_S) is None


def test_a_clock_that_was_set_back_is_believed_again_after_two_windows() -> None:
    clock = DatabaseTime()
    clock.heard(100.0, 0.0)

    for second in range(1, 14):
        clock.heard(50.0 + second, float(second))

    assert clock.at(13.0) == 63.0
