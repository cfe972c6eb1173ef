"""A virtual day of a thousand schedules over the end of summer time, with leaders that die at random.

What was written about slots is compared with a second opinion that walks through every minute and looks at the clock
on the wall.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter

from holdfast.engine.scheduler import Lead, start_queued, write_due
from tests.core.schedule_oracle import at, cron_fires
from tests.engine.scheduling import Scheduling, lead_of

SCHEDULES = 1_000
STARTED = 30
START, END = int(at("2026-10-24 12:00")), int(at("2026-10-25 12:00"))
STEP_S = 60
WINDOW_S = 300.0
EXPRESSIONS = (
    "0 * * * *",
    "*/15 * * * *",
    "30 2 * * *",
    "7,37 */2 * * *",
    "0 1-4 * * sun",
    "59 23 L * 1",
    "10 3 * * *",
)
ZONES = (
    "Europe/Berlin",
    "UTC",
    "America/St_Johns",
    "Africa/Casablanca",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
)
CALENDARS = list(itertools.product(EXPRESSIONS, ZONES))
COPY = """
    INSERT INTO schedule
    SELECT (jsonb_populate_record(s, jsonb_build_object('name', n::text))).*
    FROM schedule AS s, generate_series(1, $1) AS n
    WHERE s.name::int = n % $2 AND n >= $2
"""


class Day:
    """The day's passes, and when nobody was there to make one."""

    def __init__(self, planned: Scheduling, seed: int) -> None:
        self.planned = planned
        self.rng = random.Random(seed)
        self.outages: list[tuple[float, float]] = []
        self.kills = 0

    async def pass_by(self) -> None:
        """Let the day pass, minute by minute."""
        leader = await lead_of(self.planned.parts, "leader-0")
        now = float(START)
        while now < END:
            now += STEP_S
            if self.rng.random() < 0.005:
                outage = (now, min(now + self.rng.randrange(2, 20) * STEP_S, float(END)))
                self.outages.append(outage)
                now = outage[1]
            if self.rng.random() < 0.05:
                await self._kill(leader, now)
                old, leader = leader, await lead_of(self.planned.parts, f"leader-{self.kills}")
                # It wakes up again, believing nothing has changed; or it never died, and both are on it.
                await asyncio.gather(self._until_calm(old, now), self._until_calm(leader, now))
                await asyncio.gather(self._until_calm(leader, now), self._until_calm(leader, now))
            await self._until_calm(leader, now)

    async def _kill(self, leader: Lead, now: float) -> None:
        """End a pass in the middle: when it has asked its first, second … statement, or commits."""
        self.kills += 1
        pool = self.planned.engine.pool
        last = pool.counts.statements + self.rng.randrange(5)
        dying = asyncio.ensure_future(write_due(pool, leader, now=now))
        while pool.counts.statements < last and not dying.done():
            await asyncio.sleep(0)
        dying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await dying

    async def _until_calm(self, leader: Lead, now: float) -> None:
        while await write_due(self.planned.engine.pool, leader, now=now):
            pass

    def was_missed(self, slot: float) -> bool:
        """Whether nobody was there from before the slot until its catch-up window was over."""
        return any(begin - STEP_S < slot < end - WINDOW_S for begin, end in self.outages)


async def test_every_slot_of_the_day_is_decided_once_and_as_the_clock_on_the_wall_says(
    planned: Scheduling,
) -> None:
    for number, (expr, zone) in enumerate(CALENDARS):
        await planned.schedule(
            str(number),
            cron_expr=expr,
            timezone=zone,
            overlap_policy="allow_all",
            catchup_window_secs=WINDOW_S,
        )
    await planned.parts.look(COPY, SCHEDULES - 1, len(CALENDARS))
    await planned.parts.look("UPDATE schedule SET considered_at = $1, next_run_at = $1", float(START))
    day = Day(planned, seed=20_261_024)

    await day.pass_by()

    rows = await planned.parts.look("SELECT schedule, slot, status FROM schedule_fire")
    decided: dict[int, dict[float, str]] = {number: {} for number in range(SCHEDULES)}
    for schedule, slot, status in rows:
        decided[int(schedule)][slot] = status
    # The first minute of the day is the one that was looked at before.
    expected = [cron_fires(expr, zone, START + STEP_S, END + STEP_S) for expr, zone in CALENDARS]
    for number in range(SCHEDULES):
        calendar = number % len(CALENDARS)
        wanted = {slot: "skipped" if day.was_missed(slot) else "queued" for slot in expected[calendar]}
        assert decided[number] == wanted, (CALENDARS[calendar], day.outages)
    counts = Counter(status for _, _, status in rows)
    assert counts["queued"] > 10_000
    assert counts["skipped"] > 100
    assert day.kills > 40


async def test_two_processes_that_start_the_same_queued_slots_start_each_once(planned: Scheduling) -> None:
    for number in range(STARTED):
        await planned.schedule(
            str(number),
            cron_expr="*/10 * * * *",
            overlap_policy="allow_all",
            catchup_window_secs=WINDOW_S * 1000,
        )
    await planned.parts.look("UPDATE schedule SET considered_at = $1, next_run_at = $1", float(START))
    leader = await lead_of(planned.parts)
    await write_due(planned.engine.pool, leader, now=float(END))

    while await planned.parts.look("SELECT 1 FROM schedule_fire WHERE status = 'queued' LIMIT 1"):
        await asyncio.gather(*(start_queued(planned.engine) for _ in range(3)))

    fires = await planned.parts.look("SELECT run_id, workflow_id FROM schedule_fire ORDER BY run_id")
    runs = await planned.parts.look("SELECT run_id, workflow_id FROM run ORDER BY run_id")
    assert fires == runs
    assert len(runs) == STARTED * 144
