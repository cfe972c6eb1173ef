"""What the clock finds: by state, in the order it fell due, and cheaply when there is nothing."""

from __future__ import annotations

import pytest

from holdfast.store import due_work, tasks
from holdfast.store.session import Pool
from holdfast.wire import commands as c
from tests.store.rows import LEASE_S, QUEUE, Sql, schedule, start, turn


async def with_timer(pool: Pool, workflow_id: str = "order-1", delay_s: float = 60.0) -> str:
    run_id = await start(pool, workflow_id)
    await turn(pool, run_id, c.StartTimer(seq=1, delay_s=delay_s))
    return run_id


# -- the pulse ------------------------------------------------------------------------------


async def test_an_idle_database_has_nothing_to_tell(pool: Pool) -> None:
    found = await due_work.pulse(pool)

    assert (found.next_timer_s, found.next_deadline_s, found.has_waiting, found.oldest_owed_s) == (
        None,
        None,
        False,
        None,
    )


async def test_the_next_timer_is_told_in_seconds(pool: Pool, sql: Sql) -> None:
    await with_timer(pool, "w1", 60)
    await with_timer(pool, "w2", 30)

    assert (await due_work.pulse(pool)).next_timer_s == pytest.approx(30, abs=5)


async def test_a_due_timer_is_told_as_due(pool: Pool, sql: Sql) -> None:
    await with_timer(pool)
    await sql("UPDATE timer SET fire_at = now() - interval '3 s'")

    assert (await due_work.pulse(pool)).next_timer_s == pytest.approx(-3, abs=2)


async def test_a_timer_that_fired_or_was_cancelled_is_told_no_more(pool: Pool, sql: Sql) -> None:
    await with_timer(pool, "w1")
    await with_timer(pool, "w2")
    await sql("UPDATE timer SET state = 1 WHERE run_id = (SELECT run_id FROM timer LIMIT 1)")
    await sql("UPDATE timer SET state = 2 WHERE state = 0")

    assert (await due_work.pulse(pool)).next_timer_s is None


async def test_the_next_deadline_is_told(pool: Pool) -> None:
    await start(pool)
    assert (await due_work.pulse(pool)).next_deadline_s is None, "a turn that nobody took has no deadline"

    await tasks.claim_workflows(pool, "main", QUEUE, "w1", 1, LEASE_S)

    assert (await due_work.pulse(pool)).next_deadline_s == pytest.approx(LEASE_S, abs=3)


@pytest.mark.parametrize("kind", ["workflow", "activity"])
async def test_a_task_that_nobody_has_is_waiting(pool: Pool, kind: str) -> None:
    run_id = await start(pool)
    if kind == "activity":
        await turn(pool, run_id, schedule(1))

    assert (await due_work.pulse(pool)).has_waiting

    await tasks.claim_workflows(pool, "main", QUEUE, "w1", 1, LEASE_S)
    await tasks.claim_activities(pool, "main", QUEUE, "w1", 1, LEASE_S)
    assert not (await due_work.pulse(pool)).has_waiting


async def test_what_the_feed_is_owed_is_told_by_its_age(pool: Pool, sql: Sql) -> None:
    await start(pool)
    await sql("UPDATE outbox SET created_at = now() - interval '7 s'")

    assert (await due_work.pulse(pool)).oldest_owed_s == pytest.approx(7, abs=2)


# -- what is due ----------------------------------------------------------------------------


async def test_timers_are_found_in_fire_order_and_not_early(pool: Pool, sql: Sql) -> None:
    runs = [await with_timer(pool, f"w{n}") for n in range(4)]
    for number, late in {2: 9, 0: 5, 3: 1, 1: -30}.items():
        await sql(
            "UPDATE timer SET fire_at = now() - make_interval(secs => $1) WHERE run_id = $2::uuid",
            late,
            runs[number],
        )

    found = await due_work.due_timers(pool, 10)

    assert [runs.index(timer.run_id) for timer in found] == [2, 0, 3]
    assert [round(timer.late_s) for timer in found] == pytest.approx([9, 5, 1], abs=1)
    assert {(timer.namespace, timer.seq) for timer in found} == {("main", 1)}


async def test_looking_takes_nothing_away(pool: Pool, sql: Sql) -> None:
    """Found is not decided: whoever looks next finds it too, and the journal lets one of them win."""
    await with_timer(pool)
    await sql("UPDATE timer SET fire_at = now()")

    assert len(await due_work.due_timers(pool, 10)) == len(await due_work.due_timers(pool, 10)) == 1


