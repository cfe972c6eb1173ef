"""Write everything that a batch changed, in one statement: the only writer of workflow data.

`RECORD` has a step for each kind of row and takes arrays, so a batch of any size, with any
mix of kinds, is one round trip. Columns travel in the order of the core's structs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec

from holdfast.core import state as s
from holdfast.store.session import Query, Session, Statement
from holdfast.wire import codec


class Lost(msgspec.Struct, kw_only=True):
    """A new run that somebody else's run of the same workflow id kept out."""

    run_id: str


# A new run whose workflow id was opened (or even opened and closed) meanwhile by somebody else is left out with all
# its rows, and told: its request is decided again. `closed` goes before `opened`, so that one batch can end a run and start the next.
RECORD = Query(
    """
    WITH closed AS (
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
            $1::uuid[], $2::text[], $3::int[], $4::float8[], $5::int[], $6::int[], $7::bigint[], $8::int[], $9::bigint[],
            $10::int[], $11::int[], $12::int[], $13::int[], $14::boolean[], $15::text[], $16::int[], $17::bytea[],
            $18::text[], $19::float8[]
        ) AS n (
            run_id, status, last_seq, last_at, last_message_seq, command_seq, fence, done_seq, done_fence, done_marker,
            done_head, open_activities, open_timers, is_cancel_requested, sticky_worker, sticky_seq, task_failure,
            task_failure_cause, closed_at
        )
        WHERE run.run_id = n.run_id
        RETURNING run.run_id
    ), opened AS (
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
        FROM (SELECT count(*) FROM closed) AS first (count)
        CROSS JOIN unnest(
            $20::uuid[], $21::text[], $22::text[], $23::text[], $24::text[], $25::text[], $26::int[], $27::float8[],
            $28::int[], $29::int[], $30::bigint[], $31::int[], $32::bigint[], $33::int[], $34::int[], $35::int[],
            $36::int[], $37::boolean[], $38::text[], $39::int[], $40::bytea[], $41::text[], $42::text[], $43::bytea[],
            $44::float8[], $45::float8[]
        ) WITH ORDINALITY AS n (
            run_id, namespace, workflow_id, workflow_type, task_queue, status, last_seq, last_at, last_message_seq,
            command_seq, fence, done_seq, done_fence, done_marker, done_head, open_activities, open_timers,
            is_cancel_requested, sticky_worker, sticky_seq, task_failure, task_failure_cause, request_id, request_hash,
            created_at, closed_at, position
        )
        WHERE NOT coalesce((
            SELECT r.run_id > n.run_id
            FROM run AS r
            WHERE r.namespace = n.namespace AND r.workflow_id = n.workflow_id
            ORDER BY r.run_id DESC
            LIMIT 1
        ), false)
        ORDER BY n.position  -- as the unique index has it: two batches with the same ids cannot deadlock
        ON CONFLICT (namespace, workflow_id) WHERE closed_at IS NULL DO NOTHING
        RETURNING run_id
    ), lost AS MATERIALIZED (
        SELECT n.run_id
        FROM unnest($20::uuid[]) AS n (run_id)
        WHERE n.run_id NOT IN (SELECT o.run_id FROM opened AS o)
    ), new_event AS (
        INSERT INTO event (run_id, recorded_at, seq, type, body)
        SELECT n.run_id, to_timestamp(n.recorded_at), n.seq, n.type, n.body
        FROM unnest($46::uuid[], $47::float8[], $48::int[], $49::text[], $50::bytea[])
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
            $51::uuid[], $52::int[], $53::text[], $54::text[], $55::float8[], $56::bigint[], $57::int[], $58::text[],
            $59::float8[], $60::float8[], $61::float8[], $62::float8[], $63::float8[], $64::float8[], $65::float8[],
            $66::float8[], $67::text[], $68::float8[]
        ) AS n (
            run_id, seq, namespace, task_queue, ready_at, fence, attempt, worker, leased_at, lease_until, heartbeat_at,
            start_to_close_s, heartbeat_s, start_by, close_by, deadline, sticky_worker, sticky_until
        )
        WHERE n.run_id NOT IN (SELECT l.run_id FROM lost AS l)
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
        USING unnest($69::uuid[], $70::int[]) AS gone (run_id, seq)
        WHERE t.run_id = gone.run_id AND t.seq = gone.seq
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
            $71::uuid[], $72::int[], $73::text[], $74::text[], $75::text[], $76::text[], $77::int[], $78::bytea[],
            $79::float8[], $80::text[], $81::int[], $82::boolean[], $83::bytea[], $84::bytea[], $85::float8[],
            $86::float8[], $87::bigint[]
        ) AS n (
            run_id, seq, namespace, activity_id, name, task_queue, scheduled_seq, options, scheduled_at, status, attempt,
            is_cancel_requested, last_failure, heartbeat_details, last_heartbeat_at, closed_at, closed_fence
        )
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
            $88::uuid[], $89::int[], $90::text[], $91::int[], $92::boolean[], $93::bytea[], $94::bytea[], $95::float8[],
            $96::float8[], $97::bigint[]
        ) AS n (
            run_id, seq, status, attempt, is_cancel_requested, last_failure, heartbeat_details, last_heartbeat_at,
            closed_at, closed_fence
        )
        WHERE a.run_id = n.run_id AND a.seq = n.seq
    ), new_timer AS (
        INSERT INTO timer (run_id, seq, fire_at, state)
        SELECT n.run_id, n.seq, to_timestamp(n.fire_at), n.state
        FROM unnest($98::uuid[], $99::int[], $100::float8[], $101::smallint[]) AS n (run_id, seq, fire_at, state)
    ), settled_timer AS (
        UPDATE timer AS t
        SET state = n.state
        FROM unnest($102::uuid[], $103::int[], $104::smallint[]) AS n (run_id, seq, state)
        WHERE t.run_id = n.run_id AND t.seq = n.seq
    ), kept_request AS (
        INSERT INTO request (namespace, request_id, hash, run_id)
        SELECT n.namespace, n.request_id, n.hash, n.run_id
        FROM unnest($105::text[], $106::text[], $107::bytea[], $108::uuid[]) AS n (namespace, request_id, hash, run_id)
        WHERE n.run_id NOT IN (SELECT l.run_id FROM lost AS l)
    ), owed AS (
        INSERT INTO outbox (run_id, first_seq, last_seq)
        SELECT n.run_id, n.first_seq, n.last_seq
        FROM unnest($109::uuid[], $110::int[], $111::int[]) AS n (run_id, first_seq, last_seq)
        WHERE n.run_id NOT IN (SELECT l.run_id FROM lost AS l)
    )
    SELECT l.run_id::text AS run_id
    FROM lost AS l
    """,
    Lost,
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


async def record(session: Session, states: Sequence[s.RunState]) -> set[str]:
    """Write what the batch changed. Returns the ids of new runs that lost the race for their workflow id.

    A batch that locked nothing, and closes no open work, is one statement and needs no transaction around it.
    Nothing of a lost run is written; its request is to be decided again in a new transaction.
    """
    arguments = _arguments(states)
    if not _is_one_statement(states):
        await session.begin()
    lost = {row.run_id for row in await session.write(RECORD, *arguments)} if arguments else set()
    closing = [
        state
        for state in states
        if state.is_touched
        and state.run.closed_at is not None
        and (state.run.open_activities or state.run.open_timers)
        and state.run.run_id not in lost
    ]
    if closing:
        await _close_open_work(session, closing)
    return lost


def _is_one_statement(states: Iterable[s.RunState]) -> bool:
    return not any(
        state.run.closed_at is not None and (state.run.open_activities or state.run.open_timers)
        for state in states
    )


async def _close_open_work(session: Session, closing: Sequence[s.RunState]) -> None:
    by_id = {state.run.run_id: state for state in closing}
    for task in await session.rows(CLOSE_TASKS, list(by_id)):
        if task.worker is not None:
            by_id[task.run_id].cancel_pushes.append(task)
    await session.run(CLOSE_ACTIVITIES, list(by_id))
    await session.run(CLOSE_TIMERS, list(by_id))


def _fields(struct: type[msgspec.Struct], *names: str) -> tuple[int, ...]:
    """The positions of these fields (all by default)."""
    known = struct.__struct_fields__
    return tuple(known.index(name) for name in names) if names else tuple(range(len(known)))


# What an update may change, by position in the core's structs.
_RUN_ALL = _fields(s.Run)
_RUN_CHANGED = tuple(
    index
    for index, name in enumerate(s.Run.__struct_fields__)
    if name
    not in (
        "namespace",
        "workflow_id",
        "workflow_type",
        "task_queue",
        "request_id",
        "request_hash",
        "created_at",
    )
)
_TASK_ALL = _fields(s.Task)
_ACTIVITY_ALL = _fields(s.Activity)
_ACTIVITY_CHANGED = _fields(
    s.Activity,
    "run_id",
    "seq",
    "status",
    "attempt",
    "is_cancel_requested",
    "last_failure",
    "heartbeat_details",
    "last_heartbeat_at",
    "closed_at",
    "closed_fence",
)
_TIMER_ALL = _fields(s.Timer)
_TIMER_CHANGED = _fields(s.Timer, "run_id", "seq", "state")
_REQUEST_ALL = _fields(s.KeptRequest)
_OPTIONS, _FAILURE = _fields(s.Activity, "options", "last_failure")


def _arguments(states: Sequence[s.RunState]) -> list[Sequence[Any]]:
    """The arrays of `RECORD`, empty if nothing is touched."""
    touched = [state.run for state in states if state.is_touched and not state.is_new]
    new = sorted(
        (state.run for state in states if state.is_new), key=lambda run: (run.namespace, run.workflow_id)
    )
    tasks = [st.tasks[q] for st in states for q in (*st.opened_tasks, *st.touched_tasks) if q in st.tasks]
    gone = [(st.run.run_id, q) for st in states for q in st.closed_tasks]
    activities = [st.activities[q] for st in states for q in st.opened_activities]
    changed = [st.activities[q] for st in states for q in st.touched_activities - st.opened_activities]
    timers = [st.timers[q] for st in states for q in st.opened_timers]
    settled = [st.timers[q] for st in states for q in st.touched_timers - st.opened_timers]
    requests = list(chain.from_iterable(st.new_requests for st in states))
    owed = [(st.run.run_id, st.first_new_seq, st.run.last_seq) for st in states if st.events]
    if not (touched or new or tasks or gone or changed or settled or requests or owed):
        return []
    return [
        *_arrays(touched, _RUN_CHANGED),
        *_arrays(new, _RUN_ALL),
        *_transposed(_event_rows(states), 5),
        *_arrays(tasks, _TASK_ALL),
        *_transposed(gone, 2),
        *_arrays(activities, _ACTIVITY_ALL),
        *_arrays(changed, _ACTIVITY_CHANGED),
        *_arrays(timers, _TIMER_ALL),
        *_arrays(settled, _TIMER_CHANGED),
        *_arrays(requests, _REQUEST_ALL),
        *_transposed(owed, 3),
    ]


def _arrays(rows: Sequence[msgspec.Struct], fields: tuple[int, ...]) -> list[Sequence[Any]]:
    """The values of *rows* as one array per field."""
    if not rows:
        return [()] * len(fields)
    arrays: list[Sequence[Any]] = list(zip(*map(msgspec.structs.astuple, rows), strict=True))
    if isinstance(rows[0], s.Activity):
        arrays[_OPTIONS] = [codec.encode(options) for options in arrays[_OPTIONS]]
        arrays[_FAILURE] = [
            None if failure is None else codec.encode(failure) for failure in arrays[_FAILURE]
        ]
    return [arrays[index] for index in fields]


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _event_rows(states: Sequence[s.RunState]) -> list[tuple[str, float, int, str, bytes]]:
    return [
        (state.run.run_id, at, seq, type(event).__name__, codec.encode_event(event))
        for state in states
        for seq, (at, event) in enumerate(state.events, state.first_new_seq)
    ]
