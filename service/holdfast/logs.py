"""How the processes log: one line per event, JSON for machines, readable on a terminal.

Every record carries the run and request ids that are bound around it, or that it was given
with `extra=`. No payloads and no passwords: callers do not log payloads, and whatever looks
like a URL with credentials loses them here. A record is always one line that cannot move a
terminal's cursor, whatever is in it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO, Any

from holdfast.config import redacted

_bound: ContextVar[dict[str, Any]] = ContextVar("holdfast_log_fields")

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""Attributes that every record has; anything else came with `extra=`."""

# C0, C1, the line and paragraph separators, bidirectional controls, and surrogates (no UTF-8 takes them).
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_QUIET = ("uvicorn.access", "asyncio")
"""Loggers that say nothing below warnings: they tell of single connections and requests."""


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Add *fields* (`run_id=…`, `request_id=…`) to every record logged inside, by tasks started there too."""
    token = _bound.set({**_bound.get({}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def configure(level: str = "info", fmt: str = "auto", *, stream: IO[str] | None = None) -> None:
    """Send all logs of this process to *stream* (standard error), replacing what was set up before.

    *fmt* is "json", "text", or "auto": text on a terminal, JSON elsewhere.
    """
    stream = stream or sys.stderr
    is_text = fmt == "text" or (fmt == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def escaped(text: str) -> str:
    """*text* as one harmless line: control characters and lone surrogates become escapes."""
    return _CONTROL.sub(lambda match: _escape(match[0]), text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time level logger message`, the fields, and `error` with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        line = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = redacted(self.formatException(record.exc_info))
        # Non-ASCII leaves as escapes: no separator, control or surrogate can break a reader of lines.
        return json.dumps(line, default=str, ensure_ascii=True)


class TextFormatter(logging.Formatter):
    """`12:00:00.123 INFO  holdfast.engine message  run_id=…`, tracebacks below it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        clock = _timestamp(record)[11:23]
        fields = "".join(f"  {name}={value}" for name, value in _fields(record).items())
        head = f"{clock} {record.levelname:<7} {record.name} {redacted(record.getMessage())}{fields}"
        if not record.exc_info:
            return escaped(head)
        trace = redacted(self.formatException(record.exc_info))
        return "\n".join((escaped(head), *(f"  {escaped(line)}" for line in trace.splitlines())))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is bound around the record, then what it was given itself (which wins), URLs without passwords."""
    own = {name: value for name, value in vars(record).items() if name not in _OWN}
    return {
        name: redacted(value) if isinstance(value, str) else value
        for name, value in {**_bound.get({}), **own}.items()
    }


def _timestamp(record: logging.LogRecord) -> str:
    """The record's moment in UTC, to the millisecond, as RFC 3339."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escape(char: str) -> str:
    code = ord(char)
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    return named or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
