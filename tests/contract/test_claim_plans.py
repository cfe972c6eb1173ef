"""With many rows waiting, what picks work goes to the head of its index, whenever the statement was planned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.store.contract import activities, dispatch, signals, timers
from holdfast.store.session import Query
from tests.contract.given import NOON
from tests.store.rows import Sql

WAITING = 20_000
RUN = "00000000-0000-0000-0000-000000000001"
FILL = """
    INSERT INTO run (
        run_id, last_at, created_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq, done_marker,
        done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace, workflow_id,
        workflow_type, task_queue, status, request_id, request_hash
    )
    SELECT lpad(to_hex(n), 32, '0')::uuid, now(), now(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, 'main', 'w' || n, 't',
        'q' || n % 4, 'RUNNING', '', ''
    FROM generate_series(1, {rows}) AS n;
    INSERT INTO record (
        run_id, created_at, updated_at, namespace, workflow_id, task_queue, ready_at, dispatch_worker, dispatch_heartbeat
    )
    SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 1, 'main', 'w' || n, 'q' || n % 4, now() - make_interval(secs => n % 1000),
        CASE WHEN n % 10 = 0 THEN 'w' || n % 50 END, CASE WHEN n % 10 = 0 THEN 1700000000 + n END
    FROM generate_series(1, {rows}) AS n;
    INSERT INTO record_activity (
        run_id, scheduled_at, started_at, initial_interval_secs, backoff_coefficient, start_to_close_secs,
        heartbeat_timeout_secs, seq, attempt, max_attempts, namespace, name, task_queue, status
    )
    SELECT lpad(to_hex(n), 32, '0')::uuid, CASE WHEN n % 2 = 0 THEN 1e10 ELSE 1700000000 - n % 1000 END,
        1700000000 + n, 1, 2, 300, CASE WHEN n % 3 = 0 THEN 5 END, 1, 1, 3, 'main', 'a', 'q' || n / 2 % 4,
        CASE WHEN n % 5 = 0 THEN 'RUNNING' ELSE 'PENDING' END
    FROM generate_series(1, {rows}) AS n;
    INSERT INTO record_timer (run_id, fire_at, seq)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 1700000000 + n, 1 FROM generate_series(1, {rows}) AS n;
    INSERT INTO record_signal (run_id, received_at, name)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 's' FROM generate_series(1, {rows}) AS n;
    INSERT INTO record_signal (run_id, received_at, name, consumed)
    SELECT lpad('1', 32, '0')::uuid, 1, 's', true FROM generate_series(1, {rows}) AS n
"""
HOT: dict[str, tuple[Query[Any], tuple[Any, ...], str, int]] = {
    "workflow task": (dispatch.CLAIM_WORKFLOW_TASK, ("q3", "w1", "main"), "record_ready", 1),
    "activity": (dispatch.CLAIM_ACTIVITY, ("q3", "w1", "main"), "record_activity_ready", 1),
    "timers": (timers.FIRE_TIMERS, (NOON + 10, 1000, None), "record_timer_due", 10),
    "timeouts": (
        activities.TIMED_OUT_ACTIVITIES,
        (NOON + 320, None, None),
        "record_activity_deadline",
        40,
    ),
    "stale leases": (dispatch.LOCK_STALE, (NOON + 40,), "record_leased", 4),
    "signals": (signals.CONSUME_SIGNALS, (RUN, "s", "w1"), "record_signal_run", 1),
    "cancelled activities": (
        activities.CANCEL_PENDING,
        (RUN, "PENDING"),
        "record_activity_run_id_seq_key",
        1,
    ),
    "cancelled timers": (timers.CANCEL_TIMERS, (RUN, 0), "record_timer_run_id_seq_key", 1),
    "activity by seq": (
        activities.GET_ACTIVITY_BY_SEQ,
        ("main", "w1", None, 1),
        "record_activity_run_id_seq_key",
        1,
    ),
    "timer by seq": (timers.READ_TIMER, ("main", "w1", None, 1), "record_timer_run_id_seq_key", 1),
}


async def plan_of(sql: Sql, statement: Query[Any], args: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Every step of what Postgres did for the statement, the whole of it first. It changed nothing in the end."""
    transaction = sql.connection.transaction()
    await transaction.start()
    try:
        await sql.connection.execute(f"PREPARE looked_at AS {statement.text}")
        given = ", ".join("NULL" if value is None else f"'{value}'" for value in args)
        text = await sql.connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE looked_at({given})"
        )
        return steps(json.loads(text)[0]["Plan"])
    finally:
        await transaction.rollback()
        await sql.connection.execute("DEALLOCATE looked_at")


def steps(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(step for part in plan.get("Plans", ()) for step in steps(part))]


@pytest.fixture
async def crowded(sql: Sql) -> Sql:
    """Many runs with everything, on a connection that plans as the store's do; nothing was ever analyzed."""
    async with sql.connection.transaction():
        await sql.connection.execute(FILL.replace("{rows}", str(WAITING)))
    for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"):
        await sql.connection.execute(f"SET {setting} = off")
    await sql.connection.execute("SET plan_cache_mode = force_generic_plan")
    return sql


async def test_what_picks_work_reads_what_it_picks(crowded: Sql) -> None:
    for is_analyzed in (False, True):
        if is_analyzed:
            await crowded.connection.execute(
                "VACUUM ANALYZE run, record, record_activity, record_timer, record_signal"
            )
        for name, (statement, args, index, picked) in HOT.items():
            plan = await plan_of(crowded, statement, args)

            case = f"{name}, {'with' if is_analyzed else 'without'} statistics"
            scanned = {step["Relation Name"] for step in plan if step["Node Type"] == "Seq Scan"}
            in_vain = sum(step.get("Rows Removed by Filter", 0) * step["Actual Loops"] for step in plan)
            pages = plan[0]["Shared Hit Blocks"] + plan[0]["Shared Read Blocks"]
            assert scanned <= {"namespace"}, case
            assert index in {step.get("Index Name") for step in plan}, case
            assert in_vain <= picked, case
            assert pages < 60 + 40 * picked, f"{case}: {pages} pages"
