"""Clients: ids, policies, lists, histories and handles, as operators and callers use them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast import Client, activity, workflow
from holdfast.client import (
    RPCError,
    RPCStatusCode,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHistory,
)
from holdfast.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from holdfast.exceptions import ApplicationError, TerminatedError, WorkflowAlreadyStartedError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import A_MINUTE, QUEUE, event_types, seconds, worker

ALLOW = WorkflowIDReusePolicy.ALLOW_DUPLICATE
IF_FAILED = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
REJECT = WorkflowIDReusePolicy.REJECT_DUPLICATE


@activity.defn
async def echo(value: Any) -> Any:
    return value


@workflow.defn
async def ends(how: str) -> str:
    """Completes, fails, or waits to be cancelled."""
    if how == "fail":
        raise ApplicationError("failed")
    if how == "wait":
        await asyncio.sleep(3600)
    return await echo(how)


async def close(env: WorkflowEnvironment, id: str, how: str) -> Any:
    """A run of that id that ended in that way."""
    async with worker(env.client, ends, activities=[echo]):
        handle = await env.client.start_workflow(
            ends, "wait" if how in ("cancel", "terminate") else how, id=id, task_queue=QUEUE
        )
        if how in ("cancel", "terminate"):
            await getattr(handle, how)()
        try:
            await handle.result()
        except WorkflowFailureError:
            pass
    return handle


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (ALLOW, {"complete", "fail", "cancel", "terminate"}),
        (IF_FAILED, {"fail", "cancel", "terminate"}),
        (REJECT, set()),
    ],
    ids=["allow", "if failed", "reject"],
)
async def test_reuse_of_a_closed_id_goes_by_how_it_ended(
    env: WorkflowEnvironment, policy: WorkflowIDReusePolicy, allowed: set[str]
) -> None:
    old = {how: await close(env, how, how) for how in ("complete", "fail", "cancel", "terminate")}

    again = set()
    for how, closed in old.items():
        try:
            handle = await env.client.start_workflow(
                ends, "x", id=how, task_queue="nobody", id_reuse_policy=policy
            )
        except WorkflowAlreadyStartedError as error:
            assert error.run_id == closed.result_run_id
        else:
            again.add(how)
            runs = [run.run_id async for run in env.client.list_workflows(f"WorkflowId = '{how}'")]
            assert runs == [handle.result_run_id, closed.result_run_id]

    assert again == allowed


async def test_twenty_racing_starts_of_one_id_give_one_run(env: WorkflowEnvironment) -> None:
    others = [await env.connect() for _ in range(4)]

    async def start(client: Client) -> str | None:
        try:
            handle = await client.start_workflow("x", id="race", task_queue="nobody")
        except WorkflowAlreadyStartedError as error:
            return error.run_id
        return handle.result_run_id

    runs = await asyncio.gather(*(start(client) for client in others for _ in range(5)))
    for client in others:
        await client.close()

    assert len(set(runs)) == 1
    assert len([run async for run in env.client.list_workflows("WorkflowId = 'race'")]) == 1


async def test_racing_starts_that_use_the_existing_run_all_get_its_result(env: WorkflowEnvironment) -> None:
    async def start(how: str) -> Any:
        return await env.client.execute_workflow(
            ends,
            how,
            id="shared",
            task_queue=QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=REJECT,
        )

    calls = [asyncio.create_task(start(f"number {n}")) for n in range(10)]
    async with asyncio.timeout(20):
        while not [run async for run in env.client.list_workflows()]:
            pass
    async with worker(env.client, ends, activities=[echo]):
        results = await asyncio.gather(*calls, return_exceptions=True)

    # Who came after the end was told so; everybody else shares one result.
    values = {result for result in results if isinstance(result, str)}
    assert len(values) == 1
    assert all(isinstance(r, str | WorkflowAlreadyStartedError) for r in results)


async def test_terminating_the_existing_run_starts_a_new_one_at_once(env: WorkflowEnvironment) -> None:
    old = await env.client.start_workflow("x", id="replaced", task_queue="nobody")
    waiting = asyncio.create_task(old.result())

    new = await env.client.start_workflow(
        "x",
        id="replaced",
        task_queue="nobody",
        id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
    )

    with pytest.raises(WorkflowFailureError) as caught:
        await waiting
    assert isinstance(caught.value.cause, TerminatedError)
    assert (await new.describe()).status == WorkflowExecutionStatus.PENDING


async def test_a_handle_without_a_run_id_follows_the_newest_run(env: WorkflowEnvironment) -> None:
    old = await close(env, "newest", "complete")
    new = await env.client.start_workflow(ends, "x", id="newest", task_queue="nobody")
    any_run = env.client.get_workflow_handle("newest")
    old_run = env.client.get_workflow_handle("newest", run_id=old.result_run_id)

    assert (await any_run.describe()).run_id == new.result_run_id
    assert (await old_run.describe()).status == WorkflowExecutionStatus.COMPLETED
    assert await old_run.result() == "complete"
    assert (await event_types(any_run)) == ["WorkflowStarted"]
    assert (await event_types(old_run))[-1] == "WorkflowCompleted"
    with pytest.raises(RPCError) as caught:
        await any_run.result(rpc_timeout=seconds(0.2))
    assert caught.value.status == RPCStatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("run_id", ["01a20da2-d0bd-74b2-86e9-ee75083da92b", "not a uuid", ""])
async def test_a_run_that_does_not_exist_is_said(env: WorkflowEnvironment, run_id: str) -> None:
    await env.client.start_workflow("x", id="real", task_queue="nobody")
    handle = env.client.get_workflow_handle("real", run_id=run_id)

    for call in (handle.describe, handle.cancel, handle.terminate, handle.result, handle.fetch_history):
        with pytest.raises(RPCError) as caught:
            await call()
        assert caught.value.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT)


async def test_a_run_of_another_id_is_not_found_under_this_one(env: WorkflowEnvironment) -> None:
    one = await env.client.start_workflow("x", id="one", task_queue="nobody")
    await env.client.start_workflow("x", id="two", task_queue="nobody")

    crossed = env.client.get_workflow_handle("two", run_id=one.result_run_id)
    for call in (crossed.describe, crossed.terminate, crossed.result):
        with pytest.raises(RPCError) as caught:
            await call()
        assert caught.value.status == RPCStatusCode.NOT_FOUND
    assert (await one.describe()).status == WorkflowExecutionStatus.PENDING


async def test_an_unknown_namespace_is_said_with_those_that_exist(env: WorkflowEnvironment) -> None:
    async with await env.connect(namespace="nowhere") as lost:
        with pytest.raises(RPCError, match="no namespace 'nowhere'") as caught:
            await lost.start_workflow("x", id="x", task_queue="q", rpc_timeout=seconds(5))

    assert caught.value.status == RPCStatusCode.NOT_FOUND


async def test_a_description_tells_the_course_of_a_run(env: WorkflowEnvironment) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    handle = await env.client.start_workflow(ends, "hello", id="course", task_queue=QUEUE)
    pending = await handle.describe()
    async with worker(env.client, ends, activities=[echo]):
        await handle.result()
    closed = await handle.describe()

    assert (pending.id, pending.workflow_type, pending.task_queue) == ("course", "ends", QUEUE)
    assert (pending.status, pending.close_time, pending.history_length) == (
        WorkflowExecutionStatus.PENDING,
        None,
        1,
    )
    assert closed.status == WorkflowExecutionStatus.COMPLETED
    assert closed.close_time is not None
    assert before < closed.start_time <= closed.close_time
    assert closed.history_length == 6
    assert (closed.task_attempt, closed.pending_activities, closed.sticky_worker) == (0, [], None)


async def test_lists_tell_runs_apart_by_how_they_are(env: WorkflowEnvironment) -> None:
    for how in ("complete", "fail", "cancel", "terminate"):
        await close(env, how, how)
    await env.client.start_workflow("other", id="o'pen", task_queue="nobody")

    async def ids(query: str | None) -> list[str]:
        return sorted([run.id async for run in env.client.list_workflows(query)])

    assert await ids(None) == ["cancel", "complete", "fail", "o'pen", "terminate"]
    assert await ids("ExecutionStatus = 'Completed'") == ["complete"]
    assert await ids("ExecutionStatus = 'Canceled'") == ["cancel"]
    assert await ids('ExecutionStatus IN ("Failed", "Terminated")') == ["fail", "terminate"]
    assert await ids("ExecutionStatus='Running'") == ["o'pen"]
    assert await ids("WorkflowType = 'other'") == ["o'pen"]
    assert await ids("WorkflowId = 'o''pen'") == ["o'pen"]
    assert await ids("WorkflowType = 'ends' AND ExecutionStatus = 'Failed'") == ["fail"]
    assert await ids("WorkflowType = 'ends' and WorkflowId = 'nothing'") == []


async def test_a_list_of_many_runs_has_each_once_while_new_ones_start(env: WorkflowEnvironment) -> None:
    await asyncio.gather(
        *(env.client.start_workflow("x", id=f"old-{n}", task_queue="nobody") for n in range(50))
    )
    seen = []
    async for run in env.client.list_workflows(page_size=7):
        seen.append(run.id)
        if len(seen) % 10 == 0:
            await env.client.start_workflow("x", id=f"new-{len(seen)}", task_queue="nobody")

    assert sorted(seen) == sorted(f"old-{n}" for n in range(50))


async def test_a_history_survives_json_and_compares_equal(env: WorkflowEnvironment) -> None:
    @workflow.defn
    async def busy(text: str) -> str:
        await workflow.step(lambda: 1)
        workflow.patched("p")
        async with asyncio.timeout(3600):
            await echo({"text": text, "odd": "ünï🙂\u2028"})
        await asyncio.sleep(0.01)
        try:
            await workflow.execute_activity("nope", schedule_to_start_timeout=seconds(0.05), task_queue="no")
        except Exception:
            raise ApplicationError("end", {"x": 1}, type="End") from None
        return text

    async with worker(env.client, busy, activities=[echo]):
        handle = await env.client.start_workflow(busy, "hi", id="json", task_queue=QUEUE)
        await handle.signal("unhandled", args=[1, None])
        with pytest.raises(WorkflowFailureError):
            await handle.result()

    history = await handle.fetch_history()
    again = WorkflowHistory.from_json("json", history.to_json())
    assert again == history
    assert again.to_json() == history.to_json()
    assert again.wire_events() == history.wire_events()
    assert (again.workflow_id, again.run_id) == ("json", handle.result_run_id)
    types = {event.event_type for event in history.events}
    assert {"MarkerRecorded", "TimerCancelled", "TimerFired", "ActivityTimedOut", "WorkflowFailed"} <= types


async def test_a_result_may_be_waited_for_by_many_and_again_later(env: WorkflowEnvironment) -> None:
    await env.client.start_workflow(ends, "shared", id="waited", task_queue=QUEUE)
    async with await env.connect() as other:
        waiting = [
            asyncio.create_task(client.get_workflow_handle_for(ends, "waited").result())
            for client in (env.client, other)
            for _ in range(20)
        ]
        async with worker(env.client, ends, activities=[echo]):
            assert await asyncio.gather(*waiting) == ["shared"] * 40
        assert await other.get_workflow_handle_for(ends, "waited").result() == "shared"


async def test_a_caller_that_stops_waiting_disturbs_nobody(env: WorkflowEnvironment) -> None:
    handle = await env.client.start_workflow(ends, "kept", id="impatient", task_queue=QUEUE)
    waiting = asyncio.create_task(handle.result())
    other = asyncio.create_task(handle.result())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    async with worker(env.client, ends, activities=[echo]):
        assert await other == "kept"


async def test_execute_workflow_by_name_and_with_options_gives_typed_results(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn(name="makes date")
    async def makes() -> datetime:
        return datetime(2024, 1, 1, tzinfo=UTC)

    async with worker(env.client, makes):
        by_name = await env.client.execute_workflow(
            "makes date", id="named", task_queue=QUEUE, result_type=datetime, rpc_timeout=A_MINUTE
        )
        untyped = await env.client.execute_workflow("makes date", id="untyped", task_queue=QUEUE)

    assert by_name == datetime(2024, 1, 1, tzinfo=UTC)
    assert untyped == "2024-01-01T00:00:00Z"
