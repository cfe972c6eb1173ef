"""Whatever happens to a connection, the caller hears one of our errors, and whether anything was written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from holdfast.exceptions import Invalid, OutcomeUnknown, Unavailable
from holdfast.store.session import Conflict, Pool, Query, Retryable, Session, Statement, Unwritable, open_pool
from tests.store.cancelling import every_wait
from tests.store.rows import Sql


class Number(msgspec.Struct, kw_only=True):
    n: int


ONE = Query("SELECT 1::int AS n", Number)
PID = Query("SELECT pg_backend_pid() AS n", Number)
PUT = Statement("INSERT INTO namespace (name) VALUES ($1)")
PUT_TELLING = Query("INSERT INTO namespace (name) VALUES ($1) RETURNING 1::int AS n", Number)
COUNT = "SELECT count(*) FROM namespace WHERE name LIKE 'new%'"


# -- transactions -------------------------------------------------------------------------


async def test_a_block_that_ends_is_committed(pool: Pool, sql: Sql) -> None:
    async with pool.transaction() as session:
        assert await session.run(PUT, "new") == 1

    assert await sql.one(COUNT) == 1
    assert (pool.counts.commits, pool.counts.rollbacks, pool.counts.statements) == (1, 0, 1)


async def test_a_block_that_raises_leaves_nothing(pool: Pool, sql: Sql) -> None:
    async def fail() -> None:
        async with pool.transaction() as session:
            await session.run(PUT, "new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await sql.one(COUNT) == 0
    assert (pool.counts.commits, pool.counts.rollbacks) == (0, 1)


async def test_a_deferred_transaction_that_never_began_commits_each_statement(pool: Pool, sql: Sql) -> None:
    async with pool.transaction(is_deferred=True) as session:
        await session.write(PUT_TELLING, "new-1")
        assert await sql.one(COUNT) == 1

    assert pool.counts.commits == 1


async def test_a_deferred_transaction_that_began_commits_together(pool: Pool, sql: Sql) -> None:
    async with pool.transaction(is_deferred=True) as session:
        await session.begin()
        await session.begin()
        await session.write(PUT_TELLING, "new-1")
        assert await sql.one(COUNT) == 0

    assert await sql.one(COUNT) == 1
    assert pool.counts.commits == 1


async def test_a_snapshot_sees_one_moment(pool: Pool, sql: Sql) -> None:
    count = Query("SELECT count(*)::int AS n FROM namespace WHERE name LIKE 'new%'", Number)
    async with pool.snapshot() as session:
        assert (await session.rows(count))[0].n == 0
        await sql("INSERT INTO namespace (name) VALUES ('new')")
        assert (await session.rows(count))[0].n == 0

    assert (await pool.rows(count))[0].n == 1


async def test_a_snapshot_writes_nothing(pool: Pool, sql: Sql) -> None:
    with pytest.raises(Unavailable, match="read-only"):
        async with pool.snapshot() as session:
            await session.run(PUT, "new")

    assert await sql.one(COUNT) == 0
    assert (await pool.rows(ONE))[0].n == 1


# -- whose fault it is ----------------------------------------------------------------------


async def test_a_row_that_is_there_already_is_a_conflict(pool: Pool) -> None:
    with pytest.raises(Conflict, match="somebody else wrote the same row first"):
        async with pool.transaction() as session:
            await session.run(PUT, "main")


@pytest.mark.parametrize("value", ["a\x00b", "\ud800"])
async def test_a_value_that_postgres_cannot_hold_is_named_as_that(pool: Pool, value: str) -> None:
    with pytest.raises(Unwritable, match="cannot take a value"):
        async with pool.transaction() as session:
            await session.run(PUT, value)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
async def test_what_a_conflict_rolled_back_may_be_tried_again_at_once(pool: Pool, sqlstate: str) -> None:
    raising = Statement(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$")

    with pytest.raises(Retryable):
        async with pool.transaction() as session:
            await session.run(raising)


@pytest.mark.parametrize(
    "sqlstate", ["57P01", "57P02", "57P03", "57014", "53300", "53100", "53200", "08006", "25006"]
)
async def test_a_server_in_trouble_is_unavailable_and_nothing_was_written(
    pool: Pool, sql: Sql, sqlstate: str
) -> None:
    raising = Statement(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$")

    async def write() -> None:
        async with pool.transaction() as session:
            await session.run(PUT, "new")
            await session.run(raising)

    with pytest.raises(Unavailable, match="nothing was written") as refused:
        await write()

    assert not isinstance(refused.value, OutcomeUnknown)
    assert await sql.one(COUNT) == 0


async def test_a_database_without_the_schema_is_told_what_to_do(stack: Any) -> None:
    pool = await open_pool(stack.postgres_url, size=1, name="test")
    try:
        with pytest.raises(Unavailable, match="run `holdfast migrate`"):
            await pool.rows(Query("SELECT feed FROM namespace", Number))
    finally:
        await pool.close()


async def test_a_call_of_ours_that_is_wrong_is_no_lost_connection(pool: Pool) -> None:
    """A bug must not be retried for ever as if the server were away."""
    with pytest.raises(asyncpg.InterfaceError, match="argument"):
        await pool.rows(ONE, "too", "many")


# -- lost connections -----------------------------------------------------------------------


async def kill(sql: Sql, pid: int) -> None:
    await sql("SELECT pg_terminate_backend($1)", pid)
    await sql.until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)


async def test_a_connection_lost_in_the_block_wrote_nothing_and_is_replaced(pool: Pool, sql: Sql) -> None:
    async def write() -> None:
        async with pool.transaction() as session:
            await session.run(PUT, "new")
            await kill(sql, (await session.rows(PID))[0].n)
            await session.run(PUT, "new-2")

    with pytest.raises(Unavailable, match="nothing was written") as refused:
        await write()

    assert not isinstance(refused.value, OutcomeUnknown)
    assert await sql.one(COUNT) == 0
    assert (await pool.rows(ONE))[0].n == 1


async def test_a_connection_lost_at_the_end_of_the_block_may_or_may_not_have_committed(
    pool: Pool, sql: Sql
) -> None:
    async def write() -> None:
        async with pool.transaction() as session:
            await session.run(PUT, "new")
            await kill(sql, (await session.rows(PID))[0].n)

    with pytest.raises(OutcomeUnknown, match="may or may not"):
        await write()

    assert (await pool.rows(ONE))[0].n == 1


async def test_idle_connections_that_were_cut_are_replaced_unnoticed(pool: Pool, sql: Sql) -> None:
    pid = (await pool.rows(PID))[0].n
    await kill(sql, pid)
    async with asyncio.timeout(5):
        while pool._pool.get_size():
            await asyncio.sleep(0)

    assert (await pool.rows(PID))[0].n != pid


async def test_a_process_that_was_frozen_inside_a_transaction_finds_it_gone(pool: Pool, sql: Sql) -> None:
    """Its locks were taken from it meanwhile; it must not believe that it still holds them."""

    async def write() -> None:
        async with pool.transaction() as session:
            await session.run(PUT, "new")
            pid = (await session.rows(PID))[0].n
            await session.run(Statement("SET LOCAL idle_in_transaction_session_timeout = 20"))
            await sql.until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
            await session.run(PUT, "new-2")

    with pytest.raises(Unavailable):
        await write()

    assert await sql.one(COUNT) == 0
    assert (await pool.rows(ONE))[0].n == 1


SLOW_COMMIT = """
    CREATE FUNCTION holdfast.wait() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON holdfast.namespace DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION holdfast.wait()
