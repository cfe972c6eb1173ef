"""Workflow tasks through the contract: the longest ready first, never twice, and no wake-up is lost."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.exceptions import Invalid, Refused
from holdfast.store import Store
from tests.contract.given import NOON, QUEUE, closed, created, database_now, ready, worker
from tests.contract.journal import entries, facts
from tests.store.rows import Sql, start

LEASED = "SELECT dispatch_worker FROM record WHERE workflow_id = $1"


async def claims(
    store: Store, worker_id: str = "w1", *, queue: str = QUEUE, namespace: str = "main"
) -> list[str]:
    """The ids of all that the worker can get."""
    found = []
    while (claimed := await store.claim_workflow_task(queue, worker_id, namespace=namespace)) is not None:
        found.append(claimed.id)
    return found


# -- claim_workflow -----------------------------------------------------------------------------


async def test_a_run_is_claimed_whole_and_runs(store: Store, sql: Sql) -> None:
    await created(store)

    assert await store.claim_workflow("order-1", "w1") is True

    found = await store.get_workflow("order-1")
    assert found is not None
    assert (found.status, found.claimed_by) == ("RUNNING", "w1")
    assert (await facts(sql))[1:] == [("WorkflowClaimed", "order-1")]


@pytest.mark.parametrize("second", ["w1", "w2"])
async def test_a_claimed_run_is_nobodys_to_claim_not_even_its_holders(
    store: Store, sql: Sql, second: str
) -> None:
    await created(store)
    await store.claim_workflow("order-1", "w1")

    assert await store.claim_workflow("order-1", second) is False
    assert len(await facts(sql)) == 2


async def test_of_ten_racing_claims_of_a_run_one_wins(store: Store, other: Store) -> None:
    await created(store)

    won = await asyncio.gather(*((store, other)[n % 2].claim_workflow("order-1", f"w{n}") for n in range(10)))

    found = await store.get_workflow("order-1")
    assert found is not None
    assert [f"w{n}" for n in range(10) if won[n]] == [found.claimed_by]


async def test_a_closed_or_unknown_run_is_not_claimed(store: Store) -> None:
    await closed(store)

    assert await store.claim_workflow("order-1", "w1") is False
    assert await store.claim_workflow("nobody", "w1") is False
    assert await store.claim_workflow("order-1", "w1", namespace="elsewhere") is False


async def test_a_run_that_the_engine_drives_is_not_handed_out(store: Store, sql: Sql) -> None:
    await start(store.pool, "order-1", queue=QUEUE)

    with pytest.raises(Refused, match="driven by the engine"):
        await store.claim_workflow("order-1", "w1")
    with pytest.raises(Refused, match="make it dispatchable"):
        await store.mark_workflow_dispatchable("order-1")
    assert await store.claim_workflow_task(QUEUE, "w1") is None
    assert await facts(sql) == []


# -- mark_workflow_dispatchable, claim_workflow_task ---------------------------------------------------


async def test_a_claim_gives_the_record_and_a_lease(store: Store, sql: Sql) -> None:
    given = await created(store, input='{"n":  1}', parent_id="root", memo='{"m": 1}')
    await store.mark_workflow_dispatchable("order-1")
    before = await database_now(sql)

    claimed = await store.claim_workflow_task(QUEUE, "w1")

    assert claimed == await store.get_workflow("order-1")
    assert claimed is not None
    assert (claimed.input, claimed.parent_id, claimed.memo) == (given.input, "root", given.memo)
    assert (claimed.status, claimed.claimed_by, claimed.created_at) == ("PENDING", None, NOON)
    ((holder, beat, since),) = await sql("SELECT dispatch_worker, dispatch_heartbeat, ready_at FROM record")
    assert (holder, since) == ("w1", None)
    assert before <= beat <= await database_now(sql)
    told = (await entries(sql))[-1]
    assert (told.fact, told.record, told.key) == ("WorkflowTaskLeased", "workflow", "order-1")
    assert told.fields == {"run_id": claimed.run_id, "worker": "w1"}


async def test_nothing_is_dispatchable_that_was_not_marked(store: Store, sql: Sql) -> None:
    await created(store)

    assert await store.claim_workflow_task(QUEUE, "w1") is None
    assert await facts(sql) == [("WorkflowCreated", "order-1")]


async def test_the_longest_ready_goes_first(store: Store) -> None:
    ids = [f"order-{n}" for n in range(5)]
    for id in ids:
        await created(store, id)
    order = [ids[n] for n in (3, 0, 4, 1, 2)]
    for id in order:
        await store.mark_workflow_dispatchable(id)

    assert await claims(store) == order


async def test_those_ready_at_the_same_moment_go_in_the_order_of_their_ids(store: Store, sql: Sql) -> None:
    await ready(store, *(f"order-{n}" for n in (2, 0, 1)))
    await sql("UPDATE record SET ready_at = now()")

    assert await claims(store) == ["order-0", "order-1", "order-2"]


async def test_marking_again_keeps_the_place_and_is_not_told(store: Store, sql: Sql) -> None:
    await ready(store, "first", "second")

    await store.mark_workflow_dispatchable("first")

    assert len([fact for fact, _ in await facts(sql) if fact == "WorkflowMadeDispatchable"]) == 2
    assert await claims(store) == ["first", "second"]


async def test_what_is_marked_while_it_is_out_is_claimable_after_the_release(store: Store, sql: Sql) -> None:
    await ready(store)
    await store.claim_workflow_task(QUEUE, "w1")

    await store.mark_workflow_dispatchable("order-1")
    assert await store.claim_workflow_task(QUEUE, "w2") is None, "somebody has it"
    await store.release_workflow_task("order-1", "w1")

    assert await claims(store, "w2") == ["order-1"]
    assert await sql(LEASED, "order-1") == ["w2"]


async def test_a_run_that_was_released_waits_to_be_marked(store: Store) -> None:
    await ready(store)
    await store.claim_workflow_task(QUEUE, "w1")

    await store.release_workflow_task("order-1", "w1")

    assert await claims(store) == []
    await store.mark_workflow_dispatchable("order-1")
    assert await claims(store) == ["order-1"]


async def test_a_mark_that_meets_a_claim_about_to_commit_is_not_lost(store: Store, sql: Sql) -> None:
    """The claim clears the readiness that the mark sees: it must look again once the claim is through."""
    await ready(store)
    async with sql.connection.transaction():
        await sql("UPDATE record SET ready_at = NULL, dispatch_worker = 'w1', dispatch_heartbeat = 1")
        marking = asyncio.create_task(store.mark_workflow_dispatchable("order-1"))
        async with Sql.connected(store.pool.url) as watching:
            await watching.until("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
    await marking

    assert await sql.one("SELECT ready_at IS NOT NULL FROM record")


async def test_no_two_workers_get_the_same_run(store: Store, other: Store) -> None:
    ids = [f"order-{n}" for n in range(40)]
    await ready(store, *ids)

    found = await asyncio.gather(*(claims((store, other)[n % 2], f"w{n}") for n in range(6)))

    rest = await claims(store)
    assert sorted(id for part in [*found, rest] for id in part) == sorted(ids)


async def test_a_run_that_somebody_writes_is_skipped_and_blocks_nobody(store: Store, sql: Sql) -> None:
    await ready(store, "first", "second")
    async with sql.connection.transaction():
        await sql("SELECT 1 FROM record WHERE workflow_id = 'first' FOR UPDATE")

        assert await claims(store) == ["second"]

    assert await claims(store) == ["first"]


async def test_a_claim_waits_for_no_run(store: Store, sql: Sql) -> None:
    """An engine that has the run row locked, for as long as it likes, does not hold up the queue."""
    await ready(store)
    async with sql.connection.transaction():
        await sql("SELECT 1 FROM run FOR UPDATE")

        assert await claims(store) == ["order-1"]


async def test_a_closed_run_is_never_handed_out(store: Store, sql: Sql) -> None:
    await ready(store, "order-1", "order-2")
    await store.update_workflow_status("order-1", "COMPLETED", None, None)
    await closed(store, "order-3")
    told = await facts(sql)

    await store.mark_workflow_dispatchable("order-3")
    await store.mark_workflow_dispatchable("nobody")

    assert await facts(sql) == told
    assert await claims(store) == ["order-2"]


async def test_queues_and_namespaces_are_walls(store: Store) -> None:
    await store.create_namespace("billing")
    await ready(store, "order-1")
    await ready(store, "order-1", namespace="billing")
    await ready(store, "order-2", task_queue="back")

    assert await claims(store, queue="none") == []
    assert await claims(store, namespace="billing") == ["order-1"]
    assert await claims(store, queue="back") == ["order-2"]
    assert await claims(store) == ["order-1"]


async def test_a_registered_worker_sees_its_own_namespace_only(store: Store) -> None:
    await store.create_namespace("billing")
    await store.register_worker(worker("w1", namespace="billing"))
    await ready(store, "here")
    await ready(store, "there", namespace="billing")

    assert await claims(store, "w1", namespace="main") == ["there"]
    assert await claims(store, "stranger") == ["here"]


async def test_runs_of_a_deleted_namespace_are_never_handed_out(store: Store) -> None:
    await store.create_namespace("brief")
    await store.register_worker(worker("w1", namespace="brief"))
    await ready(store, namespace="brief")
    await store.delete_namespace("brief")

    assert await claims(store, "w1") == []
    assert await claims(store, "w2", namespace="brief") == []


@pytest.mark.parametrize(
    ("queue", "worker_id"), [("", "w1"), ("q\x00", "w1"), (QUEUE, ""), (QUEUE, "\ud800")]
)
async def test_odd_names_are_refused_at_the_door(store: Store, queue: str, worker_id: str) -> None:
    with pytest.raises(Invalid):
        await store.claim_workflow_task(queue, worker_id)


# -- release_workflow_task, release_stale_dispatch_leases ----------------------------------------------


async def test_only_the_holder_releases(store: Store, sql: Sql) -> None:
    await ready(store)
    await store.claim_workflow_task(QUEUE, "w1")
    told = await facts(sql)

    await store.release_workflow_task("order-1", "w2")
    await store.release_workflow_task("nobody", "w1")
    await store.release_workflow_task("order-1", "w1", namespace="elsewhere")
    assert await sql(LEASED, "order-1") == ["w1"]
    assert await facts(sql) == told

    await store.release_workflow_task("order-1", "w1")
    await store.release_workflow_task("order-1", "w1")
    assert await sql(LEASED, "order-1") == [None]
    assert (await facts(sql))[len(told) :] == [("WorkflowTaskReleased", "order-1")]


@pytest.mark.parametrize(("age", "count"), [(30.0, 0), (30.5, 1)])
async def test_a_lease_is_stale_when_it_is_older_than_the_timeout_strictly(
    store: Store, sql: Sql, age: float, count: int
) -> None:
    await ready(store)
    await store.claim_workflow_task(QUEUE, "w1")
    await sql("UPDATE record SET dispatch_heartbeat = $1", NOON - age)

    assert await store.release_stale_dispatch_leases(NOON, 30.0) == count

    assert await claims(store, "w2") == ["order-1"][:count]


@pytest.mark.parametrize("now", [1_000.0, 9_990_000_000.0])
async def test_now_wins_over_the_clock(store: Store, sql: Sql, now: float) -> None:
    await ready(store)
    await store.claim_workflow_task(QUEUE, "w1")
    await sql("UPDATE record SET dispatch_heartbeat = $1", now - 10.0)

    assert await store.release_stale_dispatch_leases(now, 10.0) == 0
    assert await store.release_stale_dispatch_leases(now, 9.0) == 1
    assert await sql("SELECT extract(epoch FROM ready_at)::float8 FROM record") == [now]


async def test_stale_leases_of_all_namespaces_go_and_fresh_ones_stay(store: Store, sql: Sql) -> None:
    await store.create_namespace("billing")
    await ready(store, "old", "fresh")
    await ready(store, "old", namespace="billing")
    for namespace in ("main", "main", "billing"):
        await store.claim_workflow_task(QUEUE, "w1", namespace=namespace)
    await sql("UPDATE record SET dispatch_heartbeat = $1", NOON)
    await sql("UPDATE record SET dispatch_heartbeat = $1 WHERE workflow_id = 'old'", NOON - 60)
    told = len(await facts(sql))

    assert await store.release_stale_dispatch_leases(NOON, 30.0) == 2
    assert await store.release_stale_dispatch_leases(NOON, 30.0) == 0

    assert (await facts(sql))[told:] == [("WorkflowTaskReleased", "old")] * 2
    assert await sql(LEASED, "fresh") == ["w1"]


async def test_a_run_that_was_marked_keeps_its_place_when_its_lease_goes_stale(
    store: Store, sql: Sql
) -> None:
    await ready(store)
    await store.claim_workflow_task(QUEUE, "w1")
    await store.mark_workflow_dispatchable("order-1")
    (before,) = await sql("SELECT ready_at FROM record")

    await store.release_stale_dispatch_leases(await database_now(sql) + 1e6, 1.0)

    assert await sql("SELECT ready_at FROM record") == [before]


async def test_a_lease_on_a_closed_run_is_nothing_to_release(store: Store, sql: Sql) -> None:
    await ready(store)
    await store.claim_workflow_task(QUEUE, "w1")
    await store.update_workflow_status("order-1", "FAILED", None, None)
    told = await facts(sql)

    assert await store.release_stale_dispatch_leases(await database_now(sql) + 1e6, 1.0) == 0
    assert await claims(store) == []
    assert await facts(sql) == told


async def test_two_pollers_release_a_lease_once(store: Store, other: Store, sql: Sql) -> None:
    ids = [f"order-{n}" for n in range(10)]
    await ready(store, *ids)
    await claims(store)
    later = await database_now(sql) + 1e6

    counts = await asyncio.gather(
        *((store, other)[n % 2].release_stale_dispatch_leases(later, 1.0) for n in range(4))
    )

    assert sum(counts) == len(ids)
    assert len([fact for fact, _ in await facts(sql) if fact == "WorkflowTaskReleased"]) == len(ids)


@pytest.mark.parametrize(("now", "timeout"), [(float("nan"), 1.0), (NOON, -1.0), (NOON, float("inf"))])
async def test_times_that_are_none_are_refused(store: Store, now: float, timeout: float) -> None:
    with pytest.raises(Invalid):
        await store.release_stale_dispatch_leases(now, timeout)
