"""What a workflow costs: commits, statements and messages, counted exactly on a system that does nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import uuid4

from holdfast import activity, workflow
from holdfast.engine.dispatch import Credit, Credits
from holdfast.engine.transact import Change, Committed, Outcome, transact
from holdfast.engine.verbs import request_hash
from holdfast.store.due_work import PULSE
from holdfast.store.journal import Address
from holdfast.store.session import open_pool
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.worker import Worker

QUEUE = "costs"
WORKFLOWS = 10
PATIENCE_S = 30.0


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def double(number: int) -> int:
    return 2 * number


@workflow.defn
async def one_step(number: int) -> int:
    return await double(number)


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_true():
            await asyncio.sleep(0.01)


def asked(env: WorkflowEnvironment, verb: str) -> float:
    assert env.parts is not None
    return env.parts.metrics.requests.labels(verb, "ok").value


async def test_a_workflow_with_one_activity_costs_three_commits_and_five_messages(
    env: WorkflowEnvironment,
) -> None:
    """Start with its lease; first turn with the eager activity; second turn with the coalesced completion."""
    assert env.parts is not None
    counts, bus = env.parts.pool.counts, env.parts.bus
    async with Worker(env.client, task_queue=QUEUE, workflows=[one_step], activities=[double]):
        await until(lambda: asked(env, "claim") >= 1)
        await env.client.execute_workflow(one_step, 0, id="warm-up", task_queue=QUEUE)
        verbs = ("start", "report", "result", "claim")
        commits, pushes = counts.commits, bus.stats.requests
        before = {verb: asked(env, verb) for verb in verbs}

        for number in range(WORKFLOWS):
            result = await env.client.execute_workflow(one_step, number, id=f"w-{number}", task_queue=QUEUE)
            assert result == 2 * number

        assert counts.commits - commits == 3 * WORKFLOWS
        spent = {verb: asked(env, verb) - before[verb] for verb in verbs}
        assert spent == {"start": WORKFLOWS, "report": 2 * WORKFLOWS, "result": WORKFLOWS, "claim": 0}
        assert bus.stats.requests - pushes == WORKFLOWS


async def test_its_three_transactions_are_six_statements_if_everything_is_read_first(database: str) -> None:
    """Resolve, record; then twice lock the run and its work, record. However many workflows share them.

    Of runs that the process knows, nothing is read: `test_recent.py` counts three.
    """
    for size in (1, 50):
        pool = await open_pool(database, size=1, name="costs")
        try:
            await pool.rows(PULSE)
            counts, given = pool.counts, Credits()
            given.hear(_credit(size))
            statements = counts.statements

            starts = [_start(number) for number in range(size)]
            started = _outcomes(await _carry_out(pool, given, starts))
            turns = [_first_turn(out, size) for out in started]
            scheduled = _outcomes(await _carry_out(pool, given, turns))
            ends = [_second_turn(out, size) for out in scheduled]
            ended = _outcomes(await _carry_out(pool, given, ends))

            assert [out.state.run.status for out in ended if out.state] == ["COMPLETED"] * size
            assert counts.statements - statements == 6
            assert counts.commits == 3
        finally:
            await pool.close()


async def test_an_idle_system_with_a_hundred_workers_asks_the_database_twice_a_second_at_most(
    env: WorkflowEnvironment,
) -> None:
    """Budget: fewer than 120 queries a minute, all of them the clock's own."""
    assert env.parts is not None
    counts = env.parts.pool.counts
    async with AsyncExitStack() as workers:
        for number in range(100):
            queue = f"idle-{number % 10}"
            await workers.enter_async_context(
                Worker(env.client, task_queue=queue, workflows=[one_step], activities=[double])
            )
        # Each has said twice what it can do: their rows are written, and told of on the bus.
        await until(lambda: asked(env, "claim") >= 100 and asked(env, "heartbeat") >= 200)
        heartbeats, statements, began = asked(env, "heartbeat"), counts.statements, time.monotonic()

        await until(lambda: asked(env, "heartbeat") >= heartbeats + 200)

        asked_of_postgres = counts.statements - statements
        assert asked_of_postgres < 120 * (time.monotonic() - began) / 60


def _credit(size: int) -> Credit:
    return Credit("w", "main", QUEUE, size, size, time.monotonic())


async def _carry_out(pool: Any, given: Credits, changes: list[Change]) -> Committed:
    return await transact(pool, given, changes, lease_s=10.0, heard_now=time.monotonic())


def _outcomes(committed: Committed) -> list[Outcome]:
    found = [out for out in committed.outcomes if isinstance(out, Outcome)]
    assert len(found) == len(committed.outcomes), committed.outcomes
    return found


def _start(number: int) -> Change:
    workflow_id = f"costs-{number}-{uuid4().hex}"
    start = m.Start(request_id=workflow_id, workflow_id=workflow_id, workflow_type="t", task_queue=QUEUE)
    address = Address("main", workflow_id, None, workflow_id)
    return Change("main", start, address=address, hash=request_hash(start))


def _first_turn(started: Outcome, size: int) -> Change:
    assert started.state is not None
    run_id, task = started.state.run.run_id, started.state.tasks[0]
    assert task.worker == "w"
    report = m.CompleteWorkflowTask(
        run_id=run_id,
        worker="w",
        task_queue=QUEUE,
        fence=task.fence,
        seen_seq=1,
        commands=[c.ScheduleActivity(seq=1, name="double")],
    )
    return Change("main", report, run_id=run_id, reporter=_credit(size))


def _second_turn(scheduled: Outcome, size: int) -> Change:
    assert scheduled.state is not None
    run_id, task = scheduled.state.run.run_id, scheduled.state.tasks[1]
    turn = m.Turn(assumed_seq=4, commands=[c.CompleteWorkflow()])
    report = m.CompleteActivity(
        run_id=run_id, worker="w", task_queue=QUEUE, seq=1, fence=task.fence, result=b"2", turn=turn
    )
    return Change("main", report, run_id=run_id, reporter=_credit(size))
