"""The event loop that workflow code runs on: asyncio without a clock, a selector or a thread.

It runs what is ready, in order, until nothing is; time stands still meanwhile and moves
only when its owner moves it. A delay becomes a request to the owner, who makes it
durable. Everything asyncio builds on futures, tasks and `call_soon` (sleep, gather, wait,
timeout, TaskGroup, Event, Queue, Lock, Semaphore, Condition, shield) works as it is, and
in the same order on every replay: sets of tasks iterate by creation, not by address.

It must not know what a history is, and nothing in it may depend on the outside world.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import logging
import math
import sys
import warnings
from asyncio.events import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

_T = TypeVar("_T")

logger = logging.getLogger("holdfast.workflow")

_DISPOSE_TRIES_MAX = 100
_REFUSALS_MAX = 10_000
_TASKS_KEPT_MIN = 64
# A time plus a delay minus that time is not quite that delay in floats of today's epoch
# seconds, whose resolution is a quarter of a microsecond.
_CALL_AT_DIGITS = 6


class LoopClosed(BaseException):
    """Unwinds code of a run that is being dropped. Not an `Exception`, so that user code lets it pass."""


NOT_OF_USERS = (LoopClosed, KeyboardInterrupt, GeneratorExit)
"""What passes through users' code without coming from it; all else that it raises, `Exception` or not, is its own."""


class ForbiddenInWorkflow(RuntimeError):
    """Workflow code asked its event loop for something that cannot be replayed."""


class Owner(Protocol):
    """Whoever makes the loop's delays durable and hears of its errors."""

    def start_timer(self, timer: Timer, delay_s: float) -> None:
        """Code waits for *delay_s* > 0 seconds; call `WorkflowLoop.fire(timer)` when they are over."""

    def cancel_timer(self, timer: Timer) -> None:
        """Code no longer waits for *timer*, which was started and has not fired."""

    def on_idle(self) -> None:
        """Nothing is ready; may make something so. Called on the loop."""

    def on_loop_error(self, context: dict[str, Any]) -> None:
        """A callback raised, or a task's exception was never looked at (asyncio's exception context)."""


class _Nobody:
    """Owns closed loops."""

    def start_timer(self, timer: Timer, delay_s: float) -> None:
        """A closed loop starts none."""

    def cancel_timer(self, timer: Timer) -> None:
        """Nobody waits any more."""

    def on_idle(self) -> None:
        """A closed loop is never run."""

    def on_loop_error(self, context: dict[str, Any]) -> None:
        """What becomes of a dropped run's futures concerns nobody."""


_NOBODY = _Nobody()


class Handle(asyncio.Handle):
    """A callback in the ready queue."""

    __slots__ = ()

    # asyncio.Handle's own __init__ asks the loop about debug mode for each callback.
    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._callback!r}{' cancelled' if self._cancelled else ''}>"

    def cancel(self) -> None:
        """Never run the callback."""
        self._cancelled = True
        # What they refer to may be long-lived.
        self._callback = _ignore
        self._args = ()


class Timer(asyncio.TimerHandle):
    """A callback that waits for a durable timer. `seq` is for the loop's owner to set."""

    __slots__ = ("is_waiting", "owner", "seq")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        owner: Owner,
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False
        self._when = when
        self.owner = owner
        self.seq = 0
        self.is_waiting = False

    def __repr__(self) -> str:
        return f"<Timer {self.seq} at {self._when}{' cancelled' if self._cancelled else ''}>"

    def __hash__(self) -> int:
        return self.seq

    def __eq__(self, other: object) -> bool:
        return self is other

    def when(self) -> float:
        """The time it is due, on the loop's clock."""
        return self._when

    def cancel(self) -> None:
        """Never run the callback; the owner hears of it if it waits for the timer."""
        if self._cancelled:
            return
        self._cancelled = True
        # What they refer to may be long-lived.
        self._callback = _ignore
        self._args = ()
        if self.is_waiting:
            self.is_waiting = False
            self.owner.cancel_timer(self)


class WorkflowTask(asyncio.Task[_T]):
    """A task whose hash is its number, so that TaskGroup's and wait's sets have one order."""

    number: int

    def __hash__(self) -> int:
        return self.number


def new_loop(owner: Owner) -> WorkflowLoop:
    """A loop at time zero with nothing to do."""
    # The methods it seems to lack are those set at the end of this module: all forbidden.
    return WorkflowLoop(owner)  # type: ignore[abstract]


