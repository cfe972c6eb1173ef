"""The time-skipping environment: nothing but the SDK, and no waiting for what is only waited for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import pytest

from holdfast import Worker, activity, workflow
from holdfast.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from holdfast.exceptions import ActivityError, Invalid, TimeoutError, TimeoutType
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import messages as m

QUEUE = "q"
HOUR_S = 3600.0
SERVER_ONLY = (
    "asyncpg",
    "click",
    "obstore",
    "prometheus_client",
    "rich",
    "starlette",
    "uvicorn",
    "uvloop",
    "yaml",
)

WITHOUT_EXTRAS = """
import asyncio, sys
for name in sys.argv[1:]:
    sys.modules[name] = None  # importing it fails
from holdfast import Worker, activity, workflow
from holdfast.testing import ActivityEnvironment, WorkflowEnvironment

@activity.defn
async def double(number: int) -> int:
    return number * 2

@workflow.defn
async def doubles(number: int) -> int:
    await asyncio.sleep(86400)
    return await workflow.execute_activity(double, number, start_to_close_timeout=workflow.timedelta(seconds=9))

async def main():
    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with Worker(env.client, task_queue="q", workflows=[doubles], activities=[double]):
            print(await env.client.execute_workflow(doubles, 21, id="d", task_queue="q"))

asyncio.run(main())
"""


@workflow.defn
async def sleeps(seconds: float) -> float:
    began = workflow.time()
    await asyncio.sleep(seconds)
    return workflow.time() - began


@workflow.defn
async def daily(days: int) -> float:
    began = workflow.time()
    for _ in range(days * 24):
        await asyncio.sleep(HOUR_S)
    return workflow.time() - began


def worker(client: Client, *workflows: Any, **options: Any) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=workflows, **options)


async def elapsed_s(env: WorkflowEnvironment, since: Any) -> float:
    return (await env.get_current_time() - since).total_seconds()


async def turns() -> None:
    """So many turns of the loop, in which nobody asks for anything, that whatever is about to happen has happened."""
    for _ in range(2_000):
        await asyncio.sleep(0)


async def test_thirty_days_of_hourly_timers_take_seconds_at_most(env: WorkflowEnvironment) -> None:
    began, before = time.monotonic(), await env.get_current_time()

    async with worker(env.client, daily):
        slept = await env.client.execute_workflow(daily, 30, id="month", task_queue=QUEUE)

    assert 30 * 86400 <= slept < 30 * 86400 + 60
    assert await elapsed_s(env, before) >= 30 * 86400
    assert time.monotonic() - began < 10
    assert env.supports_time_skipping


def test_it_needs_nothing_of_the_server() -> None:
    code = WITHOUT_EXTRAS.replace("workflow.timedelta", "__import__('datetime').timedelta")

    ran = subprocess.run(
        [sys.executable, "-c", code, *SERVER_ONLY], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ran.stdout, ran.returncode) == ("42\n", 0), ran.stderr


async def test_nothing_is_skipped_while_nobody_waits(env: WorkflowEnvironment) -> None:
    before = await env.get_current_time()
    async with worker(env.client, sleeps):
        handle = await env.client.start_workflow(sleeps, HOUR_S, id="s", task_queue=QUEUE)
        await turns()

        assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
        assert await elapsed_s(env, before) < 600
        assert await handle.result() >= HOUR_S


async def test_a_sleep_of_the_test_moves_time_and_what_is_due_meanwhile_happens(
    env: WorkflowEnvironment,
) -> None:
    async with worker(env.client, sleeps):
        handle = await env.client.start_workflow(sleeps, HOUR_S, id="s", task_queue=QUEUE)
        before = await env.get_current_time()

        await env.sleep(timedelta(minutes=30))
        assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
        assert 1800 <= await elapsed_s(env, before) < 2400

        await env.sleep(1900)
        assert (await handle.describe()).status == WorkflowExecutionStatus.COMPLETED
        assert 3700 <= await elapsed_s(env, before) < 4300


async def test_time_stands_by_while_an_activity_works(env: WorkflowEnvironment) -> None:
    """The race of an activity against a timer of an hour is won by the activity, however long it really takes."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    @activity.defn(start_to_close_timeout=timedelta(hours=9))
    async def works() -> str:
        begun.set()
        await may_end.wait()
        return "worked"

    @workflow.defn
    async def races() -> str:
        try:
            async with asyncio.timeout(HOUR_S):
                return await works()
        except TimeoutError_:
            return "late"

    async with worker(env.client, races, activities=[works]):
        handle = await env.client.start_workflow(races, id="r", task_queue=QUEUE)
        async with asyncio.TaskGroup() as group:
            result = group.create_task(handle.result())
            await begun.wait()
            await turns()
            may_end.set()

    assert result.result() == "worked"


