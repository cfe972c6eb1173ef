"""Workflows that are written through the contract: made, given search attributes, moved on. The rules are the core's."""

from __future__ import annotations

import datetime as dt
import os

import msgspec

from holdfast.core import records as rules
from holdfast.core.ids import next_run_id
from holdfast.exceptions import AlreadyExists, Invalid, NotFound
from holdfast.store.contract.addressing import lock, not_driven
from holdfast.store.contract.door import check_json, check_moment, check_moment_if_any, check_unicode, moment
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Query, Statement
from holdfast.wire import codec
from holdfast.wire.records import WorkflowRecord


class Before(msgspec.Struct, kw_only=True):
    """What a new run follows: the database's clock, and the newest run of its id if there is one."""

    now: float
    newest: str | None


class NewRun(msgspec.Struct, kw_only=True):
    """A run that was written."""

    run_id: str


class Merged(msgspec.Struct, kw_only=True):
    """How long the search attributes of a run have become."""

    chars: int


BEFORE_NEW = Query(
    """
    SELECT
        extract(epoch FROM clock_timestamp())::float8 AS now,
        (
            SELECT r.run_id::text
            FROM run AS r
            WHERE r.namespace = $1 AND r.workflow_id = $2
            ORDER BY r.run_id DESC
            LIMIT 1
        ) AS newest
    FROM namespace AS n
    WHERE n.name = $1
    FOR KEY SHARE OF n  -- it is not deleted, and told as deleted, before the run in it is told of
    """,
    Before,
)

# Nothing is written when the run id is taken, or the workflow id by an open run: every run begins as an open one, so
# that the unique index decides. What only the engine knows stays at its beginning: `last_seq` 0 says that the run is
# not the engine's.
INSERT_WORKFLOW = Query(
    """
    WITH opened AS (
        INSERT INTO run (
            run_id, last_at, created_at, archived_at, fence, done_fence, last_seq, last_message_seq, command_seq,
            done_seq, done_marker, done_head, open_activities, open_timers, sticky_seq, is_cancel_requested, namespace,
            workflow_id, workflow_type, task_queue, status, request_id, request_hash
        )
        VALUES ($1::uuid, $2, $3, $4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, $5, $6, $7, $8, $9, '', '')
        ON CONFLICT DO NOTHING
        RETURNING run_id, namespace, workflow_id, task_queue
    )
    INSERT INTO record (
        run_id, namespace, workflow_id, task_queue, created_at, updated_at, completed_at, archived_at, parent_id,
        claimed_by, archive_uri, input, result, error, memo, search_attributes, search
    )
    SELECT
        o.run_id, o.namespace, o.workflow_id, o.task_queue, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
        $21::text::jsonb
    FROM opened AS o
    RETURNING run_id::text AS run_id
    """,
    NewRun,
)

# Asked once the open slot of the id is ours: who had it meanwhile may have made a run that is newer.
NEWER_RUN = Query(
    """
    SELECT r.run_id::text AS run_id
    FROM run AS r
    WHERE r.namespace = $1 AND r.workflow_id = $2 AND r.run_id > $3::uuid
    ORDER BY r.run_id DESC
    LIMIT 1
    """,
    NewRun,
)

RENAME_RUN = Statement(
    """
    WITH renamed AS (
        UPDATE record AS c
        SET run_id = $2::uuid
        WHERE c.run_id = $1::uuid
    )
    UPDATE run AS r
    SET run_id = $2
    WHERE r.run_id = $1
    """
)

CLOSE_NEW = Statement(
    """
    WITH closed AS (
        UPDATE run AS r
        SET closed_at = $2
        WHERE r.run_id = $1::uuid
        RETURNING r.namespace, r.status
    )
    INSERT INTO tally (closed, namespace, status)
    SELECT 1, c.namespace, c.status
    FROM closed AS c
    """
)


