"""With many runs in the store, reads cost what they give, also by plans that were made while it was empty."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from holdfast.store import retention
from holdfast.store.contract import archiving, events, snapshots, workflow_views, workflows
from holdfast.store.session import Query, Statement
from tests.contract.test_claim_plans import steps
from tests.store.rows import Sql

RUNS = 20_000
RUN = "00000000-0000-0000-0000-000000004000"
FILL = """
    INSERT INTO run (
        run_id, last_at, created_at, closed_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq,
        done_marker, done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace, workflow_id,
        workflow_type, task_queue, status, request_id, request_hash
    )
    SELECT lpad(to_hex(n), 32, '0')::uuid, now(), now() - make_interval(secs => n),
        CASE WHEN n % 2 = 0 THEN now() - make_interval(secs => n) END, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, 'main',
        'w' || n, 't', 'q', CASE WHEN n % 2 = 0 THEN 'COMPLETED' ELSE 'RUNNING' END, '', ''
    FROM generate_series(1, {rows}) AS n;
    INSERT INTO record (
        run_id, created_at, updated_at, namespace, workflow_id, task_queue, parent_id, search_attributes, search
    )
    SELECT lpad(to_hex(n), 32, '0')::uuid, n, n, 'main', 'w' || n, 'q', CASE WHEN n % 10 = 0 THEN 'w' || n - 2 END,
        '{}', jsonb_build_object('n', n)
    FROM generate_series(1, {rows}) AS n;
    INSERT INTO record_event (run_id, timestamp, seq, event_type)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 1, 'X' FROM generate_series(1, {rows}) AS n;
    INSERT INTO snapshot (run_id, event_seq, created_at, state_json)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 1, '1' FROM generate_series(1, {rows}) AS n;
    INSERT INTO task (run_id, ready_at, fence, seq, attempt, namespace, task_queue)
    SELECT lpad(to_hex(n), 32, '0')::uuid, now(), 1, 0, 1, 'main', 'q' FROM generate_series(1, {rows}) AS n
"""
RUN_IDS = f"{{{RUN},00000000-0000-0000-0000-000000000001}}"
# A statement with its arguments, and how many rows it gives.
READS: dict[str, tuple[Query[Any] | Statement, tuple[Any, ...], int]] = {
    "get": (workflow_views.SHOW, (None, "main", "w77", None), 1),
    "show": (workflow_views.SHOW, (RUN_IDS, None, None, None), 2),
    "list": (workflow_views.LIST_RUNS, ("main", None, None, None, None, 10, 0, None), 10),
    "list by status": (workflow_views.LIST_RUNS, ("main", "RUNNING", None, None, None, 10, 0, None), 10),
    "list behind a cursor": (workflow_views.LIST_RUNS, ("main", None, None, None, RUN, 10, 0, None), 10),
    "search": (workflow_views.SEARCH_RUNS, ("main", None, None, '{"n": 15000}', None, 10, 0), 1),
    "children": (workflow_views.LIST_CHILDREN, ("main", "w8"), 1),
    "archivable": (archiving.LIST_ARCHIVABLE, ("2200-01-01", 10, None), 10),
    "archivable in one namespace": (archiving.LIST_ARCHIVABLE, ("2200-01-01", 10, "main"), 10),
    "retention": (retention.TERMS, (1,), 1),
    "sizes": (retention.SIZES, (RUN_IDS,), 2),
    "archived": (retention.LIST_ARCHIVED, ("main", 10), 0),
    "pointer": (retention.POINTER, (RUN,), 0),
    "before a new run": (workflows.BEFORE_NEW, ("main", "w77"), 1),
    "newer run": (workflows.NEWER_RUN, ("main", "w77", RUN.replace("4000", "0001")), 1),
    "outcome": (workflows.LOCK_OUTCOME, (RUN,), 1),
    "set outcome": (workflows.SET_OUTCOME, (RUN, "FAILED", None, None, True), 0),
    "search attributes": (workflows.MERGE_ATTRIBUTES, (RUN, '{"a": 1}', "{}"), 1),
    "events": (events.LIST_EVENTS, (RUN, "w", 0, None), 1),
    "new event": (events.ADD_EVENT, (RUN, 2, "X", None, 1), 1),
    "event count": (events.COUNT_EVENTS, ("main", "w77", None), 1),
    "snapshot": (snapshots.LATEST_SNAPSHOT, ("main", "w77", None), 1),
    "older snapshots": (snapshots.DROP_OLDER, (RUN, 0), 0),
    "purge": (archiving.PURGE, (RUN, "2020-01-01"), 0),
}
SETTINGS = """
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;
    SET plan_cache_mode = force_generic_plan
"""


async def test_reads_cost_what_they_give_by_plans_made_for_an_empty_store(sql: Sql) -> None:
    await sql.connection.execute(SETTINGS)
    for number, (statement, args, _) in enumerate(READS.values()):
        await sql.connection.execute(f"PREPARE read{number} AS {statement.text}")
        await sql.connection.execute(f"EXECUTE read{number}({_given(args)})")
    await sql.connection.execute(re.sub(r"\{rows\}", str(RUNS), FILL))

    for number, (name, (_, args, expected)) in enumerate(READS.items()):
        plan = await _plan_of(sql, f"read{number}({_given(args)})")

        pages = plan[0]["Shared Hit Blocks"] + plan[0]["Shared Read Blocks"]
        assert plan[0]["Actual Rows"] == expected, name
        assert {step["Relation Name"] for step in plan if step["Node Type"] == "Seq Scan"} == set(), name
        assert pages < 100 + 60 * expected, f"{name}: {pages} pages"


def _given(args: tuple[Any, ...]) -> str:
    return ", ".join("NULL" if value is None else f"'{value}'" for value in args)


async def _plan_of(sql: Sql, call: str) -> list[dict[str, Any]]:
    """Every step of what Postgres did, the whole of it first. It changed nothing in the end."""
    transaction = sql.connection.transaction()
    await transaction.start()
    try:
        text = await sql.connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {call}")
        return steps(json.loads(text)[0]["Plan"])
    finally:
        await transaction.rollback()


@pytest.fixture(autouse=True)
async def _no_autovacuum(sql: Sql) -> None:
    """Statistics would make the plans anew."""
    for table in ("run", "record", "record_event", "snapshot", "task"):
        await sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
