"""Two processes change one workflow at once: as if one had come after the other, wherever the first one pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast.store import Store
from holdfast.wire.records import (
    SchedulePatch,
    WorkflowActivity,
    WorkflowEvent,
    WorkflowRecord,
    WorkflowSchedule,
    WorkflowSignal,
    WorkflowTimer,
    WorkflowWorker,
)
from tests.contract.racing import (
    AT_REST,
    NUMBER_FROM,
    Call,
    CancelledAt,
    Gate,
    Place,
    differences,
    done_or_waiting,
    finished,
    first_of,
    gated,
    left,
    outcome,
    place,
)
from tests.store.rows import Sql

PATIENCE_S = 20.0

CALLS: dict[str, Call] = {
    "append_event": lambda s, p: s.append_event(
        WorkflowEvent(workflow_id="w", seq=2, event_type="Went", timestamp=1e9), **p.address
    ),
    "cancel_pending_activities": lambda s, p: s.cancel_pending_activities("w", **p.address),
    "cancel_pending_timers": lambda s, p: s.cancel_pending_timers("w", **p.address),
    "claim_activity": lambda s, p: s.claim_activity("q", "x2", **p.address),
    "claim_workflow": lambda s, p: s.claim_workflow("w", "x2", **p.address),
    "claim_workflow_task": lambda s, p: s.claim_workflow_task("q", "x2", **p.address),
    "complete_activity": lambda s, p: s.complete_activity(p.activities[1], "1", None, False),
    "complete_activity that waits": lambda s, p: s.complete_activity(p.activities[0], "1", None, False),
    "consume_signals": lambda s, p: s.consume_signals("w", "go", **p.address),
    "create_activity": lambda s, p: s.create_activity(
        WorkflowActivity(workflow_id="w", seq=3, name="go", task_queue="q", scheduled_at=1e9), **p.address
    ),
    "create_snapshot": lambda s, p: s.create_snapshot("w", 2, "2", **p.address),
    "create_timer": lambda s, p: s.create_timer(
        WorkflowTimer(workflow_id="w", seq=2, fire_at=1e9), **p.address
    ),
    "create_workflow": lambda s, p: s.create_workflow(
        WorkflowRecord(
            id="w",
            run_id=p.next_run_id,
            workflow_type="order",
            task_queue="q",
            created_at=1e9,
            updated_at=1e9,
            namespace=p.namespace,
        )
    ),
    "delete_namespace": lambda s, p: s.delete_namespace(p.namespace),
    "fire_due_timers": lambda s, p: s.fire_due_timers(1.1e9, namespace=p.namespace),
    "heartbeat_activity": lambda s, p: s.heartbeat_activity(p.activities[1], "7", worker_id="x1"),
    "mark_archived_and_purge": lambda s, p: s.mark_archived_and_purge(
        "w", "s3://w", 1.1e9, namespace=p.namespace
    ),
    "mark_workflow_dispatchable": lambda s, p: s.mark_workflow_dispatchable("w", **p.address),
    "release_workflow_task": lambda s, p: s.release_workflow_task("w", "x1", **p.address),
    "requeue_activity_for_retry": lambda s, p: s.requeue_activity_for_retry(p.activities[1], 2, 1.1e9),
    "requeue_activity_for_retry that waits": lambda s, p: s.requeue_activity_for_retry(
        p.activities[0], 2, 1.1e9
    ),
    "send_signal": lambda s, p: s.send_signal(
        WorkflowSignal(workflow_id="w", name="go", received_at=1e9, request_id="r"), **p.address
    ),
    "update_workflow_status": lambda s, p: s.update_workflow_status("w", "COMPLETED", "1", None, **p.address),
    "upsert_search_attributes": lambda s, p: s.upsert_search_attributes("w", '{"m": 2}', **p.address),
}
SKIPPING: dict[str, Any] = {"claim_activity": None, "claim_workflow_task": None, "fire_due_timers": []}
"""What they answer when the rows that they look for are being written: the next call will see."""

WORKER = WorkflowWorker(id="x1", last_heartbeat=1e9, registered_at=1e9)
NIGHTLY = WorkflowSchedule(name="s", workflow_type="order", cron_expr="0 3 * * *", created_at=1e9)
# Not about the workflow. They come in this order, each upon what the one before left.
OTHER_CALLS: dict[str, Call] = {
    "create_namespace": lambda s, p: s.create_namespace(f"{p.namespace}-2"),
    "register_worker": lambda s, p: s.register_worker(WORKER),
    "heartbeat_worker": lambda s, p: s.heartbeat_worker("x1", 1.1e9),
    "remove_dead_workers": lambda s, p: s.remove_dead_workers(1.2e9),
    "release_stale_dispatch_leases": lambda s, p: s.release_stale_dispatch_leases(1.2e9, 1.0),
    "create_schedule": lambda s, p: s.create_schedule(NIGHTLY),
    "update_schedule": lambda s, p: s.update_schedule("main", "s", SchedulePatch(cron_expr="0 4 * * *")),
    "update_schedule_last_run": lambda s, p: s.update_schedule_last_run("main", "s", 1e9, 1.1e9, "w"),
    "set_schedule_paused": lambda s, p: s.set_schedule_paused("main", "s", True),
    "delete_schedule": lambda s, p: s.delete_schedule("main", "s"),
    "create_api_key": lambda s, p: s.create_api_key("h", "p", None, 1e9),
    "revoke_api_key": lambda s, p: s.revoke_api_key("p"),
}


@dataclass
class Pair:
    """Two stores on one database, both with a gate, and a connection beside them."""

    first: Store
    second: Store
    gate: Gate
    sql: Sql

    async def serially(self, fixture: str, calls: tuple[str, ...]) -> tuple[list[Any], Any, int]:
        """What each answers, one after the other, what is left, and how many statements the first one has."""
        at = await place(self.sql, fixture)
        self.gate.set(None)
        answers = [await outcome(CALLS[call](self.first, at), at) for call in calls[:1]]
        statements = self.gate.count
        answers += [await outcome(CALLS[call](self.second, at), at) for call in calls[1:]]
        return answers, await left(self.sql, at), statements

    async def racing(self, fixture: str, one: str, other: str, stop: int) -> tuple[list[Any], Any]:
        """The same when the first pauses before statement *stop* until the other is done, or waits for it."""
        at = await place(self.sql, fixture)
        self.gate.set(stop)
        async with asyncio.timeout(PATIENCE_S):
            first = asyncio.create_task(outcome(CALLS[one](self.first, at), at))
            await first_of(first, self.gate.reached)
            second = asyncio.create_task(outcome(CALLS[other](self.second, at), at))
            await done_or_waiting(second, self.sql)
            self.gate.go.set()
            answers = [await first, await second]
        return answers, await left(self.sql, at)


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    """A connection beside the stores, to look at rows."""
    async with Sql.connected(database) as connection:
        await connection.connection.execute(NUMBER_FROM)
        yield connection


@pytest.fixture
async def pair(database: str, sql: Sql) -> AsyncIterator[Pair]:
    first, gate = await gated(database)
    async with first, await Store.connect(database, pool_max=1) as second:
        yield Pair(first, second, gate, sql)


def fixtures_of(one: str, other: str) -> list[str]:
    """In which states of the workflow the two have something to do with each other."""
    both = {one, other}
    return [
        "ready",
        *(["leased"] if both & {"release_workflow_task", "mark_workflow_dispatchable"} else []),
        *(["closed"] if both & {"mark_archived_and_purge", "create_workflow"} else []),
    ]


@pytest.mark.parametrize("one", CALLS)
async def test_whichever_comes_between_it_is_as_if_it_had_waited(pair: Pair, one: str) -> None:
    """Every other change, at every pause of this one. A claim may also find what is being written not there."""
    faults = []
    for other in CALLS:
        for fixture in fixtures_of(one, other):
            *forth, statements = await pair.serially(fixture, (one, other))
            answers, rows, _ = await pair.serially(fixture, (other, one))
            allowed = [forth, [answers[::-1], rows]]
            if other in SKIPPING:
                answers, rows, _ = await pair.serially(fixture, (one,))
                allowed.append([[*answers, SKIPPING[other]], rows])
            for stop in range(2, statements + 1):
                found = [*await pair.racing(fixture, one, other, stop)]
                if found not in allowed:
                    faults.append(
                        f"{one} pausing at {stop}, {other}, {fixture}:\n{differences(found, allowed)}"
                    )

    assert not faults, "\n".join(faults)


async def cancelled_everywhere(store: Store, sql: Sql, call: Call, fixture: str) -> AsyncIterator[Place]:
    """After each time that the call was cancelled, one wait later than before: the place that it was for."""
    stop = 0
    while True:
        stop += 1
        at = await place(sql, fixture)
        work = CancelledAt(outcome(call(store, at), at), stop)
        task = asyncio.create_task(finished(work))
        await asyncio.wait((task,))
        if work.count < stop:
            await task
            return
        assert task.cancelled(), f"cancelled at wait {stop}, it went on"
        # With the one connection that the store may have, and nobody's lock in the way.
        async with asyncio.timeout(PATIENCE_S):
            await store.list_namespaces()
            await sql.until(AT_REST)
        yield at


@pytest.mark.parametrize("name", CALLS)
async def test_a_change_that_is_cancelled_happens_wholly_or_not_at_all(
    database: str, sql: Sql, name: str
) -> None:
    """And leaves neither a lock nor an open transaction, nor a place in the pool taken."""
    fixture = fixtures_of(name, name)[-1]
    async with await Store.connect(database, pool_max=1) as store:
        untouched, done = await place(sql, fixture), await place(sql, fixture)
        await CALLS[name](store, done)
        allowed = [await left(sql, at) for at in (untouched, done)]
        seen = [await left(sql, at) async for at in cancelled_everywhere(store, sql, CALLS[name], fixture)]

    assert allowed[0] != allowed[1], "the call was to change something"
    assert len(seen) >= 4
    assert [rows for rows in seen if rows not in allowed] == []


async def test_whatever_else_is_cancelled_leaves_nothing_behind(database: str, sql: Sql) -> None:
    async with await Store.connect(database, pool_max=1) as store:
        for call in OTHER_CALLS.values():
            async for _ in cancelled_everywhere(store, sql, call, "leased"):
                pass
