"""Clients and workers go on when the broker or the service was away: nothing is done twice, nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from holdfast import Client, Worker, activity, workflow
from holdfast.app import running
from holdfast.config import Config
from tests.bus.rig import NatsServer
from tests.sdk.patience import PATIENCE_S

QUEUE = "outages"


@pytest.fixture
def broker(tmp_path: Path) -> Any:
    """A broker of this test's own, which it may kill."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.end()


def config(database: str, broker: NatsServer) -> Config:
    return Config(postgres_url=database, nats_url=broker.address, drain_s=1.0)


class Effects:
    """Counts what an activity really did, and lets a test hold it up."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.began = asyncio.Event()
        self.may_go_on = asyncio.Event()

    @activity.defn
    async def step(self, number: int) -> int:
        self.began.set()
        await self.may_go_on.wait()
        self.done.append(number)
        return number


@workflow.defn
async def three_steps() -> list[int]:
    return [await workflow.execute_activity(Effects.step, number) for number in range(3)]


async def test_work_goes_on_when_the_broker_comes_back_empty(database: str, broker: NatsServer) -> None:
    effects = Effects()
    async with running(config(database, broker)):
        client = await Client.connect(broker.address)
        async with Worker(client, task_queue=QUEUE, workflows=[three_steps], activities=[effects.step]):
            handle = await client.start_workflow(three_steps, id="broker-away", task_queue=QUEUE)
            await effects.began.wait()

            broker.kill()
            broker.wipe()
            effects.may_go_on.set()
            waiting = asyncio.create_task(handle.result())
            later = asyncio.create_task(
                client.start_workflow(three_steps, id="broker-away-2", task_queue=QUEUE)
            )
            broker.start()

            async with asyncio.timeout(PATIENCE_S):
                assert await waiting == [0, 1, 2]
                assert await (await later).result() == [0, 1, 2]
        await client.close()

    assert sorted(effects.done) == [0, 0, 1, 1, 2, 2]


async def test_work_goes_on_when_the_service_is_replaced(database: str, broker: NatsServer) -> None:
    effects = Effects()
    client = await Client.connect(broker.address)
    async with Worker(client, task_queue=QUEUE, workflows=[three_steps], activities=[effects.step]):
        async with running(config(database, broker)):
            handle = await client.start_workflow(three_steps, id="service-away", task_queue=QUEUE)
            await effects.began.wait()
        effects.may_go_on.set()
        waiting = asyncio.create_task(handle.result())
        later = asyncio.create_task(client.start_workflow(three_steps, id="service-away-2", task_queue=QUEUE))
        async with running(config(database, broker)), asyncio.timeout(PATIENCE_S):
            assert await waiting == [0, 1, 2]
            assert await (await later).result() == [0, 1, 2]
    await client.close()

    assert sorted(effects.done) == [0, 0, 1, 1, 2, 2]


async def test_a_worker_may_be_started_before_there_is_a_service(database: str, broker: NatsServer) -> None:
    effects = Effects()
    effects.may_go_on.set()
    client = await Client.connect(broker.address)
    async with Worker(client, task_queue=QUEUE, workflows=[three_steps], activities=[effects.step]):
        starting = asyncio.create_task(client.start_workflow(three_steps, id="early", task_queue=QUEUE))
        async with running(config(database, broker)), asyncio.timeout(PATIENCE_S):
            assert await (await starting).result() == [0, 1, 2]
    await client.close()

    assert effects.done == [0, 1, 2]


async def test_a_worker_stops_in_time_although_nobody_hears_it(database: str, broker: NatsServer) -> None:
    effects = Effects()
    async with running(config(database, broker)):
        client = await Client.connect(broker.address)
        worker = Worker(client, task_queue=QUEUE, workflows=[three_steps], activities=[effects.step])
        async with worker:
            handle = await client.start_workflow(three_steps, id="unheard", task_queue=QUEUE)
            await effects.began.wait()
            broker.kill()
            async with asyncio.timeout(PATIENCE_S):
                await worker.shutdown()
        broker.start()
        await handle.terminate()
        await client.close()

    assert effects.done == []
