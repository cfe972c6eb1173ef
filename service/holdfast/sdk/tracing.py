"""Where in the user's code a command was asked for, for error messages only.

Looking at frames costs more than a command does, so runs do it only when they are
replayed a second time to explain a nondeterminism error.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

_NOT_THE_USERS = (
    f"{Path(__file__).resolve().parents[1]}{os.sep}",
    f"{Path(asyncio.__file__).parent}{os.sep}",
    "<frozen",
)


class Trace:
    """The source line of each command of the turn in progress."""

    def __init__(self) -> None:
        self._lines: dict[int, tuple[object, str | None]] = {}

    def note(self, command: object) -> None:
        """Remember who is asking for *command* right now."""
        # The command is kept, so that its id stays its own.
        self._lines[id(command)] = command, _users(sys._getframe(1))

    def line_of(self, command: object) -> str | None:
        """`file:line in function` of *command*, None if it was not asked for by a line of user code."""
        return self._lines.get(id(command), (None, None))[1]


def waits_at(task: asyncio.Task[Any] | None) -> str | None:
    """The innermost line of user code in which *task* is suspended; None if it is done."""
    awaited: Any = task.get_coro() if task is not None else None
    found = None
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        found = _line(frame) or found
        awaited = awaited.cr_await
    return found


def _users(frame: FrameType | None) -> str | None:
    while frame is not None:
        if line := _line(frame):
            return line
        frame = frame.f_back
    return None


def _line(frame: FrameType) -> str | None:
    code = frame.f_code
    if code.co_filename.startswith(_NOT_THE_USERS):
        return None
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
