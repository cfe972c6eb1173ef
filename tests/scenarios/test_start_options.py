"""Options of a start: time limits of runs, start delay, memo and search attributes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast import workflow
from holdfast.client import WorkflowExecutionStatus
from holdfast.common import Priority
from holdfast.exceptions import TimeoutError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import A_MINUTE, QUEUE, event_types, failure, seconds, told, worker


@workflow.defn
class Waits:
    def __init__(self) -> None:
        self.is_told = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.is_told)
        return "told"

    @workflow.signal
    def tell(self) -> None:
        self.is_told = True


@workflow.defn
async def sleeps_a_day() -> None:
    await asyncio.sleep(86_400)


@workflow.defn
async def tells_its_options() -> list[Any]:
    info = workflow.info()
    return [
        info.execution_timeout and info.execution_timeout.total_seconds(),
        info.run_timeout and info.run_timeout.total_seconds(),
        info.task_timeout.total_seconds(),
        info.priority.priority_key,
    ]


async def test_a_run_past_its_run_timeout_ends_as_timed_out_and_leaves_nothing_open(
    env: WorkflowEnvironment,
) -> None:
    async with worker(env.client, sleeps_a_day):
        handle = await env.client.start_workflow(
            sleeps_a_day, id="run", task_queue=QUEUE, run_timeout=seconds(0.5)
        )
        error = await failure(handle.result())
        described = await handle.describe()

    assert isinstance(error, TimeoutError)
    assert told(error) == [["TimeoutError", "Workflow timed out", "START_TO_CLOSE", []]]
    assert described.status == WorkflowExecutionStatus.TIMED_OUT
    assert not described.timer_fire_times
    assert (await event_types(handle))[-1] == "WorkflowTimedOut"


async def test_the_earlier_of_both_limits_ends_a_run_that_no_worker_ever_took(
    env: WorkflowEnvironment,
) -> None:
    handle = await env.client.start_workflow(
        Waits.run, id="run", task_queue=QUEUE, run_timeout=A_MINUTE, execution_timeout=seconds(0.2)
    )
    await failure(handle.result())

    last = (await handle.fetch_history()).events[-1]

    assert (last.event_type, last.attributes["timeout"]) == ("WorkflowTimedOut", "execution")


async def test_a_limit_that_is_not_reached_changes_nothing(env: WorkflowEnvironment) -> None:
    async with worker(env.client, Waits):
        handle = await env.client.start_workflow(Waits.run, id="run", task_queue=QUEUE, run_timeout=A_MINUTE)
        assert list((await handle.describe()).timer_fire_times) == []
        await handle.signal(Waits.tell)
        assert await handle.result() == "told"


async def test_a_delayed_start_is_not_taken_up_before_its_time(env: WorkflowEnvironment) -> None:
    delay = seconds(1)
    async with worker(env.client, tells_its_options):
        handle = await env.client.start_workflow(
            tells_its_options, id="run", task_queue=QUEUE, start_delay=delay
        )
        await handle.result()
        events = (await handle.fetch_history()).events

    assert events[1].event_time - events[0].event_time >= delay


async def test_a_signal_ends_a_start_delay(env: WorkflowEnvironment) -> None:
    async with worker(env.client, Waits):
        handle = await env.client.start_workflow(
            Waits.run, id="run", task_queue=QUEUE, start_delay=timedelta(days=1)
        )
        assert "start delay" in await handle.why()
        await handle.signal(Waits.tell)

        assert await handle.result() == "told"


async def test_the_code_sees_what_it_was_started_with(env: WorkflowEnvironment) -> None:
    async with worker(env.client, tells_its_options):
        shown = await env.client.execute_workflow(
            tells_its_options,
            id="run",
            task_queue=QUEUE,
            execution_timeout=seconds(50),
            run_timeout=seconds(40),
            task_timeout=seconds(30),
            priority=Priority(priority_key=2),
        )

    assert shown == [50, 40, 30, 2]


@pytest.mark.parametrize("option", ["execution_timeout", "run_timeout", "task_timeout", "start_delay"])
async def test_a_negative_duration_is_refused(env: WorkflowEnvironment, option: str) -> None:
    with pytest.raises(Exception, match=rf"{option}_s is -1.0: expected"):
        await env.client.start_workflow(
            Waits.run,
            id="run",
            task_queue=QUEUE,
            **{option: seconds(-1)},  # type: ignore[arg-type]
        )


async def test_a_memo_is_shown_with_the_run(env: WorkflowEnvironment) -> None:
    handle = await env.client.start_workflow(
        Waits.run, id="run", task_queue=QUEUE, memo={"note": "by hand", "at": [1, None]}
    )

    described = await handle.describe()
    listed = [found async for found in env.client.list_workflows()]

    assert await described.memo() == {"note": "by hand", "at": [1, None]}
    assert await listed[0].memo_value("note") == "by hand"
    with pytest.raises(KeyError):
        await described.memo_value("none")
    assert described.start_time < datetime.now(UTC) + A_MINUTE
