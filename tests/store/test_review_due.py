"""What is due is found, whatever else lies in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from holdfast.store import due_work
from holdfast.store.session import Pool, open_pool

RUN = "01234567-89ab-7cde-8f01-23456789abcd"


@pytest_asyncio.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """A pool on a database of this test's own."""
    opened = await open_pool(database, size=1, name="review")
    yield opened
    await opened.close()


async def test_lapsed_leases_that_are_spared_do_not_hide_a_timeout(database: str, pool: Pool) -> None:
    # With the broker away for long, as many lapsed leases as one pass takes stood in front: no timeout
    # behind them was recorded until it was back, and every pass decided about them all for nothing.
    connection = await asyncpg.connect(database, server_settings={"search_path": "holdfast"})
    for seq, ago_s, limit in (
        (1, 30, None),
        (2, 20, "close_by"),
        (3, 25, None),
        (0, 40, None),
        (4, 10, "stc"),
        (5, 9, "hb"),
    ):
        await connection.execute(
            """
            INSERT INTO task (run_id, seq, namespace, task_queue, ready_at, fence, attempt, worker, leased_at,
                lease_until, heartbeat_at, deadline, close_by, start_to_close_s, heartbeat_s)
            VALUES ($1, $2, 'main', 'q', now(), 1, 1, 'w', now() - interval '60 s', now() - $3 * interval '1 s',
                now() - interval '50 s', now() - $3 * interval '1 s',
                CASE WHEN $4 = 'close_by' THEN now() - interval '20 s' END,
                CASE WHEN $4 = 'stc' THEN 50 ELSE 1000 END, CASE WHEN $4 = 'hb' THEN 41 END)
            """,
            RUN,
            seq,
            ago_s,
            limit,
        )
    await connection.close()
    assert [task.seq for task in await due_work.due_tasks(pool, 10)] == [0, 1, 3, 2, 4, 5]
    assert [task.seq for task in await due_work.due_tasks(pool, 3, spare_leases=True)] == [2, 4, 5]
