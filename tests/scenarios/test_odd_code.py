"""User code that does what nobody should: it hurts itself, and nothing else."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.client import WorkflowExecutionStatus
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import A_MINUTE, ONCE, QUEUE, count_of, failure, outcome, told, worker
from tests.sdk.patience import until


class Odd(BaseException):
    """As pytest's own outcomes are."""


def exits() -> None:
    sys.exit(3)


def odd() -> None:
    raise Odd("no Exception")


def fails_the_test() -> None:
    pytest.fail("the workflow was wrong")


def group() -> None:
    raise BaseExceptionGroup("several", [Odd("inner"), ValueError("other")])


WAYS = {"exit": exits, "odd": odd, "pytest": fails_the_test, "group": group}


@activity.defn
async def fine() -> str:
    return "fine"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_an_activity_that_raises_no_exception_fails_like_any_other(
    env: WorkflowEnvironment, kind: str, way: str
) -> None:
    @activity.defn(name="raises")
    async def coroutine() -> None:
        WAYS[way]()

    @activity.defn(name="raises")
    def thread() -> None:
        WAYS[way]()

    @workflow.defn
    async def calls() -> str:
        try:
            await workflow.execute_activity("raises", retry_policy=ONCE, start_to_close_timeout=A_MINUTE)
        except Exception as error:
            assert isinstance(error.__cause__, ApplicationError)
            return f"{error.__cause__.type}, {await fine()}"
        return "never"

    used = coroutine if kind == "coroutine" else thread
    async with worker(env.client, calls, activities=[used, fine]) as running:
        handle = await env.client.start_workflow(calls, id="calls", task_queue=QUEUE)
        expected = {"exit": "SystemExit", "odd": "Odd", "pytest": "Failed", "group": "BaseExceptionGroup"}
        assert await handle.result() == f"{expected[way]}, fine"
        assert running.is_running


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", ["run", "signal", "task"])
async def test_a_workflow_that_raises_no_exception_waits_for_mended_code(
    env: WorkflowEnvironment, place: str, way: str
) -> None:
    @workflow.defn(name="raises")
    class Raises:
        @workflow.run
        async def run(self) -> None:
            if place == "run":
                WAYS[way]()
            if place == "task":
                await asyncio.create_task(self.raises())
            await workflow.wait_condition(lambda: False)

        async def raises(self) -> None:
            WAYS[way]()

        @workflow.signal
        async def hurt(self) -> None:
            if place == "signal":
                WAYS[way]()

    async with worker(env.client, Raises) as running:
        handle = await env.client.start_workflow(Raises.run, id="raises", task_queue=QUEUE)
        await handle.signal("hurt")
        found = await until(handle, lambda found: found.task_attempt > 1 and found.task_failure)
        assert running.is_running

    assert found.task_failure == "unhandled_failure"
    await handle.terminate()


async def test_a_result_that_has_no_encoding_waits_for_mended_code(env: WorkflowEnvironment) -> None:
    @workflow.defn(name="returns")
    async def wrong() -> Any:
        return object()

    @workflow.defn(name="returns")
    async def right() -> Any:
        return "right"

    async with worker(env.client, wrong):
        handle = await env.client.start_workflow("returns", id="returns", task_queue=QUEUE)
        found = await until(handle, lambda found: found.task_attempt > 1)
    assert found.status == WorkflowExecutionStatus.RUNNING
    assert "has no JSON form" in str(found.last_task_failure)
    async with worker(env.client, right):
        assert await handle.result() == "right"


async def test_a_type_that_only_the_function_knows_is_named_before_anything_starts(
    env: WorkflowEnvironment,
) -> None:
    """Annotations are text here, and the class they name is local: common in tests of users."""

    @dataclass
    class Local:
        number: int

    @activity.defn
    async def takes(local: Local) -> Local:
        return Local(local.number + 1)

    @workflow.defn
    async def flow(local: Local) -> Local:
        return await takes(local)

    with pytest.raises(TypeError, match="flow: an annotation names 'Local'"):
        await env.client.start_workflow(flow, Local(1), id="local", task_queue=QUEUE)
    assert not [run async for run in env.client.list_workflows()]


async def test_a_workflow_that_catches_everything_can_still_be_stopped_and_evicted(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def clings() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except BaseException:  # noqa: S110 - exactly what it should not do
                pass

    async with worker(env.client, clings, max_cached_workflows=1):
        handle = await env.client.start_workflow(clings, id="clings", task_queue=QUEUE)
        await count_of(handle, "TimerStarted", 1)
        await handle.cancel()
        await count_of(handle, "TimerStarted", 2)
        await handle.terminate()

    assert (await handle.describe()).status == WorkflowExecutionStatus.TERMINATED


async def test_errors_whose_text_is_broken_are_reported_all_the_same(env: WorkflowEnvironment) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Circular(Exception): ...

    @activity.defn
    async def broken() -> None:
        raise Broken

    @activity.defn
    async def circular() -> None:
        first, second = Circular("first"), Circular("second")
        first.__cause__, second.__cause__ = second, first
        raise first

    @workflow.defn
    async def calls() -> list[str]:
        seen = []
        for each in (broken, circular):
            try:
                await each.options(retry_policy=ONCE)()
            except Exception as error:
                assert isinstance(error.__cause__, ApplicationError)
                seen.append(str(error.__cause__.type))
        return seen

    assert await outcome(env, calls, activities=[broken, circular]) == ["Broken", "Circular"]


async def test_a_failure_that_passes_through_a_workflow_keeps_its_chain(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def deep() -> None:
        try:
            raise KeyError("root")
        except KeyError as error:
            raise ApplicationError("middle", 1, type="Middle", non_retryable=True) from error

    @workflow.defn
    async def wraps() -> None:
        try:
            await deep()
        except Exception as error:
            raise ApplicationError("top", type="Top") from error

    error = await failure(outcome(env, wraps, activities=[deep]))

    assert told(error) == [
        ["ApplicationError", "top", "Top", []],
        ["ActivityError", "Activity task failed", "NON_RETRYABLE_FAILURE"],
        ["ApplicationError", "middle", "Middle", [1]],
        ["ApplicationError", "'root'", "KeyError", []],
    ]


async def test_equal_timers_wake_in_the_order_they_were_made(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def wakes() -> list[int]:
        order: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(0.05)
            order.append(number)

        await asyncio.gather(*(one(number) for number in range(30)))
        return order

    assert await outcome(env, wakes) == list(range(30))


async def test_code_that_awaits_what_is_no_future_of_ours_fails_its_task_and_says_so(
    env: WorkflowEnvironment,
) -> None:
    outside = asyncio.get_running_loop().create_future()

    @workflow.defn
    async def awaits() -> None:
        await outside

    async with worker(env.client, awaits):
        handle = await env.client.start_workflow(awaits, id="awaits", task_queue=QUEUE)
        found = await until(handle, lambda found: found.task_attempt > 1 and found.task_failure)

    assert found.task_failure == "unhandled_failure"
    assert "loop" in str(found.last_task_failure)
    await handle.terminate()
