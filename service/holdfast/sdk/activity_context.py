"""What runs around one attempt of an activity: its task, its cancellation, its way to heartbeat.

The worker makes a context and enters it; `holdfast.activity` reads the current one. Flags can be
waited for from coroutines and from threads.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from holdfast.exceptions import CancelledError
from holdfast.wire.messages import ActivityTask


@dataclass(frozen=True)
class ActivityCancellationDetails:
    """Why an activity was asked to stop. Set once."""

    not_found: bool = False
    cancel_requested: bool = False
    paused: bool = False
    reset: bool = False
    timed_out: bool = False
    worker_shutdown: bool = False


class Flag:
    """Something that becomes true once, and can be waited for from a coroutine or a thread.

    `set` is called on the event loop. Waiters are made only when somebody waits: most
    activities end without anyone looking.
    """

    __slots__ = ("_lock", "_threads", "_waiters", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiters: list[asyncio.Future[None]] | None = None
        self._threads: threading.Event | None = None
        self._lock = threading.Lock()

    def set(self) -> None:
        """Make it true and wake everybody."""
        with self._lock:
            self.is_set = True
            waiters, self._waiters = self._waiters, None
        if self._threads is not None:
            self._threads.set()
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return once it is true. Only on the event loop that sets it."""
        if self.is_set:
            return
        waiter = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    def wait_in_thread(self, timeout_s: float | None) -> bool:
        """Whether it is true within *timeout_s* seconds (None: for ever). Blocks the thread."""
        with self._lock:
            if self._threads is None:
                self._threads = threading.Event()
            if self.is_set:
                return True
            event = self._threads
        return event.wait(timeout_s)


class ThreadCanceller:
    """Raises `CancelledError` inside the thread that runs a synchronous activity.

    The interpreter raises it at the next bytecode of that thread, so a blocking C call delays it.
    Inside `shield` blocks it is put off to the end of the outermost one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread_id: int | None = None
        self._shields = 0
        self._is_requested = False
        self._is_raised = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the activity's code, in its thread: afterwards nothing is raised into the thread any more."""
        with self._lock:
            self._thread_id = threading.get_ident()
        try:
            self._raise_if_due()
            yield
        finally:
            with self._lock:
                thread_id, self._thread_id = self._thread_id, None
                if self._is_raised:
                    # Requested but perhaps not delivered: it must not hit the thread's next activity.
                    _set_async_exception(thread_id, None)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """No cancellation is raised inside; one that came meanwhile is raised at the end."""
        with self._lock:
            self._shields += 1
        try:
            yield
        finally:
            with self._lock:
                self._shields -= 1
            self._raise_if_due()

    def cancel(self) -> None:
        """Ask for the exception; from any thread."""
        with self._lock:
            self._is_requested = True
            if self._thread_id is not None and not self._shields and not self._is_raised:
                self._is_raised = True
                _set_async_exception(self._thread_id, CancelledError)

    def _raise_if_due(self) -> None:
        with self._lock:
            is_due = self._is_requested and not self._is_raised and not self._shields
            self._is_raised = self._is_raised or is_due
        if is_due:
            raise CancelledError


class ActivityContext:
    """One attempt of an activity, from the inside."""

    __slots__ = (
        "cancellation_details",
        "cancelled",
        "client",
        "converter",
        "heartbeat",
        "info",
        "namespace",
        "task",
        "thread_canceller",
        "worker_stopping",
    )

    def __init__(
        self,
        task: ActivityTask,
        *,
        namespace: str,
        converter: Any,
        heartbeat: Callable[..., None],
        worker_stopping: Flag,
        client: Any = None,
        thread_canceller: ThreadCanceller | None = None,
    ) -> None:
        self.task = task
        self.namespace = namespace
        self.converter = converter
        self.heartbeat = heartbeat
        self.worker_stopping = worker_stopping
        self.client = client
        self.thread_canceller = thread_canceller
        self.cancelled = Flag()
        self.cancellation_details: ActivityCancellationDetails | None = None
        self.info: Any = None


current: ContextVar[ActivityContext | None] = ContextVar("holdfast_activity", default=None)


def must_current() -> ActivityContext:
    """The context of the activity that is running here. Raises RuntimeError outside of one."""
    context = current.get()
    if context is None:
        raise RuntimeError("Not in activity context")
    return context


def _set_async_exception(thread_id: int | None, exception: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id or 0), ctypes.py_object(exception) if exception else None
    )