async def create_workflow(store: Opened, workflow: WorkflowRecord) -> None:
    """Write a run as it is given, also a closed or an archived one. It is not dispatchable and has no events.

    Without `run_id` it gets one that is newer than every run of its id. A closed run without `completed_at` counts
    as closed when it was last updated. Raises `AlreadyExists` when the id has an open run in that namespace (also
    for a closed record: it would hide the open one) or the run id is taken, `NotFound` for an unknown namespace (create
    it first), `Invalid` for what cannot be kept.
    """
    _check(workflow)
    async with store.writing() as writing:
        before = await writing.one(BEFORE_NEW, workflow.namespace, workflow.id)
        if before is None:
            raise NotFound(f"no namespace {workflow.namespace!r}: create it before workflow {workflow.id!r}")
        run_id = workflow.run_id or next_run_id(before.now, os.urandom(10), before.newest)
        if await writing.one(INSERT_WORKFLOW, run_id, *_values(workflow)) is None:
            raise AlreadyExists(
                f"workflow {workflow.id!r} is open in namespace {workflow.namespace!r}, or run {run_id} exists: close "
                "it first, or use another id"
            )
        if workflow.run_id is None:
            run_id = await _made_newest(writing, workflow, run_id, before.now)
        if rules.is_terminal(workflow.status):
            await writing.run(CLOSE_NEW, run_id, _closed_at(workflow))
        writing.tell(
            workflow.namespace,
            "WorkflowCreated",
            "workflow",
            workflow.id,
            run_id=run_id,
            workflow_type=workflow.workflow_type,
            task_queue=workflow.task_queue,
            status=workflow.status,
        )


async def _made_newest(writing: Writing, workflow: WorkflowRecord, run_id: str, now: float) -> str:
    """The run's id, changed if it was not that of the newest."""
    newer = await writing.one(NEWER_RUN, workflow.namespace, workflow.id, run_id)
    if newer is None:
        return run_id
    newest = next_run_id(now, os.urandom(10), newer.run_id)
    await writing.run(RENAME_RUN, run_id, newest)
    return newest


def _check(workflow: WorkflowRecord) -> None:
    for name in ("namespace", "id", "workflow_type", "task_queue"):
        codec.check_text(f"{name} of the workflow", getattr(workflow, name))
    for name in ("parent_id", "claimed_by"):
        if getattr(workflow, name) is not None:
            codec.check_text(name, getattr(workflow, name))
    if workflow.run_id is not None:
        codec.check_run_id(workflow.run_id)
    rules.check_status(workflow.status)
    for name in ("input", "result", "memo"):
        check_json(f"{name} of workflow {workflow.id!r}", getattr(workflow, name))
    for name in ("error", "archive_uri"):
        check_unicode(f"{name} of workflow {workflow.id!r}", getattr(workflow, name))
    if workflow.search_attributes is not None:
        rules.json_object(f"search_attributes of workflow {workflow.id!r}", workflow.search_attributes)
    for name in ("created_at", "updated_at"):
        check_moment(name, getattr(workflow, name))
    for name in ("completed_at", "archived_at"):
        check_moment_if_any(name, getattr(workflow, name))


def _values(workflow: WorkflowRecord) -> list[object]:
    """What `INSERT_WORKFLOW` takes after the run id."""
    return [
        moment(workflow.updated_at),
        moment(workflow.created_at),
        None if workflow.archived_at is None else moment(workflow.archived_at),
        workflow.namespace,
        workflow.id,
        workflow.workflow_type,
        workflow.task_queue,
        workflow.status,
        workflow.created_at,
        workflow.updated_at,
        workflow.completed_at,
        workflow.archived_at,
        workflow.parent_id,
        workflow.claimed_by,
        workflow.archive_uri,
        workflow.input,
        workflow.result,
        workflow.error,
        workflow.memo,
        workflow.search_attributes,
    ]


def _closed_at(workflow: WorkflowRecord) -> dt.datetime:
    return moment(workflow.updated_at if workflow.completed_at is None else workflow.completed_at)


# A run of the engine's has a record only from the first time on that there is something to keep. No row means that
# nothing changed.
MERGE_ATTRIBUTES = Query(
    """
    INSERT INTO record AS c (
        run_id, namespace, workflow_id, task_queue, created_at, updated_at, search_attributes, search
    )
    SELECT
        r.run_id,
        r.namespace,
        r.workflow_id,
        r.task_queue,
        extract(epoch FROM r.created_at)::float8,
        extract(epoch FROM clock_timestamp())::float8,
        CASE WHEN cardinality($3::text[]) = 0 THEN $2::text ELSE ($2::text::jsonb - $3)::text END,
        $2::text::jsonb - $3
    FROM run AS r
    WHERE r.run_id = $1::uuid
    ON CONFLICT (run_id) DO UPDATE
    SET
        updated_at = excluded.updated_at,
        search_attributes = CASE
            WHEN c.search IS NULL THEN excluded.search_attributes
            ELSE ((c.search || $2::text::jsonb) - $3)::text
        END,
        search = CASE WHEN c.search IS NULL THEN excluded.search ELSE (c.search || $2::text::jsonb) - $3 END
    WHERE c.search IS NULL OR c.search <> (c.search || $2::text::jsonb) - $3
    RETURNING length(c.search_attributes) AS chars
    """,
    Merged,
)


