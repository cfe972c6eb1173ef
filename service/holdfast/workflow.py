"""Workflows: how they are declared, and what their code can do.

A workflow is an async function, or a class with one run method and handlers. Its code
runs on a deterministic event loop, on which asyncio's own `sleep`, `gather`, `wait`,
`timeout`, `TaskGroup`, `Event`, `Queue`, `Lock`, `Semaphore` and `Condition` are durable.
Everything here but the decorators raises RuntimeError outside of workflow code.
"""

from __future__ import annotations

import asyncio
import inspect
import random as _random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar, overload
from uuid import UUID

from holdfast.common import Priority
from holdfast.converter import PayloadConverter
from holdfast.sdk import markers, visibility, waiting
from holdfast.sdk import signals as _signals
from holdfast.sdk.activities import ActivityCancellationType, ActivityHandle, note_no_effect
from holdfast.sdk.activity_calls import (
    ActivityConfig,
    execute_activity,
    execute_activity_class,
    execute_activity_method,
    start_activity,
    start_activity_class,
    start_activity_method,
)
from holdfast.sdk.context import in_workflow, must_run
from holdfast.sdk.definitions import (
    INIT,
    RUN,
    SIGNAL,
    HandlerUnfinishedPolicy,
    SignalDefinition,
    define_class,
    define_function,
)
from holdfast.sdk.loop import ForbiddenInWorkflow
from holdfast.sdk.replay import NondeterminismError
from holdfast.sdk.search_attributes import SearchAttributeUpdate, TypedSearchAttributes
from holdfast.sdk.signals import UnfinishedSignalHandlersWarning
from holdfast.sdk.waiting import as_completed, wait
from holdfast.sdk.workflow_log import LoggerAdapter, logger

__all__ = [
    "ActivityCancellationType",
    "ActivityConfig",
    "ActivityHandle",
    "ForbiddenInWorkflow",
    "HandlerUnfinishedPolicy",
    "Info",
    "LoggerAdapter",
    "NondeterminismError",
    "UnfinishedSignalHandlersWarning",
    "all_handlers_finished",
    "as_completed",
    "cancellation_reason",
    "defn",
    "deprecate_patch",
    "execute_activity",
    "execute_activity_class",
    "execute_activity_method",
    "get_dynamic_signal_handler",
    "get_signal_handler",
    "in_workflow",
    "info",
    "init",
    "instance",
    "is_failure_exception",
    "logger",
    "memo",
    "memo_value",
    "now",
    "patched",
    "payload_converter",
    "random",
    "run",
    "set_dynamic_signal_handler",
    "set_signal_handler",
    "signal",
    "sleep",
    "start_activity",
    "start_activity_class",
    "start_activity_method",
    "step",
    "time",
    "time_ns",
    "unsafe",
    "upsert_memo",
    "upsert_search_attributes",
    "uuid4",
    "uuid7",
    "wait",
    "wait_condition",
]

P = ParamSpec("P")
R = TypeVar("R")
Target = TypeVar("Target", bound=Callable[..., Any])


# -- declaring -----------------------------------------------------------------------------


@overload
def defn(cls: Target) -> Target: ...


@overload
def defn(
    *,
    name: str | None = None,
    sandboxed: bool = True,
    dynamic: bool = False,
    failure_exception_types: Sequence[type[BaseException]] = [],
) -> Callable[[Target], Target]: ...


def defn(
    cls: Any = None,
    *,
    name: str | None = None,
    sandboxed: bool = True,  # noqa: ARG001 - the peer's
    dynamic: bool = False,
    failure_exception_types: Sequence[type[BaseException]] = [],
) -> Any:
    """Make a workflow of a class or an async function; bare or with arguments.

    `name` defaults to the class's or function's. A `dynamic` workflow runs every type that nobody
    else has, and takes one `Sequence[RawValue]`. Exceptions of `failure_exception_types`, and all
    `FailureError`s and `TimeoutError`s, fail the workflow; any other fails only the workflow task,
    which is tried again until the code is mended. `sandboxed` has no effect: there is no sandbox.
    """
    if name is not None and dynamic:
        raise RuntimeError("Cannot provide name and dynamic boolean")

    def decorate(target: Any) -> Any:
        own_name = None if dynamic else name or target.__name__
        define = define_class if inspect.isclass(target) else define_function
        define(target, own_name, failure_exception_types)
        return target

    return decorate if cls is None else decorate(cls)


