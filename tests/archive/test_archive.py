"""What is put can be read back, compared and removed, in a folder and in a bucket alike."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from holdfast.archive import Archive, open_archive
from holdfast.archive.keys import folder_of, key_of
from holdfast.exceptions import Invalid, NotFound, Refused
from holdfast.wire import bundle
from tests.archive.conftest import packed

RUN = "0193c0de-0000-7000-8000-000000000001"
Spoil = Callable[[str, bytes], None]

ODD = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/",
    "a/b",
    "a//b",
    "C:\\x",
    "~",
    "%2e%2e%2f",
    "a?b#c",
    "ü\u202e\U0001f600",
]
ODD += [" ", "a\nb", "x" * 1_000, "é" * 1_000, "e\u0301", "\udc80", "A", "a"]


async def test_what_was_put_is_read_back_and_found_the_same(archive: Archive) -> None:
    data, digest = packed(body=bytes(range(256)) * 10_000)

    uri = await archive.put("main", "o-17", RUN, data)

    assert uri.startswith(f"{archive.root}/v1/main-")
    assert RUN in uri
    assert await archive.get(uri) == data
    await archive.verify(uri, digest)


async def test_the_same_again_is_at_the_same_place(archive: Archive) -> None:
    data, digest = packed()
    uri = await archive.put("main", "o-17", RUN, data)

    assert await archive.put("main", "o-17", RUN, data) == uri

    await archive.verify(uri, digest)


async def test_another_content_of_the_run_leaves_the_first_alone(archive: Archive) -> None:
    """Rows may still be added to a closed run between a crash and the next try."""
    first, digest = packed(body=b"1")
    second, _ = packed(body=b"2")

    uris = [await archive.put("main", "o-17", RUN, data) for data in (first, second)]

    assert uris[0] != uris[1]
    await archive.verify(uris[0], digest)


async def test_no_two_runs_share_a_place_whatever_they_are_called(archive: Archive) -> None:
    data, digest = packed()

    uris = [await archive.put("main", workflow_id, RUN, data) for workflow_id in ODD]
    uris += [await archive.put("main", "o", run_id, data) for run_id in ODD]
    uris += [await archive.put(namespace, "o", RUN, data) for namespace in ODD]

    assert len({uri.casefold() for uri in uris}) == len(uris)
    assert {uri.removeprefix(f"{archive.root}/").count("/") for uri in uris} == {3}
    for uri in uris:
        await archive.verify(uri, digest)


def test_where_one_name_ends_and_the_next_begins_matters() -> None:
    assert key_of("main", "ab", "c", "d") != key_of("main", "a", "bc", "d")


def test_namespaces_stay_apart_where_file_names_ignore_case() -> None:
    assert folder_of("Shop").casefold() != folder_of("shop").casefold()


async def test_a_removed_bundle_is_gone_and_may_be_removed_again(archive: Archive) -> None:
    data, digest = packed()
    uri = await archive.put("main", "o-17", RUN, data)

    await archive.delete(uri)
    await archive.delete(uri)

    with pytest.raises(NotFound, match=f"there is no {archive.root}"):
        await archive.get(uri)
    with pytest.raises(NotFound):
        await archive.verify(uri, digest)


async def test_all_bundles_of_a_namespace_can_be_removed_and_no_others(archive: Archive) -> None:
    data, digest = packed()
    gone = [await archive.put("shop", f"o-{number}", RUN, data) for number in range(3)]
    kept = [
        await archive.put(namespace, "o-0", RUN, data) for namespace in ("main", "Shop", "shop-2", "sho", "")
    ]

    assert await archive.delete_all("shop") == 3
    assert await archive.delete_all("shop") == 0

    for uri in gone:
        with pytest.raises(NotFound):
            await archive.get(uri)
    for uri in kept:
        await archive.verify(uri, digest)


async def test_many_bundles_are_removed_page_by_page(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.archive.archive.PAGE", 2)
    for number in range(5):
        await archive.put("shop", f"o-{number}", RUN, packed()[0])

    assert await archive.delete_all("shop") == 5
    assert await archive.delete_all("shop") == 0


async def test_many_writers_of_one_run_all_succeed_with_one_object(archive: Archive) -> None:
    data, digest = packed()

    uris = await asyncio.gather(*(archive.put("main", "o-17", RUN, data) for _ in range(8)))

    assert len(set(uris)) == 1
    await archive.verify(uris[0], digest)
    assert await archive.delete_all("main") == 1


@pytest.mark.parametrize("kept", [0, 1, 40, 90])
async def test_a_truncated_bundle_is_seen(archive: Archive, spoil: Spoil, kept: int) -> None:
    data, digest = packed()
    uri = await archive.put("main", "o-17", RUN, data)
    spoil(uri, data[:kept])

    with pytest.raises(Invalid, match="not a bundle that can be opened"):
        await archive.verify(uri, digest)


async def test_the_bundle_of_another_run_is_seen(archive: Archive, spoil: Spoil) -> None:
    data, digest = packed()
    uri = await archive.put("main", "o-17", RUN, data)
    spoil(uri, packed("o-18")[0])

    with pytest.raises(Invalid, match=f"expected {digest}: it is another run, or altered"):
        await archive.verify(uri, digest)


async def test_what_was_damaged_is_not_written_over(archive: Archive, spoil: Spoil) -> None:
    data, _ = packed()
    uri = await archive.put("main", "o-17", RUN, data)
    spoil(uri, data[:-1])

    with pytest.raises(Refused, match=r"not overwritten: find out how it came there, then remove it"):
        await archive.put("main", "o-17", RUN, data)

    assert await archive.get(uri) == data[:-1]
    await archive.delete(uri)
    assert await archive.put("main", "o-17", RUN, data) == uri


async def test_the_same_content_compressed_otherwise_counts_as_the_same(
    archive: Archive, spoil: Spoil
) -> None:
    """Another build of zlib makes other bytes of it; a second process may run on one."""
    data, digest = packed(body=b"x" * 5_000)
    uri = await archive.put("main", "o-17", RUN, data)
    spoil(uri, recompressed(data))

    assert await archive.put("main", "o-17", RUN, data) == uri

    await archive.verify(uri, digest)


async def test_only_bundles_are_put(archive: Archive) -> None:
    with pytest.raises(Invalid, match="not a bundle"):
        await archive.put("main", "o-17", RUN, b"some other bytes")


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "/",
        "/v1/x",
        "/../v1/x",
        "/v1/main-{h}/../ab/-{d}.hfb",
        "/v1/main-{h}/ab/-{d}.hfb/",
        "/v1/main-{h}/ab/-{d}.hfb\n",
    ],
)
async def test_only_places_of_bundles_can_be_named(archive: Archive, tail: str) -> None:
    uri = archive.root + tail.format(h="0" * 16, d="0" * 64)

    for act in (archive.get, archive.delete):
        with pytest.raises(Invalid, match="is not in this archive"):
            await act(uri)


async def test_a_place_elsewhere_cannot_be_named(archive: Archive) -> None:
    key = (await archive.put("main", "o-17", RUN, packed()[0])).removeprefix(archive.root)

    for root in (
        "",
        "file://",
        "file:///",
        "s3://other",
        f"{archive.root}x",
        archive.root[:-1],
        f"{archive.root}/sub",
    ):
        with pytest.raises(Invalid, match="is not in this archive"):
            await archive.get(root + key)


async def test_an_object_beyond_the_bound_is_not_read(folder: Path) -> None:
    archive = open_archive(str(folder), bytes_max=100)
    data, digest = packed(body=bytes(range(256)))
    uri = await archive.put("main", "o-17", RUN, data)

    with pytest.raises(Invalid, match=rf"has {len(data)} bytes, expected at most 100"):
        await archive.verify(uri, digest)


async def test_what_lies_there_is_plain_enough_to_be_read_by_hand(folder: Path) -> None:
    archive = open_archive(str(folder))
    uri = await archive.put("main", "o-17", RUN, packed()[0])

    found = bundle.unpack(Path(unquote(urlsplit(uri).path)).read_bytes())

    assert (found.record.id, found.history[0].body) == ("o-17", b"\0\xff")


def recompressed(data: bytes) -> bytes:
    head, body = data[:49], zlib.compress(zlib.decompress(data[81:]), 1)
    return head + sha256(head + body).digest() + body
