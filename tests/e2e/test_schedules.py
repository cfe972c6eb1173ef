"""Schedules on a whole system: they fire on time, and go on when the process that leads them is gone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from holdfast.engine.scheduler import ROLE
from holdfast.store import Store
from holdfast.wire.records import WorkflowSchedule
from tests.e2e.system import Part, System, system

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("whole-system")]

LATENESS = """
    SELECT f.slot, extract(epoch FROM r.created_at)::float8 - f.slot AS late_s
    FROM holdfast.schedule_fire AS f
    JOIN holdfast.run AS r ON r.run_id = f.run_id
    WHERE f.status = 'started'
    ORDER BY f.slot
"""


@asynccontextmanager
async def ticking(tmp_path: Path) -> AsyncIterator[System]:
    """Two engines, and a schedule that starts a run every second, whatever became of the one before."""
    async with system(tmp_path, engines=2) as whole:
        async with await Store.connect(whole.stack.postgres_url) as store:
            await store.create_schedule(
                WorkflowSchedule(
                    name="tick",
                    workflow_type="nothing",
                    task_queue="nobody",
                    cron_expr="* * * * * *",
                    overlap_policy="allow_all",
                    created_at=await whole.now(),
                )
            )
        await fired(whole, 1)
        yield whole


async def fired(whole: System, count: int, after: float = 0.0) -> list[float]:
    """How late the first *count* slots after an instant were, once they have fired."""

    async def is_reached() -> bool:
        return len([row for row in await whole.fetch(LATENESS) if row["slot"] > after]) >= count

    await whole.until(is_reached, f"{count} slots have fired")
    late_s = [row["late_s"] for row in await whole.fetch(LATENESS) if row["slot"] > after]
    return late_s[:count]


async def leading(whole: System) -> Part:
    """The engine that leads now."""
    rows = await whole.fetch("SELECT holder FROM holdfast.leader WHERE role = $1", ROLE)
    pid = int(rows[0]["holder"].split("-")[-2])
    return next(part for part in whole.engines if part.pids[-1] == pid)


async def runs_per_slot(whole: System) -> list[int]:
    """How many runs each slot started."""
    rows = await whole.fetch(
        "SELECT count(*) AS runs FROM holdfast.run WHERE workflow_id LIKE 'tick-%' GROUP BY workflow_id"
    )
    return [row["runs"] for row in rows]


async def test_a_schedule_of_every_second_fires_on_time_and_once(tmp_path: Path) -> None:
    async with ticking(tmp_path) as whole:
        now = await whole.now()

        late_s = await fired(whole, 5, after=now)

        assert max(late_s) < 1.0, late_s
        assert set(await runs_per_slot(whole)) == {1}
        assert await whole.violations(is_calm=False) == []


@pytest.mark.parametrize("end", [Part.kill, Part.stop])
async def test_when_the_leader_ends_another_fires_the_next_slots_within_two_seconds(
    tmp_path: Path, end: Callable[[Part], Awaitable[object]]
) -> None:
    """Killed or stopped in order: the server drops its sign of life, and the next who asks leads."""
    async with ticking(tmp_path) as whole:
        leader = await leading(whole)
        ended_at = await whole.now()

        await end(leader)
        late_s = await fired(whole, 5, after=ended_at)

        assert max(late_s) < 2.0, late_s
        assert leader is not await leading(whole)
        assert set(await runs_per_slot(whole)) == {1}
        assert await whole.violations(is_calm=False) == []


async def test_when_the_leader_is_frozen_another_fires_the_next_slots(tmp_path: Path) -> None:
    """Its time is up after 1.5 s; what it held in the middle of a transaction, Postgres frees after five."""
    async with ticking(tmp_path) as whole:
        leader = await leading(whole)
        frozen_at = await whole.now()

        os.kill(leader.pids[-1], SIGSTOP)
        try:
            late_s = await fired(whole, 10, after=frozen_at)
        finally:
            os.kill(leader.pids[-1], SIGCONT)
        thawed_at = await whole.now()
        await fired(whole, 3, after=thawed_at)

        assert max(late_s) < 8.0, late_s
        assert set(await runs_per_slot(whole)) == {1}
        assert await whole.violations(is_calm=False) == []
