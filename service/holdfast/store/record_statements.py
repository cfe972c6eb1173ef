"""The statements that write a batch, each with a step for every kind of row.

They take an array of rows for each kind (types in `schemas/postgres/0003_batch_rows.sql`), so a batch of any size, with
any mix of kinds, is one round trip. `record` makes the arrays.
"""

from __future__ import annotations

import msgspec

from holdfast.core import state as s
from holdfast.store.session import Query, Statement


class Recorded(msgspec.Struct, kw_only=True):
    """What a write tells: the database's clock, the version of every row it wrote, and the runs it left out.

    Left out are new runs that somebody else's run of the same workflow id kept out, and runs that moved on since
    their state was known.
    """

    now: float
    version: int
    lost: list[str]


# What happened to runs that exist, and to what they own. The batch holds their locks, or else says what it believes them
# to be: their versions, the fences and holders of the tasks that it changes, and the time. Those who turn out to have
# moved on are left out, with all their rows, and told: their requests are decided again. (A statement sees what was
# committed when it began; what it locks, it sees as it is. `moved` locks, so its answer holds for all the other steps.)
# Nothing is joined to what a run owns: planned while the tables are empty, a join would begin with all rows of all runs.
# Rows that are there already are found as conflicts; tasks that are done, by their runs and by their numbers (CASE keeps the
# planner from making a join of that, too).
CHANGE_RUNS = Query(
    """
    WITH moved AS MATERIALIZED (
        SELECT known.run_id
        FROM (
            SELECT n.run_id, n.version
            FROM unnest($9::known_run[]) AS n
            ORDER BY n.run_id
        ) AS known
        LEFT JOIN LATERAL (
            SELECT r.run_id
            FROM run AS r
            WHERE r.run_id = known.run_id
                AND r.xmin = known.version
                AND extract(epoch FROM clock_timestamp())::float8 - $11 BETWEEN $12 AND $13
            FOR UPDATE
        ) AS same ON true
        WHERE same.run_id IS NULL
        UNION ALL
        SELECT known.run_id
        FROM (
            SELECT n.run_id, n.seq, n.fence, n.worker
            FROM unnest($10::known_task[]) AS n
            ORDER BY n.run_id, n.seq
        ) AS known
        LEFT JOIN LATERAL (
            SELECT t.run_id
            FROM task AS t
            WHERE t.run_id = known.run_id
                AND t.seq = known.seq
                AND t.fence = known.fence
                AND t.worker IS NOT DISTINCT FROM known.worker
            FOR UPDATE
        ) AS same ON true
        WHERE same.run_id IS NULL
    ), new_event AS (
        INSERT INTO event (run_id, recorded_at, seq, type, body)
        SELECT n.run_id, to_timestamp(n.recorded_at), n.seq, n.type, n.body
        FROM unnest($1::event_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT m.run_id FROM moved AS m))
    ), put_task AS (
        INSERT INTO task (
            run_id, seq, namespace, task_queue, ready_at, fence, attempt, worker, leased_at, lease_until,
            heartbeat_at, start_to_close_s, heartbeat_s, start_by, close_by, deadline, sticky_worker,
            sticky_until
        )
        SELECT
            n.run_id, n.seq, n.namespace, n.task_queue, to_timestamp(n.ready_at), n.fence, n.attempt, n.worker,
            to_timestamp(n.leased_at), to_timestamp(n.lease_until), to_timestamp(n.heartbeat_at),
            n.start_to_close_s, n.heartbeat_s, to_timestamp(n.start_by), to_timestamp(n.close_by),
            to_timestamp(n.deadline), n.sticky_worker, to_timestamp(n.sticky_until)
        FROM unnest($2::task_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT m.run_id FROM moved AS m))
        ON CONFLICT (run_id, seq) DO UPDATE
        SET
            ready_at = excluded.ready_at,
            fence = excluded.fence,
            attempt = excluded.attempt,
            worker = excluded.worker,
            leased_at = excluded.leased_at,
            lease_until = excluded.lease_until,
            heartbeat_at = excluded.heartbeat_at,
            start_by = excluded.start_by,
            close_by = excluded.close_by,
            deadline = excluded.deadline,
            sticky_worker = excluded.sticky_worker,
            sticky_until = excluded.sticky_until
    ), done_task AS (
        DELETE FROM task AS t
        WHERE t.run_id = ANY($15::uuid[])
            AND t.seq = ANY($16::int[])
            AND CASE WHEN (t.run_id, t.seq) IN (
                SELECT n.run_id, n.seq
                FROM unnest($3::work_key[]) AS n
                WHERE n.run_id <> ALL (ARRAY(SELECT m.run_id FROM moved AS m))
            ) THEN true END
    ), put_activity AS (
        INSERT INTO activity (
            run_id, seq, namespace, activity_id, name, task_queue, scheduled_seq, options, scheduled_at, status,
            attempt, is_cancel_requested, last_failure, heartbeat_details, last_heartbeat_at, closed_at,
            closed_fence
        )
        SELECT
            n.run_id, n.seq, n.namespace, n.activity_id, n.name, n.task_queue, n.scheduled_seq, n.options,
            to_timestamp(n.scheduled_at), n.status, n.attempt, n.is_cancel_requested, n.last_failure,
            n.heartbeat_details, to_timestamp(n.last_heartbeat_at), to_timestamp(n.closed_at), n.closed_fence
        FROM unnest($4::activity_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT m.run_id FROM moved AS m))
        ON CONFLICT (run_id, seq) DO UPDATE
        SET
            status = excluded.status,
            attempt = excluded.attempt,
            is_cancel_requested = excluded.is_cancel_requested,
            last_failure = excluded.last_failure,
            heartbeat_details = excluded.heartbeat_details,
            last_heartbeat_at = excluded.last_heartbeat_at,
            closed_at = excluded.closed_at,
            closed_fence = excluded.closed_fence
    ), put_timer AS (
        INSERT INTO timer (run_id, seq, fire_at, state)
        SELECT n.run_id, n.seq, to_timestamp(n.fire_at), n.state
        FROM unnest($5::timer_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT m.run_id FROM moved AS m))
        ON CONFLICT (run_id, seq) DO UPDATE
        SET state = excluded.state
    ), kept_request AS (
        INSERT INTO request (namespace, request_id, hash, run_id)
        SELECT n.namespace, n.request_id, n.hash, n.run_id
        FROM unnest($6::request_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT m.run_id FROM moved AS m))
    ), owed AS (
        INSERT INTO outbox (run_id, first_seq, last_seq)
        SELECT n.run_id, n.first_seq, n.last_seq
        FROM unnest($7::outbox_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT m.run_id FROM moved AS m))
    ), counted AS (
        INSERT INTO tally (namespace, status, closed)
        SELECT n.namespace, n.status, count(*)
        FROM unnest($14::closing_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT m.run_id FROM moved AS m))
        GROUP BY n.namespace, n.status
    ), changed_run AS (
        UPDATE run
        SET
            status = n.status,
            last_seq = n.last_seq,
            last_at = to_timestamp(n.last_at),
            last_message_seq = n.last_message_seq,
            command_seq = n.command_seq,
            fence = n.fence,
            done_seq = n.done_seq,
            done_fence = n.done_fence,
            done_marker = n.done_marker,
            done_head = n.done_head,
            open_activities = n.open_activities,
            open_timers = n.open_timers,
            is_cancel_requested = n.is_cancel_requested,
            sticky_worker = n.sticky_worker,
            sticky_seq = n.sticky_seq,
            task_failure = n.task_failure,
            task_failure_cause = n.task_failure_cause,
            closed_at = to_timestamp(n.closed_at)
        FROM unnest($8::run_row[]) AS n
        WHERE run.run_id = n.run_id AND n.run_id <> ALL (ARRAY(SELECT m.run_id FROM moved AS m))
    )
    SELECT
        extract(epoch FROM clock_timestamp())::float8 AS now,
        pg_current_xact_id()::xid AS version,
        ARRAY(SELECT m.run_id::text FROM moved AS m) AS lost
    """,
    Recorded,
)

