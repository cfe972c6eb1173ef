"""What may become of a run that was written through the store contract, and of its search attributes. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec

from holdfast.exceptions import Invalid, Refused
from holdfast.wire.records import TERMINAL_STATUSES, WORKFLOW_STATUSES

SNAPSHOTS_KEPT: Final = 3
"""How many snapshots a run keeps: the newest ones."""

ATTRIBUTES_CHARS_MAX: Final = 1024 * 1024
"""How long search attributes may be, both as given and after merging."""

DEPTH_MAX: Final = 100
NUMBER_CHARS_MAX: Final = 1000


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is: its status, with what it gave or why it failed."""

    status: str
    result: str | None = None
    error: str | None = None


def is_terminal(status: str) -> bool:
    """Whether a run in this status is closed for good."""
    return status in TERMINAL_STATUSES


def check_status(status: str) -> None:
    """One of the statuses of a workflow, in capitals."""
    if status not in WORKFLOW_STATUSES:
        raise Invalid(
            f"status is {status!r:.100}: expected one of {', '.join(WORKFLOW_STATUSES)}, in capitals"
        )


def settle(workflow: str, found: Outcome, wanted: Outcome) -> Outcome | None:
    """How far the run is once it got the status that is *wanted*; None if nothing changes.

    Where *wanted* has no result or error, those found stay. Terminal is final: the same status again changes
    nothing, whatever comes with it, and another one raises `Refused`. *workflow* names the run in that case.
    """
    if is_terminal(found.status):
        if found.status == wanted.status:
            return None
        raise Refused(
            f"{workflow} is {found.status} and cannot become {wanted.status}: a terminal status is final"
        )
    after = Outcome(
        status=wanted.status,
        result=found.result if wanted.result is None else wanted.result,
        error=found.error if wanted.error is None else wanted.error,
    )
    return None if after == found else after


def json_object(field: str, text: object) -> dict[str, Any]:
    """The JSON object in *text*; of a key that is there twice, the last value.

    Raises `Invalid` for anything else, and for what not every reader of JSON, or not Postgres, could take: NUL
    characters and lone surrogates (also as escapes), numbers that a double cannot hold, NaN, more than 100 levels,
    text of more than 1,048,576 characters.
    """
    if not isinstance(text, str):
        _refuse(field, f"it is of type {type(text).__name__}, expected the text of a JSON object")
    if len(text) > ATTRIBUTES_CHARS_MAX:
        raise Invalid(f"{field} has {len(text):,} characters: expected at most {ATTRIBUTES_CHARS_MAX:,}")
    try:
        value = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_no_constant)
    except RecursionError:
        _refuse(field, f"it is nested too deep, expected at most {DEPTH_MAX} levels")
    except ValueError as error:
        _refuse(field, f"it is not JSON ({error})")
    if not isinstance(value, dict):
        _refuse(field, f"it is {text[:80]!r}, expected a JSON object")
    _check(field, value)
    return value


def removed_keys(patch: Mapping[str, Any]) -> list[str]:
    """The keys that a patch of search attributes removes: those it has null for, at its first level."""
    return [key for key, value in patch.items() if value is None]


def _number(text: str) -> float:
    if len(text) > NUMBER_CHARS_MAX:
        raise ValueError(f"a number of {len(text)} characters, expected at most {NUMBER_CHARS_MAX}")
    number = float(text)
    is_lost = number == 0 and any(digit in "123456789" for digit in text.lower().partition("e")[0])
    if is_lost or not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is beyond what a double can hold")
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _check(field: str, whole: object) -> None:
    """Every text in *whole* is one that Postgres can take, and no value lies too deep."""
    level, depth = [whole], 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            _refuse(field, f"it is nested too deep, expected at most {DEPTH_MAX} levels")
        below: list[object] = []
        for value in level:
            match value:
                case str():
                    _check_text(field, value)
                case dict():
                    below.extend(value.keys())
                    below.extend(value.values())
                case list():
                    below.extend(value)
        level = below


def _check_text(field: str, text: str) -> None:
    if "\x00" in text:
        _refuse(field, f"the text {text[:40]!r} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(field, f"the text {text[:40]!r} holds a lone surrogate")


def _refuse(field: str, fault: str) -> NoReturn:
    raise Invalid(f"{field} cannot be taken: {fault}") from None
