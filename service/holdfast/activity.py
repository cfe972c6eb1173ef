"""Activities: functions that workflows call durably, and what they can ask while they run.

An activity is an ordinary function with a name and, if you like, its options. Called outside of a
workflow it is that function; called inside of one it is scheduled, and the call is awaited.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from holdfast.common import Priority, RawValue, RetryPolicy
from holdfast.converter import PayloadConverter
from holdfast.sdk import context as workflow_context
from holdfast.sdk.activity_context import ActivityCancellationDetails, ActivityContext, current, must_current
from holdfast.sdk.hints import is_async_callable, keyword_only, types_of

__all__ = [
    "ActivityCancellationDetails",
    "ActivityDefinition",
    "ActivityFunction",
    "ActivityOptions",
    "Info",
    "LoggerAdapter",
    "cancellation_details",
    "client",
    "defn",
    "heartbeat",
    "in_activity",
    "info",
    "is_cancelled",
    "is_worker_shutdown",
    "logger",
    "payload_converter",
    "shield_thread_cancel_exception",
    "wait_for_cancelled",
    "wait_for_cancelled_sync",
    "wait_for_worker_shutdown",
    "wait_for_worker_shutdown_sync",
]

P = ParamSpec("P")
R = TypeVar("R")
Fn = TypeVar("Fn", bound=Callable[..., Any])

DEFINITION = "__holdfast_activity__"


@dataclass(frozen=True)
class ActivityOptions:
    """How an activity is scheduled; None leaves a field to the next level, in the end to the service.

    The service sets a start-to-close timeout of 300 s if neither close timeout is given.
    """

    task_queue: str | None = None
    schedule_to_close_timeout: timedelta | None = None
    schedule_to_start_timeout: timedelta | None = None
    start_to_close_timeout: timedelta | None = None
    heartbeat_timeout: timedelta | None = None
    retry_policy: RetryPolicy | None = None


@dataclass
class ActivityDefinition:
    """An activity as the worker and the workflow know it. `name` None means dynamic: it serves any name."""

    name: str | None
    fn: Callable[..., Any]
    is_async: bool
    no_thread_cancel_exception: bool = False
    options: ActivityOptions = field(default_factory=ActivityOptions)

    @functools.cached_property
    def types(self) -> tuple[list[Any], Any]:
        """Types of the arguments and of the result. Read late: annotations may name what is defined below."""
        return types_of(self.fn.__call__ if inspect.isclass(self.fn) else self.fn)


class ActivityFunction(Generic[P, R]):
    """What `@activity.defn` makes of a function: outside of a workflow that function, inside of one its schedule.

    Inside of a workflow a call returns an awaitable of the result at once.
    """

    def __init__(self, definition: ActivityDefinition, receiver: Any = None) -> None:
        self.definition = definition
        self._receiver = receiver
        functools.update_wrapper(self, definition.fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result; in a workflow, an awaitable of it."""
        if workflow_context.in_workflow():
            return _schedule(self.definition, self.definition.options, {}, args, kwargs)  # type: ignore[return-value]
        if self._receiver is not None:
            return self.definition.fn(self._receiver, *args, **kwargs)  # type: ignore[no-any-return]
        return self.definition.fn(*args, **kwargs)  # type: ignore[no-any-return]

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else ActivityFunction[..., R](self.definition, instance)

    def __repr__(self) -> str:
        return f"<activity {self.definition.name}>"

    def options(
        self,
        *,
        task_queue: str | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        schedule_to_start_timeout: timedelta | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
        **call_options: Any,
    ) -> Callable[P, Awaitable[Any]]:
        """This activity with other options, to be called in a workflow: `await charge.options(...)(card, 5)`.

        What is not given here stays as defined. `call_options` are those that only one call can have
        (`activity_id`, `cancellation_type`, ...), as `workflow.start_activity` takes them.
        """
        given = {
            "task_queue": task_queue,
            "schedule_to_close_timeout": schedule_to_close_timeout,
            "schedule_to_start_timeout": schedule_to_start_timeout,
            "start_to_close_timeout": start_to_close_timeout,
            "heartbeat_timeout": heartbeat_timeout,
            "retry_policy": retry_policy,
        }
        merged = replace(self.definition.options, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]

        def call(*args: P.args, **kwargs: P.kwargs) -> Awaitable[Any]:
            return _schedule(self.definition, merged, call_options, args, kwargs)

        return call


@overload
def defn(fn: type[R]) -> type[R]: ...  # type: ignore[overload-overlap]  # a class is its own activity


@overload
def defn(fn: Callable[P, R]) -> ActivityFunction[P, R]: ...


