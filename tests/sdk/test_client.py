"""The client against the real service: what callers are told, and what happens to what they ask."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from holdfast import Client, Worker, activity, workflow
from holdfast.client import (
    RPCError,
    RPCStatusCode,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHistory,
)
from holdfast.common import RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from holdfast.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    Invalid,
    TerminatedError,
    WorkflowAlreadyStartedError,
)
from holdfast.testing import WorkflowEnvironment
from holdfast.wire.messages import PAYLOAD_BYTES_MAX
from tests.sdk.patience import until

QUEUE = "client-tests"


@dataclass
class Order:
    item: str
    count: int = 1


@activity.defn
async def price(order: Order) -> float:
    if order.item == "unknown":
        raise ApplicationError("no such item", order.item, type="UnknownItem", non_retryable=True)
    return 2.5 * order.count


@workflow.defn
async def total(order: Order) -> float:
    return await price(order)


@workflow.defn
class Till:
    """Adds up what it is sent until it is closed."""

    def __init__(self) -> None:
        self.items: list[Order] = []
        self.is_closed = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.is_closed)
        return sum(order.count for order in self.items)

    @workflow.signal
    def add(self, order: Order) -> None:
        self.items.append(order)

    @workflow.signal(name="close-up")
    def close(self) -> None:
        self.is_closed = True


def worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[total, Till], activities=[price])


async def start_idle(client: Client, id: str, **options: Any) -> Any:
    """A run that nobody works on."""
    return await client.start_workflow("nobody", id=id, task_queue="nobody", **options)


# -- start and result


async def test_a_workflow_is_started_and_its_result_comes_back_typed(env: WorkflowEnvironment) -> None:
    async with worker(env.client):
        assert await env.client.execute_workflow(total, Order("tea", 4), id="typed", task_queue=QUEUE) == 10.0
        assert (
            await env.client.execute_workflow("total", Order("tea", 2), id="named", task_queue=QUEUE) == 5.0
        )
        handle = env.client.get_workflow_handle_for(total, "typed")
        assert await handle.result() == 10.0


async def test_a_failure_comes_back_with_its_whole_chain(env: WorkflowEnvironment) -> None:
    async with worker(env.client):
        with pytest.raises(WorkflowFailureError) as caught:
            await env.client.execute_workflow(total, Order("unknown"), id="fails", task_queue=QUEUE)

    cause = caught.value.cause
    assert isinstance(cause, ActivityError)
    assert cause.activity_type == "price"
    assert isinstance(cause.cause, ApplicationError)
    assert (cause.cause.message, cause.cause.type, list(cause.cause.details)) == (
        "no such item",
        "UnknownItem",
        ["unknown"],
    )


async def test_a_second_start_of_an_open_id_is_refused_by_name(env: WorkflowEnvironment) -> None:
    first = await start_idle(env.client, "twice")

    with pytest.raises(WorkflowAlreadyStartedError) as caught:
        await start_idle(env.client, "twice")

    assert (caught.value.workflow_id, caught.value.workflow_type) == ("twice", "nobody")
    assert caught.value.run_id == first.result_run_id


async def test_id_policies_decide_about_existing_runs(env: WorkflowEnvironment) -> None:
    first = await start_idle(env.client, "policies")
    same = await start_idle(env.client, "policies", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
    other = await start_idle(
        env.client, "policies", id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING
    )

    assert same.result_run_id == first.result_run_id != other.result_run_id
    with pytest.raises(WorkflowFailureError) as caught:
        await first.result()
    assert isinstance(caught.value.cause, TerminatedError)
    await other.terminate()
    with pytest.raises(WorkflowAlreadyStartedError):
        await start_idle(env.client, "policies", id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE)
    again = await start_idle(
        env.client, "policies", id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
    )
    assert again.result_run_id != other.result_run_id


@pytest.mark.parametrize("id", ["a b", "a.b.*.>", "🙂" * 400, "x" * 1000, "-", "$payload"])
async def test_any_text_can_be_an_id(env: WorkflowEnvironment, id: str) -> None:
    handle = await start_idle(env.client, id)

    assert (await handle.describe()).id == id
    assert [run.id async for run in env.client.list_workflows(f"WorkflowId = '{id}'")] == [id]
    await handle.terminate()


@pytest.mark.parametrize("id", ["", "x" * 1001, "a\x00b", "a\ud800b"])
async def test_what_cannot_be_an_id_is_refused_and_said(env: WorkflowEnvironment, id: str) -> None:
    with pytest.raises(RPCError) as caught:
        await start_idle(env.client, id)

    assert caught.value.status == RPCStatusCode.INVALID_ARGUMENT


async def test_a_payload_at_the_limit_is_taken_and_one_over_it_never_leaves(env: WorkflowEnvironment) -> None:
    fits = "x" * (PAYLOAD_BYTES_MAX - 4)

    handle = await start_idle(env.client, "large", args=[fits])
    history = await handle.fetch_history()

    assert len(history.events[0].attributes["input"]) == PAYLOAD_BYTES_MAX
    with pytest.raises(Invalid, match="2097152"):
        await start_idle(env.client, "too-large", args=[fits + "x"])
    with pytest.raises(RPCError, match="too-large"):
        await env.client.get_workflow_handle("too-large").describe()


async def test_arguments_are_given_in_one_way(env: WorkflowEnvironment) -> None:
    with pytest.raises(ValueError, match="arg and args"):
        await env.client.start_workflow("x", 1, args=[2], id="both", task_queue="nobody")


async def test_a_function_that_is_no_workflow_is_refused(env: WorkflowEnvironment) -> None:
    async def plain() -> None: ...

    with pytest.raises(ValueError, match=r"was it decorated with @workflow\.defn"):
        await env.client.start_workflow(plain, id="plain", task_queue=QUEUE)


# -- signals, cancellation, termination


async def test_signals_reach_the_workflow_in_order_and_typed(env: WorkflowEnvironment) -> None:
    async with worker(env.client):
        handle = await env.client.start_workflow(Till.run, id="till", task_queue=QUEUE)
        await handle.signal(Till.add, Order("tea", 2))
        await handle.signal("add", Order("milk", 3))
        await handle.signal(Till.close)

        assert await handle.result() == 5


async def test_a_workflow_ends_as_cancelled_when_asked(env: WorkflowEnvironment) -> None:
    handle = await env.client.start_workflow(Till.run, id="cancel", task_queue=QUEUE)
    await handle.cancel(reason="changed my mind")
    await handle.cancel()

    async with worker(env.client):
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()

    assert isinstance(caught.value.cause, CancelledError)
    assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED


async def test_terminate_needs_no_worker_and_keeps_reason_and_details(env: WorkflowEnvironment) -> None:
    handle = await start_idle(env.client, "end")

    await handle.terminate("detail", 5, reason="enough")

    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    cause = caught.value.cause
    assert isinstance(cause, TerminatedError)
    assert (cause.message, list(cause.details)) == ("enough", ["detail", 5])


async def test_calls_to_unknown_and_closed_runs_say_which(env: WorkflowEnvironment) -> None:
    unknown = env.client.get_workflow_handle("no-such")
    closed = await start_idle(env.client, "closed")
    await closed.terminate()

    for call in (unknown.describe, unknown.cancel, unknown.result, unknown.fetch_history):
        with pytest.raises(RPCError, match="no-such") as caught:
            await call()
        assert caught.value.status == RPCStatusCode.NOT_FOUND
    with pytest.raises(RPCError) as refused:
        await closed.signal("add", 1)
    assert refused.value.status == RPCStatusCode.FAILED_PRECONDITION
    assert len((await closed.fetch_history()).events) == 2


# -- looking


async def test_a_description_shows_an_activity_that_is_being_retried(env: WorkflowEnvironment) -> None:
    failed = asyncio.Event()

    @activity.defn
    async def flaky() -> None:
        failed.set()
        raise ApplicationError("not yet", type="NotYet")

    @workflow.defn
    async def patient() -> None:
        await flaky.options(retry_policy=RetryPolicy(initial_interval=timedelta(minutes=1)))()

    async with Worker(env.client, task_queue="flaky", workflows=[patient], activities=[flaky]):
        handle = await env.client.start_workflow(patient, id="flaky", task_queue="flaky")
        await failed.wait()
        found = await until(handle, lambda found: found.pending_activities[0].state == "scheduled")

    (pending,) = found.pending_activities
    assert found.status == WorkflowExecutionStatus.RUNNING
    assert (pending.activity_type, pending.state, pending.attempt) == ("flaky", "scheduled", 2)
    assert isinstance(pending.last_failure, ApplicationError)
    assert pending.last_failure.type == "NotYet"
    assert pending.next_attempt_time is not None
    await handle.terminate()


async def test_a_history_is_read_in_pages_and_kept_as_json(env: WorkflowEnvironment) -> None:
    handle = await start_idle(env.client, "pages")
    for number in range(25):
        await handle.signal("note", number)

    history = await handle.fetch_history()
    paged = [event async for event in handle.fetch_history_events(page_size=4)]

    assert [event.event_id for event in history.events] == list(range(1, 27))
    assert paged == history.events
    assert history.events[25].event_type == "SignalReceived"
    assert history.run_id == handle.result_run_id
    again = WorkflowHistory.from_json("pages", history.to_json())
    assert again == history
    assert again.wire_events()[25].event.input == b"[24]"  # type: ignore[union-attr]
    await handle.terminate()


async def test_lists_are_filtered_and_paged(env: WorkflowEnvironment) -> None:
    for number in range(7):
        handle = await env.client.start_workflow("listed", id=f"list-{number}", task_queue="nobody")
        if number < 3:
            await handle.terminate()

    def ids(runs: list[Any]) -> list[str]:
        return [run.id for run in runs]

    everything = [run async for run in env.client.list_workflows("WorkflowType = 'listed'", page_size=2)]
    ended = [
        run
        async for run in env.client.list_workflows(
            "WorkflowType = 'listed' AND ExecutionStatus = 'Terminated'"
        )
    ]
    some = [run async for run in env.client.list_workflows("WorkflowType='listed'", limit=3, page_size=2)]

    assert ids(everything) == [f"list-{number}" for number in reversed(range(7))]
    assert ids(ended) == ["list-2", "list-1", "list-0"]
    assert ids(some) == ["list-6", "list-5", "list-4"]
    assert {run.status for run in ended} == {WorkflowExecutionStatus.TERMINATED}


async def test_a_filter_that_is_not_understood_is_refused(env: WorkflowEnvironment) -> None:
    """Not even read: it ends after its first word."""
    with pytest.raises(RPCError, match="expected") as caught:
        [run async for run in env.client.list_workflows("WorkflowType")]

    assert caught.value.status == RPCStatusCode.INVALID_ARGUMENT


# -- outages


async def test_no_server_is_said_with_the_address() -> None:
    with pytest.raises(RPCError, match=r"127\.0\.0\.1:1 ") as caught:
        await Client.connect("127.0.0.1:1", connect_timeout=timedelta(seconds=0.5))

    assert caught.value.status == RPCStatusCode.UNAVAILABLE


async def test_without_a_service_a_call_waits_and_then_says_so(env: WorkflowEnvironment) -> None:
    lonely = await Client.connect(env.nats_url, namespace="nobody-serves-this")
    lonely.caller.rpc.namespace = "main"
    # Nobody answers a verb that does not exist, exactly as nobody answers when no service runs.
    with pytest.raises(RPCError, match="no definite answer within") as caught:
        await lonely.caller.call("no-such-verb", {}, timedelta(seconds=0.3))

    assert caught.value.status == RPCStatusCode.DEADLINE_EXCEEDED
    await lonely.close()


async def test_a_result_is_waited_for_no_longer_than_asked(env: WorkflowEnvironment) -> None:
    handle = await start_idle(env.client, "slow")

    with pytest.raises(RPCError) as caught:
        await handle.result(rpc_timeout=timedelta(seconds=0.3))

    assert caught.value.status == RPCStatusCode.DEADLINE_EXCEEDED
    await handle.terminate()


async def test_the_namespace_named_default_is_main(env: WorkflowEnvironment) -> None:
    ported = await Client.connect(env.nats_url, namespace="default")

    assert ported.namespace == "main"
    await ported.close()


async def test_options_without_meaning_are_ignored_with_one_warning(env: WorkflowEnvironment) -> None:
    with pytest.warns(UserWarning, match="retry_config, runtime have no meaning"):
        client = await Client.connect(env.nats_url, runtime=object(), retry_config=object())
    await client.close()
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        await Client.connect(env.nats_url, colour="red")
