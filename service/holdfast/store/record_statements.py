"""The statements that write a batch, each with a step for every kind of row.

They take arrays, so a batch of any size, with any mix of kinds, is one round trip. Columns travel in the order of
the core's structs. `record` makes the arrays.
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
CHANGE_RUNS = Query(
    """
    WITH moved AS MATERIALIZED (
        SELECT known.run_id
        FROM (
            SELECT n.run_id, n.version
            FROM unnest($86::uuid[], $87::xid[]) AS n (run_id, version)
            ORDER BY n.run_id
        ) AS known
        LEFT JOIN LATERAL (
            SELECT r.run_id
            FROM run AS r
            WHERE r.run_id = known.run_id
                AND r.xmin = known.version
                AND extract(epoch FROM clock_timestamp())::float8 - $92 BETWEEN $96 AND $97
            FOR UPDATE
        ) AS same ON true
        WHERE same.run_id IS NULL
        UNION ALL
        SELECT known.run_id
        FROM (
            SELECT n.run_id, n.seq, n.fence, n.worker
            FROM unnest($88::uuid[], $89::int[], $90::bigint[], $91::text[]) AS n (run_id, seq, fence, worker)
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
        FROM unnest($1::uuid[], $2::float8[], $3::int[], $4::text[], $5::bytea[])
            AS n (run_id, recorded_at, seq, type, body)
        WHERE n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
    ), put_task AS (
        INSERT INTO task (
            run_id, seq, namespace, task_queue, ready_at, fence, attempt, worker, leased_at, lease_until, heartbeat_at,
            start_to_close_s, heartbeat_s, start_by, close_by, deadline, sticky_worker, sticky_until
        )
        SELECT
            n.run_id, n.seq, n.namespace, n.task_queue, to_timestamp(n.ready_at), n.fence, n.attempt, n.worker,
            to_timestamp(n.leased_at), to_timestamp(n.lease_until), to_timestamp(n.heartbeat_at), n.start_to_close_s,
            n.heartbeat_s, to_timestamp(n.start_by), to_timestamp(n.close_by), to_timestamp(n.deadline), n.sticky_worker,
            to_timestamp(n.sticky_until)
        FROM unnest(
            $6::uuid[], $7::int[], $8::text[], $9::text[], $10::float8[], $11::bigint[], $12::int[], $13::text[],
            $14::float8[], $15::float8[], $16::float8[], $17::float8[], $18::float8[], $19::float8[], $20::float8[],
            $21::float8[], $22::text[], $23::float8[]
        ) AS n (
            run_id, seq, namespace, task_queue, ready_at, fence, attempt, worker, leased_at, lease_until, heartbeat_at,
            start_to_close_s, heartbeat_s, start_by, close_by, deadline, sticky_worker, sticky_until
        )
        WHERE n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
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
        USING unnest($24::uuid[], $25::int[]) AS n (run_id, seq)
        WHERE t.run_id = n.run_id AND t.seq = n.seq AND n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
    ), new_activity AS (
        INSERT INTO activity (
            run_id, seq, namespace, activity_id, name, task_queue, scheduled_seq, options, scheduled_at, status, attempt,
            is_cancel_requested, last_failure, heartbeat_details, last_heartbeat_at, closed_at, closed_fence
        )
        SELECT
            n.run_id, n.seq, n.namespace, n.activity_id, n.name, n.task_queue, n.scheduled_seq, n.options,
            to_timestamp(n.scheduled_at), n.status, n.attempt, n.is_cancel_requested, n.last_failure, n.heartbeat_details,
            to_timestamp(n.last_heartbeat_at), to_timestamp(n.closed_at), n.closed_fence
        FROM unnest(
            $26::uuid[], $27::int[], $28::text[], $29::text[], $30::text[], $31::text[], $32::int[], $33::bytea[],
            $34::float8[], $35::text[], $36::int[], $37::boolean[], $38::bytea[], $39::bytea[], $40::float8[],
            $41::float8[], $42::bigint[]
        ) AS n (
            run_id, seq, namespace, activity_id, name, task_queue, scheduled_seq, options, scheduled_at, status, attempt,
            is_cancel_requested, last_failure, heartbeat_details, last_heartbeat_at, closed_at, closed_fence
        )
        WHERE n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
    ), changed_activity AS (
        UPDATE activity AS a
        SET
            status = n.status,
            attempt = n.attempt,
            is_cancel_requested = n.is_cancel_requested,
            last_failure = n.last_failure,
            heartbeat_details = n.heartbeat_details,
            last_heartbeat_at = to_timestamp(n.last_heartbeat_at),
            closed_at = to_timestamp(n.closed_at),
            closed_fence = n.closed_fence
        FROM unnest(
            $43::uuid[], $44::int[], $45::text[], $46::int[], $47::boolean[], $48::bytea[], $49::bytea[], $50::float8[],
            $51::float8[], $52::bigint[]
        ) AS n (
            run_id, seq, status, attempt, is_cancel_requested, last_failure, heartbeat_details, last_heartbeat_at,
            closed_at, closed_fence
        )
        WHERE a.run_id = n.run_id AND a.seq = n.seq AND n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
    ), new_timer AS (
        INSERT INTO timer (run_id, seq, fire_at, state)
        SELECT n.run_id, n.seq, to_timestamp(n.fire_at), n.state
        FROM unnest($53::uuid[], $54::int[], $55::float8[], $56::smallint[]) AS n (run_id, seq, fire_at, state)
        WHERE n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
    ), settled_timer AS (
        UPDATE timer AS t
        SET state = n.state
        FROM unnest($57::uuid[], $58::int[], $59::smallint[]) AS n (run_id, seq, state)
        WHERE t.run_id = n.run_id AND t.seq = n.seq AND n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
    ), kept_request AS (
        INSERT INTO request (namespace, request_id, hash, run_id)
        SELECT n.namespace, n.request_id, n.hash, n.run_id
        FROM unnest($60::text[], $61::text[], $62::bytea[], $63::uuid[]) AS n (namespace, request_id, hash, run_id)
        WHERE n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
    ), owed AS (
        INSERT INTO outbox (run_id, first_seq, last_seq)
        SELECT n.run_id, n.first_seq, n.last_seq
        FROM unnest($64::uuid[], $65::int[], $66::int[]) AS n (run_id, first_seq, last_seq)
        WHERE n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
    ), counted AS (
        INSERT INTO tally (namespace, status, closed)
        SELECT n.namespace, n.status, count(*)
        FROM unnest($93::uuid[], $94::text[], $95::text[]) AS n (run_id, namespace, status)
        WHERE n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
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
        FROM unnest(
            $67::uuid[], $68::text[], $69::int[], $70::float8[], $71::int[], $72::int[], $73::bigint[], $74::int[], $75::bigint[],
            $76::int[], $77::int[], $78::int[], $79::int[], $80::boolean[], $81::text[], $82::int[], $83::bytea[],
            $84::text[], $85::float8[]
        ) AS n (
            run_id, status, last_seq, last_at, last_message_seq, command_seq, fence, done_seq, done_fence, done_marker,
            done_head, open_activities, open_timers, is_cancel_requested, sticky_worker, sticky_seq, task_failure,
            task_failure_cause, closed_at
        )
        WHERE run.run_id = n.run_id AND n.run_id NOT IN (SELECT m.run_id FROM moved AS m)
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
            run_id, namespace, workflow_id, workflow_type, task_queue, status, last_seq, last_at, last_message_seq,
            command_seq, fence, done_seq, done_fence, done_marker, done_head, open_activities, open_timers,
            is_cancel_requested, sticky_worker, sticky_seq, task_failure, task_failure_cause, request_id, request_hash,
            created_at, closed_at
        )
        SELECT
            n.run_id, n.namespace, n.workflow_id, n.workflow_type, n.task_queue, n.status, n.last_seq,
            to_timestamp(n.last_at), n.last_message_seq, n.command_seq, n.fence, n.done_seq, n.done_fence, n.done_marker,
            n.done_head, n.open_activities, n.open_timers, n.is_cancel_requested, n.sticky_worker, n.sticky_seq,
            n.task_failure, n.task_failure_cause, n.request_id, n.request_hash, to_timestamp(n.created_at),
            to_timestamp(n.closed_at)
        FROM unnest(
            $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::float8[],
            $9::int[], $10::int[], $11::bigint[], $12::int[], $13::bigint[], $14::int[], $15::int[], $16::int[],
            $17::int[], $18::boolean[], $19::text[], $20::int[], $21::bytea[], $22::text[], $23::text[], $24::bytea[],
            $25::float8[], $26::float8[]
        ) WITH ORDINALITY AS n (
            run_id, namespace, workflow_id, workflow_type, task_queue, status, last_seq, last_at, last_message_seq,
            command_seq, fence, done_seq, done_fence, done_marker, done_head, open_activities, open_timers,
            is_cancel_requested, sticky_worker, sticky_seq, task_failure, task_failure_cause, request_id, request_hash,
            created_at, closed_at, position
        )
        WHERE coalesce((
            SELECT NOT $60 AND r.run_id < n.run_id
            FROM run AS r
            WHERE r.namespace = n.namespace AND r.workflow_id = n.workflow_id
            ORDER BY r.run_id DESC
            LIMIT 1
        ), true)
            AND coalesce(extract(epoch FROM clock_timestamp())::float8 - $61 BETWEEN $62 AND $63, true)
        ORDER BY n.position  -- as the unique index has it: two batches with the same ids cannot deadlock
        ON CONFLICT (namespace, workflow_id) WHERE closed_at IS NULL DO NOTHING
        RETURNING run_id
    ), lost AS MATERIALIZED (
        SELECT n.run_id
        FROM unnest($1::uuid[]) AS n (run_id)
        WHERE n.run_id NOT IN (SELECT o.run_id FROM opened AS o)
    ), new_event AS (
        INSERT INTO event (run_id, recorded_at, seq, type, body)
        SELECT n.run_id, to_timestamp(n.recorded_at), n.seq, n.type, n.body
        FROM unnest($27::uuid[], $28::float8[], $29::int[], $30::text[], $31::bytea[])
            AS n (run_id, recorded_at, seq, type, body)
        WHERE n.run_id NOT IN (SELECT l.run_id FROM lost AS l)
    ), put_task AS (
        INSERT INTO task (
            run_id, seq, namespace, task_queue, ready_at, fence, attempt, worker, leased_at, lease_until, heartbeat_at,
            start_to_close_s, heartbeat_s, start_by, close_by, deadline, sticky_worker, sticky_until
        )
        SELECT
            n.run_id, n.seq, n.namespace, n.task_queue, to_timestamp(n.ready_at), n.fence, n.attempt, n.worker,
            to_timestamp(n.leased_at), to_timestamp(n.lease_until), to_timestamp(n.heartbeat_at), n.start_to_close_s,
            n.heartbeat_s, to_timestamp(n.start_by), to_timestamp(n.close_by), to_timestamp(n.deadline), n.sticky_worker,
            to_timestamp(n.sticky_until)
        FROM unnest(
            $32::uuid[], $33::int[], $34::text[], $35::text[], $36::float8[], $37::bigint[], $38::int[], $39::text[],
            $40::float8[], $41::float8[], $42::float8[], $43::float8[], $44::float8[], $45::float8[], $46::float8[],
            $47::float8[], $48::text[], $49::float8[]
        ) AS n (
            run_id, seq, namespace, task_queue, ready_at, fence, attempt, worker, leased_at, lease_until, heartbeat_at,
            start_to_close_s, heartbeat_s, start_by, close_by, deadline, sticky_worker, sticky_until
        )
        WHERE n.run_id NOT IN (SELECT l.run_id FROM lost AS l)
    ), kept_request AS (
        INSERT INTO request (namespace, request_id, hash, run_id)
        SELECT n.namespace, n.request_id, n.hash, n.run_id
        FROM unnest($50::text[], $51::text[], $52::bytea[], $53::uuid[]) AS n (namespace, request_id, hash, run_id)
        WHERE n.run_id NOT IN (SELECT l.run_id FROM lost AS l)
    ), owed AS (
        INSERT INTO outbox (run_id, first_seq, last_seq)
        SELECT n.run_id, n.first_seq, n.last_seq
        FROM unnest($54::uuid[], $55::int[], $56::int[]) AS n (run_id, first_seq, last_seq)
        WHERE n.run_id NOT IN (SELECT l.run_id FROM lost AS l)
    ), counted AS (
        INSERT INTO tally (namespace, status, closed)
        SELECT n.namespace, n.status, count(*)
        FROM unnest($57::uuid[], $58::text[], $59::text[]) AS n (run_id, namespace, status)
        WHERE n.run_id NOT IN (SELECT l.run_id FROM lost AS l)
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
    WHERE run_id = ANY($1::uuid[]) AND state = 0
    """
)
