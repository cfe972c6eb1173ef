"""Search attributes and memo as they change with a run. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from holdfast.core import records
from holdfast.core import state as s
from holdfast.exceptions import Invalid
from holdfast.wire import commands as c
from holdfast.wire import messages as m

TYPES: Final = ("Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList")
"""What `search_types` may say."""

ATTRIBUTES_MAX: Final = 200


def check_start(start: m.Start) -> None:
    """Raises `Invalid` if the search attributes or the memo of a start cannot be kept."""
    _check(start.search_attributes, start.search_types)
    if start.memo:
        records.json_object("memo", start.memo.decode())


def check_command(command: c.UpsertSearchAttributes | c.UpsertMemo) -> None:
    """As `check_start`, of a command."""
    if isinstance(command, c.UpsertMemo):
        records.json_object("memo", command.memo.decode())
    else:
        _check(command.search_attributes, command.search_types)


def note(state: s.RunState, search_attributes: bytes, memo: bytes) -> None:
    """Add what an event says to what is to be written of the run's attributes and memo."""
    if search_attributes:
        state.search_patch |= msgspec.json.decode(search_attributes)
    if memo:
        state.memo_patch |= msgspec.json.decode(memo)


def _check(text: bytes, types: dict[str, str]) -> None:
    if not text:
        return
    found = records.json_object("search_attributes", text.decode())
    if len(found) > ATTRIBUTES_MAX:
        raise Invalid(f"{len(found)} search attributes: expected at most {ATTRIBUTES_MAX}")
    for name, value in found.items():
        if not _is_attribute(value):
            raise Invalid(
                f"search attribute {name!r} is {str(value)[:80]!r}: expected text, a number, true, false or a list of texts"
            )
    for name, kind in types.items():
        if kind not in TYPES:
            raise Invalid(f"search attribute {name!r} has type {kind!r}: expected one of {', '.join(TYPES)}")


def _is_attribute(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(part, str) for part in value)
    return value is None or isinstance(value, str | int | float)