def run(fn: Target) -> Target:
    """Mark the one async method that is the workflow's own code."""
    if not inspect.iscoroutinefunction(fn):
        raise ValueError("Workflow run method must be an async function")
    setattr(fn, RUN, True)
    return fn


def init(init_fn: Target) -> Target:
    """Let `__init__` have the workflow's arguments too; its parameters must be those of the run method."""
    if init_fn.__name__ != "__init__":
        raise ValueError("@workflow.init may only be used on the __init__ method")
    setattr(init_fn, INIT, True)
    return init_fn


@overload
def signal(fn: Target) -> Target: ...


@overload
def signal(
    *,
    name: str | None = None,
    dynamic: bool | None = False,
    unfinished_policy: HandlerUnfinishedPolicy = HandlerUnfinishedPolicy.WARN_AND_ABANDON,
    description: str | None = None,
) -> Callable[[Target], Target]: ...


def signal(
    fn: Any = None,
    *,
    name: str | None = None,
    dynamic: bool | None = False,
    unfinished_policy: HandlerUnfinishedPolicy = HandlerUnfinishedPolicy.WARN_AND_ABANDON,
    description: str | None = None,
) -> Any:
    """Make a method, async or not, the handler of a signal; `name` defaults to the method's.

    A `dynamic` handler takes every signal that has none, with the name and a `Sequence[RawValue]`.
    """
    if name is not None and dynamic:
        raise RuntimeError("Cannot provide name and dynamic boolean")

    def decorate(method: Any) -> Any:
        own_name = None if dynamic else name or method.__name__
        definition = SignalDefinition(
            name=own_name,
            fn=method,
            is_method=True,
            unfinished_policy=unfinished_policy,
            description=description,
        )
        setattr(method, SIGNAL, definition)
        return method

    return decorate if fn is None else decorate(fn)


# -- about the run -------------------------------------------------------------------------


@dataclass(frozen=True)
class Info:
    """About the running workflow. Made by `info()`, never by users."""

    attempt: int
    continued_run_id: str | None
    cron_schedule: str | None
    execution_timeout: timedelta | None
    first_execution_run_id: str
    namespace: str
    original_execution_run_id: str
    run_id: str
    run_timeout: timedelta | None
    start_time: datetime
    task_queue: str
    task_timeout: timedelta
    priority: Priority
    search_attributes: Mapping[str, Sequence[Any]]
    typed_search_attributes: TypedSearchAttributes
    workflow_id: str
    workflow_start_time: datetime
    workflow_type: str

    def get_current_history_length(self) -> int:
        """Number of events that the code has seen."""
        turn = must_run().turn_in_progress
        return turn.seen_seq if turn is not None else 0

    def get_current_build_id(self) -> str:
        """Build of the worker that ran, or runs, the current workflow task."""
        return must_run().current_build_id()


def info() -> Info:
    """About the running workflow."""
    current = must_run()
    who = current.identity
    started = _moment(current.started.time if current.started is not None else current.loop.now)
    return Info(
        attempt=who.attempt,
        continued_run_id=None,
        cron_schedule=None,
        first_execution_run_id=who.run_id,
        namespace=who.namespace,
        original_execution_run_id=who.run_id,
        run_id=who.run_id,
        start_time=started,
        task_queue=who.task_queue,
        workflow_id=who.workflow_id,
        workflow_start_time=started,
        workflow_type=who.workflow_type,
        **visibility.info_fields(current),
    )


def memo() -> Mapping[str, Any]:
    """The run's memo as it is now."""
    return visibility.memo(must_run())


def memo_value(key: str, default: Any = visibility.UNSET, *, type_hint: type | None = None) -> Any:
    """One value of the memo. Raises KeyError if it is not there and there is no *default*."""
    return visibility.memo_value(must_run(), key, default, type_hint)


def upsert_memo(updates: Mapping[str, Any]) -> None:
    """Set values of the memo; None removes one."""
    visibility.upsert_memo(must_run(), updates)


def upsert_search_attributes(
    attributes: Mapping[str, Sequence[Any]] | Sequence[SearchAttributeUpdate[Any]],
) -> None:
    """Change search attributes: updates made by `SearchAttributeKey.value_set` and `value_unset`."""
    visibility.upsert_search_attributes(must_run(), attributes)


def instance() -> Any:
    """The running workflow's object; None if the workflow is a function."""
    return must_run().instance


def cancellation_reason() -> str | None:
    """The reason given with the cancel request, None if there was no request."""
    return must_run().cancel_reason


def is_failure_exception(err: BaseException) -> bool:
    """Whether *err* would fail the workflow, and not only the workflow task."""
    return isinstance(err, must_run().failures)


