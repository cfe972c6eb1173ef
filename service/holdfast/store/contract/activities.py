"""Activities that were written through the contract: made, tried again, settled. The rules are the core's.

They are claimed in `dispatch`; everything here locks the run first, then the activity.
"""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.core import record_activities as rules
from holdfast.exceptions import Invalid
from holdfast.store.contract import driven_activities
from holdfast.store.contract.addressing import Addressed, lock, lock_known, not_driven
from holdfast.store.contract.door import (
    check_address,
    check_json,
    check_moment,
    check_moment_if_any,
    check_number,
    check_seconds,
    check_unicode,
)
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Query, Statement
from holdfast.wire import codec
from holdfast.wire.records import ACTIVITY_STATUSES, WorkflowActivity

ID_MAX = 2**63 - 1
DURATION_MAX_S = 1e12


class ActivityRow(WorkflowActivity, frozen=True, kw_only=True):
    """An activity with what its record does not tell. `now` is the database's clock."""

    namespace: str
    run_id: str
    is_cancel_requested: bool
    now: float


class ActivityId(msgspec.Struct, kw_only=True):
    """The numbers of an activity: the store's, and the run's own."""

    id: int
    seq: int


FIND_ACTIVITY = Query(
    """
    SELECT
        a.id, $3::text AS workflow_id, a.seq, a.name, a.task_queue, a.input, a.status, a.result, a.error, a.attempt,
        a.max_attempts, a.initial_interval_secs, a.backoff_coefficient, a.max_interval_secs, a.start_to_close_secs,
        a.schedule_to_start_secs, a.schedule_to_close_secs, a.heartbeat_timeout_secs, a.heartbeat_details, a.claimed_by,
        a.scheduled_at, a.started_at, a.completed_at, a.last_heartbeat
    FROM record_activity AS a
    WHERE a.run_id = $1::uuid AND a.seq = $2
    """,
    WorkflowActivity,
)

INSERT_ACTIVITY = Query(
    """
    INSERT INTO record_activity (
        run_id, namespace, seq, name, task_queue, input, status, result, error, attempt, max_attempts,
        initial_interval_secs, backoff_coefficient, max_interval_secs, start_to_close_secs, schedule_to_start_secs,
        schedule_to_close_secs, heartbeat_timeout_secs, heartbeat_details, claimed_by, scheduled_at, started_at,
        completed_at, last_heartbeat
    )
    VALUES (
        $1::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
        $24
    )
    RETURNING id, seq
    """,
    ActivityId,
)

_INSERTED = (
    *("seq", "name", "task_queue", "input", "status", "result", "error", "attempt", "max_attempts"),
    *("initial_interval_secs", "backoff_coefficient", "max_interval_secs", "start_to_close_secs"),
    *("schedule_to_start_secs", "schedule_to_close_secs", "heartbeat_timeout_secs", "heartbeat_details"),
    *("claimed_by", "scheduled_at", "started_at", "completed_at", "last_heartbeat"),
)


_OPTIONAL = (
    *("max_interval_secs", "schedule_to_start_secs", "schedule_to_close_secs", "heartbeat_timeout_secs"),
)


async def create_activity(
    store: Opened, activity: WorkflowActivity, *, namespace: str = "main", run_id: str | None = None
) -> int:
    """The number of the activity that has this `seq` in the run, written as given unless there is one.

    What is there stays as it is. Raises `AlreadyExists` if it has another name or queue, `NotFound` for an unknown
    workflow.
    """
    _check(activity)
    async with store.writing() as writing:
        run = await lock_known(writing, namespace, activity.workflow_id, run_id)
        found = await writing.one(FIND_ACTIVITY, run.run_id, activity.seq, run.workflow_id)
        if found is not None:
            rules.check_is_same(found, activity)
            return found.id or 0
        values = [getattr(activity, name) for name in _INSERTED]
        (made,) = await writing.rows(INSERT_ACTIVITY, run.run_id, run.namespace, *values)
        tell(
            writing,
            run,
            "ActivityCreated",
            made,
            name=activity.name,
            task_queue=activity.task_queue,
            status=activity.status,
        )
        return made.id


