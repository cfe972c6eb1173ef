"""What a bundle's frame says about itself, and what is refused instead of opened."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from hashlib import sha256
from random import Random

import msgspec
import pytest

from holdfast.exceptions import Invalid
from holdfast.wire import bundle
from holdfast.wire.bundle import Bundle, StoredEvent
from holdfast.wire.records import WorkflowEvent, WorkflowRecord

HEAD = struct.Struct(">8sBQ32s")
RUN = "0193c0de-0000-7000-8000-000000000001"


def archived(**rows: object) -> Bundle:
    record = WorkflowRecord(
        id="o-17", run_id=RUN, workflow_type="checkout", status="COMPLETED", created_at=1.5, updated_at=2.25
    )
    return Bundle(**{"record": record, **rows})  # type: ignore[arg-type]


def framed(content: bytes, *, version: int = 1, size: int | None = None, body: bytes | None = None) -> bytes:
    """A frame with a seal that fits, whatever is in it: what a forger can make."""
    head = HEAD.pack(b"HFBUNDLE", version, len(content) if size is None else size, sha256(content).digest())
    body = zlib.compress(content) if body is None else body
    return head + sha256(head + body).digest() + body


def test_a_bundle_comes_back_as_it_was_packed() -> None:
    given = archived(
        run={"fence": 7, "request_hash": b"\0\xff", "sticky": None, "is_paused": False, "names": ["", "ü"]},
        events=[
            WorkflowEvent(workflow_id="o-17", seq=1, event_type="x", payload="", timestamp=1732464000.000001)
        ],
        history=[
            StoredEvent(seq=1, recorded_at=1732464000.123457, type="WorkflowStarted", body=bytes(range(256)))
        ],
    )

    data, digest = bundle.pack(given)

    assert bundle.unpack(data) == given
    assert bundle.check(data) == digest == bundle.digest_of(data)


def test_the_digest_is_that_of_the_content() -> None:
    data, digest = bundle.pack(archived())

    assert sha256(zlib.decompress(data[81:])).hexdigest() == digest


def test_equal_bundles_have_equal_bytes_in_whatever_order_their_fields_were_read() -> None:
    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}

    assert bundle.pack(archived(run=one)) == bundle.pack(archived(run=other))


def test_nothing_and_the_empty_text_stay_two_things() -> None:
    record = msgspec.structs.replace(archived().record, result="", error=None)

    found = bundle.unpack(bundle.pack(archived(record=record))[0]).record

    assert (found.result, found.error) == ("", None)


@pytest.mark.parametrize(
    "foreign", [b"", b"H", b"HFBUNDLE", b"\x1f\x8b\x08", b"PK\x03\x04" * 40, b"HFBUNDLX" * 40]
)
def test_foreign_bytes_are_refused(foreign: bytes) -> None:
    with pytest.raises(Invalid, match=r"not a bundle that can be opened: it (begins with|ends after)"):
        bundle.unpack(foreign)


def test_a_bundle_cut_off_anywhere_is_refused() -> None:
    data, _ = bundle.pack(archived())

    for length in range(len(data)):
        with pytest.raises(Invalid, match="not a bundle that can be opened"):
            bundle.unpack(data[:length])


def test_no_byte_can_be_another() -> None:
    """Also those that would change nothing in the content: zlib's level, its padding, its checksum."""
    data, _ = bundle.pack(archived(history=[StoredEvent(seq=1, recorded_at=0.0, type="t", body=b"x" * 300)]))

    for position in range(len(data)):
        for flip in (1, 0x62, 0x80, 0xFF):
            altered = bytearray(data)
            altered[position] ^= flip
            for look in (bundle.unpack, bundle.check):
                with pytest.raises(Invalid, match="not a bundle that can be opened"):
                    look(bytes(altered))


def test_what_follows_a_bundle_is_refused() -> None:
    data, _ = bundle.pack(archived())

    with pytest.raises(Invalid, match="its seal does not fit"):
        bundle.unpack(data + b"\0")