class WorkflowLoop(asyncio.AbstractEventLoop):
    """The loop of one run.

    `context` is the empty context that everything in the run descends from; `now` is what
    `time()` answers, in epoch seconds.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.now = 0.0
        self.context = contextvars.Context()
        self.tasks: list[WorkflowTask[Any]] = []
        self._ready: deque[Handle | Timer] = deque()
        self._created = 0
        self._compact_at = _TASKS_KEPT_MIN
        self._is_running = False
        self._is_closed = False
        self._refusals = 0

    def run_until_idle(self) -> None:
        """Run everything that is ready and everything that becomes so.

        May be called from code that runs on another loop, which is put back afterwards.
        Raises what a callback raises only if it is KeyboardInterrupt or SystemExit.
        """
        outer = _enter(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=_ignore, finalizer=self._finish_generator)
        self._is_running = True
        ready = self._ready
        pop = ready.popleft
        try:
            while True:
                while ready:
                    handle = pop()
                    if handle._cancelled:
                        continue
                    try:
                        handle._context.run(handle._callback, *handle._args)
                    except (KeyboardInterrupt, SystemExit):
                        raise
                    except BaseException as error:  # noqa: BLE001 - callbacks are the user's, as in asyncio
                        self.call_exception_handler(
                            {"message": f"Exception in callback {handle!r}", "exception": error}
                        )
                self.context.run(self.owner.on_idle)
                if not ready:
                    return
        finally:
            self._is_running = False
            sys.set_asyncgen_hooks(*hooks)
            _leave(outer)

    def drop_ready(self) -> None:
        """Forget everything that is ready, so that no further code runs after the current callback."""
        self._ready.clear()

    def fire(self, timer: Timer) -> None:
        """Make the callback of a started timer ready."""
        if timer.is_waiting:
            timer.is_waiting = False
            self._ready.append(timer)

    def close(self) -> None:
        """Dispose of all tasks without letting them wait for, or ask for, anything more.

        `finally` blocks of suspended code do run (Python has no way around that), but each
        call they make into the loop raises `LoopClosed`.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._ready.clear()
        pending = [task for task in self.tasks if not task.done()]
        self.tasks.clear()
        if pending:
            self._dispose(pending)
        # A cycle of references would keep the run until the collector comes by.
        self.owner = _NOBODY

    def must_be_open(self) -> None:
        """Raise `LoopClosed` to code that is being dropped.

        Not for ever: a loop that catches everything would never end. After many times its code may ask
        for what it likes, gets nothing, and is left where it waits for it.
        """
        if self._is_closed:
            self._refusals += 1
            if self._refusals <= _REFUSALS_MAX:
                raise LoopClosed

    def _dispose(self, pending: Sequence[WorkflowTask[Any]]) -> None:
        outer = _enter(self)
        try:
            with warnings.catch_warnings():
                # Clean-up code makes coroutines that nobody can await any more.
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                for task in pending:
                    asyncio.tasks._enter_task(self, task)
                    try:
                        _dispose(task.get_coro())
                    finally:
                        asyncio.tasks._leave_task(self, task)
        finally:
            _leave(outer)

    # -- what asyncio calls ------------------------------------------------------------

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Make *callback* ready, behind what is ready already."""
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context)
        if not self._is_closed:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Make *callback* ready in *delay* seconds, by a durable timer; at once, without one, if that is over."""
        self.must_be_open()
        if math.isnan(delay):
            raise ValueError("a delay of NaN seconds: expected a number")
        if context is None:
            context = contextvars.copy_context()
        timer = Timer(self.now + delay, callback, args, context, self.owner)
        if delay <= 0:
            self._ready.append(timer)
        elif delay != math.inf:
            timer.is_waiting = True
            self.owner.start_timer(timer, delay)
        return timer

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As `call_later`, for a moment of the loop's clock."""
        return self.call_later(round(when - self.now, _CALL_AT_DIGITS), callback, *args, context=context)

    def time(self) -> float:
        """The workflow's time, in epoch seconds."""
        return self.now

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        self.must_be_open()
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **_ignored: Any,
    ) -> asyncio.Task[_T]:
        """Run *coro* as a task, numbered by creation."""
        if self._is_closed:
            # A task that never runs. Raising would leave the coroutines beside it, in a gather or
            # a list, without anybody to await them.
            coro.close()
        self._created = number = self._created + 1
        # The number is needed before __init__, which puts the task in a set.
        task: WorkflowTask[_T] = WorkflowTask.__new__(WorkflowTask)
        task.number = number
        task.__init__(coro, loop=self, name=name or f"Task-{number}", context=context)  # type: ignore[misc]
        # A dropped run leaves pending tasks behind, which is no mistake of anybody's.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        # asyncio itself refers to tasks weakly, and the garbage collector's moment is not replayable.
        self.tasks.append(task)
        if len(self.tasks) > self._compact_at:
            self.tasks = [kept for kept in self.tasks if not kept.done()]
            self._compact_at = max(_TASKS_KEPT_MIN, 2 * len(self.tasks))
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell the owner, unless the loop is closed."""
        if not self._is_closed:
            self.owner.on_loop_error(context)

    def get_debug(self) -> bool:
        """Never."""
        return False

    def get_task_factory(self) -> None:
        """None: tasks are made by the loop."""
        return

    def is_running(self) -> bool:
        """Whether code of this loop is being run right now."""
        return self._is_running

    def is_closed(self) -> bool:
        """Whether the run was dropped."""
        return self._is_closed

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: generators end with their run."""

    def _finish_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        # Only while running: when the collector finds one later, its moment is not replayable.
        if self._is_running and not self._is_closed:
            self.create_task(generator.aclose())


