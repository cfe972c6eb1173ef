"""Snapshots: the newest is read, one per event number, only three stay."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.exceptions import Invalid, NotFound
from holdfast.store import Store
from holdfast.wire.records import WorkflowSnapshot
from tests.contract.given import closed, created, database_now
from tests.contract.journal import entries, facts
from tests.store.rows import Sql, start


async def test_the_snapshot_with_the_highest_number_is_the_latest(store: Store, sql: Sql) -> None:
    await created(store)
    before = await database_now(sql)
    await store.create_snapshot("order-1", 5, '{"n":  5}')
    await store.create_snapshot("order-1", 3, "3")

    found = await store.get_latest_snapshot("order-1")

    assert found is not None
    assert before <= found.created_at <= await database_now(sql)
    assert found == WorkflowSnapshot(
        workflow_id="order-1", event_seq=5, state_json='{"n":  5}', created_at=found.created_at
    )


async def test_a_snapshot_of_the_same_event_replaces_the_one_before(store: Store, sql: Sql) -> None:
    await created(store)
    await store.create_snapshot("order-1", 5, "1")
    first = await store.get_latest_snapshot("order-1")
    await store.create_snapshot("order-1", 5, "2")

    found = await store.get_latest_snapshot("order-1")

    assert found is not None
    assert first is not None
    assert (found.state_json, found.created_at >= first.created_at) == ("2", True)
    assert await sql.one("SELECT count(*) FROM snapshot") == 1


async def test_the_newest_three_of_each_run_stay(store: Store, sql: Sql) -> None:
    await created(store)
    await created(store, "order-2")
    for seq in (1, 2, 3, 4, 5, 0):
        await store.create_snapshot("order-1", seq, str(seq))
    await store.create_snapshot("order-2", 1, "1")

    assert await sql("SELECT event_seq, state_json FROM snapshot ORDER BY created_at") == [
        (3, "3"),
        (4, "4"),
        (5, "5"),
        (1, "1"),
    ]


async def test_a_workflow_without_snapshots_has_none(store: Store) -> None:
    await created(store)

    assert await store.get_latest_snapshot("order-1") is None
    assert await store.get_latest_snapshot("order-2") is None
    with pytest.raises(NotFound):
        await store.create_snapshot("order-2", 1, "1")


async def test_closed_older_and_driven_runs_take_snapshots(store: Store) -> None:
    await closed(store, run_id="01900000-0000-7000-8000-000000000001")
    await start(store.pool, "order-1")

    await store.create_snapshot("order-1", 1, "1", run_id="01900000-0000-7000-8000-000000000001")
    assert await store.get_latest_snapshot("order-1") is None
    await store.create_snapshot("order-1", 2, "2")

    found = await store.get_latest_snapshot("order-1")
    assert found is not None
    assert found.state_json == "2"


@pytest.mark.parametrize(("seq", "state"), [(-1, "1"), (2**31, "1"), (1, "\x00"), (1, "\ud800")])
async def test_a_snapshot_that_cannot_be_kept_is_refused(store: Store, seq: int, state: str) -> None:
    await created(store)

    with pytest.raises(Invalid):
        await store.create_snapshot("order-1", seq, state)


async def test_racing_snapshots_leave_the_newest_three(store: Store, other: Store, sql: Sql) -> None:
    await created(store)

    await asyncio.gather(
        *(s.create_snapshot("order-1", seq, "1") for seq in range(10) for s in (store, other))
    )

    assert await sql("SELECT event_seq FROM snapshot ORDER BY event_seq") == [7, 8, 9]
    assert len(await facts(sql)) == 21


async def test_a_snapshot_is_told_of_without_the_state(store: Store, sql: Sql) -> None:
    await created(store)
    await store.create_snapshot("order-1", 5, '"secret"')

    entry = (await entries(sql))[-1]

    assert (entry.fact, entry.record, entry.key) == ("SnapshotCreated", "snapshot", "order-1")
    assert set(entry.fields) == {"run_id", "event_seq"}
