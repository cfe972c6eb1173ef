"""Exceptions to recorded failures and back. Pure.

What is recorded is bounded: a failure must never be too large to report, because an
activity whose failure cannot be reported would be retried for ever.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import IntEnum
from typing import Any, TypeVar

from holdfast.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    RetryState,
    ServerError,
    TerminatedError,
    TimeoutError,
    TimeoutType,
)
from holdfast.sdk.jsontext import decoder_for, encode_json
from holdfast.wire import failures as wire
from holdfast.wire.failures import Failure

EncodeValues = Callable[[Sequence[Any]], bytes]
DecodeValues = Callable[[bytes], list[Any]]

MESSAGE_CHARS_MAX = 16_000
STACK_CHARS_MAX = 32_000
STACK_FRAMES_MAX = 30
DETAILS_BYTES_MAX = 1024 * 1024
CAUSES_MAX = 12

HIDDEN_MESSAGE = "Encoded failure"

E = TypeVar("E", bound=IntEnum)


def from_exception(
    error: BaseException, encode: EncodeValues, *, hide_text: bool = False, depth: int = 0
) -> Failure:
    """The recorded form of *error* and its chain of causes, at most `CAUSES_MAX` links.

    `hide_text` moves message and stack into `details`, in front of the details proper.
    """
    # A failure that only passes through keeps the stack of the place where it arose.
    if isinstance(error, FailureError) and isinstance(error.failure, Failure):
        return error.failure
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    fields = _kind_fields(error, encode)
    message = error.message if isinstance(error, FailureError) else _str(error)
    stack = "".join(traceback.format_tb(error.__traceback__, limit=-STACK_FRAMES_MAX))
    if hide_text:
        hidden = encode_json({"message": _text(message), "stack_trace": _text(stack)})
        fields["details"] = b"[" + hidden + (b"," + fields["details"][1:] if fields.get("details") else b"]")
        message, stack = HIDDEN_MESSAGE, ""
    return Failure(
        message=_bounded(message, MESSAGE_CHARS_MAX),
        stack=_bounded(stack, STACK_CHARS_MAX),
        cause=from_exception(cause, encode, hide_text=hide_text, depth=depth + 1)
        if cause is not None and depth < CAUSES_MAX
        else None,
        **fields,
    )


def to_exception(failure: Failure, decode: DecodeValues) -> FailureError:
    """The exception that *failure* records, its causes as `__cause__` and itself as `failure`."""
    details = _decoded(failure.details, decode)
    message = failure.message
    if message == HIDDEN_MESSAGE and details and isinstance(details[0], dict) and "stack_trace" in details[0]:
        message = str(details.pop(0).get("message", message))
    error = _rebuild(failure, message, details, decode)
    error._failure = failure
    if failure.cause is not None:
        error.__cause__ = to_exception(failure.cause, decode)
    return error


def _kind_fields(error: BaseException, encode: EncodeValues) -> dict[str, Any]:
    if isinstance(error, ApplicationError):
        delay = error.next_retry_delay
        return {
            "type": _text(error.type) if error.type else None,
            "non_retryable": error.non_retryable,
            "next_retry_delay_s": delay.total_seconds() if delay is not None else None,
            "category": "benign" if error.category == ApplicationErrorCategory.BENIGN else "",
            "details": _encoded(error.details, encode),
        }
    if isinstance(error, CancelledError):
        return {"kind": wire.CANCELLED, "details": _encoded(error.details, encode)}
    if isinstance(error, TerminatedError):
        return {"kind": wire.TERMINATED, "details": _encoded(error.details, encode)}
    if isinstance(error, TimeoutError):
        last = _encoded(error.last_heartbeat_details, encode)
        return {"kind": wire.TIMEOUT, "timeout": _name(error.type), "last_heartbeat": last}
    if isinstance(error, ServerError):
        return {"kind": wire.SERVER, "non_retryable": error.non_retryable}
    if isinstance(error, ActivityError):
        return {
            "kind": wire.ACTIVITY,
            "activity_type": error.activity_type,
            "activity_id": error.activity_id,
            "scheduled_seq": error.scheduled_event_id,
            "identity": error.identity,
            "retry_state": _name(error.retry_state),
        }
    if isinstance(error, ChildWorkflowError):
        return {"kind": wire.CHILD, "retry_state": _name(error.retry_state)}
    return {"type": type(error).__name__}


def _rebuild(failure: Failure, message: str, details: list[Any], decode: DecodeValues) -> FailureError:
    if failure.kind == wire.CANCELLED:
        return CancelledError(message or "Cancelled", *details)
    if failure.kind == wire.TERMINATED:
        return TerminatedError(message or "Terminated", *details)
    if failure.kind == wire.TIMEOUT:
        return TimeoutError(
            message or "Timeout",
            type=_member(TimeoutType, failure.timeout),
            last_heartbeat_details=_decoded(failure.last_heartbeat, decode),
        )
    if failure.kind == wire.SERVER:
        return ServerError(message or "Server error", non_retryable=failure.non_retryable)
    if failure.kind == wire.ACTIVITY:
        return ActivityError(
            message or "Activity error",
            scheduled_event_id=failure.scheduled_seq,
            started_event_id=0,
            identity=failure.identity,
            activity_type=failure.activity_type or "",
            activity_id=failure.activity_id or "",
            retry_state=_member(RetryState, failure.retry_state),
        )
    if failure.kind == wire.CHILD:
        return ChildWorkflowError(
            message or "Child workflow error",
            namespace="",
            workflow_id="",
            run_id="",
            workflow_type="",
            initiated_event_id=failure.scheduled_seq,
            started_event_id=0,
            retry_state=_member(RetryState, failure.retry_state),
        )
    delay_s = failure.next_retry_delay_s
    return ApplicationError(
        message or "Application error",
        *details,
        type=failure.type,
        non_retryable=failure.non_retryable,
        next_retry_delay=timedelta(seconds=delay_s) if delay_s is not None else None,
        category=ApplicationErrorCategory.BENIGN
        if failure.category == "benign"
        else ApplicationErrorCategory.UNSPECIFIED,
    )


def _encoded(values: Sequence[Any], encode: EncodeValues) -> bytes:
    if not values:
        return b""
    try:
        array = encode(values)
    except Exception as error:  # noqa: BLE001 - a user's payload converter runs here
        return encode_json([_text(f"details left out: {error}")])
    if len(array) > DETAILS_BYTES_MAX:
        return encode_json([f"details left out: {len(array)} bytes, the limit is {DETAILS_BYTES_MAX}"])
    return array


def _decoded(array: bytes, decode: DecodeValues) -> list[Any]:
    if not array:
        return []
    try:
        return decode(array)
    except Exception:  # noqa: BLE001 - a user's payload converter; the failure matters more than its details
        return _raw_elements(array)


def _raw_elements(array: bytes) -> list[Any]:
    try:
        found = decoder_for(None)(array)
    except ValueError:
        return [array]
    return found if isinstance(found, list) else [found]


def _name(member: IntEnum | None) -> str | None:
    return member.name.lower() if member is not None else None


def _member(enum: type[E], name: str | None) -> E | None:
    return enum.__members__.get(name.upper()) if name else None


def _bounded(text: str, chars_max: int) -> str:
    text = _text(text)
    if len(text) <= chars_max:
        return text
    return f"{text[: chars_max // 2]}\n… {len(text) - chars_max} characters left out …\n{text[-chars_max // 2 :]}"


def _str(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - the exception is a user's
        return f"<its text raised {type(second).__name__}>"


def _text(text: str) -> str:
    # Lone surrogates can be in a message (file names), but not in UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()