async def test_lapsed_tasks_are_found_the_oldest_first_and_bounded(pool: Pool, sql: Sql) -> None:
    runs = [await start(pool, f"w{n}") for n in range(4)]
    await tasks.claim_workflows(pool, "main", QUEUE, "w1", 4, LEASE_S)
    for number, late in {2: 9, 0: 5, 3: 1, 1: -30}.items():
        await sql(
            "UPDATE task SET deadline = now() - make_interval(secs => $1) WHERE run_id = $2::uuid",
            late,
            runs[number],
        )

    assert [runs.index(task.run_id) for task in await due_work.due_tasks(pool, 10)] == [2, 0, 3]
    assert [runs.index(task.run_id) for task in await due_work.due_tasks(pool, 2)] == [2, 0]


async def test_a_lapsed_task_says_whose_it_was(pool: Pool, sql: Sql) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1, schedule_to_start_s=5.0), schedule(2))
    await tasks.claim_activities(pool, "main", QUEUE, "w1", 1, LEASE_S)
    await sql("UPDATE task SET deadline = now()")

    found = {task.seq: task.worker for task in await due_work.due_tasks(pool, 10)}

    assert sorted(found.values(), key=str) == [None, "w1"]


@pytest.mark.parametrize(
    ("fields", "is_found"),
    [
        ("lease_until = now()", False),
        ("close_by = now()", True),
        ("start_to_close_s = 1.0, leased_at = now() - interval '2 s'", True),
        ("heartbeat_s = 1.0, heartbeat_at = now() - interval '2 s'", True),
        ("start_to_close_s = 60.0", False),
        ("worker = NULL, start_by = now()", True),
    ],
)
async def test_while_leases_are_spared_only_an_activitys_own_limits_are_found(
    pool: Pool, sql: Sql, fields: str, is_found: bool
) -> None:
    """Otherwise a thousand silent workers would hide every real timeout behind them."""
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1))
    await tasks.claim_activities(pool, "main", QUEUE, "w1", 1, LEASE_S)
    await sql(f"UPDATE task SET deadline = now(), {fields}")

    assert len(await due_work.due_tasks(pool, 10)) == 1
    assert bool(await due_work.due_tasks(pool, 10, spare_leases=True)) is is_found


# -- the sweep ------------------------------------------------------------------------------


async def test_every_queue_with_ready_tasks_is_found_with_its_oldest(pool: Pool, sql: Sql) -> None:
    await sql("INSERT INTO namespace (name) VALUES ('other')")
    for number, (namespace, queue) in enumerate(
        [("main", "a"), ("main", "a"), ("main", "b"), ("other", "a"), ("other", "a.b>c *"), ("main", "ü")]
    ):
        await start(pool, f"w{number}", namespace=namespace, queue=queue)
    run_id = await start(pool, "with activity", queue="c")
    await turn(pool, run_id, schedule(1, task_queue="gpu"), schedule(2, task_queue="gpu"))
    await sql("UPDATE task SET ready_at = now() - interval '5 s' WHERE task_queue = 'b'")

    found = {(q.namespace, q.task_queue, q.is_workflow): q for q in await due_work.ready_queues(pool)}

    assert {key: queue.ready for key, queue in found.items()} == {
        ("main", "a", True): 2,
        ("main", "b", True): 1,
        ("main", "ü", True): 1,
        ("other", "a", True): 1,
        ("other", "a.b>c *", True): 1,
        ("main", "gpu", False): 2,
    }
    oldest = found["main", "b", True]
    assert oldest.now - oldest.oldest_ready_at == pytest.approx(5, abs=1)


async def test_a_queue_whose_tasks_are_all_leased_or_backing_off_is_not_found(pool: Pool, sql: Sql) -> None:
    await start(pool, "leased", queue="a")
    await tasks.claim_workflows(pool, "main", "a", "w1", 1, LEASE_S)
    await start(pool, "later", queue="b")
    await sql("UPDATE task SET ready_at = now() + interval '5 s' WHERE task_queue = 'b'")

    assert await due_work.ready_queues(pool) == []


async def test_a_queue_behind_one_that_backs_off_is_found(pool: Pool, sql: Sql) -> None:
    for name in ("a", "b", "c"):
        await start(pool, name, queue=name)
    await sql("UPDATE task SET ready_at = now() + interval '5 s' WHERE task_queue IN ('a', 'b')")

    assert [queue.task_queue for queue in await due_work.ready_queues(pool)] == ["c"]


@pytest.mark.parametrize("spare_leases", [False, True])
async def test_equal_deadlines_come_in_the_order_in_which_the_tasks_were_made(
    pool: Pool, sql: Sql, spare_leases: bool
) -> None:
    """They used to come as the index held them: an activity that was heard of last timed out last."""
    run_id = await start(pool)
    await turn(pool, run_id, *(schedule(seq, schedule_to_close_s=60.0) for seq in (1, 2, 3)))
    for seq in (3, 2, 1):
        await sql(
            "UPDATE task SET close_by = '2020-01-01 00:00Z', deadline = '2020-01-01 00:00Z' WHERE seq = $1",
            seq,
        )

    due = await due_work.due_tasks(pool, 10, spare_leases=spare_leases)

    assert [task.seq for task in due] == [1, 2, 3]
