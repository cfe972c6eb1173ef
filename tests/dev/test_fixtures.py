"""Every test gets a database and a namespace of its own."""

from __future__ import annotations

import pytest

from holdfast.dev import Stack
from tests.dev.running import execute


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_database_is_migrated_and_empty_every_time(database: str, turn: int) -> None:
    assert await execute(database, "SELECT to_regclass('leftover')") is None
    assert await execute(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'holdfast'") > 0
    await execute(database, "CREATE TABLE leftover ()")


def test_a_namespace_is_of_this_test_only(namespace: str, nats_url: str, stack: Stack) -> None:
    assert namespace.startswith("test-")
    assert nats_url == stack.nats_url
