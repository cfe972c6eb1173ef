"""Timers that were written through the contract. Firing one tells who asks; it starts nothing by itself."""

from __future__ import annotations

import msgspec

from holdfast.core.state import TIMER_OPEN
from holdfast.store.contract.addressing import lock, lock_known, not_driven
from holdfast.store.contract.door import check_address, check_moment, check_number
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Query
from holdfast.wire import codec
from holdfast.wire.codec import SEQ_MAX
from holdfast.wire.records import WorkflowTimer

FIRED_MAX = 1_000
LIMIT_MAX = 10_000


class TimerRow(msgspec.Struct, kw_only=True):
    """A timer with the run it belongs to."""

    id: int
    namespace: str
    run_id: str
    workflow_id: str
    seq: int
    fire_at: float


class TimerId(msgspec.Struct, kw_only=True):
    """The numbers of a timer: the store's, and the run's own."""

    id: int
    seq: int


FIND_TIMER = Query(
    """
    SELECT t.id, t.seq
    FROM record_timer AS t
    WHERE t.run_id = $1::uuid AND t.seq = $2
    """,
    TimerId,
)

INSERT_TIMER = Query(
    """
    INSERT INTO record_timer (run_id, seq, fire_at, state)
    VALUES ($1::uuid, $2, $3, CASE WHEN $4::boolean THEN 1 ELSE 0 END)
    RETURNING id, seq
    """,
    TimerId,
)

# The engine's own timer is shown where the contract has none of that number.
READ_TIMER = Query(
    """
    WITH named AS MATERIALIZED (
        SELECT r.run_id, r.workflow_id
        FROM run AS r
        WHERE r.namespace = $1 AND r.workflow_id = $2 AND ($3::uuid IS NULL OR r.run_id = $3)
        ORDER BY r.run_id DESC
        LIMIT 1
    )
    SELECT
        w.id,
        n.workflow_id,
        $4::int AS seq,
        coalesce(w.fire_at, extract(epoch FROM e.fire_at)::float8) AS fire_at,
        coalesce(w.state, e.state) <> 0 AS fired
    FROM named AS n
    LEFT JOIN LATERAL (
        SELECT record_timer.id, record_timer.fire_at, record_timer.state
        FROM record_timer
        WHERE record_timer.run_id = n.run_id AND record_timer.seq = $4
        OFFSET 0
    ) AS w ON true
    LEFT JOIN LATERAL (
        SELECT timer.run_id, timer.fire_at, timer.state
        FROM timer
        WHERE timer.run_id = n.run_id AND timer.seq = $4
        OFFSET 0
    ) AS e ON true
    WHERE w.id IS NOT NULL OR e.run_id IS NOT NULL
    """,
    WorkflowTimer,
)

# Each run is looked up by itself, as its timer's turn comes: an EXISTS would become a join, which may begin with all
# the runs.
FIRE_TIMERS = Query(
    """
    WITH due AS (
        SELECT t.id
        FROM record_timer AS t
        WHERE t.state = 0
            AND t.fire_at <= $1
            AND (
                SELECT r.closed_at IS NULL AND n.name IS NOT NULL AND ($3::text IS NULL OR r.namespace = $3)
                FROM run AS r
                LEFT JOIN namespace AS n ON n.name = r.namespace
                WHERE r.run_id = t.run_id
            )
        ORDER BY t.fire_at, t.id
        LIMIT $2
        FOR UPDATE OF t SKIP LOCKED  -- somebody else fires or cancels it right now
    ), fired AS (
        UPDATE record_timer AS t
        SET state = 1
        FROM due
        WHERE t.id = due.id
        RETURNING t.id, t.run_id, t.seq, t.fire_at
    )
    SELECT f.id, r.namespace, f.run_id::text AS run_id, r.workflow_id, f.seq, f.fire_at
    FROM fired AS f
    JOIN run AS r ON r.run_id = f.run_id
    ORDER BY f.fire_at, f.id
    """,
    TimerRow,
)

