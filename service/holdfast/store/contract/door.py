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


def check_moment(field: str, epoch_s: float | None) -> None:
    """A time that has a date: finite, from year 1 to 9999. None passes."""
    if epoch_s is None:
        return
    if not (math.isfinite(epoch_s) and EPOCH_MIN <= epoch_s < EPOCH_MAX):
        raise Invalid(f"{field} is {epoch_s}: expected epoch seconds between the years 1 and 9999")


def moment(epoch_s: float) -> dt.datetime:
    """The same moment as Postgres takes it, to the microsecond."""
    whole = math.floor(epoch_s)
    return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(
        seconds=whole, microseconds=round((epoch_s - whole) * 1_000_000)
    )


def check_json(field: str, text: str | None) -> None:
    """JSON text, kept as it is and never looked into; None passes. NUL, lone surrogates and endless text do not."""
    if text is None:
        return
    if len(text) > TEXT_CHARS_MAX:
        raise Invalid(f"{field} has {len(text):,} characters: expected at most {TEXT_CHARS_MAX:,}")
    check_unicode(field, text)


def check_unicode(field: str, text: str | None) -> None:
    """Text that Postgres can take: no NUL, no lone surrogate. None passes."""
    if text is None:
        return
    if "\x00" in text:
        raise Invalid(f"{field} holds a NUL character at position {text.index(chr(0))}: remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Invalid(
            f"{field} holds a lone surrogate at position {error.start}: it is not valid Unicode"
        ) from None


def can_be_stored(text: str) -> bool:
    """Whether Postgres could hold *text*: what it cannot hold is not there."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def check_number(field: str, number: int, least: int, most: int) -> None:
    """A whole number in range."""
    if not least <= number <= most:
        raise Invalid(f"{field} is {number!r}: expected a whole number from {least} to {most}")
