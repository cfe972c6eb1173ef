"""The scheduler, pass by pass: slots become runs once, under every overlap policy, and skips say why."""

from __future__ import annotations

import pytest

from holdfast.core import schedules as core
from holdfast.engine import schedule_runs
from holdfast.engine.scheduler import Scheduler
from holdfast.wire import messages as m
from tests.contract.journal import facts
from tests.engine.scheduling import LAST_OPEN, NOON, Scheduling, from_noon

# -- slots -----------------------------------------------------------------------------------------


async def test_a_due_slot_starts_a_run_and_moves_the_schedule_on(planned: Scheduling) -> None:
    await from_noon(planned, input='[1, "two"]')

    done = await planned.step(NOON + 1)

    assert (done.started, done.skipped, done.waiting) == (1, 0, 0)
    assert await planned.fires() == [(NOON + 1, "started", "")]
    assert await planned.runs() == [("tick-2027-01-15T08:00:01Z", "PENDING")]
    assert await planned.row("next_run_at, considered_at, last_workflow_id") == (
        NOON + 2,
        NOON + 1,
        "tick-2027-01-15T08:00:01Z",
    )


async def test_nothing_is_due_before_its_time(planned: Scheduling) -> None:
    await from_noon(planned)

    await planned.step(NOON + 0.999)

    assert await planned.fires() == []
    assert await planned.row("next_run_at") == NOON + 1


async def test_the_run_gets_the_schedules_type_queue_and_input(planned: Scheduling) -> None:
    await from_noon(planned, workflow_type="report", task_queue="reports", input='{"n": 1}')

    await planned.step(NOON + 1)

    described = await planned.parts.ask(
        "describe", m.Describe(workflow_id=core.workflow_id_of("tick", NOON + 1))
    )
    assert (described.summary.workflow_type, described.summary.task_queue) == ("report", "reports")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (None, b"[]"),
        ('[1, "a"]', b'[1, "a"]'),
        ('{"a":1}', b'[{"a":1}]'),
        (' "x"', b'[ "x"]'),
        ("null", b"[null]"),
    ],
)
def test_an_array_is_all_arguments_and_anything_else_the_only_one(text: str | None, arguments: bytes) -> None:
    assert schedule_runs.arguments_of(text) == arguments


async def test_an_input_that_is_no_json_is_recorded_and_costs_nobody_else_anything(
    planned: Scheduling,
) -> None:
    await from_noon(planned, "broken", input="{not json")
    await from_noon(planned, "tick")

    await planned.until_calm(NOON + 1)

    ((slot, status, reason),) = await planned.fires("broken")
    assert (slot, status) == (NOON + 1, "skipped")
    assert "input of schedule 'broken'" in reason
    assert await planned.statuses("tick") == ["started"]


async def test_a_pass_is_told_to_the_journal(planned: Scheduling) -> None:
    await from_noon(planned, catchup_window_secs=1)

    await planned.until_calm(NOON + 4)

    told = [fact for fact, _ in await facts(planned.parts.look)]
    assert told.count("ScheduleFired") == 1
    assert told.count("ScheduleSlotSkipped") == 3
    assert planned.engine.is_journal_owed


async def test_schedules_of_a_namespace_that_is_gone_do_nothing(planned: Scheduling) -> None:
    await from_noon(planned)
    await planned.store.delete_namespace(planned.namespace)

    assert (await planned.step(NOON + 5)).handled == 0

    assert await planned.fires() == []
    assert await planned.runs() == []


async def test_a_schedule_that_cannot_be_read_any_more_pauses_alone(planned: Scheduling) -> None:
    """Zones and cron rules change with versions; the row was valid once."""
    await from_noon(planned, "broken")
    await from_noon(planned, "tick")
    await planned.parts.look("UPDATE schedule SET timezone = 'Gone/Zone' WHERE name = 'broken'")

    await planned.until_calm(NOON + 1)

    paused, note = await planned.row("paused, note", "broken")
    assert paused
    assert "Gone/Zone" in note
    assert await planned.statuses("tick") == ["started"]


# -- overlap ---------------------------------------------------------------------------------------


async def test_skip_leaves_out_slots_while_the_last_run_is_open(planned: Scheduling) -> None:
    await from_noon(planned)
    await planned.until_calm(NOON + 1)

    await planned.until_calm(NOON + 3)
    await planned.close()
    await planned.until_calm(NOON + 4)

    assert await planned.fires() == [
        (NOON + 1, "started", ""),
        (NOON + 2, "skipped", LAST_OPEN),
        (NOON + 3, "skipped", LAST_OPEN),
        (NOON + 4, "started", ""),
    ]