async def upsert_search_attributes(
    store: Opened, workflow_id: str, patch_json: str, *, namespace: str = "main", run_id: str | None = None
) -> None:
    """Merge a JSON object into the search attributes of the run, at its first level.

    What the object has replaces what was there or is added, null removes the key, the other keys stay. A run without
    search attributes gets the object as it is, byte for byte unless null is in it. Closed runs and those that the
    engine drives take search attributes too; an unknown one is left alone. Raises `Invalid` for anything but a JSON
    object, and when there would be more than 1,048,576 characters of them.
    """
    removed = rules.removed_keys(rules.json_object("patch_json", patch_json))
    async with store.writing() as writing:
        run = await lock(writing, namespace, workflow_id, run_id)
        merged = None if run is None else await writing.one(MERGE_ATTRIBUTES, run.run_id, patch_json, removed)
        if run is None or merged is None:
            return
        if merged.chars > rules.ATTRIBUTES_CHARS_MAX:
            raise Invalid(
                f"search attributes of workflow {workflow_id!r} would have {merged.chars:,} characters: expected at "
                f"most {rules.ATTRIBUTES_CHARS_MAX:,}, remove some keys"
            )
        writing.tell(namespace, "SearchAttributesUpserted", "workflow", workflow_id, run_id=run.run_id)


LOCK_OUTCOME = Query(
    """
    SELECT r.status, c.result, c.error
    FROM record AS c
    JOIN run AS r ON r.run_id = c.run_id
    WHERE c.run_id = $1::uuid
    FOR UPDATE OF c
    """,
    rules.Outcome,
)

# Who closes a run ends its lease, and counts it.
SET_OUTCOME = Statement(
    """
    WITH clock AS MATERIALIZED (
        SELECT clock_timestamp() AS now
    ), kept AS (
        UPDATE record AS c
        SET
            result = $3,
            error = $4,
            updated_at = extract(epoch FROM k.now)::float8,
            completed_at = CASE WHEN $5 THEN extract(epoch FROM k.now)::float8 ELSE c.completed_at END,
            ready_at = CASE WHEN NOT $5 THEN c.ready_at END,
            dispatch_worker = CASE WHEN NOT $5 THEN c.dispatch_worker END,
            dispatch_heartbeat = CASE WHEN NOT $5 THEN c.dispatch_heartbeat END
        FROM clock AS k
        WHERE c.run_id = $1::uuid
    ), counted AS (
        INSERT INTO tally (closed, namespace, status)
        SELECT 1, r.namespace, $2
        FROM run AS r
        WHERE r.run_id = $1 AND $5::boolean
    )
    UPDATE run AS r
    SET status = $2::text, last_at = k.now, closed_at = CASE WHEN $5 THEN k.now END
    FROM clock AS k
    WHERE r.run_id = $1
    """
)


async def update_workflow_status(
    store: Opened,
    id: str,
    status: str,
    result: str | None = None,
    error: str | None = None,
    *,
    namespace: str = "main",
    run_id: str | None = None,
) -> None:
    """Move a run on, from any open status to any; with None its result or error stays as it is.

    A terminal status closes the run for good: `completed_at` is the database's clock, the lease of its workflow task
    ends and it is dispatchable no more. The terminal status that the run has already changes nothing, another one
    raises `Refused`, and so does any change of an open run that the engine drives. Does nothing for an unknown run.
    """
    rules.check_status(status)
    check_json("result", result)
    check_unicode("error", error)
    wanted = rules.Outcome(status=status, result=result, error=error)
    async with store.writing() as writing:
        run = await lock(writing, namespace, id, run_id)
        if run is None:
            return
        if not run.is_closed:
            not_driven(run, "set its status")
        found = await writing.one(LOCK_OUTCOME, run.run_id) or rules.Outcome(status=run.status)
        after = rules.settle(f"workflow {id!r} (run {run.run_id})", found, wanted)
        if after is None:
            return
        is_terminal = rules.is_terminal(after.status)
        await writing.run(SET_OUTCOME, run.run_id, after.status, after.result, after.error, is_terminal)
        writing.tell(
            namespace, "WorkflowStatusUpdated", "workflow", id, run_id=run.run_id, status=after.status
        )
