"""A bucket that refuses, breaks or stops in the middle: always `Unavailable`, never "missing" and never "done"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from holdfast.archive import Archive, open_archive
from holdfast.archive.keys import key_of
from holdfast.exceptions import Unavailable
from tests.archive.conftest import BUCKET, KEYS, REGION, packed

RUN = "0193c0de-0000-7000-8000-000000000001"


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[Archive]:
    """An archive in a bucket whose server answers every request with *answer* and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0"
        )
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield open_archive(
            f"s3://{BUCKET}", timeout_s=5, endpoint=f"http://127.0.0.1:{port}", region=REGION, **KEYS
        )


def answer(status: str, body: bytes = b"", *, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    head = f'HTTP/1.1 {status}\r\ncontent-length: {length}\r\netag: "x"\r\nconnection: close\r\n'
    return head.encode() + b"last-modified: Tue, 24 Nov 2026 16:00:00 GMT\r\n\r\n" + body


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("403 Forbidden", "the archive refuses us; see that the credentials are right"),
        ("401 Unauthorized", "the archive refuses us; see that the credentials are right"),
        ("500 Internal Server Error", "see that the archive can be reached"),
        ("503 Slow Down", "see that the archive can be reached"),
        ("400 Bad Request", "see that the archive can be reached"),
        ("301 Moved Permanently", "see that the archive can be reached"),
    ],
)
async def test_a_bucket_that_refuses_or_breaks_is_unavailable(status: str, says: str) -> None:
    data, digest = packed()
    async with answering(answer(status)) as archive:
        uri = f"{archive.root}/{key_of('main', 'o-17', RUN, digest)}"

        for call in (
            archive.put("main", "o-17", RUN, data),
            archive.verify(uri, digest),
            archive.delete(uri),
        ):
            with pytest.raises(Unavailable, match=says):
                await call


async def test_a_download_that_stops_in_the_middle_is_unavailable() -> None:
    data, digest = packed(body=bytes(range(256)) * 100)
    async with answering(answer("200 OK", data[:300], length=len(data))) as archive:
        with pytest.raises(Unavailable, match=r"cannot be read|was not read"):
            await archive.verify(f"{archive.root}/{key_of('main', 'o-17', RUN, digest)}", digest)
