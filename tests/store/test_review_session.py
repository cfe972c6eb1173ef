"""Whatever Postgres does, the store says so in its own words, and the pool stays whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from holdfast.exceptions import OutcomeUnknown, Unavailable
from holdfast.store import due_work, migrate, tasks
from holdfast.store.session import Pool, Statement, open_pool

# Of the sessions that wait for this one. Unlike pg_stat_activity this is looked up anew within a transaction.
WAITING = "FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"


@pytest_asyncio.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """A pool of one connection: a leaked one would be missed at once."""
    opened = await open_pool(database, size=1, name="review")
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def other(database: str) -> AsyncIterator[Any]:
    """Another connection."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def until(connection: Any, is_so: str, *args: object) -> None:
    """Return when the answer to this query is neither null nor zero."""
    async with asyncio.timeout(5.0):
        while not await connection.fetchval(is_so, *args):
            pass


async def test_a_process_that_idled_too_long_inside_a_transaction_hears_that_it_is_gone(
    pool: Pool, other: Any
) -> None:
    # Postgres ends such a transaction after five seconds: a process that was stopped and goes on meets this.
    async def idle() -> None:
        async with pool.transaction() as session:
            pid = await session._connection.fetchval("SELECT pg_backend_pid()")
            await session.run(Statement("SET LOCAL idle_in_transaction_session_timeout = 50"))
            await until(other, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1", pid)
            await session.run(Statement("DELETE FROM request"))

    with pytest.raises(Unavailable):
        await idle()
    assert (await due_work.pulse(pool)).next_timer_s is None


async def test_a_database_that_takes_no_writes_is_unavailable(pool: Pool) -> None:
    # As after a failover, when the old address answers with a standby.
    async def write() -> None:
        async with pool.transaction() as session:
            await session.run(Statement("SET TRANSACTION READ ONLY"))
            await session.run(Statement("DELETE FROM request"))

    with pytest.raises(Unavailable):
        await write()
    assert (await due_work.pulse(pool)).next_timer_s is None


async def test_a_database_that_does_not_exist_yet_is_unavailable(database: str) -> None:
    pool = await open_pool(f"{database}_of_tomorrow", size=1, name="review")
    with pytest.raises(Unavailable):
        await due_work.pulse(pool)
    await pool.close()


async def test_asking_for_missing_migrations_survives_a_server_that_goes_away(
    database: str, other: Any
) -> None:
    # The question is asked while the service starts, when Postgres may be restarting as well.
    async with other.transaction():
        await other.execute("LOCK TABLE holdfast.migration")
        asked = asyncio.create_task(migrate.pending(database))
        await until(other, f"SELECT count(pg_terminate_backend(pid)) {WAITING}")
        with pytest.raises(Unavailable):
            await asked


async def test_a_claim_cut_off_in_the_middle_leaves_the_pool_whole(pool: Pool, other: Any) -> None:
    async with other.transaction():
        await other.execute("LOCK TABLE holdfast.task")
        claim = asyncio.create_task(tasks.claim_workflows(pool, "main", "q", "w", 1, 10.0))
        await until(other, f"SELECT count(*) {WAITING}")
        claim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim
    assert await tasks.claim_workflows(pool, "main", "q", "w", 1, 10.0) == []


async def test_a_commit_whose_answer_is_lost_may_have_happened(pool: Pool, other: Any) -> None:
    async def cut_before_the_commit() -> None:
        async with pool.transaction() as session:
            pid = await session._connection.fetchval("SELECT pg_backend_pid()")
            await other.execute("SELECT pg_terminate_backend($1)", pid)
            await until(other, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1", pid)

    with pytest.raises(OutcomeUnknown):
        await cut_before_the_commit()
    assert (await due_work.pulse(pool)).next_timer_s is None
