"""The worker: runs workflows and activities of one task queue until it is told to stop.

It waits out whatever happens to the broker and the service. It ends by `shutdown`, by the end of its
`async with` block, or when it finds a bug in itself.
"""

from __future__ import annotations

import asyncio
import secrets
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from holdfast.activity import ActivityDefinition
from holdfast.activity import definition_of as activity_definition
from holdfast.client import Client
from holdfast.exceptions import HoldfastError
from holdfast.sdk import definitions
from holdfast.sdk.sealing import sealing
from holdfast.sdk.worker_activities import ActivityTasks
from holdfast.sdk.worker_intake import Intake
from holdfast.sdk.worker_leases import Leases
from holdfast.sdk.worker_pulse import beat, heartbeat
from holdfast.sdk.worker_settings import Crew, WorkerSettings, log
from holdfast.sdk.worker_workflows import WorkflowTasks
from holdfast.wire import messages as m

__all__ = ["Worker"]

MAX_WORKFLOW_TASKS = 500
MAX_ACTIVITIES = 100
GOODBYE_S = 5.0
"""How long the last reports may take when the worker stops."""

_WITHOUT_EFFECT = frozenset(
    {
        "activity_task_poller_behavior",
        "debug_mode",
        "deployment_config",
        "disable_payload_error_limit",
        "disable_safe_workflow_eviction",
        "max_concurrent_activity_task_polls",
        "max_concurrent_local_activities",
        "max_concurrent_nexus_tasks",
        "max_concurrent_workflow_task_polls",
        "nexus_task_executor",
        "nexus_task_poller_behavior",
        "nonsticky_to_sticky_poll_ratio",
        "plugin_shutdown_timeout",
        "sticky_queue_schedule_to_start_timeout",
        "tuner",
        "unsandboxed_workflow_runner",
        "use_worker_versioning",
        "workflow_runner",
        "workflow_task_executor",
        "workflow_task_poller_behavior",
    }
)


