"""Whatever Postgres does, the store says so in its own words, and the pool stays whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from holdfast.exceptions import OutcomeUnknown, Unavailable
from holdfast.store import migrate, tasks
from holdfast.store.session import Pool, Statement, open_pool


@pytest_asyncio.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """A pool of one connection: a leaked one would be missed at once."""
    opened = await open_pool(database, size=1, name="review")
    yield opened
    await opened.close()


async def test_a_process_that_stood_still_inside_a_transaction_hears_that_it_is_gone(
    database: str, pool: Pool
) -> None:
    # Postgres ends a transaction that idles for five seconds. Its word for that was not among those for a
    # lost connection: a process that was stopped for a moment and went on fell over it.
    with pytest.raises(Unavailable):
        async with pool.transaction() as session:
            await session.run(Statement("SET LOCAL idle_in_transaction_session_timeout = 50"))
            time.sleep(0.3)  # noqa: ASYNC251 - the process stands still
            await tasks.pulse(session)  # type: ignore[arg-type]
    assert (await tasks.pulse(pool)).next_timer_s is None


async def test_a_database_that_takes_no_writes_is_unavailable(database: str, pool: Pool) -> None:
    # As after a failover, when the old address answers with a standby.
    with pytest.raises(Unavailable):
        async with pool.transaction() as session:
            await session.run(Statement("SET TRANSACTION READ ONLY"))
            await session.run(Statement("DELETE FROM request"))
    assert (await tasks.pulse(pool)).next_timer_s is None


async def test_a_database_that_does_not_exist_yet_is_unavailable(database: str) -> None:
    pool = await open_pool(f"{database}_of_tomorrow", size=1, name="review")
    with pytest.raises(Unavailable):
        await tasks.pulse(pool)
    await pool.close()


async def test_asking_for_missing_migrations_survives_a_server_that_goes_away(database: str) -> None:
    # The question is asked while the service starts, when Postgres may be restarting as well.
    connection = await asyncpg.connect(database)
    async with connection.transaction():
        await connection.execute("LOCK TABLE holdfast.migration")
        asked = asyncio.create_task(migrate.pending(database))
        await end_whoever_waits(connection)
    with pytest.raises(Unavailable):
        await asked
    await connection.close()


async def end_whoever_waits(connection: asyncpg.Connection) -> None:
    """End the session that waits for this one."""
    end = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    )
    async with asyncio.timeout(5.0):
        while not await connection.fetchval(end):
            pass


async def test_a_claim_cut_off_in_the_middle_leaves_the_pool_whole(database: str, pool: Pool) -> None:
    connection = await asyncpg.connect(database)
    async with connection.transaction():
        await connection.execute("LOCK TABLE holdfast.task")
        claim = asyncio.create_task(tasks.claim_workflows(pool, "main", "q", "w", 1, 10.0))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        async with asyncio.timeout(5.0):
            while not await connection.fetchval(waiting):
                pass
        claim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim
    await connection.close()
    assert await tasks.claim_workflows(pool, "main", "q", "w", 1, 10.0) == []


async def test_a_commit_whose_answer_is_lost_may_have_happened(database: str, pool: Pool) -> None:
    killer = await asyncpg.connect(database)
    with pytest.raises(OutcomeUnknown):
        async with pool.transaction() as session:
            pid = await session._connection.fetchval("SELECT pg_backend_pid()")
            await killer.execute("SELECT pg_terminate_backend($1)", pid)
            while await killer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid):
                pass
    await killer.close()
    assert (await tasks.pulse(pool)).next_timer_s is None
