"""Write everything that a batch changed: the only writer of workflow data.

One statement for the runs that exist and one for new runs, each with a step for every kind of row. They take
arrays, so a batch of any size, with any mix of kinds, is one round trip (two if it has both). Columns travel in
the order of the core's structs. Runs that schedules started take their slots along, with two more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from holdfast.core import state as s
from holdfast.store import slot_rows
from holdfast.store.session import Query, Session, Statement
from holdfast.wire import codec
from holdfast.wire import events as e

# NULL is an array without rows, too, and the cheapest one to send.
Array = Sequence[Any] | None


class Lost(msgspec.Struct, kw_only=True):
    """A new run that somebody else's run of the same workflow id kept out."""

    run_id: str


# What happened to runs that exist, and to what they own. The batch holds their locks.
CHANGE_RUNS = Statement(
    """
    WITH new_event AS (
        INSERT INTO event (run_id, recorded_at, seq, type, body)
        SELECT n.run_id, to_timestamp(n.recorded_at), n.seq, n.type, n.body
        FROM unnest($1::uuid[], $2::float8[], $3::int[], $4::text[], $5::bytea[])
            AS n (run_id, recorded_at, seq, type, body)
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
        USING unnest($24::uuid[], $25::int[]) AS gone (run_id, seq)
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
            $26::uuid[], $27::int[], $28::text[], $29::text[], $30::text[], $31::text[], $32::int[], $33::bytea[],
            $34::float8[], $35::text[], $36::int[], $37::boolean[], $38::bytea[], $39::bytea[], $40::float8[],
            $41::float8[], $42::bigint[]
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
            $43::uuid[], $44::int[], $45::text[], $46::int[], $47::boolean[], $48::bytea[], $49::bytea[], $50::float8[],
            $51::float8[], $52::bigint[]
        ) AS n (
            run_id, seq, status, attempt, is_cancel_requested, last_failure, heartbeat_details, last_heartbeat_at,
            closed_at, closed_fence
        )
        WHERE a.run_id = n.run_id AND a.seq = n.seq
    ), new_timer AS (
        INSERT INTO timer (run_id, seq, fire_at, state)
        SELECT n.run_id, n.seq, to_timestamp(n.fire_at), n.state
        FROM unnest($53::uuid[], $54::int[], $55::float8[], $56::smallint[]) AS n (run_id, seq, fire_at, state)
    ), settled_timer AS (
        UPDATE timer AS t
        SET state = n.state
        FROM unnest($57::uuid[], $58::int[], $59::smallint[]) AS n (run_id, seq, state)
        WHERE t.run_id = n.run_id AND t.seq = n.seq
    ), kept_request AS (
        INSERT INTO request (namespace, request_id, hash, run_id)
        SELECT n.namespace, n.request_id, n.hash, n.run_id
        FROM unnest($60::text[], $61::text[], $62::bytea[], $63::uuid[]) AS n (namespace, request_id, hash, run_id)
    ), owed AS (
        INSERT INTO outbox (run_id, first_seq, last_seq)
        SELECT n.run_id, n.first_seq, n.last_seq
        FROM unnest($64::uuid[], $65::int[], $66::int[]) AS n (run_id, first_seq, last_seq)
    ), counted AS (
        INSERT INTO tally (namespace, status, closed)
        SELECT n.namespace, n.status, count(*)
        FROM unnest($86::text[], $87::text[]) AS n (namespace, status)
        GROUP BY n.namespace, n.status
    )
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
    WHERE run.run_id = n.run_id
    """
)

# New runs, with what they own from the first moment on. One whose workflow id was opened (or even opened and closed)
# meanwhile by somebody else is left out with all its rows, and told: its request is decided again.
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


async def record(
    session: Session, states: Sequence[s.RunState], fired: Sequence[slot_rows.Fired] = ()
) -> set[str]:
    """Write what the batch changed. Returns the ids of new runs that lost the race for their workflow id.

    A batch that only opens runs is one statement and needs no transaction around it. *fired* are the slots of schedules,
    locked by this transaction, that some of the runs are of.
    Nothing of a lost run is written, nor its slot; its request is to be decided again in a new transaction.
    """
    existing = [state for state in states if not state.is_new]
    changes = _changes(existing)
    if changes:
        await session.begin()
        # Before new runs are opened, so that one batch can end a run and start the next of its workflow id.
        await session.run(CHANGE_RUNS, *changes)
    closing = [
        state
        for state in existing
        if state.run.closed_at is not None
        and state.is_touched
        and (state.run.open_activities or state.run.open_timers)
    ]
    if closing:
        await _close_open_work(session, closing)
    openings = _openings([state for state in states if state.is_new])
    lost = {row.run_id for row in await session.write(OPEN_RUNS, *openings)} if openings else set()
    kept = [fire for fire in fired if fire.run_id not in lost]
    if kept:
        await slot_rows.fire_slots(session, kept)
    return lost


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


