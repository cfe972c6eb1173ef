"""The bundle: one archived run as bytes, and back. Pure.

A frame is `HFBUNDLE`, a version byte, the size of the content (8 bytes, big-endian), the SHA-256 of the content, the
SHA-256 of everything else in the frame (the seal), and the content compressed with zlib. The content is one msgpack
map, `Bundle`. The seal is checked before anything is decompressed, the content's digest before anything is decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final, NoReturn

import msgspec

from holdfast.exceptions import Invalid
from holdfast.wire.records import (
    WorkflowActivity,
    WorkflowEvent,
    WorkflowRecord,
    WorkflowSignal,
    WorkflowSnapshot,
    WorkflowTimer,
)

VERSION: Final = 1
CONTENT_BYTES_MAX: Final = 1 << 30
"""What the content of a bundle may take up; larger ones are neither made nor, by default, opened."""

_MAGIC: Final = b"HFBUNDLE"
_HEAD: Final = struct.Struct(">8sBQ32s")
_SEAL_BYTES: Final = 32
FRAME_BYTES_MAX: Final = CONTENT_BYTES_MAX + (CONTENT_BYTES_MAX >> 10) + 4096
"""What the frame around such content can take up at most, content that does not compress included."""

_LEVEL: Final = 6
_PART_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 1024 * 1024


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the engine as Postgres has it. `recorded_at`: epoch seconds, exact to the microsecond until 2255."""

    seq: int
    recorded_at: float
    type: str
    body: bytes


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run owns. `history` is the engine's; the other lists are the rows of the store contract.

    `run` is the engine's own row: None, bool, 64-bit int, float, text, bytes, and lists and dicts (by text) of these.
    """

    version: int = VERSION
    record: WorkflowRecord
    run: dict[str, Any] | None = None
    events: list[WorkflowEvent] = []
    activities: list[WorkflowActivity] = []
    timers: list[WorkflowTimer] = []
    signals: list[WorkflowSignal] = []
    snapshots: list[WorkflowSnapshot] = []
    history: list[StoredEvent] = []


class _Head(msgspec.Struct, frozen=True):
    """What a frame says about its content."""

    size: int
    digest: bytes


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Bundle)


def pack(bundle: Bundle, *, size_max: int = CONTENT_BYTES_MAX) -> tuple[bytes, str]:
    """The frame of *bundle*, and the SHA-256 of its content in hex.

    The content of equal bundles is equal. Its frame is too, as long as zlib is the same build; compare digests, not frames.
    In memory beside the bundle: the content (in a buffer up to half as large again) and its compressed form, then the
    compressed form twice; at most three times the content in all. Takes seconds for a long history: not for the event
    loop's thread.
    Raises `Invalid` for more than *size_max* bytes of content and for values that have no encoding.
    """
    content = _encoded(bundle)
    size, digest = len(content), sha256(content)
    if size > size_max:
        raise Invalid(
            f"the bundle of run {bundle.record.run_id} has {size} bytes, expected at most {size_max}"
        )
    body = _deflated(content)
    del content
    head = _HEAD.pack(_MAGIC, VERSION, size, digest.digest())
    return b"".join((head, _seal(head, *body), *body)), digest.hexdigest()


def unpack(data: bytes | memoryview, *, size_max: int = CONTENT_BYTES_MAX) -> Bundle:
    """The bundle in the frame *data*, whose content may take up to *size_max* bytes.

    Raises `Invalid` for anything but an unaltered frame of a version we know. Nothing beyond *size_max* is ever
    decompressed, and nothing at all of a frame that was altered. In memory beside *data*: the content and the bundle.
    """
    head, body = _opened(data, size_max)
    content = bytearray()
    for piece in _inflated(body, head):
        content += piece
    try:
        bundle = _decoder.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError, ValueError) as error:
        _refuse(f"its content cannot be read ({error})")
    if bundle.version != VERSION:
        _refuse(f"its content has version {bundle.version}, this program reads version {VERSION}")
    return bundle


def check(data: bytes | memoryview, *, size_max: int = CONTENT_BYTES_MAX) -> str:
    """The digest that `pack` told for this frame, computed anew over its content; holds a few MiB of it at a time.

    Raises `Invalid` as `unpack` does, but does not decode the content.
    """
    head, body = _opened(data, size_max)
    for _ in _inflated(body, head):
        pass
    return head.digest.hex()


def digest_of(data: bytes | memoryview) -> str:
    """The digest that the frame *data* claims for its content. Proves nothing: `check` does. Raises `Invalid`."""
    return _read_head(memoryview(data)).digest.hex()


def _encoded(bundle: Bundle) -> bytes:
    try:
        return _encoder.encode(bundle)
    except (TypeError, UnicodeEncodeError, OverflowError, RecursionError, ValueError) as error:
        raise Invalid(f"the bundle of run {bundle.record.run_id} cannot be encoded: {error}") from None


def _deflated(content: bytes) -> list[bytes]:
    """The compressed content in pieces: zlib would put them together in a copy of its own."""
    deflater = zlib.compressobj(_LEVEL)
    view = memoryview(content)
    pieces = [
        deflater.compress(view[start : start + _PIECE_BYTES]) for start in range(0, len(view), _PIECE_BYTES)
    ]
    return [*pieces, deflater.flush()]


def _seal(head: bytes | memoryview, *body: bytes | memoryview) -> bytes:
    seal = sha256(head)
    for piece in body:
        seal.update(piece)
    return seal.digest()


def _read_head(view: memoryview) -> _Head:
    if view[: len(_MAGIC)] != _MAGIC[: len(view)]:
        _refuse(f"it begins with {bytes(view[: len(_MAGIC)])!r}, expected {_MAGIC!r}")
    if len(view) <= _HEAD.size + _SEAL_BYTES:
        _refuse(f"it ends after {len(view)} bytes: it was cut off")
    _, version, size, digest = _HEAD.unpack_from(view)
    if version != VERSION:
        _refuse(f"it has version {version}, this program reads version {VERSION}")
    return _Head(size, digest)


def _opened(data: bytes | memoryview, size_max: int) -> tuple[_Head, memoryview]:
    """What the frame says, and its compressed content, both as they were sealed."""
    view = memoryview(data)
    head = _read_head(view)
    if head.size > size_max:
        _refuse(f"its content has {head.size} bytes, expected at most {size_max}")
    start = _HEAD.size + _SEAL_BYTES
    if view[_HEAD.size : start] != _seal(view[: _HEAD.size], view[start:]):
        _refuse("its seal does not fit: it was altered or cut off")
    return head, view[start:]


def _inflated(body: memoryview, head: _Head) -> Iterator[bytes]:
    """The content piece by piece. Raises `Invalid` as soon as there is too much of it, or at the end if it is another."""
    inflater, digest, size = zlib.decompressobj(), sha256(), 0
    for start in range(0, len(body), _PART_BYTES):
        # Small parts, because zlib copies what it has not consumed.
        pending: bytes | memoryview = body[start : start + _PART_BYTES]
        while pending and not inflater.eof:
            try:
                piece = inflater.decompress(pending, _PIECE_BYTES)
            except zlib.error as error:
                _refuse(f"it cannot be decompressed ({error})")
            size += len(piece)
            if size > head.size:
                _refuse(f"its content has more than the {head.size} bytes it claims")
            digest.update(piece)
            yield piece
            pending = inflater.unconsumed_tail
        if inflater.unused_data or (inflater.eof and start + _PART_BYTES < len(body)):
            _refuse("something follows its content")
    if not inflater.eof or size != head.size or digest.digest() != head.digest:
        _refuse("its content is not what its digest says")


def _refuse(fault: str) -> NoReturn:
    raise Invalid(f"not a bundle that can be opened: {fault}") from None
