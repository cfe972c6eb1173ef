"""A crowded database per version of Postgres, and what every statement of `cases` did in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from holdfast.dev import embedded
from holdfast.store.session import open_pool
from tests.plans.cases import CASES
from tests.plans.crowd import fill, know, make_ready
from tests.plans.looking import Look, look, places
from tests.store.rows import Sql

FEW = 1_000
# The planner differs by version, the cost of filling does not: one of them has it all.
MANY = {18: 1_000_000, 16: 100_000}


@dataclass
class Looks:
    """What each statement did, by its name: with few rows, with many by the same plan, with many and statistics."""

    few: dict[str, Look | str] = field(default_factory=dict)
    many: dict[str, Look | str] = field(default_factory=dict)
    known: dict[str, Look | str] = field(default_factory=dict)


async def _all(connection: Any) -> dict[str, Look | str]:
    return {
        name: await look(connection, f"case{number}", case.args)
        for number, (name, case) in enumerate(CASES.items())
    }


@pytest_asyncio.fixture(
    scope="session", loop_scope="session", params=MANY, ids=lambda major: f"pg{major}-{MANY[major]}"
)
async def looks(request: pytest.FixtureRequest) -> AsyncIterator[Looks]:
    """Plans are made as a store's connection makes them, on empty tables, and kept while the tables fill."""
    async with embedded(migrate=True, postgres_major=request.param) as running:
        pool = await open_pool(running.postgres_url, size=1, name="plans")
        async with Sql.connected(running.postgres_url) as sql, pool.session() as session:
            planning = session._connection
            found = Looks()
            await make_ready(sql)
            for number, case in enumerate(CASES.values()):
                await planning.execute(f"PREPARE case{number} AS {case.statement.text}")
                nothing = ", ".join(["NULL"] * places(case.statement))
                await planning.execute(f"EXPLAIN EXECUTE case{number}" + (f"({nothing})" if nothing else ""))
            await fill(running.postgres_url, 1, FEW)
            found.few = await _all(planning)
            await fill(running.postgres_url, FEW + 1, MANY[request.param])
            found.many = await _all(planning)
            await know(sql)
            found.known = await _all(planning)
        await pool.close()
        yield found