class Worker:
    """Runs the given workflows and activities. Use it as an async context manager, or await `run`.

    Synchronous activities run in *activity_executor*, or in threads of the worker's own. *identity* is shown in
    histories, with a suffix that makes it unique. When it stops, running activities have
    *graceful_shutdown_timeout* to end; then they are cancelled and given back.
    """

    def __init__(
        self,
        client: Client,
        *,
        task_queue: str,
        activities: Sequence[Callable[..., Any]] = (),
        workflows: Sequence[Any] = (),
        activity_executor: Executor | None = None,
        build_id: str | None = None,
        identity: str | None = None,
        max_cached_workflows: int = 1000,
        max_concurrent_workflow_tasks: int | None = None,
        max_concurrent_activities: int | None = None,
        max_heartbeat_throttle_interval: timedelta = timedelta(seconds=60),
        default_heartbeat_throttle_interval: timedelta = timedelta(seconds=30),
        graceful_shutdown_timeout: timedelta = timedelta(),
        workflow_failure_exception_types: Sequence[type[BaseException]] = (),
        on_fatal_error: Callable[[BaseException], Awaitable[None]] | None = None,
        **without_effect: Any,
    ) -> None:
        _tell_without_effect(without_effect)
        if not activities and not workflows:
            raise ValueError("At least one activity or workflow must be specified")
        converter = client.data_converter
        known = _by_name("activity", (_must_define(fn) for fn in activities))
        max_activities = max_concurrent_activities or MAX_ACTIVITIES
        self._own_executor: ThreadPoolExecutor | None = None
        if activity_executor is None and any(not found.is_async for found in known.values()):
            activity_executor = self._own_executor = ThreadPoolExecutor(max_activities, "holdfast-activity")
        if activity_executor is not None and not isinstance(activity_executor, ThreadPoolExecutor):
            raise TypeError(
                f"activity_executor is a {type(activity_executor).__name__}: expected a ThreadPoolExecutor"
            )
        self._settings = WorkerSettings(
            rpc=sealing(client.caller.rpc, converter),
            client=client,
            converter=converter,
            worker=f"{identity or client.identity}:{secrets.token_hex(4)}",
            identity=identity or client.identity,
            task_queue=task_queue,
            build_id=build_id or "",
            workflows=_by_name("workflow", (definitions.must_define(cls) for cls in workflows)),
            activities=known,
            executor=activity_executor,
            max_workflow_tasks=max_concurrent_workflow_tasks or MAX_WORKFLOW_TASKS,
            max_activities=max_activities,
            max_cached_workflows=max_cached_workflows,
            failure_exception_types=tuple(workflow_failure_exception_types),
            max_heartbeat_throttle_s=max_heartbeat_throttle_interval.total_seconds(),
            default_heartbeat_throttle_s=default_heartbeat_throttle_interval.total_seconds(),
        )
        self._client = client
        self._grace_s = graceful_shutdown_timeout.total_seconds()
        self._on_fatal_error = on_fatal_error
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()
        self._is_started = False
        self._bug: BaseException | None = None
        self._runner: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        """The connection the worker uses."""
        return self._client

    @property
    def task_queue(self) -> str:
        """Where its tasks come from."""
        return self._settings.task_queue

    @property
    def identity(self) -> str:
        """The worker's name, unique among all workers."""
        return self._settings.worker

    @property
    def is_running(self) -> bool:
        """Whether it has started and was not told to stop."""
        return self._is_started and not self._stop.is_set()

    @property
    def is_shutdown(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    async def run(self) -> None:
        """Work until `shutdown`. If this is cancelled, it shuts down first. Raises what turned out to be a bug here."""
        if self._is_started:
            raise RuntimeError("Already started")
        self._is_started = True
        desk = _Desk(self._settings, self._on_bug)
        desk.open()
        try:
            await self._stop.wait()
        finally:
            self._stop.set()
            await desk.close(self._grace_s)
            if self._own_executor is not None:
                self._own_executor.shutdown(wait=False, cancel_futures=True)
            self._ended.set()
        if self._bug is not None:
            if self._on_fatal_error is not None:
                await self._on_fatal_error(self._bug)
            raise self._bug

    async def shutdown(self) -> None:
        """Stop taking tasks, let what runs end within the grace period, and return when all is settled."""
        self._stop.set()
        if self._is_started:
            await self._ended.wait()

    async def __aenter__(self) -> Self:
        if self._is_started:
            raise RuntimeError("Already started")
        self._runner = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._runner is not None:
            await self._runner

    def _on_bug(self, error: BaseException) -> None:
        log.critical("the worker has found a bug in itself and stops: %r", error, exc_info=error)
        self._bug = self._bug or error
        self._stop.set()


class _Desk:
    """The parts of a running worker, put together."""

    def __init__(self, settings: WorkerSettings, on_bug: Callable[[BaseException], None]) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._crew = Crew(on_bug)
        self._leases = Leases(*settings.slots, on_free=self._on_free)
        self._workflows = WorkflowTasks(settings, self._leases, self._crew, self._accept_answer)
        self._activities = ActivityTasks(
            settings, self._leases, self._crew, self._workflows, self._accept_answer
        )
        self._intake = Intake(
            settings, self._leases, self._crew, self._accept, self._activities.request_cancel
        )
        self._pulse: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to work."""
        self._intake.start()
        self._pulse = self._crew.spawn(
            beat(self._settings, self._leases, self._lose, self._activities.request_cancel)
        )

    async def close(self, grace_s: float) -> None:
        """Stop taking tasks, settle what is there, and let go of the rest."""
        self._intake.stop()
        self._leases.is_closed = True
        await self._say_goodbye()
        await self._activities.stop(grace_s)
        if self._pulse is not None:
            self._pulse.cancel()
        await self._crew.finish(GOODBYE_S)
        self._workflows.close()
        await self._intake.close()

    async def _say_goodbye(self) -> None:
        request = heartbeat(self._settings, self._leases, [], is_stopping=True)
        try:
            await self._settings.rpc.call("heartbeat", request, 1.0)
        except HoldfastError as error:
            log.debug("the worker could not say that it stops: %s", error)

    def _accept_answer(self, answer: m.Reported) -> None:
        if answer.workflow_task is not None or answer.activity_tasks:
            task = answer.workflow_task
            self._accept([] if task is None else [task], answer.activity_tasks)

    def _accept(
        self, workflow_tasks: Iterable[m.WorkflowTask], activity_tasks: Iterable[m.ActivityTask]
    ) -> None:
        now = self._loop.time()
        for task in workflow_tasks:
            if self._leases.take(task.run_id, 0, task.fence, task.lease_s, now):
                if self._leases.is_closed:
                    self._crew.spawn(self._give_back(task.run_id, 0, task.fence))
                else:
                    self._workflows.take(task)
        for activity in activity_tasks:
            if self._leases.take(activity.run_id, activity.seq, activity.fence, activity.lease_s, now):
                if self._leases.is_closed:
                    self._crew.spawn(self._give_back(activity.run_id, activity.seq, activity.fence))
                else:
                    self._activities.take(activity)

    def _on_free(self) -> None:
        self._intake.on_free()

    def _lose(self, lease: m.Lease) -> None:
        if lease.seq:
            self._activities.lose(lease)
        self._leases.drop(lease.run_id, lease.seq, lease.fence)

    async def _give_back(self, run_id: str, seq: int, fence: int) -> None:
        report = m.ReleaseTask(run_id=run_id, worker=self._settings.worker, seq=seq, fence=fence)
        try:
            await self._settings.rpc.call("report", report, GOODBYE_S)
        except HoldfastError as error:
            log.debug("task %d of run %s could not be given back, its lease runs out: %s", seq, run_id, error)
        self._leases.drop(run_id, seq, fence)


def _must_define(fn: Any) -> ActivityDefinition:
    found = activity_definition(fn)
    if found is None:
        raise TypeError(
            f"Activity {getattr(fn, '__name__', fn)} missing attributes, was it decorated with @activity.defn?"
        )
    return found


def _by_name(kind: str, found: Iterable[Any]) -> Mapping[str | None, Any]:
    by_name: dict[str | None, Any] = {}
    for definition in found:
        if definition.name in by_name:
            raise ValueError(
                f"More than one {kind} named {definition.name}"
                if definition.name
                else f"More than one dynamic {kind}"
            )
        by_name[definition.name] = definition
    return by_name


def _tell_without_effect(given: Mapping[str, Any]) -> None:
    if unknown := sorted(set(given) - _WITHOUT_EFFECT):
        raise TypeError(f"Worker() got an unexpected keyword argument {unknown[0]!r}")
    if given:
        warnings.warn(
            f"Worker: {', '.join(sorted(given))} have no meaning for Holdfast and are ignored", stacklevel=3
        )
