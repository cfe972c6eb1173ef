"""Payloads as they travel and rest: JSON text, joined into JSON arrays. Pure.

A payload is data plus metadata (its `encoding` above all). Nearly all are `json/plain`;
such a payload is its own JSON text, so that history is readable in the database, over
HTTP and on the command line. Any other payload, and a JSON object that could be mistaken
for one, becomes `{"$payload": {"metadata": {name: base64}, "data": base64}}`. The mapping
is injective: what was joined is what splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from holdfast.exceptions import Invalid

JSON_PLAIN = b"json/plain"
EMPTY = b"[]"
_PLAIN_METADATA: Mapping[str, bytes] = {"encoding": JSON_PLAIN}


class Payload(msgspec.Struct, frozen=True):
    """One converted value. `metadata["encoding"]` names the form of `data`."""

    metadata: Mapping[str, bytes]
    data: bytes


class _Wrapped(msgspec.Struct):
    metadata: dict[str, bytes] = {}
    data: bytes = b""


class _Envelope(msgspec.Struct):
    payload: _Wrapped | None = msgspec.field(default=None, name="$payload")


_encode = msgspec.json.Encoder().encode
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_envelope = msgspec.json.Decoder(_Envelope)


def plain(json_text: bytes) -> Payload:
    """A `json/plain` payload of this JSON text."""
    return Payload(_PLAIN_METADATA, json_text)


def to_text(payload: Payload) -> bytes:
    """JSON text of one payload. Raises `Invalid` if a json/plain payload's data is not JSON."""
    data = payload.data
    if payload.metadata is _PLAIN_METADATA or payload.metadata == _PLAIN_METADATA:
        if not _looks_wrapped(data):
            return data
        _check_json(data)
    return _encode(_Envelope(_Wrapped(dict(payload.metadata), data)))


def from_text(text: bytes) -> Payload:
    """The payload that `to_text` made this JSON text of."""
    if _looks_wrapped(text):
        try:
            wrapped = _envelope.decode(text).payload
        except (msgspec.DecodeError, RecursionError):
            wrapped = None
        if wrapped is not None:
            return Payload(wrapped.metadata, wrapped.data)
    return Payload(_PLAIN_METADATA, text)


def join(texts: Sequence[bytes]) -> bytes:
    """JSON array text of these payload texts."""
    return b"[" + b",".join(texts) + b"]" if texts else EMPTY


def split(array: bytes) -> list[bytes]:
    """The payload texts of a JSON array text. Raises `Invalid` if it is not one."""
    if array == EMPTY or not array:
        return []
    try:
        return [bytes(raw) for raw in _raw_list.decode(array)]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Invalid(
            f"payload of {len(array)} bytes is not a JSON array ({error}): send one array element per argument"
        ) from None


def _looks_wrapped(text: bytes) -> bool:
    # Only an object can be an envelope; an escaped spelling of the key starts with a backslash.
    return text[:1] in (b"{", b" ", b"\n", b"\t", b"\r") and (b"$payload" in text or b"\\u" in text)


def _check_json(data: bytes) -> None:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Invalid(f"a json/plain payload of {len(data)} bytes is not JSON: {error}") from None
