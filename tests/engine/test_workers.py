"""Workers announce themselves: written down once, kept alive in memory, removed when they leave or fall silent."""

from __future__ import annotations

import time
from typing import Any

import pytest

from holdfast.bus import Bus
from holdfast.engine import workers
from holdfast.engine.clock import Clock
from holdfast.engine.workers import Attendance, Roster
from holdfast.exceptions import Invalid, Unavailable
from holdfast.store import tasks
from holdfast.wire import codec
from holdfast.wire import messages as m
from holdfast.wire.records import JournalEntry
from tests.engine.parts import QUEUE, Parts, completion, credit
from tests.store.rows import Sql

ROWS = (
    "SELECT id, namespace, identity, task_queue, workflows, activities, max_concurrent_workflows,"
    " max_concurrent_activities, active_tasks FROM worker ORDER BY id"
)
HEARD_S_AGO = "SELECT extract(epoch FROM now())::float8 - last_heartbeat FROM worker"
FALL_SILENT = "UPDATE worker SET last_heartbeat = last_heartbeat - 61"


class Time:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    monkeypatch.setattr(workers, "LINGER_S", 0.0)
    return Time()


@pytest.fixture
def attendance(parts: Parts, clock: Time) -> Attendance:
    """What keeps the rows of the engine under test, on the test's clock."""
    return Attendance(parts.engine.pool, parts.engine.bus, parts.engine.credits.roster, clock=clock)


def beat(worker: str = "w1", **fields: Any) -> m.WorkerHeartbeat:
    given: dict[str, Any] = {
        "task_queue": QUEUE,
        "identity": "shop@host",
        "workflows": ["refund", "order"],
        "activities": [],
        "max_workflow_tasks": 5,
        "max_activities": 0,
        "workflow_slots": 3,
    }
    return m.WorkerHeartbeat(worker=worker, **{**given, **fields})


async def told(look: Sql) -> list[tuple[str, str]]:
    entries = [codec.decode(row, JournalEntry) for row in await look("SELECT entry FROM journal ORDER BY id")]
    return [(entry.fact, entry.key) for entry in entries if entry.record == "worker"]


def hear(parts: Parts, clock: Time, request: m.WorkerHeartbeat) -> None:
    parts.engine.credits.roster.announced(parts.namespace, request, clock.now)


# -- announcing ------------------------------------------------------------------------------------


async def test_a_worker_that_is_first_heard_of_becomes_a_row(parts: Parts, attendance: Attendance) -> None:
    await parts.ask("heartbeat", beat())

    await attendance.step()

    assert await parts.look(ROWS) == [
        ("w1", parts.namespace, "shop@host", QUEUE, ["order", "refund"], [], 5, 0, 2)
    ]
    assert await told(parts.look) == [("WorkerRegistered", "w1")]


async def test_a_worker_that_says_little_is_written_down_all_the_same(
    parts: Parts, attendance: Attendance
) -> None:
    """One of an older version, or of another language."""
    await parts.ask("heartbeat", m.WorkerHeartbeat(worker="w1", task_queue=QUEUE))

    await attendance.step()

    assert await parts.look(ROWS) == [("w1", parts.namespace, "w1", QUEUE, None, None, 10, 10, 0)]


async def test_many_workers_are_written_by_one_statement_without_a_transaction(
    parts: Parts, attendance: Attendance
) -> None:
    for number in range(100):
        await parts.ask("heartbeat", beat(f"w{number}"))
    counts = parts.engine.pool.counts
    before = (counts.statements, counts.commits)

    await attendance.step()

    assert (counts.statements, counts.commits) == (before[0] + 1, before[1])
    assert await parts.look.one("SELECT count(*) FROM worker") == 100


async def test_what_is_said_again_is_not_written_again(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    hear(parts, clock, beat())
    await attendance.step()
    statements = parts.engine.pool.counts.statements

    for _ in range(9):
        clock.now += 3.0
        hear(parts, clock, beat(workflow_slots=1, workflows=["order", "refund", "order"]))
        await attendance.step()

    assert parts.engine.pool.counts.statements == statements
    assert parts.engine.credits.roster.seen["w1"].written_at is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"workflows": ["order"]},
        {"activities": None},
        {"max_workflow_tasks": 6},
        {"task_queue": "other"},
        {"identity": "another"},
    ],
    ids=str,
)
async def test_what_is_new_about_a_worker_is_written_and_told(
    parts: Parts, attendance: Attendance, clock: Time, fields: dict[str, Any]
) -> None:
    hear(parts, clock, beat())
    await attendance.step()
    before = await parts.look(ROWS)
    parts.engine.credits.roster.wake.clear()

    hear(parts, clock, beat(**fields))
    assert parts.engine.credits.roster.wake.is_set()
    await attendance.step()

    assert await parts.look(ROWS) != before
    assert await told(parts.look) == [("WorkerRegistered", "w1")] * 2


