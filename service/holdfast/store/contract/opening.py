"""How the contract's methods get at the database: reading, and writing with a journal entry in the same transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import msgspec

from holdfast.exceptions import Invalid, Unavailable
from holdfast.store.contract.leadership import Leadership
from holdfast.store.session import (
    Conflict,
    Pool,
    Query,
    Retryable,
    Row,
    Session,
    Statement,
    Unwritable,
    open_pool,
)
from holdfast.wire import codec
from holdfast.wire.records import JournalEntry

POOL_MAX = 10

TELL = Statement(
    """
    INSERT INTO journal (namespace, record, entry)
    SELECT n.namespace, n.record, n.entry
    FROM unnest($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY AS n (namespace, record, entry, position)
    ORDER BY n.position
    """
)


class Counted(msgspec.Struct, kw_only=True):
    """A number of rows."""

    count: int


# Fails, with what to do about it, on a database that is not migrated.
IS_MIGRATED = Query("SELECT count(*)::int AS count FROM (SELECT 1 FROM journal LIMIT 0) AS j", Counted)


class Writing:
    """One transaction of the contract. What it tells is journalled with what it writes, or neither happens."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._told: list[tuple[str, JournalEntry]] = []

    async def rows(self, query: Query[Row], *args: object) -> list[Row]:
        """All rows of *query*."""
        return await self.session.rows(query, *args)

    async def one(self, query: Query[Row], *args: object) -> Row | None:
        """The first row of *query*, or None."""
        found = await self.session.rows(query, *args)
        return found[0] if found else None

    async def run(self, statement: Statement, *args: object) -> int:
        """How many rows *statement* touched."""
        return await self.session.run(statement, *args)

    def tell(self, namespace: str, fact: str, record: str, key: str, **fields: object) -> None:
        """Note that *fact* happened to the *record* called *key*; *fields* are JSON-able."""
        entry = JournalEntry(fact=fact, record=record, key=key, fields=fields)
        self._told.append((namespace, entry))

    @property
    def has_told(self) -> bool:
        """Whether anything happened at all."""
        return bool(self._told)

    async def flush(self) -> None:
        """Write what was told. Called once, before the commit."""
        if self._told:
            await self.session.run(
                TELL,
                [namespace for namespace, _ in self._told],
                [entry.record for _, entry in self._told],
                [codec.encode(entry) for _, entry in self._told],
            )


class Opened:
    """An open store: the pool and what the methods need of it. Close it, or use it as an async context manager."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.leadership = Leadership(pool.url)

    @classmethod
    async def connect(cls, url: str, *, migrate: bool = False, pool_max: int = POOL_MAX) -> Self:
        """A store on the database at *url* (`postgresql://user:password@host:port/database`).

        With *migrate*, missing migrations are applied first. At most *pool_max* connections are held.
        Raises `Invalid` for an URL that is none, `Unavailable` when Postgres does not answer or is not migrated.
        """
        if migrate:
            # It brings the driver with it, which the engine in memory runs without.
            from holdfast.store.migrate import migrate as apply_migrations

            await apply_migrations(url)
        store = cls(await open_pool(url, size=pool_max, name="holdfast store"))
        try:
            await store.pool.rows(IS_MIGRATED)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Give up leadership, if held, and end every connection."""
        await self.leadership.close()
        await self.pool.close()

    async def __aenter__(self) -> Self:
        """The store itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    async def one(self, query: Query[Row], *args: object) -> Row | None:
        """The first row of *query*, or None."""
        found = await self.pool.rows(query, *args)
        return found[0] if found else None

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Writing]:
        """A transaction, committed with what it told when the block ends.

        Raises `Unavailable` (nothing written; try again), `OutcomeUnknown` (the commit may have happened), or `Invalid`
        for a value that Postgres cannot take.
        """
        try:
            async with self.pool.transaction() as session:
                writing = Writing(session)
                yield writing
                await writing.flush()
        except (Retryable, Conflict) as error:
            raise Unavailable(f"{error.message}: nothing was written, try again") from error
        except Unwritable as error:
            raise Invalid(error.message) from error
