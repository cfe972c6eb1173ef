"""Code that is wrong: the run waits, says why, and goes on by itself when the code is mended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.client import WorkflowExecutionStatus
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import A_MINUTE, QUEUE, count_of, event_types, told, worker
from tests.sdk.patience import until


@activity.defn
async def echo(value: Any) -> Any:
    return value


async def test_a_run_of_an_unknown_type_waits_for_a_worker_that_knows_it(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def known() -> str:
        return "known"

    @workflow.defn(name="not yet deployed")
    async def later(name: str) -> str:
        return f"hello {name}"

    async with worker(env.client, known):
        handle = await env.client.start_workflow(
            "not yet deployed", "you", id="later", task_queue=QUEUE, result_type=str
        )
        found = await until(handle, lambda found: found.task_attempt > 1)
        # The worker goes on with what it knows.
        assert await env.client.execute_workflow(known, id="known", task_queue=QUEUE) == "known"
        failing = [run.id async for run in env.client.list_workflows("TaskFailing = true")]

    assert found.status == WorkflowExecutionStatus.RUNNING
    assert found.task_failure == "unknown_workflow_type"
    assert failing == ["later"]
    async with worker(env.client, known, later):
        assert await handle.result() == "hello you"
    assert (await handle.describe()).task_failure is None
    assert not [run async for run in env.client.list_workflows("TaskFailing = true")]


async def test_a_bug_after_work_was_done_is_mended_without_doing_it_again(env: WorkflowEnvironment) -> None:
    calls = 0

    @activity.defn
    async def charge() -> int:
        nonlocal calls
        calls += 1
        return 42

    @workflow.defn(name="shop")
    async def broken() -> int:
        cents = await charge()
        return cents // 0

    @workflow.defn(name="shop")
    async def mended() -> int:
        cents = await charge()
        return cents // 2

    async with worker(env.client, broken, activities=[charge]):
        handle = await env.client.start_workflow(broken, id="shop", task_queue=QUEUE)
        found = await until(handle, lambda found: found.task_attempt > 1)

    assert told(found.last_task_failure) == [
        ["ApplicationError", "integer division or modulo by zero", "ZeroDivisionError", []]
    ]
    assert found.next_task_time is not None
    async with worker(env.client, mended, activities=[charge]):
        assert await handle.result() == 21
    assert calls == 1
    assert (await event_types(handle)).count("WorkflowTaskFailed") == 1


async def test_attempts_of_a_failing_task_are_counted_but_recorded_once(env: WorkflowEnvironment) -> None:
    attempts = 0

    @workflow.defn
    async def broken() -> None:
        nonlocal attempts
        attempts += 1
        raise KeyError("typo")

    async with worker(env.client, broken):
        handle = await env.client.start_workflow(broken, id="broken", task_queue=QUEUE)
        found = await until(handle, lambda found: found.task_attempt > 2)

    assert attempts == 2
    assert found.next_task_time is not None
    assert await event_types(handle) == ["WorkflowStarted", "WorkflowTaskFailed"]
    await handle.terminate()


async def test_a_signal_that_mends_a_failing_run_needs_no_patience(env: WorkflowEnvironment) -> None:
    """The code fails for want of something that a signal brings; the backoff is not waited for."""

    @workflow.defn
    class Needs:
        def __init__(self) -> None:
            self.value: dict[str, int] = {}

        @workflow.run
        async def run(self) -> int:
            return self.value["it"]

        @workflow.signal
        def bring(self, value: int) -> None:
            self.value["it"] = value

    async with worker(env.client, Needs):
        handle = await env.client.start_workflow(Needs.run, id="needs", task_queue=QUEUE)
        await until(handle, lambda found: found.task_attempt > 1)
        await handle.signal(Needs.bring, 7)
        async with asyncio.timeout(10):
            assert await handle.result() == 7


def change() -> tuple[Any, Any]:
    """A workflow, and what somebody made of it who did not think of running ones."""

    @workflow.defn(name="changes")
    class Before:
        def __init__(self) -> None:
            self.may_end = False

        @workflow.run
        async def run(self) -> list[Any]:
            first = await echo("a")
            await asyncio.sleep(0.01)
            await workflow.wait_condition(lambda: self.may_end)
            return [first, await echo("b")]

        @workflow.signal
        def end(self) -> None:
            self.may_end = True

    @workflow.defn(name="changes")
    class After:
        def __init__(self) -> None:
            self.may_end = False

        @workflow.run
        async def run(self) -> list[Any]:
            first = await echo("a")
            second = await workflow.execute_activity("audit", "new here", start_to_close_timeout=A_MINUTE)
            await workflow.wait_condition(lambda: self.may_end)
            return [first, second]

        @workflow.signal
        def end(self) -> None:
            self.may_end = True

    return Before, After


async def test_a_nondeterministic_change_is_told_as_a_difference_and_a_rollback_mends_it(
    env: WorkflowEnvironment,
) -> None:
    before, after = change()
    async with worker(env.client, before, activities=[echo], build_id="build-1"):
        handle = await env.client.start_workflow("changes", id="changes", task_queue=QUEUE)
        await count_of(handle, "TimerFired", 1)
    await handle.signal("end")
    async with worker(env.client, after, activities=[echo], build_id="build-2"):
        found = await until(handle, lambda found: found.task_attempt > 1)

    message = str(found.last_task_failure)
    assert found.task_failure == "nondeterminism"
    for part in (
        "expected TimerStarted",
        "'build-1'",
        "ScheduleActivity",
        "name='audit'",
        "test_broken_code.py",
        "patched()",
    ):
        assert part in message
    assert "ActivityCompleted" in await event_types(handle)
    async with worker(env.client, before, activities=[echo], build_id="build-1"):
        assert await handle.result() == ["a", "b"]


async def test_code_that_asks_for_less_than_before_is_nondeterminism_too(env: WorkflowEnvironment) -> None:
    @workflow.defn(name="less")
    async def before() -> None:
        await asyncio.gather(asyncio.sleep(3600), echo("x"))

    @workflow.defn(name="less")
    async def after() -> None:
        await echo("x")

    async with worker(env.client, before, activities=[echo]):
        handle = await env.client.start_workflow(before, id="less", task_queue=QUEUE)
        await count_of(handle, "ActivityCompleted", 1)
    await handle.signal("wake")
    async with worker(env.client, after, activities=[echo]):
        found = await until(handle, lambda found: found.task_attempt > 1)

    assert found.task_failure == "nondeterminism"
    await handle.terminate()


@dataclass
class Wanted:
    number: int


@pytest.mark.parametrize(
    "given", [{"number": "many"}, {}, "text", [1], None], ids=["type", "missing", "text", "list", "null"]
)
async def test_input_that_does_not_decode_waits_for_code_that_can_read_it(
    env: WorkflowEnvironment, given: Any
) -> None:
    @workflow.defn(name="reads")
    async def strict(wanted: Wanted) -> int:
        return wanted.number

    @workflow.defn(name="reads")
    async def lenient(wanted: Any) -> Any:
        return wanted

    async with worker(env.client, strict):
        handle = await env.client.start_workflow("reads", given, id="reads", task_queue=QUEUE)
        found = await until(handle, lambda found: found.task_attempt > 1)

    assert found.task_failure == "payload"
    assert "argument 1" in str(found.last_task_failure)
    async with worker(env.client, lenient):
        assert await handle.result() == given


async def test_too_few_or_too_many_arguments_leave_the_run_open(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def two(left: int, right: int) -> int:
        return left + right

    async with worker(env.client, two):
        few = await env.client.start_workflow("two", 1, id="few", task_queue=QUEUE)
        many = await env.client.start_workflow("two", args=[1, 2, 3], id="many", task_queue=QUEUE)
        for handle in (few, many):
            found = await until(handle, lambda found: found.task_attempt > 1)
            assert found.status == WorkflowExecutionStatus.RUNNING
            assert isinstance(found.last_task_failure, ApplicationError)
            await handle.terminate()


async def test_a_result_of_an_activity_that_does_not_decode_waits_for_mended_code(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn(name="reads")
    async def strict() -> int:
        return await workflow.execute_activity(
            "echo", "text", result_type=int, start_to_close_timeout=A_MINUTE
        )

    @workflow.defn(name="reads")
    async def mended() -> str:
        return await workflow.execute_activity(
            "echo", "text", result_type=str, start_to_close_timeout=A_MINUTE
        )

    async with worker(env.client, strict, activities=[echo]):
        handle = await env.client.start_workflow("reads", id="reads", task_queue=QUEUE)
        found = await until(handle, lambda found: found.task_attempt > 1)
    assert found.task_failure == "payload"
    async with worker(env.client, mended, activities=[echo]):
        assert await handle.result() == "text"


async def test_a_class_that_cannot_be_made_leaves_the_run_open(env: WorkflowEnvironment) -> None:
    @workflow.defn
    class Unmade:
        def __init__(self) -> None:
            self.missing = {}["x"]  # type: ignore[var-annotated]

        @workflow.run
        async def run(self) -> None: ...

    async with worker(env.client, Unmade):
        handle = await env.client.start_workflow(Unmade.run, id="unmade", task_queue=QUEUE)
        found = await until(handle, lambda found: found.task_attempt > 1)

    assert told(found.last_task_failure) == [["ApplicationError", "'x'", "KeyError", []]]
    await handle.terminate()
