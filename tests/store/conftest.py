"""A pool on a migrated database that only this test uses, with nothing left open at the end."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from holdfast.dev import Stack
from holdfast.store.session import Pool, open_pool
from tests.store.rows import Sql


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    opened = await open_pool(database, size=8, name="test")
    yield opened
    await opened.close()


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    """A connection beside the pool, to look at rows and to be in the way."""
    async with Sql.connected(database) as connection:
        yield connection


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_database(stack: Stack, template: str) -> AsyncIterator[str]:
    """The URL of a migrated database for the tests of one file, which leave it as it is."""
    name = f"shared_{uuid4().hex}"
    async with Sql.connected(stack.postgres_url) as server:
        await server(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield re.sub(r"/[^/]*$", f"/{name}", stack.postgres_url)
        await server(f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_sql(shared_database: str) -> AsyncIterator[Sql]:
    async with Sql.connected(shared_database) as connection:
        yield connection
