"""With 200,000 tasks waiting, no statement of the hot paths reads a table, and each touches what it needs."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from holdfast.store import due_work, outbox, owned_rows, record, run_rows, tasks, views
from holdfast.store.session import Query, Statement
from tests.store.rows import Sql

pytestmark = pytest.mark.asyncio(loop_scope="module")

READY = 200_000
FILL = """
    INSERT INTO run
    SELECT r, now(), now(), CASE WHEN n > 100000 THEN now() END, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, false, 'main',
        'w' || n, 't', 'q' || n % 20, 'RUNNING', 'r' || n, '', NULL, NULL, NULL
    FROM (SELECT n, lpad(to_hex(n), 32, '0')::uuid AS r FROM generate_series(1, 110000) AS n) AS x;
    INSERT INTO task (run_id, ready_at, fence, seq, attempt, namespace, task_queue)
    SELECT lpad(to_hex(n), 32, '0')::uuid, now() - make_interval(secs => n % 1000), 1, s, 1, 'main', 'q' || n % 20
    FROM generate_series(1, 100000) AS n, (VALUES (0), (1)) AS seqs (s);
    INSERT INTO activity
    SELECT lpad(to_hex(n), 32, '0')::uuid, now(), NULL, NULL, 0, 1, 3, 1, false, 'main', '1', 'a', 'q', 'PENDING', '',
        NULL, ''
    FROM generate_series(1, 30000) AS n;
    INSERT INTO event
    SELECT lpad(to_hex(n), 32, '0')::uuid, now(), s, 'X', '\\x00'
    FROM generate_series(1, 20000) AS n, generate_series(1, 3) AS s;
    INSERT INTO timer
    SELECT lpad(to_hex(n), 32, '0')::uuid, now() + interval '1 h', 2, n % 3
    FROM generate_series(1, 60000) AS n;
    INSERT INTO outbox (run_id, first_seq, last_seq)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 1 FROM generate_series(1, 20000) AS n;
    INSERT INTO request (namespace, request_id, run_id, hash)
    SELECT 'main', 'r' || n, lpad(to_hex(n), 32, '0')::uuid, '' FROM generate_series(1, 20000) AS n;
    ANALYZE run, task, activity, event, timer, outbox, request
"""
RUNS = [f"00000000-0000-0000-0000-{n:012x}" for n in range(1, 21)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowded(shared_sql: Sql) -> AsyncIterator[Sql]:
    """Many runs, each with a workflow task and an activity that nobody took."""
    async with shared_sql.connection.transaction():
        await shared_sql.connection.execute(FILL)
    await shared_sql.connection.execute("VACUUM run, task, activity, event, timer, outbox, request")
    await shared_sql.connection.execute("SET plan_cache_mode = force_generic_plan")
    yield shared_sql


def literal(value: Any) -> str:
    """A parameter as SQL text."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "'{" + ",".join("NULL" if v is None else f'"{v}"' for v in value) + "}'"
    return f"'{value}'"


async def plan_of(sql: Sql, statement: Query[Any] | Statement, *args: Any) -> dict[str, Any]:
    """What Postgres did for the statement, which changed nothing in the end."""
    transaction = sql.connection.transaction()
    await transaction.start()
    try:
        await sql.connection.execute(f"PREPARE looked_at AS {statement.text}")
        called = f"looked_at({', '.join(map(literal, args))})" if args else "looked_at"
        text = await sql.connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {called}")
        found: dict[str, Any] = json.loads(text)[0]["Plan"]
        return found
    finally:
        await transaction.rollback()
        await sql.connection.execute("DEALLOCATE looked_at")


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", ()) for node in nodes(part))]


def scans(plan: dict[str, Any]) -> set[str]:
    """The tables that were read from one end to the other."""
    return {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}


def indexes(plan: dict[str, Any]) -> set[str]:
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


def pages(plan: dict[str, Any]) -> int:
    """How many pages were touched in all."""
    touched: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return touched


