"""What was written through the store contract is not the engine's: no verb gives it a history, and nothing of it changes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.engine.clock import Clock
from holdfast.exceptions import AlreadyExists, Refused
from holdfast.store import Store
from holdfast.wire import messages as m
from holdfast.wire.records import WorkflowActivity, WorkflowRecord, WorkflowTimer
from tests.engine.parts import Parts, start_of

LONG_AGO = 1_000.0


@pytest.fixture
async def store(parts: Parts) -> AsyncIterator[Store]:
    async with await Store.connect(parts.engine.pool.url) as opened:
        yield opened


@pytest.fixture
async def written(parts: Parts, store: Store) -> WorkflowRecord:
    """An open run of the contract's, dispatchable, with an activity and a timer that have been due for long."""
    record = WorkflowRecord(
        id="order-1",
        namespace=parts.namespace,
        workflow_type="order",
        task_queue="q",
        created_at=LONG_AGO,
        updated_at=LONG_AGO,
    )
    await store.create_workflow(record)
    await store.mark_workflow_dispatchable("order-1", namespace=parts.namespace)
    work = {"workflow_id": "order-1", "seq": 1}
    activity = WorkflowActivity(**work, name="charge", task_queue="q", scheduled_at=LONG_AGO)
    await store.create_activity(activity, namespace=parts.namespace)
    await store.create_timer(WorkflowTimer(**work, fire_at=LONG_AGO), namespace=parts.namespace)
    found = await store.get_workflow("order-1", namespace=parts.namespace)
    assert found is not None
    return found


async def history_of(parts: Parts) -> Any:
    return await parts.look.one("SELECT count(*) FROM event")


@pytest.mark.parametrize(
    ("verb", "request_"),
    [
        ("signal", m.Signal(request_id="r1", workflow_id="order-1", name="go")),
        ("cancel", m.Cancel(request_id="r1", workflow_id="order-1")),
        ("terminate", m.Terminate(request_id="r1", workflow_id="order-1")),
        ("start", start_of("order-1", id_conflict="terminate_existing")),
    ],
    ids=["signal", "cancel", "terminate", "start in its place"],
)
async def test_a_verb_that_would_change_it_is_refused(
    parts: Parts, store: Store, written: WorkflowRecord, verb: str, request_: Any
) -> None:
    with pytest.raises(Refused, match="was written through the store contract"):
        await parts.ask(verb, request_)

    assert await store.get_workflow("order-1", namespace=parts.namespace) == written
    assert await history_of(parts) == 0


async def test_its_id_is_taken_all_the_same(parts: Parts, written: WorkflowRecord) -> None:
    with pytest.raises(AlreadyExists):
        await parts.start("order-1")

    found: m.Started = await parts.ask("start", start_of("order-1", id_conflict="use_existing"))
    assert found.run_id == written.run_id


async def test_the_engine_neither_claims_its_work_nor_fires_its_timers(
    parts: Parts, store: Store, written: WorkflowRecord
) -> None:
    claimed = await parts.claim(workflows=10, activities=10, queue="q")
    await Clock(parts.engine).step()

    assert (claimed.workflow_tasks, claimed.activity_tasks) == ([], [])
    timer = await store.get_timer_by_workflow_seq("order-1", 1, namespace=parts.namespace)
    assert timer is not None
    assert not timer.fired
    assert await history_of(parts) == 0


async def test_nor_does_the_contract_touch_what_the_engine_drives(parts: Parts, store: Store) -> None:
    await parts.start("driven")
    before = await store.get_workflow("driven", namespace=parts.namespace)

    with pytest.raises(Refused, match="is driven by the engine"):
        await store.update_workflow_status("driven", "COMPLETED", None, None, namespace=parts.namespace)
    with pytest.raises(Refused, match="is driven by the engine"):
        await store.mark_workflow_dispatchable("driven", namespace=parts.namespace)
    assert await store.claim_workflow_task("q", "w1", namespace=parts.namespace) is None
    assert await store.claim_activity("q", "w1", namespace=parts.namespace) is None
    assert await store.fire_due_timers(time.time() + 1e9, namespace=parts.namespace) == []
    assert await store.get_workflow("driven", namespace=parts.namespace) == before
