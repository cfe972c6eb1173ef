"""The events of a run: added by hand where the contract wrote it, read wherever it came from."""

from __future__ import annotations

import msgspec

from holdfast.exceptions import AlreadyExists
from holdfast.store.contract.addressing import find, lock_known, not_driven
from holdfast.store.contract.door import check_address, check_json, check_moment, check_number
from holdfast.store.contract.opening import Opened
from holdfast.store.session import Query
from holdfast.wire import codec, history
from holdfast.wire import events as e
from holdfast.wire.records import WorkflowEvent


class EventId(msgspec.Struct, kw_only=True):
    """The number of an event in the store."""

    id: int


class EventCount(msgspec.Struct, kw_only=True):
    """How many events a run has."""

    count: int


class DrivenEvent(msgspec.Struct, kw_only=True):
    """An event of the engine's, still encoded."""

    seq: int
    recorded_at: float
    body: bytes


ADD_EVENT = Query(
    """
    WITH added AS (
        INSERT INTO record_event (run_id, seq, event_type, payload, timestamp)
        VALUES ($1::uuid, $2, $3, $4, $5)
        ON CONFLICT (run_id, seq) DO NOTHING
        RETURNING id
    ), counted AS (
        UPDATE record AS c
        SET event_count = c.event_count + 1
        WHERE c.run_id = $1 AND EXISTS (SELECT 1 FROM added)
    )
    SELECT a.id
    FROM added AS a
    """,
    EventId,
)


async def append_event(
    store: Opened, event: WorkflowEvent, *, namespace: str = "main", run_id: str | None = None
) -> int:
    """The number of the event in the store; numbers of a run rise in the order in which events were added.

    Its `seq` may leave a gap and come in any order, but once: raises `AlreadyExists` for one that the run has. Raises
    `NotFound` for an unknown workflow, `Refused` for one that the engine drives: its history is the engine's.
    """
    check_number("seq of the event", event.seq, 1, codec.SEQ_MAX)
    codec.check_text("event_type", event.event_type)
    check_json(f"payload of event {event.seq}", event.payload)
    check_moment("timestamp", event.timestamp)
    async with store.writing() as writing:
        run = await lock_known(writing, namespace, event.workflow_id, run_id)
        not_driven(run, "write its history")
        added = await writing.one(
            ADD_EVENT, run.run_id, event.seq, event.event_type, event.payload, event.timestamp
        )
        if added is None:
            raise AlreadyExists(
                f"workflow {event.workflow_id!r} (run {run.run_id}) has an event {event.seq} already: use another seq"
            )
        writing.tell(
            namespace,
            "EventAppended",
            "event",
            str(added.id),
            workflow_id=event.workflow_id,
            run_id=run.run_id,
            seq=event.seq,
            event_type=event.event_type,
        )
        return added.id


LIST_EVENTS = Query(
    """
    SELECT v.id, $2::text AS workflow_id, v.seq, v.event_type, v.payload, v.timestamp
    FROM record_event AS v
    WHERE v.run_id = $1::uuid AND v.seq > $3
    ORDER BY v.seq
    LIMIT $4
    """,
    WorkflowEvent,
)

LIST_DRIVEN_EVENTS = Query(
    """
    SELECT v.seq, extract(epoch FROM v.recorded_at)::float8 AS recorded_at, v.body
    FROM event AS v
    WHERE v.run_id = $1::uuid AND v.seq > $2
    ORDER BY v.seq
    LIMIT $3
    """,
    DrivenEvent,
)


async def list_events(
    store: Opened,
    workflow_id: str,
    *,
    after: int = 0,
    limit: int | None = None,
    namespace: str = "main",
    run_id: str | None = None,
) -> list[WorkflowEvent]:
    """The events of the run with a `seq` above *after*, by `seq`, at most *limit* if that is given.

    Those that the engine wrote have their `seq` for an `id` and their attributes as JSON text for a payload. Empty
    for an unknown workflow, and for one whose history was archived.
    """
    check_number("after", after, 0, codec.SEQ_MAX)
    if limit is not None:
        check_number("limit", limit, 1, codec.SEQ_MAX)
    run = await find(store, namespace, workflow_id, run_id)
    if run is None:
        return []
    if not run.is_driven:
        return await store.pool.rows(LIST_EVENTS, run.run_id, workflow_id, after, limit)
    found = await store.pool.rows(LIST_DRIVEN_EVENTS, run.run_id, after, limit)
    return [_shown(workflow_id, event) for event in found]


def _shown(workflow_id: str, stored: DrivenEvent) -> WorkflowEvent:
    item = e.HistoryEvent(stored.seq, stored.recorded_at, codec.decode_event(stored.body))
    (row,) = history.to_rows([item])
    return WorkflowEvent(
        id=stored.seq,
        workflow_id=workflow_id,
        seq=stored.seq,
        event_type=row["event_type"],
        payload=msgspec.json.encode(row["attributes"]).decode(),
        timestamp=stored.recorded_at,
    )


COUNT_EVENTS = Query(
    """
    SELECT CASE
        WHEN r.last_seq = 0 THEN coalesce((SELECT c.event_count FROM record AS c WHERE c.run_id = r.run_id), 0)
        WHEN r.archived_at IS NULL THEN r.last_seq
        ELSE 0
    END AS count
    FROM run AS r
    WHERE r.namespace = $1 AND r.workflow_id = $2 AND ($3::uuid IS NULL OR r.run_id = $3)
    ORDER BY r.run_id DESC
    LIMIT 1
    """,
    EventCount,
)


async def get_event_count(
    store: Opened, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> int:
    """How many events the run has; 0 for an unknown one. The number is kept, not counted."""
    check_address(namespace, workflow_id, run_id)
    found = await store.one(COUNT_EVENTS, namespace, workflow_id, run_id)
    return 0 if found is None else found.count
