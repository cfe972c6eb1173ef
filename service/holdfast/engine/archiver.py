"""The archiver: closed runs that are past their namespace's retention go to the archive, and then out of Postgres.

Each run is read, packed, put, read back and compared, and purged if it is still what was read. A process that ends
between any two of these loses nothing: what it put is found there by the next one, because a bundle's place follows
from its content. One process at a time does this, by a row with an epoch, but nothing depends on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from holdfast.archive import Archive
from holdfast.exceptions import HoldfastError, Invalid, NotFound, Refused, Unavailable
from holdfast.metrics import Metrics
from holdfast.store import outbox, retention
from holdfast.store.contract import archiving
from holdfast.store.contract.opening import Opened
from holdfast.store.retention import Term
from holdfast.store.session import Pool
from holdfast.wire import bundle
from holdfast.wire.bundle import Bundle
from holdfast.wire.records import WorkflowRecord

log = logging.getLogger("holdfast.archiver")

ROLE = "archive"
TTL_S = 30.0
RETRY_S = 5.0
BATCH = 40
AT_ONCE = 4
AT_ONCE_BYTES = 64 * 1024 * 1024
LOOK_S = 60.0
LOOK_LEAST_S = 2.0
BACKOFF_S = 1.0
PUT_OFF_S = 3_600.0
PUT_OFF_MAX = 500


class Away(Exception):
    """The archive takes nothing now; the error says why."""

    def __init__(self, error: HoldfastError) -> None:
        super().__init__(error.message)
        self.error = error


class Stored(msgspec.Struct, frozen=True):
    """A run as it was read, and where that lies."""

    read: Bundle
    uri: str


class Archiver:
    """The archiver of this process, which is called *name*.

    *retention_s* is for namespaces without a term of their own; runs of more than *bytes_max* are never read. *on_archived* is called when the journal owes word of
    a run. `problem` is why the last pass archived nothing, though something was due; None if nothing stood in its way.
    """

    def __init__(
        self,
        pool: Pool,
        archive: Archive,
        metrics: Metrics,
        *,
        name: str,
        retention_s: float,
        on_archived: Callable[[], None],
        bytes_max: int = bundle.CONTENT_BYTES_MAX,
    ) -> None:
        self.problem: HoldfastError | None = None
        self._pool = pool
        self._archive = archive
        self._metrics = metrics
        self._name = name
        self._retention_s = retention_s
        self._on_archived = on_archived
        self._bytes_max = bytes_max
        self._store = Opened(pool)
        self._held_until = 0.0
        self._retry_at = 0.0
        self._look_at = 0.0
        self._failures = 0
        # Runs that cannot be archived as they are, by when they are tried again.
        self._put_off: dict[str, float] = {}

    async def step(self) -> int:
        """Archive a batch of each namespace that is due. Returns how many runs.

        Raises what the database raises. An archive that takes nothing is told once, and asked again later.
        """
        if time.monotonic() < self._look_at:
            return 0
        found = await retention.terms(self._pool, self._retention_s)
        self._metrics.archive_lag.set(max([0.0, *(term.past_s for term in found)]))
        due = [term for term in found if term.past_s > 0]
        self.problem = None
        if due and not await self._lead():
            self.problem = Refused(
                "another process archives at the moment: it goes on by itself, or is missed soon"
            )
            self._look_at = time.monotonic() + RETRY_S
            return 0
        try:
            archived = sum([await self._archive_some(term) for term in due])
        except Away as away:
            self._back_off(away.error)
            return 0
        if not archived:
            self._look_at = time.monotonic() + _next_look_s(found, self._retention_s)
        return archived

    def idle_s(self) -> float:
        """How long to wait after a pass that found nothing."""
        return max(self._look_at - time.monotonic(), 0.001)

    async def _archive_some(self, term: Term) -> int:
        """Archive a batch of the namespace's runs, parents first. Whoever cannot go holds back its children."""
        now = time.monotonic()
        self._put_off = {run_id: until for run_id, until in self._put_off.items() if until > now}
        cutoff = term.now - term.retention_s
        runs = await archiving.list_archivable_workflows(
            self._store, cutoff, BATCH + len(self._put_off), namespace=term.namespace
        )
        # The relay reads what it publishes from the rows that a purge would delete.
        staying = await retention.owed_runs(self._pool, [run.run_id or "" for run in runs])
        staying |= self._put_off.keys()
        parents_staying: set[str | None] = set()
        going: list[WorkflowRecord] = []
        for run in runs:
            if run.run_id in staying or run.parent_id in parents_staying:
                parents_staying.add(run.id)
            else:
                going.append(run)
        sizes = await retention.sizes(self._pool, [run.run_id or "" for run in going])
        archived = 0
        for some in _shares(going, sizes):
            if not await self._lead():
                break
            found = await asyncio.gather(
                *(self._stored(run, sizes[run.run_id or ""]) for run in some), return_exceptions=True
            )
            for run, stored in zip(some, found, strict=True):
                if isinstance(stored, BaseException):
                    raise stored
                if run.parent_id not in parents_staying and await self._purged(run, stored, term.now):
                    archived += 1
                else:
                    parents_staying.add(run.id)
        return archived

    async def _stored(self, run: WorkflowRecord, size: int) -> Stored | None:
        """The run as it was read, and where it lies, whole, as was seen by reading it back.

        None if it was archived or restored meanwhile, and if it cannot be stored as it is. Raises `Away`.
        """
        run_id = run.run_id or ""
        if size > self._bytes_max:
            self._fail(run_id, Invalid(f"its rows hold {size} bytes, expected at most {self._bytes_max}"))
            return None
        try:
            read = await archiving.read_for_archive(self._store, run.namespace, run.id, run_id)
        except (NotFound, Refused):
            return None
        try:
            data, digest = await asyncio.to_thread(bundle.pack, read)
            uri = await self._archive.put(run.namespace, run.id, run_id, data)
            await self._archive.verify(uri, digest)
        except (Invalid, Refused, NotFound) as error:
            self._fail(run_id, error)
            return None
        except Unavailable as error:
            self._metrics.archive_failures.labels(error.code).inc()
            raise Away(error) from error
        self._works()
        return Stored(read, uri)

    async def _purged(self, run: WorkflowRecord, stored: Stored | None, now: float) -> bool:
        """Whether the run's rows went. Not those of a run that got more of them meanwhile: it is for the next pass."""
        if stored is None:
            return False
        try:
            await archiving.mark_archived_and_purge(
                self._store,
                run.id,
                stored.uri,
                now,
                namespace=run.namespace,
                run_id=run.run_id,
                as_read=stored.read,
            )
        except Refused as error:
            log.debug("archive: run %s stays for now: %s", run.run_id, error)
            return False
        self._metrics.archived.labels(run.namespace).inc()
        self._on_archived()
        return True

    def _fail(self, run_id: str, error: HoldfastError) -> None:
        """Leave the run for later. Raises `Away` if there are so many that it is not the runs."""
        self._metrics.archive_failures.labels(error.code).inc()
        if len(self._put_off) >= PUT_OFF_MAX:
            raise Away(error) from error
        self._put_off[run_id] = time.monotonic() + PUT_OFF_S
        log.warning("archive: run %s stays in Postgres: %s", run_id, error)

    def _works(self) -> None:
        if self._failures:
            log.info("archive: works again after %d failures", self._failures)
            self._failures = 0

    def _back_off(self, error: HoldfastError) -> None:
        self.problem = error
        if not self._failures:
            log.warning("archive: %s. Closed runs stay in Postgres until then", error)
        self._look_at = time.monotonic() + min(BACKOFF_S * 2.0**self._failures, LOOK_S)
        self._failures += 1

    async def _lead(self) -> bool:
        """Whether this process is the archiver. Trusted for half the time it was granted for, from before it asked."""
        asked_at = time.monotonic()
        if asked_at < self._held_until:
            return True
        if asked_at < self._retry_at:
            return False
        epoch = await outbox.take_role(self._pool, ROLE, self._name, TTL_S)
        if epoch is None:
            self._retry_at = asked_at + RETRY_S
            return False
        self._held_until = asked_at + TTL_S / 2
        return True


def _next_look_s(found: Sequence[Term], retention_s: float) -> float:
    """When to look again: as soon as a run is due, but neither often nor, for those that close meanwhile, seldom."""
    least_s = max(min([retention_s, *(term.retention_s for term in found)]) / 10, LOOK_LEAST_S)
    due_s = min((-term.past_s for term in found if term.past_s <= 0), default=LOOK_S)
    return min(max(due_s, LOOK_LEAST_S), least_s, LOOK_S)


def _shares(runs: Sequence[WorkflowRecord], sizes: Mapping[str, int]) -> Iterator[list[WorkflowRecord]]:
    """The runs in order, a few at a time: fewer of large ones, because all of a share are in memory at once."""
    share: list[WorkflowRecord] = []
    share_bytes = 0
    for run in runs:
        size = sizes[run.run_id or ""]
        if share and (len(share) == AT_ONCE or share_bytes + size > AT_ONCE_BYTES):
            yield share
            share, share_bytes = [], 0
        share.append(run)
        share_bytes += size
    if share:
        yield share