async def test_two_processes_that_hear_of_a_worker_tell_of_it_once(parts: Parts, clock: Time) -> None:
    for _ in range(2):
        roster = Roster()
        roster.announced(parts.namespace, beat(), clock.now)
        await Attendance(parts.engine.pool, parts.engine.bus, roster, clock=clock).step()

    assert await told(parts.look) == [("WorkerRegistered", "w1")]


async def test_a_process_that_starts_anew_refreshes_a_row_that_was_about_to_fall_silent(
    parts: Parts, clock: Time
) -> None:
    for _ in range(2):
        roster = Roster()
        roster.announced(parts.namespace, beat(), clock.now)
        await Attendance(parts.engine.pool, parts.engine.bus, roster, clock=clock).step()
        assert await parts.look.one(HEARD_S_AGO) < 30
        await parts.look("UPDATE worker SET last_heartbeat = last_heartbeat - 59")


@pytest.mark.parametrize(
    "fields",
    [
        {"identity": "a\x00"},
        {"identity": "i" * 1001},
        {"workflows": ["ok", "a\x00"]},
        {"activities": [""]},
        {"activities": ["x"] * 1001},
    ],
    ids=lambda fields: str(fields)[:30],
)
async def test_what_a_row_cannot_hold_is_refused_at_the_door(parts: Parts, fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await parts.ask("heartbeat", beat(**fields))

    assert parts.engine.credits.roster.seen == {}


async def test_odd_numbers_of_slots_are_taken_for_the_nearest_possible(
    parts: Parts, attendance: Attendance
) -> None:
    await parts.ask("heartbeat", beat(max_workflow_tasks=2**62, max_activities=-7, workflow_slots=-(2**62)))

    await attendance.step()

    assert [row[6:] for row in await parts.look(ROWS)] == [(2**31 - 1, 0, 2**31 - 1)]


async def test_forged_workers_do_not_fill_the_memory(
    parts: Parts, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "WORKERS_MAX", 3)
    for number in range(10):
        hear(parts, clock, beat(f"w{number}"))
        parts.engine.credits.roster.left(f"gone-{number}")

    assert len(parts.engine.credits.roster.seen) == len(parts.engine.credits.roster.leaving) == 3


# -- living ----------------------------------------------------------------------------------------


async def test_that_workers_live_is_written_every_half_minute_all_in_one_statement(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    for number in range(50):
        hear(parts, clock, beat(f"w{number}"))
    await attendance.step()
    await parts.look("UPDATE worker SET last_heartbeat = last_heartbeat - 40")
    clock.now += 31.0
    for number in range(50):
        hear(parts, clock, beat(f"w{number}", workflow_slots=0))
    statements = parts.engine.pool.counts.statements

    await attendance.step()

    assert parts.engine.pool.counts.statements - statements == 1
    assert max(await parts.look(HEARD_S_AGO)) < 5
    assert set(await parts.look("SELECT active_tasks FROM worker")) == {5}
    assert len(await told(parts.look)) == 50


async def test_a_worker_was_last_heard_of_when_it_was_heard_not_when_it_is_written(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    hear(parts, clock, beat())
    await attendance.step()
    await parts.look("UPDATE worker SET last_heartbeat = last_heartbeat - 40")
    clock.now += 31.0
    hear(parts, clock, beat())
    clock.now += 20.0

    await attendance.step()

    assert await parts.look.one(HEARD_S_AGO) == pytest.approx(20.0, abs=3.0)


async def test_claims_and_reports_are_signs_of_life_too(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    hear(parts, clock, beat())
    await attendance.step()
    clock.now += 31.0
    await parts.look("UPDATE worker SET last_heartbeat = last_heartbeat - 40")

    parts.engine.credits.hear(credit("w1", heard_at=clock.now))
    await attendance.step()

    assert await parts.look.one(HEARD_S_AGO) < 5


async def test_silence_is_not_written(parts: Parts, attendance: Attendance, clock: Time) -> None:
    hear(parts, clock, beat())
    await attendance.step()
    statements = parts.engine.pool.counts.statements
    clock.now += 50.0

    await attendance.step()

    assert parts.engine.pool.counts.statements == statements


# -- leaving ---------------------------------------------------------------------------------------


async def test_a_worker_that_says_goodbye_is_removed_and_keeps_what_it_holds(
    parts: Parts, attendance: Attendance
) -> None:
    """It ends what it has begun; what it cannot end it gives back."""
    await parts.ask("heartbeat", beat(workflow_slots=0))
    await attendance.step()
    await parts.start()
    (task,) = (await parts.claim("w1", workflows=1)).workflow_tasks

    await parts.ask("heartbeat", beat(is_stopping=True))
    await attendance.step()

    assert await parts.look(ROWS) == []
    assert await told(parts.look) == [("WorkerRegistered", "w1"), ("WorkerRemoved", "w1")]
    await parts.ask("report", completion(task))


async def test_a_goodbye_heard_by_another_process_is_a_goodbye(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    """The first process knows the worker still, and must not bring its row back."""
    hear(parts, clock, beat())
    await attendance.step()
    clock.now += 29.0
    hear(parts, clock, beat())
    roster = Roster()
    roster.left("w1")
    await Attendance(parts.engine.pool, parts.engine.bus, roster, clock=clock).step()
    clock.now += 2.0

    await attendance.step()
    await attendance.step()

    assert await parts.look(ROWS) == []
    assert parts.engine.credits.roster.seen == {}


async def test_a_worker_that_comes_back_is_written_again(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    hear(parts, clock, beat())
    await attendance.step()
    parts.engine.credits.roster.left("w1")
    hear(parts, clock, beat())

    await attendance.step()

    assert [row[0] for row in await parts.look(ROWS)] == ["w1"]


# -- silence ---------------------------------------------------------------------------------------


async def test_a_worker_that_nobody_heard_of_for_a_minute_is_removed_with_its_leases(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    hear(parts, clock, beat())
    await attendance.step()
    await parts.start()
    await tasks.claim_workflows(parts.engine.pool, parts.namespace, QUEUE, "w1", 1, 600.0)
    await parts.look(FALL_SILENT)
    clock.now += 61.0

    await attendance.step()

    assert await parts.look(ROWS) == []
    assert await parts.look("SELECT worker, deadline <= now() FROM task") == [("w1", True)]
    assert parts.engine.credits.roster.seen == {}


async def test_the_clock_hands_on_what_a_removed_worker_held(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    """Through the journal, with its fence: a late report of the removed worker does not count."""
    hear(parts, clock, beat(workflow_slots=0))
    await attendance.step()
    await parts.start()
    (taken,) = await tasks.claim_workflows(parts.engine.pool, parts.namespace, QUEUE, "w1", 1, 600.0)
    await parts.look(FALL_SILENT)
    clock.now += 61.0
    await attendance.step()

    service_clock = Clock(parts.engine)
    service_clock._was_up = True
    service_clock._bus_up_since = time.monotonic() - 1_000.0
    assert await service_clock.step() == 1

    (again,) = (await parts.claim("w2", workflows=1)).workflow_tasks
    assert again.fence > taken.fence


async def test_a_worker_whose_row_is_old_but_that_was_heard_stays(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    """After an outage of Postgres no row is fresh: what was heard meanwhile is written before anybody is removed."""
    hear(parts, clock, beat())
    await attendance.step()
    await parts.look(FALL_SILENT)
    clock.now += 61.0
    hear(parts, clock, beat())

    await attendance.step()

    assert [row[0] for row in await parts.look(ROWS)] == ["w1"]


async def test_for_a_minute_after_the_start_nobody_is_removed(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    hear(parts, clock, beat())
    await attendance.step()
    await parts.look(FALL_SILENT)
    clock.now += 59.0

    await attendance.step()

    assert [row[0] for row in await parts.look(ROWS)] == ["w1"]


async def test_for_a_minute_after_the_bus_is_back_nobody_is_removed(
    parts: Parts, attendance: Attendance, clock: Time
) -> None:
    hear(parts, clock, beat())
    await attendance.step()
    await parts.look(FALL_SILENT)
    clock.now += 1_000.0
    for came_up in parts.engine.bus.on_up:
        came_up()
    clock.now += 59.0

    await attendance.step()

    assert [row[0] for row in await parts.look(ROWS)] == ["w1"]


async def test_while_the_bus_is_away_nobody_is_removed(parts: Parts, clock: Time) -> None:
    away = Bus("nats://127.0.0.1:1", name="away")
    attendance = Attendance(parts.engine.pool, away, parts.engine.credits.roster, clock=clock)
    hear(parts, clock, beat())
    await attendance.step()
    await parts.look(FALL_SILENT)
    clock.now += 1_000.0

    await attendance.step()

    assert [row[0] for row in await parts.look(ROWS)] == ["w1"]


async def test_an_outage_of_postgres_loses_no_announcement(
    parts: Parts, attendance: Attendance, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(parts, clock, beat())
    rows = parts.engine.pool.rows

    async def away(*args: Any) -> Any:
        raise Unavailable("Postgres is away")

    monkeypatch.setattr(parts.engine.pool, "rows", away)
    with pytest.raises(Unavailable):
        await attendance.step()
    monkeypatch.setattr(parts.engine.pool, "rows", rows)

    await attendance.step()

    assert [row[0] for row in await parts.look(ROWS)] == ["w1"]
