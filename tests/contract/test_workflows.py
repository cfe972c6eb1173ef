"""Workflows written through the contract: kept as they were given, moved on by the rules, never by the back door."""

from __future__ import annotations

import asyncio
import json
import uuid

import msgspec
import pytest

from holdfast.exceptions import AlreadyExists, Invalid, NotFound, Refused
from holdfast.store import Store, tasks
from holdfast.wire import commands as c
from holdfast.wire.failures import Failure
from holdfast.wire.records import OPEN_STATUSES, TERMINAL_STATUSES, WorkflowRecord
from tests.contract import written
from tests.contract.given import NOON, QUEUE, closed, created, database_now, ready, workflow
from tests.contract.journal import entries, facts
from tests.store.rows import LEASE_S, Sql, start, turn

EVERYTHING = workflow(
    run_id="01900000-0000-7000-8000-000000000001",
    status="FAILED",
    input='{"b":  1, "a": "ü😀"}',
    result="[ ]",
    error="it broke: ü",
    parent_id="parent",
    claimed_by="w1",
    search_attributes='{"b": 1,  "a": [null, "x"], "a": 2}',
    memo='{"note":1.0}',
    archived_at=1000.000001,
    archive_uri="s3://bucket/x",
    created_at=1000.0,
    updated_at=9_999_999_999.123456,
    completed_at=1_700_000_000.654321,
)


# -- create_workflow, get_workflow ------------------------------------------------------------------


async def test_a_workflow_reads_as_it_was_written_to_the_last_field(store: Store) -> None:
    await store.create_workflow(EVERYTHING)

    assert await store.get_workflow("order-1") == EVERYTHING


async def test_a_workflow_without_a_run_id_gets_one_that_sorts_by_time(store: Store) -> None:
    await created(store)

    found = await store.get_workflow("order-1")

    assert found is not None
    assert found == workflow(run_id=found.run_id)
    assert uuid.UUID(found.run_id or "").version == 7


@pytest.mark.parametrize("at", [-62_135_596_800.0, 0.0, 1000.0, 253_402_300_799.75])
async def test_a_workflow_may_be_of_any_time(store: Store, at: float) -> None:
    record = await closed(store, created_at=at, updated_at=at, completed_at=at, archived_at=at)

    found = await store.get_workflow("order-1")

    assert found is not None
    assert msgspec.structs.replace(found, run_id=None) == record


async def test_a_closed_workflow_without_a_time_of_completion_keeps_none(store: Store) -> None:
    record = await closed(store, completed_at=None)

    found = await store.get_workflow("order-1")

    assert found is not None
    assert msgspec.structs.replace(found, run_id=None) == record


async def test_an_unknown_workflow_is_none(store: Store) -> None:
    await created(store)

    assert await store.get_workflow("order-2") is None
    assert await store.get_workflow("order-1", namespace="other") is None
    assert await store.get_workflow("order-1", run_id=str(uuid.uuid4())) is None


async def test_an_open_id_is_taken_in_its_namespace_only(store: Store, sql: Sql) -> None:
    await store.create_namespace("other")
    await created(store)

    with pytest.raises(AlreadyExists, match="'order-1' is open in namespace 'main'"):
        await created(store)
    await created(store, namespace="other")

    assert [key for fact, key in await facts(sql) if fact == "WorkflowCreated"] == ["order-1", "order-1"]


async def test_an_id_may_be_used_again_once_its_run_is_closed(store: Store) -> None:
    await closed(store, input="1")
    await closed(store, input="2")
    await created(store, input="3")

    newest = await store.get_workflow("order-1")

    assert newest is not None
    assert newest.input == "3"


async def test_a_closed_run_never_hides_an_open_one(store: Store, sql: Sql) -> None:
    await created(store, input="open")

    with pytest.raises(AlreadyExists, match="'order-1' is open"):
        await closed(store, input="closed")

    newest = await store.get_workflow("order-1")
    assert newest is not None
    assert newest.input == "open"
    assert await sql("SELECT closed FROM tally") == []


