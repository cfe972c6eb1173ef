"""How the command line ends: one exit code per kind of outcome, one next command to try per error.

Prints nothing itself.
"""

from __future__ import annotations

import click
import msgspec

from holdfast.config import redacted
from holdfast.exceptions import (
    DeadlineExceeded,
    HoldfastError,
    Invalid,
    NotFound,
    RPCError,
    RPCStatusCode,
    Unavailable,
)
from holdfast.logs import escaped

OK = 0
FAILED = 1
"""The workflow failed, or the state of things forbade the call."""
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
TIMED_OUT = 5


class Told(msgspec.Struct, frozen=True):
    """An error as the user sees it."""

    text: str
    code: int


class Stopped(Exception):
    """Ends a command with a sentence, an exit code and the next command to try."""

    def __init__(self, message: str, code: int, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint


HINTS = {
    FAILED: "holdfast workflow list",
    USAGE: "holdfast --help",
    NOT_FOUND: "holdfast workflow list",
    UNREACHABLE: "holdfast dev",
    TIMED_OUT: "holdfast workflow list --status RUNNING",
}
"""The next command to try where the command itself knows no better one."""

HINTS_OF_CODES = {"dev_stack": "holdfast dev --help"}
"""The same for errors with these codes, whatever the exit code."""

STATUS_CODES = {
    RPCStatusCode.NOT_FOUND: NOT_FOUND,
    RPCStatusCode.UNAVAILABLE: UNREACHABLE,
    RPCStatusCode.UNKNOWN: UNREACHABLE,
    RPCStatusCode.DEADLINE_EXCEEDED: TIMED_OUT,
    RPCStatusCode.INVALID_ARGUMENT: USAGE,
}


def told(error: Exception) -> Told | None:
    """*error* as a sentence, the next command to try, and the exit code; None if it is a bug of ours."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        # What one of several loops that run side by side raised.
        error = error.exceptions[0]
    if isinstance(error, click.ClickException):
        return Told(_usage_text(error), USAGE)
    if isinstance(error, Stopped):
        return Told(_text(error.message, error.hint), error.code)
    code = exit_code(error)
    if code is None:
        return None
    hint = HINTS_OF_CODES.get(getattr(error, "code", ""), HINTS[code])
    return Told(_text(str(error), hint), code)


def exit_code(error: BaseException) -> int | None:
    """The exit code for an error of the service or the client, None for any other."""
    match error:
        case RPCError():
            return STATUS_CODES.get(error.status, FAILED)
        case DeadlineExceeded():
            return TIMED_OUT
        case Unavailable():
            return UNREACHABLE
        case NotFound():
            return NOT_FOUND
        case Invalid():
            return USAGE
        case HoldfastError():
            return FAILED
        case _:
            return None


def _text(message: str, hint: str) -> str:
    lines = "\n".join(map(escaped, redacted(message).splitlines())) or "no reason given"
    return f"Error: {lines}\nTry: {escaped(hint)}"


def _usage_text(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "holdfast"
    return _text(error.format_message(), f"{command} --help")
