"""Activities on a real worker: threads, failures, heartbeats, cancellation, shutdown."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from holdfast import Worker, activity, workflow
from holdfast.client import WorkflowFailureError
from holdfast.common import RawValue, RetryPolicy
from holdfast.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutError, TimeoutType
from holdfast.testing import WorkflowEnvironment
from tests.sdk.patience import PATIENCE_S, until

ONCE = RetryPolicy(maximum_attempts=1)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=20))


async def failure_of(call: Any) -> ActivityError:
    """The activity error that the workflow failed with."""
    with pytest.raises(WorkflowFailureError) as caught:
        await call
    assert isinstance(caught.value.cause, ActivityError)
    return caught.value.cause


def calling(fn: Any, *args: Any, **options: Any) -> Any:
    """A workflow that calls the activity *fn* once."""

    @workflow.defn(name=f"call-{fn.__name__}")
    async def call() -> Any:
        return await fn.options(**options)(*args)

    return call


async def run_one(env: WorkflowEnvironment, fn: Any, *args: Any, worker: Any = None, **options: Any) -> Any:
    """The result of a workflow that calls the activity *fn* once, on a worker of its own."""
    queue = f"queue-{fn.__name__}"
    flow = calling(fn, *args, **options)
    async with Worker(env.client, task_queue=queue, workflows=[flow], activities=[fn], **(worker or {})):
        return await env.client.execute_workflow(flow, id=f"one-{fn.__name__}", task_queue=queue)


# -- calling


async def test_a_synchronous_activity_runs_in_a_thread_with_its_context(env: WorkflowEnvironment) -> None:
    @activity.defn
    def in_thread(name: str) -> list[Any]:
        return [name, threading.current_thread() is threading.main_thread(), activity.info().activity_type]

    assert await run_one(env, in_thread, "a") == ["a", False, "in_thread"]


async def test_threads_of_the_users_executor_are_used(env: WorkflowEnvironment) -> None:
    @activity.defn
    def named() -> str:
        return threading.current_thread().name

    with ThreadPoolExecutor(1, "mine") as executor:
        assert (await run_one(env, named, worker={"activity_executor": executor})).startswith("mine")


async def test_methods_and_dynamic_activities_are_called(env: WorkflowEnvironment) -> None:
    class Shop:
        prefix = "to "

        @activity.defn
        async def ship(self, item: str) -> str:
            return self.prefix + item

    @activity.defn(dynamic=True)
    async def anything(args: Sequence[RawValue]) -> str:
        return f"{activity.info().activity_type} {[activity.payload_converter().from_payload(a.payload) for a in args]}"

    @workflow.defn
    async def both() -> list[str]:
        one = await workflow.execute_activity_method(
            Shop.ship, "you", start_to_close_timeout=timedelta(seconds=5)
        )
        two = await workflow.execute_activity(
            "other", args=[1, "x"], start_to_close_timeout=timedelta(seconds=5)
        )
        return [one, two]

    shop = Shop()
    async with Worker(env.client, task_queue="both", workflows=[both], activities=[shop.ship, anything]):
        result = await env.client.execute_workflow(both, id="both", task_queue="both")

    assert result == ["to you", "other [1, 'x']"]


async def test_context_variables_of_one_activity_do_not_reach_another(env: WorkflowEnvironment) -> None:
    mine = contextvars.ContextVar("mine", default="unset")

    @activity.defn
    async def leaky() -> str:
        before = mine.get()
        mine.set("set")
        return before

    @workflow.defn
    async def twice() -> list[str]:
        return [await leaky(), await leaky()]

    async with Worker(env.client, task_queue="leaky", workflows=[twice], activities=[leaky]):
        assert await env.client.execute_workflow(twice, id="leaky", task_queue="leaky") == ["unset"] * 2


async def test_an_async_activity_has_the_workers_client(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def spawn() -> str:
        handle = await activity.client().start_workflow("nobody", id="from-activity", task_queue="nobody")
        await handle.terminate()
        return handle.id

    assert await run_one(env, spawn) == "from-activity"


# -- failing


async def test_a_failed_activity_is_tried_again_and_knows_it(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def third_time_lucky() -> int:
        if activity.info().attempt < 3:
            raise OSError("not yet")
        return activity.info().attempt

    assert await run_one(env, third_time_lucky, retry_policy=SOON) == 3


async def test_an_error_type_that_is_not_to_be_retried_is_not(env: WorkflowEnvironment) -> None:
    attempts = 0

    @activity.defn
    async def picky() -> None:
        nonlocal attempts
        attempts += 1
        raise KeyError("no")

    policy = RetryPolicy(initial_interval=timedelta(milliseconds=1), non_retryable_error_types=["KeyError"])
    error = await failure_of(run_one(env, picky, retry_policy=policy))

    assert isinstance(error.cause, ApplicationError)
    assert (error.cause.type, attempts) == ("KeyError", 1)


async def test_an_unregistered_activity_is_retried_and_the_known_ones_are_named(
    env: WorkflowEnvironment,
) -> None:
    @activity.defn
    async def missing() -> str:
        return "there now"

    @activity.defn
    async def other() -> None: ...

    flow = calling(missing, retry_policy=SOON)
    async with Worker(env.client, task_queue="missing", workflows=[flow], activities=[other]):
        handle = await env.client.start_workflow(flow, id="missing", task_queue="missing")
        found = await until(
            handle, lambda found: found.pending_activities and found.pending_activities[0].last_failure
        )
    assert "available activities: other" in str(found.pending_activities[0].last_failure)

    async with Worker(env.client, task_queue="missing", activities=[missing], workflows=[flow]):
        assert await handle.result() == "there now"


@pytest.mark.parametrize("given", ["text", {"a": 1}], ids=["text", "object"])
async def test_arguments_that_do_not_decode_fail_the_activity_and_say_which(
    env: WorkflowEnvironment, given: Any
) -> None:
    @activity.defn
    async def wants_number(count: int) -> int:
        return count

    error = await failure_of(run_one(env, wants_number, given, retry_policy=ONCE))

    assert "argument 1 of 1" in str(error.cause)


async def test_a_result_without_an_encoding_fails_the_activity(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def odd() -> object:
        return object()

    error = await failure_of(run_one(env, odd, retry_policy=ONCE))

    assert "has no JSON form" in str(error.cause)


# -- timeouts and heartbeats


async def test_an_activity_that_runs_too_long_is_stopped_and_times_out(env: WorkflowEnvironment) -> None:
    ended = asyncio.Event()

    @activity.defn
    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    error = await failure_of(
        run_one(env, endless, retry_policy=ONCE, start_to_close_timeout=timedelta(seconds=0.2))
    )

    assert isinstance(error.cause, TimeoutError)
    assert error.cause.type == TimeoutType.START_TO_CLOSE
    assert ended.is_set()


async def test_what_one_attempt_reported_reaches_the_next(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def resumable() -> list[Any]:
        before = list(activity.info().heartbeat_details)
        if not before:
            for position in range(50):
                activity.heartbeat(position)
            raise OSError("crash")
        return before

    assert await run_one(env, resumable, retry_policy=SOON) == [49]


async def test_a_thread_can_heartbeat_too(env: WorkflowEnvironment) -> None:
    @activity.defn
    def resumable_thread() -> list[Any]:
        before = list(activity.info().heartbeat_details)
        if not before:
            activity.heartbeat("a", 1)
            raise OSError("crash")
        return before

    assert await run_one(env, resumable_thread, retry_policy=SOON) == ["a", 1]


async def test_a_silent_activity_loses_its_attempt_and_is_told(env: WorkflowEnvironment) -> None:
    told = asyncio.Event()

    @activity.defn
    async def silent() -> str:
        if activity.info().attempt > 1:
            return "second"
        activity.heartbeat()
        try:
            await asyncio.Event().wait()
        finally:
            told.set()
        return "never"

    result = await run_one(env, silent, retry_policy=SOON, heartbeat_timeout=timedelta(seconds=0.3))

    assert result == "second"
    assert told.is_set()


# -- cancellation


@workflow.defn
class Cancellable:
    @workflow.run
    async def run(self, name: str) -> Any:
        return await workflow.execute_activity(
            name,
            start_to_close_timeout=timedelta(seconds=60),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=ONCE,
        )


async def test_cancellation_reaches_an_activity_that_never_heartbeats(env: WorkflowEnvironment) -> None:
    began = asyncio.Event()
    seen: list[Any] = []

    @activity.defn
    async def quiet() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(activity.cancellation_details())
            raise

    async with Worker(env.client, task_queue="quiet", workflows=[Cancellable], activities=[quiet]):
        handle = await env.client.start_workflow(Cancellable.run, "quiet", id="quiet", task_queue="quiet")
        await began.wait()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()

    assert isinstance(caught.value.cause, CancelledError)
    assert [details.cancel_requested for details in seen] == [True]
    history = [event.event_type for event in (await handle.fetch_history()).events]
    assert "ActivityCancelled" in history


async def test_cancellation_interrupts_a_thread(env: WorkflowEnvironment) -> None:
    began, ended = threading.Event(), threading.Event()

    @activity.defn
    def busy() -> None:
        began.set()
        try:
            while True:
                activity.wait_for_cancelled_sync(0.01)
        finally:
            ended.set()

    async with Worker(env.client, task_queue="busy", workflows=[Cancellable], activities=[busy]):
        handle = await env.client.start_workflow(Cancellable.run, "busy", id="busy", task_queue="busy")
        await asyncio.to_thread(began.wait, PATIENCE_S)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()

    assert ended.is_set()


async def test_an_activity_may_finish_although_it_was_asked_to_stop(env: WorkflowEnvironment) -> None:
    began = asyncio.Event()

    @activity.defn
    async def stubborn() -> str:
        began.set()
        try:
            await activity.wait_for_cancelled()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done anyway"
        return "never"

    @workflow.defn
    async def waits() -> str:
        handle = workflow.start_activity(
            "stubborn",
            start_to_close_timeout=timedelta(seconds=60),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            result_type=str,
        )
        await asyncio.sleep(0.05)
        handle.cancel()
        return await handle

    async with Worker(env.client, task_queue="stubborn", workflows=[waits], activities=[stubborn]):
        assert await env.client.execute_workflow(waits, id="stubborn", task_queue="stubborn") == "done anyway"


# -- the worker stops


async def test_a_stopping_worker_lets_activities_finish_within_the_grace_period(
    env: WorkflowEnvironment,
) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def slow() -> str:
        began.set()
        await activity.wait_for_worker_shutdown()
        await may_end.wait()
        return "finished"

    flow = calling(slow)
    worker = Worker(
        env.client,
        task_queue="slow",
        workflows=[flow],
        activities=[slow],
        graceful_shutdown_timeout=timedelta(seconds=PATIENCE_S),
    )
    async with worker:
        handle = await env.client.start_workflow(flow, id="slow", task_queue="slow")
        await began.wait()
        stopping = asyncio.create_task(worker.shutdown())
        await asyncio.sleep(0)
        may_end.set()
        await stopping

    async with Worker(env.client, task_queue="slow", workflows=[flow]):
        assert await handle.result() == "finished"


async def test_what_a_stopping_worker_cancels_is_given_back_and_runs_elsewhere_at_once(
    env: WorkflowEnvironment,
) -> None:
    began = asyncio.Event()

    @activity.defn
    async def movable() -> int:
        if not began.is_set():
            began.set()
            await asyncio.Event().wait()
        return activity.info().attempt

    flow = calling(movable, retry_policy=RetryPolicy(initial_interval=timedelta(minutes=5)))
    handle = await env.client.start_workflow(flow, id="movable", task_queue="movable")
    async with Worker(env.client, task_queue="movable", workflows=[flow], activities=[movable]):
        await began.wait()

    async with Worker(env.client, task_queue="movable", workflows=[flow], activities=[movable]):
        async with asyncio.timeout(PATIENCE_S):
            assert await handle.result() == 1
