"""What a worker registers for bounds what it is given; the SDK's worker says it of itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from holdfast import activity, workflow
from holdfast.common import RawValue
from holdfast.engine.dispatch import Credits
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import messages as m
from holdfast.worker import Worker
from tests.engine.parts import QUEUE, Parts, credit, schedule
from tests.engine.test_workers import ROWS, beat
from tests.store.rows import Sql

# -- slots -----------------------------------------------------------------------------------------


async def test_a_worker_registered_for_no_activities_gets_none_however_it_asks(parts: Parts) -> None:
    await parts.start()
    await parts.turn(schedule(1), worker="other")
    await parts.ask("heartbeat", beat(max_activities=0))

    found = await parts.claim("w1", activities=5)

    assert found.activity_tasks == []
    assert len((await parts.claim("other", activities=5)).activity_tasks) == 1


async def test_an_eager_task_needs_a_slot_that_the_worker_registered() -> None:
    credits = Credits()
    credits.roster.announced("main", beat(max_workflow_tasks=0, max_activities=2), time.monotonic())

    heard = credits.hear(credit("w1", workflows=7, activities=7, heard_at=time.monotonic()))

    assert (heard.workflow_slots, heard.activity_slots) == (0, 2)
    assert credits.any_for_workflow("main", QUEUE, time.monotonic()) is None


async def test_a_worker_that_does_not_say_how_many_slots_it_has_is_believed(parts: Parts) -> None:
    await parts.start()
    await parts.ask("heartbeat", m.WorkerHeartbeat(worker="w1", task_queue=QUEUE))

    assert len((await parts.claim("w1", workflows=20)).workflow_tasks) == 1


# -- the SDK's worker ------------------------------------------------------------------------------


@activity.defn
async def charge(amount: int) -> int:
    return amount


@workflow.defn(name="order")
async def order() -> None: ...


@workflow.defn(dynamic=True)
async def any_order(args: Sequence[RawValue]) -> None: ...


async def test_a_running_worker_is_listed_with_what_it_can_do_until_it_stops(
    env: WorkflowEnvironment, look: Sql
) -> None:
    async with Worker(
        env.client,
        task_queue="shop",
        workflows=[order],
        activities=[charge],
        identity="till-3",
        max_concurrent_activities=7,
    ) as running:
        await look.until("SELECT EXISTS (SELECT 1 FROM worker)")
        assert await look(ROWS) == [
            (running.identity, "main", "till-3", "shop", ["order"], ["charge"], 500, 7, 0)
        ]

    await look.until("SELECT NOT EXISTS (SELECT 1 FROM worker)")


async def test_a_worker_that_takes_every_type_says_so(env: WorkflowEnvironment, look: Sql) -> None:
    async with Worker(env.client, task_queue="shop", workflows=[order, any_order]):
        await look.until("SELECT EXISTS (SELECT 1 FROM worker)")

        assert await look("SELECT workflows, activities, max_concurrent_activities FROM worker") == [
            (None, [], 0)
        ]


async def test_a_worker_that_takes_its_time_to_stop_is_not_listed_meanwhile(
    env: WorkflowEnvironment, look: Sql
) -> None:
    """It goes on beating for the sake of its leases."""
    assert env.parts is not None
    requests = env.parts.metrics.requests.labels("heartbeat", "ok")
    worker = m.WorkerHeartbeat(worker="w1", task_queue=QUEUE, is_stopping=True)
    for _ in range(3):
        await env.client.caller.rpc.call("heartbeat", worker, 5.0)

    assert requests.value >= 3
    assert env.parts.engine.credits.roster.seen == {}
    async with asyncio.timeout(10):
        while env.parts.engine.credits.roster.leaving:
            await asyncio.sleep(0.02)
    assert await look(ROWS) == []
