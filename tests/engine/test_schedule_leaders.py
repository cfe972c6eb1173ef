"""Several processes want to be the scheduler, and some of them die: each slot still starts one run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import pytest

from holdfast.bus import Bus
from holdfast.core import schedules as core
from holdfast.engine import schedule_runs
from holdfast.engine.engine import Engine
from holdfast.engine.scheduler import ROLE, Lead, Scheduler, run_pass, start_queued, write_due
from holdfast.exceptions import Unavailable
from holdfast.metrics import Metrics
from holdfast.store import slot_rows
from holdfast.store.leading import Candidate
from holdfast.store.session import Pool, open_pool
from tests.engine.scheduling import NOON, Scheduling, from_noon, lead_of


@pytest.fixture
async def second(database: str, nats_url: str) -> AsyncIterator[Engine]:
    """Another process's engine on the same database."""
    pool: Pool = await open_pool(database, size=4, name="second")
    engine = Engine(pool, Bus(nats_url, name="second engine"), Metrics(), name="engine-2")
    writer = asyncio.create_task(engine.changes.run())
    yield engine
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await pool.close()


Closing = TypeVar("Closing", Scheduler, Candidate)


@asynccontextmanager
async def leaving(one: Closing) -> AsyncIterator[Closing]:
    """Who may lead, and does so no longer than the block."""
    try:
        yield one
    finally:
        await one.close()


async def test_two_engines_that_both_lead_start_each_slot_once(planned: Scheduling, second: Engine) -> None:
    """Both believe to lead: the same epoch, the same moment, the same schedules."""
    for n in range(20):
        await from_noon(planned, f"tick-{n}", overlap_policy="allow_all")
    lead = await lead_of(planned.parts)

    for second_s in range(1, 6):
        await asyncio.gather(
            *(
                run_pass(engine, lead, now=NOON + second_s)
                for engine in (planned.engine, second)
                for _ in range(2)
            )
        )
    await planned.until_calm(NOON + 5)

    for n in range(20):
        assert await planned.statuses(f"tick-{n}") == ["started"] * 5
    assert len(await planned.runs()) == 100


async def test_a_leader_that_was_deposed_writes_nothing(planned: Scheduling) -> None:
    await from_noon(planned)
    old = await lead_of(planned.parts)
    await lead_of(planned.parts, "another process")

    assert await write_due(planned.engine.pool, old, now=NOON + 1) == 0

    assert await planned.fires() == []


async def test_what_a_dead_leader_left_between_the_halves_is_finished(
    planned: Scheduling, second: Engine
) -> None:
    await from_noon(planned, overlap_policy="allow_all")
    await write_due(planned.engine.pool, await lead_of(planned.parts), now=NOON + 2)
    assert await planned.statuses() == ["queued", "queued"]

    await run_pass(second, Lead("nobody", 0), now=NOON + 2)

    assert await planned.statuses() == ["started", "started"]


async def test_a_run_whose_start_was_not_noted_is_found_again(planned: Scheduling) -> None:
    """A leader of an older version, which notes it in a second transaction, died after the start; meanwhile somebody
    changed the schedule, so the start is another one now.
    """
    await from_noon(planned)
    await write_due(planned.engine.pool, await lead_of(planned.parts), now=NOON + 1)
    (slot,) = await slot_rows.read_queued(planned.engine.pool, 10, 10)
    as_of_old = msgspec.structs.replace(schedule_runs.start_of(slot), slot=None)
    outcome = await planned.engine.change(as_of_old)
    assert await planned.statuses() == ["queued"]
    await planned.parts.look("UPDATE schedule SET input = '[2]'")

    await planned.until_calm(NOON + 1)

    assert await planned.parts.look("SELECT run_id::text FROM schedule_fire") == [outcome.answer.run_id]
    assert len(await planned.runs()) == 1


async def test_a_workflow_id_that_somebody_else_took_is_recorded(planned: Scheduling) -> None:
    await planned.parts.start(core.workflow_id_of("tick", NOON + 1))
    await from_noon(planned)

    await planned.until_calm(NOON + 1)

    ((_, status, reason),) = await planned.fires()
    assert status == "skipped"
    assert "tick-2027-01-15T08:00:01Z" in reason


async def test_a_slot_that_could_not_be_started_stays_queued(planned: Scheduling, second: Engine) -> None:
    await from_noon(planned)
    await second.changes.drain()

    with pytest.raises(Unavailable, match="shutting down"):
        await run_pass(second, await lead_of(planned.parts), now=NOON + 1)

    assert await planned.statuses() == ["queued"]
    await planned.until_calm(NOON + 1)
    assert await planned.statuses() == ["started"]


async def test_queued_slots_of_many_schedules_are_started_page_by_page(planned: Scheduling) -> None:
    for n in range(7):
        await from_noon(planned, f"tick-{n}", overlap_policy="allow_all")
    await planned.parts.look(
        "INSERT INTO schedule_fire (namespace, schedule, slot, status)"
        " SELECT 'a-nothing', n::text, n, 'queued' FROM generate_series(1, 9) AS n"
    )
    await write_due(planned.engine.pool, await lead_of(planned.parts), now=NOON + 3)

    settled = await start_queued(planned.engine, schedules_max=2)

    assert settled.started == 21
    assert len(await planned.runs()) == 21


async def test_a_leader_that_ended_is_followed_by_another_at_once(
    planned: Scheduling, second: Engine
) -> None:
    await planned.schedule()
    await planned.look_from(NOON / 2)
    async with leaving(Scheduler(planned.engine)) as first:
        assert await first.step() > 0
    await planned.look_from(NOON / 2)

    async with leaving(Scheduler(second)) as other:
        assert await other.step() > 0

    assert await planned.parts.look("SELECT holder FROM leader WHERE role = $1", ROLE) == [second.name]


async def test_a_frozen_leader_is_followed_by_another_when_its_time_is_up(
    planned: Scheduling, second: Engine
) -> None:
    await planned.schedule()
    await planned.look_from(NOON / 2)
    async with leaving(Scheduler(planned.engine)) as first, leaving(Scheduler(second)) as other:
        assert await first.step() > 0
        await planned.look_from(NOON / 2)
        await planned.parts.look("UPDATE leader SET until = clock_timestamp() WHERE role = $1", ROLE)

        assert await other.step() > 0

        assert await planned.parts.look("SELECT holder FROM leader WHERE role = $1", ROLE) == [second.name]


async def test_while_another_leads_a_scheduler_does_nothing(planned: Scheduling, second: Engine) -> None:
    await planned.schedule()
    await planned.look_from(NOON / 2)
    another = Candidate(second.pool.url, ROLE, "another process", second.pool.counts)
    async with leaving(another), leaving(Scheduler(second)) as scheduler:
        assert await another.ask(60.0) is not None

        assert await scheduler.step() == 0

        assert scheduler.idle_s() < 0.5
    assert await planned.fires() == []
