"""The scheduler lock: one holder among all stores and processes, and another soon after the holder is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from holdfast.exceptions import Invalid, Unavailable
from holdfast.store import Store
from holdfast.store.contract.leadership import Leadership
from tests.store.rows import Sql

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast scheduler lock' AND datname = current_database()"
NO_SESSION = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'holdfast scheduler lock' AND datname = current_database())"
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast scheduler lock' AND datname = current_database()"
FROZEN_S = 8.0

HOLDER = """
import asyncio, sys
from holdfast.store import Store

async def main():
    store = await Store.connect(sys.argv[1])
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(await store.try_acquire_scheduler_lock(), flush=True)
    await store.close()

asyncio.run(main())
"""


class Process:
    """A store in a process of its own that asks for the lock whenever it is told to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def asks(self) -> bool:
        """Whether it holds the lock, as it was answered."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).strip() == b"True"


@asynccontextmanager
async def another_process(url: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDER,
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield Process(process)
    finally:
        process.kill()
        await process.wait()


async def until_acquired(store: Store, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not await store.try_acquire_scheduler_lock():
            await asyncio.sleep(0.1)


async def test_of_three_stores_in_two_processes_one_holds_the_lock(
    store: Store, other: Store, database: str
) -> None:
    async with another_process(database) as third:
        held = await asyncio.gather(
            store.try_acquire_scheduler_lock(), other.try_acquire_scheduler_lock(), third.asks()
        )

    assert sorted(held) == [False, False, True]


async def test_the_holder_that_asks_again_holds_it(store: Store, other: Store) -> None:
    assert await store.try_acquire_scheduler_lock() is True

    assert [await store.try_acquire_scheduler_lock() for _ in range(3)] == [True] * 3
    assert await other.try_acquire_scheduler_lock() is False


async def test_one_store_that_asks_many_times_at_once_holds_it_on_one_connection(
    store: Store, sql: Sql
) -> None:
    held = await asyncio.gather(*(store.try_acquire_scheduler_lock() for _ in range(10)))

    assert held == [True] * 10
    assert await sql.one(SESSIONS) == 1


async def test_after_the_holder_is_closed_another_gets_it(database: str, other: Store) -> None:
    async with await Store.connect(database) as holder:
        assert await holder.try_acquire_scheduler_lock() is True
        assert await other.try_acquire_scheduler_lock() is False

    assert await other.try_acquire_scheduler_lock() is True


async def test_after_the_holder_was_killed_another_gets_it(store: Store, database: str) -> None:
    async with another_process(database) as holder:
        assert await holder.asks() is True

    await until_acquired(store)


async def test_a_frozen_holder_loses_it_within_eight_seconds_and_knows_when_it_wakes(
    store: Store, database: str
) -> None:
    async with another_process(database) as holder:
        assert await holder.asks() is True
        holder.process.send_signal(signal.SIGSTOP)

        await until_acquired(store, FROZEN_S)

        holder.process.send_signal(signal.SIGCONT)
        assert await holder.asks() is False


async def test_a_holder_at_rest_keeps_it_for_longer_than_a_silent_session_lives(
    store: Store, other: Store
) -> None:
    """It beats by itself: whoever holds the lock need not ask."""
    assert await store.try_acquire_scheduler_lock() is True
    loop = asyncio.get_running_loop()
    until = loop.time() + 6.5

    while loop.time() < until:
        assert await other.try_acquire_scheduler_lock() is False
        await asyncio.sleep(0.5)

    assert store.leadership.is_held


async def test_a_holder_whose_connection_was_ended_asks_and_gets_a_new_one(store: Store, sql: Sql) -> None:
    assert await store.try_acquire_scheduler_lock() is True
    await sql(TERMINATE)

    assert await store.try_acquire_scheduler_lock() is True

    assert await sql.one(SESSIONS) == 1


async def test_a_holder_notices_by_itself_that_its_connection_was_ended(
    store: Store, other: Store, sql: Sql
) -> None:
    assert await store.try_acquire_scheduler_lock() is True
    await sql(TERMINATE)

    async with asyncio.timeout(5):
        while store.leadership.is_held:
            await asyncio.sleep(0.05)
    await until_acquired(other)
    assert await store.try_acquire_scheduler_lock() is False


async def test_neither_holder_nor_asker_leaves_a_connection_behind(database: str, sql: Sql) -> None:
    async with await Store.connect(database) as holder, await Store.connect(database) as asker:
        assert await holder.try_acquire_scheduler_lock() is True
        for _ in range(5):
            assert await asker.try_acquire_scheduler_lock() is False

    await sql.until(NO_SESSION)


async def test_a_store_closed_while_it_asks_holds_nothing(database: str, other: Store, sql: Sql) -> None:
    store = await Store.connect(database)
    asking = [asyncio.create_task(store.try_acquire_scheduler_lock()) for _ in range(3)]
    await asyncio.sleep(0)

    await store.close()

    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(answer is True or isinstance(answer, Unavailable) for answer in answers)
    await sql.until(NO_SESSION)
    assert await other.try_acquire_scheduler_lock() is True


async def test_a_closed_store_says_that_it_is_closed(database: str) -> None:
    store = await Store.connect(database)
    await store.close()

    with pytest.raises(Unavailable, match="closed"):
        await store.try_acquire_scheduler_lock()


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 21])
async def test_asking_can_be_cancelled_anywhere(store: Store, other: Store, sql: Sql, steps: int) -> None:
    """Either it holds the lock and knows it, or nothing is left of the attempt."""
    asking = asyncio.create_task(store.try_acquire_scheduler_lock())
    for _ in range(steps):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])

    if store.leadership.is_held:
        assert await sql.one(SESSIONS) == 1
    else:
        await sql.until(NO_SESSION)
        assert await other.try_acquire_scheduler_lock() is True


async def test_letting_go_can_be_cancelled(database: str, sql: Sql) -> None:
    store = await Store.connect(database)
    assert await store.try_acquire_scheduler_lock() is True
    closing = asyncio.create_task(store.leadership.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])

    await store.close()

    await sql.until(NO_SESSION)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        await Leadership("postgresql://holdfast@127.0.0.1:1/none").acquire()


async def test_an_url_that_is_none_is_refused() -> None:
    with pytest.raises(Invalid, match="not a Postgres URL"):
        await Leadership("postgres at home").acquire()
