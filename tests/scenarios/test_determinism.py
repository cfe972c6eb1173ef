"""A workflow whose worker restarts goes the same way again: time, chance, patches, steps, logs."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import QUEUE, count_of, everything_seen, outcome, worker


@activity.defn
async def echo(value: Any) -> Any:
    return value


async def test_time_and_chance_repeat_when_every_turn_is_replayed(env: WorkflowEnvironment) -> None:
    """The activities keep what the first execution computed; the result is what the last replay computed."""

    def look() -> list[Any]:
        return [
            workflow.now().isoformat(),
            workflow.time(),
            workflow.time_ns(),
            workflow.random().random(),
            workflow.random().randint(1, 10**9),
            str(workflow.uuid4()),
            str(workflow.uuid7()),
            workflow.info().get_current_history_length(),
        ]

    @workflow.defn
    async def looks() -> list[list[Any]]:
        seen, kept = [], []
        for number in range(6):
            seen.append(look())
            kept.append(await echo(seen[-1]))
            if number == 3:
                await asyncio.sleep(0.02)
        return [seen, kept]

    seen, kept = await outcome(env, looks, activities=[echo], max_cached_workflows=0)

    assert seen == kept
    assert len({tuple(row) for row in seen}) == 6
    assert [row[1] for row in seen] == sorted(row[1] for row in seen)
    assert datetime.fromisoformat(seen[0][0]).tzinfo is not None


async def test_time_of_a_coalesced_turn_repeats_on_another_worker(env: WorkflowEnvironment) -> None:
    @workflow.defn
    class Watches:
        def __init__(self) -> None:
            self.may_end = False

        @workflow.run
        async def run(self) -> list[list[float]]:
            seen = []
            for _ in range(5):
                seen.append(workflow.time())
                await echo(None)
            kept = await echo(seen)
            await workflow.wait_condition(lambda: self.may_end)
            return [seen, kept]

        @workflow.signal
        def end(self) -> None:
            self.may_end = True

    handle = await env.client.start_workflow(Watches.run, id="watches", task_queue=QUEUE)
    async with worker(env.client, Watches, activities=[echo]):
        await count_of(handle, "ActivityCompleted", 6)
    await handle.signal(Watches.end)
    async with worker(env.client, Watches, activities=[echo]):
        seen, kept = await handle.result()

    assert seen == kept


async def test_a_step_is_carried_out_once_whatever_is_replayed(env: WorkflowEnvironment) -> None:
    calls: list[str] = []

    def fetch(name: str, *, upper: bool = False) -> str:
        calls.append(name)
        return name.upper() if upper else name

    def breaks() -> None:
        calls.append("breaks")
        raise ApplicationError("broken", type="Broken")

    @workflow.defn
    async def steps() -> list[Any]:
        seen: list[Any] = [await workflow.step(fetch, "a"), await echo(1)]
        seen.append(await workflow.step(fetch, "b", upper=True))
        await asyncio.sleep(0.01)
        try:
            await workflow.step(breaks)
        except ApplicationError as error:
            seen.append(error.type)
        await echo(2)
        return seen

    result = await outcome(env, steps, activities=[echo], max_cached_workflows=0)

    assert result == ["a", 1, "B", "Broken"]
    assert calls == ["a", "b", "breaks"]


async def test_the_logger_says_each_thing_once_although_every_turn_is_replayed(
    env: WorkflowEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow.defn
    async def talks() -> None:
        for number in range(5):
            workflow.logger.info("number %d", number)
            await echo(number)
            logging.getLogger("plain").info("plain %d", number)

    with caplog.at_level(logging.INFO):
        await outcome(env, talks, activities=[echo], max_cached_workflows=0)

    said = [r.getMessage().split(" (")[0] for r in caplog.records if r.name == "holdfast.workflow"]
    assert said == [f"number {number}" for number in range(5)]
    assert sum(r.name == "plain" for r in caplog.records) > 5
    record = next(r for r in caplog.records if r.name == "holdfast.workflow")
    assert "'workflow_id': 'run'" in record.getMessage()


class Gate:
    """A signal handler for workflow classes below: the run goes on when told."""

    def __init__(self) -> None:
        self.is_open = False

    @workflow.signal
    def open(self) -> None:
        self.is_open = True

    async def wait(self) -> None:
        await workflow.wait_condition(lambda: self.is_open)


def versions() -> dict[str, Any]:
    """Four versions of one workflow, as a change is rolled out and its traces are removed."""

    @workflow.defn(name="evolves")
    class Before(Gate):
        @workflow.run
        async def run(self) -> list[str]:
            first = await echo("old")
            await self.wait()
            return [first, await echo("end")]

    @workflow.defn(name="evolves")
    class Patched(Gate):
        @workflow.run
        async def run(self) -> list[str]:
            first = await echo("new") if workflow.patched("p") else await echo("old")
            second = [await echo("more")] if workflow.patched("p") else []
            await self.wait()
            return [first, *second, await echo("end")]

    @workflow.defn(name="evolves")
    class Deprecated(Gate):
        @workflow.run
        async def run(self) -> list[str]:
            workflow.deprecate_patch("p")
            first = [await echo("new"), await echo("more")]
            await self.wait()
            return [*first, await echo("end")]

    @workflow.defn(name="evolves")
    class After(Gate):
        @workflow.run
        async def run(self) -> list[str]:
            first = [await echo("new"), await echo("more")]
            await self.wait()
            return [*first, await echo("end")]

    return {"before": Before, "patched": Patched, "deprecated": Deprecated, "after": After}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("before", "patched", ["old", "end"]),
        ("patched", "patched", ["new", "more", "end"]),
        ("patched", "deprecated", ["new", "more", "end"]),
        ("deprecated", "deprecated", ["new", "more", "end"]),
        ("deprecated", "after", ["new", "more", "end"]),
    ],
)
async def test_each_step_of_a_patch_takes_over_running_workflows(
    env: WorkflowEnvironment, first: str, second: str, expected: list[str]
) -> None:
    known = versions()
    handle = await env.client.start_workflow("evolves", id="evolves", task_queue=QUEUE, result_type=list[str])
    async with worker(env.client, known[first], activities=[echo]):
        await count_of(handle, "ActivityCompleted", 1 if first == "before" else 2)
    await handle.signal("open")
    async with worker(env.client, known[second], activities=[echo]):
        assert await handle.result() == expected


async def test_all_versions_of_a_patch_may_run_side_by_side(env: WorkflowEnvironment) -> None:
    """A rolling deploy: two builds share the queue, and no run is cached, so each turn may go to either."""
    known = versions()
    old = worker(env.client, known["patched"], activities=[echo], max_cached_workflows=0)
    new = worker(env.client, known["deprecated"], activities=[echo], max_cached_workflows=0)
    async with old, new:
        handles = [
            await env.client.start_workflow("evolves", id=f"e-{n}", task_queue=QUEUE, result_type=list[str])
            for n in range(10)
        ]
        for handle in handles:
            await handle.signal("open")
        results = await asyncio.gather(*(handle.result() for handle in handles))

    assert results == [["new", "more", "end"]] * 10


async def test_unsafe_tells_a_replay_from_the_first_time(env: WorkflowEnvironment) -> None:
    seen: list[bool] = []

    @workflow.defn
    async def asks() -> None:
        for number in range(2):
            seen.append(workflow.unsafe.is_replaying())
            await echo(number)
        seen.append(workflow.unsafe.is_replaying())

    await outcome(env, asks, activities=[echo], max_cached_workflows=0)

    # The first turn; it again and the second; both again and the third.
    assert seen == [False, True, False, True, True, False]


async def test_a_run_goes_on_where_it_was_after_five_workers_came_and_went(env: WorkflowEnvironment) -> None:
    @workflow.defn
    class Marathon(Gate):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        @workflow.run
        async def run(self) -> list[Any]:
            total = []
            for number in range(5):
                await workflow.wait_condition(lambda: self.count > number)  # noqa: B023 - asked at once
                total.append([await echo(number), workflow.random().random()])
            return total

        @workflow.signal
        def go(self) -> None:
            self.count += 1

    handle = await env.client.start_workflow(Marathon.run, id="marathon", task_queue=QUEUE)
    for number in range(5):
        async with worker(env.client, Marathon, activities=[echo], identity=f"w{number}"):
            await handle.signal(Marathon.go)
            await everything_seen(handle)
            await count_of(handle, "ActivityCompleted", number + 1)
    async with worker(env.client, Marathon, activities=[echo]):
        result = await handle.result()

    assert [number for number, _ in result] == [0, 1, 2, 3, 4]
    events = (await handle.fetch_history()).events
    completed = [e.attributes["worker"] for e in events if e.event_type == "ActivityCompleted"]
    assert [worker.split(":")[0] for worker in completed] == ["w0", "w1", "w2", "w3", "w4"]
    failed = [e for e in events if e.event_type == "WorkflowTaskFailed"]
    assert not failed
