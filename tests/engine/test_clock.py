"""The clock, step by step: what is due is done, what is not is slept until, and lost hints are made good."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from holdfast.bus import Bus
from holdfast.engine.clock import Clock
from holdfast.exceptions import Unavailable
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy
from tests.engine.parts import QUEUE, Heard, Parts, credit, schedule

DUE = "UPDATE timer SET fire_at = now() - interval '1 s' WHERE state = 0"
LAPSED = "UPDATE task SET deadline = now(), lease_until = now() - interval '1 ms' WHERE worker IS NOT NULL"
LONG_AGO_S = 1_000.0


def clock_of(parts: Parts, *, heard_lately: bool = False) -> Clock:
    """A clock that has known the bus for long, unless it was just found again."""
    clock = Clock(parts.engine)
    if not heard_lately:
        clock._was_up = True
        clock._bus_up_since = time.monotonic() - LONG_AGO_S
    return clock


async def with_timer(parts: Parts, workflow_id: str = "order-1", delay_s: float = 60.0) -> str:
    run_id = await parts.start(workflow_id)
    await parts.turn(c.StartTimer(seq=1, delay_s=delay_s))
    return run_id


# -- idle --------------------------------------------------------------------------------------


async def test_an_idle_pass_is_one_statement_and_sleeps_for_a_sweep(parts: Parts) -> None:
    clock = clock_of(parts)
    statements = parts.engine.pool.counts.statements

    assert await clock.step() == 0

    assert parts.engine.pool.counts.statements - statements == 1
    assert clock.idle_s() == pytest.approx(1.0, abs=0.2)


async def test_the_clock_sleeps_until_what_is_due_next(parts: Parts) -> None:
    await with_timer(parts, delay_s=0.5)
    clock = clock_of(parts)

    assert await clock.step() == 0

    assert 0 < clock.idle_s() <= 0.5


async def test_a_timer_that_a_commit_starts_wakes_the_clock(parts: Parts) -> None:
    clock = clock_of(parts)
    await clock.step()
    parts.engine.timer_wake.clear()

    await with_timer(parts, delay_s=0.2)

    assert parts.engine.timer_wake.is_set()
    assert clock.idle_s() <= 0.2


# -- timers ------------------------------------------------------------------------------------


async def test_a_due_timer_fires_once(parts: Parts) -> None:
    await with_timer(parts)
    await parts.look(DUE)
    clock = clock_of(parts)

    assert await clock.step() == 1
    assert await clock.step() == 0

    assert (await parts.history()).count("TimerFired") == 1


async def test_a_timer_that_is_not_due_stays(parts: Parts) -> None:
    await with_timer(parts)

    assert await clock_of(parts).step() == 0
    assert "TimerFired" not in await parts.history()


async def test_two_clocks_fire_every_timer_once(parts: Parts) -> None:
    for number in range(20):
        await with_timer(parts, f"w{number}")
    await parts.look(DUE)

    handled = await asyncio.gather(*(clock_of(parts).step() for _ in range(3)))

    assert sum(handled) == 20
    assert await parts.look.one("SELECT count(*) FROM event WHERE type = 'TimerFired'") == 20


async def test_a_timer_of_a_run_that_just_ended_does_not_stop_the_others(parts: Parts) -> None:
    await with_timer(parts, "ends")
    await with_timer(parts, "goes on")
    await parts.look(DUE)
    await parts.look(
        "UPDATE run SET closed_at = now(), status = 'TERMINATED' WHERE workflow_id = 'ends'"
    )  # As if closed between the look and the lock: its timer still looks open.

    assert await clock_of(parts).step() == 1
    assert "TimerFired" in await parts.history("goes on")


async def test_more_timers_than_one_step_takes_are_fired_step_by_step(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.clock.STEP_MAX", 3)
    for number in range(7):
        await with_timer(parts, f"w{number}")
    await parts.look(DUE)
    clock = clock_of(parts)

    assert [await clock.step() for _ in range(4)] == [3, 3, 1, 0]


# -- leases ------------------------------------------------------------------------------------


async def leased(parts: Parts, kind: str) -> None:
    await parts.start()
    if kind == "activity":
        await parts.turn(schedule(1, retry=RetryPolicy(initial_s=0.0)))
        await parts.claim(activities=1)
    else:
        await parts.claim(workflows=1)
    await parts.look(LAPSED)


@pytest.mark.parametrize("kind", ["workflow", "activity"])
async def test_a_lapsed_lease_is_taken_back_and_counted(parts: Parts, kind: str) -> None:
    await leased(parts, kind)
    parts.engine.credits.hear(credit("w1", namespace=parts.namespace, heard_at=time.monotonic()))

    assert await clock_of(parts).step() == 1

    assert await parts.look("SELECT worker, attempt FROM task") == [(None, 2)]
    assert parts.engine.metrics.leases_expired.labels(kind).value == 1
    assert parts.engine.credits.of(parts.namespace, "w1", time.monotonic()) is None, (
        "nothing more is pushed to it"
    )


@pytest.mark.parametrize("kind", ["workflow", "activity"])
async def test_leases_are_spared_until_workers_had_a_leases_time_after_the_bus_came_back(
    parts: Parts, kind: str
) -> None:
    await leased(parts, kind)
    clock = clock_of(parts, heard_lately=True)

    assert await clock.step() == 0, "nothing was handled: the clock may sleep"
    assert await parts.look("SELECT worker FROM task") == ["w1"]

    clock._bus_up_since -= parts.engine.lease_s
    assert await clock.step() == 1


async def test_a_spared_lease_does_not_make_the_clock_spin(parts: Parts) -> None:
    await leased(parts, "workflow")
    clock = clock_of(parts, heard_lately=True)

    await clock.step()

    assert clock.idle_s() > 0.5


async def test_an_activitys_own_timeout_is_recorded_while_leases_are_spared(parts: Parts) -> None:
    await parts.start()
    await parts.turn(schedule(1, schedule_to_close_s=5.0))
    await parts.claim(activities=1)
    await parts.look("UPDATE task SET close_by = now(), deadline = now()")

    assert await clock_of(parts, heard_lately=True).step() == 1

    assert (await parts.history())[-1] == "ActivityTimedOut"


# -- the sweep ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "is_workflow"), [("workflow", True), ("activity", False)])
async def test_a_queue_with_tasks_that_nobody_took_is_hinted_again(
    parts: Parts, bus: Bus, kind: Any, is_workflow: bool
) -> None:
    await parts.start()
    if not is_workflow:
        await parts.turn(schedule(1))
    heard = await Heard.on(bus, f"hf.hint.{parts.namespace}.>")

    await clock_of(parts).step()

    hint = await heard.next()
    assert hint.subject == subjects.hint(parts.namespace, kind, QUEUE)
    assert codec.decode(hint.data, m.Hint).oldest_ready_at > 1e9


async def test_idle_workers_are_asked_by_name_too(parts: Parts, bus: Bus) -> None:
    """For the case that hints do not arrive at all."""
    await parts.start()
    heard = await Heard.on(bus, subjects.worker(parts.namespace, "w7"))
    parts.engine.credits.hear(credit("w7", namespace=parts.namespace, heard_at=time.monotonic()))

    await clock_of(parts).step()

    assert codec.decode((await heard.next()).data, m.Push) == m.Push(is_look=True)


async def test_a_rescue_is_counted_when_the_hint_was_missed_not_when_it_is_under_way(parts: Parts) -> None:
    await parts.start()
    clock = clock_of(parts)
    rescues = parts.engine.metrics.sweep_rescues.labels("workflow")

    await parts.look("UPDATE task SET ready_at = now()")
    await clock.step()
    assert rescues.value == 0

    await parts.look("UPDATE task SET ready_at = now() - interval '2 s'")
    await clock.step()
    assert rescues.value == 1


async def test_the_backlog_is_told_and_forgotten_when_it_is_gone(parts: Parts) -> None:
    clock, metrics = clock_of(parts), parts.engine.metrics
    key = (parts.namespace, QUEUE, "workflow")
    for number in range(3):
        await parts.start(f"w{number}")
    await parts.look("UPDATE task SET ready_at = now() - interval '5 s'")

    await clock.step()
    assert metrics.backlog.series[key].value == 3
    assert metrics.backlog_age.series[key].value == pytest.approx(5, abs=2)

    await parts.claim(workflows=3)
    await clock.step()
    assert key not in metrics.backlog.series
    assert key not in metrics.backlog_age.series


async def test_a_retry_is_hinted_when_its_backoff_ends_although_nobody_commits_anything_then(
    parts: Parts, bus: Bus
) -> None:
    await parts.start()
    await parts.turn(schedule(1, retry=RetryPolicy(initial_s=0.05)))
    (task,) = (await parts.claim(activities=1)).activity_tasks
    clock = clock_of(parts)
    await parts.ask(
        "report",
        m.FailActivity(
            run_id=task.run_id, worker="w1", seq=1, fence=task.fence, failure=Failure(message="x")
        ),
    )
    heard = await Heard.on(bus, f"hf.hint.{parts.namespace}.>")

    await clock.step()
    assert clock.idle_s() <= 0.05, "the clock is up when the backoff ends"
    await parts.look("SELECT pg_sleep(0.06)")
    await clock.step()

    assert (await heard.next()).subject == subjects.hint(parts.namespace, "activity", QUEUE)


# -- trouble -----------------------------------------------------------------------------------


async def test_the_clock_says_when_the_database_is_away_and_goes_on_later(parts: Parts) -> None:
    clock = clock_of(parts)
    await parts.engine.pool.close()

    with pytest.raises(Unavailable):
        await clock.step()


async def test_what_the_feed_is_owed_wakes_the_relay(parts: Parts) -> None:
    await parts.start()
    parts.engine.feed_wake.clear()

    await clock_of(parts).step()

    assert parts.engine.feed_wake.is_set()


async def test_request_ids_are_forgotten_after_two_days(parts: Parts) -> None:
    await parts.start()
    await parts.signal(request_id="old")
    await parts.signal(request_id="new")
    await parts.look("UPDATE request SET created_at = now() - interval '49 hours' WHERE request_id = 'old'")

    assert await clock_of(parts).forget() == 1

    assert await parts.look("SELECT request_id FROM request") == ["new"]
