"""Figures of namespaces and task queues: what is open is counted, what is closed was counted when it closed."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.exceptions import Invalid
from holdfast.store import Store, tally, tasks
from holdfast.wire import commands as c
from holdfast.wire.records import NamespaceStats, QueueStats, WorkflowWorker
from tests.contract import written
from tests.store import rows
from tests.store.rows import QUEUE, Sql, schedule

TALLY = "INSERT INTO tally (namespace, status, closed) VALUES ($1, $2, $3)"


def worker(id: str = "w1", **fields: Any) -> WorkflowWorker:
    return WorkflowWorker(**{"id": id, "last_heartbeat": 1.0, "registered_at": 1.0, **fields})


# -- namespaces ------------------------------------------------------------------------------------


async def test_an_empty_or_unknown_namespace_has_none_of_anything(store: Store) -> None:
    assert await store.get_namespace_stats("main") == NamespaceStats(namespace="main")
    assert await store.get_namespace_stats("unknown") == NamespaceStats(namespace="unknown")


async def test_open_runs_are_counted_by_their_status(store: Store, sql: Sql) -> None:
    for status, count in (("PENDING", 1), ("RUNNING", 2), ("WAITING", 3)):
        for _ in range(count):
            await written.run(sql, status=status)
    await written.run(sql, namespace="other")

    found = await store.get_namespace_stats("main")

    assert (found.total_workflows, found.pending, found.running, found.waiting) == (6, 1, 2, 3)


async def test_closed_runs_are_counted_as_they_closed(store: Store, sql: Sql) -> None:
    closed = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT", "TERMINATED", "CONTINUED_AS_NEW")
    for count, status in enumerate(closed, 1):
        await sql(TALLY, "main", status, count)
    await sql(TALLY, "main", "FAILED", 10)
    await sql(TALLY, "other", "FAILED", 100)
    await written.run(sql)

    found = await store.get_namespace_stats("main")

    assert found == NamespaceStats(
        namespace="main",
        total_workflows=1 + 1 + 12 + 3 + 4 + 5 + 6,
        pending=1,
        completed=1,
        failed=12,
        cancelled=3,
        timed_out=4,
        terminated=5,
    )


async def test_a_run_of_the_engine_is_pending_until_its_first_claim(store: Store) -> None:
    await rows.start(store.pool, "first")
    await rows.start(store.pool, "second")
    assert (await store.get_namespace_stats("main")).pending == 2

    await tasks.claim_workflows(store.pool, "main", QUEUE, "w1", 1, 10.0)

    found = await store.get_namespace_stats("main")
    assert (found.total_workflows, found.pending, found.running) == (2, 1, 1)


async def test_a_run_of_the_engine_runs_between_its_tasks(store: Store) -> None:
    run_id = await rows.start(store.pool)
    await rows.turn(store.pool, run_id, c.StartTimer(seq=1, delay_s=3600.0))

    found = await store.get_namespace_stats("main")

    assert (found.total_workflows, found.pending, found.running) == (1, 0, 1)


async def test_schedules_and_workers_are_counted(store: Store, sql: Sql) -> None:
    await sql(
        "INSERT INTO schedule (namespace, name, created_at, catchup_window_secs, jitter_secs, paused, workflow_type,"
        " cron_expr, timezone, task_queue, overlap_policy)"
        " SELECT 'main', 's' || n, 1, 60, 0, n = 1, 't', '* * * * *', 'UTC', 'q', 'skip' FROM generate_series(1, 2) AS n"
    )
    for number in range(3):
        await store.register_worker(worker(f"w{number}"))
    await store.register_worker(worker("there", namespace="elsewhere"))

    found = await store.get_namespace_stats("main")

    assert (found.schedules, found.workers, found.total_workflows) == (2, 3, 0)
    assert (await store.get_namespace_stats("elsewhere")).workers == 1


@pytest.mark.parametrize("name", ["", "a\x00", "\ud800"])
async def test_what_cannot_be_a_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(Invalid, match="namespace"):
        await store.get_namespace_stats(name)
    with pytest.raises(Invalid, match="namespace"):
        await store.get_queue_stats(name)


async def test_adding_up_changes_no_figure(store: Store, sql: Sql) -> None:
    for number in range(100):
        await sql(TALLY, f"n{number % 3}", ("COMPLETED", "FAILED")[number % 2], number)
    before = [await store.get_namespace_stats(f"n{number}") for number in range(3)]

    assert await tally.add_up(store.pool) == 6
    assert await tally.add_up(store.pool) == 0

    assert await sql.one("SELECT count(*) FROM tally") == 6
    assert [await store.get_namespace_stats(f"n{number}") for number in range(3)] == before


async def test_two_that_add_up_at_once_lose_nothing(store: Store, sql: Sql) -> None:
    for _ in range(50):
        await sql(TALLY, "main", "COMPLETED", 2)
    transaction = sql.connection.transaction()
    await transaction.start()
    await sql(tally.ADD_UP.text)
    async with Sql.connected(store.pool.url) as late:
        await late(TALLY, "main", "COMPLETED", 1)
    await transaction.commit()

    await tally.add_up(store.pool)

    assert (await store.get_namespace_stats("main")).completed == 101


# -- task queues -----------------------------------------------------------------------------------


async def test_a_namespace_without_work_or_workers_has_no_queues(store: Store, sql: Sql) -> None:
    run_id = await written.run(sql)
    await written.activity(sql, run_id, status="COMPLETED")

    assert await store.get_queue_stats("main") == []
    assert await store.get_queue_stats("unknown") == []


async def test_queues_with_activities_tasks_or_workers_are_told_by_name(store: Store, sql: Sql) -> None:
    run_id = await written.run(sql)
    await written.activity(sql, run_id, queue="b")
    await written.run(sql, queue="Z", ready_s=1.0)
    await store.register_worker(worker(task_queue="ä"))
    await rows.start(store.pool, queue="a")
    await store.register_worker(worker("there", namespace="elsewhere", task_queue="c"))

    assert [found.queue for found in await store.get_queue_stats("main")] == ["Z", "a", "b", "ä"]
    assert await store.get_queue_stats("elsewhere") == [QueueStats(queue="c", workers=1)]


async def test_what_the_contract_wrote_is_counted_by_whether_somebody_has_it(store: Store, sql: Sql) -> None:
    run_id = await written.run(sql)
    for seq in range(1, 7):
        await written.activity(sql, run_id, seq, status="PENDING" if seq < 5 else "RUNNING", worker="w1")
    for _ in range(3):
        await written.run(sql, ready_s=1.0)
    await written.run(sql, worker="w1")
    await written.run(sql, worker="w1", ready_s=1.0)
    await store.register_worker(worker(task_queue="q"))

    (found,) = await store.get_queue_stats("main")

    assert (found.pending_activities, found.running_activities) == (4, 2)
    assert (found.pending_workflow_tasks, found.running_workflow_tasks) == (3, 2)
    assert found.workers == 1


async def test_what_the_engine_drives_is_counted_with_it(store: Store) -> None:
    run_id = await rows.start(store.pool, "first")
    await rows.start(store.pool, "second")
    await rows.turn(store.pool, run_id, schedule(1), schedule(2))
    await tasks.claim_activities(store.pool, "main", QUEUE, "w1", 1, 10.0)

    (found,) = await store.get_queue_stats("main")

    assert (found.queue, found.pending_activities, found.running_activities) == (QUEUE, 1, 1)
    assert (found.pending_workflow_tasks, found.running_workflow_tasks) == (1, 0)
    await tasks.claim_workflows(store.pool, "main", QUEUE, "w1", 1, 10.0)
    (found,) = await store.get_queue_stats("main")
    assert (found.pending_workflow_tasks, found.running_workflow_tasks) == (0, 1)


async def test_the_age_is_that_of_what_is_ready_for_longest(store: Store, sql: Sql) -> None:
    run_id = await written.run(sql)
    await written.activity(sql, run_id, 1, ready_s=50.0)
    await written.run(sql, ready_s=200.0)
    await rows.start(store.pool)
    await written.activity(sql, run_id, 2, status="RUNNING", worker="w1", ready_s=5000.0)

    (found,) = await store.get_queue_stats("main")

    assert found.oldest_ready_age_secs == pytest.approx(200.0, abs=20.0)


async def test_what_is_scheduled_for_later_waits_but_is_not_ready(store: Store, sql: Sql) -> None:
    run_id = await written.run(sql)
    await written.activity(sql, run_id, ready_s=-3600.0)

    (found,) = await store.get_queue_stats("main")

    assert (found.pending_activities, found.oldest_ready_age_secs) == (1, None)


async def test_what_a_closed_run_left_unclaimed_is_not_waiting(store: Store, sql: Sql) -> None:
    run_id = await written.run(sql, status="TERMINATED", is_closed=True, ready_s=1.0)
    await written.activity(sql, run_id)

    assert await store.get_queue_stats("main") == []
