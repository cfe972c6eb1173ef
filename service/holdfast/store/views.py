"""Reads for people and programs: history, descriptions, lists, outcomes. Nothing is locked."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.store.session import Pool, Query, Session


class EventRow(msgspec.Struct, kw_only=True):
    """A stored event, still encoded."""

    run_id: str
    seq: int
    recorded_at: float
    type: str
    body: bytes


class RunRow(msgspec.Struct, kw_only=True):
    """A run as it is shown. `was_claimed` tells PENDING from RUNNING before the first report."""

    run_id: str
    workflow_id: str
    workflow_type: str
    task_queue: str
    status: str
    was_claimed: bool
    created_at: float
    closed_at: float | None
    last_seq: int
    task_failure_cause: str | None
    task_failure: bytes | None
    sticky_worker: str | None
    is_cancel_requested: bool
    search_attributes: str | None
    memo: str | None
    now: float


class OpenTask(msgspec.Struct, kw_only=True):
    """An open task of a run."""

    seq: int
    attempt: int
    worker: str | None
    ready_at: float
    leased_at: float | None


class OpenActivity(msgspec.Struct, kw_only=True):
    """An open activity of a run."""

    seq: int
    activity_id: str
    name: str
    task_queue: str
    scheduled_at: float
    options: bytes
    last_failure: bytes | None
    last_heartbeat_at: float | None
    heartbeat_details: bytes
    is_cancel_requested: bool


class OpenTimer(msgspec.Struct, kw_only=True):
    """An open timer of a run."""

    seq: int
    fire_at: float


class RunAndWork(msgspec.Struct, kw_only=True):
    """A run with its open work, all as of one moment."""

    run: RunRow
    tasks: list[OpenTask]
    activities: list[OpenActivity]
    timers: list[OpenTimer]


class OutcomeRow(msgspec.Struct, kw_only=True):
    """How far a run has come, with its last event if it is closed, wherever the others are."""

    run_id: str
    status: str
    last_seq: int
    closed_at: float | None
    recorded_at: float | None
    body: bytes | None


class Name(msgspec.Struct, kw_only=True):
    """A namespace with its feed setting."""

    name: str
    feed: str


class TypeName(msgspec.Struct, kw_only=True):
    """The type of an event."""

    name: str


# A body is looked at only if it goes: the size of a large one is known without reading it.
READ_EVENTS = Query(
    """
    SELECT
        e.run_id::text AS run_id,
        e.seq,
        extract(epoch FROM e.recorded_at)::float8 AS recorded_at,
        e.type,
        e.body
    FROM (
        SELECT
            asked.position,
            e.*,
            sum(e.size) OVER (ORDER BY asked.position, e.seq ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
        FROM unnest($1::uuid[], $2::int[], $3::int[]) WITH ORDINALITY AS asked (run_id, after, upto, position)
        CROSS JOIN LATERAL (
            SELECT
                e.run_id,
                e.seq,
                e.recorded_at,
                e.type,
                e.body,
                octet_length(e.body) AS size,
                sum(octet_length(e.body)) OVER (ORDER BY e.seq ROWS UNBOUNDED PRECEDING)
                    - octet_length(e.body) AS own_bytes_before
            FROM event AS e
            WHERE e.run_id = asked.run_id AND e.seq > asked.after AND e.seq <= asked.upto
            ORDER BY e.seq
            LIMIT $4
        ) AS e
        WHERE e.own_bytes_before <= $5
    ) AS e
    WHERE e.bytes_before <= $6
    ORDER BY e.position, e.seq
    """,
    EventRow,
)


async def read_events(
    pool: Pool | Session,
    asked: Sequence[tuple[str, int, int]],
    *,
    limit: int,
    run_bytes: int,
    total_bytes: int,
) -> list[EventRow]:
    """The events of each (run, after, upto), in order: at most *limit* of each, and none behind so many bytes of
    each or of all. An event that is larger than that goes all the same if it is the first.
    """
    return await pool.rows(
        READ_EVENTS,
        [run_id for run_id, _, _ in asked],
        [after for _, after, _ in asked],
        [upto for _, _, upto in asked],
        limit,
        run_bytes,
        total_bytes,
    )


EVENT_TYPES = Query(
    """
    SELECT e.type AS name
    FROM event AS e
    WHERE e.run_id = $1::uuid AND e.seq BETWEEN $2::int AND $3::int
    ORDER BY e.seq
    """,
    TypeName,
)


async def event_types(pool: Pool, run_id: str, first_seq: int, last_seq: int) -> list[str]:
    """The types of these events, in order."""
    return [row.name for row in await pool.rows(EVENT_TYPES, run_id, first_seq, last_seq)]


FIND_RUN = Query(
    """
    SELECT
        r.run_id::text AS run_id,
        r.workflow_id,
        r.workflow_type,
        r.task_queue,
        r.status,
        EXISTS (
            SELECT 1 FROM task AS t WHERE t.run_id = r.run_id AND t.seq = 0 AND (t.worker IS NOT NULL OR t.attempt > 1)
        ) AS was_claimed,
        extract(epoch FROM r.created_at)::float8 AS created_at,
        extract(epoch FROM r.closed_at)::float8 AS closed_at,
        r.last_seq,
        r.task_failure_cause,
        r.task_failure,
        r.sticky_worker,
        r.is_cancel_requested,
        c.search_attributes,
        c.memo,
        extract(epoch FROM now())::float8 AS now
    FROM run AS r
    LEFT JOIN LATERAL (
        SELECT record.search_attributes, record.memo
        FROM record
        WHERE record.run_id = r.run_id
        OFFSET 0
    ) AS c ON true
    WHERE r.namespace = $1
        AND r.workflow_id = $2
        AND ($3::uuid IS NULL OR r.run_id = $3)
    ORDER BY r.run_id DESC
    LIMIT 1
    """,
    RunRow,
)

OPEN_TASKS = Query(
    """
    SELECT
        t.seq,
        t.attempt,
        t.worker,
        extract(epoch FROM t.ready_at)::float8 AS ready_at,
        extract(epoch FROM t.leased_at)::float8 AS leased_at
    FROM task AS t
    WHERE t.run_id = $1::uuid
    ORDER BY t.seq
    """,
    OpenTask,
)

OPEN_ACTIVITIES = Query(
    """
    SELECT
        a.seq,
        a.activity_id,
        a.name,
        a.task_queue,
        extract(epoch FROM a.scheduled_at)::float8 AS scheduled_at,
        a.options,
        a.last_failure,
        extract(epoch FROM a.last_heartbeat_at)::float8 AS last_heartbeat_at,
        a.heartbeat_details,
        a.is_cancel_requested
    FROM activity AS a
    WHERE a.run_id = $1::uuid AND a.closed_at IS NULL
    ORDER BY a.seq
    """,
    OpenActivity,
)

OPEN_TIMERS = Query(
    """
    SELECT t.seq, extract(epoch FROM t.fire_at)::float8 AS fire_at
    FROM timer AS t
    WHERE t.run_id = $1::uuid AND t.seq > 0 AND t.state < 1  -- not = 0: the index of all open timers is not the one to use
    ORDER BY t.seq
    """,
    OpenTimer,
)


async def find_run(pool: Pool, namespace: str, workflow_id: str, run_id: str | None) -> RunRow | None:
    """The newest run of the id, or *run_id* if it belongs to it."""
    rows = await pool.rows(FIND_RUN, namespace, workflow_id, run_id)
    return rows[0] if rows else None


async def find_run_and_work(
    pool: Pool, namespace: str, workflow_id: str, run_id: str | None
) -> RunAndWork | None:
    """As `find_run`, with what the run still has to do at the same moment."""
    async with pool.snapshot() as session:
        rows = await session.rows(FIND_RUN, namespace, workflow_id, run_id)
        if not rows:
            return None
        run = rows[0]
        return RunAndWork(
            run=run,
            tasks=await session.rows(OPEN_TASKS, run.run_id),
            activities=await session.rows(OPEN_ACTIVITIES, run.run_id),
            timers=await session.rows(OPEN_TIMERS, run.run_id),
        )


OUTCOMES = Query(
    """
    SELECT
        r.run_id::text AS run_id,
        r.status,
        r.last_seq,
        extract(epoch FROM r.closed_at)::float8 AS closed_at,
        extract(epoch FROM coalesce(e.recorded_at, r.closed_at))::float8 AS recorded_at,
        coalesce(e.body, c.closing) AS body
    FROM run AS r
    LEFT JOIN event AS e ON r.closed_at IS NOT NULL AND e.run_id = r.run_id AND e.seq = r.last_seq
    LEFT JOIN LATERAL (
        SELECT record.closing
        FROM record
        WHERE r.archived_at IS NOT NULL AND record.run_id = r.run_id
        OFFSET 0
    ) AS c ON true
    WHERE r.run_id = ANY($1::uuid[])
    """,
    OutcomeRow,
)


async def outcomes(pool: Pool, run_ids: Sequence[str]) -> dict[str, OutcomeRow]:
    """How far each run has come."""
    return {row.run_id: row for row in await pool.rows(OUTCOMES, list(run_ids))}


NAMESPACES = Query("SELECT n.name, n.feed FROM namespace AS n ORDER BY n.name", Name)


async def namespaces(pool: Pool) -> dict[str, str]:
    """Every namespace with its feed setting."""
    return {row.name: row.feed for row in await pool.rows(NAMESPACES)}
