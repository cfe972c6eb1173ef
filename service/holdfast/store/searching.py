"""Runs that a filter matches: listed and counted. The filter is a parameter, a jsonpath predicate over a document of the run.

Each statement begins with what narrows the search most: a workflow id, search attributes, or else the runs from the
newest on. What the document of a run is, the view `searched` says; it is made only of runs that what stands before it
has let through.
"""

from __future__ import annotations

import msgspec

from holdfast.core.filters import Filter
from holdfast.store.session import Pool, Query
from holdfast.store.views import RunRow


class StatusCount(msgspec.Struct, kw_only=True):
    """How many runs have a status."""

    status: str
    runs: int


WALK = Query(
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
        r.search_attributes,
        r.memo,
        extract(epoch FROM now())::float8 AS now
    FROM searched AS r
    WHERE r.namespace = $1
        AND ($2::text[] IS NULL OR r.status = ANY($2))
        AND ($3::text IS NULL OR r.workflow_type = $3)
        AND ($4::uuid IS NULL OR r.run_id < $4)
        AND ($6::text IS NULL OR jsonb_path_match(
            r.document, $6::text::jsonpath, jsonb_build_object('now', extract(epoch FROM now())::float8), true
        ))
    ORDER BY r.run_id DESC
    LIMIT $5
    """,
    RunRow,
)

CHAIN = Query(
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
        r.search_attributes,
        r.memo,
        extract(epoch FROM now())::float8 AS now
    FROM searched AS r
    WHERE r.namespace = $1
        AND r.workflow_id = $7
        AND ($2::text[] IS NULL OR r.status = ANY($2))
        AND ($3::text IS NULL OR r.workflow_type = $3)
        AND ($4::uuid IS NULL OR r.run_id < $4)
        AND ($6::text IS NULL OR jsonb_path_match(
            r.document, $6::text::jsonpath, jsonb_build_object('now', extract(epoch FROM now())::float8), true
        ))
    ORDER BY r.run_id DESC
    LIMIT $5
    """,
    RunRow,
)

BY_ATTRIBUTE = Query(
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
        r.search_attributes,
        r.memo,
        extract(epoch FROM now())::float8 AS now
    FROM (
        SELECT record.run_id
        FROM record
        WHERE record.search @@ $7::text::jsonpath AND record.search IS NOT NULL AND record.namespace = $1
        OFFSET 0
    ) AS f
    CROSS JOIN LATERAL (
        SELECT searched.*
        FROM searched
        WHERE searched.run_id = f.run_id
        OFFSET 0
    ) AS r
    WHERE ($2::text[] IS NULL OR r.status = ANY($2))
        AND ($3::text IS NULL OR r.workflow_type = $3)
        AND ($4::uuid IS NULL OR r.run_id < $4)
        AND ($6::text IS NULL OR jsonb_path_match(
            r.document, $6::text::jsonpath, jsonb_build_object('now', extract(epoch FROM now())::float8), true
        ))
    ORDER BY r.run_id DESC
    LIMIT $5
    """,
    RunRow,
)

COUNT = Query(
    """
    SELECT r.status, count(*) AS runs
    FROM searched AS r
    WHERE r.namespace = $1
        AND ($2::text[] IS NULL OR r.status = ANY($2))
        AND ($3::text IS NULL OR r.workflow_type = $3)
        AND ($4::text IS NULL OR jsonb_path_match(
            r.document, $4::text::jsonpath, jsonb_build_object('now', extract(epoch FROM now())::float8), true
        ))
    GROUP BY r.status
    """,
    StatusCount,
)

COUNT_BY_ATTRIBUTE = Query(
    """
    SELECT r.status, count(*) AS runs
    FROM (
        SELECT record.run_id
        FROM record
        WHERE record.search @@ $5::text::jsonpath AND record.search IS NOT NULL AND record.namespace = $1
        OFFSET 0
    ) AS f
    CROSS JOIN LATERAL (
        SELECT searched.*
        FROM searched
        WHERE searched.run_id = f.run_id
        OFFSET 0
    ) AS r
    WHERE ($2::text[] IS NULL OR r.status = ANY($2))
        AND ($3::text IS NULL OR r.workflow_type = $3)
        AND ($4::text IS NULL OR jsonb_path_match(
            r.document, $4::text::jsonpath, jsonb_build_object('now', extract(epoch FROM now())::float8), true
        ))
    GROUP BY r.status
    """,
    StatusCount,
)


async def list_runs(
    pool: Pool, namespace: str, filter: Filter, *, before: str | None, limit: int
) -> list[RunRow]:
    """The runs that match, newest first, older than run id *before*."""
    statuses = None if filter.statuses is None else list(filter.statuses)
    asked = (namespace, statuses, filter.workflow_type, before, limit, filter.path)
    if filter.workflow_id is not None:
        return await pool.rows(CHAIN, *asked, filter.workflow_id)
    if filter.search_path is not None:
        return await pool.rows(BY_ATTRIBUTE, *asked, filter.search_path)
    return await pool.rows(WALK, *asked)


async def count_runs(pool: Pool, namespace: str, filter: Filter) -> dict[str, int]:
    """How many runs match, by status."""
    statuses = None if filter.statuses is None else list(filter.statuses)
    asked = (namespace, statuses, filter.workflow_type, filter.path)
    if filter.search_path is not None:
        rows = await pool.rows(COUNT_BY_ATTRIBUTE, *asked, filter.search_path)
    else:
        rows = await pool.rows(COUNT, *asked)
    return {row.status: row.runs for row in rows}
