"""The four timeouts of an activity, and what the workflow sees of each: as ported code expects it."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any

from holdfast import activity, workflow
from holdfast.common import RetryPolicy
from holdfast.exceptions import ActivityError, ApplicationError, TimeoutError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import (
    A_MINUTE,
    AT_ONCE,
    ONCE,
    PATIENCE_S,
    event_types,
    failure,
    outcome,
    seconds,
    told,
    worker,
)


@activity.defn
async def endless() -> None:
    await asyncio.Event().wait()


def calling(name: str, **options: Any) -> Any:
    @workflow.defn(name="calls")
    async def calls() -> Any:
        return await workflow.execute_activity(name, **options)

    return calls


async def test_start_to_close_ends_an_attempt_and_a_retry_may_succeed(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def slow_at_first() -> int:
        if activity.info().attempt < 3:
            await asyncio.Event().wait()
        return activity.info().attempt

    flow = calling("slow_at_first", start_to_close_timeout=seconds(0.2), retry_policy=AT_ONCE)

    assert await outcome(env, flow, activities=[slow_at_first]) == 3


async def test_start_to_close_of_the_last_attempt_is_told_with_its_type(env: WorkflowEnvironment) -> None:
    flow = calling(
        "endless",
        start_to_close_timeout=seconds(0.1),
        retry_policy=RetryPolicy(initial_interval=seconds(0.01), maximum_attempts=2),
    )

    error = await failure(outcome(env, flow, activities=[endless]))

    assert told(error)[:2] == [
        ["ActivityError", "Activity task timed out", "MAXIMUM_ATTEMPTS_REACHED"],
        ["TimeoutError", "activity StartToClose timeout", "START_TO_CLOSE", []],
    ]


async def test_schedule_to_close_spans_attempts_and_keeps_the_last_failure_as_cause(
    env: WorkflowEnvironment,
) -> None:
    @activity.defn
    async def fails_then_hangs() -> None:
        if activity.info().attempt == 1:
            raise ApplicationError("first", type="First")
        await asyncio.Event().wait()

    flow = calling("fails_then_hangs", schedule_to_close_timeout=seconds(0.4), retry_policy=AT_ONCE)

    error = await failure(outcome(env, flow, activities=[fails_then_hangs]))

    assert told(error) == [
        ["ActivityError", "Activity task timed out", "TIMEOUT"],
        ["TimeoutError", "activity ScheduleToClose timeout", "SCHEDULE_TO_CLOSE", []],
        ["ApplicationError", "first", "First", []],
    ]


async def test_schedule_to_close_after_attempts_that_timed_out_is_told_as_what_it_is(
    env: WorkflowEnvironment,
) -> None:
    flow = calling(
        "endless",
        start_to_close_timeout=seconds(0.15),
        schedule_to_close_timeout=seconds(0.4),
        retry_policy=AT_ONCE,
    )

    error = await failure(outcome(env, flow, activities=[endless]))

    assert told(error)[:3] == [
        ["ActivityError", "Activity task timed out", "TIMEOUT"],
        ["TimeoutError", "activity ScheduleToClose timeout", "SCHEDULE_TO_CLOSE", []],
        ["TimeoutError", "activity StartToClose timeout", "START_TO_CLOSE", []],
    ]


async def test_a_timed_out_attempt_without_time_for_another_is_a_schedule_to_close_timeout(
    env: WorkflowEnvironment,
) -> None:
    flow = calling(
        "endless",
        start_to_close_timeout=seconds(0.1),
        schedule_to_close_timeout=seconds(10),
        retry_policy=RetryPolicy(initial_interval=seconds(30)),
    )
    began = time.monotonic()

    error = await failure(outcome(env, flow, activities=[endless]))

    assert time.monotonic() - began < 5
    assert told(error)[:2] == [
        ["ActivityError", "Activity task timed out", "TIMEOUT"],
        ["TimeoutError", "activity ScheduleToClose timeout", "SCHEDULE_TO_CLOSE", []],
    ]


async def test_schedule_to_start_is_about_waiting_for_a_worker_and_is_not_retried(
    env: WorkflowEnvironment,
) -> None:
    flow = calling(
        "endless",
        task_queue="nobody",
        schedule_to_start_timeout=seconds(0.2),
        start_to_close_timeout=A_MINUTE,
    )

    error = await failure(outcome(env, flow))

    assert isinstance(error, ActivityError)
    assert told(error)[1:] == [["TimeoutError", "activity ScheduleToStart timeout", "SCHEDULE_TO_START", []]]
    assert (error.activity_type, error.identity) == ("endless", "")


async def test_schedule_to_start_does_not_count_once_the_activity_began(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def longer() -> str:
        try:
            await asyncio.wait([asyncio.ensure_future(activity.wait_for_cancelled())], timeout=0.4)
        except asyncio.CancelledError:
            return "cut off"
        return "in time"

    flow = calling("longer", schedule_to_start_timeout=seconds(0.2), start_to_close_timeout=A_MINUTE)

    assert await outcome(env, flow, activities=[longer]) == "in time"


async def test_a_heartbeat_timeout_is_told_with_the_last_details(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def falls_silent() -> None:
        activity.heartbeat("page", 7)
        await asyncio.Event().wait()

    flow = calling(
        "falls_silent",
        heartbeat_timeout=seconds(0.2),
        start_to_close_timeout=A_MINUTE,
        retry_policy=ONCE,
    )

    error = await failure(outcome(env, flow, activities=[falls_silent]))

    assert told(error) == [
        ["ActivityError", "Activity task timed out", "MAXIMUM_ATTEMPTS_REACHED"],
        ["TimeoutError", "activity Heartbeat timeout", "HEARTBEAT", ["page", 7]],
    ]


async def test_the_last_timeout_counts_and_not_the_one_before(env: WorkflowEnvironment) -> None:
    """First the heartbeats stop; the second attempt heartbeats well but takes too long."""

    @activity.defn
    async def silent_then_slow() -> None:
        while True:
            if activity.info().attempt == 2:
                activity.heartbeat("second")
            await asyncio.sleep(0.02)

    flow = calling(
        "silent_then_slow",
        heartbeat_timeout=seconds(0.25),
        start_to_close_timeout=seconds(0.6),
        retry_policy=RetryPolicy(initial_interval=seconds(0.01), maximum_attempts=2),
    )

    error = await failure(outcome(env, flow, activities=[silent_then_slow]))

    assert told(error)[:3] == [
        ["ActivityError", "Activity task timed out", "MAXIMUM_ATTEMPTS_REACHED"],
        ["TimeoutError", "activity StartToClose timeout", "START_TO_CLOSE", ["second"]],
        ["TimeoutError", "activity Heartbeat timeout", "HEARTBEAT", []],
    ]


async def test_heartbeats_keep_a_long_activity_alive_also_in_a_thread(env: WorkflowEnvironment) -> None:
    @activity.defn
    def steady() -> int:
        for number in range(30):
            activity.heartbeat(number)
            threading.Event().wait(0.02)
        return activity.info().attempt

    flow = calling("steady", heartbeat_timeout=seconds(0.3), start_to_close_timeout=A_MINUTE)

    assert await outcome(env, flow, activities=[steady]) == 1


async def test_an_activity_in_a_thread_that_overruns_is_interrupted_and_its_result_does_not_count(
    env: WorkflowEnvironment,
) -> None:
    interrupted = threading.Event()

    @activity.defn
    def overruns() -> str:
        if activity.info().attempt > 1:
            return "second"
        try:
            while True:
                threading.Event().wait(0.01)
        finally:
            interrupted.set()

    flow = calling("overruns", start_to_close_timeout=seconds(0.2), retry_policy=AT_ONCE)

    assert await outcome(env, flow, activities=[overruns]) == "second"
    assert await asyncio.to_thread(interrupted.wait, PATIENCE_S)


async def test_details_of_a_heartbeat_outlive_a_timed_out_attempt(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def resumes() -> list[Any]:
        if activity.info().attempt == 1:
            activity.heartbeat({"page": 3}, None)
            await asyncio.Event().wait()
        return list(activity.info().heartbeat_details)

    flow = calling(
        "resumes",
        heartbeat_timeout=seconds(0.2),
        start_to_close_timeout=A_MINUTE,
        retry_policy=AT_ONCE,
    )

    assert await outcome(env, flow, activities=[resumes]) == [{"page": 3}, None]


async def test_details_stay_until_an_attempt_says_something_newer(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def says_once() -> list[Any]:
        if activity.info().attempt == 1:
            activity.heartbeat("kept")
        if activity.info().attempt < 4:
            raise OSError
        return list(activity.info().heartbeat_details)

    flow = calling("says_once", start_to_close_timeout=A_MINUTE, retry_policy=AT_ONCE)

    assert await outcome(env, flow, activities=[says_once]) == ["kept"]


async def test_a_timeout_in_workflow_code_is_caught_as_ported_code_catches_it(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def catches() -> str:
        try:
            await workflow.execute_activity(
                endless, start_to_close_timeout=timedelta(milliseconds=100), retry_policy=ONCE
            )
        except ActivityError as error:
            assert isinstance(error.cause, TimeoutError)
            assert error.cause.type is not None
            return error.cause.type.name
        return "never"

    assert await outcome(env, catches, activities=[endless]) == "START_TO_CLOSE"


async def test_an_activity_with_no_timeout_given_has_one_all_the_same(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def asks() -> float:
        found = activity.info().start_to_close_timeout
        assert found is not None
        return found.total_seconds()

    assert await outcome(env, calling("asks"), activities=[asks]) == 300


async def test_the_history_keeps_one_event_for_all_attempts_that_timed_out(env: WorkflowEnvironment) -> None:
    flow = calling(
        "endless",
        start_to_close_timeout=seconds(0.05),
        retry_policy=RetryPolicy(initial_interval=seconds(0.01), maximum_attempts=3),
    )
    async with worker(env.client, flow, activities=[endless]):
        handle = await env.client.start_workflow(flow, id="run", task_queue="stage")
        await failure(handle.result())

    assert (await event_types(handle)).count("ActivityTimedOut") == 1
    (timed_out,) = [
        e.attributes for e in (await handle.fetch_history()).events if e.event_type == "ActivityTimedOut"
    ]
    assert (timed_out["attempt"], timed_out["timeout"]) == (3, "start_to_close")
