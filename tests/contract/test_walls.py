"""Workflows of one id in two namespaces have nothing to do with each other, whatever is called."""

from __future__ import annotations

import pytest

from holdfast.store import Store
from tests.contract.given import NOON, activity, created, signal, timer
from tests.contract.racing import left, place
from tests.contract.test_races import CALLS, fixtures_of
from tests.store.rows import Sql


@pytest.mark.parametrize("name", CALLS)
async def test_what_changes_one_leaves_its_namesake_as_it_is(store: Store, sql: Sql, name: str) -> None:
    namesake, meant = [await place(sql, fixtures_of(name, name)[-1]) for _ in range(2)]
    before, untouched = await left(sql, namesake), await left(sql, meant)

    await CALLS[name](store, meant)

    assert await left(sql, namesake) == before
    assert await left(sql, meant) != untouched, "the call was to change something"


async def test_what_reads_one_tells_nothing_of_its_namesake(store: Store) -> None:
    await store.create_namespace("billing")
    await created(store, "order-1")
    await created(store, "child", parent_id="order-1")
    await created(store, "order-1", namespace="billing")
    await store.create_activity(activity())
    await store.create_timer(timer())
    await store.send_signal(signal())
    await store.create_snapshot("order-1", 1, "1")

    assert await store.list_child_workflows("order-1", namespace="billing") == []
    assert await store.get_activity_by_workflow_seq("order-1", 1, namespace="billing") is None
    assert await store.get_timer_by_workflow_seq("order-1", 1, namespace="billing") is None
    assert await store.consume_signals("order-1", "paid", namespace="billing") == []
    assert await store.get_latest_snapshot("order-1", namespace="billing") is None
    assert await store.list_events("order-1", namespace="billing") == []
    assert await store.fire_due_timers(NOON, namespace="billing") == []
    assert await store.claim_activity("shop", "w1", namespace="billing") is None
    assert [run.id for run in await store.list_workflows("billing")] == ["order-1"]


@pytest.mark.parametrize("run_id", ["01900000-0000-7000-8000-0000000000aa"])
async def test_a_run_id_of_another_namespace_names_nothing(store: Store, run_id: str) -> None:
    await store.create_namespace("billing")
    await created(store, "order-1", namespace="billing", run_id=run_id)
    await created(store, "order-1")

    assert await store.get_workflow("order-1", run_id=run_id) is None
    await store.update_workflow_status("order-1", "FAILED", run_id=run_id)
    found = await store.get_workflow("order-1", namespace="billing")
    assert found is not None
    assert found.status == "PENDING"
