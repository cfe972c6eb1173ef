"""A slot and its run are one transaction: whoever comes between its statements, the slot starts one run or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import msgspec
import pytest

from holdfast.bus import Bus
from holdfast.core import schedules as core
from holdfast.engine import schedule_runs, schedule_verbs
from holdfast.engine.engine import Engine
from holdfast.engine.scheduler import run_pass, start_queued, write_due
from holdfast.exceptions import Refused
from holdfast.metrics import Metrics
from holdfast.store import slot_rows
from tests.contract.journal import facts
from tests.contract.racing import Gate, done_or_waiting, first_of, gated_pool
from tests.engine.scheduling import NOON, Scheduling, from_noon, lead_of

SLOT = NOON + 1
RUN_AND_SLOT = """
    SELECT f.status, f.run_id::text, r.run_id::text
    FROM schedule_fire AS f
    FULL JOIN run AS r ON r.namespace = f.namespace AND r.workflow_id LIKE f.schedule || '-%'
    WHERE coalesce(f.schedule, '') = $1
"""


class Rival:
    """Another process's engine, which stops before the statement of its transactions that the test names."""

    def __init__(self, engine: Engine, gate: Gate) -> None:
        self.engine = engine
        self.gate = gate
        self._tasks: list[asyncio.Task[Any]] = [self._task(engine.changes.run())]

    def _task(self, work: Any) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work)

    async def stopped(self, work: Any, stop: int) -> tuple[asyncio.Task[Any], bool]:
        """*work*, and whether it stops before statement *stop*; otherwise it is done."""
        self.gate.set(stop)
        task = self._task(work)
        await first_of(task, self.gate.reached)
        return task, not task.done()

    async def die(self) -> None:
        """End everything that it does, where it is."""
        await self.close()
        self._tasks = [self._task(self.engine.changes.run())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def rival(database: str, nats_url: str) -> AsyncIterator[Rival]:
    gate = Gate()
    pool = await gated_pool(database, gate, size=4)
    made = Rival(Engine(pool, Bus(nats_url, name="rival"), Metrics(), name="engine-2"), gate)
    yield made
    await made.close()
    await pool.close()


async def meanwhile(
    planned: Scheduling, rival: Rival, work: Any, other: Awaitable[Any], stop: int = 1
) -> None:
    """Have the rival stop in *work* while the *other* is done."""
    task, is_stopped = await rival.stopped(work, stop)
    assert is_stopped
    await other
    rival.gate.go.set()
    await task


async def queued(planned: Scheduling, until: float = SLOT, name: str = "tick", **fields: Any) -> None:
    """A schedule whose slots until then wait to start."""
    await from_noon(planned, name, **fields)
    await write_due(planned.engine.pool, await lead_of(planned.parts), now=until)


async def test_of_two_leaders_at_the_same_slot_one_starts_its_run(planned: Scheduling, rival: Rival) -> None:
    """One stops before each of its statements, while the other does all that it can do."""
    lead = await lead_of(planned.parts)
    stop = 0
    while True:
        stop += 1
        name = f"tick-{stop}"
        await from_noon(planned, name, extra={"remaining_actions": 5})
        first, is_stopped = await rival.stopped(run_pass(rival.engine, lead, now=SLOT), stop)
        second = asyncio.create_task(run_pass(planned.engine, lead, now=SLOT))
        await done_or_waiting(second, planned.parts.look)
        rival.gate.go.set()
        await asyncio.gather(first, second)
        await planned.until_calm(SLOT)

        run_id = core.run_id_of(planned.namespace, name, SLOT)
        assert await planned.parts.look(RUN_AND_SLOT, name) == [("started", run_id, run_id)], stop
        assert await planned.row("remaining_actions", name) == 4, stop
        assert (await facts(planned.parts.look)).count(("ScheduleFired", name)) == 1, stop
        if not is_stopped:
            break
    # Due, slots, moved on, commit; resolve, lock, run, slot, journal, commit.
    assert stop == 11


async def test_a_leader_that_dies_leaves_a_run_with_its_slot_or_neither(
    planned: Scheduling, rival: Rival
) -> None:
    stop = 0
    while True:
        stop += 1
        name = f"tick-{stop}"
        await queued(planned, name=name)
        task, is_stopped = await rival.stopped(start_queued(rival.engine), stop)
        await rival.die()
        await asyncio.gather(task, return_exceptions=True)

        run_id = core.run_id_of(planned.namespace, name, SLOT)
        done = ("started", run_id, run_id)
        assert await planned.parts.look(RUN_AND_SLOT, name) == [
            ("queued", None, None) if is_stopped else done
        ]
        await start_queued(planned.engine)
        assert await planned.parts.look(RUN_AND_SLOT, name) == [done]
        if not is_stopped:
            break
    assert stop == 7


async def test_a_slot_that_has_its_run_answers_with_it(planned: Scheduling) -> None:
    await queued(planned)
    (slot,) = await slot_rows.read_queued(planned.engine.pool, 10, 10)
    change = schedule_runs.start_of(slot)
    changed = msgspec.structs.replace(change, hash=b"the schedule has changed meanwhile")

    first, second = await asyncio.gather(planned.engine.change(change), planned.engine.change(change))
    third = await planned.engine.change(changed)

    assert {out.answer.run_id for out in (first, second, third)} == {
        core.run_id_of(planned.namespace, "tick", SLOT)
    }
    assert [out.answer.is_new for out in (first, second, third)] == [True, False, False]
    assert len(await planned.runs()) == 1


async def test_a_slot_that_was_skipped_meanwhile_starts_nothing(planned: Scheduling, rival: Rival) -> None:
    await queued(planned)
    (slot,) = await slot_rows.read_queued(planned.engine.pool, 10, 10)
    skip = schedule_runs.carry_out(
        planned.engine, [schedule_runs.Todo(skip=[(slot, "the other one said so")])]
    )

    await meanwhile(planned, rival, start_queued(rival.engine), skip)

    assert await planned.fires() == [(SLOT, "skipped", "the other one said so")]
    assert await planned.runs() == []
    with pytest.raises(Refused, match=r"slot 1800000001 of schedule 'tick' was skipped meanwhile"):
        await planned.engine.change(schedule_runs.start_of(slot))


async def test_slots_of_a_schedule_that_is_deleted_meanwhile_start_nothing(
    planned: Scheduling, rival: Rival
) -> None:
    await queued(planned)

    gone = planned.store.delete_schedule(planned.namespace, "tick")
    await meanwhile(planned, rival, start_queued(rival.engine), gone)

    assert await planned.runs() == []


async def test_a_schedule_that_is_paused_meanwhile_starts_nothing(planned: Scheduling, rival: Rival) -> None:
    await queued(planned)

    pause = planned.store.set_schedule_paused(planned.namespace, "tick", True)
    await meanwhile(planned, rival, start_queued(rival.engine), pause)

    assert await planned.fires() == [(SLOT, "skipped", "the schedule is paused")]
    assert await planned.runs() == []


async def test_who_changes_a_schedule_waits_for_the_run_that_is_being_started(
    planned: Scheduling, rival: Rival
) -> None:
    """Otherwise a schedule that is paused already would start a run."""
    await queued(planned)
    starting, _ = await rival.stopped(start_queued(rival.engine), 3)

    pausing = asyncio.create_task(planned.store.set_schedule_paused(planned.namespace, "tick", True))
    await done_or_waiting(pausing, planned.parts.look)

    assert not pausing.done()
    rival.gate.go.set()
    await asyncio.gather(starting, pausing)
    assert await planned.statuses() == ["started"]
    assert await planned.row("paused") is True


async def test_a_limit_that_is_lowered_meanwhile_is_kept_to_the_run(
    planned: Scheduling, rival: Rival
) -> None:
    await queued(planned, NOON + 3, overlap_policy="allow_all", extra={"remaining_actions": 3})

    lower = planned.parts.look("UPDATE schedule SET remaining_actions = 2")
    await meanwhile(planned, rival, start_queued(rival.engine), lower)

    assert [(status, reason) for _, status, reason in await planned.fires()] == [
        ("started", ""),
        ("started", ""),
        ("skipped", "no runs remain"),
    ]
    assert await planned.row("remaining_actions") == 0


async def test_a_slot_waits_for_a_run_that_started_after_it_was_decided(
    planned: Scheduling, rival: Rival
) -> None:
    """A backfill puts slots before the one that a process has decided to start: two runs would be open."""
    await queued(planned, overlap_policy="queue")
    past = 1_700_000_000.0

    backfill = schedule_verbs.backfill(planned.engine, planned.namespace, "tick", past, past)
    await meanwhile(planned, rival, start_queued(rival.engine), backfill)

    assert await planned.statuses() == ["started", "queued"]
    await planned.close()
    await planned.until_calm(SLOT)
    assert await planned.statuses() == ["started", "started"]


async def test_a_workflow_id_that_is_taken_meanwhile_costs_the_slot_its_run(
    planned: Scheduling, rival: Rival
) -> None:
    """Somebody starts the slot's workflow id after the slot was locked, and before its run is written."""
    await queued(planned, extra={"remaining_actions": 5})

    other = planned.parts.start(core.workflow_id_of("tick", SLOT))
    await meanwhile(planned, rival, start_queued(rival.engine), other, stop=3)

    ((_, status, reason),) = await planned.fires()
    assert (status, len(await planned.runs())) == ("skipped", 1)
    assert "already started" in reason
    assert await planned.row("remaining_actions, last_workflow_id") == (5, None)


@pytest.mark.parametrize("count", [1, 20])
async def test_the_starts_of_slots_are_five_statements_together(planned: Scheduling, count: int) -> None:
    """Resolve, lock; then runs, slots, journal. However many slots share them."""
    await queued(planned, NOON + count, overlap_policy="allow_all")
    slots = await slot_rows.read_queued(planned.engine.pool, 100, 10)
    counts = planned.engine.pool.counts
    statements, commits = counts.statements, counts.commits

    await asyncio.gather(*(planned.engine.change(schedule_runs.start_of(slot)) for slot in slots))

    assert (counts.statements - statements, counts.commits - commits) == (5, 1)
    assert await planned.statuses() == ["started"] * count


async def test_a_slot_before_1970_has_a_run_id_that_sorts_first(planned: Scheduling) -> None:
    await planned.schedule(cron_expr="0 0 1 1 *")

    (slot,) = await schedule_verbs.backfill(planned.engine, planned.namespace, "tick", -1e8, -9e7)

    (run_id,) = await planned.parts.look(
        "SELECT run_id::text FROM run WHERE namespace = $1", planned.namespace
    )
    assert run_id == core.run_id_of(planned.namespace, "tick", slot)
    assert run_id.startswith("00000000-0000-7")
