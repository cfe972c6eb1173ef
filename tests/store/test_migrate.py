"""Migrating: once, in order, by whoever comes first; never with files that were changed afterwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from holdfast.dev import Stack
from holdfast.exceptions import Invalid, Refused, Unavailable
from holdfast.store.migrate import migrate, migration_files, pending
from holdfast.store.session import open_pool
from holdfast.store.views import namespaces

FILES = [path.name for path in migration_files()]


@pytest.fixture
async def empty(stack: Stack) -> AsyncIterator[str]:
    """The URL of a database in which nothing was done yet."""
    name = f"empty_{uuid4().hex}"
    server = await asyncpg.connect(stack.postgres_url)
    await server.execute(f"CREATE DATABASE {name}")
    yield re.sub(r"/[^/]*$", f"/{name}", stack.postgres_url)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


async def execute(url: str, text: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(text)
    finally:
        await connection.close()


async def test_an_empty_database_gets_everything(empty: str) -> None:
    assert await pending(empty) == FILES

    assert await migrate(empty) == FILES

    assert await pending(empty) == []
    pool = await open_pool(empty, size=1, name="test")
    assert await namespaces(pool) == {"main": "full"}
    await pool.close()


async def test_migrating_again_does_nothing(empty: str) -> None:
    await migrate(empty)

    assert await migrate(empty) == []


async def test_five_that_migrate_at_once_do_it_once(empty: str) -> None:
    done = await asyncio.gather(*(migrate(empty) for _ in range(5)))

    assert sorted(done, key=len) == [[], [], [], [], FILES]


async def test_a_file_that_was_changed_after_it_was_applied_is_refused(empty: str) -> None:
    await migrate(empty)
    await execute(empty, "UPDATE holdfast.migration SET digest = 'another' WHERE version = 1")

    for ask in (migrate, pending):
        with pytest.raises(
            Refused, match=f"{FILES[0]} was applied with another content: .* restore the file"
        ):
            await ask(empty)


async def test_a_database_of_a_newer_version_is_left_alone(empty: str) -> None:
    await migrate(empty)
    await execute(empty, "INSERT INTO holdfast.migration (version, name, digest) VALUES (9999, 'x', 'y')")

    for ask in (migrate, pending):
        with pytest.raises(Refused, match="has migration 9999, which this version of holdfast does not know"):
            await ask(empty)


async def test_a_migration_that_fails_leaves_nothing_behind(empty: str) -> None:
    """Somebody else's table is in the way."""
    await execute(empty, "CREATE SCHEMA holdfast")
    await execute(empty, "CREATE TABLE holdfast.timer (x int)")

    with pytest.raises(Refused, match='relation "timer" already exists; nothing was changed'):
        await migrate(empty)

    assert await pending(empty) == FILES


async def test_a_server_that_is_not_there_is_said_to_be_unavailable(unused_tcp_port: int) -> None:
    url = f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nothing"

    for ask in (migrate, pending):
        with pytest.raises(Unavailable, match="Postgres does not answer"):
            await ask(url)


async def test_a_wrong_password_is_said_without_telling_it(stack: Stack) -> None:
    url = re.sub(r"://([^:]+):[^@]*@", r"://\1:not-the-secret@", stack.postgres_url)

    with pytest.raises(Unavailable, match="password") as refused:
        await migrate(url)

    assert "not-the-secret" not in str(refused.value)


async def use(url: str) -> None:
    pool = await open_pool(url, size=1, name="test")
    try:
        await namespaces(pool)
    finally:
        await pool.close()


@pytest.mark.parametrize("url", ["mysql://localhost/x", "postgresql://h:port/x", "nonsense"])
async def test_what_is_no_url_is_told_what_one_looks_like(url: str) -> None:
    for ask in (migrate, pending, use):
        with pytest.raises(Invalid, match="expected postgresql://user:password@host:port/database"):
            await ask(url)