"""


@pytest.fixture
async def committing(pool: Pool, sql: Sql) -> AsyncIterator[tuple[asyncio.Task[None], int]]:
    """A transaction that is in the middle of its COMMIT, and its backend."""
    await sql.connection.execute(SLOW_COMMIT)
    pids: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def write() -> None:
        async with pool.transaction() as session:
            await session.run(PUT, "new")
            pids.set_result((await session.rows(PID))[0].n)

    task = asyncio.create_task(write())
    pid = await pids
    await sql.until(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND query = 'COMMIT' AND wait_event = 'PgSleep')",
        pid,
    )
    yield task, pid
    await asyncio.wait([task])


async def test_a_server_that_dies_in_the_commit_leaves_the_outcome_unknown(
    pool: Pool, sql: Sql, committing: tuple[asyncio.Task[None], int]
) -> None:
    task, pid = committing

    await kill(sql, pid)

    with pytest.raises(
        OutcomeUnknown, match="may or may not have been made; try again with the same request id"
    ):
        await task
    assert pool.counts.commits == 0


async def test_a_caller_that_goes_away_in_the_commit_leaves_a_usable_pool(
    pool: Pool, sql: Sql, committing: tuple[asyncio.Task[None], int]
) -> None:
    task, pid = committing

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await sql("SELECT pg_terminate_backend($1)", pid)
    assert (await pool.rows(ONE))[0].n == 1
    assert await leaked(sql) == 0


# -- cancelled at every wait ---------------------------------------------------------------


async def leaked(sql: Sql) -> int:
    """Transactions that nobody will end."""
    found: int = await sql.one(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test' AND state LIKE 'idle in transaction%'"
    )
    return found


async def in_transaction(pool: Pool) -> None:
    async with pool.transaction() as session:
        await two(session)


async def deferred(pool: Pool) -> None:
    async with pool.transaction(is_deferred=True) as session:
        await session.begin()
        await two(session)


async def two(session: Session) -> None:
    await session.run(Statement("INSERT INTO namespace (name) VALUES ('new-' || gen_random_uuid()) "))
    await session.run(Statement("INSERT INTO namespace (name) VALUES ('new-' || gen_random_uuid()) "))


async def snapshot(pool: Pool) -> None:
    async with pool.snapshot() as session:
        await session.rows(ONE)


async def single(pool: Pool) -> None:
    await pool.rows(ONE)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("work", [in_transaction, deferred, snapshot, single], ids=lambda work: work.__name__)
async def test_a_caller_that_goes_away_at_any_moment_leaves_a_whole_pool_and_no_half(
    database: str, sql: Sql, work: Any, size: int
) -> None:
    pool = await open_pool(database, size=size, name="test")
    await pool.rows(ONE)

    async for wait, outcome in every_wait(lambda: work(pool)):
        assert isinstance(outcome, asyncio.CancelledError), f"wait {wait}: {outcome!r}"
        await asyncio.gather(*(single(pool) for _ in range(size)))
        assert await sql.one(COUNT) % 2 == 0, f"wait {wait}: half of it is there"
        await sql.until(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'test' AND state <> 'idle')"
        )

    await pool.close()


# -- the pool ---------------------------------------------------------------------------------


async def test_a_server_that_is_not_there_is_unavailable_and_found_once_it_is(unused_tcp_port: int) -> None:
    pool = await open_pool(f"postgresql://x@127.0.0.1:{unused_tcp_port}/x", size=1, name="test")

    for _ in range(3):
        with pytest.raises(Unavailable, match="lost Postgres"):
            await single(pool)

    await pool.close()


async def test_a_url_that_is_none_is_invalid() -> None:
    pool = await open_pool("mysql://x", size=1, name="test")

    with pytest.raises(Invalid, match="not a Postgres URL"):
        await single(pool)

    await pool.close()


async def test_closing_does_not_wait_for_ever_for_those_who_stay(pool: Pool) -> None:
    async def stay() -> None:
        async with pool.transaction() as session:
            await pool.close()
            await session.run(PUT, "new")

    async with asyncio.timeout(10):
        with pytest.raises(Unavailable):
            await stay()


async def test_more_callers_than_connections_take_turns(database: str) -> None:
    pool = await open_pool(database, size=2, name="test")

    found = await asyncio.gather(*(pool.rows(PID) for _ in range(50)))

    assert len({rows[0].n for rows in found}) <= 2
    await pool.close()


async def test_a_connection_serves_one_use_after_the_other(pool: Pool) -> None:
    found = []
    for _ in range(5):
        found.append((await pool.rows(PID))[0].n)
        async with pool.transaction() as session:
            found.append((await session.rows(PID))[0].n)

    assert len(set(found)) == 1


async def test_a_connection_that_somebody_waits_for_is_not_kept_from_him(database: str) -> None:
    pool = await open_pool(database, size=1, name="test")
    async with pool.transaction() as session:
        mine = (await session.rows(PID))[0].n
        waiting = [asyncio.create_task(pool.rows(PID)) for _ in range(3)]
        await asyncio.sleep(0)

    async with asyncio.timeout(5):
        assert [rows[0].n for rows in await asyncio.gather(*waiting)] == [mine] * 3
    await pool.close()


async def test_closing_ends_every_connection_used_or_not(database: str, sql: Sql) -> None:
    pool = await open_pool(database, size=4, name="closing")
    await asyncio.gather(*(pool.rows(PID) for _ in range(4)))

    async with asyncio.timeout(1.5):
        await pool.close()

    await sql.until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'closing')")
