"""A worker does what it was leased once, whatever is repeated to it, and keeps nothing that it cannot begin."""

from __future__ import annotations

import asyncio

import msgspec

from holdfast import Client, Worker, activity
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.engine.by_hand import QUEUE, Hand, hand


class Doer:
    """An activity that tells when it has begun, and ends when it is let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = asyncio.Event()
        self._news = asyncio.Event()

    @activity.defn(name="do")
    async def do(self) -> None:
        """Note who does it, and wait."""
        self.begun.append(activity.info().workflow_id)
        self._news.set()
        await self.may_end.wait()

    async def until(self, count: int, timeout_s: float = 8.0) -> None:
        """Return when so many have begun."""
        async with asyncio.timeout(timeout_s):
            while len(self.begun) < count:
                self._news.clear()
                await self._news.wait()


async def leased_to(worker: Worker, env: WorkflowEnvironment, count: int) -> list[m.ActivityTask]:
    """So many activities, leased to *worker*, which has not heard of them."""
    by = hand(env)
    for _ in range(count):
        await by.start()
    for task in (await by.claim(workflows=count)).workflow_tasks:
        await by.complete(task, c.ScheduleActivity(seq=1, name="do"))
    return (await Hand(by.rpc, worker.identity).claim(activities=count)).activity_tasks


async def push(env: WorkflowEnvironment, worker: Worker, tasks: list[m.ActivityTask]) -> None:
    """Hand *tasks* to the worker; returns when it has taken notice."""
    bus = env.client.caller.rpc.bus
    message = codec.encode(m.Push(activity_tasks=tasks))
    await bus.request(subjects.worker("main", worker.identity), message, 5.0)


def worker_of(env: WorkflowEnvironment, doer: Doer, slots: int, queue: str = QUEUE) -> Worker:
    return Worker(env.client, task_queue=queue, activities=[doer.do], max_concurrent_activities=slots)


async def test_an_activity_that_is_pushed_again_after_it_ended_is_not_done_again(
    env: WorkflowEnvironment,
) -> None:
    # Only leases that are held were known: the answer to a repeated report, or a message that came twice,
    # began an activity anew that was reported already.
    doer = Doer()
    doer.may_end.set()
    worker = worker_of(env, doer, 5, queue="elsewhere")
    async with worker:
        tasks = await leased_to(worker, env, 1)
        await push(env, worker, tasks)
        await push(env, worker, tasks)
        await doer.until(1)
        while (await hand(env).ask("describe", m.Describe(workflow_id=tasks[0].workflow_id))).activities:
            pass
        await push(env, worker, tasks)
        await push(env, worker, [])
    assert len(doer.begun) == 1


async def test_activities_that_find_no_slot_go_to_a_worker_that_has_one(env: WorkflowEnvironment) -> None:
    # The service believes what a worker said of its slots a moment ago. What was too much waited in the
    # worker, under its lease, for as long as the others took, while other workers were idle.
    busy, idle = Doer(), Doer()
    worker = worker_of(env, busy, 1)
    async with worker:
        tasks = await leased_to(worker, env, 4)
        async with worker_of(env, idle, 10):
            await push(env, worker, tasks)
            await busy.until(1)
            await idle.until(3)
            busy.may_end.set()
            idle.may_end.set()
    assert len({*busy.begun, *idle.begun}) == 4


async def test_a_heartbeat_that_nobody_answers_is_repeated_before_leases_run_out(
    nats_url: str, namespace: str
) -> None:
    # A service process that was killed with a heartbeat in hand cost all leases of a healthy worker: it
    # waited five seconds for the answer, and the leases last ten, of which up to six were over.
    heard: list[float] = []
    second = asyncio.Event()
    now = asyncio.get_running_loop().time

    async def swallow_the_first(_subject: str, _frame: bytes) -> bytes:
        heard.append(now())
        if len(heard) == 1:
            await second.wait()
        second.set()
        return codec.encode([m.Answer("ok", msgspec.Raw(codec.encode(m.WorkerAnswer())))])

    client = await Client.connect(nats_url, namespace=namespace)
    client.caller.rpc.bus.respond(subjects.rpc(namespace, "heartbeat"), swallow_the_first)
    async with Worker(client, task_queue=QUEUE, activities=[Doer().do]), asyncio.timeout(15.0):
        await second.wait()
    await client.close()
    assert heard[1] - heard[0] < 4.0
