"""Workers: registered once under their id, heard of, and removed with everything they held when they fell silent."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from holdfast.exceptions import Invalid
from holdfast.store import Store, tasks
from holdfast.store.due_work import due_tasks
from holdfast.wire.records import WorkflowWorker
from tests.contract import written
from tests.contract.given import activity, created, database_now, ready
from tests.contract.journal import entries, facts
from tests.store import rows
from tests.store.rows import QUEUE, Sql

LONG_AGO, NOW, LATER = 1000.0, 1_700_000_000.0, 9_999_999_999.5


def worker(id: str = "w1", **fields: Any) -> WorkflowWorker:
    return WorkflowWorker(**{"id": id, "last_heartbeat": NOW, "registered_at": NOW, **fields})


async def ids(store: Store, namespace: str = "main") -> list[str]:
    return [found.id for found in await store.list_workers(namespace)]


# -- registering -----------------------------------------------------------------------------------


async def test_a_registered_worker_is_listed_as_it_was_given(store: Store, sql: Sql) -> None:
    given = worker(
        identity="shop@host",
        task_queue="shop",
        workflows=["order", "refund"],
        activities=[],
        max_concurrent_workflows=3,
        max_concurrent_activities=0,
        active_tasks=2,
        last_heartbeat=LONG_AGO + 0.125,
        registered_at=LATER,
    )

    await store.register_worker(given)

    assert await store.list_workers("main") == [given]
    assert await facts(sql) == [("WorkerRegistered", "w1")]


async def test_a_worker_need_not_say_which_types_it_knows(store: Store) -> None:
    await store.register_worker(worker())

    (found,) = await store.list_workers("main")

    assert (found.workflows, found.activities) == (None, None)


async def test_registering_again_replaces_everything_that_was_known(store: Store, sql: Sql) -> None:
    await store.create_namespace("billing")
    await store.register_worker(worker(workflows=["order"], active_tasks=5, registered_at=LATER))
    again = worker(namespace="billing", task_queue="other", last_heartbeat=LONG_AGO, registered_at=LONG_AGO)

    await store.register_worker(again)

    assert await store.list_workers("main") == []
    assert await store.list_workers("billing") == [again]
    assert (await facts(sql))[1:] == [("WorkerRegistered", "w1")] * 2


async def test_registering_the_same_again_tells_nothing(store: Store, sql: Sql) -> None:
    for _ in range(3):
        await store.register_worker(worker(workflows=["order"]))

    assert await ids(store) == ["w1"]
    assert await facts(sql) == [("WorkerRegistered", "w1")]


async def test_many_that_register_one_worker_at_once_leave_one(store: Store, other: Store) -> None:
    given = [worker(task_queue=f"q{number}") for number in range(8)]

    await asyncio.gather(*((store, other)[n % 2].register_worker(one) for n, one in enumerate(given)))

    (found,) = await store.list_workers("main")
    assert found in given


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": "a\x00"},
        {"namespace": ""},
        {"task_queue": "\ud800"},
        {"identity": "i" * 1001},
        {"workflows": ["ok", ""]},
        {"activities": ["a\x00"]},
        {"max_concurrent_workflows": -1},
        {"max_concurrent_activities": 2**31},
        {"active_tasks": -1},
        {"last_heartbeat": float("nan")},
        {"registered_at": float("inf")},
    ],
    ids=str,
)
async def test_what_a_row_cannot_hold_is_refused(store: Store, sql: Sql, fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await store.register_worker(msgspec.structs.replace(worker(), **fields))

    assert await facts(sql) == []


# -- listing ---------------------------------------------------------------------------------------


async def test_workers_are_listed_in_the_order_of_their_registration(store: Store) -> None:
    for name, registered_at in (("late", LATER), ("b", NOW), ("a", NOW), ("early", LONG_AGO)):
        await store.register_worker(worker(name, registered_at=registered_at))

    assert await ids(store) == ["early", "a", "b", "late"]


async def test_a_namespace_lists_its_own_workers(store: Store) -> None:
    await store.register_worker(worker("here"))
    await store.register_worker(worker("there", namespace="elsewhere"))

    assert await ids(store) == ["here"]
    assert await ids(store, "elsewhere") == ["there"]
    assert await ids(store, "unknown") == []


# -- heartbeats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [LATER, LONG_AGO, 0.0, -1.5, NOW + 0.000001])
async def test_a_worker_was_last_heard_of_when_the_caller_says(store: Store, sql: Sql, now: float) -> None:
    await store.register_worker(worker())

    assert await store.heartbeat_worker("w1", now) is True

    assert [found.last_heartbeat for found in await store.list_workers("main")] == [now]
    assert [entry.fields for entry in await entries(sql) if entry.fact == "WorkerHeard"] == [
        {"last_heartbeat": now}
    ]


async def test_a_heartbeat_changes_nothing_else(store: Store) -> None:
    given = worker(workflows=["order"], active_tasks=3)
    await store.register_worker(given)

    await store.heartbeat_worker("w1", LATER)

    assert await store.list_workers("main") == [msgspec.structs.replace(given, last_heartbeat=LATER)]


async def test_the_same_heartbeat_again_tells_nothing(store: Store, sql: Sql) -> None:
    await store.register_worker(worker())

    assert await store.heartbeat_worker("w1", NOW) is True

    assert await facts(sql) == [("WorkerRegistered", "w1")]


@pytest.mark.parametrize("unknown", ["w2", "", "W1", "a\x00"])
async def test_nobody_hears_of_an_unknown_worker(store: Store, sql: Sql, unknown: str) -> None:
    await store.register_worker(worker())

    assert await store.heartbeat_worker(unknown, LATER) is False

    assert await ids(store) == ["w1"]
    assert await facts(sql) == [("WorkerRegistered", "w1")]


async def test_a_heartbeat_needs_a_time(store: Store) -> None:
    with pytest.raises(Invalid, match="now is nan"):
        await store.heartbeat_worker("w1", float("nan"))


# -- removing --------------------------------------------------------------------------------------


async def test_only_workers_heard_of_before_the_cutoff_are_removed(store: Store, sql: Sql) -> None:
    for name, heard_at in (("before", 999.999999), ("at", 1000.0), ("after", 1000.000001)):
        await store.register_worker(worker(name, last_heartbeat=heard_at))

    assert await store.remove_dead_workers(1000.0) == ["before"]

    assert set(await ids(store)) == {"at", "after"}
    assert (await facts(sql))[3:] == [("WorkerRemoved", "before")]


async def test_the_silent_of_every_namespace_are_removed_once(store: Store, other: Store) -> None:
    for number in range(20):
        await store.register_worker(worker(f"w{number}", namespace=f"n{number % 2}"))

    removed = await asyncio.gather(*(which.remove_dead_workers(LATER) for which in (store, other) * 2))

    assert sorted(name for names in removed for name in names) == sorted(f"w{n}" for n in range(20))
    assert await store.remove_dead_workers(LATER) == []


async def test_when_nobody_is_silent_nothing_happens(store: Store, sql: Sql) -> None:
    await store.register_worker(worker())

    assert await store.remove_dead_workers(LONG_AGO) == []

    assert await facts(sql) == [("WorkerRegistered", "w1")]


async def test_a_removed_worker_is_told_to_register_and_may(store: Store) -> None:
    await store.register_worker(worker())
    await store.remove_dead_workers(LATER)

    assert await store.heartbeat_worker("w1", LATER) is False
    await store.register_worker(worker())

    assert await ids(store) == ["w1"]


async def test_a_worker_heard_of_while_it_is_being_removed_stays(store: Store, sql: Sql) -> None:
    await store.register_worker(worker(last_heartbeat=LONG_AGO))
    transaction = sql.connection.transaction()
    await transaction.start()
    await sql("UPDATE worker SET last_heartbeat = $1", LATER)
    removing = asyncio.create_task(store.remove_dead_workers(NOW))
    async with Sql.connected(store.pool.url) as look:
        await look.until("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")

    await transaction.commit()

    assert await removing == []
    assert await ids(store) == ["w1"]


async def test_its_workflow_tasks_can_be_claimed_by_others_again(store: Store, sql: Sql) -> None:
    await store.register_worker(worker("dead"))
    run_id = await written.run(sql, worker="dead")
    kept = await written.run(sql, worker="alive")

    await store.remove_dead_workers(LATER)

    look = (
        "SELECT dispatch_worker, dispatch_heartbeat, ready_at IS NOT NULL FROM record WHERE run_id = $1::uuid"
    )
    assert await sql(look, run_id) == [(None, None, True)]
    assert (await sql(look, kept))[0][0] == "alive"
    assert [fact for fact, _ in await facts(sql)] == [
        "WorkerRegistered",
        "WorkflowTaskReleased",
        "WorkerRemoved",
    ]


async def test_a_run_that_was_woken_during_the_lease_keeps_its_place(store: Store, sql: Sql) -> None:
    await store.register_worker(worker("dead"))
    await written.run(sql, worker="dead", ready_s=500.0)

    await store.remove_dead_workers(LATER)

    assert await sql.one("SELECT ready_at < now() - interval '400 s' FROM record") is True


async def test_a_closed_run_is_not_dispatched_though_its_lease_is_released(store: Store, sql: Sql) -> None:
    await store.register_worker(worker("dead"))
    await written.run(sql, worker="dead", status="COMPLETED", is_closed=True)

    await store.remove_dead_workers(LATER)

    assert await sql("SELECT dispatch_worker, ready_at FROM record") == [(None, None)]


async def test_its_running_activities_are_pending_again_with_the_same_attempt(store: Store, sql: Sql) -> None:
    await store.register_worker(worker("dead"))
    run_id = await written.run(sql)
    taken = await written.activity(sql, run_id, 1, status="RUNNING", worker="dead")
    other = await written.activity(sql, run_id, 2, status="RUNNING", worker="alive")
    done = await written.activity(sql, run_id, 3, status="COMPLETED", worker="dead")

    await store.remove_dead_workers(LATER)

    look = "SELECT status, claimed_by, started_at, last_heartbeat, attempt FROM record_activity WHERE id = $1"
    assert await sql(look, taken) == [("PENDING", None, None, None, 3)]
    assert await sql(look, other) == [("RUNNING", "alive", 1.0, 2.0, 3)]
    assert await sql(look, done) == [("COMPLETED", "dead", 1.0, 2.0, 3)]
    (told,) = [entry for entry in await entries(sql) if entry.fact == "ActivityReleased"]
    assert (told.key, told.fields["attempt"], told.fields["worker"]) == (str(taken), 3, "dead")


async def test_what_the_engine_leased_to_it_falls_due_for_the_engine_to_decide(
    store: Store, sql: Sql
) -> None:
    await store.register_worker(worker("dead"))
    run_id = await rows.start(store.pool)
    (leased,) = await tasks.claim_workflows(store.pool, "main", QUEUE, "dead", 1, 600.0)
    assert await due_tasks(store.pool, 10) == []

    await store.remove_dead_workers(LATER)

    (due,) = await due_tasks(store.pool, 10)
    assert (due.run_id, due.seq, due.worker) == (run_id, 0, "dead")
    assert await sql("SELECT fence, lease_until <= now() FROM task") == [(leased.fence, True)]


async def test_what_the_engine_leased_to_others_stays_leased(store: Store) -> None:
    await store.register_worker(worker("dead"))
    await rows.start(store.pool, "theirs")
    await tasks.claim_workflows(store.pool, "main", QUEUE, "alive", 1, 600.0)
    await rows.start(store.pool, "elsewhere", namespace="elsewhere")
    await tasks.claim_workflows(store.pool, "elsewhere", QUEUE, "dead", 1, 600.0)

    assert await store.remove_dead_workers(LATER) == ["dead"]

    assert await due_tasks(store.pool, 10) == []


async def test_removal_waits_for_who_holds_the_run_and_then_decides_by_what_is_there(
    store: Store, sql: Sql
) -> None:
    await store.register_worker(worker("dead"))
    run_id = await written.run(sql)
    await written.activity(sql, run_id, status="RUNNING", worker="dead")
    transaction = sql.connection.transaction()
    await transaction.start()
    await sql("SELECT 1 FROM run WHERE run_id = $1::uuid FOR UPDATE", run_id)
    await sql("UPDATE record_activity SET status = 'COMPLETED'")
    removing = asyncio.create_task(store.remove_dead_workers(LATER))
    async with Sql.connected(store.pool.url) as look:
        await look.until("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")

    await transaction.commit()

    assert await removing == ["dead"]
    assert await sql("SELECT status, claimed_by FROM record_activity") == [("COMPLETED", "dead")]


async def test_a_removal_that_fails_releases_nothing(store: Store, sql: Sql) -> None:
    await store.register_worker(worker("dead"))
    await written.run(sql, worker="dead")
    removing = asyncio.create_task(store.remove_dead_workers(LATER))
    await asyncio.sleep(0)
    removing.cancel()
    await asyncio.wait([removing])

    is_there = await sql.one("SELECT EXISTS (SELECT 1 FROM worker)")
    is_leased = await sql.one("SELECT dispatch_worker IS NOT NULL FROM record")
    assert is_there == is_leased


async def test_an_id_that_cannot_be_is_nobodys(store: Store) -> None:
    assert await store.heartbeat_worker("\ud800", 1_700_000_000.0) is False
    assert await store.heartbeat_worker("a\x00b", 1_700_000_000.0) is False


# -- what claims ask of a worker -------------------------------------------------------------------


async def test_a_worker_gets_the_types_that_it_named(store: Store) -> None:
    await created(store, "order-1", workflow_type="pay")
    await ready(store, "order-2", "order-3", workflow_type="order")
    await store.mark_workflow_dispatchable("order-1")
    await store.create_activity(activity("order-1", 1, name="charge"))
    await store.create_activity(activity("order-1", 2, name="refund"))
    await store.register_worker(worker(workflows=["cook", "pay"], activities=["refund"]))

    run, other = [await store.claim_workflow_task("shop", "w1") for _ in range(2)]
    task, none = [await store.claim_activity("shop", "w1") for _ in range(2)]

    assert (run is not None and run.id, other) == ("order-1", None)
    assert (task is not None and task.seq, none) == (2, None)


@pytest.mark.parametrize("named", [None, []])
async def test_a_worker_that_names_no_types_gets_any(store: Store, named: list[str] | None) -> None:
    await ready(store, "order-1")
    await store.create_activity(activity("order-1"))
    await store.register_worker(worker(workflows=named, activities=named))

    assert await store.claim_workflow_task("shop", "w1") is not None
    assert await store.claim_activity("shop", "w1") is not None


async def test_a_worker_gets_no_more_than_it_has_slots_for(store: Store) -> None:
    await ready(store, *(f"order-{n}" for n in range(4)))
    numbers = [await store.create_activity(activity("order-0", seq)) for seq in range(4)]
    await store.register_worker(worker(max_concurrent_workflows=2, max_concurrent_activities=1))

    runs = [await store.claim_workflow_task("shop", "w1") for _ in range(3)]
    tasks_ = [await store.claim_activity("shop", "w1") for _ in range(2)]

    assert [run is None for run in runs] == [False, False, True]
    assert [task is None for task in tasks_] == [False, True]
    await store.release_workflow_task("order-0", "w1")
    await store.complete_activity(numbers[0], None, None, False)
    assert await store.claim_workflow_task("shop", "w1") is not None
    assert await store.claim_activity("shop", "w1") is not None


async def test_a_worker_without_slots_gets_nothing(store: Store) -> None:
    await ready(store, "order-1")
    await store.create_activity(activity("order-1"))
    await store.register_worker(worker(max_concurrent_workflows=0, max_concurrent_activities=0))

    assert await store.claim_workflow_task("shop", "w1") is None
    assert await store.claim_activity("shop", "w1") is None
    assert await store.claim_activity("shop", "anybody") is not None


async def test_many_claims_of_one_worker_at_once_respect_its_slots(store: Store, other: Store) -> None:
    await ready(store, *(f"order-{n}" for n in range(8)))
    await store.register_worker(worker(max_concurrent_workflows=3))

    found = await asyncio.gather(*((store, other)[n % 2].claim_workflow_task("shop", "w1") for n in range(8)))

    assert sum(run is not None for run in found) == 3


async def test_a_lease_lives_as_long_as_its_worker_is_heard_of(store: Store, sql: Sql) -> None:
    await ready(store, "order-1")
    await store.register_worker(worker())
    await store.claim_workflow_task("shop", "w1")
    now = await database_now(sql)
    await store.heartbeat_worker("w1", now + 100)

    assert await store.release_stale_dispatch_leases(now + 110, 10.0) == 0
    assert await store.release_stale_dispatch_leases(now + 110.5, 10.0) == 1


async def test_a_worker_that_was_heard_of_before_its_claim_holds_the_lease_from_the_claim_on(
    store: Store, sql: Sql
) -> None:
    await ready(store, "order-1")
    await store.register_worker(worker(last_heartbeat=LONG_AGO))
    await store.claim_workflow_task("shop", "w1")

    assert await store.release_stale_dispatch_leases(await database_now(sql), 30.0) == 0


async def test_all_that_a_dead_worker_held_is_free_since_one_moment(store: Store, sql: Sql) -> None:
    await store.register_worker(worker("dead"))
    for _ in range(20):
        await written.run(sql, worker="dead")

    await store.remove_dead_workers(LATER)

    assert await sql.one("SELECT count(DISTINCT ready_at) FROM record") == 1
