"""Runs with thousands of events: they finish, page, and replay from the first event on another worker."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast import activity, workflow
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import QUEUE, count_of, event_types, everything_seen, worker


@activity.defn
async def double(number: int) -> int:
    return number * 2


class Gate:
    def __init__(self) -> None:
        self.is_open = False

    @workflow.signal
    def open(self) -> None:
        self.is_open = True


@workflow.defn
class Wide(Gate):
    """A thousand activities at once, then a wait, then their sum."""

    @workflow.run
    async def run(self, count: int) -> int:
        numbers = await asyncio.gather(*(double(number) for number in range(count)))
        await workflow.wait_condition(lambda: self.is_open)
        return sum(numbers)


@workflow.defn
class Long(Gate):
    """One activity after the other."""

    @workflow.run
    async def run(self, count: int) -> int:
        total = 0
        for number in range(count):
            total += await double(number)
        await workflow.wait_condition(lambda: self.is_open)
        return total


async def test_a_thousand_activities_at_once_and_a_replay_of_them_by_a_new_worker(
    env: WorkflowEnvironment,
) -> None:
    async with worker(env.client, Wide, activities=[double]):
        handle = await env.client.start_workflow(Wide.run, 1000, id="wide", task_queue=QUEUE)
        await count_of(handle, "ActivityCompleted", 1000)
        await everything_seen(handle)
    await handle.signal("open")
    async with worker(env.client, Wide, activities=[double]):
        assert await handle.result() == 999_000

    types = await event_types(handle)
    assert types.count("ActivityScheduled") == types.count("ActivityCompleted") == 1000
    assert "WorkflowTaskFailed" not in types


async def test_seven_hundred_steps_in_a_row_are_2000_events_and_replay(env: WorkflowEnvironment) -> None:
    async with worker(env.client, Long, activities=[double]):
        handle = await env.client.start_workflow(Long.run, 700, id="long", task_queue=QUEUE)
        async with asyncio.timeout(60):
            while (await handle.describe()).history_length < 2102:
                pass
    await handle.signal("open")
    async with worker(env.client, Long, activities=[double]):
        assert await handle.result() == 700 * 699

    events = (await handle.fetch_history()).events
    assert len(events) > 2000
    assert [event.event_id for event in events] == list(range(1, len(events) + 1))


async def test_two_thousand_events_are_read_in_pages_of_any_size(env: WorkflowEnvironment) -> None:
    handle = await env.client.start_workflow("nobody", id="pages", task_queue="nobody")
    await asyncio.gather(*(handle.signal("note", number) for number in range(2000)))

    whole = (await handle.fetch_history()).events
    for size in (1, 999):
        count, last = 0, 0
        async for event in handle.fetch_history_events(page_size=size):
            assert event.event_id == last + 1
            count, last = count + 1, event.event_id
            if size == 1 and count == 20:
                break
        assert count == (20 if size == 1 else 2001)
    notes: list[Any] = [event.attributes["input"] for event in whole[1:]]
    assert sorted(notes) == sorted(f"[{number}]" for number in range(2000))


async def test_two_thousand_open_activities_are_allowed_and_one_more_is_refused_by_name(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def greedy(count: int) -> None:
        for number in range(count):
            workflow.start_activity("nobody", number, task_queue="nobody")
        await workflow.wait_condition(lambda: False)

    async with worker(env.client, greedy):
        fits = await env.client.start_workflow(greedy, 1999, id="fits", task_queue=QUEUE)
        over = await env.client.start_workflow(greedy, 2001, id="over", task_queue=QUEUE)
        await count_of(fits, "ActivityScheduled", 1999)
        async with asyncio.timeout(20):
            while (found := await over.describe()).task_failure is None:
                pass

    assert found.task_failure == "bad_commands"
    assert "2,001" in str(found.last_task_failure)
    assert "ActivityScheduled" not in await event_types(over)
    await fits.terminate()
    await over.terminate()
