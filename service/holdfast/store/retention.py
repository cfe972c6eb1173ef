"""What the archiver looks at: whose closed runs are kept no longer, what is owed of them, and where archived ones lie."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.store.session import Pool, Query


class Term(msgspec.Struct, kw_only=True):
    """How long a namespace keeps closed runs. `past_s`: by how much its oldest is past that; negative while none is."""

    namespace: str
    retention_s: float
    now: float
    past_s: float


class OwedRun(msgspec.Struct, kw_only=True):
    """A run of which the change feed still owes something."""

    run_id: str


class Size(msgspec.Struct, kw_only=True):
    """About how many bytes a run's rows hold."""

    run_id: str
    size: int


class Pointer(msgspec.Struct, kw_only=True):
    """Where a run was archived."""

    archive_uri: str


class ArchivedRun(msgspec.Struct, kw_only=True):
    """A run that was archived. Times are epoch seconds."""

    workflow_id: str
    run_id: str
    workflow_type: str
    status: str
    closed_at: float
    archived_at: float
    archive_uri: str


# From the oldest run of one namespace to that of the next: as many probes as there are namespaces with closed runs.
# Those of a namespace that was deleted are kept as long as the service says.
TERMS = Query(
    """
    WITH RECURSIVE oldest AS (
        (
            SELECT r.namespace, r.closed_at
            FROM run AS r
            WHERE r.closed_at IS NOT NULL AND r.archived_at IS NULL
            ORDER BY r.namespace, r.closed_at
            LIMIT 1
        )
        UNION ALL
        SELECT n.namespace, n.closed_at
        FROM oldest AS o
        CROSS JOIN LATERAL (
            SELECT r.namespace, r.closed_at
            FROM run AS r
            WHERE r.closed_at IS NOT NULL AND r.archived_at IS NULL AND r.namespace > o.namespace
            ORDER BY r.namespace, r.closed_at
            LIMIT 1
        ) AS n
    )
    SELECT t.namespace, t.retention_s, t.now, t.now - t.closed_at - t.retention_s AS past_s
    FROM (
        SELECT
            o.namespace,
            coalesce(n.retention_s, $1::float8) AS retention_s,
            extract(epoch FROM clock_timestamp())::float8 AS now,
            extract(epoch FROM o.closed_at)::float8 AS closed_at
        FROM oldest AS o
        LEFT JOIN LATERAL (
            SELECT namespace.retention_s
            FROM namespace
            WHERE namespace.name = o.namespace
            OFFSET 0
        ) AS n ON true
    ) AS t
    ORDER BY past_s DESC
    """,
    Term,
)


async def terms(pool: Pool, retention_s: float) -> list[Term]:
    """Every namespace that has closed runs in Postgres, the one that is furthest past its term first.

    *retention_s* is for those that have no term of their own.
    """
    return await pool.rows(TERMS, retention_s)


# No index by run: the outbox is short, and each of its rows is written on the hot path. It is read once a batch.
OWED = Query(
    """
    SELECT o.run_id::text AS run_id
    FROM outbox AS o
    WHERE o.run_id = ANY($1::uuid[])
    """,
    OwedRun,
)


async def owed_runs(pool: Pool, run_ids: Sequence[str]) -> set[str]:
    """Those of these runs whose events were not all published: once it is closed, a run does not join them again."""
    return {row.run_id for row in await pool.rows(OWED, list(run_ids))}


# Told by the heads of the values: none of them is read.
SIZES = Query(
    """
    SELECT
        asked.run_id::text AS run_id,
        (history.size + events.size + activities.size + signals.size + snapshots.size)::bigint AS size
    FROM unnest($1::uuid[]) AS asked (run_id)
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(octet_length(v.body)), 0) AS size
        FROM event AS v
        WHERE v.run_id = asked.run_id
    ) AS history
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(octet_length(v.payload)), 0) AS size
        FROM record_event AS v
        WHERE v.run_id = asked.run_id
    ) AS events
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(coalesce(octet_length(a.input), 0) + coalesce(octet_length(a.result), 0)), 0) AS size
        FROM record_activity AS a
        WHERE a.run_id = asked.run_id
    ) AS activities
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(octet_length(s.payload)), 0) AS size
        FROM record_signal AS s
        WHERE s.run_id = asked.run_id
    ) AS signals
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(octet_length(s.state_json)), 0) AS size
        FROM snapshot AS s
        WHERE s.run_id = asked.run_id
    ) AS snapshots
    """,
    Size,
)


async def sizes(pool: Pool, run_ids: Sequence[str]) -> dict[str, int]:
    """About how many bytes the rows of each run hold, so that nobody reads more than fits into memory."""
    return {row.run_id: row.size for row in await pool.rows(SIZES, list(run_ids))}


POINTER = Query(
    """
    SELECT c.archive_uri
    FROM record AS c
    WHERE c.run_id = $1::uuid AND c.archive_uri IS NOT NULL
    """,
    Pointer,
)


async def pointer(pool: Pool, run_id: str) -> str | None:
    """Where the run was archived, or None if it was not."""
    rows = await pool.rows(POINTER, run_id)
    return rows[0].archive_uri if rows else None


LIST_ARCHIVED = Query(
    """
    SELECT
        c.workflow_id,
        c.run_id::text AS run_id,
        r.workflow_type,
        r.status,
        extract(epoch FROM r.closed_at)::float8 AS closed_at,
        c.archived_at,
        c.archive_uri
    FROM (
        SELECT record.run_id, record.workflow_id, record.archived_at, record.archive_uri
        FROM record
        WHERE record.namespace = $1 AND record.archived_at IS NOT NULL AND record.archive_uri IS NOT NULL
        ORDER BY record.archived_at DESC, record.run_id
        LIMIT $2
    ) AS c
    CROSS JOIN LATERAL (
        SELECT run.workflow_type, run.status, run.closed_at
        FROM run
        WHERE run.run_id = c.run_id AND run.closed_at IS NOT NULL
        OFFSET 0
    ) AS r
    ORDER BY c.archived_at DESC, c.run_id
    """,
    ArchivedRun,
)


async def list_archived(pool: Pool, namespace: str, limit: int) -> list[ArchivedRun]:
    """The runs of the namespace that were archived, the latest first."""
    return await pool.rows(LIST_ARCHIVED, namespace, limit)
