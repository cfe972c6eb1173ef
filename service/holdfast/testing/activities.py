"""Runs activity functions by themselves, with everything that `holdfast.activity` offers them. No worker, no service."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from holdfast.activity import Info, definition_of
from holdfast.client import Client
from holdfast.common import Priority
from holdfast.converter import DataConverter, PayloadConverter
from holdfast.sdk.activity_context import (
    ActivityCancellationDetails,
    ActivityContext,
    Flag,
    ThreadCanceller,
    current,
)
from holdfast.wire.messages import ActivityTask

P = ParamSpec("P")
R = TypeVar("R")

_EPOCH = datetime.fromtimestamp(0, UTC)


class ActivityEnvironment:
    """What an activity finds around it, for tests. Set `info`, `on_heartbeat` and `payload_converter` before `run`."""

    def __init__(self, client: Client | None = None) -> None:
        self.info: Info = ActivityEnvironment.default_info()
        """What `activity.info()` returns; `dataclasses.replace` makes another one of it."""
        self.on_heartbeat: Callable[..., None] = _forget
        """Called with the details of each heartbeat."""
        self.payload_converter: PayloadConverter = DataConverter.default.payload_converter
        self._client = client
        self._cancelled: ActivityCancellationDetails | None = None
        self._stopping = Flag()
        self._running: list[_Running] = []

    @staticmethod
    def default_info() -> Info:
        """The info of an activity in its first attempt."""
        return Info(
            activity_id="test",
            activity_type="unknown",
            attempt=1,
            current_attempt_scheduled_time=_EPOCH,
            heartbeat_details=[],
            heartbeat_timeout=None,
            is_local=False,
            namespace="main",
            schedule_to_close_timeout=timedelta(seconds=1),
            scheduled_time=_EPOCH,
            start_to_close_timeout=timedelta(seconds=1),
            started_time=_EPOCH,
            task_queue="test",
            task_token=b"test",
            workflow_id="test",
            workflow_namespace="main",
            workflow_run_id="test-run",
            workflow_type="test",
            priority=Priority.default,
            retry_policy=None,
        )

    def run(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What *fn* returns, called as an activity: a coroutine to await if it is `async`."""
        definition = definition_of(fn)
        call: Callable[..., Any] = fn if definition is None else definition.fn
        is_async = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
            getattr(call, "__call__", None)  # noqa: B004 - an instance whose class is an activity
        )
        raises = not is_async and not (definition is not None and definition.no_thread_cancel_exception)
        running = _Running(self._context(ThreadCanceller() if raises else None, is_async=is_async))
        result: Any = self._run_async(running, call, args, kwargs) if is_async else None
        if not is_async:
            result = self._run_here(running, call, args, kwargs)
        returned: R = result
        return returned

    def cancel(
        self,
        cancellation_details: ActivityCancellationDetails = ActivityCancellationDetails(  # noqa: B008 - never changes
            cancel_requested=True
        ),
    ) -> None:
        """Cancel what runs, and what is run from now on. Only the first call has an effect.

        A coroutine is cancelled; a function of another thread gets `CancelledError` raised into it.
        """
        if self._cancelled is None:
            self._cancelled = cancellation_details
            for running in list(self._running):
                running.cancel(cancellation_details)

    def worker_shutdown(self) -> None:
        """Tell activities that the worker shuts down."""
        self._stopping.set()

    def _context(self, canceller: ThreadCanceller | None, *, is_async: bool) -> ActivityContext:
        context = ActivityContext(
            _task_of(self.info),
            namespace=self.info.namespace,
            converter=_Converting(self.payload_converter),
            heartbeat=self._heard,
            worker_stopping=self._stopping,
            client=self._client if is_async else None,
            thread_canceller=canceller,
        )
        context.info = self.info
        if self._cancelled is not None:
            context.cancellation_details = self._cancelled
            context.cancelled.set()
        return context

    def _heard(self, *details: Any) -> None:
        # Looked up now: it may be replaced while the activity runs.
        self.on_heartbeat(*details)

    async def _run_async(
        self, running: _Running, fn: Callable[..., Awaitable[Any]], args: Any, kwargs: Any
    ) -> Any:
        running.task = asyncio.current_task()
        with self._entered(running):
            return await fn(*args, **kwargs)

    def _run_here(self, running: _Running, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        canceller = running.context.thread_canceller
        with self._entered(running):
            if canceller is None:
                return fn(*args, **kwargs)
            with canceller.running():
                return fn(*args, **kwargs)

    @contextmanager
    def _entered(self, running: _Running) -> Iterator[None]:
        self._running.append(running)
        token = current.set(running.context)
        try:
            yield
        finally:
            current.reset(token)
            self._running.remove(running)


class _Running:
    """A call that has not returned."""

    def __init__(self, context: ActivityContext) -> None:
        self.context = context
        self.task: asyncio.Task[Any] | None = None

    def cancel(self, why: ActivityCancellationDetails) -> None:
        """As a worker does it."""
        self.context.cancellation_details = why
        self.context.cancelled.set()
        if self.context.thread_canceller is not None:
            self.context.thread_canceller.cancel()
        if self.task is not None and not self.task.done():
            self.task.cancel()


class _Converting:
    """The part of a data converter that an activity sees."""

    def __init__(self, payload_converter: PayloadConverter) -> None:
        self.payload_converter = payload_converter


def _forget(*_: Any) -> None:
    """Nobody wants to hear of heartbeats."""


def _task_of(info: Info) -> ActivityTask:
    return ActivityTask(
        run_id=info.workflow_run_id or "",
        seq=1,
        fence=1,
        workflow_id=info.workflow_id or "",
        workflow_type=info.workflow_type or "",
        activity_id=info.activity_id,
        name=info.activity_type,
        task_queue=info.task_queue,
        attempt=info.attempt,
        scheduled_at=info.scheduled_time.timestamp(),
        started_at=info.started_time.timestamp(),
        lease_s=10.0,
    )
