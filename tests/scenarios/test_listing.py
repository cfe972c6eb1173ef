"""Finding runs: the one filter language, counts, and why a run does not move."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.client import RPCError, RPCStatusCode
from holdfast.common import RetryPolicy, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from holdfast.core.filters import parse
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import QUEUE, count_of, seconds, worker

NUMBER = SearchAttributeKey.for_int("number")
TENANT = SearchAttributeKey.for_keyword("tenant")


@workflow.defn
async def order() -> str:
    return "done"


@workflow.defn
async def fails() -> None:
    raise ApplicationError("no")


@workflow.defn
async def sleeps() -> None:
    await asyncio.sleep(86_400)


@workflow.defn
class Waits:
    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)


@workflow.defn
async def calls() -> None:
    await workflow.execute_activity(
        breaks,
        start_to_close_timeout=seconds(10),
        retry_policy=RetryPolicy(initial_interval=timedelta(hours=1)),
    )


@activity.defn
async def breaks() -> None:
    raise ApplicationError("card refused", type="CardError")


async def some_runs(env: WorkflowEnvironment) -> None:
    """Five orders that end, one that fails, three that nobody takes; numbered."""
    async with worker(env.client, order, fails):
        for number in range(5):
            await env.client.execute_workflow(
                order, id=f"o-{number}", task_queue=QUEUE, search_attributes=attributes(number, "acme")
            )
        handle = await env.client.start_workflow(fails, id="f-0", task_queue=QUEUE)
        with pytest.raises(Exception, match="failed"):
            await handle.result()
    for number in range(3):
        await env.client.start_workflow(
            "other", id=f"w-{number}", task_queue="nobody's", search_attributes=attributes(number, "beta")
        )


def attributes(number: int, tenant: str) -> TypedSearchAttributes:
    return TypedSearchAttributes([SearchAttributePair(NUMBER, number), SearchAttributePair(TENANT, tenant)])


async def ids(env: WorkflowEnvironment, query: str | None, **options: Any) -> set[str]:
    return {run.id async for run in env.client.list_workflows(query, **options)}


async def test_one_language_finds_what_was_just_written(env: WorkflowEnvironment) -> None:
    await some_runs(env)
    expected: dict[str | None, set[str]] = {
        None: {"o-0", "o-1", "o-2", "o-3", "o-4", "f-0", "w-0", "w-1", "w-2"},
        "WorkflowType = 'fails'": {"f-0"},
        "Status = 'running'": {"w-0", "w-1", "w-2"},
        "ExecutionStatus IN ('Failed', 'Running') AND NOT WorkflowId = 'w-1'": {"f-0", "w-0", "w-2"},
        "tenant = 'acme' AND number >= 3": {"o-3", "o-4"},
        "number = 1": {"o-1", "w-1"},
        "number BETWEEN 1 AND 2 AND Status = 'COMPLETED'": {"o-1", "o-2"},
        "tenant IS NULL": {"f-0"},
        "tenant != 'acme'": {"w-0", "w-1", "w-2"},
        "tenant STARTS_WITH 'be' OR WorkflowId = 'o-0'": {"w-0", "w-1", "w-2", "o-0"},
        "CloseTime IS NOT NULL AND number NOT IN (0, 1)": {"o-2", "o-3", "o-4"},
        "StartTime > now() - '1h' AND WorkflowId STARTS_WITH 'f'": {"f-0"},
        "StartTime < now() - '1h'": set(),
        'TaskQueue = "nobody\'s" ORDER BY StartTime DESC': {"w-0", "w-1", "w-2"},
        "HistoryLength = 1": {"w-0", "w-1", "w-2"},
        "number = '1'": set(),
    }

    found = {query: await ids(env, query) for query in expected}

    assert found == expected


async def test_pages_are_whole_and_in_order_and_a_limit_holds(env: WorkflowEnvironment) -> None:
    await some_runs(env)

    paged = [run.run_id async for run in env.client.list_workflows("number >= 0", page_size=2)]
    few = [run.run_id async for run in env.client.list_workflows("number >= 0", limit=3, page_size=2)]

    assert len(paged) == 8
    assert paged == sorted(paged, reverse=True)
    assert few == paged[:3]


async def test_counts_are_of_what_matches_and_by_status_if_asked(env: WorkflowEnvironment) -> None:
    await some_runs(env)

    whole = await env.client.count_workflows()
    acme = await env.client.count_workflows("tenant = 'acme'")
    grouped = await env.client.count_workflows("number >= 0 GROUP BY ExecutionStatus")

    assert (whole.count, acme.count, whole.groups) == (9, 5, [])
    assert {group.group_values[0]: group.count for group in grouped.groups} == {"COMPLETED": 5, "PENDING": 3}


async def test_a_filter_that_cannot_be_read_is_refused_with_its_place(env: WorkflowEnvironment) -> None:
    with pytest.raises(RPCError, match="at character 16: found 'order', expected a value") as caught:
        await ids(env, "WorkflowType = order")

    assert caught.value.status is RPCStatusCode.INVALID_ARGUMENT


async def test_a_filter_is_no_way_into_the_database(env: WorkflowEnvironment) -> None:
    await some_runs(env)

    odd = await ids(env, "`x\" || true || $.\"a` = 'y'' OR 1=1 --' OR WorkflowId = '\\\" || true'")

    assert odd == set()
    assert parse("number = 1").path is not None


async def test_why_says_what_a_run_waits_for(env: WorkflowEnvironment) -> None:
    client = env.client
    unserved = await client.start_workflow("any", id="unserved", task_queue="empty")
    async with worker(client, sleeps, Waits, calls, order, activities=[breaks]):
        sleeper = await client.start_workflow(sleeps, id="sleeper", task_queue=QUEUE)
        waiter = await client.start_workflow(Waits.run, id="waiter", task_queue=QUEUE)
        caller = await client.start_workflow(calls, id="caller", task_queue=QUEUE)
        unknown = await client.start_workflow("unknown", id="unknown", task_queue=QUEUE)
        await client.execute_workflow(order, id="closed", task_queue=QUEUE)
        for handle in (sleeper, waiter, caller):
            await count_of(handle, "WorkflowTaskCompleted", 1)
        await count_of(unknown, "WorkflowTaskFailed", 1)
        async with asyncio.timeout(20):
            while "next at" not in await caller.why():
                await asyncio.sleep(0.01)
        told = {
            handle.id: await handle.why()
            for handle in (unserved, sleeper, waiter, caller, unknown, client.get_workflow_handle("closed"))
        }

    assert "no worker of queue 'empty' has been heard of lately" in told["unserved"]
    assert told["sleeper"].startswith("It waits for timer 1 until 20")
    assert told["waiter"] == "It waits for a signal: no activity, timer or task of it is open."
    assert "activity breaks (attempt 2; the last failed with CardError: card refused)" in told["caller"]
    assert told["unknown"].startswith("Its workflow task fails (unknown_workflow_type, attempt ")
    assert told["closed"].startswith("It is closed: COMPLETED at 20")
