"""Time in workflows: sleeps, timeouts and races, durable and never early."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import QUEUE, count_of, event_types, everything_seen, outcome, worker
from tests.sdk.patience import until


async def test_a_sleep_never_ends_early_and_time_moves_with_it(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def sleeps() -> list[float]:
        at = [workflow.time()]
        for delay in (0.1, timedelta(milliseconds=50)):
            await workflow.sleep(delay)
            at.append(workflow.time())
        await asyncio.sleep(0.05)
        at.append(workflow.time())
        return [later - earlier for earlier, later in itertools.pairwise(at)]

    gaps = await outcome(env, sleeps)

    for gap, delay in zip(gaps, (0.1, 0.05, 0.05), strict=True):
        assert delay <= gap < delay + 2


async def test_timers_fire_in_the_order_of_their_times(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def sorts() -> list[int]:
        order: list[int] = []

        async def wake(number: int) -> None:
            await asyncio.sleep(number * 0.04)
            order.append(number)

        await asyncio.gather(*(wake(number) for number in (3, 1, 4, 2)))
        return order

    assert await outcome(env, sorts) == [1, 2, 3, 4]


async def test_a_hundred_timers_at_once_all_fire(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def many() -> int:
        await asyncio.gather(*(asyncio.sleep(0.05 + number / 10_000) for number in range(100)))
        return 100

    assert await outcome(env, many) == 100
    types = await event_types(env.client.get_workflow_handle("run"))
    assert types.count("TimerStarted") == types.count("TimerFired") == 100


@pytest.mark.parametrize("delay", [0, 0.0, -1, timedelta(0), timedelta(seconds=-5)], ids=str)
async def test_no_delay_yields_once_and_leaves_no_event(env: WorkflowEnvironment, delay: Any) -> None:
    @workflow.defn
    async def yields() -> list[str]:
        order: list[str] = []

        async def other() -> None:
            order.append("other")

        task = asyncio.create_task(other())
        await workflow.sleep(delay)
        order.append("self")
        await task
        return order

    async with worker(env.client, yields):
        handle = await env.client.start_workflow(yields, id="yields", task_queue=QUEUE)
        assert await handle.result() == ["other", "self"]

    assert "TimerStarted" not in await event_types(handle)


async def test_a_timeout_that_is_not_needed_is_cancelled_in_the_history(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def quick() -> int:
        return 1

    @workflow.defn
    async def hurries() -> int:
        async with asyncio.timeout(3600):
            return await quick()

    async with worker(env.client, hurries, activities=[quick]):
        handle = await env.client.start_workflow(hurries, id="hurries", task_queue=QUEUE)
        assert await handle.result() == 1

    types = await event_types(handle)
    assert types.count("TimerStarted") == types.count("TimerCancelled") == 1
    assert not (await handle.describe()).timer_fire_times


async def test_a_timeout_raises_where_it_stands_and_nested_ones_keep_apart(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def nested() -> list[str]:
        seen = []
        try:
            async with asyncio.timeout(30):
                try:
                    async with asyncio.timeout(0.03):
                        await asyncio.sleep(60)
                except TimeoutError:
                    seen.append("inner")
                async with asyncio.timeout(0.03) as late:
                    late.reschedule(None)
                    await asyncio.sleep(0.06)
                    seen.append(f"rescheduled, expired: {late.expired()}")
                async with asyncio.timeout(0.02):
                    await asyncio.sleep(60)
        except TimeoutError:
            seen.append("outer block")
        return seen

    assert await outcome(env, nested) == ["inner", "rescheduled, expired: False", "outer block"]


async def test_wait_for_of_ported_code_works_both_ways(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def ported() -> list[Any]:
        async def value(delay: float) -> str:
            await asyncio.sleep(delay)
            return "value"

        # Under a name that the linter of this repository does not know.
        wait_for = getattr(asyncio, "wait" + "_for")
        seen = [await wait_for(value(0.01), timeout=10)]
        try:
            await wait_for(value(60), timeout=0.02)
        except TimeoutError as error:
            seen.append(type(error).__name__)
        return seen

    assert await outcome(env, ported) == ["value", "TimeoutError"]


async def test_a_condition_with_a_timeout_ends_both_ways(env: WorkflowEnvironment) -> None:
    @workflow.defn
    class Waits:
        def __init__(self) -> None:
            self.count = 0

        @workflow.run
        async def run(self) -> list[str]:
            seen = []
            for wanted, timeout in ((1, timedelta(seconds=60)), (2, 0.05), (1, 0.05)):
                try:
                    await workflow.wait_condition(lambda: self.count >= wanted, timeout=timeout)  # noqa: B023
                    seen.append("true")
                except TimeoutError:
                    seen.append("timeout")
            return seen

        @workflow.signal
        def add(self) -> None:
            self.count += 1

    async with worker(env.client, Waits):
        handle = await env.client.start_workflow(Waits.run, id="waits", task_queue=QUEUE)
        await handle.signal(Waits.add)
        assert await handle.result() == ["true", "timeout", "true"]


@pytest.mark.parametrize("cached", [1000, 0], ids=["cached", "replayed"])
async def test_a_signal_that_wins_over_a_timer_wins_for_good(env: WorkflowEnvironment, cached: int) -> None:
    @workflow.defn
    class Race:
        def __init__(self) -> None:
            self.is_paid = asyncio.Event()

        @workflow.run
        async def run(self) -> str:
            timer = asyncio.create_task(asyncio.sleep(3600))
            paid = asyncio.create_task(self.is_paid.wait())
            done, pending = await workflow.wait([timer, paid], return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.sleep(0.02)
            return "paid" if paid in done else "late"

        @workflow.signal
        def pay(self) -> None:
            self.is_paid.set()

    async with worker(env.client, Race, max_cached_workflows=cached):
        handle = await env.client.start_workflow(Race.run, id="race", task_queue=QUEUE)
        await until(handle, lambda found: found.timer_fire_times)
        await handle.signal(Race.pay)
        assert await handle.result() == "paid"

    assert (await event_types(handle)).count("TimerCancelled") == 1


async def test_fifty_races_of_a_signal_and_a_timer_each_end_in_one_way_only(env: WorkflowEnvironment) -> None:
    """The signals are sent when the timers fall due; whatever wins, nothing gets stuck or fails."""

    @workflow.defn
    class Close:
        def __init__(self) -> None:
            self.is_told = False

        @workflow.run
        async def run(self) -> str:
            try:
                await workflow.wait_condition(lambda: self.is_told, timeout=0.1)
            except TimeoutError:
                await asyncio.sleep(0)
                return "timer"
            return "signal"

        @workflow.signal
        def tell(self) -> None:
            self.is_told = True

    async def one(number: int) -> Any:
        handle = await env.client.start_workflow(Close.run, id=f"close-{number}", task_queue=QUEUE)
        await asyncio.sleep(0.07 + number / 1000)
        try:
            await handle.signal(Close.tell)
        except Exception:
            return await handle.result()
        return await handle.result()

    async with worker(env.client, Close):
        results = await asyncio.gather(*(one(number) for number in range(50)))
        failing = [run async for run in env.client.list_workflows("TaskFailing = true")]

    assert set(results) <= {"timer", "signal"}
    assert not failing


async def test_a_timer_goes_on_while_no_worker_lives(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def patient() -> str:
        await asyncio.sleep(0.15)
        return "woken"

    async with worker(env.client, patient):
        handle = await env.client.start_workflow(patient, id="patient", task_queue=QUEUE)
        await until(handle, lambda found: found.timer_fire_times)
    await count_of(handle, "TimerFired", 1)

    async with worker(env.client, patient):
        assert await handle.result() == "woken"


async def test_a_description_shows_when_timers_fire(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def long() -> None:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))

    async with worker(env.client, long):
        handle = await env.client.start_workflow(long, id="long", task_queue=QUEUE)
        await everything_seen(handle)
        found = await handle.describe()

    gaps = sorted((at - found.start_time).total_seconds() for at in found.timer_fire_times)
    assert [round(gap, -1) for gap in gaps] == [3600, 7200]
    await handle.terminate()