# New runs, with what they own from the first moment on. One whose workflow id was opened (or even opened and closed)
# meanwhile by somebody else is left out with all its rows, and told: its request is decided again. So is one whose
# workflow id has any run at all, unless the batch knows the older runs.
OPEN_RUNS = Query(
    """
    WITH opened AS (
        INSERT INTO run (
            run_id, namespace, workflow_id, workflow_type, task_queue, status, last_seq, last_at,
            last_message_seq, command_seq, fence, done_seq, done_fence, done_marker, done_head, open_activities,
            open_timers, is_cancel_requested, sticky_worker, sticky_seq, task_failure, task_failure_cause,
            request_id, request_hash, created_at, closed_at
        )
        SELECT
            n.run_id, n.namespace, n.workflow_id, n.workflow_type, n.task_queue, n.status, n.last_seq,
            to_timestamp(n.last_at), n.last_message_seq, n.command_seq, n.fence, n.done_seq, n.done_fence,
            n.done_marker, n.done_head, n.open_activities, n.open_timers, n.is_cancel_requested,
            n.sticky_worker, n.sticky_seq, n.task_failure, n.task_failure_cause, n.request_id, n.request_hash,
            to_timestamp(n.created_at), to_timestamp(n.closed_at)
        FROM unnest($1::run_row[]) WITH ORDINALITY AS n
        WHERE coalesce((
            SELECT NOT $7 AND r.run_id < n.run_id
            FROM run AS r
            WHERE r.namespace = n.namespace AND r.workflow_id = n.workflow_id
            ORDER BY r.run_id DESC
            LIMIT 1
        ), true)
            AND coalesce(extract(epoch FROM clock_timestamp())::float8 - $8 BETWEEN $9 AND $10, true)
        ORDER BY n.ordinality  -- as the unique index has it: two batches with the same ids cannot deadlock
        ON CONFLICT (namespace, workflow_id) WHERE closed_at IS NULL DO NOTHING
        RETURNING run_id
    ), lost AS MATERIALIZED (
        SELECT n.run_id
        FROM unnest($1::run_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT o.run_id FROM opened AS o))
    ), new_event AS (
        INSERT INTO event (run_id, recorded_at, seq, type, body)
        SELECT n.run_id, to_timestamp(n.recorded_at), n.seq, n.type, n.body
        FROM unnest($2::event_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT l.run_id FROM lost AS l))
    ), put_task AS (
        INSERT INTO task (
            run_id, seq, namespace, task_queue, ready_at, fence, attempt, worker, leased_at, lease_until,
            heartbeat_at, start_to_close_s, heartbeat_s, start_by, close_by, deadline, sticky_worker,
            sticky_until
        )
        SELECT
            n.run_id, n.seq, n.namespace, n.task_queue, to_timestamp(n.ready_at), n.fence, n.attempt, n.worker,
            to_timestamp(n.leased_at), to_timestamp(n.lease_until), to_timestamp(n.heartbeat_at),
            n.start_to_close_s, n.heartbeat_s, to_timestamp(n.start_by), to_timestamp(n.close_by),
            to_timestamp(n.deadline), n.sticky_worker, to_timestamp(n.sticky_until)
        FROM unnest($3::task_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT l.run_id FROM lost AS l))
    ), kept_request AS (
        INSERT INTO request (namespace, request_id, hash, run_id)
        SELECT n.namespace, n.request_id, n.hash, n.run_id
        FROM unnest($4::request_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT l.run_id FROM lost AS l))
    ), owed AS (
        INSERT INTO outbox (run_id, first_seq, last_seq)
        SELECT n.run_id, n.first_seq, n.last_seq
        FROM unnest($5::outbox_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT l.run_id FROM lost AS l))
    ), counted AS (
        INSERT INTO tally (namespace, status, closed)
        SELECT n.namespace, n.status, count(*)
        FROM unnest($6::closing_row[]) AS n
        WHERE n.run_id <> ALL (ARRAY(SELECT l.run_id FROM lost AS l))
        GROUP BY n.namespace, n.status
    )
    SELECT
        extract(epoch FROM clock_timestamp())::float8 AS now,
        pg_current_xact_id()::xid AS version,
        ARRAY(SELECT l.run_id::text FROM lost AS l) AS lost
    """,
    Recorded,
)

# What a closed run still had open. Leased activities are told to stop after the commit.
CLOSE_TASKS = Query(
    """
    DELETE FROM task
    WHERE run_id = ANY($1::uuid[])
    RETURNING
        run_id::text AS run_id,
        seq,
        namespace,
        task_queue,
        extract(epoch FROM ready_at)::float8 AS ready_at,
        fence,
        worker
    """,
    s.Task,
)

CLOSE_ACTIVITIES = Statement(
    """
    UPDATE activity
    SET status = 'CANCELLED', closed_at = clock_timestamp()
    WHERE run_id = ANY($1::uuid[]) AND closed_at IS NULL
    """
)

CLOSE_TIMERS = Statement(
    """
    UPDATE timer
    SET state = 2
    WHERE run_id = ANY($1::uuid[]) AND state < 1  -- not = 0: the index of all open timers is not the one to use
    """
)
