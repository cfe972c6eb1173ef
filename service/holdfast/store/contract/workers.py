"""Workers: who works for a task queue, and what becomes of the work of those that fell silent."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.core.record_activities import RUNNING
from holdfast.store.contract.door import can_be_stored, check_moment, check_number
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Query, Statement
from holdfast.wire import codec
from holdfast.wire.records import WorkflowWorker

COUNT_MAX = 2**31 - 1


class WorkerKey(msgspec.Struct, kw_only=True):
    """A worker and where it works."""

    id: str
    namespace: str


class Moment(msgspec.Struct, kw_only=True):
    """The database's clock."""

    now: float


class HeldRun(msgspec.Struct, kw_only=True):
    """A run of which a worker holds something."""

    run_id: str


class FreedTask(msgspec.Struct, kw_only=True):
    """A run whose dispatch lease was released, and whose lease it was."""

    run_id: str
    namespace: str
    workflow_id: str
    worker: str


class FreedActivity(msgspec.Struct, kw_only=True):
    """An activity that is pending again, and who ran it."""

    id: int
    namespace: str
    workflow_id: str
    run_id: str
    seq: int
    attempt: int
    worker: str


# The same worker once more changes no row.
REGISTER_WORKER = Query(
    """
    INSERT INTO worker AS w (
        id, namespace, identity, task_queue, workflows, activities, max_concurrent_workflows,
        max_concurrent_activities, active_tasks, last_heartbeat, registered_at
    )
    VALUES ($1, $2, $3, $4, $5::text[], $6::text[], $7, $8, $9, $10, $11)
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
        last_heartbeat = excluded.last_heartbeat,
        registered_at = excluded.registered_at
    WHERE w.* IS DISTINCT FROM excluded.*
    RETURNING w.id, w.namespace
    """,
    WorkerKey,
)

# The row is locked whether or not it changes, so that a removal at the same time sees one or the other.
LOCK_WORKER = Query("SELECT w.id, w.namespace FROM worker AS w WHERE w.id = $1 FOR UPDATE", WorkerKey)

HEAR_WORKER = Statement(
    "UPDATE worker AS w SET last_heartbeat = $2 WHERE w.id = $1 AND w.last_heartbeat <> $2"
)

LIST_WORKERS = Query(
    """
    SELECT
        w.id, w.namespace, w.identity, w.task_queue, w.workflows, w.activities, w.max_concurrent_workflows,
        w.max_concurrent_activities, w.active_tasks, w.last_heartbeat, w.registered_at
    FROM worker AS w
    WHERE w.namespace = $1
    ORDER BY w.registered_at, w.id
    """,
    WorkflowWorker,
)

# A worker that is heard of at this very moment keeps its row: what it says is waited for, and the condition asked again.
LOCK_DEAD = Query(
    """
    SELECT w.id, w.namespace
    FROM worker AS w
    WHERE w.last_heartbeat < $1
    ORDER BY w.id
    FOR UPDATE
    """,
    WorkerKey,
)

REMOVE_WORKERS = Statement("DELETE FROM worker AS w WHERE w.id = ANY($1::text[])")

# Leased rows only are read: few beside those that wait. Runs are locked before what they own, in id order, as everywhere.
LOCK_HELD_RUNS = Query(
    """
    WITH dead AS (
        SELECT d.id, d.namespace
        FROM unnest($1::text[], $2::text[]) AS d (id, namespace)
    ), held AS (
        SELECT c.run_id
        FROM record AS c
        WHERE c.dispatch_worker IS NOT NULL AND c.dispatch_worker = ANY($1::text[])
        UNION
        SELECT a.run_id
        FROM record_activity AS a
        WHERE a.status = 'RUNNING' AND a.claimed_by = ANY($1::text[])
        UNION
        SELECT t.run_id
        FROM (
            SELECT task.run_id, task.worker, task.namespace
            FROM task
            WHERE task.deadline IS NOT NULL AND task.worker = ANY($1)
            OFFSET 0  -- else it might go through all tasks in the order of their runs
        ) AS t
        JOIN dead AS d ON d.id = t.worker AND d.namespace = t.namespace
    )
    SELECT r.run_id::text AS run_id
    FROM run AS r
    WHERE r.run_id IN (SELECT h.run_id FROM held AS h)
    ORDER BY r.run_id
    FOR UPDATE OF r
    """,
    HeldRun,
)

