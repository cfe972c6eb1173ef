"""Workers that come, go, share and overload: the work is done once all the same."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import A_MINUTE, AT_ONCE, PATIENCE_S, QUEUE, event_types, seconds, worker


@activity.defn
async def echo(value: Any) -> Any:
    return value


@workflow.defn
async def steps(count: int) -> int:
    total = 0
    for number in range(count):
        total += await echo(number)
    return total


async def test_two_workers_share_a_queue_and_nothing_is_done_twice(env: WorkflowEnvironment) -> None:
    done: Counter[str] = Counter()
    by: Counter[str] = Counter()

    @activity.defn
    async def count(name: str) -> None:
        done[name] += 1
        # Long enough that one worker alone is full.
        await asyncio.sleep(0.01)

    @workflow.defn
    async def fans_out(name: str) -> None:
        await asyncio.gather(*(count(f"{name}-{number}") for number in range(10)))

    other = await env.connect(identity="second")
    options = {"activities": [count], "max_concurrent_activities": 5}
    async with worker(env.client, fans_out, **options), worker(other, fans_out, **options):
        handles = [
            await env.client.start_workflow(fans_out, f"{n}", id=f"f-{n}", task_queue=QUEUE)
            for n in range(20)
        ]
        await asyncio.gather(*(handle.result() for handle in handles))
    await other.close()
    for handle in handles:
        for event in (await handle.fetch_history()).events:
            if event.event_type == "ActivityCompleted":
                by[event.attributes["worker"].split(":")[0]] += 1

    assert set(done.values()) == {1}
    assert len(done) == 200
    assert len(by) == 2
    assert min(by.values()) > 20


async def test_a_worker_of_activities_only_and_one_of_workflows_only_work_together(
    env: WorkflowEnvironment,
) -> None:
    async with worker(env.client, steps), worker(env.client, activities=[echo]):
        assert await env.client.execute_workflow(steps, 4, id="apart", task_queue=QUEUE) == 6


async def test_a_worker_that_comes_late_takes_over_what_waited_for_its_activities(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def elsewhere() -> int:
        return await workflow.execute_activity(echo, 5, task_queue="late", start_to_close_timeout=A_MINUTE)

    async with worker(env.client, elsewhere):
        handle = await env.client.start_workflow(elsewhere, id="elsewhere", task_queue=QUEUE)
        async with asyncio.timeout(PATIENCE_S):
            while not (await handle.describe()).pending_activities:
                pass
        async with worker(env.client, activities=[echo], task_queue="late"), asyncio.timeout(2):
            assert await handle.result() == 5


@pytest.mark.parametrize("cached", [1000, 0], ids=["coalesced", "one by one"])
async def test_the_history_has_the_same_shape_whether_turns_are_coalesced_or_not(
    env: WorkflowEnvironment, cached: int
) -> None:
    async with worker(env.client, steps, activities=[echo], max_cached_workflows=cached):
        handle = await env.client.start_workflow(steps, 3, id="shape", task_queue=QUEUE)
        assert await handle.result() == 3

    step = ["ActivityScheduled", "ActivityCompleted", "WorkflowTaskCompleted"]
    expected = ["WorkflowStarted", "WorkflowTaskCompleted", *step, *step, *step, "WorkflowCompleted"]
    assert await event_types(handle) == expected
    events = (await handle.fetch_history()).events
    assert [e.event_id for e in events] == list(range(1, len(events) + 1))
    for event in events:
        if event.event_type == "WorkflowTaskCompleted":
            assert event.attributes["seen_seq"] == event.event_id - 1


async def test_a_worker_with_one_slot_of_each_kind_does_everything_in_the_end(
    env: WorkflowEnvironment,
) -> None:
    options = {"max_concurrent_workflow_tasks": 1, "max_concurrent_activities": 1}
    async with worker(env.client, steps, activities=[echo], max_cached_workflows=1, **options):
        results = await asyncio.gather(
            *(env.client.execute_workflow(steps, 3, id=f"one-{n}", task_queue=QUEUE) for n in range(20))
        )

    assert results == [3] * 20


async def test_a_stopping_worker_finishes_what_runs_and_another_does_the_rest(
    env: WorkflowEnvironment,
) -> None:
    began, may_end = threading.Event(), threading.Event()
    ran: list[str] = []

    @activity.defn
    def slow(name: str) -> str:
        began.set()
        may_end.wait(PATIENCE_S)
        ran.append(name)
        return name

    @workflow.defn
    async def two() -> list[str]:
        return [await slow("first"), await slow("second")]

    first = worker(
        env.client, two, activities=[slow], graceful_shutdown_timeout=seconds(PATIENCE_S), identity="first"
    )
    async with first:
        handle = await env.client.start_workflow(two, id="two", task_queue=QUEUE)
        await asyncio.to_thread(began.wait, PATIENCE_S)
        stopping = asyncio.create_task(first.shutdown())
        async with asyncio.timeout(PATIENCE_S):
            while first.is_running:
                await asyncio.sleep(0)
        may_end.set()
        await stopping
    async with worker(env.client, two, activities=[slow], identity="second"):
        assert await handle.result() == ["first", "second"]

    assert ran == ["first", "second"]
    events = (await handle.fetch_history()).events
    completed = [e.attributes for e in events if e.event_type == "ActivityCompleted"]
    assert [done["worker"].split(":")[0] for done in completed] == ["first", "second"]
    assert [done.get("attempt", 1) for done in completed] == [1, 1]


async def test_an_activity_learns_that_its_worker_stops_and_is_cancelled_after_the_grace(
    env: WorkflowEnvironment,
) -> None:
    began = asyncio.Event()
    felt: list[Any] = []

    @activity.defn
    async def movable() -> str:
        if felt:
            return f"again in attempt {activity.info().attempt}"
        began.set()
        await activity.wait_for_worker_shutdown()
        felt.append(activity.is_worker_shutdown())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            felt.append(details is not None and details.worker_shutdown)
            raise
        return "never"

    @workflow.defn
    async def moves() -> str:
        return await movable.options(retry_policy=AT_ONCE)()

    async with worker(env.client, moves, activities=[movable], graceful_shutdown_timeout=seconds(0.1)):
        handle = await env.client.start_workflow(moves, id="moves", task_queue=QUEUE)
        await began.wait()
    assert felt == [True, True]
    async with worker(env.client, moves, activities=[movable]):
        assert await handle.result() == "again in attempt 1"


async def test_a_stopped_worker_leaves_idle_runs_to_the_next_at_once(env: WorkflowEnvironment) -> None:
    """The run is in the cache of a worker that is gone; its next task must not wait for that one."""

    @workflow.defn
    class Idle:
        def __init__(self) -> None:
            self.is_told = False

        @workflow.run
        async def run(self) -> str:
            await workflow.wait_condition(lambda: self.is_told)
            return "told"

        @workflow.signal
        def tell(self) -> None:
            self.is_told = True

    async with worker(env.client, Idle):
        handle = await env.client.start_workflow(Idle.run, id="idle", task_queue=QUEUE)
        async with asyncio.timeout(PATIENCE_S):
            while "WorkflowTaskCompleted" not in await event_types(handle):
                pass
    async with worker(env.client, Idle):
        async with asyncio.timeout(2):
            await handle.signal(Idle.tell)
            assert await handle.result() == "told"


async def test_errors_in_one_activity_do_not_reach_its_neighbours(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def mixed(number: int) -> int:
        if number % 3 == 0 and activity.info().attempt == 1:
            raise ApplicationError("first time", next_retry_delay=seconds(0.01))
        if number % 3 == 1:
            # Even an exit is only this activity's.
            if activity.info().attempt == 1:
                raise MemoryError
        return number

    @workflow.defn
    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(mixed.options(retry_policy=AT_ONCE)(n) for n in range(30))))

    async with worker(env.client, all_of_them, activities=[mixed]) as running:
        result = await env.client.execute_workflow(all_of_them, id="mixed", task_queue=QUEUE)
        assert running.is_running

    assert result == sum(range(30))


async def test_workflows_of_one_namespace_do_not_see_workers_of_another_queue(
    env: WorkflowEnvironment,
) -> None:
    async with worker(env.client, steps, activities=[echo], task_queue=f"{QUEUE}.other"):
        handle = await env.client.start_workflow(steps, 1, id="alone", task_queue=QUEUE)
        await env.client.execute_workflow(steps, 1, id="served", task_queue=f"{QUEUE}.other")

        assert await event_types(handle) == ["WorkflowStarted"]
    await handle.terminate()