@overload
def defn(
    *,
    name: str | None = None,
    no_thread_cancel_exception: bool = False,
    dynamic: bool = False,
    task_queue: str | None = None,
    schedule_to_close_timeout: timedelta | None = None,
    schedule_to_start_timeout: timedelta | None = None,
    start_to_close_timeout: timedelta | None = None,
    heartbeat_timeout: timedelta | None = None,
    retry_policy: RetryPolicy | None = None,
) -> Callable[[Callable[P, R]], ActivityFunction[P, R]]: ...


def defn(
    fn: Any = None,
    *,
    name: str | None = None,
    no_thread_cancel_exception: bool = False,
    dynamic: bool = False,
    task_queue: str | None = None,
    schedule_to_close_timeout: timedelta | None = None,
    schedule_to_start_timeout: timedelta | None = None,
    start_to_close_timeout: timedelta | None = None,
    heartbeat_timeout: timedelta | None = None,
    retry_policy: RetryPolicy | None = None,
) -> Any:
    """Make an activity of a function, a method, or a class with `__call__`; bare or with arguments.

    `name` defaults to the function's. A `dynamic` activity serves every name nobody else has, and takes
    one `Sequence[RawValue]`. In synchronous activities cancellation raises `CancelledError`, unless
    `no_thread_cancel_exception`. The rest are the options of calls that do not say otherwise.
    """
    if name is not None and dynamic:
        raise ValueError("Cannot provide name and dynamic boolean")
    if retry_policy is not None:
        retry_policy.validate()
    options = ActivityOptions(
        task_queue=task_queue,
        schedule_to_close_timeout=schedule_to_close_timeout,
        schedule_to_start_timeout=schedule_to_start_timeout,
        start_to_close_timeout=start_to_close_timeout,
        heartbeat_timeout=heartbeat_timeout,
        retry_policy=retry_policy,
    )

    def decorate(target: Any) -> Any:
        _check_definable(target)
        definition = ActivityDefinition(
            name=None if dynamic else name or target.__name__,
            fn=target,
            is_async=is_async_callable(target),
            no_thread_cancel_exception=no_thread_cancel_exception,
            options=options,
        )
        if dynamic:
            _check_dynamic(definition)
        if inspect.isclass(target):
            setattr(target, DEFINITION, definition)
            return target
        return ActivityFunction(definition)

    return decorate if fn is None else decorate(fn)


def definition_of(thing: Any) -> ActivityDefinition | None:
    """The definition of an activity function, of a bound method or instance that is one; else None."""
    if isinstance(thing, ActivityFunction):
        definition: ActivityDefinition = thing.definition
        if thing._receiver is None:
            return definition
        return replace(definition, fn=MethodType(definition.fn, thing._receiver))
    found = getattr(thing, DEFINITION, None)
    if isinstance(found, ActivityDefinition):
        return (
            found if inspect.isclass(thing) else replace(found, fn=thing, is_async=is_async_callable(thing))
        )
    return None


@dataclass(frozen=True)
class Info:
    """What is known about the attempt that is running."""

    activity_id: str
    activity_type: str
    attempt: int
    current_attempt_scheduled_time: datetime
    heartbeat_details: Sequence[Any]
    heartbeat_timeout: timedelta | None
    is_local: bool
    namespace: str
    schedule_to_close_timeout: timedelta | None
    scheduled_time: datetime
    start_to_close_timeout: timedelta | None
    started_time: datetime
    task_queue: str
    task_token: bytes
    workflow_id: str | None
    workflow_namespace: str | None
    workflow_run_id: str | None
    workflow_type: str | None
    priority: Priority
    retry_policy: RetryPolicy | None
    activity_run_id: str | None = None

    @property
    def in_workflow(self) -> bool:
        """Whether a workflow scheduled this activity."""
        return self.workflow_id is not None


def in_activity() -> bool:
    """Whether an activity is running here."""
    return current.get() is not None


def info() -> Info:
    """About the running attempt. Raises RuntimeError outside of an activity, as all functions below do."""
    context = must_current()
    if context.info is None:
        context.info = _info(context)
    found: Info = context.info
    return found


def heartbeat(*details: Any) -> None:
    """Say that this activity lives; *details* reach the next attempt, if there is one.

    Cheap: several calls in a short time become one message, and the newest details win.
    """
    must_current().heartbeat(*details)


def is_cancelled() -> bool:
    """Whether this activity was asked to stop."""
    return must_current().cancelled.is_set


def cancellation_details() -> ActivityCancellationDetails | None:
    """Why this activity was asked to stop; None if it was not."""
    return must_current().cancellation_details


async def wait_for_cancelled() -> None:
    """Return when this activity is asked to stop."""
    await must_current().cancelled.wait()


def wait_for_cancelled_sync(timeout: timedelta | float | None = None) -> None:
    """Block this thread until the activity is asked to stop, at most *timeout*."""
    must_current().cancelled.wait_in_thread(_seconds(timeout))