def _check(activity: WorkflowActivity) -> None:
    which = f"activity {activity.seq}"
    check_number("seq of the activity", activity.seq, 0, codec.SEQ_MAX)
    codec.check_text("activity name", activity.name)
    codec.check_text("task_queue", activity.task_queue)
    if activity.claimed_by is not None:
        codec.check_text("claimed_by", activity.claimed_by)
    if activity.status not in ACTIVITY_STATUSES:
        raise Invalid(
            f"status of {which} is {activity.status!r}: expected one of {', '.join(ACTIVITY_STATUSES)}"
        )
    check_number(f"attempt of {which}", activity.attempt, 0, codec.SEQ_MAX)
    check_number(f"max_attempts of {which}", activity.max_attempts, 0, codec.SEQ_MAX)
    for name in ("input", "result", "heartbeat_details"):
        check_json(f"{name} of {which}", getattr(activity, name))
    check_unicode(f"error of {which}", activity.error)
    for name in _INSERTED:
        if name in _OPTIONAL and getattr(activity, name) is None:
            continue
        if name.endswith("_secs") or name == "backoff_coefficient":
            check_seconds(f"{name} of {which}", getattr(activity, name), DURATION_MAX_S)
    check_moment(f"scheduled_at of {which}", activity.scheduled_at)
    for name in ("started_at", "completed_at", "last_heartbeat"):
        check_moment_if_any(f"{name} of {which}", getattr(activity, name))


GET_ACTIVITY = Query(
    """
    SELECT
        a.id, r.workflow_id, a.seq, a.name, a.task_queue, a.input, a.status, a.result, a.error, a.attempt,
        a.max_attempts, a.initial_interval_secs, a.backoff_coefficient, a.max_interval_secs, a.start_to_close_secs,
        a.schedule_to_start_secs, a.schedule_to_close_secs, a.heartbeat_timeout_secs, a.heartbeat_details, a.claimed_by,
        a.scheduled_at, a.started_at, a.completed_at, a.last_heartbeat
    FROM record_activity AS a
    JOIN run AS r ON r.run_id = a.run_id
    WHERE a.id = $1
    """,
    WorkflowActivity,
)

GET_ACTIVITY_BY_SEQ = Query(
    """
    SELECT
        a.id, r.workflow_id, a.seq, a.name, a.task_queue, a.input, a.status, a.result, a.error, a.attempt,
        a.max_attempts, a.initial_interval_secs, a.backoff_coefficient, a.max_interval_secs, a.start_to_close_secs,
        a.schedule_to_start_secs, a.schedule_to_close_secs, a.heartbeat_timeout_secs, a.heartbeat_details, a.claimed_by,
        a.scheduled_at, a.started_at, a.completed_at, a.last_heartbeat
    FROM (
        SELECT r.run_id, r.workflow_id
        FROM run AS r
        WHERE r.namespace = $1 AND r.workflow_id = $2 AND ($3::uuid IS NULL OR r.run_id = $3)
        ORDER BY r.run_id DESC
        LIMIT 1
    ) AS r
    CROSS JOIN LATERAL (
        SELECT record_activity.*
        FROM record_activity
        WHERE record_activity.run_id = r.run_id AND record_activity.seq = $4
        OFFSET 0  -- planned while there was nothing, a plain join would begin with all activities of that number
    ) AS a
    """,
    WorkflowActivity,
)


async def get_activity(store: Opened, id: int) -> WorkflowActivity | None:
    """The activity with this number of the store's, or None. Those that the engine made have none."""
    return await store.one(GET_ACTIVITY, id) if 0 < id <= ID_MAX else None


async def get_activity_by_workflow_seq(
    store: Opened, workflow_id: str, seq: int, *, namespace: str = "main", run_id: str | None = None
) -> WorkflowActivity | None:
    """The activity with this number in the run, or None. One that the engine made has no `id`."""
    check_address(namespace, workflow_id, run_id)
    if not 0 <= seq <= codec.SEQ_MAX:
        return None
    found = await store.one(GET_ACTIVITY_BY_SEQ, namespace, workflow_id, run_id, seq)
    return found or await driven_activities.read_driven(store, namespace, workflow_id, run_id, seq)


LOCK_OWNER = Query(
    """
    SELECT
        r.run_id::text AS run_id,
        r.namespace,
        r.workflow_id,
        r.task_queue,
        r.status,
        r.closed_at IS NOT NULL AS is_closed,
        r.last_seq > 0 AS is_driven
    FROM run AS r
    WHERE r.run_id = (SELECT a.run_id FROM record_activity AS a WHERE a.id = $1)
    FOR UPDATE
    """,
    Addressed,
)

