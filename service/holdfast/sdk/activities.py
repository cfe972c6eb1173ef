"""Activities as workflow code sees them: scheduled, awaited, cancelled, settled.

An activity is a future that the history settles. This module turns options into a
command and an activity's events into the future's outcome; what runs the activity is
none of its business.
"""

# ruff: noqa: D102 - the members of the protocols are described where they are implemented

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from datetime import timedelta
from enum import IntEnum
from typing import Any, Protocol, TypeVar

import msgspec

from holdfast.common import Priority, RetryPolicy
from holdfast.exceptions import ActivityError, CancelledError, RetryState
from holdfast.sdk.loop import WorkflowLoop
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import failures

R = TypeVar("R")


class ActivityCancellationType(IntEnum):
    """What cancelling an activity means to the code that waits for it."""

    TRY_CANCEL = 0
    """Ask it to stop, and raise at once."""

    WAIT_CANCELLATION_COMPLETED = 1
    """Ask it to stop, and wait for what it then does."""

    ABANDON = 2
    """Let it run, and raise at once."""


class ActivityOptions(Protocol):
    """Options of a definition as users give them: `holdfast.activity.ActivityOptions`."""

    @property
    def task_queue(self) -> str | None: ...
    @property
    def schedule_to_close_timeout(self) -> timedelta | None: ...
    @property
    def schedule_to_start_timeout(self) -> timedelta | None: ...
    @property
    def start_to_close_timeout(self) -> timedelta | None: ...
    @property
    def heartbeat_timeout(self) -> timedelta | None: ...
    @property
    def retry_policy(self) -> RetryPolicy | None: ...


class WireOptions(msgspec.Struct, frozen=True):
    """Options as a command carries them. Times in seconds."""

    task_queue: str | None = None
    schedule_to_close_s: float | None = None
    schedule_to_start_s: float | None = None
    start_to_close_s: float | None = None
    heartbeat_s: float | None = None
    retry: failures.RetryPolicy = failures.RetryPolicy()


class Converter(Protocol):
    """The part of `holdfast.converter.DataConverter` that a run needs."""

    @property
    def payload_converter(self) -> Any: ...
    def encode_args(self, values: Sequence[Any]) -> bytes: ...
    def decode_args(self, array: bytes, types: Sequence[Any] | None = None) -> list[Any]: ...
    def encode_value(self, value: Any) -> bytes: ...
    def decode_value(self, text: bytes, hint: Any = None) -> Any: ...
    def encode_failure(self, exception: BaseException) -> failures.Failure: ...
    def decode_failure(self, failure: failures.Failure) -> BaseException: ...


class Scheduler(Protocol):
    """The run that activities belong to."""

    loop: WorkflowLoop
    converter: Converter
    activities: dict[int, ActivityHandle[Any]]

    def next_seq(self) -> int: ...
    def ask(self, command: c.AnyCommand) -> None: ...
    def withdraw(self, seq: int) -> bool: ...


class ActivityHandle(asyncio.Future[R]):
    """A scheduled activity: a future of its result.

    `cancel()` asks the activity to stop, as its cancellation type says; the code that
    awaits the handle then gets an `ActivityError` caused by a `CancelledError`.
    """

    run: Scheduler
    seq: int
    name: str
    activity_id: str
    result_type: Any
    cancellation_type: int
    event_seq: int
    is_cancel_requested: bool

    def __hash__(self) -> int:
        return self.seq

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask for the activity's cancellation. False if it is settled already."""
        if self.done():
            return False
        if self.run.loop.is_closed():
            return super().cancel(msg)
        _request_cancel(self)
        return True


def schedule(
    run: Scheduler,
    name: str,
    args: Sequence[Any],
    options: WireOptions,
    *,
    result_type: Any = None,
    cancellation_type: int = ActivityCancellationType.TRY_CANCEL,
    activity_id: str | None = None,
) -> ActivityHandle[Any]:
    """Schedule activity *name*. Raises `Invalid` if an argument has no encoding, and then nothing is scheduled."""
    data = run.converter.encode_args(args) if args else b"[]"
    run.loop.must_be_open()
    seq = run.next_seq()
    handle: ActivityHandle[Any] = ActivityHandle(loop=run.loop)
    handle.run = run
    handle.seq = seq
    handle.name = name
    handle.activity_id = activity_id or str(seq)
    handle.result_type = result_type
    handle.cancellation_type = cancellation_type
    handle.event_seq = 0
    handle.is_cancel_requested = False
    run.activities[seq] = handle
    run.ask(
        c.ScheduleActivity(
            seq=seq,
            name=name,
            input=data,
            activity_id=handle.activity_id,
            task_queue=options.task_queue,
            schedule_to_close_s=options.schedule_to_close_s,
            schedule_to_start_s=options.schedule_to_start_s,
            start_to_close_s=options.start_to_close_s,
            heartbeat_s=options.heartbeat_s,
            retry=options.retry,
        )
    )
    return handle


async def result_of(handle: ActivityHandle[R]) -> R:
    """The result of *handle*, awaited as asyncio awaits: if this very task is cancelled, so is the await.

    Awaiting the handle itself raises `ActivityError` in that case, which is what the
    functions of `holdfast.workflow` promise; but then `asyncio.timeout` around it would
    not become a `TimeoutError`, nor a TaskGroup's sibling a cancelled task.
    """
    task = asyncio.current_task()
    cancels = task.cancelling() if task is not None else 0
    try:
        return await handle
    except ActivityError as error:
        if task is not None and task.cancelling() > cancels and isinstance(error.cause, CancelledError):
            raise asyncio.CancelledError("activity cancelled") from error
        raise


