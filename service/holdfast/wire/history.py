"""History as JSON: rows of `event_id`, `event_type`, `event_time`, `attributes`. Pure.

Payload fields hold JSON text already, so they are shown as that text, not as base64.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from holdfast.exceptions import Invalid
from holdfast.wire import events
from holdfast.wire.failures import Failure

_TYPES: dict[str, type[events.Event]] = {kind.__name__: kind for kind in events.Event.__subclasses__()}


def to_rows(history: Iterable[events.HistoryEvent]) -> list[dict[str, Any]]:
    """JSON-able rows of these events."""
    return [
        {
            "event_id": item.seq,
            "event_type": type(item.event).__name__,
            "event_time": item.time,
            "attributes": _attributes(item.event),
        }
        for item in history
    ]


def from_rows(rows: Iterable[dict[str, Any]]) -> list[events.HistoryEvent]:
    """The events that `to_rows` told. Raises `Invalid`, naming the row, for anything else."""
    found = []
    for index, row in enumerate(rows):
        try:
            kind = _TYPES[row["event_type"]]
            event = _build(kind, row["attributes"])
            found.append(events.HistoryEvent(int(row["event_id"]), float(row["event_time"]), event))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise Invalid(
                f"row {index} is not a history event ({type(error).__name__}: {error}): "
                "expected event_id, event_type, event_time and attributes"
            ) from None
    return found


def _attributes(event: events.Event) -> dict[str, Any]:
    fields: dict[str, Any] = _readable(msgspec.to_builtins(event, builtin_types=(bytes,)))
    del fields["type"]  # told as `event_type`
    return fields


def _readable(value: Any) -> Any:
    match value:
        case bytes():
            return value.decode()
        case dict():
            return {key: _readable(item) for key, item in value.items()}
        case list() | tuple():
            return [_readable(item) for item in value]
        case _:
            return value


def _build(kind: type[events.Event], attributes: dict[str, Any]) -> Any:
    return msgspec.convert({"type": kind.__name__, **_with_bytes(kind, attributes)}, kind)


def _with_bytes(kind: type[msgspec.Struct], attributes: dict[str, Any]) -> dict[str, Any]:
    ready = dict(attributes)
    for field in msgspec.structs.fields(kind):
        value = ready.get(field.encode_name)
        if value is None:
            continue
        if field.type is bytes and isinstance(value, str):
            ready[field.encode_name] = value.encode()
        elif isinstance(value, dict) and field.encode_name in ("failure", "cause"):
            ready[field.encode_name] = _with_bytes(Failure, value)
    return ready
