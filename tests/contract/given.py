"""Records for tests: valid, with a field or two that matter to the test, and written through the store."""

from __future__ import annotations

from typing import Any

from holdfast.store import Store
from holdfast.wire.records import (
    WorkflowActivity,
    WorkflowRecord,
    WorkflowSignal,
    WorkflowTimer,
    WorkflowWorker,
)
from tests.store.rows import Sql

NOON = 1_700_000_000.25
QUEUE = "shop"
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"


async def database_now(sql: Sql) -> float:
    """The database's clock, epoch seconds."""
    now: float = await sql.one(CLOCK)
    return now


def workflow(id: str = "order-1", **fields: Any) -> WorkflowRecord:
    """A pending workflow that was created at noon."""
    given = {"workflow_type": "checkout", "task_queue": QUEUE, "created_at": NOON, "updated_at": NOON}
    return WorkflowRecord(id=id, **{**given, **fields})


def activity(workflow_id: str = "order-1", seq: int = 1, **fields: Any) -> WorkflowActivity:
    """A pending activity that has been due since noon."""
    given = {"name": "charge", "task_queue": QUEUE, "scheduled_at": NOON}
    return WorkflowActivity(workflow_id=workflow_id, seq=seq, **{**given, **fields})


def timer(workflow_id: str = "order-1", seq: int = 1, **fields: Any) -> WorkflowTimer:
    """A timer that is due at noon."""
    return WorkflowTimer(workflow_id=workflow_id, seq=seq, **{"fire_at": NOON, **fields})


def signal(workflow_id: str = "order-1", name: str = "paid", **fields: Any) -> WorkflowSignal:
    """A signal that came at noon."""
    return WorkflowSignal(workflow_id=workflow_id, name=name, **{"received_at": NOON, **fields})


def worker(id: str = "w1", **fields: Any) -> WorkflowWorker:
    """A worker that was heard of at noon."""
    given = {"task_queue": QUEUE, "last_heartbeat": NOON, "registered_at": NOON}
    return WorkflowWorker(id=id, **{**given, **fields})


async def created(store: Store, id: str = "order-1", **fields: Any) -> WorkflowRecord:
    """A workflow that was written, as it was given."""
    record = workflow(id, **fields)
    await store.create_workflow(record)
    return record


async def closed(store: Store, id: str = "order-1", **fields: Any) -> WorkflowRecord:
    """A completed workflow that was written."""
    return await created(store, id, **{"status": "COMPLETED", "completed_at": NOON, **fields})


async def ready(store: Store, *ids: str, **fields: Any) -> None:
    """Workflows that were written and made dispatchable, one after the other."""
    for id in ids or ("order-1",):
        await created(store, id, **fields)
        await store.mark_workflow_dispatchable(id, namespace=fields.get("namespace", "main"))


async def claimed(store: Store, worker_id: str = "w1", **fields: Any) -> WorkflowActivity:
    """An activity of a new workflow that *worker_id* runs."""
    record = activity(**fields)
    if await store.get_workflow(record.workflow_id) is None:
        await created(store, record.workflow_id)
    await store.create_activity(record)
    found = await store.claim_activity(record.task_queue, worker_id)
    assert found is not None
    return found
