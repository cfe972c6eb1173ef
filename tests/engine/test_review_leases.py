"""A lease belongs to one worker of one namespace, for a bounded time, and whoever holds it is told so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest_asyncio

from holdfast.engine.dispatch import CREDIT_S, Credit, Credits
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.engine.by_hand import QUEUE, hand

LEASE_S = 10.0


@pytest_asyncio.fixture
async def sql(database: str) -> AsyncIterator[Any]:
    """A connection to look at rows, and to let time pass for them."""
    connection = await asyncpg.connect(database, server_settings={"search_path": "holdfast"})
    yield connection
    await connection.close()


LEASE_LEFT = "SELECT extract(epoch FROM lease_until - now())::float8 FROM task WHERE run_id = $1 AND seq = $2"
AGE = """
UPDATE task
SET leased_at = leased_at - $3::interval, heartbeat_at = heartbeat_at - $3::interval
WHERE run_id = $1 AND seq = $2
"""


def beat(*leases: m.Lease, worker: str = "hand") -> m.WorkerHeartbeat:
    return m.WorkerHeartbeat(worker=worker, task_queue=QUEUE, leases=list(leases))


async def test_a_lease_of_another_namespace_is_neither_extended_nor_told_of(
    env: WorkflowEnvironment, sql: Any
) -> None:
    # The heartbeat named leases by run alone: who knew one could keep it, and hear of its cancellation.
    await sql.execute("INSERT INTO namespace (name) VALUES ('other')")
    mine, other = hand(env), hand(env, namespace="other")
    started = await mine.start()
    task = await mine.one_task()
    await mine.complete(task, c.ScheduleActivity(seq=1, name="act"))
    activity = await mine.one_activity()
    await sql.execute("UPDATE activity SET is_cancel_requested = true")
    await sql.execute("UPDATE task SET lease_until = now() + interval '5 s' WHERE seq = 1")
    lease = m.Lease(activity.run_id, 1, activity.fence)
    answer: m.WorkerAnswer = await other.ask("heartbeat", beat(lease))
    assert (answer.lost, answer.cancelled) == ([lease], [])
    assert await sql.fetchval(LEASE_LEFT, started.run_id, 1) < 5.0
    answer = await mine.ask("heartbeat", beat(lease))
    assert (answer.lost, answer.cancelled) == ([], [lease])
    assert await sql.fetchval(LEASE_LEFT, started.run_id, 1) > 9.0


async def test_progress_told_after_an_hour_does_not_lease_the_activity_for_another_hour(
    env: WorkflowEnvironment, sql: Any
) -> None:
    # The length of the lease was taken to be the time since the last heartbeat: a worker that died just
    # after a rare heartbeat left its activity to nobody for as long as it had run.
    by = hand(env)
    started = await by.start()
    await by.complete(await by.one_task(), c.ScheduleActivity(seq=1, name="act", start_to_close_s=86_400.0))
    activity = await by.one_activity()
    await sql.execute(AGE, started.run_id, 1, timedelta(hours=1))
    await by.ask("heartbeat", beat(m.Lease(started.run_id, 1, activity.fence)))
    progress = m.ActivityHeartbeat(
        run_id=started.run_id, seq=1, fence=activity.fence, worker="hand", details=b"[1]"
    )
    await by.ask("activity_heartbeat", progress)
    assert await sql.fetchval(LEASE_LEFT, started.run_id, 1) <= LEASE_S


async def test_heartbeats_keep_a_workflow_task_for_two_minutes_and_no_longer(
    env: WorkflowEnvironment, sql: Any
) -> None:
    by = hand(env)
    started = await by.start()
    task = await by.one_task()
    await sql.execute(AGE, started.run_id, 0, timedelta(seconds=115))
    await by.ask("heartbeat", beat(m.Lease(started.run_id, 0, task.fence)))
    assert 4.0 < await sql.fetchval(LEASE_LEFT, started.run_id, 0) <= 5.0


async def test_a_repeated_report_is_told_of_the_workflow_task_that_the_first_answer_brought(
    env: WorkflowEnvironment,
) -> None:
    # Only activities were told again: after a lost answer the run stood still until the lease had run out.
    by = hand(env)
    started = await by.start()
    task = await by.one_task()
    signal = m.Signal(request_id="s", workflow_id=started.workflow_id, name="more")
    await by.ask("signal", signal)
    eager = {"task_queue": QUEUE, "workflow_slots": 5, "activity_slots": 5}
    report = by.completion(task, c.ScheduleActivity(seq=1, name="act"), **eager)
    first: m.Reported = await by.ask("report", report)
    again: m.Reported = await by.ask("report", report)
    assert first.workflow_task is not None
    assert again.workflow_task is not None
    assert again.workflow_task.fence == first.workflow_task.fence
    assert again.workflow_task.head_seq == first.workflow_task.head_seq
    assert [event.seq for event in again.workflow_task.events] == [e.seq for e in first.workflow_task.events]
    assert [task.fence for task in again.activity_tasks] == [task.fence for task in first.activity_tasks]


async def test_reports_sent_together_share_the_slots_that_each_of_them_declares(
    env: WorkflowEnvironment,
) -> None:
    # Each was believed by itself: ten reports of a worker with two free slots brought it twenty activities,
    # which then waited for it while other workers were idle.
    by = hand(env)
    await asyncio.gather(*(by.start() for _ in range(10)))
    tasks = (await by.claim(workflows=10)).workflow_tasks
    assert len(tasks) == 10
    eager = {"task_queue": QUEUE, "workflow_slots": 10, "activity_slots": 2}
    commands = [c.ScheduleActivity(seq=1, name="act"), c.ScheduleActivity(seq=2, name="act")]
    answers = await asyncio.gather(*(by.complete(task, *commands, **eager) for task in tasks))
    assert sum(len(answer.activity_tasks) for answer in answers) == 2


def test_what_is_known_of_workers_that_are_gone_is_forgotten() -> None:
    # Every worker that was ever heard of, and every queue, stayed in memory; a worker that changed its
    # queue stayed in the old one for good.
    known = Credits()
    for number in range(100):
        known.hear(Credit(f"w{number}", "main", f"q{number}", 1, 1, heard_at=float(number)))
    known.hear(Credit("w99", "main", "elsewhere", 1, 1, heard_at=99.0))
    known.forget_silent(now=99.0 + CREDIT_S)
    assert list(known._by_worker) == [("main", "w99")]
    assert list(known._by_queue) == [("main", "elsewhere")]


async def test_what_was_claimed_and_could_not_be_told_is_ready_again_at_once(
    env: WorkflowEnvironment, database: str, sql: Any
) -> None:
    # The lease was committed, the history could not be read, the worker heard of an error: the task was
    # nobody's for ten seconds.
    by = hand(env)
    started = await by.start()
    waiting = "FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(5.0):
        async with sql.transaction():
            await sql.execute("LOCK TABLE event")
            claim = asyncio.create_task(by.claim(workflows=1))
            while not await sql.fetchval(f"SELECT count(pg_terminate_backend(pid)) {waiting}"):
                pass
        tasks = (await claim).workflow_tasks
        while not tasks:
            tasks = (await by.claim(workflows=1)).workflow_tasks
    assert [task.run_id for task in tasks] == [started.run_id]