TimeoutError_ = asyncio.TimeoutError


async def test_a_function_in_a_thread_holds_the_clock_too(env: WorkflowEnvironment) -> None:
    @activity.defn(start_to_close_timeout=timedelta(hours=9))
    def works() -> str:
        # As long as many thousand jumps would take.
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass
        return "worked"

    @workflow.defn
    async def races() -> str:
        async with asyncio.timeout(HOUR_S):
            return await works()

    async with worker(env.client, races, activities=[works]):
        assert await env.client.execute_workflow(races, id="r", task_queue=QUEUE) == "worked"


async def test_an_activity_that_nobody_takes_times_out_in_skipped_time(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def hopes() -> None:
        await workflow.execute_activity(
            "absent",
            task_queue="nobody",
            start_to_close_timeout=timedelta(hours=1),
            schedule_to_start_timeout=timedelta(hours=5),
        )

    before = await env.get_current_time()
    async with worker(env.client, hopes):
        with pytest.raises(WorkflowFailureError) as caught:
            await env.client.execute_workflow(hopes, id="h", task_queue=QUEUE)

    assert isinstance(caught.value.cause, ActivityError)
    cause = caught.value.cause.cause
    assert isinstance(cause, TimeoutError)
    assert cause.type == TimeoutType.SCHEDULE_TO_START
    assert await elapsed_s(env, before) >= 5 * HOUR_S


async def test_what_a_dead_worker_held_goes_to_another_without_waiting(env: WorkflowEnvironment) -> None:
    handle = await env.client.start_workflow(sleeps, 1.0, id="s", task_queue=QUEUE)
    claim = m.Claim(worker="dead", task_queue=QUEUE, workflow_slots=1)
    assert (await env.client.caller.rpc.once("claim", claim)).workflow_tasks

    began = time.monotonic()
    async with worker(env.client, sleeps):
        assert await handle.result() >= 1.0

    # Its lease was ten seconds.
    assert time.monotonic() - began < 5


async def test_skipping_can_be_turned_off_for_a_while(env: WorkflowEnvironment) -> None:
    async with worker(env.client, sleeps):
        handle = await env.client.start_workflow(sleeps, HOUR_S, id="s", task_queue=QUEUE)
        with env.auto_time_skipping_disabled():
            waiting = asyncio.create_task(handle.result())
            await turns()
            assert not waiting.done()
        assert await waiting >= HOUR_S


async def test_many_runs_see_one_time(env: WorkflowEnvironment) -> None:
    async with worker(env.client, sleeps):
        handles = [
            await env.client.start_workflow(sleeps, HOUR_S * n, id=f"s{n}", task_queue=QUEUE)
            for n in range(9, 0, -1)
        ]
        slept = await asyncio.gather(*(handle.result() for handle in handles))

    for n, seconds in zip(range(9, 0, -1), slept, strict=True):
        assert HOUR_S * n <= seconds < HOUR_S * n + 600


async def test_who_only_waits_costs_next_to_nothing(env: WorkflowEnvironment) -> None:
    """An awaited run that waits for an activity for two seconds: nothing may spin meanwhile."""

    @activity.defn(start_to_close_timeout=timedelta(hours=9))
    async def rests() -> None:
        await asyncio.sleep(2)

    @workflow.defn
    async def waits() -> None:
        await rests()

    async with worker(env.client, waits, activities=[rests]):
        before = time.process_time()
        await env.client.execute_workflow(waits, id="w", task_queue=QUEUE)

    assert time.process_time() - before < 1


async def test_other_clients_share_the_environment_and_closing_them_ends_nothing(
    env: WorkflowEnvironment,
) -> None:
    other = await env.connect(identity="other")
    async with other, worker(other, sleeps):
        await other.start_workflow(sleeps, HOUR_S, id="s", task_queue=QUEUE)

    async with worker(env.client, sleeps):
        assert await env.client.get_workflow_handle("s").result() >= HOUR_S


async def test_an_environment_made_from_a_client_has_real_time(env: WorkflowEnvironment) -> None:
    made = WorkflowEnvironment.from_client(env.client)

    assert not made.supports_time_skipping
    assert made.client is env.client
    with pytest.raises(Invalid, match="made from a client"):
        await made.connect()
    await made.shutdown()
    await env.client.start_workflow(sleeps, 1.0, id="s", task_queue=QUEUE)


async def test_options_of_a_test_server_are_ignored_aloud_and_unknown_ones_refused() -> None:
    with pytest.warns(UserWarning, match="test_server_existing_path"):
        env = await WorkflowEnvironment.start_time_skipping(test_server_existing_path="/bin/server")
    await env.shutdown()
    with pytest.raises(TypeError, match="'speed'"):
        await WorkflowEnvironment.start_time_skipping(speed=2)
