"""Bundles put, read back, compared and removed, each within a bounded time. Says nothing about when."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, S3Store

from holdfast.archive import keys
from holdfast.exceptions import Invalid, NotFound, Refused, Unavailable
from holdfast.wire import bundle

PAGE = 500


class Archive:
    """A place for bundles; `open_archive` makes one. Safe to use from many tasks at once. Holds nothing to be closed.

    *root* is the URL all of its URIs begin with. *folder* is the root of an archive in the file system, else None.

    Every method raises `Unavailable` when the place cannot be reached, does not answer within *timeout_s*, refuses us
    or has no such bucket (yet), and `Invalid` when a URI is none of this archive.
    """

    def __init__(
        self,
        root: str,
        store: LocalStore | S3Store,
        *,
        folder: Path | None = None,
        timeout_s: float = 120.0,
        bytes_max: int = bundle.FRAME_BYTES_MAX,
    ) -> None:
        self.root = root
        self._store = store
        self._folder = folder
        self._timeout_s = timeout_s
        self._bytes_max = bytes_max

    async def put(self, namespace: str, workflow_id: str, run_id: str, data: bytes) -> str:
        """The URI under which the frame *data* now lies, whole and (in a folder) on the disk.

        The same content again gives the same URI and writes nothing. Raises `Invalid` for what `bundle.pack` did not
        make, `Refused` when something else lies at its place, which only damage or malice can have put there.
        """
        digest = bundle.digest_of(data)
        key = keys.key_of(namespace, workflow_id, run_id, digest)
        uri = f"{self.root}/{key}"
        try:
            async with self._reaching(uri, "written"):
                await self._create(key, data)
        except AlreadyExistsError:
            await self._same(uri, digest)
        if self._folder is not None:
            async with self._reaching(uri, "written"):
                await asyncio.to_thread(_flush, self._folder, key)
        return uri

    async def get(self, uri: str) -> bytes:
        """The frame at *uri*, as it was put if nobody altered it: `bundle.unpack` tells. Raises `NotFound`."""
        return bytes(await self._read(uri))

    async def verify(self, uri: str, digest: str) -> None:
        """Read the bundle at *uri* back; afterwards it is known to be whole and to have the content *digest*.

        Raises `NotFound`, and `Invalid` for an altered, truncated or different one.
        """
        data = await self._read(uri)
        try:
            found = await asyncio.to_thread(bundle.check, data)
        except Invalid as error:
            raise Invalid(f"{uri}: {error.message}") from error
        if found != digest:
            raise Invalid(f"{uri} holds the digest {found}, expected {digest}: it is another run, or altered")

    async def delete(self, uri: str) -> None:
        """Remove the bundle at *uri*, if it is there."""
        key = self._key(uri)
        try:
            async with self._reaching(uri, "removed"):
                await self._store.delete_async(key)
        except NotFound:
            return

    async def delete_all(self, namespace: str) -> int:
        """Remove every bundle of *namespace*, by pages that each take up to *timeout_s*. Returns how many were removed.

        Safe to repeat after any failure. Needs credentials that may list and delete, which nothing else here does.
        """
        uri = f"{self.root}/{keys.folder_of(namespace)}"
        removed = 0
        while names := await self._page(uri, keys.folder_of(namespace)):
            async with self._reaching(uri, "removed"):
                await self._store.delete_async(names)
            removed += len(names)
        return removed

    async def _page(self, uri: str, folder: str) -> list[str]:
        async with self._reaching(uri, "listed"):
            async for page in self._store.list(folder, chunk_size=PAGE):
                return [found["path"] for found in page]
            return []

    async def _create(self, key: str, data: bytes) -> None:
        try:
            await self._store.put_async(key, data, mode="create", use_multipart=False)
        except RuntimeError:
            # AWS_CONDITIONAL_PUT=disabled: a store that cannot create only. Keys follow from the content, so what is
            # overwritten is the same.
            await self._store.put_async(key, data, use_multipart=False)

    async def _same(self, uri: str, digest: str) -> None:
        try:
            await self.verify(uri, digest)
        except Invalid as error:
            raise Refused(
                f"{error.message}. It is not overwritten: find out how it came there, then remove it"
            ) from error

    async def _read(self, uri: str) -> memoryview:
        key = self._key(uri)
        async with self._reaching(uri, "read"):
            found = await self._store.get_async(key)
            if (size := found.meta["size"]) > self._bytes_max:
                raise Invalid(f"{uri} has {size} bytes, expected at most {self._bytes_max}")
            return memoryview(await found.bytes_async())

    def _key(self, uri: str) -> str:
        key = uri.removeprefix(f"{self.root}/")
        if key == uri or not keys.is_key(key):
            raise Invalid(
                f"{uri!r} is not in this archive: expected {self.root}/v1/…; if the archive moved, the place it is "
                "read from has to stay configured under the URL that the runs were archived to"
            )
        return key

    @asynccontextmanager
    async def _reaching(self, uri: str, done: str) -> AsyncIterator[None]:
        """Bounds the block in time and tells what went wrong there in our words."""
        try:
            # A folder that went away (a disk that is not mounted) must not be made anew where it was.
            if self._folder is not None and not self._folder.is_dir():
                raise Unavailable(
                    f"{uri} cannot be {done}: there is no folder {self._folder}, mount or make it"
                )
            async with asyncio.timeout(self._timeout_s):
                yield
        except AlreadyExistsError:
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise Unavailable(
                    f"{uri} cannot be {done}: the bucket does not exist; create it, or correct the archive's URL"
                ) from error
            raise NotFound(f"there is no {uri}") from error
        except TimeoutError:
            raise Unavailable(
                f"{uri} was not {done} within {self._timeout_s:g} s: see that the archive can be reached"
            ) from None
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            raise Unavailable(
                f"{uri} cannot be {done}: the archive refuses us; see that the credentials are right and may put and "
                f"get objects there ({_words(error)})"
            ) from error
        except (BaseError, OSError) as error:
            raise Unavailable(
                f"{uri} cannot be {done}: see that the archive can be reached and written to ({_words(error)})"
            ) from error


def _words(error: Exception) -> str:
    """The first line of what the driver says, without its dump of internals."""
    return str(error).strip().split("\n", 1)[0][:300]


def _flush(folder: Path, key: str) -> None:
    """After this the file and the names on the way to it survive a power cut."""
    path = folder / key
    while path != folder.parent:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path = path.parent
