"""Runs as the contract shows them: one by its id, many by what they have in common. Nothing is locked or changed.

A run that the engine drives is shown like any other: its input is that of its first event, its result and error
those of its last, until both were archived; then they stand in its record.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.core import records as rules
from holdfast.store.contract.door import check_address, check_number, check_unicode
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Query, Session
from holdfast.wire import codec
from holdfast.wire import events as e
from holdfast.wire.records import WorkflowRecord

LIMIT_MAX = 1000
NUMBER_MAX = 2**63 - 1
# So many runs are looked at one by one for search attributes before their index is asked.
WALKED = 2000


class ShownRow(WorkflowRecord, frozen=True, kw_only=True):
    """A run with the first and, once it is closed, the last event of its history, if the engine wrote one."""

    first: bytes | None
    last: bytes | None


class RunId(msgspec.Struct, kw_only=True):
    """A run."""

    run_id: str


# What the engine has leased is running, as its own views have it. OFFSET 0: planned while the tables were empty, a
# plain join would go through a whole index for each row ever after.
SHOW = Query(
    """
    SELECT
        r.workflow_id AS id,
        r.namespace,
        r.run_id::text AS run_id,
        r.workflow_type,
        r.task_queue,
        CASE
            WHEN r.status = 'PENDING' AND r.last_seq > 0 AND (
                SELECT t.worker IS NOT NULL OR t.attempt > 1
                FROM task AS t
                WHERE t.run_id = r.run_id AND t.seq = 0
            ) THEN 'RUNNING'
            ELSE r.status
        END AS status,
        c.input,
        c.result,
        c.error,
        c.parent_id,
        c.claimed_by,
        c.search_attributes,
        c.memo,
        c.archived_at,
        c.archive_uri,
        CASE WHEN r.last_seq = 0 THEN c.created_at ELSE extract(epoch FROM r.created_at)::float8 END AS created_at,
        CASE
            WHEN r.last_seq = 0 THEN c.updated_at
            ELSE greatest(extract(epoch FROM r.last_at)::float8, c.updated_at)
        END AS updated_at,
        CASE WHEN r.last_seq = 0 THEN c.completed_at ELSE extract(epoch FROM r.closed_at)::float8 END AS completed_at,
        f.body AS first,
        l.body AS last
    FROM unnest(
        CASE
            WHEN $1::uuid[] IS NULL THEN ARRAY(
                SELECT n.run_id
                FROM run AS n
                WHERE n.namespace = $2 AND n.workflow_id = $3 AND ($4::uuid IS NULL OR n.run_id = $4)
                ORDER BY n.run_id DESC
                LIMIT 1
            )
            ELSE $1
        END
    ) WITH ORDINALITY AS asked (run_id, position)
    CROSS JOIN LATERAL (
        SELECT run.*
        FROM run
        WHERE run.run_id = asked.run_id
        OFFSET 0
    ) AS r
    LEFT JOIN LATERAL (
        SELECT record.*
        FROM record
        WHERE record.run_id = asked.run_id
        OFFSET 0
    ) AS c ON true
    LEFT JOIN LATERAL (
        SELECT event.body
        FROM event
        WHERE r.last_seq > 0 AND event.run_id = r.run_id AND event.seq = 1
        OFFSET 0
    ) AS f ON true
    LEFT JOIN LATERAL (
        SELECT event.body
        FROM event
        WHERE r.last_seq > 0 AND r.closed_at IS NOT NULL AND event.run_id = r.run_id AND event.seq = r.last_seq
        OFFSET 0
    ) AS l ON true
    ORDER BY asked.position
    """,
    ShownRow,
)


async def get_workflow(
    store: Opened, id: str, *, namespace: str = "main", run_id: str | None = None
) -> WorkflowRecord | None:
    """The newest run of the id, or *run_id* if it is one of its runs; None if there is none.

    A run whose history was archived is still there, with the pointer to it.
    """
    check_address(namespace, id, run_id)
    row = await store.one(SHOW, None, namespace, id, run_id)
    return None if row is None else _shown(row)


async def show(session: Session | Writing, run_ids: Sequence[str]) -> list[WorkflowRecord]:
    """These runs, in this order."""
    if not run_ids:
        return []
    return [_shown(row) for row in await session.rows(SHOW, list(run_ids), None, None, None)]


def _shown(row: ShownRow) -> WorkflowRecord:
    fields = {name: getattr(row, name) for name in WorkflowRecord.__struct_fields__}
    if row.first is not None:
        match codec.decode_event(row.first):
            case e.WorkflowStarted(input=given):
                fields["input"] = given.decode()
    if row.last is not None:
        fields["result"], fields["error"] = _outcome(codec.decode_event(row.last))
    return WorkflowRecord(**fields)


def _outcome(last: e.Event) -> tuple[str | None, str | None]:
    """The result of a run that closed with this event, and what went wrong in words."""
    match last:
        case e.WorkflowCompleted(result=result):
            return result.decode(), None
        case e.WorkflowFailed(failure=failure):
            return None, failure.message
        case e.WorkflowTerminated(reason=reason):
            return None, reason or None
        case e.WorkflowTimedOut(timeout=timeout):
            return None, f"workflow {timeout} timeout"
    return None, None


# With $8, only so many runs are walked through, from the newest on. The cursor's run is looked up: runs never go.
LIST_RUNS = Query(
    """
    WITH last_shown AS MATERIALIZED (
        SELECT o.created_at, o.workflow_id, o.run_id
        FROM (
            SELECT run.run_id, run.namespace, run.workflow_id, run.created_at
            FROM run
            WHERE run.run_id = $5::uuid
            OFFSET 0
        ) AS o
        WHERE o.namespace = $1
    )
    SELECT w.run_id::text AS run_id
    FROM (
        SELECT r.run_id, r.created_at, r.workflow_id, r.workflow_type, r.status, r.last_seq
        FROM run AS r
        WHERE r.namespace = $1
            AND r.created_at <= CASE
                WHEN $5 IS NULL THEN 'infinity'
                ELSE coalesce((SELECT o.created_at FROM last_shown AS o), '-infinity')
            END
        ORDER BY r.created_at DESC, r.workflow_id, r.run_id
        LIMIT $8
    ) AS w
    LEFT JOIN last_shown AS o ON true
    WHERE ($5 IS NULL OR w.created_at < o.created_at OR (w.workflow_id, w.run_id) > (o.workflow_id, o.run_id))
        AND ($3::text IS NULL OR w.workflow_type = $3)
        AND ($2::text IS NULL OR $2 = CASE
            WHEN w.status = 'PENDING' AND w.last_seq > 0 AND (
                SELECT t.worker IS NOT NULL OR t.attempt > 1
                FROM task AS t
                WHERE t.run_id = w.run_id AND t.seq = 0
            ) THEN 'RUNNING'
            ELSE w.status
        END)
        AND ($4::jsonb IS NULL OR (SELECT c.search @> $4 FROM record AS c WHERE c.run_id = w.run_id))
    ORDER BY w.created_at DESC, w.workflow_id, w.run_id
    LIMIT $6
    OFFSET $7
    """,
    RunId,
)

# The same, beginning with the search attributes: what few runs have is found without looking at the others.
SEARCH_RUNS = Query(
    """
    WITH last_shown AS MATERIALIZED (
        SELECT o.created_at, o.workflow_id, o.run_id
        FROM (
            SELECT run.run_id, run.namespace, run.workflow_id, run.created_at
            FROM run
            WHERE run.run_id = $5::uuid
            OFFSET 0
        ) AS o
        WHERE o.namespace = $1
    ), found AS MATERIALIZED (
        SELECT c.run_id
        FROM record AS c
        WHERE c.search IS NOT NULL AND c.search @> $4::jsonb AND c.namespace = $1
    )
    SELECT r.run_id::text AS run_id
    FROM found AS f
    CROSS JOIN LATERAL (
        SELECT run.run_id, run.created_at, run.workflow_id, run.workflow_type, run.status, run.last_seq
        FROM run
        WHERE run.run_id = f.run_id
        OFFSET 0
    ) AS r
    LEFT JOIN last_shown AS o ON true
    WHERE (
            $5 IS NULL
            OR r.created_at < o.created_at
            OR (r.created_at = o.created_at AND (r.workflow_id, r.run_id) > (o.workflow_id, o.run_id))
        )
        AND ($3::text IS NULL OR r.workflow_type = $3)
        AND ($2::text IS NULL OR $2 = CASE
            WHEN r.status = 'PENDING' AND r.last_seq > 0 AND (
                SELECT t.worker IS NOT NULL OR t.attempt > 1
                FROM task AS t
                WHERE t.run_id = r.run_id AND t.seq = 0
            ) THEN 'RUNNING'
            ELSE r.status
        END)
    ORDER BY r.created_at DESC, r.workflow_id, r.run_id
    LIMIT $6
    OFFSET $7
    """,
    RunId,
)


async def list_workflows(
    store: Opened,
    namespace: str,
    status: str | None = None,
    workflow_type: str | None = None,
    search_attrs_filter: str | None = None,
    limit: int = 100,
    offset: int = 0,
    *,
    after: str | None = None,
) -> list[WorkflowRecord]:
    """The runs of a namespace that match everything that is given, newest first, those of one moment by their ids.

    *search_attrs_filter* is a JSON object; a run matches if its search attributes contain it: the same keys with
    values of the same type, in nested objects too (`{"n":5}` does not match `"5"`, null matches null only).
    *after* continues a list: the `run_id` of the last record of the page before. Unlike *offset* it costs nothing
    and neither skips nor repeats a run when others are created meanwhile. Raises `Invalid` for a limit that is not
    1-1000, a negative offset, an unknown status, and a filter that is no JSON object.
    """
    codec.check_text("namespace", namespace)
    check_number("limit", limit, 1, LIMIT_MAX)
    check_number("offset", offset, 0, NUMBER_MAX)
    if status is not None:
        rules.check_status(status)
    if after is not None:
        codec.check_run_id(after)
    if search_attrs_filter is not None:
        rules.json_object("search_attrs_filter", search_attrs_filter)
    check_unicode("workflow_type", workflow_type)
    asked = (namespace, status, workflow_type, search_attrs_filter, after, limit, offset)
    async with store.pool.snapshot() as session:
        walked = None if search_attrs_filter is None else WALKED
        found = await session.rows(LIST_RUNS, *asked, walked)
        if walked is not None and len(found) < limit:
            found = await session.rows(SEARCH_RUNS, *asked)
        return await show(session, [row.run_id for row in found])


LIST_CHILDREN = Query(
    """
    SELECT c.run_id::text AS run_id
    FROM record AS c
    WHERE c.namespace = $1 AND c.parent_id IS NOT NULL AND c.parent_id = $2
    ORDER BY c.created_at, c.run_id
    """,
    RunId,
)


async def list_child_workflows(
    store: Opened, parent_id: str, *, namespace: str = "main"
) -> list[WorkflowRecord]:
    """The runs whose parent is that workflow, oldest first; empty for an unknown one."""
    codec.check_text("namespace", namespace)
    codec.check_text("parent_id", parent_id)
    async with store.pool.snapshot() as session:
        found = await session.rows(LIST_CHILDREN, namespace, parent_id)
        return await show(session, [row.run_id for row in found])
