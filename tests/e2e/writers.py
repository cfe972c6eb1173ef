"""Programs that write through the store contract: several connections, namespaces and runs, every kind of record.

Each keeps a ledger of when its calls began and ended, and of what they left, so that the order in which the feed
tells of a run can be compared with real time, which no number of ours has a part in.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from holdfast.exceptions import AlreadyExists, NotFound, Refused
from holdfast.store import Store
from holdfast.wire.records import WorkflowEvent, WorkflowSchedule
from tests.contract import given

NAMESPACES = ("main", "feed-a", "feed-b")
WORKFLOWS = ("order-1", "order-2", "order-3")
PAUSE_S = 0.01
RECORDS = frozenset(
    {
        "namespace",
        "workflow",
        "event",
        "activity",
        "timer",
        "signal",
        "snapshot",
        "schedule",
        "worker",
        "api_key",
    }
)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Done:
    """One call on a workflow, when it began and ended, and what it made: the record and its key."""

    place: tuple[str, str]
    began: float
    ended: float
    record: str
    key: str


class Writer:
    """One connection's work. All write to the same workflows, and each to some names of its own."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._name = f"writer-{number}"
        self._random = random.Random(number)
        self._namespace, self._workflow = NAMESPACES[0], WORKFLOWS[0]
        self.ledger: list[Done] = []

    async def run(self) -> None:
        """Write until cancelled. What another writer did first is refused, and nothing else may be."""
        await self._own()
        calls: list[Callable[[], Awaitable[None]]] = [
            self._append,
            self._signal,
            self._consume,
            self._schedule_activity,
            self._work_on_activity,
            self._timer,
            self._fire,
            self._describe,
            self._dispatch,
            self._snapshot,
            self._end_and_begin,
            self._own,
            self._be_a_worker,
        ]
        while True:
            self._namespace = self._random.choice(NAMESPACES)
            self._workflow = self._random.choice(WORKFLOWS)
            try:
                await self._random.choice(calls)()
            except (AlreadyExists, NotFound, Refused):
                pass
            await asyncio.sleep(PAUSE_S)

    async def _made(self, record: str, call: Awaitable[int]) -> None:
        place = (self._namespace, self._workflow)
        began = time.monotonic()
        number = await call
        self.ledger.append(Done(place, began, time.monotonic(), record, str(number)))

    async def _append(self) -> None:
        event = WorkflowEvent(workflow_id=self._workflow, seq=next(_numbers), event_type="Noted", timestamp=1)
        await self._made("event", self._store.append_event(event, namespace=self._namespace))

    async def _signal(self) -> None:
        signal = given.signal(self._workflow, self._random.choice(("paid", "sent")))
        await self._made("signal", self._store.send_signal(signal, namespace=self._namespace))

    async def _consume(self) -> None:
        await self._store.consume_signals(self._workflow, "paid", namespace=self._namespace)

    async def _schedule_activity(self) -> None:
        activity = given.activity(self._workflow, next(_numbers))
        await self._made("activity", self._store.create_activity(activity, namespace=self._namespace))

    async def _work_on_activity(self) -> None:
        found = await self._store.claim_activity(given.QUEUE, self._name, namespace=self._namespace)
        if found is None or found.id is None:
            return
        await self._store.heartbeat_activity(found.id, '"half"')
        if self._random.random() < 0.5:
            await self._store.requeue_activity_for_retry(found.id, found.attempt + 1, given.NOON)
        else:
            await self._store.complete_activity(found.id, "1", None, False)

    async def _timer(self) -> None:
        timer = given.timer(self._workflow, next(_numbers))
        await self._made("timer", self._store.create_timer(timer, namespace=self._namespace))

    async def _fire(self) -> None:
        await self._store.fire_due_timers(given.NOON + 1, limit=3, namespace=self._namespace)

    async def _describe(self) -> None:
        status = self._random.choice(("PENDING", "RUNNING", "WAITING"))
        await self._store.update_workflow_status(
            self._workflow, status, None, None, namespace=self._namespace
        )
        await self._store.upsert_search_attributes(
            self._workflow, f'{{"n": {next(_numbers)}}}', namespace=self._namespace
        )

    async def _dispatch(self) -> None:
        await self._store.mark_workflow_dispatchable(self._workflow, namespace=self._namespace)
        held = await self._store.claim_workflow_task(given.QUEUE, self._name, namespace=self._namespace)
        if held is not None:
            await self._store.release_workflow_task(
                held.id, self._name, namespace=self._namespace, run_id=held.run_id
            )

    async def _snapshot(self) -> None:
        await self._store.create_snapshot(self._workflow, next(_numbers), "{}", namespace=self._namespace)

    async def _end_and_begin(self) -> None:
        await self._store.update_workflow_status(
            self._workflow, "COMPLETED", "1", None, namespace=self._namespace
        )
        await self._store.create_workflow(given.workflow(self._workflow, namespace=self._namespace))

    async def _own(self) -> None:
        name = f"{self._name}-{next(_numbers)}"
        await self._store.create_namespace(name)
        await self._store.create_schedule(
            WorkflowSchedule(
                name=name, workflow_type="order", cron_expr="0 0 1 1 *", paused=True, created_at=1
            )
        )
        await self._store.create_api_key(f"hash of {name}", name, None, 1)
        await self._store.set_schedule_paused("main", name, False)
        await self._store.delete_schedule("main", name)
        await self._store.revoke_api_key(name)
        await self._store.delete_namespace(name)

    async def _be_a_worker(self) -> None:
        worker = given.worker(self._name, namespace=self._namespace, identity=str(next(_numbers)))
        await self._store.register_worker(worker)
        await self._store.heartbeat_worker(self._name, given.NOON - 1)
        await self._store.remove_dead_workers(given.NOON)


@asynccontextmanager
async def writing(postgres_url: str, count: int) -> AsyncIterator[list[Writer]]:
    """So many writers at work while the block lasts. Raises what one of them did not expect."""
    async with await Store.connect(postgres_url) as store:
        for namespace in NAMESPACES:
            if namespace != "main":
                await store.create_namespace(namespace)
            for workflow_id in WORKFLOWS:
                await store.create_workflow(given.workflow(workflow_id, namespace=namespace))
    stores = [await Store.connect(postgres_url, pool_max=1) for _ in range(count)]
    writers = [Writer(store, number) for number, store in enumerate(stores)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(writer.run()) for writer in writers]
            try:
                yield writers
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        for store in stores:
            await store.close()
