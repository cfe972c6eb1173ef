"""What a workflow costs, exactly: commits, statements and messages. Change a figure here only with its reason.

Counted, not timed. What else the service does on its own (a pulse a second, the feed's role) only ever adds, so
the least of several rounds is what the workflow itself costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

import pytest
import pytest_asyncio

from holdfast import Worker, activity, workflow
from holdfast.testing import WorkflowEnvironment

pytestmark = pytest.mark.xdist_group("whole-system")

ROUNDS = 6
WARM_UP = 5

COMMITS = 3
"""The start, which leases the first task; its completion, which leases the activity; the activity's with the close."""
STATEMENTS = 8
"""Until the result is known."""
REQUESTS = {"start": 1, "report": 2, "result": 1}
"""Asked by the client and the worker together; the first task comes as a push, the activity in an answer."""

IDLE_WORKERS = 100
IDLE_S = 10.0
QUERIES_A_MINUTE = 120


@activity.defn
async def echo(value: int) -> int:
    return value


@workflow.defn
async def one_activity(value: int) -> int:
    return await echo(value)


class Meter:
    """Reads the counters of a service in this process, and those of the connection that client and worker share."""

    def __init__(self, env: WorkflowEnvironment) -> None:
        self._env = env
        self._number = 0

    def read(self) -> dict[str, int]:
        assert self._env.parts is not None
        counts, service = self._env.parts.pool.counts, asdict(self._env.parts.bus.stats)
        asked = self._env.client.caller.rpc.bus.stats
        return {
            "commits": counts.commits,
            "statements": counts.statements,
            "requests": asked.requests,
            "pushes": service["requests"],
            "hints": self.hints(),
        }

    def hints(self) -> int:
        assert self._env.parts is not None
        return int(self._env.parts.engine.metrics.hints_published.value)

    async def workflow(self) -> dict[str, int]:
        """What one workflow in an idle system adds, from its start to its known result."""
        self._number += 1
        before = self.read()
        client = self._env.client
        assert (
            await client.execute_workflow(one_activity, 7, id=f"cost {self._number}", task_queue="cost") == 7
        )
        return {name: value - before[name] for name, value in self.read().items()}

    async def rest(self) -> None:
        """Return once the feed has told everything: nothing of an earlier workflow is left to be done."""
        assert self._env.parts is not None
        published = self._env.parts.engine.metrics.events_published
        while published.value < self._number * COMMITS:
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def meter(env: WorkflowEnvironment) -> AsyncIterator[Meter]:
    async with Worker(env.client, task_queue="cost", workflows=[one_activity], activities=[echo]):
        meter = Meter(env)
        for _ in range(WARM_UP):
            await meter.workflow()
        yield meter


async def test_a_workflow_with_one_activity_costs_three_commits(meter: Meter) -> None:
    """With an eager activity and a coalesced turn: nothing is written that could travel with something else."""
    rounds = []
    for _ in range(ROUNDS):
        async with asyncio.timeout(20):
            await meter.rest()
        rounds.append(await meter.workflow())

    assert {cost["commits"] for cost in rounds} == {COMMITS}
    assert {cost["requests"] for cost in rounds} == {sum(REQUESTS.values())}
    assert {cost["pushes"] for cost in rounds} == {1}
    assert {cost["hints"] for cost in rounds} == {0}
    assert min(cost["statements"] for cost in rounds) == STATEMENTS


async def test_idle_workers_cost_no_queries(env: WorkflowEnvironment) -> None:
    """They say every few seconds that they live; only the service's own pulse asks the database."""
    assert env.parts is not None
    async with AsyncExitStack() as stack:
        for number in range(IDLE_WORKERS):
            worker = Worker(
                env.client, task_queue=f"idle {number % 10}", workflows=[one_activity], activities=[echo]
            )
            await stack.enter_async_context(worker)
        await heard_of_all(env.parts.engine)
        before = env.parts.pool.counts.statements
        await asyncio.sleep(IDLE_S)
        queries = env.parts.pool.counts.statements - before

        print(f"{queries * 60 / IDLE_S:.0f} queries a minute")
        assert 0 < queries * 60 / IDLE_S < QUERIES_A_MINUTE


async def heard_of_all(engine: Any) -> None:
    async with asyncio.timeout(20):
        while len(engine.credits._by_worker) < IDLE_WORKERS:
            await asyncio.sleep(0.01)