LOCK_ACTIVITY = Query(
    """
    SELECT
        a.id, a.run_id::text AS run_id, a.namespace, $2::text AS workflow_id, a.seq, a.name, a.task_queue, a.input,
        a.status, a.result, a.error, a.attempt, a.max_attempts, a.initial_interval_secs, a.backoff_coefficient,
        a.max_interval_secs, a.start_to_close_secs, a.schedule_to_start_secs, a.schedule_to_close_secs,
        a.heartbeat_timeout_secs, a.heartbeat_details, a.claimed_by, a.scheduled_at, a.started_at, a.completed_at,
        a.last_heartbeat, a.is_cancel_requested, extract(epoch FROM clock_timestamp())::float8 AS now
    FROM record_activity AS a
    WHERE a.id = $1
    FOR UPDATE
    """,
    ActivityRow,
)

WRITE_ACTIVITY = Statement(
    """
    UPDATE record_activity AS a
    SET
        status = $2,
        result = $3,
        error = $4,
        attempt = $5,
        claimed_by = $6,
        heartbeat_details = $7,
        scheduled_at = $8,
        started_at = $9,
        completed_at = $10,
        last_heartbeat = $11
    WHERE a.id = $1
    """
)


async def requeue_activity_for_retry(
    store: Opened, id: int, next_attempt: int, next_scheduled_at: float
) -> None:
    """The activity waits for its next attempt: PENDING, nobody's, not claimable before *next_scheduled_at*.

    What it reported by heartbeat stays for that attempt; its outcome, if it failed, goes. One that waits already
    gets the new number and time. Nothing happens for an unknown one. Raises `Refused` if it completed or was
    cancelled.
    """
    check_number("next_attempt", next_attempt, 0, codec.SEQ_MAX)
    check_moment("next_scheduled_at", next_scheduled_at)
    async with store.writing() as writing:
        _, row = await _lock(writing, id)
        if row is not None:
            again = rules.requeue(as_record(row), next_attempt, next_scheduled_at)
            await _write(
                writing, row, again, "ActivityRequeued", attempt=next_attempt, scheduled_at=next_scheduled_at
            )


async def complete_activity(
    store: Opened, id: int, result: str | None, error: str | None, failed: bool
) -> None:
    """The activity is FAILED if *failed*, else COMPLETED, with this outcome, since now by the database's clock.

    The first settlement wins: the same again changes nothing, another raises `Refused`, also after a cancellation.
    Nothing happens for an unknown one. It may be settled whether or not somebody claimed it.
    """
    check_json("result of the activity", result)
    check_unicode("error of the activity", error)
    async with store.writing() as writing:
        _, row = await _lock(writing, id)
        if row is not None:
            settled = rules.settle(as_record(row), result=result, error=error, failed=failed, now=row.now)
            await _write(writing, row, settled, "ActivityFailed" if failed else "ActivityCompleted")


async def heartbeat_activity(
    store: Opened, id: int, details: str | None, *, worker_id: str | None = None
) -> bool:
    """Whether the activity should stop: it does not run any more, or it was cancelled, or its run is closed.

    *details* are kept for the next attempt; without any, those of the last heartbeat stay. With *worker_id* it is
    also to stop, and keeps nothing, when another worker has it. True for an unknown one.
    """
    check_json("details of the heartbeat", details)
    async with store.writing() as writing:
        run, row = await _lock(writing, id)
        if run is None or row is None:
            return True
        alive = rules.beat(as_record(row), details, row.now, worker_id)
        await _write(writing, row, alive, "ActivityHeartbeatRecorded")
        return alive is None or row.is_cancel_requested or run.is_closed


async def _lock(writing: Writing, id: int) -> tuple[Addressed | None, ActivityRow | None]:
    """The activity, and before it its run, locked until the transaction ends."""
    run = await writing.one(LOCK_OWNER, id) if 0 < id <= ID_MAX else None
    return run, None if run is None else await writing.one(LOCK_ACTIVITY, id, run.workflow_id)


async def _write(
    writing: Writing, row: ActivityRow, changed: WorkflowActivity | None, fact: str, **fields: object
) -> None:
    """Write the activity as it is now, and tell the fact; None means that nothing changed."""
    if changed is None:
        return
    await writing.run(
        WRITE_ACTIVITY,
        row.id,
        changed.status,
        changed.result,
        changed.error,
        changed.attempt,
        changed.claimed_by,
        changed.heartbeat_details,
        changed.scheduled_at,
        changed.started_at,
        changed.completed_at,
        changed.last_heartbeat,
    )
    tell(writing, row, fact, row, **fields)