def wire_options(options: ActivityOptions) -> WireOptions:
    """*options* for a command; made once per options object and kept on it."""
    kept = getattr(options, "__dict__", {}).get("_wire_options")
    if isinstance(kept, WireOptions):
        return kept
    made = WireOptions(
        options.task_queue,
        _seconds(options.schedule_to_close_timeout),
        _seconds(options.schedule_to_start_timeout),
        _seconds(options.start_to_close_timeout),
        _seconds(options.heartbeat_timeout),
        wire_retry(options.retry_policy),
    )
    # The public options are frozen, so what was made of them stays right.
    object.__setattr__(options, "_wire_options", made)
    return made


def wire_retry(policy: RetryPolicy | None) -> failures.RetryPolicy:
    """A retry policy for a command; None is the default one: for ever, from 1 s to 100 s apart."""
    if policy is None:
        return failures.RetryPolicy()
    policy.validate()
    return failures.RetryPolicy(
        initial_s=policy.initial_interval.total_seconds(),
        coefficient=policy.backoff_coefficient,
        max_s=_seconds(policy.maximum_interval),
        max_attempts=policy.maximum_attempts,
        non_retryable=tuple(policy.non_retryable_error_types or ()),
    )


_NO_EFFECT_YET = ("priority", "summary", "versioning_intent")
_noted: set[str] = set()


def call_keywords(call_options: dict[str, Any]) -> dict[str, Any]:
    """*call_options* without those that mean nothing yet, of which it warns."""
    for name in _NO_EFFECT_YET:
        note_no_effect(name, call_options.get(name))
    return {name: value for name, value in call_options.items() if name not in _NO_EFFECT_YET}


def note_no_effect(name: str, value: Any) -> None:
    """Warn, once per name and process, if an option was given that means nothing yet."""
    if value not in (None, Priority.default) and name not in _noted:
        _noted.add(name)
        warnings.warn(f"option {name}= has no effect in this version of Holdfast", stacklevel=3)


# -- what the history says ---------------------------------------------------------------


def completed(run: Scheduler, event: e.ActivityCompleted) -> None:
    """Raises `Invalid` if the result does not decode."""
    if (handle := _settled(run, event.seq)) is not None:
        handle.set_result(run.converter.decode_value(event.result, handle.result_type))


def failed(run: Scheduler, event: e.ActivityFailed) -> None:
    """The cause is what the activity raised."""
    if (handle := _settled(run, event.seq)) is not None:
        error = _error(handle, "Activity task failed", event.worker, event.retry_state)
        error.__cause__ = run.converter.decode_failure(event.failure)
        handle.set_exception(error)


def timed_out(run: Scheduler, event: e.ActivityTimedOut) -> None:
    """The cause is a `TimeoutError`, whose own cause is what went wrong before, if anything did."""
    if (handle := _settled(run, event.seq)) is None:
        return
    failure = failures.Failure(
        message=failures.timeout_message(event.timeout),
        kind=failures.TIMEOUT,
        timeout=event.timeout,
        last_heartbeat=event.last_heartbeat,
        cause=event.failure,
    )
    error = _error(handle, "Activity task timed out", "", event.retry_state)
    error.__cause__ = run.converter.decode_failure(failure)
    handle.set_exception(error)


def cancelled(run: Scheduler, event: e.ActivityCancelled) -> None:
    """The cause is a `CancelledError` with the details that the activity left."""
    if (handle := _settled(run, event.seq)) is not None:
        details = run.converter.decode_args(event.details) if event.details else []
        _set_cancelled(handle, CancelledError("Activity cancelled", *details))


def _settled(run: Scheduler, seq: int) -> ActivityHandle[Any] | None:
    handle = run.activities.pop(seq, None)
    return handle if handle is not None and not handle.done() else None


def _request_cancel(handle: ActivityHandle[Any]) -> None:
    run, seq = handle.run, handle.seq
    if run.withdraw(seq):
        # Scheduled in this very turn: nobody has heard of it.
        is_over = True
    else:
        is_over = handle.cancellation_type != ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
        if handle.cancellation_type != ActivityCancellationType.ABANDON and not handle.is_cancel_requested:
            handle.is_cancel_requested = True
            run.ask(c.RequestCancelActivity(seq=seq))
    if is_over:
        run.activities.pop(seq, None)
        _set_cancelled(handle, CancelledError("Activity cancelled"))


def _set_cancelled(handle: ActivityHandle[Any], cause: CancelledError) -> None:
    error = _error(handle, "Activity cancelled", "", "cancel_requested")
    error.__cause__ = cause
    handle.set_exception(error)
    # Nobody need look at what they cancelled.
    handle._log_traceback = False


def _error(handle: ActivityHandle[Any], message: str, identity: str, retry_state: str) -> ActivityError:
    return ActivityError(
        message,
        scheduled_event_id=handle.event_seq,
        started_event_id=0,
        identity=identity,
        activity_type=handle.name,
        activity_id=handle.activity_id,
        retry_state=RetryState.__members__.get(retry_state.upper()),
    )


def _seconds(delta: timedelta | float | None) -> float | None:
    return delta.total_seconds() if isinstance(delta, timedelta) else delta
