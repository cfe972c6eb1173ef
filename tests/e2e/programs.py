"""What the end-to-end tests run: `holdfast worker tests.e2e.programs` serves it, `EFFECTS_URL` says where effects go.

Each activity writes a row of its own into the table `effect` before it returns, outside of what the service owns:
what really happened, under which lease, by which process.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg

from holdfast import activity, workflow
from holdfast.common import RetryPolicy
from holdfast.exceptions import ApplicationError
from holdfast.sdk.activity_context import current

TASK_QUEUE = "e2e"
EFFECTS_VARIABLE = "EFFECTS_URL"

EFFECTS = """
CREATE SCHEMA IF NOT EXISTS e2e;
CREATE TABLE e2e.effect (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id uuid NOT NULL,
    seq integer NOT NULL,
    fence bigint NOT NULL,
    name text NOT NULL,
    value text NOT NULL,
    pid integer NOT NULL
);
"""
WRITE = "INSERT INTO e2e.effect (run_id, seq, fence, name, value, pid) VALUES ($1, $2, $3, $4, $5, $6)"

# A database that is away for a moment fails the attempt; the next ones come soon.
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=1))
LIMIT = timedelta(seconds=20)

_pools: dict[int, asyncpg.Pool] = {}


@asynccontextmanager
async def connection() -> AsyncIterator[asyncpg.Connection]:
    """A connection to where effects go, of this process's own small pool."""
    pool = _pools.get(os.getpid())
    if pool is None:
        pool = await asyncpg.create_pool(
            os.environ[EFFECTS_VARIABLE], min_size=0, max_size=2, command_timeout=5.0, timeout=5.0
        )
        pool = _pools.setdefault(os.getpid(), pool)
    async with pool.acquire(timeout=5.0) as taken:
        yield taken


async def note(name: str, value: str) -> None:
    """Leave an effect in the world."""
    task = current.get().task
    async with connection() as taken:
        await taken.execute(WRITE, task.run_id, task.seq, task.fence, name, value, os.getpid())


@activity.defn(start_to_close_timeout=LIMIT, retry_policy=SOON)
async def double(value: int) -> int:
    """Twice the value; an effect, with a moment before and after it in which a process may be killed."""
    await asyncio.sleep(0.02)
    await note("double", str(value))
    await asyncio.sleep(0.02)
    return value * 2


@activity.defn(start_to_close_timeout=LIMIT, retry_policy=SOON)
async def slow(value: int) -> int:
    """As `double`, but it takes a while first."""
    await asyncio.sleep(0.2)
    await note("slow", str(value))
    return value * 2


BACKOFF_S = 0.1


@activity.defn(
    start_to_close_timeout=LIMIT, retry_policy=RetryPolicy(initial_interval=timedelta(seconds=BACKOFF_S))
)
async def unreliable(value: int) -> int:
    """As `double`, but its first attempt fails."""
    if activity.info().attempt == 1:
        await note("failed", str(value))
        raise ApplicationError("the first attempt fails")
    await note("unreliable", str(value))
    return value * 2


@activity.defn(start_to_close_timeout=timedelta(seconds=60), retry_policy=SOON)
async def held(value: int) -> int:
    """As `double`, but the first attempt has its effect and then never ends."""
    await note("held", str(value))
    if activity.info().attempt == 1:
        await asyncio.Event().wait()
    return value * 2


def draw(path: str) -> int:
    """A number that nobody can guess; how often it was drawn, and by whom, is told in the file."""
    number = random.randrange(1_000_000)
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {number}\n")
    return number


@workflow.defn(name="stepped")
async def stepped(path: str) -> list[int]:
    """A step, and three activities in a row that use its value."""
    drawn = await workflow.step(draw, path)
    twice = await double(drawn)
    again = await held(twice)
    await double(again)
    return [drawn, twice, again]


@workflow.defn(name="order")
class Order:
    """Five activities, one timer, one signal; some of them at the same time."""

    def __init__(self) -> None:
        self.approvals: list[str] = []

    @workflow.signal
    def approve(self, by: str) -> None:
        """Somebody lets it go on."""
        self.approvals.append(by)

    @workflow.run
    async def run(self, number: int, pause_s: float) -> list[int | str]:
        """What an oracle can compute: `result_of`."""
        first = await double(number)
        second, third = await asyncio.gather(double(first), double(first + 1))
        await asyncio.sleep(pause_s)
        fourth = await double(second + third)
        await workflow.wait_condition(lambda: bool(self.approvals))
        fifth = await double(fourth)
        return [fifth, self.approvals[0]]


def result_of(number: int, by: str) -> list[int | str]:
    """What `Order` must return."""
    first = number * 2
    return [((first * 2) + (first + 1) * 2) * 4, by]


@workflow.defn(name="paused")
async def paused(number: int, pause_s: float) -> int:
    """A timer, then an activity that keeps its worker busy for a moment."""
    await asyncio.sleep(pause_s)
    return await slow(number)


@workflow.defn(name="retried")
async def retried(number: int) -> int:
    """Three activities in a row, the second of which fails at first."""
    return await double(await unreliable(await double(number)))


@workflow.defn(name="one_activity")
async def one_activity(number: int) -> int:
    """The smallest workflow with an effect."""
    return await double(number)


@workflow.defn(name="waiting")
class Waiting:
    """Open for long: an activity that nobody serves, a timer that is far away, and signals."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @workflow.signal
    def tell(self, what: str) -> None:
        """Say something to it."""
        self.heard.append(what)

    @workflow.run
    async def run(self) -> list[str]:
        """What was heard, once "end" was."""
        far = asyncio.create_task(asyncio.sleep(3600))
        unserved = workflow.start_activity(double, 1, task_queue="nobody")
        await workflow.wait_condition(lambda: "end" in self.heard)
        far.cancel()
        unserved.cancel()
        return self.heard


WORKFLOWS = [Order, paused, retried, one_activity, stepped, Waiting]


async def forget_connections() -> None:
    """Close this process's pool, for tests that run a worker themselves."""
    pool = _pools.pop(os.getpid(), None)
    if pool is not None:
        await pool.close()