TIMED_OUT_ACTIVITIES = Query(
    """
    SELECT
        a.id, r.workflow_id, a.seq, a.name, a.task_queue, a.input, a.status, a.result, a.error, a.attempt,
        a.max_attempts, a.initial_interval_secs, a.backoff_coefficient, a.max_interval_secs, a.start_to_close_secs,
        a.schedule_to_start_secs, a.schedule_to_close_secs, a.heartbeat_timeout_secs, a.heartbeat_details, a.claimed_by,
        a.scheduled_at, a.started_at, a.completed_at, a.last_heartbeat
    FROM record_activity AS a
    JOIN run AS r ON r.run_id = a.run_id
    WHERE a.status = 'RUNNING'
        AND least(
            a.started_at + a.start_to_close_secs,
            coalesce(a.last_heartbeat, a.started_at) + a.heartbeat_timeout_secs
        ) < $1
        AND ($2::text IS NULL OR a.namespace = $2)
    ORDER BY
        least(
            a.started_at + a.start_to_close_secs,
            coalesce(a.last_heartbeat, a.started_at) + a.heartbeat_timeout_secs
        ),
        a.id
    LIMIT $3
    """,
    WorkflowActivity,
)


async def get_timed_out_activities(
    store: Opened, now: float, *, limit: int | None = None, namespace: str | None = None
) -> list[WorkflowActivity]:
    """The running activities whose time is over at *now*, the longest overdue first. Nothing changes.

    Over is what is strictly past start-to-close, or past the heartbeat timeout since the last sign of life, which
    is the start if there was none since. In all namespaces unless one is given, closed runs included.
    """
    check_moment("now", now)
    if namespace is not None:
        codec.check_text("namespace", namespace)
    if limit is not None:
        check_number("limit", limit, 1, codec.SEQ_MAX)
    return await store.pool.rows(TIMED_OUT_ACTIVITIES, now, namespace, limit)


CANCEL_PENDING = Query(
    """
    UPDATE record_activity AS a
    SET status = 'CANCELLED', completed_at = extract(epoch FROM clock_timestamp())::float8
    WHERE a.run_id = $1::uuid AND a.status = $2  -- bound: the index of all that waits is not the one to use
    RETURNING a.id, a.seq
    """,
    ActivityId,
)

ASK_TO_STOP = Query(
    """
    UPDATE record_activity AS a
    SET is_cancel_requested = true
    WHERE a.run_id = $1::uuid AND a.status = $2 AND NOT a.is_cancel_requested
    RETURNING a.id, a.seq
    """,
    ActivityId,
)


async def cancel_pending_activities(
    store: Opened, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> int:
    """How many activities of the run that waited for a worker are CANCELLED now. 0 for an unknown workflow.

    Those that run stay as they are, and are not counted: their next heartbeat says that they should stop. Raises
    `Refused` for an open run that the engine drives.
    """
    async with store.writing() as writing:
        run = await lock(writing, namespace, workflow_id, run_id)
        if run is None:
            return 0
        if not run.is_closed:
            not_driven(run, "cancel its activities")
        cancelled = await writing.rows(CANCEL_PENDING, run.run_id, rules.PENDING)
        # After that, by itself: one that was being claimed meanwhile runs by now.
        asked = await writing.rows(ASK_TO_STOP, run.run_id, rules.RUNNING)
        for fact, rows in (("ActivityCancelled", cancelled), ("ActivityCancelRequested", asked)):
            for row in sorted(rows, key=lambda row: row.seq):
                tell(writing, run, fact, row)
        return len(cancelled)


def as_record(row: ActivityRow) -> WorkflowActivity:
    """The activity as the contract tells it."""
    return WorkflowActivity(**{name: getattr(row, name) for name in WorkflowActivity.__struct_fields__})


def tell(
    writing: Writing,
    run: Addressed | ActivityRow,
    fact: str,
    activity: ActivityId | ActivityRow,
    **fields: Any,
) -> None:
    """Note that *fact* happened to an activity of the run."""
    writing.tell(
        run.namespace,
        fact,
        "activity",
        str(activity.id),
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        seq=activity.seq,
        **fields,
    )
