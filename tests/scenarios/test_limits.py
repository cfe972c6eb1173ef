"""At the limits: payloads, names and numbers that just fit, and that just do not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.client import RPCError, RPCStatusCode
from holdfast.common import RetryPolicy
from holdfast.exceptions import ActivityError, ApplicationError, Invalid
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import A_MINUTE, ONCE, QUEUE, event_types, failure, outcome, worker
from tests.sdk.patience import until

LIMIT = 2 * 1024 * 1024
FITS = "x" * (LIMIT - 4)
"""With its quotes and the brackets of the argument list exactly the limit."""
RESULT_FITS = "x" * (LIMIT - 2)


@activity.defn
async def length(text: str) -> int:
    return len(text)


@activity.defn
async def make(size: int) -> str:
    return "x" * size


async def test_two_mebibytes_pass_through_workflow_activity_and_result(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def carries(text: str) -> str:
        assert await length(text) == len(FITS)
        return await make(len(RESULT_FITS))

    assert await outcome(env, carries, FITS, activities=[length, make]) == RESULT_FITS


async def test_an_argument_of_an_activity_over_the_limit_is_refused_where_it_is_called(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def too_much() -> str:
        try:
            await length(FITS + "x")
        except Invalid as error:
            return str(error)
        return "never"

    async with worker(env.client, too_much, activities=[length]):
        handle = await env.client.start_workflow(too_much, id="too-much", task_queue=QUEUE)
        assert "2097152" in await handle.result()

    assert "ActivityScheduled" not in await event_types(handle)


async def test_a_result_of_an_activity_over_the_limit_fails_the_activity(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def asks() -> None:
        await make.options(retry_policy=ONCE)(len(RESULT_FITS) + 1)

    error = await failure(outcome(env, asks, activities=[make]))

    assert isinstance(error, ActivityError)
    assert isinstance(error.cause, ApplicationError)
    assert "2097152" in error.cause.message


async def test_a_signal_of_two_mebibytes_arrives_and_one_more_byte_is_refused(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def measures() -> int:
        got: list[str] = []
        workflow.set_signal_handler("send", got.append)
        await workflow.wait_condition(lambda: bool(got))
        return len(got[0])

    async with worker(env.client, measures):
        handle = await env.client.start_workflow(measures, id="measures", task_queue=QUEUE)
        with pytest.raises(Invalid, match="2097152"):
            await handle.signal("send", FITS + "x")
        await handle.signal("send", FITS)
        assert await handle.result() == len(FITS)


async def test_a_huge_error_is_cut_and_still_reported(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def shouts() -> None:
        raise ApplicationError("m" * 5_000_000, "d" * 5_000_000, type="Loud", non_retryable=True)

    @workflow.defn
    async def hears() -> None:
        await shouts()

    error = await failure(outcome(env, hears, activities=[shouts]))

    assert isinstance(error.__cause__, ApplicationError)
    assert error.__cause__.type == "Loud"
    assert "characters left out" in error.__cause__.message
    assert "details left out" in error.__cause__.details[0]


@workflow.defn
async def heavy(count: int) -> list[int]:
    text = "y" * 1_500_000
    return list(await asyncio.gather(*(length(text) for _ in range(count))))


async def test_several_large_payloads_in_one_turn_are_delivered(env: WorkflowEnvironment) -> None:
    assert await outcome(env, heavy, 5, activities=[length]) == [1_500_000] * 5


async def test_a_turn_that_no_message_can_hold_stops_the_task_and_says_what_to_do(
    env: WorkflowEnvironment,
) -> None:
    async with worker(env.client, heavy, activities=[length]):
        handle = await env.client.start_workflow(heavy, 8, id="heavy", task_queue=QUEUE)
        found = await until(handle, lambda found: found.task_attempt > 1)

    assert found.task_failure == "bad_commands"
    assert "send less" in str(found.last_task_failure)
    await handle.terminate()


async def test_a_run_whose_history_is_many_mebibytes_is_replayed(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def hoards() -> int:
        total = 0
        for _ in range(12):
            total += len(await make(1_000_000))
        return total

    assert await outcome(env, hoards, activities=[make], max_cached_workflows=0) == 12_000_000


@pytest.mark.parametrize("text", ["a\x00b", "lone \ud800 surrogate"], ids=["nul", "surrogate"])
async def test_text_that_postgres_or_utf8_cannot_hold_is_carried_or_refused_but_harms_nobody(
    env: WorkflowEnvironment, text: str
) -> None:
    @workflow.defn
    async def carries(text: str) -> str:
        return text

    async with worker(env.client, carries):
        try:
            result = await env.client.execute_workflow(carries, text, id="text", task_queue=QUEUE)
        except (Invalid, RPCError) as error:
            assert "text" in str(error) or "argument" in str(error)
        else:
            assert result == text
        assert await env.client.execute_workflow(carries, "fine", id="fine", task_queue=QUEUE) == "fine"


@pytest.mark.parametrize("text", ["a\x00b", "lone \ud800"], ids=["nul", "surrogate"])
async def test_odd_text_from_an_activity_does_not_block_the_run(env: WorkflowEnvironment, text: str) -> None:
    @activity.defn
    async def raises() -> None:
        raise ApplicationError(text, type=text, non_retryable=True)

    @activity.defn
    async def returns() -> str:
        return text

    @workflow.defn
    async def tries() -> list[str]:
        seen = []
        for each in (raises, returns):
            try:
                await each.options(retry_policy=ONCE)()
                seen.append("returned")
            except ActivityError as error:
                seen.append(type(error.cause).__name__)
        return seen

    result = await outcome(env, tries, activities=[raises, returns])

    assert result[0] == "ApplicationError"
    assert result[1] in ("returned", "ApplicationError")


@pytest.mark.parametrize("name", ["a b.c", "*", ">", "🙂" * 10, "x" * 1000, "$SYS.>", "ü/\\'\"%"])
async def test_any_text_can_name_a_queue_a_workflow_an_activity_and_an_id(
    env: WorkflowEnvironment, name: str
) -> None:
    @activity.defn(name=name)
    async def odd() -> str:
        return activity.info().activity_type

    @workflow.defn(name=name)
    async def flow() -> list[str]:
        info = workflow.info()
        return [
            info.workflow_id,
            info.workflow_type,
            info.task_queue,
            await workflow.execute_activity(name, activity_id=name, start_to_close_timeout=A_MINUTE),
        ]

    async with worker(env.client, flow, activities=[odd], task_queue=name):
        assert await env.client.execute_workflow(name, id=name, task_queue=name) == [name] * 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_queue", ""),
        ("task_queue", "x" * 1001),
        ("workflow", ""),
        ("workflow", "x" * 1001),
        ("id", "a\x00"),
    ],
    ids=str,
)
async def test_names_that_cannot_be_are_refused_and_named(
    env: WorkflowEnvironment, field: str, value: str
) -> None:
    given: dict[str, Any] = {"workflow": "x", "id": "id", "task_queue": "q", field: value}

    with pytest.raises(RPCError) as caught:
        await env.client.start_workflow(given.pop("workflow"), **given)

    assert caught.value.status == RPCStatusCode.INVALID_ARGUMENT
    assert not [run async for run in env.client.list_workflows()]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start_to_close_timeout": -A_MINUTE}, "start_to_close_s"),
        ({"heartbeat_timeout": 0 * A_MINUTE}, "heartbeat_s"),
        ({"retry_policy": RetryPolicy(maximum_attempts=1, backoff_coefficient=0)}, "coefficient"),
        ({"task_queue": "x" * 1001}, "1001 characters"),
    ],
    ids=["negative timeout", "zero heartbeat", "coefficient", "queue"],
)
async def test_options_that_make_no_sense_stop_the_task_and_say_which(
    env: WorkflowEnvironment, options: dict[str, Any], says: str
) -> None:
    @workflow.defn
    async def senseless() -> None:
        await workflow.execute_activity(length, "x", **{"schedule_to_close_timeout": A_MINUTE, **options})

    async with worker(env.client, senseless, activities=[length]):
        handle = await env.client.start_workflow(senseless, id="senseless", task_queue=QUEUE)
        found = await until(handle, lambda found: found.task_attempt > 1)

    assert found.task_failure == "bad_commands"
    assert says in str(found.last_task_failure)
    await handle.terminate()
