"""A database with a great many rows of every kind, of which the oldest few are those that statements look for.

Closed runs lie in namespace "main", which has little to do otherwise; namespace "busy" has only open ones, each with all
kinds of work ready on one queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.store.rows import Sql

TABLES = (
    *(
        "run",
        "task",
        "event",
        "activity",
        "timer",
        "request",
        "outbox",
        "record",
        "record_event",
        "record_activity",
    ),
    *("record_timer", "record_signal", "snapshot", "schedule", "schedule_fire", "journal", "worker"),
)
# Making a table unlogged writes a new one; here is what is known of one that was just created, and of its indexes.
AS_CREATED = """
    UPDATE pg_class AS c
    SET relpages = CASE WHEN c.relkind = 'i' THEN 1 ELSE 0 END, reltuples = CASE WHEN c.relkind = 'i' THEN 0 ELSE -1 END
    FROM pg_class AS t
    WHERE t.relname = ANY($1::text[])
        AND (c.oid = t.oid OR c.oid IN (SELECT i.indexrelid FROM pg_index AS i WHERE i.indrelid = t.oid))
"""
EMPTIED = ("task", "timer", "outbox", "journal", "request")
NOON = 1_700_000_000


def closed_run(number: int) -> str:
    """The id of a closed run in "main"; it is workflow "w<number>"."""
    return f"c0000000-0000-7000-8000-{number:012x}"


def open_run(number: int) -> str:
    """The id of an open run in "busy", likewise; its parent is ten before it."""
    return f"e0000000-0000-7000-8000-{number:012x}"


# One set of runs after the other: each number adds to what there is, and is younger.
RUNS = """
    INSERT INTO run (
        run_id, last_at, created_at, closed_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq,
        done_marker, done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace, workflow_id,
        workflow_type, task_queue, status, request_id, request_hash
    )
    SELECT
        ('c0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, to_timestamp(1.7e9 + n), to_timestamp(1.7e9 + n),
        to_timestamp(1.7e9 + n), 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, 'main', 'w' || n, 't', 'q', 'COMPLETED', '', ''
    FROM generate_series({first}, {last}) AS n;
    INSERT INTO run (
        run_id, last_at, created_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq, done_marker,
        done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace, workflow_id,
        workflow_type, task_queue, status, request_id, request_hash
    )
    SELECT
        ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, to_timestamp(1.7e9 + n), to_timestamp(1.7e9 + n),
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, 'busy', 'w' || n, 't', 'q', 'RUNNING', 'r' || n, ''
    FROM generate_series({first}, {last}) AS n
"""
DRIVEN = """
    INSERT INTO task (run_id, ready_at, fence, seq, attempt, namespace, task_queue)
    SELECT
        ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, to_timestamp(1.7e9 + n), 1, s, 1, 'busy', 'q'
    FROM generate_series({first}, {last}) AS n, (VALUES (0), (1)) AS seqs (s);
    INSERT INTO activity (
        run_id, scheduled_at, closed_fence, seq, scheduled_seq, attempt, is_cancel_requested, namespace, activity_id,
        name, task_queue, status, options, heartbeat_details
    )
    SELECT
        ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, to_timestamp(1.7e9), 0, 1, 1, 1, false, 'busy', '1',
        'a', 'q', 'PENDING', '', ''
    FROM generate_series({first}, {last}, {step}) AS n;
    INSERT INTO event (run_id, recorded_at, seq, type, body)
    SELECT ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, to_timestamp(1.7e9), 1, 'X', '\\x00'
    FROM generate_series({first}, {last}, {step}) AS n;
    INSERT INTO timer (run_id, fire_at, seq, state)
    SELECT
        ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
        CASE WHEN n <= 10 THEN to_timestamp(1.7e9 + n) ELSE now() + make_interval(secs => 1000 + n) END, 2, 0
    FROM generate_series({first}, {last}) AS n;
    INSERT INTO outbox (run_id, first_seq, last_seq)
    SELECT ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, 1 FROM generate_series({first}, {last}, {step}) AS n;
    INSERT INTO request (namespace, request_id, run_id, hash)
    SELECT 'busy', 'r' || n, ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, ''
    FROM generate_series({first}, {last}, {step}) AS n;
    INSERT INTO journal (namespace, record, entry) SELECT 'busy', 'x', '\\x00' FROM generate_series({first}, {last}, {step});
    INSERT INTO schedule (
        namespace, name, created_at, catchup_window_secs, jitter_secs, next_run_at, considered_at, paused,
        workflow_type, cron_expr, timezone, task_queue, overlap_policy, last_workflow_id
    )
    SELECT 'busy', 's' || n, 1, 60, 0, 1.7e9 + n, 1.7e9, false, 't', '0 0 * * *', 'UTC', 'q', 'skip', 'w' || n
    FROM generate_series({first}, {last}, 10) AS n;
    INSERT INTO schedule_fire (namespace, schedule, slot, status)
    SELECT 'busy', 's' || n, 1.7e9, CASE WHEN n <= 11 THEN 'queued' ELSE 'started' END
    FROM generate_series({first}, {last}, 10) AS n
"""
WRITTEN = """
    INSERT INTO record (
        run_id, created_at, updated_at, completed_at, namespace, workflow_id, task_queue, parent_id, search_attributes,
        search
    )
    SELECT
        ('c0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1.7e9 + n, 1.7e9 + n, 1.7e9 + n, 'main', 'w' || n,
        'q', CASE WHEN n % 10 = 0 THEN 'w' || n - 2 END, '{{}}', jsonb_build_object('n', n)
    FROM generate_series({first}, {last}) AS n;
    INSERT INTO record (run_id, created_at, updated_at, namespace, workflow_id, task_queue, parent_id, ready_at)
    SELECT
        ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1.7e9 + n, 1.7e9 + n, 'busy', 'w' || n, 'q',
        CASE WHEN n > 10 THEN 'w' || n - 10 END, to_timestamp(1.7e9 + n)
    FROM generate_series({first}, {last}) AS n;
    INSERT INTO record_activity (
        run_id, scheduled_at, initial_interval_secs, backoff_coefficient, start_to_close_secs, seq, attempt,
        max_attempts, namespace, name, task_queue, status
    )
    SELECT
        ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1.7e9 + n, 1, 2, 300, 1, 1, 3, 'busy', 'a', 'q',
        'PENDING'
    FROM generate_series({first}, {last}) AS n;
    INSERT INTO record_timer (run_id, fire_at, seq)
    SELECT ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1.7e9 + n, 1
    FROM generate_series({first}, {last}) AS n;
    INSERT INTO record_signal (run_id, received_at, name)
    SELECT ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, 's' FROM generate_series({first}, {last}, {step}) AS n;
    INSERT INTO record_event (run_id, timestamp, seq, event_type)
    SELECT ('c0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, 1, 'X'
    FROM generate_series({first}, {last}, {step}) AS n;
    INSERT INTO snapshot (run_id, event_seq, created_at, state_json)
    SELECT ('e0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, 1, '1'
    FROM generate_series({first}, {last}, {step}) AS n;
    INSERT INTO worker (
        id, registered_at, last_heartbeat, max_concurrent_workflows, max_concurrent_activities, active_tasks, namespace,
        identity, task_queue
    )
    SELECT 'x' || n, 1.7e9 + n, 1.7e9 + n, 1, 1, 0, 'busy', '', 'q' FROM generate_series({first}, {last}, 100) AS n
"""
# What is leased or runs in "busy": 60 of each for x1, far more for x2. And what "main" has to do.
FEW = """
    INSERT INTO namespace (name) VALUES ('busy');
    INSERT INTO leader (role, holder, epoch, until) VALUES ('scheduler', 'me', 1, 'infinity');
    INSERT INTO run (
        run_id, last_at, created_at, fence, done_fence, last_seq, last_message_seq, command_seq, done_seq, done_marker,
        done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace, workflow_id,
        workflow_type, task_queue, status, request_id, request_hash
    )
    SELECT
        ('a0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, to_timestamp(1.6e9 + n), to_timestamp(1.6e9 + n),
        1, 0, CASE WHEN n <= 20 THEN 1 ELSE 0 END, 0, 0, 0, 0, 0, 0, 0, 0, false,
        CASE WHEN n <= 40 THEN 'main' ELSE 'busy' END, 'o' || n, CASE WHEN n <= 20 THEN 'rare' ELSE 't' END, 'q', 'PENDING',
        '', ''
    FROM generate_series(1, 2000) AS n;
    INSERT INTO task (run_id, ready_at, fence, seq, attempt, namespace, task_queue, worker, deadline, lease_until)
    SELECT
        ('a0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, to_timestamp(1.6e9 + n), 1, 0, 1, 'main', 'q',
        CASE WHEN n <= 10 THEN 'x1' END, CASE WHEN n <= 10 THEN to_timestamp(1.6e9 + n) END,
        CASE WHEN n <= 10 THEN to_timestamp(1.6e9 + n) END
    FROM generate_series(1, 20) AS n;
    INSERT INTO record (
        run_id, created_at, updated_at, namespace, workflow_id, task_queue, ready_at, dispatch_worker, dispatch_heartbeat
    )
    SELECT
        ('a0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1.6e9 + n, 1.6e9 + n,
        CASE WHEN n <= 40 THEN 'main' ELSE 'busy' END, 'o' || n, 'q', CASE WHEN n <= 40 THEN to_timestamp(1.6e9 + n) END,
        CASE WHEN n > 100 THEN 'x2' WHEN n > 40 THEN 'x1' END,
        CASE WHEN n > 100 THEN 1.8e9 + n WHEN n > 40 THEN 1.7e9 + n END
    FROM generate_series(21, 2000) AS n;
    INSERT INTO record_activity (
        run_id, scheduled_at, started_at, initial_interval_secs, backoff_coefficient, start_to_close_secs, seq, attempt,
        max_attempts, namespace, name, task_queue, status, claimed_by
    )
    SELECT
        ('a0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1.6e9, 1.7e9 + n, 1, 2, 300, 1, 1, 3,
        CASE WHEN n <= 40 THEN 'main' ELSE 'busy' END, 'a', 'q', CASE WHEN n <= 40 THEN 'PENDING' ELSE 'RUNNING' END,
        CASE WHEN n > 40 THEN 'x1' END
    FROM generate_series(21, 100) AS n;
    INSERT INTO record_activity (
        run_id, scheduled_at, started_at, initial_interval_secs, backoff_coefficient, start_to_close_secs, seq, attempt,
        max_attempts, namespace, name, task_queue, status, claimed_by
    )
    SELECT
        'a0000000-0000-7000-8000-000000000032'::uuid, 1.6e9, 1.8e9 + n, 1, 2, 300, n, 1, 3, 'busy', 'a', 'q', 'RUNNING', 'x2'
    FROM generate_series(2, 1000) AS n;
    INSERT INTO tally (closed, namespace, status) VALUES (1000000, 'main', 'COMPLETED');
"""


async def make_ready(sql: Sql) -> None:
    """Tables as they are on the first day, but for those that empty time and again: these are known to be empty.

    No statistics come by themselves from now on; they would make plans anew. Nor is there a log, which nobody would read.
    """
    for table in TABLES:
        await sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await sql(f"ALTER TABLE {table} SET UNLOGGED")
    await sql(f"VACUUM ANALYZE {', '.join(EMPTIED)}")
    await sql(AS_CREATED, [table for table in TABLES if table not in EMPTIED])


async def fill(url: str, first: int, last: int) -> None:
    """Add the runs with these numbers, and what they own; behind the first of all, some of it for one run in ten only."""
    asked = {"first": first, "last": last, "step": 1 if first == 1 else 10}
    async with Sql.connected(url) as one, Sql.connected(url) as other:
        if first == 1:
            await one.connection.execute(FEW)
        await one.connection.execute(RUNS.format(**asked))
        await asyncio.gather(
            *(sql.connection.execute(text.format(**asked)) for sql, text in ((one, DRIVEN), (other, WRITTEN)))
        )
        await one("SELECT gin_clean_pending_list('record_search')")  # as vacuum does time and again


async def know(sql: Sql, tables: Sequence[str] = TABLES) -> None:
    """Statistics of all of it."""
    await sql.connection.execute(f"VACUUM ANALYZE {', '.join(tables)}")
