"""Requests to an engine that a test holds in its hands, without the bus in between. Claims nothing."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Self

from holdfast.bus import Bus, Msg
from holdfast.core.requests import Ask
from holdfast.engine.dispatch import Credit
from holdfast.engine.engine import Engine
from holdfast.engine.schedule_requests import SCHEDULE_VERBS
from holdfast.engine.transact import Change
from holdfast.engine.verbs import VERBS, request_hash
from holdfast.store.journal import Address
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.store.rows import PATIENCE_S, Sql

QUEUE = "q"
_numbers = itertools.count(1)


class Parts:
    """The engine, the namespace that the test has for itself, and a connection to look at rows."""

    def __init__(self, engine: Engine, namespace: str, look: Sql) -> None:
        self.engine = engine
        self.namespace = namespace
        self.look = look

    async def ask(self, verb: str, request: Any) -> Any:
        """What the verb answers."""
        return await {**VERBS, **SCHEDULE_VERBS}[verb](self.engine, self.namespace, request)

    async def start(self, workflow_id: str = "order-1", **fields: Any) -> str:
        """The id of a new run."""
        started: m.Started = await self.ask("start", start_of(workflow_id, **fields))
        return started.run_id

    async def signal(self, workflow_id: str = "order-1", **fields: Any) -> m.Done:
        done: m.Done = await self.ask("signal", signal_of(workflow_id, **fields))
        return done

    async def claim(
        self, worker: str = "w1", workflows: int = 0, activities: int = 0, queue: str = QUEUE
    ) -> m.Tasks:
        request = m.Claim(
            worker=worker, task_queue=queue, workflow_slots=workflows, activity_slots=activities
        )
        found: m.Tasks = await self.ask("claim", request)
        # The slots are filled: the engine must not push more.
        self.engine.credits.forget(self.namespace, worker)
        return found

    async def turn(self, *commands: c.AnyCommand, worker: str = "w1", **fields: Any) -> m.Reported:
        """Claim the one workflow task that is ready, and complete it."""
        (task,) = (await self.claim(worker, workflows=1)).workflow_tasks
        reported: m.Reported = await self.ask("report", completion(task, *commands, worker=worker, **fields))
        return reported

    async def history(self, workflow_id: str = "order-1") -> list[str]:
        """The names of the newest run's events."""
        return await self.look(
            "SELECT type FROM event WHERE run_id = (SELECT run_id FROM run WHERE namespace = $1 AND workflow_id = $2"
            " ORDER BY run_id DESC LIMIT 1) ORDER BY seq",
            self.namespace,
            workflow_id,
        )


class Heard:
    """What is said on a subject from now on."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []
        self._news = asyncio.Event()

    @classmethod
    async def on(cls, bus: Bus, subject: str) -> Self:
        """Listens for certain when this returns."""
        heard = cls()
        await bus.subscribe(subject, heard._hear).ready()
        return heard

    def _hear(self, message: Msg) -> None:
        self.messages.append(message)
        self._news.set()

    async def next(self) -> Msg:
        """The oldest message that was not looked at, once there is one."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.messages:
                self._news.clear()
                await self._news.wait()
        return self.messages.pop(0)


def start_of(workflow_id: str = "order-1", **fields: Any) -> m.Start:
    """A start with a request id of its own unless one is given."""
    given: dict[str, Any] = {
        "request_id": f"start-{next(_numbers)}",
        "workflow_type": "order",
        "task_queue": QUEUE,
    }
    return m.Start(workflow_id=workflow_id, **{**given, **fields})


def signal_of(workflow_id: str = "order-1", **fields: Any) -> m.Signal:
    given: dict[str, Any] = {"request_id": f"signal-{next(_numbers)}", "name": "go"}
    return m.Signal(workflow_id=workflow_id, **{**given, **fields})


def completion(
    task: m.WorkflowTask, *commands: c.AnyCommand, worker: str = "w1", **fields: Any
) -> m.CompleteWorkflowTask:
    return m.CompleteWorkflowTask(
        run_id=task.run_id,
        worker=worker,
        fence=task.fence,
        seen_seq=task.head_seq,
        commands=list(commands),
        **fields,
    )


def starting(namespace: str, request: m.Start) -> Change:
    """A start as a change of the journal."""
    address = Address(namespace, request.workflow_id, None, request.request_id)
    return Change(namespace, request, address=address, hash=request_hash(request))


def asking(namespace: str, message: Any) -> Change:
    """A client's message as a change of the journal."""
    address = Address(namespace, message.workflow_id, message.run_id)
    return Change(namespace, Ask(message, request_hash(message)), address=address)


def reporting(namespace: str, report: Any, reporter: Credit | None = None) -> Change:
    """A worker's report as a change of the journal."""
    return Change(namespace, report, run_id=report.run_id, reporter=reporter)


def credit(worker: str = "w1", *, workflows: int = 10, activities: int = 10, **fields: Any) -> Credit:
    given: dict[str, Any] = {"namespace": "main", "task_queue": QUEUE, "heard_at": 0.0}
    return Credit(worker=worker, workflow_slots=workflows, activity_slots=activities, **{**given, **fields})


def schedule(seq: int = 1, **fields: Any) -> c.ScheduleActivity:
    return c.ScheduleActivity(seq=seq, name="charge", **fields)