# Read after the locks: one moment for all that is released.
CLOCK = Query("SELECT extract(epoch FROM clock_timestamp())::float8 AS now", Moment)

# Ready since when it was woken during the lease, else since now. Locked in the order in which stale leases are.
FREE_DISPATCHED = Query(
    """
    WITH held AS (
        SELECT c.run_id, c.dispatch_worker, r.closed_at
        FROM record AS c
        JOIN run AS r ON r.run_id = c.run_id
        WHERE c.run_id = ANY($1::uuid[]) AND c.dispatch_worker IS NOT NULL AND c.dispatch_worker = ANY($2::text[])
        ORDER BY c.run_id
        FOR UPDATE OF c
    )
    UPDATE record AS c
    SET
        dispatch_worker = NULL,
        dispatch_heartbeat = NULL,
        ready_at = CASE WHEN h.closed_at IS NULL THEN coalesce(c.ready_at, to_timestamp($3)) END
    FROM held AS h
    WHERE c.run_id = h.run_id
    RETURNING c.run_id::text AS run_id, c.namespace, c.workflow_id, h.dispatch_worker AS worker
    """,
    FreedTask,
)

FREE_ACTIVITIES = Query(
    """
    WITH held AS (
        SELECT a.id, r.workflow_id, a.claimed_by
        FROM record_activity AS a
        JOIN run AS r ON r.run_id = a.run_id
        WHERE a.run_id = ANY($1::uuid[])
            AND a.status = $3  -- bound: the index of all that runs is not the one to use
            AND a.claimed_by = ANY($2::text[])
        ORDER BY a.id
        FOR UPDATE OF a
    )
    UPDATE record_activity AS a
    SET status = 'PENDING', claimed_by = NULL, started_at = NULL, last_heartbeat = NULL
    FROM held AS h
    WHERE a.id = h.id
    RETURNING a.id, a.namespace, h.workflow_id, a.run_id::text AS run_id, a.seq, a.attempt, h.claimed_by AS worker
    """,
    FreedActivity,
)

# What the engine leased is the engine's to end: it falls due, so that the clock's next step finds it as it finds
# every lease that ran out, and decides. Fence and worker stay: a report that is under way still counts.
LAPSE_TASKS = Statement(
    """
    WITH held AS (
        SELECT t.run_id, t.seq
        FROM task AS t
        JOIN unnest($2::text[], $3::text[]) AS d (id, namespace) ON d.id = t.worker AND d.namespace = t.namespace
        WHERE t.run_id = ANY($1::uuid[])
        ORDER BY t.run_id, t.seq
        FOR UPDATE OF t
    )
    UPDATE task AS t
    SET lease_until = least(t.lease_until, to_timestamp($4)), deadline = least(t.deadline, to_timestamp($4))
    FROM held AS h
    WHERE t.run_id = ANY($1::uuid[]) AND t.run_id = h.run_id AND t.seq = h.seq
    """
)


async def register_worker(store: Opened, worker: WorkflowWorker) -> None:
    """Make a worker known, or replace all that is known of the one with its id: namespace and times too."""
    _check(worker)
    async with store.writing() as writing:
        changed = await writing.one(
            REGISTER_WORKER,
            worker.id,
            worker.namespace,
            worker.identity,
            worker.task_queue,
            worker.workflows,
            worker.activities,
            worker.max_concurrent_workflows,
            worker.max_concurrent_activities,
            worker.active_tasks,
            worker.last_heartbeat,
            worker.registered_at,
        )
        if changed is not None:
            writing.tell(
                worker.namespace, "WorkerRegistered", "worker", worker.id, task_queue=worker.task_queue
            )


