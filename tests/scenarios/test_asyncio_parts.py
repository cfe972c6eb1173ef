"""asyncio's own parts in workflow code, with real events in between, cached and replayed at every step."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import outcome

pytestmark = pytest.mark.parametrize("cached", [1000, 0], ids=["cached", "replayed"])


@activity.defn
async def echo(value: Any) -> Any:
    if value == "fail":
        raise ApplicationError("asked to", non_retryable=True)
    return value


async def run(env: WorkflowEnvironment, flow: Any, cached: int) -> Any:
    return await outcome(env, flow, activities=[echo], max_cached_workflows=cached)


async def test_a_queue_hands_work_from_producers_to_consumers(env: WorkflowEnvironment, cached: int) -> None:
    @workflow.defn
    async def plant() -> list[int]:
        queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=2)
        made: list[int] = []

        async def produce() -> None:
            for number in range(5):
                await queue.put(await echo(number))
            for _ in range(2):
                await queue.put(None)

        async def consume() -> None:
            while (number := await queue.get()) is not None:
                await asyncio.sleep(0.001)
                made.append(await echo(number * 10))
                queue.task_done()

        await asyncio.gather(produce(), consume(), consume())
        return sorted(made)

    assert await run(env, plant, cached) == [0, 10, 20, 30, 40]


async def test_locks_and_semaphores_keep_their_promises_over_activities(
    env: WorkflowEnvironment, cached: int
) -> None:
    @workflow.defn
    async def guarded() -> list[int]:
        lock, semaphore = asyncio.Lock(), asyncio.Semaphore(2)
        inside = [0, 0]
        most = [0, 0]

        async def enter(index: int, guard: Any) -> None:
            async with guard:
                inside[index] += 1
                most[index] = max(most[index], inside[index])
                await echo(index)
                inside[index] -= 1

        await asyncio.gather(*(enter(0, lock) for _ in range(4)), *(enter(1, semaphore) for _ in range(6)))
        return most

    assert await run(env, guarded, cached) == [1, 2]


async def test_events_and_conditions_wake_who_waits(env: WorkflowEnvironment, cached: int) -> None:
    @workflow.defn
    async def wakes() -> list[str]:
        event, condition = asyncio.Event(), asyncio.Condition()
        order: list[str] = []

        async def wait_event(name: str) -> None:
            await event.wait()
            order.append(name)

        async def wait_condition() -> None:
            async with condition:
                await condition.wait_for(lambda: len(order) >= 2)
                order.append("condition")

        tasks = [asyncio.create_task(wait_event(name)) for name in "ab"]
        tasks.append(asyncio.create_task(wait_condition()))
        await echo(1)
        event.set()
        await asyncio.gather(*tasks[:2])
        async with condition:
            condition.notify_all()
        await tasks[2]
        return order

    assert await run(env, wakes, cached) == ["a", "b", "condition"]


async def test_a_task_group_fails_as_one_and_cancels_the_rest(env: WorkflowEnvironment, cached: int) -> None:
    @workflow.defn
    async def group() -> list[str]:
        seen: list[str] = []

        async def slow() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(slow())
                tasks.create_task(echo("fail"))  # type: ignore[arg-type]
        except* Exception as errors:
            seen.extend(type(error).__name__ for error in errors.exceptions)
        return seen

    assert await run(env, group, cached) == ["cancelled", "ActivityError"]


async def test_what_is_shielded_goes_on_after_its_timeout(env: WorkflowEnvironment, cached: int) -> None:
    @workflow.defn
    async def shields() -> list[Any]:
        async def slow() -> str:
            await asyncio.sleep(0.08)
            return str(await echo("kept"))

        task = asyncio.create_task(slow())
        seen: list[Any] = []
        try:
            async with asyncio.timeout(0.02):
                await asyncio.shield(task)
        except TimeoutError:
            seen.append("gave up waiting")
        seen.append(await task)
        return seen

    assert await run(env, shields, cached) == ["gave up waiting", "kept"]


async def test_results_are_taken_as_they_come(env: WorkflowEnvironment, cached: int) -> None:
    @workflow.defn
    async def takes() -> list[Any]:
        async def after(delay: float, value: str) -> str:
            await asyncio.sleep(delay)
            return value

        coroutines = [after(0.09, "c"), after(0.03, "a"), after(0.06, "b")]
        first = [await each for each in workflow.as_completed(coroutines)]
        tasks = [asyncio.create_task(after(0.03 * n, str(n))) for n in (3, 1, 2)]
        done, pending = await workflow.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        rest, _ = await workflow.wait(pending)
        return [first, [t.result() for t in done], [t.result() for t in rest]]

    assert await run(env, takes, cached) == [["a", "b", "c"], ["1"], ["3", "2"]]


async def test_asyncios_own_wait_and_as_completed_replay_too(env: WorkflowEnvironment, cached: int) -> None:
    """They use sets, whose order must not depend on addresses."""

    @workflow.defn
    async def ported() -> list[Any]:
        tasks = [asyncio.create_task(echo(number)) for number in range(8)]  # type: ignore[arg-type]
        done, pending = await asyncio.wait(tasks)
        for task in done:
            await echo(task.result())
        seen = [await each for each in asyncio.as_completed([echo(n) for n in range(5)])]  # type: ignore[type-var]
        return [len(done), len(pending), sorted(seen)]

    assert await run(env, ported, cached) == [8, 0, [0, 1, 2, 3, 4]]


async def test_context_variables_follow_tasks_and_not_their_neighbours(
    env: WorkflowEnvironment, cached: int
) -> None:
    name = contextvars.ContextVar("name", default="none")

    @workflow.defn
    async def contexts() -> list[str]:
        async def inner(own: str) -> str:
            name.set(own)
            await echo(own)
            return name.get()

        seen = list(await asyncio.gather(inner("a"), inner("b")))
        return [*seen, name.get()]

    assert await run(env, contexts, cached) == ["a", "b", "none"]


async def test_generators_and_context_managers_work_across_events(
    env: WorkflowEnvironment, cached: int
) -> None:
    @workflow.defn
    async def generates() -> list[Any]:
        closed: list[str] = []

        async def pages() -> Any:
            try:
                for number in range(10):
                    yield await echo(number)
            finally:
                closed.append("closed")

        got = []
        stream = pages()
        async for page in stream:
            got.append(page)
            if page == 2:
                break
        await stream.aclose()
        return [got, closed]

    assert await run(env, generates, cached) == [[0, 1, 2], ["closed"]]


async def test_a_failure_of_one_gathered_part_is_raised_once_and_the_others_go_on(
    env: WorkflowEnvironment, cached: int
) -> None:
    @workflow.defn
    async def gathers() -> list[Any]:
        seen: list[Any] = []

        async def slow() -> None:
            await asyncio.sleep(0.02)
            seen.append(await echo("slow"))

        try:
            await asyncio.gather(echo("fail"), slow())
        except Exception as error:
            seen.append(type(error).__name__)
        await workflow.wait_condition(lambda: len(seen) == 2, timeout=30)
        return seen

    assert await run(env, gathers, cached) == ["ActivityError", "slow"]


async def test_timeouts_in_a_loop_leave_nothing_behind(env: WorkflowEnvironment, cached: int) -> None:
    @workflow.defn
    async def polls() -> int:
        for number in range(20):
            try:
                async with asyncio.timeout(3600):
                    await echo(number)
            finally:
                await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert await run(env, polls, cached) == 1
    assert not (await env.client.get_workflow_handle("run").describe()).timer_fire_times
