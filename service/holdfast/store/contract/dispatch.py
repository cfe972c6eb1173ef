"""Who gets what was written through the contract: workflow tasks and activities, claimed, and leases given back.

A run is dispatchable while `record.ready_at` is set; `record.dispatch_worker` holds its lease. The two are
independent: what makes a run dispatchable while it is out makes it dispatchable again. Claims lock the row
that they take, never a run, and skip locked ones.
"""

from __future__ import annotations

import msgspec

from holdfast.store.contract.activities import ActivityRow, as_record, tell
from holdfast.store.contract.addressing import lock, not_driven
from holdfast.store.contract.door import check_moment, check_seconds, moment
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Query, Statement
from holdfast.wire import codec
from holdfast.wire.records import WorkflowActivity, WorkflowRecord

TIMEOUT_MAX_S = 1e12


class Dispatch(msgspec.Struct, kw_only=True):
    """Who has a run, and whether it wants somebody."""

    is_ready: bool
    claimed_by: str | None
    dispatch_worker: str | None


class LeasedRun(msgspec.Struct, kw_only=True):
    """A run that some worker has."""

    run_id: str
    is_closed: bool


class ReleasedLease(msgspec.Struct, kw_only=True):
    """A lease that was taken from its worker."""

    run_id: str
    namespace: str
    workflow_id: str
    worker: str


LOCK_DISPATCH = Query(
    """
    SELECT c.ready_at IS NOT NULL AS is_ready, c.claimed_by, c.dispatch_worker
    FROM record AS c
    WHERE c.run_id = $1::uuid
    FOR UPDATE
    """,
    Dispatch,
)

CLAIM_RUN = Statement(
    """
    WITH claimed AS (
        UPDATE record AS c
        SET claimed_by = $2, updated_at = extract(epoch FROM clock_timestamp())::float8
        WHERE c.run_id = $1::uuid
        RETURNING c.run_id
    )
    UPDATE run AS r
    SET status = 'RUNNING'
    FROM claimed
    WHERE r.run_id = claimed.run_id
    """
)


async def claim_workflow(
    store: Opened, id: str, worker_id: str, *, namespace: str = "main", run_id: str | None = None
) -> bool:
    """Whether the whole run is *worker_id*'s from now on: True for exactly one call, then it is RUNNING.

    A claim is for good; `get_workflow` tells the holder. False for a run that is closed, unknown or claimed
    already, also by the same worker. Raises `Refused` for an open run that the engine drives.
    """
    codec.check_text("worker_id", worker_id)
    async with store.writing() as writing:
        run = await lock(writing, namespace, id, run_id)
        if run is None or run.is_closed:
            return False
        not_driven(run, "hand it out")
        held = await writing.one(LOCK_DISPATCH, run.run_id)
        if held is None or held.claimed_by is not None:
            return False
        await writing.run(CLAIM_RUN, run.run_id, worker_id)
        writing.tell(namespace, "WorkflowClaimed", "workflow", id, run_id=run.run_id, worker=worker_id)
        return True


MAKE_READY = Statement(
    """
    UPDATE record AS c
    SET ready_at = clock_timestamp()
    WHERE c.run_id = $1::uuid
    """
)