async def test_queue_starts_one_after_the_other(planned: Scheduling) -> None:
    await from_noon(planned, overlap_policy="queue")

    await planned.until_calm(NOON + 3)
    assert await planned.statuses() == ["started", "queued", "queued"]
    for _ in range(2):
        await planned.close()
        await planned.until_calm(NOON + 3)

    assert await planned.statuses() == ["started"] * 3
    assert len(await planned.runs()) == 3


async def test_queue_holds_a_hundred_and_skips_what_is_more(planned: Scheduling) -> None:
    await from_noon(planned, overlap_policy="queue", catchup_window_secs=1000)

    await planned.until_calm(NOON + 105)

    statuses = await planned.statuses()
    assert statuses == ["started"] + ["queued"] * 100 + ["skipped"] * 4
    assert "100 slots are queued" in (await planned.fires())[-1][2]


async def test_cancel_old_asks_the_old_run_to_end_and_starts_when_it_has(planned: Scheduling) -> None:
    await from_noon(planned, overlap_policy="cancel_old")
    await planned.until_calm(NOON + 1)

    await planned.until_calm(NOON + 2)
    assert await planned.statuses() == ["started", "queued"]
    history = await planned.parts.history(core.workflow_id_of("tick", NOON + 1))
    assert history.count("WorkflowCancelRequested") == 1
    await planned.close("CANCELLED")
    await planned.until_calm(NOON + 2)

    assert await planned.statuses() == ["started", "started"]


async def test_cancel_old_runs_only_the_newest_of_the_slots_that_wait(planned: Scheduling) -> None:
    await from_noon(planned, overlap_policy="cancel_old")
    await planned.until_calm(NOON + 1)

    await planned.until_calm(NOON + 4)

    assert await planned.fires() == [
        (NOON + 1, "started", ""),
        (NOON + 2, "skipped", schedule_runs.REPLACED),
        (NOON + 3, "skipped", schedule_runs.REPLACED),
        (NOON + 4, "queued", ""),
    ]


async def test_terminate_old_ends_the_old_run_and_starts_at_once(planned: Scheduling) -> None:
    await from_noon(planned, overlap_policy="terminate_old")
    await planned.until_calm(NOON + 1)

    await planned.until_calm(NOON + 2)

    assert await planned.statuses() == ["started", "started"]
    assert [status for _, status in await planned.runs()] == ["TERMINATED", "PENDING"]


async def test_allow_all_starts_everything(planned: Scheduling) -> None:
    await from_noon(planned, overlap_policy="allow_all")

    done = await planned.step(NOON + 5)

    assert done.started == 5
    assert [status for _, status in await planned.runs()] == ["PENDING"] * 5


# -- missed slots ----------------------------------------------------------------------------------


async def test_slots_within_the_catch_up_window_are_made_good_and_older_ones_recorded(
    planned: Scheduling,
) -> None:
    await from_noon(planned, overlap_policy="allow_all", catchup_window_secs=5)

    await planned.until_calm(NOON + 60.5)

    fires = await planned.fires()
    assert [slot for slot, status, _ in fires if status == "started"] == [NOON + n for n in range(56, 61)]
    assert [slot for slot, status, _ in fires if status == "skipped"] == [NOON + n for n in range(1, 56)]
    assert "the catch-up window is 5 s" in fires[0][2]


async def test_a_long_outage_is_looked_at_in_parts(planned: Scheduling) -> None:
    await from_noon(planned, overlap_policy="allow_all", catchup_window_secs=10)

    await planned.until_calm(NOON + 1000)

    statuses = await planned.statuses()
    assert (statuses.count("skipped"), statuses.count("started")) == (989, 11)


async def test_a_paused_schedule_fires_nothing_and_going_on_makes_nothing_good(planned: Scheduling) -> None:
    await from_noon(planned)
    await planned.store.set_schedule_paused(planned.namespace, "tick", True)

    assert (await planned.step(NOON + 50)).handled == 0
    await planned.store.set_schedule_paused(planned.namespace, "tick", False)
    considered_at = await planned.row("considered_at")
    await planned.until_calm(considered_at + 1)

    assert [slot > NOON + 100 or slot <= considered_at + 1 for slot, *_ in await planned.fires()] == [True]


