"""What is refused at the contract's door, and times as Postgres takes them. Pure.

What is let in here can be written; what only engine and contract share is checked by `wire.codec`.
"""

from __future__ import annotations

import datetime as dt
import math

from holdfast.exceptions import Invalid
from holdfast.wire import codec

TEXT_CHARS_MAX = 16 * 1024 * 1024
EPOCH_MAX = 253_402_300_800.0
EPOCH_MIN = -62_135_596_800.0


def check_address(namespace: str, workflow_id: str, run_id: str | None) -> None:
    """Names that Postgres can take; a run id is a UUID."""
    codec.check_text("namespace", namespace)
    codec.check_text("workflow id", workflow_id)
    if run_id is not None:
        codec.check_run_id(run_id)


def check_moment(field: str, epoch_s: object) -> None:
    """A time that has a date: a number of epoch seconds from year 1 to 9999."""
    # No isfinite: it fails for a whole number that no float can hold. NaN is in no range.
    if not (isinstance(epoch_s, int | float) and EPOCH_MIN <= epoch_s < EPOCH_MAX):
        raise Invalid(f"{field} is {_shortly(epoch_s)}: expected epoch seconds between the years 1 and 9999")


def check_moment_if_any(field: str, epoch_s: object) -> None:
    """The same, or None."""
    if epoch_s is not None:
        check_moment(field, epoch_s)


def check_seconds(field: str, seconds: object, most: float) -> None:
    """A duration in seconds, from 0 to *most*."""
    if not (isinstance(seconds, int | float) and 0 <= seconds <= most):
        raise Invalid(f"{field} is {_shortly(seconds)}: expected a number of seconds from 0 to {most:g}")


def _shortly(value: object) -> str:
    """A value as a message shows it: a number may have more digits than Python writes out."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a whole number of more than 64 bits"
    return repr(value)[:80]


def moment(epoch_s: float) -> dt.datetime:
    """The same moment as Postgres takes it, to the microsecond."""
    whole = math.floor(epoch_s)
    return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(
        seconds=whole, microseconds=round((epoch_s - whole) * 1_000_000)
    )


def check_json(field: str, text: object) -> None:
    """JSON text, kept as it is and never looked into; None passes. NUL, lone surrogates and endless text do not."""
    if isinstance(text, str) and len(text) > TEXT_CHARS_MAX:
        raise Invalid(f"{field} has {len(text):,} characters: expected at most {TEXT_CHARS_MAX:,}")
    check_unicode(field, text)


def check_unicode(field: str, text: object) -> None:
    """Text that Postgres can take: no NUL, no lone surrogate. None passes."""
    if text is None:
        return
    if not isinstance(text, str):
        raise Invalid(f"{field} is {_shortly(text)}: expected text")
    if "\x00" in text:
        raise Invalid(f"{field} holds a NUL character at position {text.index(chr(0))}: remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Invalid(
            f"{field} holds a lone surrogate at position {error.start}: it is not valid Unicode"
        ) from None


def can_be_stored(text: object) -> bool:
    """Whether Postgres could hold *text*: what it cannot hold is not there."""
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def check_given(field: str, value: object) -> None:
    """Anything but None."""
    if value is None:
        raise Invalid(f"{field} is None: expected a value")


def check_number(field: str, number: object, least: int, most: int) -> None:
    """A whole number in range."""
    if not (isinstance(number, int) and least <= number <= most):
        raise Invalid(f"{field} is {_shortly(number)}: expected a whole number from {least} to {most}")
