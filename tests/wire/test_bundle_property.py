"""Every bundle comes back the same, byte for byte; every change is seen; any bytes are a bundle or `Invalid`."""

from __future__ import annotations

import contextlib
import struct
import zlib
from hashlib import sha256
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.exceptions import Invalid
from holdfast.wire import bundle
from holdfast.wire.bundle import Bundle, StoredEvent

BRIEF = settings(max_examples=60, deadline=None)

NUMBERS = st.integers(-(2**63), 2**63 - 1)
# Instants as Postgres keeps them, and any other float.
TIMES = st.integers(0, 2**53).map(lambda micros: micros / 1e6) | st.floats(allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TIMES | TEXTS | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    str | None: st.none() | st.just("") | TEXTS,
    int: NUMBERS,
    int | None: st.none() | NUMBERS,
    float: TIMES,
    float | None: st.none() | TIMES,
    bool: st.booleans(),
    bytes: st.binary(max_size=200),
}


def rows(kind: type) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: BY_TYPE[hint] for name, hint in get_type_hints(kind).items()})


def bundles() -> st.SearchStrategy[Bundle]:
    hints = get_type_hints(Bundle)
    lists = {
        name: hint.__args__[0] for name, hint in hints.items() if getattr(hint, "__origin__", None) is list
    }
    return st.builds(
        Bundle,
        version=st.just(bundle.VERSION),
        record=rows(hints["record"]),
        run=st.none() | st.dictionaries(TEXTS, VALUES, max_size=4),
        **{name: st.lists(rows(kind), max_size=2) for name, kind in lists.items()},
    )


@given(bundles())
@BRIEF
def test_what_is_packed_comes_back_byte_for_byte(packed: Bundle) -> None:
    data, digest = bundle.pack(packed)

    found = bundle.unpack(data)

    assert found == packed
    assert bundle.check(data) == digest
    assert bundle.pack(found) == (data, digest)


@given(st.integers(-(2**53), 2**53))
@BRIEF
def test_instants_keep_their_microseconds(micros: int) -> None:
    event = StoredEvent(seq=1, recorded_at=micros / 1e6, type="t", body=b"")

    [found] = bundle.unpack(bundle.pack(_with(event))[0]).history

    assert round(found.recorded_at * 1e6) == round(event.recorded_at * 1e6)
    assert found.recorded_at.hex() == event.recorded_at.hex()


@given(bundles(), st.data())
@BRIEF
def test_one_altered_byte_is_seen(packed: Bundle, data: st.DataObject) -> None:
    altered = bytearray(bundle.pack(packed)[0])
    position = data.draw(st.integers(0, len(altered) - 1))
    altered[position] ^= data.draw(st.integers(1, 255))

    with pytest.raises(Invalid):
        bundle.unpack(bytes(altered))
    with pytest.raises(Invalid):
        bundle.check(bytes(altered))


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda rest: b"HFBUNDLE\x01" + rest))
@BRIEF
def test_any_bytes_are_a_bundle_or_invalid(data: bytes) -> None:
    for look in (bundle.unpack, bundle.check, bundle.digest_of):
        with contextlib.suppress(Invalid):
            look(data)


@given(st.binary(max_size=300))
@BRIEF
def test_any_content_under_a_seal_that_fits_is_a_bundle_or_invalid(content: bytes) -> None:
    head = struct.pack(">8sBQ32s", b"HFBUNDLE", 1, len(content), sha256(content).digest())
    body = zlib.compress(content)

    with contextlib.suppress(Invalid):
        bundle.unpack(head + sha256(head + body).digest() + body)


def _with(event: StoredEvent) -> Bundle:
    record = bundle.WorkflowRecord(id="w", workflow_type="t", created_at=0.0, updated_at=0.0)
    return Bundle(record=record, history=[event])
