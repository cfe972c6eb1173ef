"""Snapshots of a run's state: one per event number, and only the newest few."""

from __future__ import annotations

from holdfast.core import records as rules
from holdfast.store.contract.addressing import lock_known
from holdfast.store.contract.door import check_address, check_given, check_json, check_number
from holdfast.store.contract.opening import Opened
from holdfast.store.session import Query, Statement
from holdfast.wire import codec
from holdfast.wire.records import WorkflowSnapshot

PUT_SNAPSHOT = Statement(
    """
    INSERT INTO snapshot (run_id, event_seq, state_json, created_at)
    VALUES ($1::uuid, $2, $3, extract(epoch FROM clock_timestamp())::float8)
    ON CONFLICT (run_id, event_seq) DO UPDATE
    SET state_json = excluded.state_json, created_at = excluded.created_at
    """
)

DROP_OLDER = Statement(
    """
    DELETE FROM snapshot AS s
    WHERE s.run_id = $1::uuid
        AND s.event_seq <= (
            SELECT o.event_seq
            FROM snapshot AS o
            WHERE o.run_id = $1
            ORDER BY o.event_seq DESC
            OFFSET $2
            LIMIT 1
        )
    """
)

LATEST_SNAPSHOT = Query(
    """
    SELECT $2::text AS workflow_id, s.event_seq, s.state_json, s.created_at
    FROM snapshot AS s
    WHERE s.run_id = (
        SELECT r.run_id
        FROM run AS r
        WHERE r.namespace = $1 AND r.workflow_id = $2 AND ($3::uuid IS NULL OR r.run_id = $3)
        ORDER BY r.run_id DESC
        LIMIT 1
    )
    ORDER BY s.event_seq DESC
    LIMIT 1
    """,
    WorkflowSnapshot,
)


async def create_snapshot(
    store: Opened,
    workflow_id: str,
    event_seq: int,
    state_json: str,
    *,
    namespace: str = "main",
    run_id: str | None = None,
) -> None:
    """Keep the state that the run has after event *event_seq*, in place of one that was kept for that event.

    The three with the highest event numbers stay, so that one older than those is gone at once. Raises `NotFound` for
    an unknown workflow. A closed run takes snapshots too, and one that the engine drives.
    """
    check_number("event_seq", event_seq, 0, codec.SEQ_MAX)
    check_given("state_json", state_json)
    check_json("state_json", state_json)
    async with store.writing() as writing:
        run = await lock_known(writing, namespace, workflow_id, run_id)
        await writing.run(PUT_SNAPSHOT, run.run_id, event_seq, state_json)
        await writing.run(DROP_OLDER, run.run_id, rules.SNAPSHOTS_KEPT)
        writing.tell(
            namespace, "SnapshotCreated", "snapshot", workflow_id, run_id=run.run_id, event_seq=event_seq
        )


async def get_latest_snapshot(
    store: Opened, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> WorkflowSnapshot | None:
    """The snapshot of the run with the highest event number, or None."""
    check_address(namespace, workflow_id, run_id)
    return await store.one(LATEST_SNAPSHOT, namespace, workflow_id, run_id)