CANCEL_TIMERS = Query(
    """
    WITH cancelled AS (
        UPDATE record_timer AS t
        SET state = 2
        WHERE t.run_id = $1::uuid AND t.state = $2::int  -- bound: the index of all open ones is not the one to use
        RETURNING t.id, t.seq
    )
    SELECT c.id, c.seq
    FROM cancelled AS c
    ORDER BY c.seq
    """,
    TimerId,
)


async def cancel_pending_timers(
    store: Opened, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> int:
    """How many timers of the run will not fire any more; they read as fired from now on. 0 for an unknown workflow.

    Raises `Refused` for an open run that the engine drives.
    """
    async with store.writing() as writing:
        run = await lock(writing, namespace, workflow_id, run_id)
        if run is None:
            return 0
        if not run.is_closed:
            not_driven(run, "cancel its timers")
        cancelled = await writing.rows(CANCEL_TIMERS, run.run_id, TIMER_OPEN)
        for timer in cancelled:
            _tell(writing, namespace, "TimerCancelled", timer.id, run.workflow_id, run.run_id, timer.seq)
        return len(cancelled)


async def create_timer(
    store: Opened, timer: WorkflowTimer, *, namespace: str = "main", run_id: str | None = None
) -> int:
    """The number of the timer that has this `seq` in the run, made unless there is one; the first `fire_at` stays.

    Raises `NotFound` for an unknown workflow.
    """
    check_number("seq of the timer", timer.seq, 0, SEQ_MAX)
    check_moment("fire_at", timer.fire_at)
    async with store.writing() as writing:
        run = await lock_known(writing, namespace, timer.workflow_id, run_id)
        found = await writing.one(FIND_TIMER, run.run_id, timer.seq)
        if found is not None:
            return found.id
        (made,) = await writing.rows(INSERT_TIMER, run.run_id, timer.seq, timer.fire_at, timer.fired)
        _tell(
            writing,
            namespace,
            "TimerCreated",
            made.id,
            run.workflow_id,
            run.run_id,
            timer.seq,
            fire_at=timer.fire_at,
        )
        return made.id


async def get_timer_by_workflow_seq(
    store: Opened, workflow_id: str, seq: int, *, namespace: str = "main", run_id: str | None = None
) -> WorkflowTimer | None:
    """The timer with this number in the run, or None. One that the engine made has no `id`."""
    check_address(namespace, workflow_id, run_id)
    if not 0 <= seq <= SEQ_MAX:
        return None
    return await store.one(READ_TIMER, namespace, workflow_id, run_id, seq)


async def fire_due_timers(
    store: Opened, now: float, *, limit: int = FIRED_MAX, namespace: str | None = None
) -> list[WorkflowTimer]:
    """The timers that were to fire at *now* or earlier, the earliest first; they have fired from now on.

    Each is returned once, whoever asks; at most *limit* at a time. Never one of a closed run or of a deleted
    namespace. Without *namespace* those of all come together, and `workflow_id` alone does not tell them apart.
    """
    check_moment("now", now)
    if namespace is not None:
        codec.check_text("namespace", namespace)
    check_number("limit", limit, 1, LIMIT_MAX)
    async with store.writing() as writing:
        fired = await writing.rows(FIRE_TIMERS, now, limit, namespace)
        for row in fired:
            _tell(writing, row.namespace, "TimerFired", row.id, row.workflow_id, row.run_id, row.seq)
        return [
            WorkflowTimer(
                id=row.id, workflow_id=row.workflow_id, seq=row.seq, fire_at=row.fire_at, fired=True
            )
            for row in fired
        ]


def _tell(
    writing: Writing,
    namespace: str,
    fact: str,
    id: int,
    workflow_id: str,
    run_id: str,
    seq: int,
    **fields: object,
) -> None:
    writing.tell(namespace, fact, "timer", str(id), workflow_id=workflow_id, run_id=run_id, seq=seq, **fields)
