"""Activities called in every way that ported code calls them."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.common import RetryPolicy
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import A_MINUTE, PATIENCE_S, event_types, failure, outcome, worker


@activity.defn
async def add(left: int, right: int = 0) -> int:
    return left + right


@activity.defn(name="shout-it")
def shout(text: str) -> str:
    return text.upper()


class Stock:
    def __init__(self, count: int) -> None:
        self.count = count

    @activity.defn
    async def take(self, count: int) -> int:
        self.count -= count
        return self.count

    @activity.defn
    def look(self) -> int:
        return self.count


@activity.defn
class Doubler:
    async def __call__(self, number: int) -> int:
        return number * 2


async def test_every_way_to_call_an_activity_gives_its_result(env: WorkflowEnvironment) -> None:
    @workflow.defn
    class Ways:
        @workflow.run
        async def run(self) -> list[Any]:
            options = {"start_to_close_timeout": A_MINUTE}
            by_handle = workflow.start_activity(add, args=[5, 6], **options)  # type: ignore[var-annotated]
            return [
                await workflow.execute_activity(add, 1, **options),
                await workflow.execute_activity(add, args=[1, 2], **options),
                await workflow.execute_activity("add", args=[3, 4], result_type=int, **options),
                await by_handle,
                await workflow.execute_activity(shout, "a", schedule_to_close_timeout=A_MINUTE),
                await workflow.execute_activity("shout-it", "b", **options),
                await workflow.execute_activity_method(Stock.take, 1, **options),
                await workflow.start_activity_method(Stock.look, **options),
                await workflow.execute_activity_class(Doubler, 4, **options),
                await workflow.start_activity_class(Doubler, 5, **options),
                await add.options(start_to_close_timeout=A_MINUTE)(7, right=8),
            ]

    stock = Stock(10)
    result = await outcome(env, Ways, activities=[add, shout, stock.take, stock.look, Doubler()])

    assert result == [1, 3, 7, 11, "A", "B", 9, 9, 8, 10, 15]


async def test_gathered_activities_overlap_and_keep_their_order(env: WorkflowEnvironment) -> None:
    everybody = asyncio.Barrier(20)

    @activity.defn
    async def meet(number: int) -> int:
        async with everybody:
            return number

    @workflow.defn
    async def party() -> list[int]:
        handles = [
            workflow.start_activity(meet, n, schedule_to_close_timeout=timedelta(seconds=PATIENCE_S))
            for n in range(20)
        ]
        return list(await asyncio.gather(*handles))

    assert await outcome(env, party, activities=[meet]) == list(range(20))


async def test_synchronous_activities_overlap_in_threads(env: WorkflowEnvironment) -> None:
    everybody = threading.Barrier(10, timeout=PATIENCE_S)

    @activity.defn
    def meet() -> int:
        everybody.wait()
        return threading.get_ident()

    @workflow.defn
    async def party() -> int:
        return len(set(await asyncio.gather(*(meet() for _ in range(10)))))

    assert await outcome(env, party, activities=[meet]) == 10


async def test_a_blocking_thread_does_not_hold_up_other_work(env: WorkflowEnvironment) -> None:
    may_end = threading.Event()

    @activity.defn
    def blocks() -> bool:
        return may_end.wait(PATIENCE_S)

    @activity.defn
    async def frees() -> None:
        may_end.set()

    @workflow.defn
    async def both() -> bool:
        blocked = workflow.start_activity(blocks, start_to_close_timeout=A_MINUTE)
        await frees()
        return await blocked

    assert await outcome(env, both, activities=[blocks, frees]) is True


async def test_an_activity_goes_to_the_queue_it_is_called_with(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def where() -> str:
        return activity.info().task_queue

    @workflow.defn
    async def elsewhere() -> str:
        return await workflow.execute_activity(
            where, task_queue="far * away > 🙂", start_to_close_timeout=A_MINUTE
        )

    async with worker(env.client, activities=[where], task_queue="far * away > 🙂"):
        assert await outcome(env, elsewhere) == "far * away > 🙂"


async def test_an_activity_knows_its_call(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def ask() -> dict[str, Any]:
        info = activity.info()
        return {
            "id": info.activity_id,
            "type": info.activity_type,
            "attempt": info.attempt,
            "timeouts": [
                info.schedule_to_close_timeout,
                info.start_to_close_timeout,
                info.heartbeat_timeout,
            ],
            "workflow": [info.workflow_id, info.workflow_type, info.workflow_namespace, info.workflow_run_id],
            "order": info.scheduled_time <= info.started_time,
            "in": [activity.in_activity(), info.in_workflow, info.is_local],
        }

    @workflow.defn
    async def asks() -> tuple[dict[str, Any], str]:
        return (
            await workflow.execute_activity(
                ask,
                activity_id="my id",
                schedule_to_close_timeout=timedelta(seconds=50),
                start_to_close_timeout=timedelta(seconds=40),
                heartbeat_timeout=timedelta(seconds=30),
            ),
            workflow.info().run_id,
        )

    known, run_id = await outcome(env, asks, activities=[ask])

    assert known == {
        "id": "my id",
        "type": "ask",
        "attempt": 1,
        "timeouts": ["PT50S", "PT40S", "PT30S"],
        "workflow": ["run", "asks", "main", run_id],
        "order": True,
        "in": [True, True, False],
    }


async def test_workflow_code_that_calls_an_activity_wrongly_is_told_before_anything_is_scheduled(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def wrong() -> list[str]:
        complaints = []
        for call in (
            lambda: workflow.start_activity(add, 1, args=[1, 2]),
            lambda: workflow.start_activity(add, 1, retry_policy=RetryPolicy(backoff_coefficient=0.5)),
            lambda: workflow.start_activity(add, object()),
            lambda: workflow.start_activity(5),  # type: ignore[call-overload]
            lambda: workflow.start_activity(lambda: None),
        ):
            try:
                call()
            except Exception as error:
                complaints.append(type(error).__name__)
        return complaints

    async with worker(env.client, wrong, activities=[add]):
        handle = await env.client.start_workflow(wrong, id="wrong", task_queue="stage")
        assert await handle.result() == ["ValueError", "ValueError", "Invalid", "TypeError", "ValueError"]

    assert "ActivityScheduled" not in await event_types(handle)


@pytest.mark.parametrize("slots", [1, 4])
async def test_a_worker_runs_no_more_threads_than_it_has_slots(env: WorkflowEnvironment, slots: int) -> None:
    lock, running, most = threading.Lock(), 0, 0

    @activity.defn
    def counted() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1

    @workflow.defn
    async def many() -> None:
        await asyncio.gather(*(counted() for _ in range(40)))

    await outcome(env, many, activities=[counted], max_concurrent_activities=slots)

    assert most <= slots


async def test_an_unregistered_activity_without_retries_fails_with_the_names_that_exist(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def mistaken() -> None:
        await workflow.execute_activity(
            "ad",
            start_to_close_timeout=A_MINUTE,
            retry_policy=RetryPolicy(non_retryable_error_types=["NotFoundError"]),
        )

    error = await failure(outcome(env, mistaken, activities=[add, shout]))

    assert isinstance(error.__cause__, ApplicationError)
    assert error.__cause__.type == "NotFoundError"
    assert "available activities: add, shout-it" in error.__cause__.message
