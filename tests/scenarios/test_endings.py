"""How workflows end: by themselves, cancelled, terminated; and what they may still do meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.client import RPCError, RPCStatusCode, WorkflowExecutionStatus, WorkflowFailureError
from holdfast.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    TerminatedError,
    is_cancelled_exception,
)
from holdfast.testing import WorkflowEnvironment
from holdfast.workflow import ActivityCancellationType
from tests.scenarios.stage import A_MINUTE, QUEUE, count_of, event_types, failure, outcome, told, worker

done: list[str] = []


@activity.defn
async def note(text: str) -> str:
    done.append(text)
    return text


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


async def cancel_once_it_waits(env: WorkflowEnvironment, handle: Any) -> None:
    """Cancel the run when its code stands still: its first task is answered."""
    await count_of(handle, "WorkflowTaskCompleted", 1)
    await handle.cancel(reason="test")


async def start_and_cancel(env: WorkflowEnvironment, fn: Any) -> Any:
    handle = await env.client.start_workflow(fn, id="run", task_queue=QUEUE)
    await cancel_once_it_waits(env, handle)
    return handle


async def test_a_cancelled_sleep_raises_and_the_run_ends_as_cancelled(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def sleeps() -> None:
        await workflow.sleep(1000)

    async with worker(env.client, sleeps):
        handle = await start_and_cancel(env, sleeps)
        error = await failure(handle.result())

    assert told(error) == [["CancelledError", "Workflow cancelled"]]
    assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED
    assert (await event_types(handle))[-3:] == [
        "WorkflowTaskCompleted",
        "TimerCancelled",
        "WorkflowCancelled",
    ]


async def test_clean_up_may_wait_for_activities_and_timers(env: WorkflowEnvironment) -> None:
    @workflow.defn
    class Tidy:
        @workflow.run
        async def run(self) -> None:
            try:
                await workflow.wait_condition(lambda: False)
            finally:
                await workflow.execute_activity(note, "first", start_to_close_timeout=A_MINUTE)
                await asyncio.sleep(0.01)
                await note(f"then {workflow.cancellation_reason()}")

    async with worker(env.client, Tidy, activities=[note]):
        handle = await start_and_cancel(env, Tidy.run)
        assert isinstance(await failure(handle.result()), CancelledError)

    assert done == ["first", "then test"]


async def test_a_shielded_activity_outlives_the_cancellation(env: WorkflowEnvironment) -> None:
    may_end, noticed = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def important() -> str:
        await may_end.wait()
        done.append("important")
        return "kept"

    @workflow.defn
    async def shields() -> str:
        handle = workflow.start_activity(important, start_to_close_timeout=A_MINUTE)
        try:
            return await asyncio.shield(handle)
        except asyncio.CancelledError:
            noticed.set()
            return await handle

    async with worker(env.client, shields, activities=[important]):
        handle = await start_and_cancel(env, shields)
        await noticed.wait()
        may_end.set()
        assert await handle.result() == "kept"

    assert done == ["important"]
    assert "ActivityCancelRequested" not in await event_types(handle)


async def test_a_run_that_waits_for_an_activity_ends_cancelled_when_it_lets_the_error_through(
    env: WorkflowEnvironment,
) -> None:
    @activity.defn
    async def endless() -> None:
        await asyncio.Event().wait()

    @workflow.defn
    async def waits() -> None:
        try:
            await workflow.execute_activity(
                endless,
                start_to_close_timeout=A_MINUTE,
                cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
        except ActivityError as error:
            assert is_cancelled_exception(error)
            await note(type(error.cause).__name__)
            raise

    async with worker(env.client, waits, activities=[endless, note]):
        handle = await start_and_cancel(env, waits)
        assert isinstance(await failure(handle.result()), CancelledError)

    assert done == ["CancelledError"]


async def test_a_run_may_answer_a_cancellation_with_a_result_or_another_failure(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def returns() -> str:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return "partial"
        return "never"

    @workflow.defn
    async def fails() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError as error:
            raise ApplicationError("compensation failed", type="Comp") from error

    async with worker(env.client, returns, fails):
        handle = await start_and_cancel(env, returns)
        assert await handle.result() == "partial"
        handle = await start_and_cancel(env, fails)
        error = await failure(handle.result())

    assert told(error)[0] == ["ApplicationError", "compensation failed", "Comp", []]
    assert (await handle.describe()).status == WorkflowExecutionStatus.FAILED


async def test_only_the_first_cancel_request_is_delivered(env: WorkflowEnvironment) -> None:
    @workflow.defn
    class Stubborn:
        def __init__(self) -> None:
            self.cancels = 0
            self.may_end = False

        @workflow.run
        async def run(self) -> int:
            while not self.may_end:
                try:
                    await workflow.wait_condition(lambda: self.may_end)
                except asyncio.CancelledError:
                    self.cancels += 1
            return self.cancels

        @workflow.signal
        def end(self) -> None:
            self.may_end = True

    async with worker(env.client, Stubborn):
        handle = await start_and_cancel(env, Stubborn.run)
        await handle.cancel()
        await handle.cancel(reason="again")
        assert (await handle.describe()).is_cancel_requested
        await handle.signal(Stubborn.end)
        assert await handle.result() == 1

    assert (await event_types(handle)).count("WorkflowCancelRequested") == 1


async def test_cancelling_reaches_every_task_that_the_run_awaits(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def many() -> None:
        async def part(number: int) -> None:
            try:
                await asyncio.sleep(1000 + number)
            finally:
                await note(f"part {number}")

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(part(number))

    async with worker(env.client, many, activities=[note]):
        handle = await start_and_cancel(env, many)
        assert isinstance(await failure(handle.result()), CancelledError)

    assert sorted(done) == ["part 0", "part 1", "part 2"]


async def test_a_closed_run_refuses_to_be_cancelled_or_terminated(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def quick() -> None: ...

    async with worker(env.client, quick):
        handle = await env.client.start_workflow(quick, id="quick", task_queue=QUEUE)
        await handle.result()

    for call in (handle.cancel, handle.terminate):
        with pytest.raises(RPCError, match="is closed \\(COMPLETED\\)") as caught:
            await call()
        assert caught.value.status == RPCStatusCode.FAILED_PRECONDITION


async def test_terminate_runs_no_clean_up(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def cleans() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await note("never")

    async with worker(env.client, cleans, activities=[note]):
        handle = await env.client.start_workflow(cleans, id="cleans", task_queue=QUEUE)
        await count_of(handle, "TimerStarted", 1)
        await handle.terminate(reason="stop")
        error = await failure(handle.result())

    assert isinstance(error, TerminatedError)
    assert (error.message, done) == ("stop", [])
    types = await event_types(handle)
    assert types[-1] == "WorkflowTerminated"
    assert not (await handle.describe()).timer_fire_times


async def test_an_unhandled_timeout_in_workflow_code_fails_the_workflow(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def too_slow() -> None:
        await workflow.wait_condition(lambda: False, timeout=0.02)

    error = await failure(outcome(env, too_slow))

    assert isinstance(error, ApplicationError)
    assert error.type == "TimeoutError"


async def test_declared_exceptions_fail_the_workflow_instead_of_its_task(env: WorkflowEnvironment) -> None:
    class Mine(Exception): ...

    class Worse(Mine): ...

    @workflow.defn(failure_exception_types=[Mine])
    async def by_workflow() -> None:
        raise Worse("a subclass")

    @workflow.defn
    async def by_worker() -> None:
        raise LookupError("declared at the worker")

    async with worker(env.client, by_workflow, by_worker, workflow_failure_exception_types=[LookupError]):
        first = await failure(env.client.execute_workflow(by_workflow, id="first", task_queue=QUEUE))
        second = await failure(env.client.execute_workflow(by_worker, id="second", task_queue=QUEUE))

    assert told(first) == [["ApplicationError", "a subclass", "Worse", []]]
    assert told(second) == [["ApplicationError", "declared at the worker", "LookupError", []]]


async def test_every_way_to_end_is_told_to_a_second_client_too(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def ends(how: str) -> str:
        if how == "fails":
            raise ApplicationError("failed", 1, type="T")
        if how == "waits":
            await asyncio.sleep(1000)
        return how

    async with await env.connect() as other:
        async with worker(env.client, ends):
            waiting = {}
            for id, how in (("ok", "ok"), ("no", "fails"), ("cancel", "waits"), ("end", "waits")):
                await env.client.start_workflow(ends, how, id=id, task_queue=QUEUE)
                waiting[id] = asyncio.create_task(other.get_workflow_handle_for(ends, id).result(), name=id)
            await env.client.get_workflow_handle("cancel").cancel()
            await env.client.get_workflow_handle("end").terminate("d", reason="r")
            ended = dict(
                zip(waiting, await asyncio.gather(*waiting.values(), return_exceptions=True), strict=True)
            )

    assert ended.pop("ok") == "ok"
    causes = {}
    for id, error in ended.items():
        assert isinstance(error, WorkflowFailureError)
        causes[id] = told(error.cause)
    assert causes == {
        "no": [["ApplicationError", "failed", "T", [1]]],
        "cancel": [["CancelledError", "Workflow cancelled"]],
        "end": [["TerminatedError", "r"]],
    }
