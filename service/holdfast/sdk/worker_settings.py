"""What a worker works with and on: its connection, its name, its code, its limits. Data only."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from holdfast.activity import ActivityDefinition
from holdfast.converter import DataConverter
from holdfast.sdk.definitions import WorkflowDefinition
from holdfast.sdk.rpc import Rpc

log = logging.getLogger("holdfast.worker")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """One worker. `worker` is its name on the bus and in leases: unique among all workers; `identity` what people call it."""

    rpc: Rpc
    client: Any
    converter: DataConverter
    worker: str
    identity: str
    task_queue: str
    build_id: str
    workflows: Mapping[str | None, WorkflowDefinition]
    activities: Mapping[str | None, ActivityDefinition]
    executor: ThreadPoolExecutor | None
    max_workflow_tasks: int
    max_activities: int
    max_cached_workflows: int
    failure_exception_types: Sequence[type[BaseException]]
    max_heartbeat_throttle_s: float
    default_heartbeat_throttle_s: float

    @property
    def namespace(self) -> str:
        """Where the worker's tasks live."""
        return self.rpc.namespace

    @property
    def slots(self) -> tuple[int, int]:
        """Workflow tasks and activities at once; none of a kind without code for it."""
        return (
            self.max_workflow_tasks if self.workflows else 0,
            self.max_activities if self.activities else 0,
        )


class Crew:
    """The asyncio tasks of a worker, referenced until they end. An error that escapes one is a bug: `on_bug` hears of it."""

    def __init__(self, on_bug: Callable[[BaseException], None]) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._on_bug = on_bug
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()

    def apart(self) -> contextvars.Context:
        """A context without what the code that runs at present has set in its own."""
        return self._context.copy()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work* beside everything else, apart from its starter's context."""
        task = self._loop.create_task(work, context=self._context.copy())
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finish(self, grace_s: float) -> None:
        """Wait until everything has ended, at most *grace_s* seconds; cancel the rest."""
        running = self._running - {asyncio.current_task()}
        if running:
            _, running = await asyncio.wait(running, timeout=grace_s)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(error)


def sdk_version() -> str:
    """This SDK, as histories name it."""
    try:
        return f"python/{metadata.version('holdfast')}"
    except metadata.PackageNotFoundError:
        return "python/source"


SDK = sdk_version()
