"""Real servers for tests: one temporary stack per test process, a fresh migrated database per test.

A plugin of tests/conftest.py. Tests that kill servers open a stack of their own with `holdfast.dev.embedded`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from holdfast.dev import Stack, embedded
from holdfast.store.migrate import migrate
from holdfast.testing import WorkflowEnvironment, service_on
from tests.invariants.check import violations
from tests.invariants.replaying import defined_in

ROWS_BY_HAND = ("engine",)
"""Folders whose tests also write rows that no history has."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    """Postgres and NATS, bare. Shared by all tests of this process, which must not kill them."""
    async with embedded() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template(stack: Stack) -> AsyncIterator[str]:
    """The name of a migrated database to copy from; nobody stays connected to it."""
    name = f"template_{uuid4().hex}"
    await _do(stack.postgres_url, f"CREATE DATABASE {name}")
    await migrate(_url_of(stack, name))
    yield name
    await _do(stack.postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def database(stack: Stack, template: str) -> AsyncIterator[str]:
    """The URL of a migrated database that only this test uses."""
    name = f"test_{uuid4().hex}"
    await _do(stack.postgres_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _url_of(stack, name)
    await _do(stack.postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def nats_url(stack: Stack) -> str:
    """The bus; it is shared, so a test keeps to its own `namespace`."""
    return stack.nats_url


@pytest.fixture
def namespace() -> str:
    """A valid namespace name that no other test uses."""
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture
def env(local_env: WorkflowEnvironment) -> WorkflowEnvironment:
    """Where the workflows of a test run: on real servers, unless a folder says otherwise."""
    return local_env


@pytest_asyncio.fixture
async def local_env(
    request: pytest.FixtureRequest, database: str, nats_url: str
) -> AsyncIterator[WorkflowEnvironment]:
    """A service in this process on a database that only this test uses, and a client of it.

    In the end the invariants must hold of whatever the test did, and its histories must replay with its workflows.
    """
    async with service_on(database, nats_url) as environment:
        yield environment
    if request.path.parent.name not in ROWS_BY_HAND:
        found = await violations(database, definitions=defined_in(request.module), is_calm=False)
        assert found == [], "\n".join(found)


def _url_of(stack: Stack, name: str) -> str:
    return re.sub(r"(://[^/]+)/[^?]*", rf"\1/{name}", stack.postgres_url)


async def _do(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