@contextmanager
def shield_thread_cancel_exception() -> Iterator[None]:
    """In a synchronous activity: put a cancellation exception off to the end of this block."""
    canceller = must_current().thread_canceller
    if canceller is None:
        yield
        return
    with canceller.shield():
        yield


def is_worker_shutdown() -> bool:
    """Whether the worker was asked to shut down."""
    return must_current().worker_stopping.is_set


async def wait_for_worker_shutdown() -> None:
    """Return when the worker is asked to shut down."""
    await must_current().worker_stopping.wait()


def wait_for_worker_shutdown_sync(timeout: timedelta | float | None = None) -> None:
    """Block this thread until the worker is asked to shut down, at most *timeout*."""
    must_current().worker_stopping.wait_in_thread(_seconds(timeout))


def client() -> Any:
    """The worker's `Client`, for `async def` activities."""
    found = must_current().client
    if found is None:
        raise RuntimeError("No client available. The client is only available in `async def` activities")
    return found


def payload_converter() -> PayloadConverter:
    """The worker's payload converter."""
    found: PayloadConverter = must_current().converter.payload_converter
    return found


class LoggerAdapter(logging.LoggerAdapter[logging.Logger]):
    """Adds what is known about the running activity to each record.

    `activity_info_on_message` appends it to the text, `activity_info_on_extra` sets the record's
    `holdfast_activity`, `full_activity_info_on_extra` its `activity_info`.
    """

    def __init__(self, logger: logging.Logger, extra: Mapping[str, Any] | None) -> None:
        super().__init__(logger, extra or {})
        self.activity_info_on_message = True
        self.activity_info_on_extra = True
        self.full_activity_info_on_extra = False

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Called by `logging` for each record."""
        if current.get() is None:
            return msg, kwargs
        about = info()
        short = {name: getattr(about, name) for name in _LOGGED}
        if self.activity_info_on_message:
            msg = f"{msg} ({short})"
        extra = dict(kwargs.get("extra") or {})
        if self.activity_info_on_extra:
            extra["holdfast_activity"] = short
        if self.full_activity_info_on_extra:
            extra["activity_info"] = about
        if extra:
            kwargs["extra"] = extra
        return msg, kwargs

    @property
    def base_logger(self) -> logging.Logger:
        """The logger underneath, for handlers and formatters."""
        return self.logger


_LOGGED = (
    "activity_id",
    "activity_type",
    "attempt",
    "namespace",
    "task_queue",
    "workflow_id",
    "workflow_run_id",
    "workflow_type",
)

logger = LoggerAdapter(logging.getLogger(__name__), None)


def _info(context: ActivityContext) -> Info:
    task = context.task
    details = context.converter.decode_args(task.heartbeat_details) if task.heartbeat_details else []
    return Info(
        activity_id=task.activity_id,
        activity_type=task.name,
        attempt=task.attempt,
        current_attempt_scheduled_time=_time(task.started_at),
        heartbeat_details=details,
        heartbeat_timeout=_delta(task.heartbeat_s),
        is_local=False,
        namespace=context.namespace,
        schedule_to_close_timeout=_delta(task.schedule_to_close_s),
        scheduled_time=_time(task.scheduled_at),
        start_to_close_timeout=_delta(task.start_to_close_s),
        started_time=_time(task.started_at),
        task_queue=task.task_queue,
        task_token=f"{task.run_id}/{task.seq}/{task.fence}".encode(),
        workflow_id=task.workflow_id,
        workflow_namespace=context.namespace,
        workflow_run_id=task.run_id,
        workflow_type=task.workflow_type,
        priority=Priority.default,
        retry_policy=None,
    )


def _schedule(
    definition: ActivityDefinition,
    options: ActivityOptions,
    call_options: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Awaitable[Any]:
    if definition.name is None:
        raise TypeError("a dynamic activity has no name of its own: call workflow.execute_activity with one")
    if kwargs:
        bound = inspect.signature(definition.fn).bind(*args, **kwargs)
        bound.apply_defaults()
        args = bound.args
    scheduled: Awaitable[Any] = workflow_context.must_run().start_activity(
        definition, options, call_options, args
    )
    return scheduled


def _check_definable(target: Any) -> None:
    if not callable(target):
        raise TypeError("Activity is not callable")
    if isinstance(target, ActivityFunction) or hasattr(target, DEFINITION):
        raise ValueError("Function already contains activity definition")
    if names := keyword_only(target):
        raise TypeError(f"Activity cannot have keyword-only arguments: {', '.join(names)}")


def _check_dynamic(definition: ActivityDefinition) -> None:
    if definition.types[0] != [Sequence[RawValue]]:
        raise TypeError("Dynamic activity must accept a single Sequence[holdfast.common.RawValue]")


def _time(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)


def _delta(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _seconds(timeout: timedelta | float | None) -> float | None:
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
