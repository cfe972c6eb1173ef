"""Workers that speak the wire protocol by hand: they write down every lease they get and every answer to a report.

Their workflow needs no code: `STEPS` activities one after the other, told from the history alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from holdfast.bus import Bus, Msg
from holdfast.exceptions import HoldfastError, Refused, Unavailable
from holdfast.sdk.rpc import Rpc
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m

STEPS = 3
SLOTS = 5
LOOK_AGAIN_S = 0.2

Lease = tuple[str, int, int]
"""Run, number of the activity (0: the workflow task), fence."""


class Book:
    """What all workers of a test saw, in the order in which they saw it."""

    def __init__(self) -> None:
        self.handed_out: list[tuple[Lease, str]] = []
        self.accepted: list[tuple[Lease, str]] = []
        self.refused: list[tuple[Lease, str]] = []


class WireWorker:
    """One worker. *stall_s* says how long it holds a task before it reports: some longer than the lease lasts."""

    def __init__(self, name: str, bus: Bus, queue: str, book: Book, stall_s: Callable[[], float]) -> None:
        self.name = name
        self._rpc = Rpc(bus, "main")
        self._queue = queue
        self._book = book
        self._stall_s = stall_s
        self._running: set[asyncio.Task[None]] = set()
        bus.subscribe(subjects.worker("main", name), self._on_push)

    async def run(self) -> None:
        """Claim and work until cancelled."""
        try:
            while True:
                # What it could take beyond what it gets makes the service push tasks to it as well.
                claim = m.Claim(
                    worker=self.name, task_queue=self._queue, workflow_slots=SLOTS, activity_slots=SLOTS
                )
                tasks: m.Tasks = await self._rpc.call("claim", claim)
                self._take(tasks.workflow_tasks, tasks.activity_tasks)
                await asyncio.sleep(random.uniform(0, LOOK_AGAIN_S))
        finally:
            for task in self._running:
                task.cancel()

    def _on_push(self, msg: Msg) -> None:
        push: m.Push = codec.decode(msg.data, m.Push)
        self._take(push.workflow_tasks, push.activity_tasks)

    def _take(self, workflow_tasks: list[m.WorkflowTask], activity_tasks: list[m.ActivityTask]) -> None:
        for task in workflow_tasks:
            self._begin((task.run_id, 0, task.fence), self._workflow_task(task))
        for activity in activity_tasks:
            self._begin((activity.run_id, activity.seq, activity.fence), self._activity_task(activity))

    def _begin(self, lease: Lease, work: Awaitable[None]) -> None:
        self._book.handed_out.append((lease, self.name))

        async def run() -> None:
            try:
                await work
            except Refused:
                self._book.refused.append((lease, self.name))
            except HoldfastError as error:
                raise AssertionError(f"{self.name}, {lease}: {error}") from error
            else:
                self._book.accepted.append((lease, self.name))

        task = asyncio.create_task(run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _workflow_task(self, task: m.WorkflowTask) -> None:
        request = m.History(workflow_id=task.workflow_id, run_id=task.run_id)
        page: m.HistoryPage = await self._rpc.call("history", request)
        seen = [event for event in page.events if event.seq <= task.head_seq]
        await asyncio.sleep(self._stall_s())
        report = m.CompleteWorkflowTask(
            run_id=task.run_id,
            worker=self.name,
            fence=task.fence,
            seen_seq=task.head_seq,
            commands=wants(seen),
        )
        await self._rpc.call("report", report)

    async def _activity_task(self, task: m.ActivityTask) -> None:
        await asyncio.sleep(self._stall_s())
        report = m.CompleteActivity(
            run_id=task.run_id, worker=self.name, seq=task.seq, fence=task.fence, result=b'"%d"' % task.fence
        )
        await self._rpc.call("report", report)


def wants(seen: list[e.HistoryEvent]) -> list[c.AnyCommand]:
    """What the workflow asks for when it has seen these events."""
    scheduled = sum(isinstance(entry.event, e.ActivityScheduled) for entry in seen)
    done = sum(isinstance(entry.event, e.ActivityCompleted) for entry in seen)
    if done < scheduled:
        return []
    if done == STEPS:
        return [c.CompleteWorkflow(result=b'"done"')]
    # The lease is what is under test, so nothing else may end an attempt.
    return [c.ScheduleActivity(seq=scheduled + 1, name="step", start_to_close_s=60)]


async def until_ready(rpc: Rpc, claim: m.Claim, patience_s: float = 20.0) -> m.Tasks:
    """The first answer to *claim* that has tasks in it."""
    async with asyncio.timeout(patience_s):
        while True:
            try:
                tasks: m.Tasks = await rpc.call("claim", claim)
            except Unavailable:
                continue
            if tasks.workflow_tasks or tasks.activity_tasks:
                return tasks
            await asyncio.sleep(0.02)
