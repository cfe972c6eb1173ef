"""What a message can hold: tasks that are too large together for an answer or a push, made to fit.

Asked only when a message has turned out too large. The history of a workflow task can be left out, because its
worker reads it then; an activity has its input from nowhere else, so it has to wait for another message.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from holdfast.wire import codec
from holdfast.wire import messages as m

LARGE_BYTES: Final = 256 * 1024
"""No answer below this is worth a look: every broker takes it."""
REST_BYTES: Final = 64 * 1024
"""What a message needs beside the answer: the frame around it."""

Carrier = TypeVar("Carrier", bound=m.Tasks | m.Reported)


def fit(answer: Carrier, room_bytes: int) -> tuple[Carrier, list[m.ActivityTask]]:
    """*answer* with as many of its tasks as go into *room_bytes*, and the activities that do not."""
    bare = _without_histories(answer)
    free_bytes = room_bytes - len(codec.encode(msgspec.structs.replace(bare, activity_tasks=[])))
    fits: list[m.ActivityTask] = []
    left: list[m.ActivityTask] = []
    for task in answer.activity_tasks:
        size = len(codec.encode(task))
        if fits and size > free_bytes:
            left.append(task)
        else:
            fits.append(task)
            free_bytes -= size
    return msgspec.structs.replace(bare, activity_tasks=fits), left


def pushes(tasks: list[m.WorkflowTask], room_bytes: int) -> list[tuple[bytes, list[m.WorkflowTask]]]:
    """The messages of at most *room_bytes* that push *tasks*, each with its own; nearly always it is one."""
    encoded = codec.encode(m.Push(workflow_tasks=tasks))
    if len(encoded) <= room_bytes or not any(task.events for task in tasks):
        return [(encoded, tasks)]
    half = len(tasks) // 2
    if half:
        return [*pushes(tasks[:half], room_bytes), *pushes(tasks[half:], room_bytes)]
    return pushes([_without_history(task) for task in tasks], room_bytes)


def leases_of(answer: m.Tasks) -> list[m.Lease]:
    """What the tasks of *answer* are leased under."""
    workflow_tasks = [m.Lease(task.run_id, 0, task.fence) for task in answer.workflow_tasks]
    return [*workflow_tasks, *(m.Lease(task.run_id, task.seq, task.fence) for task in answer.activity_tasks)]


def _without_histories(answer: Carrier) -> Carrier:
    if isinstance(answer, m.Tasks):
        tasks = [_without_history(task) for task in answer.workflow_tasks]
        return msgspec.structs.replace(answer, workflow_tasks=tasks)
    task = answer.workflow_task
    return answer if task is None else msgspec.structs.replace(answer, workflow_task=_without_history(task))


def _without_history(task: m.WorkflowTask) -> m.WorkflowTask:
    return msgspec.structs.replace(task, events=[])
