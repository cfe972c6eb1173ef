"""Signals: none is lost, none comes twice, and they are handled in the order they were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast import Client, activity, workflow
from holdfast.client import RPCError, RPCStatusCode
from holdfast.common import RawValue
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import PATIENCE_S, QUEUE, event_types, everything_seen, failure, told, worker


@dataclass
class Item:
    name: str
    count: int = 1


@workflow.defn
class Collector:
    def __init__(self) -> None:
        self.got: list[Any] = []
        self.expected = -1

    @workflow.run
    async def run(self) -> list[Any]:
        await workflow.wait_condition(lambda: len(self.got) == self.expected)
        return self.got

    @workflow.signal
    def add(self, number: int) -> None:
        self.got.append(number)

    @workflow.signal(name="add item")
    async def add_item(self, item: Item, *more: str) -> None:
        await asyncio.sleep(0)
        self.got.append([item.name, item.count, *more])

    @workflow.signal
    def expect(self, count: int) -> None:
        self.expected = count


async def test_500_signals_to_one_run_are_all_counted_in_order(env: WorkflowEnvironment) -> None:
    async with worker(env.client, Collector):
        handle = await env.client.start_workflow(Collector.run, id="many", task_queue=QUEUE)
        for number in range(60):
            await handle.signal(Collector.add, number)
        # Nobody waits for one of these before the next is sent: only their number is promised.
        await asyncio.gather(*(handle.signal(Collector.add, number) for number in range(60, 500)))
        await handle.signal(Collector.expect, 500)
        got = await handle.result()

    assert got[:60] == list(range(60))
    assert sorted(got) == list(range(500))

    assert (await event_types(handle)).count("SignalReceived") == 501


async def test_signals_of_many_senders_keep_the_order_of_each(env: WorkflowEnvironment) -> None:
    others = [await env.connect() for _ in range(5)]
    async with worker(env.client, Collector):
        handle = await env.client.start_workflow(Collector.run, id="many", task_queue=QUEUE)

        async def send(client: Client, sender: int) -> None:
            own = client.get_workflow_handle("many")
            for number in range(20):
                await own.signal("add", sender * 1000 + number)

        await asyncio.gather(*(send(client, sender) for sender, client in enumerate(others)))
        await handle.signal(Collector.expect, 100)
        got = await handle.result()
    for client in others:
        await client.close()

    for sender in range(5):
        assert [n for n in got if n // 1000 == sender] == [sender * 1000 + n for n in range(20)]


async def test_signals_sent_before_any_worker_lives_are_handled_first(env: WorkflowEnvironment) -> None:
    handle = await env.client.start_workflow(Collector.run, id="early", task_queue=QUEUE)
    for number in range(3):
        await handle.signal(Collector.add, number)
    await handle.signal(Collector.expect, 3)

    async with worker(env.client, Collector):
        assert await handle.result() == [0, 1, 2]


async def test_arguments_of_signals_are_typed_and_many(env: WorkflowEnvironment) -> None:
    async with worker(env.client, Collector):
        handle = await env.client.start_workflow(Collector.run, id="typed", task_queue=QUEUE)
        await handle.signal(Collector.add_item, Item("a", 2))
        await handle.signal("add item", args=[Item("b"), "x", "y"])
        await handle.signal(Collector.expect, 2)

        assert await handle.result() == [["a", 2], ["b", 1, "x", "y"]]


async def test_a_function_workflow_handles_signals_that_came_before_it_set_a_handler(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def listens() -> list[str]:
        got: list[str] = []
        await workflow.wait_condition(lambda: True)
        await asyncio.sleep(0.05)
        workflow.set_signal_handler("tell", lambda text: got.append(text))  # noqa: PLW0108 - typed by nobody
        assert workflow.get_signal_handler("tell") is not None
        await workflow.wait_condition(lambda: "end" in got)
        return got

    async with worker(env.client, listens):
        handle = await env.client.start_workflow(listens, id="listens", task_queue=QUEUE)
        for text in ("one", "two"):
            await handle.signal("tell", text)
        await everything_seen(handle)
        await handle.signal("tell", "end")

        assert await handle.result() == ["one", "two", "end"]


async def test_dynamic_handlers_take_what_no_other_handler_takes(env: WorkflowEnvironment) -> None:
    @workflow.defn
    class Catches:
        def __init__(self) -> None:
            self.got: list[Any] = []

        @workflow.run
        async def run(self) -> list[Any]:
            await workflow.wait_condition(lambda: "end" in self.got)
            return self.got

        @workflow.signal
        def known(self, number: int) -> None:
            self.got.append(["known", number])

        @workflow.signal
        def end(self) -> None:
            self.got.append("end")

        @workflow.signal(dynamic=True)
        async def other(self, name: str, args: Sequence[RawValue]) -> None:
            values = [workflow.payload_converter().from_payload(arg.payload) for arg in args]
            self.got.append([name, *values])

    async with worker(env.client, Catches):
        handle = await env.client.start_workflow(Catches.run, id="catches", task_queue=QUEUE)
        await handle.signal("unheard of", args=[1, {"a": None}])
        await handle.signal("known", 2)
        await handle.signal("no arguments")
        await everything_seen(handle)
        await handle.signal("end")

        assert sorted(await handle.result(), key=str) == sorted(
            [["unheard of", 1, {"a": None}], ["known", 2], ["no arguments"], "end"], key=str
        )


async def test_a_dynamic_handler_that_is_set_later_gets_everything_that_waited(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def late() -> list[str]:
        got: list[str] = []
        await asyncio.sleep(0.05)
        workflow.set_dynamic_signal_handler(lambda name, _args: got.append(name))
        await workflow.wait_condition(lambda: len(got) == 3)
        return got

    handle = await env.client.start_workflow(late, id="late", task_queue=QUEUE)
    for name in ("b", "a", "b"):
        await handle.signal(name)

    async with worker(env.client, late):
        result = await handle.result()

    # In the order they came, whatever their names.
    assert result == ["b", "a", "b"]


async def test_async_handlers_may_call_activities_and_run_beside_each_other(env: WorkflowEnvironment) -> None:
    both = asyncio.Barrier(2)

    @activity.defn
    async def meet(name: str) -> str:
        async with asyncio.timeout(PATIENCE_S):
            await both.wait()
        return name.upper()

    @workflow.defn
    class Busy:
        def __init__(self) -> None:
            self.got: list[str] = []

        @workflow.run
        async def run(self) -> list[str]:
            await workflow.wait_condition(lambda: len(self.got) == 2 and workflow.all_handlers_finished())
            return sorted(self.got)

        @workflow.signal
        async def work(self, name: str) -> None:
            self.got.append(await meet(name))

    async with worker(env.client, Busy, activities=[meet]):
        handle = await env.client.start_workflow(Busy.run, id="busy", task_queue=QUEUE)
        await handle.signal(Busy.work, "a")
        await handle.signal(Busy.work, "b")

        assert await handle.result() == ["A", "B"]


async def test_a_signal_that_arrives_while_the_run_wants_to_end_is_not_dropped(
    env: WorkflowEnvironment,
) -> None:
    """The activity of the only step sends the signal itself, just before it completes."""

    @workflow.defn
    class Ends:
        def __init__(self) -> None:
            self.got: list[int] = []

        @workflow.run
        async def run(self) -> list[int]:
            await signals_its_own_run(5)
            return self.got

        @workflow.signal
        def add(self, number: int) -> None:
            self.got.append(number)

    @activity.defn
    async def signals_its_own_run(count: int) -> None:
        handle = activity.client().get_workflow_handle("ends")
        await asyncio.gather(*(handle.signal("add", number) for number in range(count)))

    async with worker(env.client, Ends, activities=[signals_its_own_run]):
        handle = await env.client.start_workflow(Ends.run, id="ends", task_queue=QUEUE)

        assert sorted(await handle.result()) == list(range(5))


async def test_a_handler_that_raises_a_failure_fails_the_workflow(env: WorkflowEnvironment) -> None:
    @workflow.defn
    class Fragile:
        @workflow.run
        async def run(self) -> None:
            await workflow.wait_condition(lambda: False)

        @workflow.signal
        async def hurt(self) -> None:
            raise ApplicationError("ouch", type="Ouch")

    async with worker(env.client, Fragile):
        handle = await env.client.start_workflow(Fragile.run, id="fragile", task_queue=QUEUE)
        await handle.signal(Fragile.hurt)

        assert told(await failure(handle.result())) == [["ApplicationError", "ouch", "Ouch", []]]


async def test_a_signal_goes_to_the_run_that_the_handle_means(env: WorkflowEnvironment) -> None:
    old = await env.client.start_workflow("nobody", id="again", task_queue="nobody")
    await old.terminate()
    new = await env.client.start_workflow("nobody", id="again", task_queue="nobody")
    by_run = env.client.get_workflow_handle("again", run_id=old.result_run_id)

    await env.client.get_workflow_handle("again").signal("x", 1)
    with pytest.raises(RPCError) as caught:
        await by_run.signal("x", 2)

    assert caught.value.status == RPCStatusCode.FAILED_PRECONDITION
    assert await event_types(new) == ["WorkflowStarted", "SignalReceived"]


@pytest.mark.parametrize("name", ["a.b *>", "🙂", "x" * 1000])
async def test_any_text_can_be_the_name_of_a_signal(env: WorkflowEnvironment, name: str) -> None:
    @workflow.defn
    async def hears(name: str) -> int:
        got: list[int] = []
        workflow.set_signal_handler(name, got.append)
        await workflow.wait_condition(lambda: bool(got))
        return got[0]

    async with worker(env.client, hears):
        handle = await env.client.start_workflow(hears, name, id="hears", task_queue=QUEUE)
        await handle.signal(name, 7)

        assert await handle.result() == 7
