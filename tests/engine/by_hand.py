"""A client and a worker moved by hand: each request is written by the test and its answer looked at. Claims nothing."""

from __future__ import annotations

import itertools
from typing import Any

from holdfast.sdk.rpc import Rpc
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import commands as c
from holdfast.wire import messages as m

QUEUE = "by-hand"
_numbers = itertools.count(1)


class Hand:
    """Speaks as a client and as one worker named *worker*."""

    def __init__(self, rpc: Rpc, worker: str = "hand") -> None:
        self.rpc = rpc
        self.worker = worker

    async def ask(self, verb: str, request: Any) -> Any:
        """The answer to one request; its error is raised."""
        return await self.rpc.call(verb, request, 10.0)

    async def start(self, workflow_id: str = "", **fields: Any) -> m.Started:
        """Start a run; every request has an id of its own unless *fields* give one."""
        number = next(_numbers)
        fields = {"request_id": f"start-{number}", "workflow_type": "Any", "task_queue": QUEUE} | fields
        started: m.Started = await self.ask(
            "start", m.Start(workflow_id=workflow_id or f"w-{number}", **fields)
        )
        return started

    async def claim(self, workflows: int = 0, activities: int = 0) -> m.Tasks:
        """Lease what is ready. The service may push more later: it believes that so many slots are free."""
        request = m.Claim(
            worker=self.worker, task_queue=QUEUE, workflow_slots=workflows, activity_slots=activities
        )
        tasks: m.Tasks = await self.ask("claim", request)
        return tasks

    async def one_task(self) -> m.WorkflowTask:
        """The one workflow task that is ready."""
        (task,) = (await self.claim(workflows=1)).workflow_tasks
        return task

    async def one_activity(self) -> m.ActivityTask:
        """The one activity that is ready."""
        (task,) = (await self.claim(activities=1)).activity_tasks
        return task

    def completion(
        self, task: m.WorkflowTask, *commands: c.AnyCommand, **fields: Any
    ) -> m.CompleteWorkflowTask:
        """The report of a workflow task that was seen to its head."""
        return m.CompleteWorkflowTask(
            run_id=task.run_id,
            worker=self.worker,
            fence=task.fence,
            seen_seq=task.head_seq,
            commands=list(commands),
            **fields,
        )

    async def complete(self, task: m.WorkflowTask, *commands: c.AnyCommand, **fields: Any) -> m.Reported:
        """Report a workflow task."""
        answer: m.Reported = await self.ask("report", self.completion(task, *commands, **fields))
        return answer

    async def status(self, started: m.Started) -> str:
        """Where the run stands."""
        asked = m.Describe(workflow_id=started.workflow_id, run_id=started.run_id)
        described: m.Description = await self.ask("describe", asked)
        return described.summary.status


def hand(env: WorkflowEnvironment, worker: str = "hand", namespace: str | None = None) -> Hand:
    """A hand on the environment's bus."""
    rpc = env.client.caller.rpc
    return Hand(rpc if namespace is None else Rpc(rpc.bus, namespace), worker)


def is_alive(env: WorkflowEnvironment) -> bool:
    """Whether the service of the environment still runs: a bug that reaches a loop ends it."""
    return env.parts is not None and env.parts.loops is not None and not env.parts.loops.done()
