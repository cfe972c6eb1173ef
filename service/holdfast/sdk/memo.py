"""Memos as they travel: JSON object text, each value a payload. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.wire import payloads

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def encoded(converter: Any, memo: Mapping[str, Any] | None, *, may_remove: bool = False) -> bytes:
    """JSON object text of *memo*, empty for none. With *may_remove*, None stands for a key that goes."""
    if not memo:
        return b""
    return msgspec.json.encode(
        {
            name: None if value is None and may_remove else msgspec.Raw(converter.encode_value(value))
            for name, value in memo.items()
        }
    )


def decoded(converter: Any, text: bytes, hints: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values in JSON object text."""
    hints = hints or {}
    return {name: converter.decode_value(raw, hints.get(name)) for name, raw in split(text).items()}


def split(text: bytes) -> dict[str, bytes]:
    """The payloads of a memo, still JSON text."""
    return {name: bytes(raw) for name, raw in _decode(text).items()} if text else {}


def merged(text: bytes, patch: bytes) -> bytes:
    """A memo after a change: null removes a key."""
    found = {**split(text), **split(patch)}
    return joined({name: value for name, value in found.items() if value != b"null"})


def joined(values: Mapping[str, bytes]) -> bytes:
    """What `split` took apart."""
    return (
        msgspec.json.encode({name: msgspec.Raw(value) for name, value in values.items()}) if values else b""
    )


async def changed(text: bytes, change: Any) -> bytes:
    """The memo with *change*, which takes an array of payloads, applied to its values; null is no payload."""
    found = split(text)
    names = [name for name, value in found.items() if value != b"null"]
    if not names:
        return text
    values = payloads.split(await change(payloads.join([found[name] for name in names])))
    return joined({**found, **dict(zip(names, values, strict=True))})
