"""What the scenarios share: a worker and a run in one call, and errors as plain values. Claims nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from holdfast import Client, Worker
from holdfast.client import WorkflowFailureError
from holdfast.common import RetryPolicy
from holdfast.exceptions import ActivityError, ApplicationError, FailureError, TimeoutError
from holdfast.testing import WorkflowEnvironment

PATIENCE_S = 20.0
A_MINUTE = timedelta(minutes=1)
ONCE = RetryPolicy(maximum_attempts=1)
AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1.0)
QUEUE = "stage"
MESSAGES = ("SignalReceived", "WorkflowCancelRequested")


def seconds(number: float) -> timedelta:
    """Short for a timeout."""
    return timedelta(seconds=number)


def worker(
    client: Client, *workflows: Any, activities: Sequence[Callable[..., Any]] = (), **options: Any
) -> Worker:
    """A worker of the queue that all scenarios use unless they say otherwise."""
    options.setdefault("task_queue", QUEUE)
    return Worker(client, workflows=workflows, activities=activities, **options)


async def outcome(
    env: WorkflowEnvironment,
    workflow: Any,
    *args: Any,
    activities: Sequence[Callable[..., Any]] = (),
    also: Sequence[Any] = (),
    **options: Any,
) -> Any:
    """The result of one run of *workflow* on a worker of its own; `also` are further workflows of it."""
    fn = getattr(workflow, "run", workflow)
    async with worker(env.client, workflow, *also, activities=activities, **options):
        return await env.client.execute_workflow(fn, args=args, id="run", task_queue=QUEUE)


async def failure(call: Any) -> BaseException:
    """The cause of the workflow failure that *call* ends with."""
    with pytest.raises(WorkflowFailureError) as caught:
        await call
    return caught.value.cause


def told(error: BaseException | None) -> list[list[Any]]:
    """The chain of causes as plain values: class, message, and what that class adds."""
    chain: list[list[Any]] = []
    while error is not None:
        chain.append([type(error).__name__, error.message if isinstance(error, FailureError) else str(error)])
        match error:
            case ActivityError():
                chain[-1].append(error.retry_state.name if error.retry_state else None)
            case TimeoutError():
                chain[-1].append(error.type.name if error.type else None)
                chain[-1].append(list(error.last_heartbeat_details))
            case ApplicationError():
                chain[-1].append(error.type)
                chain[-1].append(list(error.details))
        error = error.__cause__
    return chain


async def event_types(handle: Any) -> list[str]:
    """The types of the events of the run so far, in order."""
    return [event.event_type for event in (await handle.fetch_history()).events]


async def everything_seen(handle: Any) -> None:
    """Return once the code of the run has seen every message sent to it so far."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            events = (await handle.fetch_history()).events
            newest = max((e.event_id for e in events if e.event_type in MESSAGES), default=1)
            if any(e.attributes.get("seen_seq", 0) >= newest for e in events):
                return


async def count_of(handle: Any, event_type: str, least: int) -> int:
    """How many events of the type the run has, once they are *least*."""
    async with asyncio.timeout(PATIENCE_S):
        while (found := (await event_types(handle)).count(event_type)) < least:
            pass
    return found