async def heartbeat_worker(store: Opened, id: str, now: float) -> bool:
    """Whether the worker is known; it was last heard of at *now* then.

    Its dispatch leases live on with it. *now* wins over what is known, also when it is older: a clock that was set back
    must not let a worker look alive for ever. False, for one that was removed or never registered, asks it to register (again).
    """
    check_moment("now", now)
    if not can_be_stored(id):
        return False
    async with store.writing() as writing:
        known = await writing.one(LOCK_WORKER, id)
        if known is None:
            return False
        if await writing.run(HEAR_WORKER, id, now):
            writing.tell(known.namespace, "WorkerHeard", "worker", id, last_heartbeat=now)
        return True


async def list_workers(store: Opened, namespace: str) -> list[WorkflowWorker]:
    """The workers of a namespace, in the order of their registration."""
    codec.check_text("namespace", namespace)
    return await store.pool.rows(LIST_WORKERS, namespace)


async def remove_dead_workers(store: Opened, cutoff: float) -> list[str]:
    """The ids of the workers last heard of before *cutoff*, strictly; they are removed.

    What they held is released in the same transaction: workflow tasks are dispatchable and activities pending again,
    the latter with the same attempt number. Tasks that the engine leased to them have fallen due: the engine's clock
    ends those leases with its next step, as it does with any that ran out.
    """
    check_moment("cutoff", cutoff)
    async with store.writing() as writing:
        dead = await writing.rows(LOCK_DEAD, cutoff)
        if not dead:
            return []
        await _release(writing, dead)
        ids = [worker.id for worker in dead]
        await writing.run(REMOVE_WORKERS, ids)
        for worker in dead:
            writing.tell(worker.namespace, "WorkerRemoved", "worker", worker.id)
        return ids


async def _release(writing: Writing, dead: Sequence[WorkerKey]) -> None:
    ids, namespaces = [worker.id for worker in dead], [worker.namespace for worker in dead]
    runs = [run.run_id for run in await writing.rows(LOCK_HELD_RUNS, ids, namespaces)]
    if not runs:
        return
    (clock,) = await writing.rows(CLOCK)
    for task in await writing.rows(FREE_DISPATCHED, runs, ids, clock.now):
        writing.tell(
            task.namespace,
            "WorkflowTaskReleased",
            "workflow",
            task.workflow_id,
            run_id=task.run_id,
            worker=task.worker,
        )
    for row in await writing.rows(FREE_ACTIVITIES, runs, ids, RUNNING):
        writing.tell(
            row.namespace,
            "ActivityReleased",
            "activity",
            str(row.id),
            workflow_id=row.workflow_id,
            run_id=row.run_id,
            seq=row.seq,
            attempt=row.attempt,
            worker=row.worker,
        )
    await writing.run(LAPSE_TASKS, runs, ids, namespaces, clock.now)


def _check(worker: WorkflowWorker) -> None:
    codec.check_text("id", worker.id)
    codec.check_text("namespace", worker.namespace)
    codec.check_text("task_queue", worker.task_queue)
    codec.check_text("identity", worker.identity, may_be_empty=True)
    for name in (*(worker.workflows or ()), *(worker.activities or ())):
        codec.check_text("name of a workflow or activity", name)
    check_number("max_concurrent_workflows", worker.max_concurrent_workflows, 0, COUNT_MAX)
    check_number("max_concurrent_activities", worker.max_concurrent_activities, 0, COUNT_MAX)
    check_number("active_tasks", worker.active_tasks, 0, COUNT_MAX)
    check_moment("last_heartbeat", worker.last_heartbeat)
    check_moment("registered_at", worker.registered_at)
