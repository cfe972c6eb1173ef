"""Much at once, in every order: signals, cancellations, small caches and several workers. Nothing gets lost or stuck."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.client import RPCError, WorkflowFailureError
from holdfast.exceptions import ActivityError, ApplicationError, CancelledError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import AT_ONCE, QUEUE, event_types, worker

STORM_S = 40.0


@activity.defn
async def work(name: str, number: int) -> int:
    if activity.info().attempt == 1 and number % 7 == 3:
        raise ApplicationError("try again", next_retry_delay=timedelta(milliseconds=5))
    await asyncio.sleep(random.random() / 200)
    return number


@activity.defn
def blocks(number: int) -> int:
    return number


@workflow.defn
class Account:
    """Steps, timers and async handlers that all call activities."""

    def __init__(self) -> None:
        self.added: list[int] = []
        self.is_closed = False

    @workflow.run
    async def run(self, steps: int) -> list[Any]:
        lock = asyncio.Lock()
        done: list[int] = []

        async def step(number: int) -> None:
            async with lock:
                done.append(await work.options(retry_policy=AT_ONCE)("step", number))
            await asyncio.sleep(0.001 * (number % 3))
            await blocks(number)

        async with asyncio.TaskGroup() as group:
            for number in range(steps):
                group.create_task(step(number))
        await workflow.wait_condition(lambda: self.is_closed and workflow.all_handlers_finished())
        return [done, self.added, workflow.random().random()]

    @workflow.signal
    async def add(self, number: int) -> None:
        self.added.append(await work.options(retry_policy=AT_ONCE)("signal", number))

    @workflow.signal
    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(("cached", "workers"), [(1000, 1), (3, 2), (0, 2)])
async def test_runs_that_are_signalled_while_they_work_all_end_right(
    env: WorkflowEnvironment, cached: int, workers: int
) -> None:
    clients = [await env.connect() for _ in range(workers)]
    at_work = [
        worker(client, Account, activities=[work, blocks], max_cached_workflows=cached) for client in clients
    ]
    tasks = [asyncio.create_task(one.run()) for one in at_work]

    async def one(number: int) -> Any:
        handle = await env.client.start_workflow(Account.run, 6, id=f"account-{number}", task_queue=QUEUE)
        for amount in range(5):
            await asyncio.sleep(random.random() / 100)
            await handle.signal(Account.add, amount)
        await handle.signal(Account.close)
        return await handle.result(), handle

    async with asyncio.timeout(STORM_S):
        ended = await asyncio.gather(*(one(number) for number in range(12)))
    for each in at_work:
        await each.shutdown()
    await asyncio.gather(*tasks)
    for client in clients:
        await client.close()

    for (done, added, _), handle in ended:
        assert sorted(done) == list(range(6))
        assert sorted(added) == list(range(5))
        assert "WorkflowTaskFailed" not in await event_types(handle)


@workflow.defn
class Ledger:
    """Every activity counts once, whatever is cancelled."""

    @workflow.run
    async def run(self) -> str:
        try:
            for number in range(20):
                await work.options(retry_policy=AT_ONCE)("x", number)
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            await work.options(retry_policy=AT_ONCE)("clean up", 0)
            return "cancelled"
        except ActivityError as error:
            assert isinstance(error.cause, CancelledError)
            await work.options(retry_policy=AT_ONCE)("clean up", 0)
            return "cancelled"
        return "done"


@pytest.mark.parametrize("cached", [1000, 0], ids=["cached", "replayed"])
async def test_runs_cancelled_at_any_moment_clean_up_and_end(env: WorkflowEnvironment, cached: int) -> None:
    async def one(number: int) -> str:
        handle = await env.client.start_workflow(Ledger.run, id=f"ledger-{number}", task_queue=QUEUE)
        await asyncio.sleep(random.random() / 3)
        try:
            await handle.cancel()
        except RPCError as error:
            assert "closed" in str(error)
        try:
            return await handle.result()
        except WorkflowFailureError as error:
            # Cancelled before its first line.
            assert isinstance(error.cause, CancelledError)
            return "never began"

    async with worker(env.client, Ledger, activities=[work], max_cached_workflows=cached):
        async with asyncio.timeout(STORM_S):
            ended = await asyncio.gather(*(one(number) for number in range(25)))
        failing = [run.id async for run in env.client.list_workflows("TaskFailing = true")]
        running = [run.id async for run in env.client.list_workflows("ExecutionStatus = 'Running'")]

    assert set(ended) <= {"done", "cancelled", "never began"}
    assert (failing, running) == ([], [])


async def test_workers_that_come_and_go_all_the_time_finish_everything_once(env: WorkflowEnvironment) -> None:
    finished: dict[str, int] = {}

    @activity.defn
    async def tally(name: str) -> str:
        await asyncio.sleep(0.01)
        finished[name] = finished.get(name, 0) + 1
        return name

    @workflow.defn
    async def chain(name: str) -> int:
        for number in range(4):
            await tally.options(retry_policy=AT_ONCE)(f"{name}.{number}")
        return 4

    handles = [
        await env.client.start_workflow(chain, f"c{n}", id=f"c{n}", task_queue=QUEUE) for n in range(15)
    ]
    waiting = asyncio.gather(*(handle.result() for handle in handles))
    async with asyncio.timeout(STORM_S):
        while not waiting.done():
            async with worker(
                env.client, chain, activities=[tally], graceful_shutdown_timeout=timedelta(seconds=5)
            ):
                await asyncio.wait([waiting], timeout=0.05)
        assert await waiting == [4] * 15

    # With a grace period nothing that began was cut off, so nothing was done twice.
    assert set(finished.values()) == {1}
    assert len(finished) == 60
    for handle in handles:
        types = await event_types(handle)
        assert types.count("ActivityCompleted") == 4
        assert "WorkflowTaskFailed" not in types