def removed(plan: dict[str, Any]) -> int:
    """Rows that were read for nothing."""
    return int(sum(node.get("Rows Removed by Filter", 0) * node["Actual Loops"] for node in nodes(plan)))


def removed_by_joins(plan: dict[str, Any]) -> int:
    """Pairs of rows that were compared for nothing."""
    return int(sum(node.get("Rows Removed by Join Filter", 0) * node["Actual Loops"] for node in nodes(plan)))


def places(statement: Query[Any] | Statement) -> int:
    """How many values the statement takes."""
    return max(map(int, re.findall(r"\$(\d+)", statement.text)))


@pytest.mark.parametrize("limit", [1, 20])
@pytest.mark.parametrize(
    ("claim", "index"),
    [(tasks.CLAIM_WORKFLOWS, "task_workflow_ready"), (tasks.CLAIM_ACTIVITIES, "task_activity_ready")],
    ids=["workflow", "activity"],
)
async def test_a_claim_goes_to_the_head_of_its_queue(
    crowded: Sql, claim: Any, index: str, limit: int
) -> None:
    plan = await plan_of(crowded, claim, "main", "q7", "w1", limit, 10.0)

    assert scans(plan) == set()
    assert index in indexes(plan)
    assert removed(plan) == 0
    assert pages(plan) < 60 + 60 * limit, f"{pages(plan)} pages for {limit} of {READY} tasks"


async def test_a_claim_of_an_empty_queue_costs_next_to_nothing(crowded: Sql) -> None:
    """An idle worker asks for a queue that has nothing, among many that have."""
    for claim in (tasks.CLAIM_WORKFLOWS, tasks.CLAIM_ACTIVITIES):
        plan = await plan_of(crowded, claim, "main", "nothing here", "w1", 100, 10.0)

        assert scans(plan) == set()
        assert pages(plan) < 20


async def test_the_pulse_is_a_few_probes(crowded: Sql) -> None:
    plan = await plan_of(crowded, due_work.PULSE)

    assert scans(plan) == set()
    assert pages(plan) < 100, pages(plan)


async def test_the_sweep_jumps_from_queue_to_queue(crowded: Sql) -> None:
    """40 queues of 5,000 tasks, counted up to the given number each."""
    plan = await plan_of(crowded, due_work.READY_QUEUES, 10)

    assert scans(plan) == set()
    assert {"task_workflow_ready", "task_activity_ready"} <= indexes(plan)
    assert pages(plan) < 3_000, pages(plan)


@pytest.mark.parametrize(
    ("due", "args"),
    [(due_work.DUE_TASKS, (1_000,)), (due_work.DUE_TIMEOUTS, (1_000,)), (due_work.DUE_TIMERS, (1_000,))],
    ids=["tasks", "tasks but for leases", "timers"],
)
async def test_looking_for_what_is_due_reads_only_that(crowded: Sql, due: Any, args: tuple[Any, ...]) -> None:
    plan = await plan_of(crowded, due, *args)

    assert scans(plan) == set()
    assert pages(plan) < 100, pages(plan)


READS: dict[str, tuple[Query[Any] | Statement, tuple[Any, ...]]] = {
    "lock": (owned_rows.LOCK, (RUNS * 2, [0] * 20 + [1] * 20)),
    "timers": (owned_rows.READ_TIMERS, (RUNS, [2] * 20)),
    "requests": (owned_rows.READ_REQUESTS, (["main"] * 3, ["r1", "r2", "none"])),
    "resolve": (run_rows.RESOLVE, (["main"] * 3, ["w1", "w2", "none"], ["r1", "", "x"])),
    "extend": (tasks.EXTEND, (RUNS, [1] * 20, [1] * 20, "w1", 10.0, "main")),
    "held": (tasks.HELD_ACTIVITIES, (RUNS, "w1")),
    "outcomes": (views.OUTCOMES, (RUNS,)),
    "open tasks": (views.OPEN_TASKS, (RUNS[0],)),
    "open activities": (views.OPEN_ACTIVITIES, (RUNS[0],)),
    "open timers": (views.OPEN_TIMERS, (RUNS[0],)),
    "find run": (views.FIND_RUN, ("main", "w77", None)),
    "close tasks": (record.CLOSE_TASKS, (RUNS,)),
    "close activities": (record.CLOSE_ACTIVITIES, (RUNS,)),
    "close timers": (record.CLOSE_TIMERS, (RUNS,)),
    "owed": (outbox.READ_OWED, (500,)),
}


