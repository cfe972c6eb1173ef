"""Rows as the contract leaves them, for tests of methods that only look at them. Claims nothing."""

from __future__ import annotations

import itertools
from typing import Any

from tests.store.rows import Sql

_numbers = itertools.count(1)

RUN = """
    INSERT INTO run (
        run_id, last_at, created_at, closed_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq,
        done_marker, done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace, workflow_id,
        workflow_type, task_queue, status, request_id, request_hash
    )
    VALUES (
        $1::uuid, now(), now(), CASE WHEN $5 THEN now() END, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, $2, $3, 'order',
        $4, $6, '', ''
    )
"""
RECORD = """
    INSERT INTO record (run_id, created_at, updated_at, namespace, workflow_id, task_queue, ready_at, dispatch_worker,
        dispatch_heartbeat)
    VALUES ($1::uuid, 1, 1, $2, $3, $4, now() - make_interval(secs => $5), $6::text, CASE WHEN $6::text IS NOT NULL THEN 1 END)
"""
ACTIVITY = """
    INSERT INTO record_activity (
        run_id, scheduled_at, started_at, last_heartbeat, initial_interval_secs, backoff_coefficient,
        start_to_close_secs, seq, attempt, max_attempts, namespace, name, task_queue, status, claimed_by
    )
    VALUES (
        $1::uuid, extract(epoch FROM now())::float8 - $7, CASE WHEN $6::text IS NOT NULL THEN 1 END,
        CASE WHEN $6::text IS NOT NULL THEN 2 END, 1, 2, 300, $2, 3, 5, $3, 'charge', $4, $5, $6
    )
    RETURNING id
"""


async def run(
    sql: Sql,
    *,
    namespace: str = "main",
    queue: str = "q",
    status: str = "PENDING",
    is_closed: bool = False,
    ready_s: float | None = None,
    worker: str | None = None,
) -> str:
    """The id of a run of the contract's: dispatchable since *ready_s* seconds, or leased to *worker*."""
    number = next(_numbers)
    run_id = f"00000000-0000-7000-8000-{number:012x}"
    await sql(RUN, run_id, namespace, f"w-{number}", queue, is_closed, status)
    await sql(RECORD, run_id, namespace, f"w-{number}", queue, ready_s, worker)
    return run_id


async def activity(
    sql: Sql,
    run_id: str,
    seq: int = 1,
    *,
    namespace: str = "main",
    queue: str = "q",
    status: str = "PENDING",
    worker: str | None = None,
    ready_s: float = 0.0,
) -> int:
    """The id of an activity of the contract's that was scheduled *ready_s* seconds ago: attempt 3 of 5."""
    number: Any = await sql.one(ACTIVITY, run_id, seq, namespace, queue, status, worker, ready_s)
    return int(number)