async def test_slots_that_waited_when_the_schedule_was_paused_start_nothing(planned: Scheduling) -> None:
    await from_noon(planned, overlap_policy="queue")
    await planned.until_calm(NOON + 2)
    await planned.store.set_schedule_paused(planned.namespace, "tick", True)
    await planned.close()

    await planned.until_calm(NOON + 2)

    assert (await planned.fires())[1] == (NOON + 2, "skipped", "the schedule is paused")


# -- limits and failures ---------------------------------------------------------------------------


async def test_a_limited_schedule_starts_so_many_runs(planned: Scheduling) -> None:
    await from_noon(planned, overlap_policy="allow_all", extra={"remaining_actions": 3})

    await planned.until_calm(NOON + 5)
    await planned.until_calm(NOON + 10)

    assert (await planned.statuses()).count("started") == 3
    assert await planned.row("remaining_actions, next_run_at") == (0, None)


async def test_a_skipped_slot_does_not_use_up_a_run(planned: Scheduling) -> None:
    await from_noon(planned, extra={"remaining_actions": 2})

    await planned.until_calm(NOON + 3)

    assert await planned.row("remaining_actions") == 1


@pytest.mark.parametrize(
    ("status", "is_paused"), [("FAILED", True), ("TIMED_OUT", True), ("COMPLETED", False)]
)
async def test_a_schedule_that_wishes_so_pauses_when_its_run_fails(
    planned: Scheduling, status: str, is_paused: bool
) -> None:
    await from_noon(planned, extra={"is_pausing_on_failure": True})
    await planned.until_calm(NOON + 1)
    # Runs close by the database's clock.
    await planned.look_from(1000.0)
    await planned.close(status)

    await planned.step(1001.0)

    paused, note = await planned.row("paused, note")
    assert paused == is_paused
    if is_paused:
        assert note == f"paused because {core.workflow_id_of('tick', NOON + 1)} ended as {status}"
        assert (1001.0, "skipped", note) in await planned.fires()
        assert ("SchedulePaused", "tick") in await facts(planned.parts.look)


async def test_a_failure_is_forgiven_when_the_schedule_goes_on(planned: Scheduling) -> None:
    await from_noon(planned, extra={"is_pausing_on_failure": True})
    await planned.until_calm(NOON + 1)
    await planned.look_from(1000.0)
    await planned.close("FAILED")
    await planned.step(1001.0)

    await planned.store.set_schedule_paused(planned.namespace, "tick", False)
    considered_at = await planned.row("considered_at")
    await planned.until_calm(considered_at + 1)

    assert await planned.row("paused") is False
    assert (await planned.statuses()).count("started") == 2


# -- rest ------------------------------------------------------------------------------------------


async def test_without_schedules_the_scheduler_looks_once_in_fifteen_seconds(planned: Scheduling) -> None:
    scheduler = Scheduler(planned.engine)
    before = planned.engine.pool.counts.statements

    for _ in range(5):
        assert await scheduler.step() == 0

    assert planned.engine.pool.counts.statements - before == 1
    assert scheduler.idle_s() > 14


async def test_the_scheduler_sleeps_until_the_next_slot(planned: Scheduling) -> None:
    await planned.schedule(next_run_at=9e9)
    await planned.parts.look("UPDATE schedule SET next_run_at = extract(epoch FROM clock_timestamp()) + 0.5")
    scheduler = Scheduler(planned.engine)

    assert await scheduler.step() == 0

    assert 0 < scheduler.idle_s() <= 0.5


async def test_what_the_pulse_tells_wakes_the_scheduler(planned: Scheduling) -> None:
    scheduler = Scheduler(planned.engine)
    await scheduler.step()

    scheduler.hear(0.2)

    assert scheduler.wake.is_set()
    assert scheduler.idle_s() <= 0.2


async def test_old_slots_are_forgotten_and_waiting_ones_are_not(planned: Scheduling) -> None:
    await from_noon(planned)
    await planned.parts.look(
        "INSERT INTO schedule_fire (namespace, schedule, slot, status)"
        " SELECT $1, 'tick', slot, status FROM (VALUES (1000, 'started'), (2000, 'queued'), ($2, 'skipped'))"
        " AS f (slot, status)",
        planned.namespace,
        NOON - 60,
    )

    assert await Scheduler(planned.engine).forget() == 1

    assert [slot for slot, *_ in await planned.fires()] == [2000, NOON - 60]