def payload_converter() -> PayloadConverter:
    """The worker's payload converter."""
    found: PayloadConverter = must_run().converter.payload_converter
    return found


# -- time and chance -----------------------------------------------------------------------


def now() -> datetime:
    """The time, in UTC. It stands still until the code waits for something."""
    return _moment(must_run().loop.now)


def time() -> float:
    """The time in seconds since the epoch."""
    return must_run().loop.now


def time_ns() -> int:
    """The time in nanoseconds since the epoch; its resolution is a microsecond."""
    return round(must_run().loop.now * 1e6) * 1000


def random() -> _random.Random:
    """Random numbers that are the same on every replay. Not for secrets."""
    return must_run().random


def uuid4() -> UUID:
    """A UUID from `random()`."""
    return UUID(bytes=random().getrandbits(128).to_bytes(16, "big"), version=4)


def uuid7() -> UUID:
    """A UUID from `time()` and `random()`, which sorts by time."""
    ms = (time_ns() // 1_000_000) & 0xFFFF_FFFF_FFFF
    chance = random()
    return UUID(int=ms << 80 | 0x7 << 76 | chance.getrandbits(12) << 64 | 0b10 << 62 | chance.getrandbits(62))


# -- waiting -------------------------------------------------------------------------------


async def sleep(duration: float | timedelta, *, summary: str | None = None) -> None:
    """Sleep, as `asyncio.sleep` does. `summary` is accepted, but not recorded in this version."""
    note_no_effect("summary", summary)
    await asyncio.sleep(_seconds(duration))


async def wait_condition(
    fn: Callable[[], bool], *, timeout: timedelta | float | None = None, timeout_summary: str | None = None
) -> None:
    """Wait until *fn* is true; it is called whenever the code has nothing else to do.

    Raises `asyncio.TimeoutError` after *timeout*. Without one there is no timer, so adding or
    removing it changes what the code asks for. `timeout_summary` is accepted, but not recorded in
    this version.
    """
    note_no_effect("timeout_summary", timeout_summary)
    await waiting.condition(fn, None if timeout is None else _seconds(timeout))


# -- once ----------------------------------------------------------------------------------


async def step(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What the plain function *fn* returns, called in place and recorded: a replay does not call it again.

    For short things that are not deterministic. It blocks the run, and is called again if the worker
    dies before the turn is recorded; anything longer, or that may fail, is an activity.
    """
    result: R = await markers.step(must_run(), fn, args, kwargs)
    return result


def patched(id: str) -> bool:
    """Whether to take the new way in code that was changed: True for runs that came here after the change."""
    return markers.patched(must_run(), id, is_deprecated=False)


def deprecate_patch(id: str) -> None:
    """Say that no run needs the old way any more. Once none carries the patch unmarked, remove the call."""
    markers.patched(must_run(), id, is_deprecated=True)


# -- handlers ------------------------------------------------------------------------------


def all_handlers_finished() -> bool:
    """Whether no async handler is running. To be waited for before the workflow returns."""
    return not must_run().signals.running


def get_signal_handler(name: str) -> Callable[..., Any] | None:
    """The handler of signal *name*, None if it has none."""
    return _signals.get_handler(must_run(), name)


def set_signal_handler(name: str, handler: Callable[..., Any] | None) -> None:
    """Make *handler* the one of signal *name*, or remove it. Signals that waited for it come at once."""
    _signals.set_handler(must_run(), name, handler)


def get_dynamic_signal_handler() -> Callable[..., Any] | None:
    """The handler of signals that have none of their own."""
    return _signals.get_handler(must_run(), None)


def set_dynamic_signal_handler(handler: Callable[..., Any] | None) -> None:
    """As `set_signal_handler`, for signals that have none of their own."""
    _signals.set_handler(must_run(), None, handler)


class unsafe:  # noqa: N801 (the peer's name)
    """What code may know that must not change what it does."""

    @staticmethod
    def is_replaying() -> bool:
        """Whether the current turn happened before and is being repeated."""
        return must_run().is_replaying

    @staticmethod
    def is_replaying_history_events() -> bool:
        """The same."""
        return must_run().is_replaying

    @staticmethod
    @contextmanager
    def sandbox_unrestricted() -> Iterator[None]:
        """No effect: there is no sandbox."""
        yield

    @staticmethod
    @contextmanager
    def imports_passed_through() -> Iterator[None]:
        """No effect: there is no sandbox."""
        yield


def _moment(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)


def _seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
