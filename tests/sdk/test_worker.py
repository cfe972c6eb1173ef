"""The worker against the real service: what it does with tasks, and with whatever goes wrong in them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from holdfast import Client, Worker, activity, workflow
from holdfast.client import WorkflowExecutionStatus
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.sdk.patience import until


def event_types(history: Any) -> list[str]:
    return [event.event_type for event in history.events]


@activity.defn
async def echo(value: Any) -> Any:
    return value


@workflow.defn
async def five_steps(value: int) -> int:
    for _ in range(5):
        value = await echo(value) + 1
    return value


@workflow.defn
async def fan_out(count: int) -> int:
    return sum(await asyncio.gather(*(echo(number) for number in range(count))))


@workflow.defn
async def nothing() -> str:
    return "done"


# -- dispatch


async def test_sequential_steps_need_one_report_each(env: WorkflowEnvironment) -> None:
    """The worker holds the run, so each result is reported together with what the run makes of it."""
    async with Worker(env.client, task_queue="steps", workflows=[five_steps], activities=[echo]) as worker:
        assert await env.client.execute_workflow(five_steps, 1, id="steps", task_queue="steps") == 6
        history = await env.client.get_workflow_handle("steps").fetch_history()
        reports = env.client.caller.rpc._callers["report"].frames

    assert event_types(history).count("ActivityCompleted") == 5
    assert reports == 6
    assert worker.is_shutdown


async def test_more_activities_than_slots_all_run(env: WorkflowEnvironment) -> None:
    running, most = 0, 0

    @activity.defn
    async def counted(value: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return value

    @workflow.defn
    async def many() -> int:
        return sum(await asyncio.gather(*(counted(number) for number in range(100))))

    worker = Worker(
        env.client, task_queue="many", workflows=[many], activities=[counted], max_concurrent_activities=3
    )
    async with worker:
        assert await env.client.execute_workflow(many, id="many", task_queue="many") == 4950

    assert most == 3


async def test_many_runs_share_a_worker_with_a_cache_for_few(env: WorkflowEnvironment) -> None:
    worker = Worker(
        env.client, task_queue="few", workflows=[five_steps], activities=[echo], max_cached_workflows=2
    )
    async with worker:
        results = await asyncio.gather(
            *(env.client.execute_workflow(five_steps, n, id=f"few-{n}", task_queue="few") for n in range(20))
        )

    assert results == [n + 5 for n in range(20)]


async def test_without_a_cache_every_task_replays(env: WorkflowEnvironment) -> None:
    worker = Worker(
        env.client, task_queue="none", workflows=[five_steps], activities=[echo], max_cached_workflows=0
    )
    async with worker:
        assert await env.client.execute_workflow(five_steps, 1, id="uncached", task_queue="none") == 6


async def test_another_worker_continues_a_run_from_its_history(env: WorkflowEnvironment) -> None:
    ran: list[str] = []

    @activity.defn
    async def note(name: str) -> str:
        ran.append(name)
        return name

    @workflow.defn(name="relay")
    class Relay:
        def __init__(self) -> None:
            self.may_go_on = False

        @workflow.run
        async def run(self) -> list[str]:
            first = await note("first")
            await workflow.wait_condition(lambda: self.may_go_on)
            return [first, await note("second")]

        @workflow.signal
        def go(self) -> None:
            self.may_go_on = True

    handle = await env.client.start_workflow(Relay.run, id="relay", task_queue="relay")
    async with Worker(env.client, task_queue="relay", workflows=[Relay], activities=[note]):
        await until(handle, lambda found: ran and not found.pending_activities)
    await handle.signal(Relay.go)
    other = await Client.connect(env.nats_url)
    async with Worker(other, task_queue="relay", workflows=[Relay], activities=[note]):
        assert await handle.result() == ["first", "second"]
    await other.close()

    assert ran == ["first", "second"]


async def test_work_that_waited_is_found_by_a_worker_that_starts(env: WorkflowEnvironment) -> None:
    handles = [
        await env.client.start_workflow(nothing, id=f"waited-{n}", task_queue="waited") for n in range(5)
    ]

    async with Worker(env.client, task_queue="waited", workflows=[nothing]):
        assert [await handle.result() for handle in handles] == ["done"] * 5


async def test_a_long_history_is_read_in_pages_by_a_worker_without_the_run(env: WorkflowEnvironment) -> None:
    @workflow.defn(name="hoarder")
    class Hoarder:
        def __init__(self) -> None:
            self.notes: list[str] = []

        @workflow.run
        async def run(self) -> int:
            await workflow.wait_condition(lambda: len(self.notes) >= 1200)
            return sum(len(note) for note in self.notes)

        @workflow.signal
        def note(self, text: str) -> None:
            self.notes.append(text)

    handle = await env.client.start_workflow(Hoarder.run, id="hoarder", task_queue="hoarder")
    await asyncio.gather(*(handle.signal("note", "x" * 1500) for _ in range(1200)))

    async with Worker(env.client, task_queue="hoarder", workflows=[Hoarder]):
        assert await handle.result() == 1200 * 1500


# -- code that is wrong


async def test_an_unknown_workflow_type_leaves_the_run_open_until_a_worker_has_it(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn(name="later-known")
    async def late() -> str:
        return "at last"

    handle = await env.client.start_workflow("later-known", id="late", task_queue="late", result_type=str)
    async with Worker(env.client, task_queue="late", workflows=[nothing]):
        found = await until(handle, lambda found: found.task_failure)

    assert found.task_failure == "unknown_workflow_type"
    assert "available workflows: nothing" in str(found.last_task_failure)
    async with Worker(env.client, task_queue="late", workflows=[late]):
        assert await handle.result() == "at last"
    assert event_types(await handle.fetch_history()).count("WorkflowTaskFailed") == 1


async def test_code_that_raises_is_retried_until_it_is_fixed(env: WorkflowEnvironment) -> None:
    @workflow.defn(name="buggy")
    async def broken() -> str:
        raise ZeroDivisionError("oops")

    @workflow.defn(name="buggy")
    async def fixed() -> str:
        return "fixed"

    handle = await env.client.start_workflow(broken, id="buggy", task_queue="buggy")
    async with Worker(env.client, task_queue="buggy", workflows=[broken]):
        found = await until(handle, lambda found: found.task_failure)

    assert (found.status, found.task_failure) == (WorkflowExecutionStatus.RUNNING, "unhandled_failure")
    assert isinstance(found.last_task_failure, ApplicationError)
    assert found.last_task_failure.type == "ZeroDivisionError"
    assert "in broken" in found.last_task_failure.failure.stack  # type: ignore[union-attr]
    async with Worker(env.client, task_queue="buggy", workflows=[fixed]):
        assert await handle.result() == "fixed"


async def test_code_that_no_longer_fits_the_history_is_told_with_both_sides(env: WorkflowEnvironment) -> None:
    started = asyncio.Event()

    @activity.defn
    async def first() -> None:
        started.set()
        await asyncio.Event().wait()

    @activity.defn
    async def second() -> None: ...

    @workflow.defn(name="changed")
    async def before() -> None:
        await first()

    @workflow.defn(name="changed")
    async def after() -> None:
        await second()

    handle = await env.client.start_workflow(before, id="changed", task_queue="changed")
    async with Worker(env.client, task_queue="changed", workflows=[before], activities=[first]):
        await started.wait()
        await until(handle, lambda found: found.pending_activities)
    async with Worker(env.client, task_queue="changed", workflows=[after]):
        await handle.signal("wake")
        found = await until(handle, lambda found: found.task_failure)

    assert found.task_failure == "nondeterminism"
    assert "first" in str(found.last_task_failure)
    assert "second" in str(found.last_task_failure)
    await handle.terminate()


async def test_input_that_does_not_decode_fails_the_task_not_the_run(env: WorkflowEnvironment) -> None:
    @workflow.defn(name="typed")
    async def typed(count: int) -> int:
        return count

    handle = await env.client.start_workflow("typed", "not a number", id="typed-input", task_queue="typed")
    async with Worker(env.client, task_queue="typed", workflows=[typed]):
        found = await until(handle, lambda found: found.task_failure)

    assert found.task_failure == "payload"
    assert "argument 1 of 1" in str(found.last_task_failure)
    await handle.terminate()


async def test_a_result_over_the_limit_fails_the_task_and_says_so(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def huge() -> str:
        return "x" * (3 * 1024 * 1024)

    handle = await env.client.start_workflow(huge, id="huge", task_queue="huge")
    async with Worker(env.client, task_queue="huge", workflows=[huge]):
        found = await until(handle, lambda found: found.task_failure)

    assert "the limit is 2097152" in str(found.last_task_failure)
    await handle.terminate()


async def test_a_command_that_cannot_be_taken_does_not_cost_the_activity_before_it(
    env: WorkflowEnvironment,
) -> None:
    """The result travels together with what the run asks for next; only the latter is wrong."""
    calls = 0

    @activity.defn
    async def counted() -> int:
        nonlocal calls
        calls += 1
        return calls

    @workflow.defn
    async def wrong_next() -> None:
        await counted()
        await workflow.execute_activity("x" * 1001)

    handle = await env.client.start_workflow(wrong_next, id="wrong-next", task_queue="wrong-next")
    async with Worker(env.client, task_queue="wrong-next", workflows=[wrong_next], activities=[counted]):
        found = await until(handle, lambda found: found.task_failure)

    assert found.task_failure == "bad_commands"
    assert "1001 characters" in str(found.last_task_failure)
    assert event_types(await handle.fetch_history()).count("ActivityCompleted") == calls == 1
    await handle.terminate()


async def test_one_broken_run_does_not_hold_up_others(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def broken() -> None:
        raise KeyError("x")

    handle = await env.client.start_workflow(broken, id="broken-neighbour", task_queue="mixed")
    async with Worker(env.client, task_queue="mixed", workflows=[broken, nothing]):
        await until(handle, lambda found: found.task_failure)
        assert await env.client.execute_workflow(nothing, id="fine", task_queue="mixed") == "done"
    await handle.terminate()


# -- how a worker is made


async def test_a_worker_that_cannot_work_is_refused(env: WorkflowEnvironment) -> None:
    async def plain() -> None: ...

    @activity.defn(name="echo")
    def second_echo() -> None: ...

    def make(**given: Any) -> Worker:
        return Worker(env.client, task_queue="q", **given)

    with pytest.raises(ValueError, match="At least one activity or workflow"):
        make()
    with pytest.raises(TypeError, match=r"plain missing attributes, was it decorated with @activity\.defn"):
        make(activities=[plain])
    with pytest.raises(ValueError, match="More than one activity named echo"):
        make(activities=[echo, second_echo])
    with pytest.raises(ValueError, match=r"decorated with @workflow\.defn"):
        make(workflows=[plain])
    with pytest.raises(TypeError, match="expected a ThreadPoolExecutor"):
        make(activities=[echo], activity_executor=ProcessPoolExecutor(1))
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        make(activities=[echo], colour="red")
    with pytest.warns(UserWarning, match="debug_mode have no meaning"):
        make(activities=[echo], debug_mode=True)


async def test_a_worker_runs_once(env: WorkflowEnvironment) -> None:
    worker = Worker(env.client, task_queue="once", activities=[echo])
    async with worker:
        assert worker.identity.startswith(env.client.identity)
    with pytest.raises(RuntimeError, match="Already started"):
        await worker.run()


async def test_shutdown_ends_run(env: WorkflowEnvironment) -> None:
    worker = Worker(env.client, task_queue="ended", activities=[echo])
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    assert worker.is_running

    await worker.shutdown()

    await running
    assert worker.is_shutdown
    assert not worker.is_running
