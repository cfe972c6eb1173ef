"""Which URLs are archives, what a folder and a bucket are like, and how their absence is told."""

from __future__ import annotations

import logging
import shutil
import socket
import stat
from pathlib import Path
from time import monotonic

import pytest

from holdfast.archive import open_archive
from holdfast.archive.keys import key_of
from holdfast.exceptions import Invalid, NotFound, Unavailable
from tests.archive.conftest import BUCKET, KEYS, REGION, Bucket, packed

RUN = "0193c0de-0000-7000-8000-000000000001"


def test_a_folder_is_made_for_its_owner_only(folder: Path) -> None:
    open_archive(str(folder))

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_folder_may_be_given_as_a_url(folder: Path) -> None:
    uri = await open_archive(str(folder)).put("main", "o-17", RUN, packed()[0])

    assert uri.startswith(f"file://{str(folder).replace(' ', '%20')}/v1/")
    for url in (folder.as_uri(), f"file://localhost{folder.as_posix()}", f"{folder}/", f"{folder.as_uri()}/"):
        assert await open_archive(url).get(uri) == packed()[0]


async def test_nothing_but_whole_bundles_is_left_in_a_folder(folder: Path) -> None:
    archive = open_archive(str(folder))
    for _ in range(2):
        await archive.put("main", "o-17", RUN, packed()[0])

    assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".hfb"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/",
        "file://",
        "file:///",
        "file://elsewhere/x",
        "file:///x?y",
        "gs://bucket/x",
        "http://x/y",
        "a\0b",
    ],
)
def test_what_is_no_archive_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match=r"archive .* expected a folder, file:///folder or s3://bucket/prefix"):
        open_archive(url)


@pytest.mark.parametrize(
    "place", ["", "/x", "b", "-bucket/x", "bucket/a//b", "bucket/../x", "bucket/x?y", "bucket/ü"]
)
def test_what_is_no_bucket_or_prefix_is_refused(place: str) -> None:
    with pytest.raises(Invalid, match="archive 's3://"):
        open_archive(f"s3://{place}")


def test_a_secret_in_the_url_is_not_repeated() -> None:
    with pytest.raises(Invalid) as refused:
        open_archive("s3://AKIA:verysecret@bucket/x")

    assert "verysecret" not in str(refused.value)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(Invalid, match="bogus"):
        open_archive(f"s3://{BUCKET}", bogus="1")
    with pytest.raises(Invalid, match="is a folder, which has no region"):
        open_archive("/tmp/x", region=REGION)


async def test_a_folder_that_went_away_is_not_made_anew(folder: Path) -> None:
    """A disk that is not mounted: its bundles are unavailable, not missing, and nothing is written beneath."""
    archive = open_archive(str(folder))
    uri = await archive.put("main", "o-17", RUN, packed()[0])
    shutil.rmtree(folder)

    for call in (archive.get(uri), archive.delete(uri), archive.put("main", "o-17", RUN, packed()[0])):
        with pytest.raises(Unavailable, match="there is no folder"):
            await call

    assert not folder.exists()


async def test_a_folder_that_cannot_be_written_to_is_unavailable(folder: Path) -> None:
    archive = open_archive(str(folder))
    (folder / "v1").write_bytes(b"in the way")

    with pytest.raises(
        Unavailable, match="cannot be written: see that the archive can be reached and written to"
    ):
        await archive.put("main", "o-17", RUN, packed()[0])


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(Unavailable, match="cannot be made a folder"):
        open_archive(str(tmp_path / "file" / "archive"))


async def test_the_environment_says_what_the_url_does_not(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    monkeypatch.setenv("AWS_REGION", REGION)
    for name, value in KEYS.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)

    uri = await open_archive(f"s3://{BUCKET}").put("main", "o-17", RUN, packed()[0])

    assert [f"s3://{BUCKET}/{name}" for name in bucket.names()] == [uri]


async def test_two_prefixes_never_see_each_other(bucket: Bucket) -> None:
    places = ["", "/one", "/one/two", "/one-more", "/v1"]
    archives = [bucket.open(f"{BUCKET}{place}") for place in places]
    uris = [await archive.put("main", "o-17", RUN, packed()[0]) for archive in archives]

    assert len(set(bucket.names())) == len(places)
    for place, archive in zip(places, archives, strict=True):
        for uri in uris:
            if uri.startswith(f"s3://{BUCKET}{place}/v1/main-"):
                assert await archive.get(uri) == packed()[0]
            else:
                with pytest.raises(Invalid, match="is not in this archive"):
                    await archive.get(uri)


async def test_a_bucket_that_does_not_exist_is_no_missing_bundle(bucket: Bucket) -> None:
    archive = bucket.open("no-such-bucket/x")
    key = (await bucket.open().put("main", "o-17", RUN, packed()[0])).removeprefix(bucket.open().root)

    for call in (archive.put("main", "o-17", RUN, packed()[0]), archive.get(archive.root + key)):
        with pytest.raises(
            Unavailable, match="the bucket does not exist; create it, or correct the archive's URL"
        ):
            await call
    with pytest.raises(NotFound):
        await bucket.open(f"{BUCKET}/elsewhere").get(f"s3://{BUCKET}/elsewhere{key}")


async def test_a_bucket_without_conditional_writes_is_written_plainly(bucket: Bucket) -> None:
    archive = bucket.open(conditional_put="disabled")
    data, digest = packed()

    uris = {await archive.put("main", "o-17", RUN, data) for _ in range(2)}

    assert len(uris) == 1
    await archive.verify(uris.pop(), digest)


async def test_a_server_that_stopped_is_unavailable() -> None:
    bucket = Bucket("bucket-of-a-server-that-stops")
    archive = bucket.open()
    uri = await archive.put("main", "o-17", RUN, packed()[0])
    bucket.client.close()
    bucket.server.stop()

    for call in (archive.get(uri), archive.delete(uri), archive.put("main", "o-17", RUN, packed()[0])):
        with pytest.raises(Unavailable, match=r"see that the archive can be reached"):
            await call


async def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        archive = open_archive(
            f"s3://{BUCKET}", timeout_s=0.3, endpoint=f"http://127.0.0.1:{port}", region=REGION, **KEYS
        )
        uri = f"{archive.root}/{key_of('main', 'o-17', RUN, packed()[1])}"
        began = monotonic()
        with pytest.raises(Unavailable):
            await archive.put("main", "o-17", RUN, packed()[0])
        with pytest.raises(
            Unavailable, match=r"was not read within 0\.3 s: see that the archive can be reached"
        ):
            await archive.get(uri)

    assert monotonic() - began < 5


async def test_plain_http_is_spoken_only_where_it_is_asked_for(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.open()
    assert not caplog.records

    with caplog.at_level(logging.WARNING):
        open_archive(f"s3://{BUCKET}", endpoint="http://storage.example:9000", region=REGION, **KEYS)
    assert "over plain HTTP" in caplog.text

    secure = bucket.open(endpoint=bucket.endpoint.replace("http:", "https:"))
    with pytest.raises(Unavailable):
        await secure.put("main", "o-17", RUN, packed()[0])
