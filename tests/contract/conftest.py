"""An open store on a migrated database that only this test uses."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from holdfast.store import Store
from tests.store.rows import Sql


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
