"""Lists of workflows: newest first, by everything that was asked for, page by page without a gap, children by age."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.exceptions import Invalid
from holdfast.store import Store
from holdfast.store.contract import workflow_views
from holdfast.wire.records import WORKFLOW_STATUSES, WorkflowRecord
from tests.contract.given import NOON, closed, created
from tests.contract.journal import facts
from tests.store.rows import Sql, start


async def listed(store: Store, **fields: Any) -> list[str]:
    """The ids that `list_workflows` gives."""
    given = {"namespace": "main", **fields}
    return [record.id for record in await store.list_workflows(**given)]


# -- order and pages ----------------------------------------------------------------------------------


async def test_the_newest_come_first_and_equally_old_ones_by_id(store: Store) -> None:
    for id, at in (("b", NOON), ("a", NOON), ("new", NOON + 0.000001), ("old", 1000.0), ("c", NOON)):
        await created(store, id, created_at=at)

    assert await listed(store) == ["new", "a", "b", "c", "old"]


async def test_records_are_listed_whole(store: Store) -> None:
    await closed(store, input="1", memo="2", search_attributes='{"a": 1}', archived_at=1.5, archive_uri="u")

    (found,) = await store.list_workflows("main", None, None, None, 10, 0)

    assert found == await store.get_workflow("order-1")


async def test_limit_and_offset_cut_a_page_out(store: Store) -> None:
    for number in range(5):
        await created(store, f"w{number}", created_at=NOON - number)

    assert await listed(store, limit=2, offset=1) == ["w1", "w2"]
    assert await listed(store, limit=1000, offset=4) == ["w4"]
    assert await listed(store, limit=1, offset=5) == []


@pytest.mark.parametrize("fields", [{}, {"search_attrs_filter": '{"a": 1}'}], ids=["all", "filtered"])
async def test_a_cursor_goes_on_where_a_page_ended_whatever_is_created_meanwhile(
    store: Store, fields: dict[str, Any]
) -> None:
    for number in range(7):
        await closed(store, "same" if number < 5 else f"w{number}", search_attributes='{"a": 1}')

    found: list[WorkflowRecord] = []
    while page := await store.list_workflows(
        "main", limit=2, after=found[-1].run_id if found else None, **fields
    ):
        found += page
        await created(
            store, f"newer-{len(found)}", created_at=NOON + len(found), search_attributes='{"a": 1}'
        )

    assert [record.id for record in found] == ["same"] * 5 + ["w5", "w6"]
    assert len({record.run_id for record in found}) == 7


async def test_nothing_comes_after_a_run_that_is_not_there(store: Store) -> None:
    await store.create_namespace("other")
    await created(store, run_id="01900000-0000-7000-8000-000000000001")
    await created(store, namespace="other")

    assert await listed(store, after="01900000-0000-7000-8000-00000000000f") == []
    assert await listed(store, namespace="other", after="01900000-0000-7000-8000-000000000001") == []
    with pytest.raises(Invalid):
        await listed(store, after="nope")


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": 1001},
        {"offset": -1},
        {"offset": 2**63},
        {"status": "DONE"},
        {"status": "running"},
        {"namespace": "\x00"},
        {"workflow_type": "\x00"},
    ],
)
async def test_what_cannot_be_asked_is_refused(store: Store, fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await listed(store, **fields)


# -- filters ------------------------------------------------------------------------------------------


async def test_every_filter_must_hold(store: Store) -> None:
    await store.create_namespace("other")
    given = {"workflow_type": "pay", "status": "RUNNING", "search_attributes": '{"a": 1}'}
    await created(store, "all", **given)
    await created(store, "type", **{**given, "workflow_type": "cook"})
    await created(store, "status", **{**given, "status": "WAITING"})
    await created(store, "attributes", **{**given, "search_attributes": '{"a": 2}'})
    await created(store, "none", **{**given, "search_attributes": None})
    await created(store, "space", **given, namespace="other")

    found = await store.list_workflows("main", "RUNNING", "pay", '{"a": 1}', 10, 0)

    assert [record.id for record in found] == ["all"]
    assert await listed(store, namespace="nobody") == []


@pytest.mark.parametrize("status", WORKFLOW_STATUSES)
async def test_each_status_can_be_asked_for(store: Store, status: str) -> None:
    for number, each in enumerate(WORKFLOW_STATUSES):
        await created(store, f"w{number}", status=each)

    (found,) = await store.list_workflows("main", status, None, None, 10, 0)

    assert found.status == status


HELD = '{"n": 5, "s": "5", "nil": null, "yes": true, "o": {"a": 1, "b": [1, {"c": 2}]}, "e": {}, "l": []}'


@pytest.mark.parametrize(
    "wanted",
    [
        '{"n": 5}',
        '{"n": 5.0}',
        '{"s": "5"}',
        '{"nil": null}',
        '{"yes": true}',
        '{"o": {"a": 1}}',
        '{"o": {}}',
        '{"o": {"b": [{"c": 2}]}}',
        '{"e": {}}',
        '{"l": []}',
        '{"n": 5, "s": "5"}',
        "{}",
        ' {"n": 6, "n": 5} ',
    ],
)
async def test_what_is_contained_is_found(store: Store, wanted: str) -> None:
    await created(store, search_attributes=HELD)
    await created(store, "without")

    assert await listed(store, search_attrs_filter=wanted) == ["order-1"]


@pytest.mark.parametrize(
    "wanted",
    [
        '{"n": "5"}',
        '{"s": 5}',
        '{"nil": 0}',
        '{"nil": false}',
        '{"absent": null}',
        '{"yes": 1}',
        '{"yes": "true"}',
        '{"o": {"a": 2}}',
        '{"o": 1}',
        '{"o": {"b": 1}}',
        '{"l": {}}',
        '{"n": 5, "s": "6"}',
        '{"N": 5}',
    ],
)
async def test_types_and_values_must_be_the_same(store: Store, wanted: str) -> None:
    await created(store, search_attributes=HELD)

    assert await listed(store, search_attrs_filter=wanted) == []


async def test_what_few_have_is_found_beyond_those_that_are_walked_through(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow_views, "WALKED", 3)
    for number in range(12):
        await created(
            store,
            f"w{number:02}",
            created_at=NOON - number,
            status="RUNNING" if number % 2 else "WAITING",
            search_attributes=json.dumps({"rare": number % 5 == 0}),
        )

    assert await listed(store, search_attrs_filter='{"rare": true}') == ["w00", "w05", "w10"]
    assert await listed(store, search_attrs_filter='{"rare": true}', limit=1, offset=1) == ["w05"]
    assert await listed(store, search_attrs_filter='{"rare": true}', status="RUNNING") == ["w05"]


async def test_a_page_is_two_statements_however_many_runs_it_has(store: Store) -> None:
    for number in range(10):
        await created(store, f"w{number}", search_attributes='{"a": 1}')
        await start(store.pool, f"d{number}")
    before = store.pool.counts.statements

    assert len(await listed(store)) == 20
    assert len(await listed(store, search_attrs_filter='{"a": 1}', limit=10)) == 10

    assert store.pool.counts.statements - before == 4


async def test_driven_runs_are_listed_with_their_input(store: Store) -> None:
    run_id = await start(store.pool, "driven")
    await created(store, created_at=1000.0)

    found = await store.list_workflows("main", None, None, None, 10, 0)

    assert [record.id for record in found] == ["driven", "order-1"]
    assert (found[0].run_id, found[0].input, found[0].status) == (run_id, "[]", "PENDING")
    assert found[0] == await store.get_workflow("driven")


# -- list_child_workflows -------------------------------------------------------------------------------


async def test_children_are_listed_oldest_first(store: Store, sql: Sql) -> None:
    await created(store)
    await created(store, "young", parent_id="order-1", created_at=NOON + 2)
    await closed(store, "old", parent_id="order-1", created_at=NOON + 1)
    await created(store, "grandchild", parent_id="old")
    told = await facts(sql)

    found = await store.list_child_workflows("order-1")

    assert [record.id for record in found] == ["old", "young"]
    assert found[0] == await store.get_workflow("old")
    assert await facts(sql) == told


async def test_children_belong_to_a_namespace(store: Store) -> None:
    await store.create_namespace("other")
    await created(store, "child", parent_id="order-1", namespace="other")

    assert await store.list_child_workflows("order-1") == []
    assert [r.id for r in await store.list_child_workflows("order-1", namespace="other")] == ["child"]
    assert await store.list_child_workflows("nobody") == []
    with pytest.raises(Invalid):
        await store.list_child_workflows("")
