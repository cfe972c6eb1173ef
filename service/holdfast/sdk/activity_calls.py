"""`workflow.start_activity` and its kin: activities called by function or by name.

Options given at the call win over those of the activity's definition, field by field.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypedDict, TypeVar, Unpack, overload

from holdfast.activity import ActivityDefinition, definition_of
from holdfast.common import Priority, RetryPolicy
from holdfast.sdk.activities import (
    ActivityCancellationType,
    ActivityHandle,
    WireOptions,
    call_keywords,
    schedule,
    wire_options,
    wire_retry,
)
from holdfast.sdk.context import must_run

R = TypeVar("R")

NOT_GIVEN: Any = type("NotGiven", (), {"__repr__": lambda _: "<not given>"})()


class ActivityConfig(TypedDict, total=False):
    """The keyword arguments of `start_activity` and `execute_activity`."""

    task_queue: str | None
    schedule_to_close_timeout: timedelta | None
    schedule_to_start_timeout: timedelta | None
    start_to_close_timeout: timedelta | None
    heartbeat_timeout: timedelta | None
    retry_policy: RetryPolicy | None
    cancellation_type: ActivityCancellationType
    activity_id: str | None
    versioning_intent: Any | None
    summary: str | None
    priority: Priority


@overload
def start_activity(
    activity: Callable[..., Awaitable[R]],
    arg: Any = ...,
    *,
    args: Sequence[Any] = ...,
    **options: Unpack[ActivityConfig],
) -> ActivityHandle[R]: ...


@overload
def start_activity(
    activity: Callable[..., R],
    arg: Any = ...,
    *,
    args: Sequence[Any] = ...,
    **options: Unpack[ActivityConfig],
) -> ActivityHandle[R]: ...


@overload
def start_activity(
    activity: str,
    arg: Any = ...,
    *,
    args: Sequence[Any] = ...,
    result_type: type[R],
    **options: Unpack[ActivityConfig],
) -> ActivityHandle[R]: ...


@overload
def start_activity(
    activity: str,
    arg: Any = ...,
    *,
    args: Sequence[Any] = ...,
    result_type: None = ...,
    **options: Unpack[ActivityConfig],
) -> ActivityHandle[Any]: ...


def start_activity(
    activity: Any,
    arg: Any = NOT_GIVEN,
    *,
    args: Sequence[Any] = [],
    task_queue: str | None = None,
    result_type: type | None = None,
    schedule_to_close_timeout: timedelta | None = None,
    schedule_to_start_timeout: timedelta | None = None,
    start_to_close_timeout: timedelta | None = None,
    heartbeat_timeout: timedelta | None = None,
    retry_policy: RetryPolicy | None = None,
    cancellation_type: ActivityCancellationType = ActivityCancellationType.TRY_CANCEL,
    activity_id: str | None = None,
    versioning_intent: Any | None = None,
    summary: str | None = None,
    priority: Priority = Priority.default,
) -> ActivityHandle[Any]:
    """Schedule an activity, given as its function, method, class or name; a handle to await or cancel.

    `arg` is for one argument, `args` for several. `result_type` is what a named activity
    returns; otherwise annotations tell.
    """
    run = must_run()
    call_keywords({"priority": priority, "summary": summary, "versioning_intent": versioning_intent})
    name, hint, defined = _target(activity, result_type)
    given = WireOptions(
        task_queue,
        _seconds(schedule_to_close_timeout),
        _seconds(schedule_to_start_timeout),
        _seconds(start_to_close_timeout),
        _seconds(heartbeat_timeout),
        wire_retry(retry_policy) if retry_policy is not None else defined.retry,
    )
    return schedule(
        run,
        name,
        arguments(arg, args),
        _merged(defined, given),
        result_type=hint,
        cancellation_type=cancellation_type,
        activity_id=activity_id,
    )


@overload
async def execute_activity(
    activity: Callable[..., Awaitable[R]],
    arg: Any = ...,
    *,
    args: Sequence[Any] = ...,
    **options: Unpack[ActivityConfig],
) -> R: ...


@overload
async def execute_activity(
    activity: Callable[..., R],
    arg: Any = ...,
    *,
    args: Sequence[Any] = ...,
    **options: Unpack[ActivityConfig],
) -> R: ...


@overload
async def execute_activity(
    activity: str,
    arg: Any = ...,
    *,
    args: Sequence[Any] = ...,
    result_type: type[R],
    **options: Unpack[ActivityConfig],
) -> R: ...


@overload
async def execute_activity(
    activity: str,
    arg: Any = ...,
    *,
    args: Sequence[Any] = ...,
    result_type: None = ...,
    **options: Unpack[ActivityConfig],
) -> Any: ...


async def execute_activity(
    activity: Any,
    arg: Any = NOT_GIVEN,
    *,
    args: Sequence[Any] = [],
    task_queue: str | None = None,
    result_type: type | None = None,
    schedule_to_close_timeout: timedelta | None = None,
    schedule_to_start_timeout: timedelta | None = None,
    start_to_close_timeout: timedelta | None = None,
    heartbeat_timeout: timedelta | None = None,
    retry_policy: RetryPolicy | None = None,
    cancellation_type: ActivityCancellationType = ActivityCancellationType.TRY_CANCEL,
    activity_id: str | None = None,
    versioning_intent: Any | None = None,
    summary: str | None = None,
    priority: Priority = Priority.default,
) -> Any:
    """The result of an activity: `start_activity` and await. Raises `ActivityError` with its cause."""
    return await start_activity(
        activity,
        arg,
        args=args,
        task_queue=task_queue,
        result_type=result_type,
        schedule_to_close_timeout=schedule_to_close_timeout,
        schedule_to_start_timeout=schedule_to_start_timeout,
        start_to_close_timeout=start_to_close_timeout,
        heartbeat_timeout=heartbeat_timeout,
        retry_policy=retry_policy,
        cancellation_type=cancellation_type,
        activity_id=activity_id,
        versioning_intent=versioning_intent,
        summary=summary,
        priority=priority,
    )


# Functions, methods and classes are told apart by their definitions.
start_activity_class = start_activity_method = start_activity
execute_activity_class = execute_activity_method = execute_activity


def arguments(arg: Any, args: Sequence[Any]) -> Sequence[Any]:
    """The one way of `arg` or `args` that was used. Raises ValueError if both were."""
    if arg is NOT_GIVEN:
        return args
    if args:
        raise ValueError("Cannot have arg and args")
    return (arg,)


_NO_OPTIONS = WireOptions()


def _target(activity: Any, result_type: Any) -> tuple[str, Any, WireOptions]:
    if isinstance(activity, str):
        return activity, result_type, _NO_OPTIONS
    if not callable(activity):
        raise TypeError("Activity must be a string or callable")
    definition: ActivityDefinition | None = definition_of(activity)
    if definition is None:
        name = getattr(activity, "__name__", repr(activity))
        raise ValueError(f"Activity {name} missing attributes, was it decorated with @activity.defn?")
    if definition.name is None:
        raise ValueError("Cannot invoke dynamic activity explicitly: give the name to call it by")
    return definition.name, result_type or definition.types[1], wire_options(definition.options)


def _merged(defined: WireOptions, given: WireOptions) -> WireOptions:
    if defined is _NO_OPTIONS:
        return given
    return WireOptions(
        *(
            own if own is not None else default
            for own, default in zip(_fields(given), _fields(defined), strict=True)
        )
    )


def _fields(options: WireOptions) -> tuple[Any, ...]:
    return (
        options.task_queue,
        options.schedule_to_close_s,
        options.schedule_to_start_s,
        options.start_to_close_s,
        options.heartbeat_s,
        options.retry,
    )


def _seconds(delta: timedelta | None) -> float | None:
    return delta.total_seconds() if delta is not None else None
