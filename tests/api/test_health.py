"""A whole process's health over HTTP: what Postgres has to say to it, and how little it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from holdfast.app import Parts, running
from holdfast.config import Address, Config
from holdfast.store.migrate import migration_files
from tests.store.rows import Sql

FREE = Address("127.0.0.1", 0)


@pytest.fixture
async def look(database: str) -> AsyncIterator[Sql]:
    async with Sql.connected(database) as connection:
        yield connection


@pytest.fixture
async def parts(database: str, nats_url: str) -> AsyncIterator[Parts]:
    """A process that only tells how it is."""
    config = Config(postgres_url=database, nats_url=nats_url, http=FREE, ops=FREE)
    async with running(config, roles=frozenset({"api", "ops"})) as made:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as opened:
        yield opened


async def test_many_probes_are_few_statements_on_one_connection(
    parts: Parts, client: httpx.AsyncClient, look: Sql
) -> None:
    before = parts.pool.counts.statements
    loop = asyncio.get_running_loop()
    began = loop.time()

    for _ in range(20):
        for url in (
            f"http://{parts.addresses['http']}/api/v1/healthz",
            f"http://{parts.addresses['ops']}/readyz",
        ):
            assert (await client.get(url)).status_code == 200

    seconds_begun = int(loop.time() - began) + 1
    assert parts.pool.counts.statements - before <= seconds_begun
    connected = await look(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert connected == [1]


async def test_missing_migrations_are_told_by_name(
    parts: Parts, client: httpx.AsyncClient, look: Sql
) -> None:
    last = migration_files()[-1].name
    await look("DELETE FROM migration WHERE name = $1", last)

    health = await client.get(f"http://{parts.addresses['http']}/api/v1/healthz")
    ready = await client.get(f"http://{parts.addresses['ops']}/readyz")

    assert (health.status_code, ready.status_code) == (503, 503)
    note = ready.json()["checks"]["postgres"]["note"]
    assert note == f"migrations are missing ({last}): run `holdfast migrate`"


async def test_a_database_without_a_schema_says_what_to_do(
    parts: Parts, client: httpx.AsyncClient, look: Sql
) -> None:
    await look("DROP SCHEMA holdfast CASCADE")

    ready = await client.get(f"http://{parts.addresses['ops']}/readyz")

    assert ready.status_code == 503
    assert "run `holdfast migrate`" in ready.json()["checks"]["postgres"]["note"]