def _ignore(*_: object) -> None:
    pass


def _enter(loop: WorkflowLoop) -> tuple[asyncio.AbstractEventLoop | None, Any]:
    """Make *loop* the running one; what was running before, for `_leave`."""
    outer = _get_running_loop()
    task = None
    # From 3.14 on a thread has one current task instead of one per loop.
    if sys.version_info >= (3, 14) and outer is not None:
        task = asyncio.tasks._swap_current_task(outer, None)  # type: ignore[attr-defined]
    _set_running_loop(loop)
    return outer, task


def _leave(before: tuple[asyncio.AbstractEventLoop | None, Any]) -> None:
    outer, task = before
    _set_running_loop(outer)
    if sys.version_info >= (3, 14) and outer is not None:
        asyncio.tasks._swap_current_task(outer, task)  # type: ignore[attr-defined]


def _dispose(coroutine: Any) -> None:
    """End *coroutine* where it is suspended; when its clean-up awaits something, end it there again.

    Not with `close()`: if an inner coroutine awaits during its clean-up, `close()` gives the
    outer ones an error and leaves the inner one to the garbage collector.
    """
    for _ in range(_DISPOSE_TRIES_MAX):
        try:
            coroutine.throw(LoopClosed())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - how the clean-up of a dropped run ends concerns nobody
            return
    # Kept for good: if it were ever collected, its code would run once more, and perhaps for ever.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))
    logger.warning(
        "workflow code in %s could not be ended when its run was dropped: it catches BaseException and goes on; "
        "catch Exception, or raise again what is none",
        getattr(coroutine, "__qualname__", coroutine),
    )


_IN_AN_ACTIVITY = "do it in an activity"
_FORBIDDEN: dict[str, str] = {
    "run_in_executor": f"{_IN_AN_ACTIVITY} (a plain function is run in a thread for you)",
    "call_soon_threadsafe": "workflow code has one thread; send the run a signal instead",
    "set_default_executor": _IN_AN_ACTIVITY,
    "shutdown_default_executor": _IN_AN_ACTIVITY,
    "run_until_complete": "await it, the loop is running already",
    "run_forever": "await what you wait for, the loop is running already",
    "stop": "return from the workflow instead",
    "set_debug": "the loop of a workflow has no debug mode",
    "set_task_factory": "tasks of a workflow are made by its loop",
    "set_exception_handler": "handle errors where the task is awaited",
    "get_exception_handler": "handle errors where the task is awaited",
    "default_exception_handler": "handle errors where the task is awaited",
    "add_signal_handler": "stop a run with cancel or terminate",
    "remove_signal_handler": "stop a run with cancel or terminate",
} | dict.fromkeys(
    [
        *("getaddrinfo", "getnameinfo", "create_connection", "create_server", "create_unix_connection"),
        *("create_unix_server", "create_datagram_endpoint", "connect_accepted_socket", "start_tls"),
        *("connect_read_pipe", "connect_write_pipe", "subprocess_shell", "subprocess_exec"),
        *("add_reader", "remove_reader", "add_writer", "remove_writer", "sendfile"),
        *("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"),
        *("sock_sendall", "sock_sendto", "sock_connect", "sock_accept", "sock_sendfile"),
    ],
    _IN_AN_ACTIVITY,
)


def _forbid(name: str, advice: str) -> Callable[..., NoReturn]:
    def forbidden(*_: object, **__: object) -> NoReturn:
        raise ForbiddenInWorkflow(
            f"loop.{name}() cannot be replayed, so workflow code cannot call it: {advice}"
        )

    forbidden.__name__ = forbidden.__qualname__ = name
    return forbidden


for _name, _advice in _FORBIDDEN.items():
    setattr(WorkflowLoop, _name, _forbid(_name, _advice))