def test_a_later_version_is_named() -> None:
    with pytest.raises(Invalid, match="it has version 2, this program reads version 1"):
        bundle.unpack(framed(b"anything", version=2))
    with pytest.raises(Invalid, match="its content has version 9, this program reads version 1"):
        bundle.unpack(bundle.pack(msgspec.structs.replace(archived(), version=9))[0])


def test_a_bundle_beyond_the_bound_is_neither_made_nor_opened() -> None:
    data, _ = bundle.pack(archived())

    with pytest.raises(Invalid, match=rf"the bundle of run {RUN} has \d+ bytes, expected at most 10"):
        bundle.pack(archived(), size_max=10)
    with pytest.raises(Invalid, match=r"its content has \d+ bytes, expected at most 10"):
        bundle.unpack(data, size_max=10)


@pytest.mark.parametrize("claimed", [0, 1_000])
def test_a_bomb_is_given_up_once_it_is_larger_than_it_claims(claimed: int) -> None:
    bomb = framed(b"", size=claimed, body=zlib.compress(bytes(200_000_000), 9))

    tracemalloc.start()
    with pytest.raises(Invalid, match=f"more than the {claimed} bytes it claims"):
        bundle.unpack(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8_000_000


@pytest.mark.parametrize(
    "forged",
    [
        framed(b"\xc1"),
        framed(b"\x81" * 5_000),
        framed(msgspec.msgpack.encode({"version": 1})),
        framed(msgspec.msgpack.encode({"version": 1, "record": {"id": 5}})),
        framed(b"abc", body=b"no zlib"),
        framed(b"", body=zlib.compress(b"")),
    ],
)
def test_a_forged_frame_is_refused_by_its_content(forged: bytes) -> None:
    with pytest.raises(Invalid, match="not a bundle that can be opened"):
        bundle.unpack(forged)


@pytest.mark.parametrize(
    "body",
    [
        zlib.compress(b"abd"),
        zlib.compress(b"ab"),
        zlib.compress(b""),
        zlib.compress(b"abc")[:-1],
    ],
)
def test_content_that_is_not_the_digests_is_refused_before_it_is_read(body: bytes) -> None:
    for look in (bundle.unpack, bundle.check):
        with pytest.raises(Invalid, match="its content is not what its digest says"):
            look(framed(b"abc", body=body))


@pytest.mark.parametrize("more", [b"m", b"more" * 100_000])
def test_what_follows_the_content_under_the_seal_is_refused(more: bytes) -> None:
    with pytest.raises(Invalid, match="something follows its content"):
        bundle.check(framed(b"abc", body=zlib.compress(b"abc") + more))


def test_what_follows_the_content_is_seen_also_where_a_part_ends_with_it() -> None:
    content = Random(17).randbytes(65_536 - 11)
    body = zlib.compress(content, 0)

    assert len(body) == 65_536
    with pytest.raises(Invalid, match="something follows its content"):
        bundle.check(framed(content, body=body + b"x"))


@pytest.mark.parametrize("beyond", [-259, -258, -257, -1, 0, 1, 2, 3, 255, 256, 257, 258, 259])
def test_content_is_whole_wherever_its_pieces_are_cut(beyond: int) -> None:
    content = bytes(2 * 1024 * 1024 + beyond)

    assert bundle.check(framed(content)) == sha256(content).hexdigest()


@pytest.mark.parametrize("value", ["\ud800", 2**70, object()])
def test_what_has_no_encoding_is_refused_with_the_run_it_belongs_to(value: object) -> None:
    with pytest.raises(Invalid, match=f"the bundle of run {RUN} cannot be encoded"):
        bundle.pack(archived(run={"x": value}))


def test_packing_holds_at_most_three_times_the_content() -> None:
    """Bodies that do not compress are the worst case."""
    size = 20_000_000
    body = Random(17).randbytes(size)
    given = archived(history=[StoredEvent(seq=1, recorded_at=0.0, type="t", body=body)])

    tracemalloc.start()
    bundle.pack(given)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 3 * size