async def test_the_newest_run_of_an_id_is_the_last_one_written_however_fast(store: Store) -> None:
    for number in range(20):
        await closed(store, input=str(number))
        newest = await store.get_workflow("order-1")
        assert newest is not None
        assert newest.input == str(number)


async def test_an_older_run_is_read_by_its_run_id(store: Store) -> None:
    await closed(store, run_id="01900000-0000-7000-8000-000000000001", input="1")
    await created(store, input="2")

    older = await store.get_workflow("order-1", run_id="01900000-0000-7000-8000-000000000001")

    assert older is not None
    assert older.input == "1"
    assert await store.get_workflow("order-2", run_id="01900000-0000-7000-8000-000000000001") is None


async def test_a_run_id_is_taken_once(store: Store) -> None:
    await closed(store, run_id="01900000-0000-7000-8000-000000000001")

    with pytest.raises(AlreadyExists, match="01900000-0000-7000-8000-000000000001"):
        await created(store, "order-2", run_id="01900000-0000-7000-8000-000000000001")

    assert await store.get_workflow("order-2") is None


async def test_of_ten_racing_creators_one_wins(store: Store, other: Store) -> None:
    outcomes = await asyncio.gather(
        *(created(s, input=str(n)) for n in range(5) for s in (store, other)), return_exceptions=True
    )

    assert [type(one) for one in outcomes].count(AlreadyExists) == 9
    assert [type(one) for one in outcomes].count(WorkflowRecord) == 1


async def test_a_new_run_is_newer_than_one_that_was_made_and_closed_while_it_waited(
    store: Store, sql: Sql
) -> None:
    transaction = sql.connection.transaction()
    await transaction.start()
    await sql(written.RUN, "7fffffff-0000-7000-8000-000000000001", "main", "order-1", QUEUE, False, "PENDING")
    waiting = asyncio.create_task(created(store, input='"new"'))
    await sql.until("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")

    await sql("UPDATE run SET closed_at = now(), status = 'COMPLETED'")
    await transaction.commit()
    await waiting

    newest = await store.get_workflow("order-1")
    assert newest is not None
    assert newest.input == '"new"'
    (entry,) = await entries(sql)
    assert entry.fields["run_id"] == newest.run_id