@pytest.mark.parametrize("name", READS)
async def test_no_statement_of_a_request_reads_a_whole_table(crowded: Sql, name: str) -> None:
    statement, args = READS[name]

    plan = await plan_of(crowded, statement, *args)

    assert scans(plan) <= {"namespace"}, "namespaces are few"
    assert pages(plan) < 3_000, pages(plan)


async def test_recording_a_batch_touches_its_rows_only(crowded: Sql) -> None:
    """The statement with a step for every kind of row that a run owns, here with changes to twenty runs."""
    args: list[Any] = [None] * places(record.CHANGE_RUNS)
    args[23:25] = RUNS, [0] * 20
    args[66:70] = RUNS, ["RUNNING"] * 20, [2] * 20, [1.7e9] * 20
    args[70:79] = [[0] * 20 for _ in range(9)]
    args[79:85] = ["false"] * 20, [None] * 20, [0] * 20, [None] * 20, [None] * 20, [None] * 20

    versions = await crowded("SELECT xmin FROM run WHERE run_id = ANY($1::uuid[]) ORDER BY run_id", RUNS)
    args[85:87] = RUNS, versions
    args[87:91] = RUNS, [0] * 20, [1] * 20, [None] * 20
    args[91] = await crowded.one("SELECT extract(epoch FROM clock_timestamp())::float8")
    args[95:97] = -10.0, 10.0

    plan = await plan_of(crowded, record.CHANGE_RUNS, *args)

    assert scans(plan) == set()
    touched = {node["Relation Name"]: node for node in nodes(plan) if node["Node Type"] == "ModifyTable"}
    assert {"run", "task", "event", "activity", "timer", "request", "outbox", "tally"} == set(touched)
    assert pages(plan) < 3_000, pages(plan)


async def test_opening_runs_reads_no_table(crowded: Sql) -> None:
    """Twenty new runs, half of them with workflow ids that are taken."""
    ids = [f"f0000000-0000-0000-0000-{n:012x}" for n in range(20)]
    names = [f"w{n}" if n % 2 else f"new{n}" for n in range(1, 21)]
    args: list[Any] = [None] * places(record.OPEN_RUNS)
    args[:8] = ids, ["main"] * 20, names, ["t"] * 20, ["q7"] * 20, ["PENDING"] * 20, [1] * 20, [1.7e9] * 20
    args[8:17] = [[0] * 20 for _ in range(9)]
    args[17:22] = ["false"] * 20, [None] * 20, [0] * 20, [None] * 20, [None] * 20
    args[22:26] = ["r"] * 20, [""] * 20, [1.7e9] * 20, [None] * 20

    plan = await plan_of(crowded, record.OPEN_RUNS, *args)

    assert scans(plan) == set()
    assert "run_chain" in indexes(plan)
    (lost,) = {node["Actual Rows"] for node in nodes(plan) if node.get("Subplan Name") == "CTE lost"}
    assert lost == 10
    assert pages(plan) < 3_000, pages(plan)


async def test_locking_hundreds_of_runs_takes_time_in_proportion(crowded: Sql) -> None:
    """No step compares every row of the batch with every other."""
    ids = [f"00000000-0000-0000-0000-{n:012x}" for n in range(1, 201)]

    plan = await plan_of(crowded, owned_rows.LOCK, ids * 2, [0] * 200 + [1] * 200)

    assert removed_by_joins(plan) <= 400, removed_by_joins(plan)
