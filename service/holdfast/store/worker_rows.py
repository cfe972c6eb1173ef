"""The engine's own statements about workers: what they announce, and when they were last heard of, many at once.

A journal entry goes with the row that it tells of; that somebody was heard of again is not told.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.store.session import Pool, Query
from holdfast.wire import codec
from holdfast.wire.records import JournalEntry

KIND = "worker"


class Announced(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says it is; None for types means that it did not say, or takes any."""

    id: str
    namespace: str
    identity: str
    task_queue: str
    workflows: tuple[str, ...] | None
    activities: tuple[str, ...] | None
    max_concurrent_workflows: int
    max_concurrent_activities: int


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as it was heard of `silent_s` seconds ago."""

    id: str
    namespace: str
    active_tasks: int
    silent_s: float


class WorkerId(msgspec.Struct, kw_only=True):
    """A worker whose row was written."""

    id: str


class Cutoff(msgspec.Struct, kw_only=True):
    """Somebody was last heard of before this, in epoch seconds."""

    cutoff: float


# Several processes hear the same worker: only the first to write what it says, or what is new about it, tells of it.
ANNOUNCE = Query(
    """
    WITH said AS (
        SELECT
            s.id, s.namespace, s.identity, s.task_queue, s.max_concurrent_workflows, s.max_concurrent_activities,
            s.active_tasks, s.entry,
            CASE WHEN s.workflows IS NOT NULL THEN ARRAY(
                SELECT e.name
                FROM jsonb_array_elements_text(s.workflows::jsonb) WITH ORDINALITY AS e (name, position)
                ORDER BY e.position
            ) END AS workflows,
            CASE WHEN s.activities IS NOT NULL THEN ARRAY(
                SELECT e.name
                FROM jsonb_array_elements_text(s.activities::jsonb) WITH ORDINALITY AS e (name, position)
                ORDER BY e.position
            ) END AS activities,
            extract(epoch FROM now())::float8 - s.silent_s AS heard_at
        FROM unnest(
            $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::int[], $9::int[],
            $10::float8[], $11::bytea[]
        ) AS s (
            id, namespace, identity, task_queue, workflows, activities, max_concurrent_workflows,
            max_concurrent_activities, active_tasks, silent_s, entry
        )
    ), announced AS (
        INSERT INTO worker AS w (
            id, namespace, identity, task_queue, workflows, activities, max_concurrent_workflows,
            max_concurrent_activities, active_tasks, last_heartbeat, registered_at
        )
        SELECT
            s.id, s.namespace, s.identity, s.task_queue, s.workflows, s.activities, s.max_concurrent_workflows,
            s.max_concurrent_activities, s.active_tasks, s.heard_at, s.heard_at
        FROM said AS s
        ORDER BY s.id
        ON CONFLICT (id) DO UPDATE
        SET
            namespace = excluded.namespace,
            identity = excluded.identity,
            task_queue = excluded.task_queue,
            workflows = excluded.workflows,
            activities = excluded.activities,
            max_concurrent_workflows = excluded.max_concurrent_workflows,
            max_concurrent_activities = excluded.max_concurrent_activities,
            active_tasks = excluded.active_tasks,
            last_heartbeat = greatest(w.last_heartbeat, excluded.last_heartbeat)
        WHERE (
            w.namespace, w.identity, w.task_queue, w.workflows, w.activities, w.max_concurrent_workflows,
            w.max_concurrent_activities
        ) IS DISTINCT FROM (
            excluded.namespace, excluded.identity, excluded.task_queue, excluded.workflows, excluded.activities,
            excluded.max_concurrent_workflows, excluded.max_concurrent_activities
        )
        RETURNING w.id
    ), told AS (
        INSERT INTO journal (namespace, record, entry)
        SELECT s.namespace, $12, s.entry
        FROM said AS s
        JOIN announced AS a ON a.id = s.id
        ORDER BY s.id
    )
    SELECT a.id
    FROM announced AS a
    """,
    WorkerId,
)

REFRESH = Query(
    """
    WITH heard AS (
        SELECT h.id, h.namespace, h.active_tasks, h.silent_s
        FROM unnest($1::text[], $2::text[], $3::int[], $4::float8[]) AS h (id, namespace, active_tasks, silent_s)
    ), known AS (
        SELECT w.id
        FROM worker AS w
        JOIN heard AS h ON h.id = w.id AND h.namespace = w.namespace
        ORDER BY w.id  -- as whoever removes them locks them
        FOR UPDATE OF w
    )
    UPDATE worker AS w
    SET
        active_tasks = h.active_tasks,
        last_heartbeat = greatest(w.last_heartbeat, extract(epoch FROM now())::float8 - h.silent_s)
    FROM heard AS h
    JOIN known AS k ON k.id = h.id
    WHERE w.id = h.id
    RETURNING w.id
    """,
    WorkerId,
)

TAKE_LEAVE = Query(
    """
    WITH leaving AS (
        SELECT l.id, l.entry
        FROM unnest($1::text[], $2::bytea[]) AS l (id, entry)
    ), locked AS (
        SELECT w.id
        FROM worker AS w
        JOIN leaving AS l ON l.id = w.id
        ORDER BY w.id
        FOR UPDATE OF w
    ), gone AS (
        DELETE FROM worker AS w
        USING locked AS k
        WHERE w.id = k.id
        RETURNING w.id, w.namespace
    ), told AS (
        INSERT INTO journal (namespace, record, entry)
        SELECT g.namespace, $3, l.entry
        FROM gone AS g
        JOIN leaving AS l ON l.id = g.id
        ORDER BY g.id
    )
    SELECT g.id
    FROM gone AS g
    """,
    WorkerId,
)

IS_ANY_SILENT = Query(
    """
    SELECT extract(epoch FROM now())::float8 - $1::float8 AS cutoff
    FROM worker AS w
    WHERE w.last_heartbeat < extract(epoch FROM now())::float8 - $1::float8
    ORDER BY w.last_heartbeat
    LIMIT 1
    """,
    Cutoff,
)


async def announce(pool: Pool, workers: Sequence[tuple[Announced, Presence]]) -> set[str]:
    """Write down what is new, one worker per id; the ids of those of whom something was. Others stay as they are."""
    rows = await pool.rows(
        ANNOUNCE,
        [who.id for who, _ in workers],
        [who.namespace for who, _ in workers],
        [who.identity for who, _ in workers],
        [who.task_queue for who, _ in workers],
        [_names(who.workflows) for who, _ in workers],
        [_names(who.activities) for who, _ in workers],
        [who.max_concurrent_workflows for who, _ in workers],
        [who.max_concurrent_activities for who, _ in workers],
        [seen.active_tasks for _, seen in workers],
        [seen.silent_s for _, seen in workers],
        [_entry("WorkerRegistered", who.id, task_queue=who.task_queue) for who, _ in workers],
        KIND,
    )
    return {row.id for row in rows}


async def refresh(pool: Pool, seen: Sequence[Presence]) -> set[str]:
    """Write down when each was last heard of; the ids of those who have a row."""
    rows = await pool.rows(
        REFRESH,
        [one.id for one in seen],
        [one.namespace for one in seen],
        [one.active_tasks for one in seen],
        [one.silent_s for one in seen],
    )
    return {row.id for row in rows}


async def take_leave(pool: Pool, ids: Sequence[str]) -> set[str]:
    """Remove those that said goodbye; the ids of those who had a row. What they still hold is theirs to end."""
    rows = await pool.rows(TAKE_LEAVE, list(ids), [_entry("WorkerRemoved", worker) for worker in ids], KIND)
    return {row.id for row in rows}


async def cutoff_if_silent(pool: Pool, silent_s: float) -> float | None:
    """The time that was *silent_s* ago, in epoch seconds, if a worker was not heard of since; else None."""
    rows = await pool.rows(IS_ANY_SILENT, silent_s)
    return rows[0].cutoff if rows else None


def _names(names: tuple[str, ...] | None) -> str | None:
    return None if names is None else msgspec.json.encode(names).decode()


def _entry(fact: str, worker: str, **fields: object) -> bytes:
    return codec.encode(JournalEntry(fact=fact, record=KIND, key=worker, fields=fields))