async def mark_workflow_dispatchable(
    store: Opened, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> None:
    """Some worker is to look at the run: now, or after the one that has it released it.

    A run that waits for a worker already keeps its place. Does nothing for a closed or unknown one. Raises
    `Refused` for a run that the engine drives.
    """
    async with store.writing() as writing:
        run = await lock(writing, namespace, workflow_id, run_id)
        if run is None:
            return
        not_driven(run, "make it dispatchable")
        # Locked before it is judged: a claim that is about to commit clears what was marked before it.
        held = None if run.is_closed else await writing.one(LOCK_DISPATCH, run.run_id)
        if held is None or held.is_ready:
            return
        await writing.run(MAKE_READY, run.run_id)
        writing.tell(namespace, "WorkflowMadeDispatchable", "workflow", workflow_id, run_id=run.run_id)


class Claimer(msgspec.Struct, kw_only=True):
    """Who claims. What is None is without limit: a worker that is not registered, or did not say."""

    namespace: str
    workflows: list[str] | None = None
    activities: list[str] | None = None
    max_concurrent_workflows: int | None = None
    max_concurrent_activities: int | None = None


# Locked: of two claims of one worker at once, the later one counts what the first one got.
LOCK_CLAIMER = Query(
    """
    SELECT
        w.namespace, nullif(w.workflows, '{}') AS workflows, nullif(w.activities, '{}') AS activities,
        w.max_concurrent_workflows, w.max_concurrent_activities
    FROM worker AS w
    WHERE w.id = $1
    FOR NO KEY UPDATE
    """,
    Claimer,
)


async def _claimer(writing: Writing, worker_id: str, namespace: str) -> Claimer:
    return await writing.one(LOCK_CLAIMER, worker_id) or Claimer(namespace=namespace)


# A namespace that was deleted is nowhere. Each run is looked up by itself, as its turn comes: an EXISTS would become a
# join, which may begin with all the runs. The worker's own leases are counted once, before that.
CLAIM_WORKFLOW_TASK = Query(
    """
    WITH wall AS MATERIALIZED (
        SELECT n.name
        FROM namespace AS n
        WHERE n.name = $3
            AND ($5::int IS NULL OR (SELECT count(*) FROM record AS h WHERE h.dispatch_worker = $2) < $5)
    ), ready AS (
        SELECT c.run_id
        FROM record AS c
        WHERE c.namespace = (SELECT wall.name FROM wall)
            AND c.task_queue = $1
            AND c.ready_at IS NOT NULL
            AND c.dispatch_worker IS NULL
            AND (
                SELECT r.closed_at IS NULL AND ($4::text[] IS NULL OR r.workflow_type = ANY($4))
                FROM run AS r
                WHERE r.run_id = c.run_id
            )
        ORDER BY c.ready_at, c.workflow_id
        LIMIT 1
        FOR UPDATE OF c SKIP LOCKED  -- another worker's, or somebody is writing it right now
    ), leased AS (
        UPDATE record AS c
        SET
            ready_at = NULL,
            dispatch_worker = $2,
            dispatch_heartbeat = extract(epoch FROM clock_timestamp())::float8
        FROM ready
        WHERE c.run_id = ready.run_id
        RETURNING
            c.run_id, c.namespace, c.workflow_id, c.task_queue, c.input, c.result, c.error, c.parent_id, c.claimed_by,
            c.search_attributes, c.memo, c.archived_at, c.archive_uri, c.created_at, c.updated_at, c.completed_at
    )
    SELECT
        l.workflow_id AS id, l.namespace, l.run_id::text AS run_id, r.workflow_type, l.task_queue, r.status, l.input,
        l.result, l.error, l.parent_id, l.claimed_by, l.search_attributes, l.memo, l.archived_at, l.archive_uri,
        l.created_at, l.updated_at, l.completed_at
    FROM leased AS l
    JOIN run AS r ON r.run_id = l.run_id
    """,
    WorkflowRecord,
)


async def claim_workflow_task(
    store: Opened, task_queue: str, worker_id: str, *, namespace: str = "main"
) -> WorkflowRecord | None:
    """The run of the queue that has been dispatchable for longest, leased to *worker_id*; None if there is none.

    A registered worker gets runs of its own namespace only, of the types that it named if it named any, and never more
    than `max_concurrent_workflows` at a time; any other those of *namespace*. Never a closed run, one of a deleted
    namespace, or one that the engine drives; a run that somebody is writing right now is skipped. The lease lasts
    until it is released; the status stays as it is, for who claims to set.
    """
    codec.check_text("task_queue", task_queue)
    codec.check_text("worker_id", worker_id)
    codec.check_text("namespace", namespace)
    async with store.writing() as writing:
        who = await _claimer(writing, worker_id, namespace)
        claimed = await writing.one(
            CLAIM_WORKFLOW_TASK,
            task_queue,
            worker_id,
            who.namespace,
            who.workflows,
            who.max_concurrent_workflows,
        )
        if claimed is not None:
            _tell_lease(writing, claimed, worker_id)
        return claimed


def _tell_lease(writing: Writing, claimed: WorkflowRecord, worker: str) -> None:
    writing.tell(
        claimed.namespace, "WorkflowTaskLeased", "workflow", claimed.id, run_id=claimed.run_id, worker=worker
    )


# Backoff is honoured by the index: what is not due yet is never looked at. A namespace that was deleted is nowhere.
CLAIM_ACTIVITY = Query(
    """
    WITH wall AS MATERIALIZED (
        SELECT n.name
        FROM namespace AS n
        WHERE n.name = $3
            AND (
                $5::int IS NULL
                OR (SELECT count(*) FROM record_activity AS h WHERE h.status = 'RUNNING' AND h.claimed_by = $2) < $5
            )
    ), ready AS (
        SELECT a.id
        FROM record_activity AS a
        WHERE a.namespace = (SELECT wall.name FROM wall)
            AND a.task_queue = $1
            AND a.status = 'PENDING'
            AND a.scheduled_at <= extract(epoch FROM statement_timestamp())::float8
            AND ($4::text[] IS NULL OR a.name = ANY($4))
            AND (SELECT r.closed_at IS NULL FROM run AS r WHERE r.run_id = a.run_id)
        ORDER BY a.scheduled_at, a.id
        LIMIT 1
        FOR UPDATE OF a SKIP LOCKED  -- another worker's, or somebody is deciding about it right now
    ), claimed AS (
        UPDATE record_activity AS a
        SET
            status = 'RUNNING',
            claimed_by = $2,
            started_at = extract(epoch FROM clock_timestamp())::float8,
            completed_at = NULL,
            last_heartbeat = NULL
        FROM ready
        WHERE a.id = ready.id
        RETURNING
            a.id, a.run_id, a.namespace, a.seq, a.name, a.task_queue, a.input, a.status, a.result, a.error, a.attempt,
            a.max_attempts, a.initial_interval_secs, a.backoff_coefficient, a.max_interval_secs, a.start_to_close_secs,
            a.schedule_to_start_secs, a.schedule_to_close_secs, a.heartbeat_timeout_secs, a.heartbeat_details,
            a.claimed_by, a.scheduled_at, a.started_at, a.completed_at, a.last_heartbeat, a.is_cancel_requested
    )
    SELECT
        c.id, c.run_id::text AS run_id, c.namespace, r.workflow_id, c.seq, c.name, c.task_queue, c.input, c.status,
        c.result, c.error, c.attempt, c.max_attempts, c.initial_interval_secs, c.backoff_coefficient,
        c.max_interval_secs, c.start_to_close_secs, c.schedule_to_start_secs, c.schedule_to_close_secs,
        c.heartbeat_timeout_secs, c.heartbeat_details, c.claimed_by, c.scheduled_at, c.started_at, c.completed_at,
        c.last_heartbeat, c.is_cancel_requested, extract(epoch FROM statement_timestamp())::float8 AS now
    FROM claimed AS c
    JOIN run AS r ON r.run_id = c.run_id
    """,
    ActivityRow,
)


async def claim_activity(
    store: Opened, task_queue: str, worker_id: str, *, namespace: str = "main"
) -> WorkflowActivity | None:
    """The activity of the queue that has been due for longest, RUNNING with *worker_id* now; None if none is due.

    A registered worker gets activities of its own namespace only, of the names that it gave if it gave any, and never
    more than `max_concurrent_activities` at a time; any other those of *namespace*. Never one of a closed run, of a
    deleted namespace, or one that the engine drives; what somebody is writing right now is skipped.
    `heartbeat_details` are those of the attempt before.
    """
    codec.check_text("task_queue", task_queue)
    codec.check_text("worker_id", worker_id)
    codec.check_text("namespace", namespace)
    async with store.writing() as writing:
        who = await _claimer(writing, worker_id, namespace)
        row = await writing.one(
            CLAIM_ACTIVITY,
            task_queue,
            worker_id,
            who.namespace,
            who.activities,
            who.max_concurrent_activities,
        )
        if row is None:
            return None
        tell(writing, row, "ActivityClaimed", row, worker=worker_id, attempt=row.attempt)
        return as_record(row)


RELEASE = Statement(
    """
    UPDATE record AS c
    SET dispatch_worker = NULL, dispatch_heartbeat = NULL
    WHERE c.run_id = $1::uuid
    """
)


async def release_workflow_task(
    store: Opened, workflow_id: str, worker_id: str, *, namespace: str = "main", run_id: str | None = None
) -> None:
    """End the lease that *worker_id* has on the run; nothing happens if it has none."""
    codec.check_text("worker_id", worker_id)
    async with store.writing() as writing:
        run = await lock(writing, namespace, workflow_id, run_id)
        held = None if run is None else await writing.one(LOCK_DISPATCH, run.run_id)
        if run is None or held is None or held.dispatch_worker != worker_id:
            return
        await writing.run(RELEASE, run.run_id)
        _tell_release(
            writing,
            ReleasedLease(run_id=run.run_id, namespace=namespace, workflow_id=workflow_id, worker=worker_id),
        )


# A lease lives as long as its worker is heard of: there is no other sign of life than the claim itself.
LOCK_STALE = Query(
    """
    SELECT r.run_id::text AS run_id, r.closed_at IS NOT NULL AS is_closed
    FROM run AS r
    WHERE r.run_id = ANY (ARRAY(
        SELECT c.run_id
        FROM record AS c
        WHERE c.dispatch_worker IS NOT NULL
            AND c.dispatch_heartbeat < $1
            AND coalesce((SELECT w.last_heartbeat < $1 FROM worker AS w WHERE w.id = c.dispatch_worker), true)
    ))
    ORDER BY r.run_id
    FOR UPDATE
    """,
    LeasedRun,
)

# Looked at again under the lock: the lease may have been given back, and given to somebody else, meanwhile.
RELEASE_STALE = Query(
    """
    WITH stale AS (
        SELECT c.run_id, c.dispatch_worker
        FROM record AS c
        WHERE c.run_id = ANY($1::uuid[])
            AND c.dispatch_worker IS NOT NULL
            AND c.dispatch_heartbeat < $2
            AND coalesce((SELECT w.last_heartbeat < $2 FROM worker AS w WHERE w.id = c.dispatch_worker), true)
        ORDER BY c.run_id
        FOR UPDATE OF c
    )
    UPDATE record AS c
    SET dispatch_worker = NULL, dispatch_heartbeat = NULL, ready_at = coalesce(c.ready_at, $3::timestamptz)
    FROM stale
    WHERE c.run_id = stale.run_id
    RETURNING c.run_id::text AS run_id, c.namespace, c.workflow_id, stale.dispatch_worker AS worker
    """,
    ReleasedLease,
)


async def release_stale_dispatch_leases(store: Opened, now: float, timeout_secs: float) -> int:
    """How many leases were ended because their last sign of life was earlier than *timeout_secs* before *now*.

    That is the claim, or the last heartbeat of the worker if it is registered. Their runs are dispatchable again, since *now* unless they were before. In all namespaces.
    """
    check_moment("now", now)
    check_seconds("timeout_secs", timeout_secs, TIMEOUT_MAX_S)
    async with store.writing() as writing:
        leased = await writing.rows(LOCK_STALE, now - timeout_secs)
        runs = [run.run_id for run in leased if not run.is_closed]
        if not runs:
            return 0
        released = await writing.rows(RELEASE_STALE, runs, now - timeout_secs, moment(now))
        for lease in sorted(released, key=lambda lease: lease.run_id):
            _tell_release(writing, lease)
        return len(released)


def _tell_release(writing: Writing, lease: ReleasedLease) -> None:
    writing.tell(
        lease.namespace,
        "WorkflowTaskReleased",
        "workflow",
        lease.workflow_id,
        run_id=lease.run_id,
        worker=lease.worker,
    )
