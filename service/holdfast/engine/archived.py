"""Histories of archived runs, read through their pointers. Writes nothing; what was read is kept for the next pages."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from holdfast.exceptions import Invalid, NotFound, Refused, Unavailable
from holdfast.wire import bundle
from holdfast.wire.bundle import StoredEvent

if TYPE_CHECKING:
    # Where archives are kept needs packages of its own; the engine in memory runs without them.
    from holdfast.archive import Archive

KEPT_BYTES_MAX = 32 * 1024 * 1024
READERS_MAX = 2
READ_S = 30.0


class ArchivedHistories:
    """The archive as a service process reads it; *archive* is None where none is configured.

    Few bundles are opened at a time: a large one takes as much memory as its content.
    """

    def __init__(self, archive: Archive | None) -> None:
        self._archive = archive
        self._readers = asyncio.Semaphore(READERS_MAX)
        self._kept: OrderedDict[str, list[StoredEvent]] = OrderedDict()
        self._kept_bytes = 0

    async def events(self, uri: str, run_id: str) -> list[StoredEvent]:
        """The history of the run that was archived to *uri*, as Postgres had it.

        Raises `Refused` without an archive, for a URI of another one and for a bundle that is not what was archived,
        `Unavailable` when the archive does not answer or has no such bundle: the run is there, and is not `NotFound`.
        """
        if self._archive is None:
            raise Refused(
                f"the history of run {run_id} is in the archive, at {uri!r}, and this service has none: set "
                "HOLDFAST_ARCHIVE_URL to the archive that it was written to"
            )
        try:
            async with asyncio.timeout(READ_S), self._readers:
                if uri not in self._kept:
                    found = await self._read(self._archive, uri, run_id)
                    self._keep(uri, found)
                    return found
        except TimeoutError:
            raise Unavailable(
                f"the history of run {run_id} was archived to {uri!r}, which was not read within {READ_S:g} s: see that "
                "the archive can be reached"
            ) from None
        self._kept.move_to_end(uri)
        return self._kept[uri]

    async def _read(self, archive: Archive, uri: str, run_id: str) -> list[StoredEvent]:
        try:
            data = await archive.get(uri)
        except NotFound as error:
            raise Unavailable(
                f"the history of run {run_id} was archived, but {error.message}: put it back, or see that the archive "
                "is the one it was written to"
            ) from error
        except Invalid as error:
            raise Refused(f"the history of run {run_id} was archived, but {error.message}") from error
        try:
            opened = await asyncio.to_thread(bundle.unpack, data)
        except Invalid as error:
            raise Refused(
                f"the history of run {run_id} was archived to {uri!r}, but what lies there was altered "
                f"({error.message}): put the original back"
            ) from error
        if opened.record.run_id != run_id:
            raise Refused(
                f"the history of run {run_id} was archived to {uri!r}, but there lies run {opened.record.run_id}: put "
                "the original back"
            )
        return opened.history

    def _keep(self, uri: str, events: list[StoredEvent]) -> None:
        size = _size(events)
        if size > KEPT_BYTES_MAX or uri in self._kept:
            return
        self._kept[uri] = events
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES_MAX:
            self._kept_bytes -= _size(self._kept.popitem(last=False)[1])


def _size(events: list[StoredEvent]) -> int:
    return sum(len(event.body) for event in events)
