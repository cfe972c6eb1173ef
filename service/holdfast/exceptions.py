"""Every error a user of Holdfast can meet, and nothing else.

Two families. *Service errors* (`HoldfastError` and below) say what became of a call; each has a stable
`code` that crosses the wire. *Failures* (`FailureError` and below) say how an activity or a workflow ended;
they are recorded in histories and come back with their causes. This module imports nothing of ours, because
everything else may import it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import IntEnum
from typing import Any, ClassVar


class HoldfastError(Exception):
    """Root of the service errors. `details` holds the facts of the message as strings, for programs."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, str] = dict(details) if details else {}

    @property
    def cause(self) -> BaseException | None:
        """The same as `__cause__`."""
        return self.__cause__


class Invalid(HoldfastError):
    """The request can never be accepted as it is: malformed, too large, or against a stated limit."""

    code = "invalid"


class NotFound(HoldfastError):
    """The thing the request names does not exist in this namespace."""

    code = "not_found"


class AlreadyExists(HoldfastError):
    """The request would create something that is already there."""

    code = "already_exists"


class Refused(HoldfastError):
    """The request is well formed, but the state of the thing it names forbids it. Nothing was written."""

    code = "refused"


class LeaseLost(Refused):
    """A report came under a fence that is no longer in force. Nothing was written."""

    code = "lease_lost"


class Unavailable(HoldfastError):
    """No answer could be had; nothing is known to be written. Trying again later is right."""

    code = "unavailable"


class OutcomeUnknown(Unavailable):
    """The call may or may not have happened. Repeat it with the same request id to learn which."""

    code = "outcome_unknown"


class DeadlineExceeded(Unavailable):
    """The caller's time ran out before an answer came."""

    code = "deadline_exceeded"


class PermissionDenied(HoldfastError):
    """The caller may not do this."""

    code = "permission_denied"


class Internal(HoldfastError):
    """The service failed on this very request: a bug of ours, told in its log. The same request will fail again."""

    code = "internal"


class RPCStatusCode(IntEnum):
    """How a client call ended, in the numbering that gRPC made common."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


STATUS_OF_CODE: dict[str, RPCStatusCode] = {
    Invalid.code: RPCStatusCode.INVALID_ARGUMENT,
    NotFound.code: RPCStatusCode.NOT_FOUND,
    AlreadyExists.code: RPCStatusCode.ALREADY_EXISTS,
    Refused.code: RPCStatusCode.FAILED_PRECONDITION,
    LeaseLost.code: RPCStatusCode.ABORTED,
    Unavailable.code: RPCStatusCode.UNAVAILABLE,
    OutcomeUnknown.code: RPCStatusCode.UNKNOWN,
    DeadlineExceeded.code: RPCStatusCode.DEADLINE_EXCEEDED,
    PermissionDenied.code: RPCStatusCode.PERMISSION_DENIED,
    Internal.code: RPCStatusCode.INTERNAL,
}
"""The status a client call raises for each service error."""


_ERROR_OF_CODE: dict[str, type[HoldfastError]] = {
    error.code: error
    for error in (
        Invalid,
        NotFound,
        AlreadyExists,
        Refused,
        LeaseLost,
        Unavailable,
        OutcomeUnknown,
        DeadlineExceeded,
        PermissionDenied,
        Internal,
    )
}


def error_of_code(code: str, message: str, details: Mapping[str, str] | None = None) -> HoldfastError:
    """The service error that crossed the wire as *code*; a code nobody knows is the root's."""
    return _ERROR_OF_CODE.get(code, HoldfastError)(message, details=details)


