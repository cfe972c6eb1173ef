"""An open store on a migrated database that only this test uses, on the newest Postgres and on the oldest that a wheel brings."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from holdfast.dev import embedded
from holdfast.store import Store
from tests.store.rows import Sql

MAJORS = (18, 16)


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=MAJORS, ids=lambda major: f"pg{major}")
async def server_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A server of that version with a migrated database called `template`, for all tests of this process."""
    async with embedded(postgres_major=request.param) as running:
        async with Sql.connected(running.postgres_url) as sql:
            await sql("CREATE DATABASE template")
        url = _url_of(running.postgres_url, "template")
        async with await Store.connect(url, migrate=True):
            pass
        yield running.postgres_url


@pytest.fixture
async def database(server_url: str) -> AsyncIterator[str]:
    """The URL of a migrated database that only this test uses."""
    name = f"test_{uuid4().hex}"
    async with Sql.connected(server_url) as server:
        await server(f"CREATE DATABASE {name} TEMPLATE template")
        yield _url_of(server_url, name)
        await server(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    async with await Store.connect(database) as opened:
        yield opened


@pytest.fixture
async def other(database: str) -> AsyncIterator[Store]:
    """Another process's store on the same database."""
    async with await Store.connect(database) as opened:
        yield opened


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    """A connection beside the store, to look at rows."""
    async with Sql.connected(database) as connection:
        yield connection


def _url_of(url: str, name: str) -> str:
    return re.sub(r"(://[^/]+)/[^?]*", rf"\1/{name}", url)
