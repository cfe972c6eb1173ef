"""What no row can hold is refused as `Invalid`, wherever it is given: no other error comes out, and nothing is changed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from holdfast.exceptions import Invalid
from holdfast.store import Store
from holdfast.wire.records import WorkflowEvent, WorkflowSchedule
from tests.contract.given import NOON, activity, created, signal, timer, worker, workflow
from tests.contract.journal import facts
from tests.store.rows import Sql

EVENT = WorkflowEvent(workflow_id="order-1", seq=1, event_type="Went", timestamp=NOON)
NIGHTLY = WorkflowSchedule(name="s", workflow_type="order", cron_expr="0 3 * * *", created_at=NOON)
NO_NUMBER = (float("nan"), float("inf"), float("-inf"), 10**400, -(10**400), "1")
NO_TIME = (None, *NO_NUMBER, 253_402_300_800.0)
NO_TEXT = (None, 5, "\x00", "\ud800", "x" * 1001)
NO_COUNT = (None, -1, 2**31, 2**64, 10**400, 1.5)

# Of each method: what is given to it, and what some of that, or of the fields of its record, cannot be.
METHODS: dict[str, tuple[dict[str, Any], dict[str, tuple[Any, ...]]]] = {
    "create_workflow": (
        {"workflow": workflow("new")},
        {
            "id": NO_TEXT,
            "created_at": NO_TIME,
            "updated_at": NO_TIME,
            "completed_at": NO_NUMBER,
            "input": (5,),
        },
    ),
    "append_event": (
        {"event": EVENT},
        {"workflow_id": NO_TEXT, "seq": (*NO_COUNT, 0), "event_type": NO_TEXT, "timestamp": NO_TIME},
    ),
    "create_activity": (
        {"activity": activity()},
        {
            "name": NO_TEXT,
            "seq": NO_COUNT,
            "scheduled_at": NO_TIME,
            "started_at": NO_NUMBER,
            "start_to_close_secs": (None, *NO_NUMBER, -1.0),
            "max_interval_secs": (*NO_NUMBER, -1.0),
            "max_attempts": NO_COUNT,
        },
    ),
    "create_timer": ({"timer": timer()}, {"seq": NO_COUNT, "fire_at": NO_TIME}),
    "send_signal": (
        {"signal": signal()},
        {"name": NO_TEXT, "received_at": NO_TIME, "consumed": (None,), "request_id": NO_TEXT[1:]},
    ),
    "create_schedule": (
        {"schedule": NIGHTLY},
        {
            "name": NO_TEXT,
            "created_at": NO_TIME,
            "next_run_at": NO_NUMBER,
            "catchup_window_secs": (None, *NO_NUMBER, -1.0),
            "jitter_secs": (None, *NO_NUMBER, -1.0),
            "cron_expr": (None, 5, "", "\x00"),
            "timezone": (None, 5, "", "Moon/Crater"),
            "paused": (None,),
        },
    ),
    "register_worker": (
        {"worker": worker()},
        {
            "id": NO_TEXT,
            "identity": (None, "\x00"),
            "last_heartbeat": NO_TIME,
            "registered_at": NO_TIME,
            "max_concurrent_workflows": NO_COUNT,
            "active_tasks": NO_COUNT,
        },
    ),
    "list_workflows": (
        {"namespace": "main", "status": None, "workflow_type": None, "search_attrs_filter": "{}"},
        {
            "namespace": NO_TEXT,
            "status": ("", "running", 5),
            "workflow_type": (5, "\x00"),
            "search_attrs_filter": (
                5,
                "[1]",
                "5",
                "null",
                "",
                "{",
                '{"n": NaN}',
                '{"a": 1e999}',
                '{"a": 1} '[:-2],
            ),
            "limit": (None, 0, -1, 1001, 1.5, 2**64),
            "offset": (None, -1, 1.5, 2**64),
        },
    ),
    "upsert_search_attributes": (
        {"workflow_id": "order-1", "patch_json": "{}"},
        {
            "patch_json": (
                *(
                    None,
                    5,
                    "",
                    "[]",
                    "null",
                    '"a"',
                    "{'a': 1}",
                    '{"a": NaN}',
                    '{"a": "\\u0000"}',
                    '{"\\ud800": 1}',
                ),
                *('{"a": 1e400}', '{"a":' * 2000 + "1" + "}" * 2000),
            )
        },
    ),
    "list_archivable_workflows": ({"cutoff": NOON, "limit": 1}, {"cutoff": NO_TIME, "limit": (0, -1, 1001)}),
    "mark_archived_and_purge": (
        {"workflow_id": "order-1", "archive_uri": "s3://x", "archived_at": NOON},
        {"archive_uri": (None, 5, "\x00"), "archived_at": NO_TIME},
    ),
    "release_stale_dispatch_leases": (
        {"now": NOON, "timeout_secs": 1.0},
        {"now": NO_TIME, "timeout_secs": (None, *NO_NUMBER, -1.0)},
    ),
    "requeue_activity_for_retry": (
        {"id": 1, "next_attempt": 2, "next_scheduled_at": NOON},
        {"next_attempt": NO_COUNT, "next_scheduled_at": NO_TIME},
    ),
    "create_snapshot": (
        {"workflow_id": "order-1", "event_seq": 1, "state_json": "1"},
        {"event_seq": NO_COUNT, "state_json": (None, 5, "\x00", "\ud800")},
    ),
    "update_schedule_last_run": (
        {"namespace": "main", "name": "s", "last_run_at": NOON, "next_run_at": NOON, "workflow_id": "w"},
        {"last_run_at": NO_TIME, "next_run_at": NO_NUMBER, "workflow_id": NO_TEXT},
    ),
    "create_api_key": (
        {"key_hash": "h", "prefix": "p", "label": None, "created_at": NOON},
        {"key_hash": NO_TEXT, "prefix": NO_TEXT, "label": (5, "\x00"), "created_at": NO_TIME},
    ),
    "get_timed_out_activities": ({"now": NOON}, {"now": NO_TIME}),
    "fire_due_timers": ({"now": NOON}, {"now": NO_TIME, "limit": (None, 0, -1, 1.5)}),
    "heartbeat_worker": ({"id": "w1", "now": NOON}, {"now": NO_TIME}),
    "remove_dead_workers": ({"cutoff": NOON}, {"cutoff": NO_TIME}),
    "claim_workflow_task": (
        {"task_queue": "shop", "worker_id": "w1"},
        {"task_queue": NO_TEXT, "worker_id": NO_TEXT},
    ),
    "claim_activity": (
        {"task_queue": "shop", "worker_id": "w1"},
        {"task_queue": NO_TEXT, "worker_id": NO_TEXT},
    ),
    "create_namespace": ({"name": "a"}, {"name": (None, 5, "", "a b", "ä", "n" * 65, "a\n", "\x00")}),
}


def with_field(arguments: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """The same with one argument, or one field of the record among them, replaced."""
    for name, record in arguments.items():
        if isinstance(record, msgspec.Struct):
            return {name: msgspec.structs.replace(record, **{field: value})}
    return {**arguments, field: value}


@pytest.mark.parametrize("method", METHODS)
async def test_what_cannot_be_is_refused_and_changes_nothing(store: Store, sql: Sql, method: str) -> None:
    await created(store)
    arguments, faults = METHODS[method]
    before = await facts(sql)

    for field, values in faults.items():
        for value in values:
            with pytest.raises(Invalid) as caught:
                await getattr(store, method)(**with_field(arguments, field, value))
            assert type(caught.value) is Invalid, f"{field}: {str(value)[:40]}" if value != 10**400 else field

    assert await facts(sql) == before


@pytest.mark.parametrize("nobody", [None, "", "\x00", "\ud800", "nobody", "x" * 5000])
async def test_what_could_never_be_written_is_simply_not_there(store: Store, nobody: Any) -> None:
    assert await store.heartbeat_worker(nobody, NOON) is False
    assert await store.validate_api_key(nobody) is False
    assert await store.revoke_api_key(nobody) is False
    assert await store.delete_namespace(nobody) is False
    assert await store.get_schedule("main", nobody) is None
    assert await store.delete_schedule("main", nobody) is False


@pytest.mark.parametrize("number", [0, -1, 10**9, 2**63, 2**64, 10**400])
async def test_a_number_that_no_activity_has_names_none(store: Store, number: int) -> None:
    assert await store.get_activity(number) is None
    assert await store.get_activity_by_workflow_seq("order-1", number) is None
    assert await store.get_timer_by_workflow_seq("order-1", number) is None
    assert await store.heartbeat_activity(number, None) is True
    await store.complete_activity(number, None, None, False)
    await store.requeue_activity_for_retry(number, 2, NOON)


async def test_the_longest_and_oddest_texts_come_back_as_they_were(store: Store) -> None:
    for id in ("x" * 1000, "ü😀\u202e\n\t'\"\\%_$1", " ", "ä" * 1000, "NULL"):
        given = await created(store, id, input=' {"n":  1.0}', error="\U0010ffff", parent_id=id)
        found = await store.get_workflow(id)
        assert found is not None
        assert (found.id, found.input, found.error) == (id, given.input, given.error)
        assert [child.id for child in await store.list_child_workflows(id)] == [id]


@pytest.mark.parametrize(
    ("attributes", "asked", "is_found"),
    [
        ('{"n": 1}', '{"n": 1.0}', True),
        ('{"n": 1}', '{"n": true}', False),
        ('{"n": 1}', '{"n": "1"}', False),
        ('{"n": 0}', '{"n": false}', False),
        ('{"n": null}', '{"n": null}', True),
        ("{}", '{"n": null}', False),
        ('{"n": 0}', '{"n": null}', False),
        ('{"o": {"a": 1, "b": 2}}', '{"o": {"b": 2}}', True),
        ('{"o": {"a": 1}}', '{"o": {}}', True),
        ('{"o": 1}', '{"o": {}}', False),
        ('{"l": ["x", "y"]}', '{"l": ["y"]}', True),
        ('{"l": ["x"]}', '{"l": "x"}', False),
        ('{"a": 1, "a": 2}', '{"a": 2}', True),
        ('{"n": 1}', "{}", True),
        ('{"ü😀": "\\u00fc"}', '{"ü😀": "ü"}', True),
        ('{"n": 9007199254740993}', '{"n": 9007199254740993}', True),
    ],
)
async def test_a_filter_is_contained_with_its_types(
    store: Store, attributes: str, asked: str, is_found: bool
) -> None:
    await created(store, search_attributes=attributes)

    found = await store.list_workflows("main", None, None, asked)

    assert [run.id for run in found] == (["order-1"] if is_found else [])