class RPCError(HoldfastError):
    """A client call that did not succeed; `status` says how, the message why."""

    def __init__(
        self,
        message: str,
        status: RPCStatusCode,
        raw_grpc_status: bytes = b"",
        *,
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self._status = status
        self._raw_grpc_status = raw_grpc_status

    @property
    def status(self) -> RPCStatusCode:
        """How the call ended."""
        return self._status

    @property
    def raw_grpc_status(self) -> bytes:
        """Always empty: Holdfast does not speak gRPC. Kept so that ported code reads."""
        return self._raw_grpc_status


class FailureError(Exception):
    """Root of the failures of workflows and activities."""

    def __init__(
        self, message: str, *, failure: Any | None = None, exc_args: tuple[Any, ...] | None = None
    ) -> None:
        super().__init__(*((message,) if exc_args is None else exc_args))
        self._message = message
        self._failure = failure

    @property
    def message(self) -> str:
        """What went wrong, without the type that `str()` may put in front."""
        return self._message

    @property
    def failure(self) -> Any | None:
        """The recorded form this error was decoded from, or None if it was raised here."""
        return self._failure

    @property
    def cause(self) -> BaseException | None:
        """The same as `__cause__`."""
        return self.__cause__


class WorkflowAlreadyStartedError(FailureError):
    """A workflow with this id is open, or its last run forbids another one."""

    def __init__(
        self,
        workflow_id: str,
        workflow_type: str,
        *,
        run_id: str | None = None,
        first_run_id: str | None = None,
    ) -> None:
        super().__init__("Workflow execution already started")
        self.workflow_id = workflow_id
        self.workflow_type = workflow_type
        self.run_id = run_id
        self.first_run_id = first_run_id


class ApplicationErrorCategory(IntEnum):
    """How loudly a failure is reported. BENIGN ones are logged at DEBUG and not counted."""

    UNSPECIFIED = 0
    BENIGN = 1


class ApplicationError(FailureError):
    """An error of the application: raised by users, or made from any other exception their code raised."""

    def __init__(
        self,
        message: str,
        *details: Any,
        type: str | None = None,
        non_retryable: bool = False,
        next_retry_delay: timedelta | None = None,
        category: ApplicationErrorCategory = ApplicationErrorCategory.UNSPECIFIED,
    ) -> None:
        super().__init__(message, exc_args=(message if not type else f"{type}: {message}",))
        self._details = details
        self._type = type
        self._non_retryable = non_retryable
        self._next_retry_delay = next_retry_delay
        self._category = category

    @property
    def details(self) -> Sequence[Any]:
        """The values the raiser attached."""
        return self._details

    @property
    def type(self) -> str | None:
        """The name that retry policies match; for other exceptions, their class name."""
        return self._type

    @property
    def non_retryable(self) -> bool:
        """Whether the raiser forbade a retry. A retry policy may forbid it too; that is not told here."""
        return self._non_retryable

    @property
    def next_retry_delay(self) -> timedelta | None:
        """The wait before the next attempt, in place of the policy's backoff."""
        return self._next_retry_delay

    @property
    def category(self) -> ApplicationErrorCategory:
        """How loudly this failure is reported."""
        return self._category


class CancelledError(FailureError):
    """An activity or a workflow ended because it was asked to."""

    def __init__(self, message: str = "Cancelled", *details: Any) -> None:
        super().__init__(message)
        self._details = details

    @property
    def details(self) -> Sequence[Any]:
        """The values the raiser attached."""
        return self._details


class TerminatedError(FailureError):
    """A workflow was ended from outside without being asked."""

    def __init__(self, message: str, *details: Any) -> None:
        super().__init__(message)
        self._details = details

    @property
    def details(self) -> Sequence[Any]:
        """The values the terminator attached."""
        return self._details


class TimeoutType(IntEnum):
    """Which timeout ran out."""

    START_TO_CLOSE = 1
    SCHEDULE_TO_START = 2
    SCHEDULE_TO_CLOSE = 3
    HEARTBEAT = 4


class TimeoutError(FailureError):
    """An activity or a workflow ran out of time."""

    def __init__(
        self, message: str, *, type: TimeoutType | None, last_heartbeat_details: Sequence[Any]
    ) -> None:
        super().__init__(message)
        self._type = type
        self._last_heartbeat_details = last_heartbeat_details

    @property
    def type(self) -> TimeoutType | None:
        """Which timeout; None for a workflow's."""
        return self._type

    @property
    def last_heartbeat_details(self) -> Sequence[Any]:
        """What the activity last reported before it ran out."""
        return self._last_heartbeat_details


class ServerError(FailureError):
    """A failure that the service itself decided."""

    def __init__(self, message: str, *, non_retryable: bool = False) -> None:
        super().__init__(message)
        self._non_retryable = non_retryable

    @property
    def non_retryable(self) -> bool:
        """Whether trying again is pointless."""
        return self._non_retryable


class RetryState(IntEnum):
    """Why there was no further attempt."""

    IN_PROGRESS = 1
    NON_RETRYABLE_FAILURE = 2
    TIMEOUT = 3
    MAXIMUM_ATTEMPTS_REACHED = 4
    RETRY_POLICY_NOT_SET = 5
    INTERNAL_SERVER_ERROR = 6
    CANCEL_REQUESTED = 7


class ActivityError(FailureError):
    """An activity ended without a result; its `cause` says why."""

    def __init__(
        self,
        message: str,
        *,
        scheduled_event_id: int,
        started_event_id: int,
        identity: str,
        activity_type: str,
        activity_id: str,
        retry_state: RetryState | None,
    ) -> None:
        super().__init__(message)
        self._scheduled_event_id = scheduled_event_id
        self._started_event_id = started_event_id
        self._identity = identity
        self._activity_type = activity_type
        self._activity_id = activity_id
        self._retry_state = retry_state

    @property
    def scheduled_event_id(self) -> int:
        """Number of the `ActivityScheduled` event."""
        return self._scheduled_event_id

    @property
    def started_event_id(self) -> int:
        """Always 0: starts of attempts are not part of a history."""
        return self._started_event_id

    @property
    def identity(self) -> str:
        """The worker of the last attempt, empty if none started."""
        return self._identity

    @property
    def activity_type(self) -> str:
        """The activity's name."""
        return self._activity_type

    @property
    def activity_id(self) -> str:
        """The activity's id within its run."""
        return self._activity_id

    @property
    def retry_state(self) -> RetryState | None:
        """Why there was no further attempt."""
        return self._retry_state


class ChildWorkflowError(FailureError):
    """A child workflow ended without a result; its `cause` says why."""

    def __init__(
        self,
        message: str,
        *,
        namespace: str,
        workflow_id: str,
        run_id: str,
        workflow_type: str,
        initiated_event_id: int,
        started_event_id: int,
        retry_state: RetryState | None,
    ) -> None:
        super().__init__(message)
        self._namespace = namespace
        self._workflow_id = workflow_id
        self._run_id = run_id
        self._workflow_type = workflow_type
        self._initiated_event_id = initiated_event_id
        self._started_event_id = started_event_id
        self._retry_state = retry_state

    @property
    def namespace(self) -> str:
        """The child's namespace."""
        return self._namespace

    @property
    def workflow_id(self) -> str:
        """The child's workflow id."""
        return self._workflow_id

    @property
    def run_id(self) -> str:
        """The child's run id, empty if it never started."""
        return self._run_id

    @property
    def workflow_type(self) -> str:
        """The child's workflow type."""
        return self._workflow_type

    @property
    def initiated_event_id(self) -> int:
        """Number of the event that asked for the child."""
        return self._initiated_event_id

    @property
    def started_event_id(self) -> int:
        """Number of the `ChildWorkflowStarted` event, 0 if it never started."""
        return self._started_event_id

    @property
    def retry_state(self) -> RetryState | None:
        """Why there was no further attempt."""
        return self._retry_state


def is_cancelled_exception(exception: BaseException) -> bool:
    """Whether *exception* means "cancelled": asyncio's or our own, or an activity's or child's caused by it."""
    if isinstance(exception, asyncio.CancelledError | CancelledError):
        return True
    return isinstance(exception, ActivityError | ChildWorkflowError) and isinstance(
        exception.cause, CancelledError
    )
