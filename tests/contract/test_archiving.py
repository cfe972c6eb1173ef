"""Archiving: which runs may go and in which order, that all they own goes at once, and that it can come back."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from holdfast.exceptions import Invalid, NotFound, Refused
from holdfast.store import Store
from holdfast.store.contract import archiving
from holdfast.wire import bundle
from holdfast.wire import commands as c
from holdfast.wire.records import OPEN_STATUSES, TERMINAL_STATUSES, WorkflowEvent
from tests.contract.given import NOON, activity, closed, created, signal, timer
from tests.contract.journal import entries, facts
from tests.contract.test_workflows import driven
from tests.store.rows import Sql, schedule, turn

URI = "s3://bucket/order-1"
OWNED = ("record_event", "record_activity", "record_timer", "record_signal", "snapshot")
ENGINES = ("event", "activity", "timer")
ALL_KINDS = (schedule(1), c.StartTimer(seq=2, delay_s=60.0), c.CompleteWorkflow(result=b'{"n":  1}'))


async def archivable(store: Store, cutoff: float = NOON + 100, limit: int = 100, **fields: Any) -> list[str]:
    """The ids that may be archived."""
    return [record.id for record in await store.list_archivable_workflows(cutoff, limit, **fields)]


async def furnished(store: Store) -> None:
    """A completed order-1 that owns something of every kind."""
    await closed(store, input="1", result="2", error="3", search_attributes='{"a": 1}', memo="4")
    for seq in (1, 2):
        await store.append_event(
            WorkflowEvent(workflow_id="order-1", seq=seq, event_type="X", payload=f'"{seq}"', timestamp=NOON)
        )
        await store.create_snapshot("order-1", seq, f"{seq}")
        await store.create_timer(timer(seq=seq))
        await store.send_signal(signal(payload="1.0", request_id=f"r{seq}", consumed=seq == 1))
    await store.cancel_pending_timers("order-1")
    await store.create_timer(timer(seq=3, fired=True))
    await store.create_timer(timer(seq=4, fire_at=9e9))
    await store.create_activity(
        activity(input="1", error="ü\\", heartbeat_details='"h"', max_interval_secs=0.1)
    )
    await store.create_activity(activity(seq=2, status="FAILED", started_at=1000.000001, attempt=3))


async def rows(sql: Sql, tables: tuple[str, ...]) -> dict[str, list[Any]]:
    """Every row of these tables, as it is."""
    return {table: await sql(f"SELECT t::text FROM {table} AS t ORDER BY 1") for table in tables}


# -- list_archivable_workflows --------------------------------------------------------------------------


async def test_closed_runs_are_archivable_oldest_first_and_strictly_before_the_cutoff(store: Store) -> None:
    for id, at in (
        ("b", NOON - 1),
        ("at", NOON),
        ("a", NOON - 2),
        ("just", NOON - 0.000001),
        ("after", NOON + 1),
    ):
        await closed(store, id, completed_at=at)
    await created(store, "open")

    found = await store.list_archivable_workflows(NOON, 10)

    assert [record.id for record in found] == ["a", "b", "just"]
    assert found[0] == await store.get_workflow("a")
    assert await archivable(store, NOON, limit=2) == ["a", "b"]


@pytest.mark.parametrize("status", [*OPEN_STATUSES, *TERMINAL_STATUSES])
async def test_every_closed_run_is_archivable_and_no_open_one(store: Store, status: str) -> None:
    await created(store, status=status)

    assert await archivable(store) == (["order-1"] if status in TERMINAL_STATUSES else [])


async def test_what_was_archived_is_not_archivable_again(store: Store) -> None:
    await closed(store)
    await closed(store, "order-2", archived_at=NOON, archive_uri=URI)
    await store.mark_archived_and_purge("order-1", URI, NOON)

    assert await archivable(store) == []


async def test_all_namespaces_are_archived_or_the_one_that_is_asked_for(store: Store) -> None:
    await store.create_namespace("other")
    await closed(store)
    await closed(store, namespace="other", completed_at=NOON + 1)

    found = await store.list_archivable_workflows(NOON + 100, 10)

    assert [record.namespace for record in found] == ["main", "other"]
    assert await archivable(store, namespace="other") == ["order-1"]
    assert await archivable(store, namespace="none") == []


@pytest.mark.parametrize(
    ("cutoff", "limit"), [(NOON, 0), (NOON, -1), (NOON, 1001), (float("nan"), 1), (1e300, 1)]
)
async def test_what_cannot_be_asked_is_refused(store: Store, cutoff: float, limit: int) -> None:
    with pytest.raises(Invalid):
        await store.list_archivable_workflows(cutoff, limit)


@pytest.mark.parametrize("shift", [-5, 0, 5])
async def test_a_child_comes_behind_its_parent_and_its_parents_parent(store: Store, shift: int) -> None:
    """Whichever of them completed first."""
    await closed(store, "grandchild", parent_id="child", completed_at=NOON + shift - 1)
    await closed(store, "child", parent_id="root", completed_at=NOON + shift)
    await closed(store, "root", completed_at=NOON)
    await closed(store, "between", completed_at=NOON - 1)
    await closed(store, "late", completed_at=NOON + 50)

    found = await archivable(store)

    kin = [id for id in found if id not in ("between", "late")]
    assert kin == ["root", "child", "grandchild"]
    assert (found.index("between") < found.index("root"), found[-1]) == (True, "late")
    assert await archivable(store, limit=2) == found[:2]


async def test_a_child_waits_while_its_root_is_open_or_too_young(store: Store) -> None:
    await created(store, "root")
    await closed(store, "child", parent_id="root")
    await closed(store, "grandchild", parent_id="child")
    await closed(store, "young")
    await closed(store, "youngs-child", parent_id="young", completed_at=NOON - 5)

    assert await archivable(store, NOON) == []
    assert await archivable(store) == ["young", "youngs-child"]


async def test_an_archived_or_unknown_parent_holds_nothing_up(store: Store) -> None:
    await closed(store, "root")
    await closed(store, "child", parent_id="root")
    await closed(store, "orphan", parent_id="nobody")
    await store.mark_archived_and_purge("root", URI, NOON)

    assert sorted(await archivable(store)) == ["child", "orphan"]


async def test_a_child_waits_for_the_run_that_made_it_not_for_later_ones(store: Store) -> None:
    await closed(store, "root", created_at=NOON)
    await closed(store, "child", parent_id="root", created_at=NOON + 1)
    await created(store, "root", created_at=NOON + 2)
    await closed(store, "late-child", parent_id="root", created_at=NOON + 3)

    assert await archivable(store) == ["root", "child"]


async def test_parents_in_a_circle_are_archivable_all_the_same(store: Store) -> None:
    await closed(store, "self", parent_id="self", completed_at=NOON)
    await closed(store, "a", parent_id="b", completed_at=NOON + 1)
    await closed(store, "b", parent_id="a", completed_at=NOON + 2)
    # Without ids of their own it would be chance which of the two is the smaller one.
    await closed(
        store, "c", parent_id="d", completed_at=NOON + 3, run_id="00000000-0000-7000-8000-000000000001"
    )
    await closed(
        store, "d", parent_id="c", completed_at=NOON + 3, run_id="00000000-0000-7000-8000-000000000002"
    )

    assert await archivable(store) == ["self", "b", "a", "c", "d"]


async def test_driven_runs_are_archivable_once_they_are_closed(store: Store) -> None:
    run_id = await driven(store)
    assert await archivable(store, 9e9) == []

    await turn(store.pool, run_id, c.CompleteWorkflow(result=b"1"))

    (found,) = await store.list_archivable_workflows(9e9, 10)
    assert found == await store.get_workflow("order-1")


# -- mark_archived_and_purge ------------------------------------------------------------------------------


async def test_all_that_a_run_owns_goes_and_its_record_stays(store: Store, sql: Sql) -> None:
    await furnished(store)
    await created(store, "order-2")
    await store.create_timer(timer("order-2"))
    before = await store.get_workflow("order-1")

    await store.mark_archived_and_purge("order-1", URI, 1000.000001)

    assert before is not None
    assert await store.get_workflow("order-1") == msgspec.structs.replace(
        before, archived_at=1000.000001, archive_uri=URI
    )
    assert await store.list_events("order-1") == []
    assert await store.get_event_count("order-1") == 0
    assert await store.get_latest_snapshot("order-1") is None
    assert {name: len(found) for name, found in (await rows(sql, OWNED)).items() if found} == {
        "record_timer": 1
    }
    entry = (await entries(sql))[-1]
    assert (entry.fact, entry.record, entry.key) == ("WorkflowArchived", "workflow", "order-1")
    assert entry.fields["archive_uri"] == URI


async def test_an_archived_stub_is_still_listed(store: Store) -> None:
    await closed(store, search_attributes='{"a": 1}')
    await store.mark_archived_and_purge("order-1", URI, NOON)

    (found,) = await store.list_workflows("main", "COMPLETED", None, '{"a": 1}', 10, 0)

    assert (found.archived_at, found.archive_uri) == (NOON, URI)


@pytest.mark.parametrize("status", OPEN_STATUSES)
async def test_an_open_run_is_not_purged(store: Store, sql: Sql, status: str) -> None:
    await created(store, status=status)
    await store.create_timer(timer())

    with pytest.raises(Refused, match=f"is {status}: only a closed run"):
        await store.mark_archived_and_purge("order-1", URI, NOON)

    assert await sql.one("SELECT count(*) FROM record_timer") == 1
    assert await archivable(store) == []


async def test_archiving_again_and_archiving_nobody_changes_nothing(store: Store, sql: Sql) -> None:
    await closed(store)
    await store.mark_archived_and_purge("order-1", URI, NOON)
    found, told = await store.get_workflow("order-1"), await facts(sql)

    await store.mark_archived_and_purge("order-1", "s3://elsewhere", NOON + 1)
    await store.mark_archived_and_purge("order-2", URI, NOON)

    assert await store.get_workflow("order-1") == found
    assert await facts(sql) == told


async def test_of_racing_archivers_the_first_pointer_stays(store: Store, other: Store, sql: Sql) -> None:
    await furnished(store)

    await asyncio.gather(
        *(s.mark_archived_and_purge("order-1", f"u{n}", NOON) for n in range(4) for s in (store, other))
    )

    assert (await facts(sql)).count(("WorkflowArchived", "order-1")) == 1


@pytest.mark.parametrize(("uri", "at"), [("\x00", NOON), ("\ud800", NOON), (URI, float("nan")), (URI, 1e300)])
async def test_a_pointer_that_cannot_be_kept_is_refused(store: Store, uri: str, at: float) -> None:
    await closed(store)

    with pytest.raises(Invalid):
        await store.mark_archived_and_purge("order-1", uri, at)


async def test_a_driven_run_reads_the_same_without_its_history(store: Store, sql: Sql) -> None:
    await driven(store, *ALL_KINDS)
    before = await store.get_workflow("order-1")

    await store.mark_archived_and_purge("order-1", URI, NOON)

    assert before is not None
    assert before.result == '{"n":  1}'
    after = await store.get_workflow("order-1")
    assert after == msgspec.structs.replace(before, archived_at=NOON, archive_uri=URI)
    assert await store.list_events("order-1") == []
    assert await store.get_event_count("order-1") == 0
    assert all(not found for found in (await rows(sql, ENGINES)).values())
    assert await archivable(store, 9e9) == []


# -- read_for_archive, restore ------------------------------------------------------------------------------


async def test_what_was_purged_comes_back_as_it_was(store: Store, sql: Sql) -> None:
    await furnished(store)
    tables = ("run", "record", *OWNED)
    before = await rows(sql, tables)

    read = await archiving.read_for_archive(store, "main", "order-1", None)
    packed, _ = bundle.pack(read)
    await store.mark_archived_and_purge("order-1", URI, NOON, as_read=read)
    assert await archiving.restore(store, bundle.unpack(packed))

    assert await rows(sql, tables) == before
    assert await archiving.read_for_archive(store, "main", "order-1", None) == read
    assert (await facts(sql))[-1] == ("WorkflowRestored", "order-1")


async def test_a_driven_run_comes_back_byte_for_byte(store: Store, sql: Sql) -> None:
    run_id = await driven(store, *ALL_KINDS)
    before, shown = await rows(sql, ("run", *ENGINES)), await store.get_workflow("order-1")

    read = await archiving.read_for_archive(store, "main", "order-1", run_id)
    packed, _ = bundle.pack(read)
    await store.mark_archived_and_purge("order-1", URI, NOON, run_id=run_id, as_read=read)
    assert await archiving.restore(store, bundle.unpack(packed))

    assert all(found for found in before.values())
    assert await rows(sql, ("run", *ENGINES)) == before
    assert await store.get_workflow("order-1") == shown
    assert [event.seq for event in read.history] == list(range(1, len(read.history) + 1))


async def test_a_restored_run_is_archivable_again(store: Store) -> None:
    await furnished(store)
    read = await archiving.read_for_archive(store, "main", "order-1", None)
    await store.mark_archived_and_purge("order-1", URI, NOON)

    await archiving.restore(store, read)

    assert await archivable(store) == ["order-1"]
    assert await store.get_event_count("order-1") == 2
    await store.mark_archived_and_purge("order-1", URI, NOON, as_read=read)


async def test_nothing_is_purged_that_was_not_archived(store: Store, sql: Sql) -> None:
    """A closed run takes rows: one more came between reading and purging."""
    await furnished(store)
    read = await archiving.read_for_archive(store, "main", "order-1", None)
    await store.send_signal(signal())
    before = await rows(sql, OWNED)

    with pytest.raises(Refused, match="has changed since it was read"):
        await store.mark_archived_and_purge("order-1", URI, NOON, as_read=read)

    assert await rows(sql, OWNED) == before


async def test_a_run_that_is_there_is_not_restored(store: Store, sql: Sql) -> None:
    await furnished(store)
    read = await archiving.read_for_archive(store, "main", "order-1", None)
    told = await facts(sql)

    assert not await archiving.restore(store, read)

    assert await facts(sql) == told


async def test_a_run_that_got_rows_since_it_was_archived_is_not_restored(store: Store) -> None:
    await furnished(store)
    read = await archiving.read_for_archive(store, "main", "order-1", None)
    await store.mark_archived_and_purge("order-1", URI, NOON)
    await store.send_signal(signal())

    with pytest.raises(Refused, match="got rows since"):
        await archiving.restore(store, read)


async def test_open_archived_and_unknown_runs_are_not_read_for_the_archive(store: Store) -> None:
    await created(store)
    await closed(store, "order-2")
    await store.mark_archived_and_purge("order-2", URI, NOON)

    with pytest.raises(Refused, match="only a closed run"):
        await archiving.read_for_archive(store, "main", "order-1", None)
    with pytest.raises(Refused, match="was archived already"):
        await archiving.read_for_archive(store, "main", "order-2", None)
    with pytest.raises(NotFound):
        await archiving.read_for_archive(store, "main", "order-3", None)