def _changes(states: Sequence[s.RunState]) -> list[Array]:
    """The arrays of `CHANGE_RUNS`, empty if nothing is touched."""
    touched = [state.run for state in states if _is_written(state)]
    gone = [(st.run.run_id, q) for st in states for q in st.closed_tasks]
    changed = [st.activities[q] for st in states for q in st.touched_activities - st.opened_activities]
    settled = [st.timers[q] for st in states for q in st.touched_timers - st.opened_timers]
    tasks, requests, owed = _tasks(states), _requests(states), _owed(states)
    if not (touched or tasks or gone or changed or settled or requests or owed):
        return []
    return [
        *_transposed(_event_rows(states), 5),
        *_arrays(tasks, _TASK_ALL),
        *_transposed(gone, 2),
        *_arrays([st.activities[q] for st in states for q in st.opened_activities], _ACTIVITY_ALL),
        *_arrays(changed, _ACTIVITY_CHANGED),
        *_arrays([st.timers[q] for st in states for q in st.opened_timers], _TIMER_ALL),
        *_arrays(settled, _TIMER_CHANGED),
        *_arrays(requests, _REQUEST_ALL),
        *_transposed(owed, 3),
        *_arrays(touched, _RUN_CHANGED),
        *_transposed([row[1:] for row in _closings(states)], 2),
    ]


def _openings(states: Sequence[s.RunState]) -> list[Array]:
    """The arrays of `OPEN_RUNS`, empty if there are no new runs."""
    if not states:
        return []
    runs = sorted((state.run for state in states), key=lambda run: (run.namespace, run.workflow_id))
    return [
        *_arrays(runs, _RUN_ALL),
        *_transposed(_event_rows(states), 5),
        *_arrays(_tasks(states), _TASK_ALL),
        *_arrays(_requests(states), _REQUEST_ALL),
        *_transposed(_owed(states), 3),
        *_transposed(_closings(states), 3),
    ]


def _is_written(state: s.RunState) -> bool:
    """Whether the run's row is written: always, if one of a task or an activity is. `journal.lock` goes by its version."""
    return bool(
        state.is_touched
        or state.opened_tasks
        or state.touched_tasks
        or state.closed_tasks
        or state.opened_activities
        or state.touched_activities
    )


def _tasks(states: Sequence[s.RunState]) -> list[s.Task]:
    return [st.tasks[q] for st in states for q in (*st.opened_tasks, *st.touched_tasks) if q in st.tasks]


def _requests(states: Sequence[s.RunState]) -> list[s.KeptRequest]:
    return list(chain.from_iterable(state.new_requests for state in states))


def _closings(states: Sequence[s.RunState]) -> list[tuple[str, str, str]]:
    """The (run, namespace, status) of those that closed in this batch."""
    return [
        (state.run.run_id, state.run.namespace, state.run.status)
        for state in states
        if state.events and type(state.events[-1][1]) in e.CLOSING
    ]


def _owed(states: Sequence[s.RunState]) -> list[tuple[str, int, int]]:
    """The (run, first and last number) of the new events."""
    return [(state.run.run_id, state.first_new_seq, state.run.last_seq) for state in states if state.events]


def _arrays(rows: Sequence[msgspec.Struct], fields: tuple[int, ...]) -> list[Array]:
    """The values of *rows* as one array per field."""
    if not rows:
        return [None] * len(fields)
    arrays: list[Sequence[Any]] = list(zip(*map(msgspec.structs.astuple, rows), strict=True))
    if isinstance(rows[0], s.Activity):
        arrays[_OPTIONS] = [codec.encode(options) for options in arrays[_OPTIONS]]
        arrays[_FAILURE] = [
            None if failure is None else codec.encode(failure) for failure in arrays[_FAILURE]
        ]
    return [arrays[index] for index in fields]


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[Array]:
    return list(zip(*rows, strict=True)) if rows else [None] * width


def _event_rows(states: Sequence[s.RunState]) -> list[tuple[str, float, int, str, bytes]]:
    return [
        (state.run.run_id, at, seq, type(event).__name__, codec.encode_event(event))
        for state in states
        for seq, (at, event) in enumerate(state.events, state.first_new_seq)
    ]
