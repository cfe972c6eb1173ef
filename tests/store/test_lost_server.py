"""Postgres killed, frozen and restarted under a pool: bounded waits, honest answers, and back to work."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec
import psutil
import pytest

from holdfast.dev import Stack, embedded
from holdfast.exceptions import OutcomeUnknown, Unavailable
from holdfast.store import session as sessions
from holdfast.store.session import Pool, Query, Statement, open_pool
from tests.store.rows import Sql


class Number(msgspec.Struct, kw_only=True):
    n: int


ONE = Query("SELECT 1::int AS n", Number)
PID = Query("SELECT pg_backend_pid() AS n", Number)
COUNT = Query("SELECT count(*)::int AS n FROM namespace WHERE name = 'new'", Number)
PUT = Statement("INSERT INTO namespace (name) VALUES ('new')")
SHORT_S = 0.5


@pytest.fixture
async def own_stack() -> AsyncIterator[Stack]:
    """Servers that this test may kill."""
    async with embedded(migrate=True) as stack:
        yield stack


@pytest.fixture
async def own_pool(own_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    """A pool with a shorter patience than the real one."""
    monkeypatch.setattr(sessions, "COMMAND_TIMEOUT_S", SHORT_S)
    monkeypatch.setattr(sessions, "ACQUIRE_TIMEOUT_S", SHORT_S)
    pool = await open_pool(own_stack.postgres_url, size=2, name="test")
    yield pool
    await pool.close()


@contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    """Every process of the server stopped: connections stay open, the kernel acknowledges, nobody answers."""
    assert stack.postgres.pid is not None
    server = psutil.Process(stack.postgres.pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


async def write(pool: Pool) -> None:
    async with pool.transaction() as session:
        await session.run(PUT)


async def test_a_server_that_was_killed_and_came_back_is_found_again(
    own_stack: Stack, own_pool: Pool
) -> None:
    await write(own_pool)

    await own_stack.postgres.kill()
    with pytest.raises(Unavailable):
        await own_pool.rows(ONE)
    await own_stack.postgres.start()

    assert (await own_pool.rows(ONE))[0].n == 1


async def test_a_commit_that_was_made_but_never_answered_is_unknown_not_refused(
    own_stack: Stack, own_pool: Pool
) -> None:
    """The server wrote the commit and then waits for a replica that never comes: killed there, it has the row."""
    async with Sql.connected(own_stack.postgres_url) as sql:
        await sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await sql("SELECT pg_reload_conf()")
        await sql.until("SELECT current_setting('synchronous_standby_names') = 'nobody'")
        await sql("SET synchronous_commit = local")
        writing = asyncio.create_task(write(own_pool))
        await sql.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')")

        await sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")

        # Postgres answers such a commit with a warning, or the connection ends first.
        with pytest.raises(OutcomeUnknown):
            await writing
        assert await sql.one("SELECT count(*) FROM namespace WHERE name = 'new'") == 1


async def test_a_frozen_server_makes_nobody_wait_for_ever(own_stack: Stack, own_pool: Pool) -> None:
    await own_pool.rows(ONE)

    with frozen(own_stack):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await own_pool.rows(ONE)
        with pytest.raises(Unavailable):
            await write(own_pool)
        assert time.monotonic() - began < 10

    assert (await own_pool.rows(ONE))[0].n == 1


async def test_a_server_that_freezes_in_a_transaction_is_given_up_and_nothing_was_written(
    own_stack: Stack, own_pool: Pool
) -> None:
    async def freeze_before_commit() -> None:
        async with own_pool.transaction() as session:
            await session.run(PUT)
            with frozen(own_stack):
                await session.rows(ONE)

    with pytest.raises(Unavailable) as refused:
        await freeze_before_commit()

    assert not isinstance(refused.value, OutcomeUnknown)
    assert (await own_pool.rows(COUNT))[0].n == 0


async def test_a_pool_on_a_frozen_server_can_be_closed(own_stack: Stack, own_pool: Pool) -> None:
    await asyncio.gather(own_pool.rows(ONE), own_pool.rows(ONE))

    with frozen(own_stack):
        began = time.monotonic()
        await own_pool.close()
        assert time.monotonic() - began < 6