async def test_a_workflow_needs_a_namespace_that_exists(store: Store) -> None:
    with pytest.raises(NotFound, match="no namespace 'gone'"):
        await created(store, namespace="gone")


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": "a\x00b"},
        {"id": "\ud800"},
        {"id": "x" * 1001},
        {"namespace": "a\x00"},
        {"workflow_type": ""},
        {"task_queue": "\x00"},
        {"parent_id": ""},
        {"claimed_by": "\ud800"},
        {"run_id": "nope"},
        {"status": "DONE"},
        {"status": "completed"},
        {"input": '"\x00"'},
        {"result": "\ud800"},
        {"memo": "\x00"},
        {"error": "\x00"},
        {"archive_uri": "\ud800"},
        {"created_at": float("nan")},
        {"updated_at": float("inf")},
        {"completed_at": 1e12},
        {"archived_at": -1e12},
    ],
)
async def test_what_cannot_be_kept_is_refused_at_the_door(store: Store, fields: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        await store.create_workflow(workflow(**{"id": "order-1", **fields}))  # type: ignore[arg-type]

    assert await store.list_workflows("main") == []


async def test_a_new_workflow_is_told_of_once_without_its_payloads(store: Store, sql: Sql) -> None:
    await created(store, input='"secret"')

    (entry,) = await entries(sql)

    assert (entry.fact, entry.record, entry.key) == ("WorkflowCreated", "workflow", "order-1")
    assert set(entry.fields) == {"run_id", "workflow_type", "task_queue", "status"}


async def test_a_workflow_that_was_written_closed_is_counted(store: Store) -> None:
    await closed(store)
    await created(store)
    await store.update_workflow_status("order-1", "FAILED", None, None)
    await created(store)

    stats = await store.get_namespace_stats("main")

    assert (stats.total_workflows, stats.completed, stats.pending) == (3, 1, 1)


# -- update_workflow_status -------------------------------------------------------------------------


@pytest.mark.parametrize("before", OPEN_STATUSES)
@pytest.mark.parametrize("after", OPEN_STATUSES)
async def test_an_open_workflow_goes_to_any_open_status(store: Store, before: str, after: str) -> None:
    await created(store, status=before, result="1")

    await store.update_workflow_status("order-1", after, None, None)

    found = await store.get_workflow("order-1")
    assert found is not None
    assert (found.status, found.result, found.completed_at) == (after, "1", None)


@pytest.mark.parametrize("status", TERMINAL_STATUSES)
async def test_a_terminal_status_closes_by_the_databases_clock(store: Store, sql: Sql, status: str) -> None:
    await created(store)
    before = await database_now(sql)

    await store.update_workflow_status("order-1", status, '{"n":  1}', "why")

    found = await store.get_workflow("order-1")
    assert found is not None
    assert (found.status, found.result, found.error) == (status, '{"n":  1}', "why")
    assert before <= (found.completed_at or 0) <= await database_now(sql)
    assert found.updated_at == found.completed_at
    await created(store)


async def test_terminal_is_final(store: Store, sql: Sql) -> None:
    await created(store)
    await store.update_workflow_status("order-1", "COMPLETED", "1", None)
    found, told = await store.get_workflow("order-1"), await facts(sql)

    await store.update_workflow_status("order-1", "COMPLETED", "2", "other")
    for status in ("RUNNING", "FAILED", "TERMINATED"):
        with pytest.raises(Refused, match=f"is COMPLETED and cannot become {status}"):
            await store.update_workflow_status("order-1", status, None, None)

    assert await store.get_workflow("order-1") == found
    assert await facts(sql) == told


async def test_without_a_result_or_error_the_known_ones_stay(store: Store) -> None:
    await created(store, result="1", error="e")

    await store.update_workflow_status("order-1", "RUNNING", "2", None)
    await store.update_workflow_status("order-1", "FAILED", None, "f")

    found = await store.get_workflow("order-1")
    assert found is not None
    assert (found.result, found.error) == ("2", "f")


async def test_the_same_open_status_again_changes_nothing(store: Store, sql: Sql) -> None:
    await created(store, status="RUNNING")

    await store.update_workflow_status("order-1", "RUNNING", None, None)

    found = await store.get_workflow("order-1")
    assert found is not None
    assert found.updated_at == NOON
    assert len(await facts(sql)) == 1


async def test_an_unknown_workflow_has_no_status_to_set(store: Store, sql: Sql) -> None:
    await store.update_workflow_status("order-1", "COMPLETED", None, None)

    assert await facts(sql) == []
    with pytest.raises(Invalid, match="expected one of PENDING"):
        await store.update_workflow_status("order-1", "Completed", None, None)
    with pytest.raises(Invalid):
        await store.update_workflow_status("order-1", "COMPLETED", '"\x00"', None)


async def test_closing_ends_the_lease_and_counts_the_run_once(store: Store, sql: Sql) -> None:
    await ready(store)
    assert await store.claim_workflow_task(QUEUE, "w1") is not None
    await store.mark_workflow_dispatchable("order-1")

    await store.update_workflow_status("order-1", "FAILED", None, "x")

    assert await store.claim_workflow_task(QUEUE, "w1") is None
    assert await store.release_stale_dispatch_leases(9e9, 0) == 0
    assert await store.get_queue_stats("main") == []
    assert await sql("SELECT ready_at, dispatch_worker, dispatch_heartbeat FROM record") == [(None,) * 3]
    assert await sql("SELECT namespace, status, closed FROM tally") == [("main", "FAILED", 1)]
    assert (await facts(sql))[-1] == ("WorkflowStatusUpdated", "order-1")


async def test_of_racing_settlements_one_wins(store: Store, other: Store, sql: Sql) -> None:
    await created(store)
    statuses = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT", "TERMINATED")

    outcomes = await asyncio.gather(
        *(
            s.update_workflow_status("order-1", status, None, None)
            for s in (store, other)
            for status in statuses
        ),
        return_exceptions=True,
    )

    assert [type(one) for one in outcomes].count(Refused) == 8
    assert (await facts(sql)).count(("WorkflowStatusUpdated", "order-1")) == 1
    assert await sql.one("SELECT sum(closed) FROM tally") == 1


async def test_an_older_run_is_moved_by_its_run_id(store: Store) -> None:
    await closed(store, run_id="01f00000-0000-7000-8000-000000000002")
    await created(store, run_id="01f00000-0000-7000-8000-000000000001")

    await store.update_workflow_status(
        "order-1", "CANCELLED", None, None, run_id="01f00000-0000-7000-8000-000000000001"
    )

    older = await store.get_workflow("order-1", run_id="01f00000-0000-7000-8000-000000000001")
    newest = await store.get_workflow("order-1")
    assert older is not None
    assert newest is not None
    assert (older.status, newest.status) == ("CANCELLED", "COMPLETED")


# -- the engine's -----------------------------------------------------------------------------------


async def driven(store: Store, *commands: c.AnyCommand) -> str:
    """A run that the engine drives, with these commands carried out."""
    run_id = await start(store.pool, "order-1", queue=QUEUE)
    await tasks.claim_workflows(store.pool, "main", QUEUE, "w1", 1, LEASE_S)
    if commands:
        await turn(store.pool, run_id, *commands)
    return run_id


async def test_a_driven_run_is_shown_with_what_its_history_tells(store: Store, sql: Sql) -> None:
    run_id = await driven(store, c.CompleteWorkflow(result=b'{"n":  1}'))

    found = await store.get_workflow("order-1")

    assert found is not None
    assert (found.id, found.run_id, found.workflow_type) == ("order-1", run_id, "order")
    assert (found.task_queue, found.status) == (QUEUE, "COMPLETED")
    assert (found.input, found.result, found.error) == ("[]", '{"n":  1}', None)
    assert found.created_at <= (found.completed_at or 0) == found.updated_at <= await database_now(sql)


async def test_a_driven_run_that_failed_tells_why(store: Store) -> None:
    await driven(store, c.FailWorkflow(failure=Failure(message="no stock")))

    found = await store.get_workflow("order-1")

    assert found is not None
    assert (found.status, found.result, found.error) == ("FAILED", None, "no stock")


async def test_a_driven_run_is_pending_until_it_is_leased(store: Store) -> None:
    await start(store.pool, "order-1", queue=QUEUE)
    before = await store.get_workflow("order-1")
    await tasks.claim_workflows(store.pool, "main", QUEUE, "w1", 1, LEASE_S)
    after = await store.get_workflow("order-1")

    assert before is not None
    assert after is not None
    assert (before.status, after.status) == ("PENDING", "RUNNING")
    assert await store.list_workflows("main", "PENDING") == []
    assert await store.list_workflows("main", "RUNNING") == [after]


async def test_a_driven_run_is_moved_by_the_engine_only(store: Store, sql: Sql) -> None:
    await driven(store)

    with pytest.raises(Refused, match="driven by the engine"):
        await store.update_workflow_status("order-1", "COMPLETED", None, None)
    with pytest.raises(AlreadyExists):
        await created(store)

    assert await facts(sql) == []


async def test_a_driven_run_takes_search_attributes(store: Store) -> None:
    await driven(store)
    shown = await store.get_workflow("order-1")

    await store.upsert_search_attributes("order-1", '{"city":  "Ulm"}')
    await store.upsert_search_attributes("order-1", '{"n": 1}')

    found = await store.get_workflow("order-1")
    assert found is not None
    assert shown is not None
    assert json.loads(found.search_attributes or "") == {"city": "Ulm", "n": 1}
    assert found == msgspec.structs.replace(
        shown, search_attributes=found.search_attributes, updated_at=found.updated_at
    )
    assert await store.list_workflows("main", search_attrs_filter='{"city": "Ulm"}') == [found]
