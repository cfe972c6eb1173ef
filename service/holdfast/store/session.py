"""Connections to Postgres: pools without session state, counted statements, and errors in our own words.

Nothing from asyncpg leaves this module, which loads it when a connection is first wanted. A broken connection before the commit is
`Unavailable` (nothing was written), during the commit `OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import msgspec

from holdfast.exceptions import HoldfastError, Invalid, OutcomeUnknown, Unavailable
from holdfast.store.driver import again, gone

Row = TypeVar("Row", bound=msgspec.Struct)

COMMAND_TIMEOUT_S = 20.0
ACQUIRE_TIMEOUT_S = 10.0


class Retryable(Unavailable):
    """The transaction was rolled back by a conflict and may be tried again at once."""


class Conflict(HoldfastError):
    """The transaction was rolled back: somebody else wrote a row that must be unique."""

    code = "refused"


class Unwritable(Invalid):
    """The transaction was rolled back: it held a value that Postgres cannot take."""


class Query(Generic[Row]):
    """One statement and the struct its rows become (columns by name)."""

    __slots__ = ("row", "text")

    def __init__(self, text: str, row: type[Row]) -> None:
        self.text = text
        self.row = row


class Statement:
    """One statement whose rows nobody reads."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Counts:
    """What a pool has done so far: the figures that cost budgets and metrics are made of."""

    __slots__ = ("commits", "rollbacks", "statements")

    def __init__(self) -> None:
        self.statements = 0
        self.commits = 0
        self.rollbacks = 0


class Session:
    """One connection for the time of one transaction, or of single statements until `begin`."""

    __slots__ = ("_connection", "_counts", "is_begun")

    def __init__(self, connection: Any, counts: Counts) -> None:
        self._connection = connection
        self._counts = counts
        self.is_begun = False

    async def begin(self) -> None:
        """From now on everything commits together, or not at all."""
        if not self.is_begun:
            await self._connection.execute("BEGIN")
            self.is_begun = True

    async def begin_snapshot(self) -> None:
        """From now on every read sees the same moment."""
        await self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    async def end_snapshot(self) -> None:
        """Let go of the moment that `begin_snapshot` held."""
        await self._connection.execute("ROLLBACK")

    async def rows(self, query: Query[Row], *args: object) -> list[Row]:
        """All rows of *query*."""
        self._counts.statements += 1
        found = await self._connection.fetch(query.text, *args)
        if not found:
            return []
        make, columns = query.row, tuple(found[0].keys())
        # Twice as fast as make(**record), which looks every column up by its name.
        return [make(**dict(zip(columns, record, strict=True))) for record in found]

    async def write(self, query: Query[Row], *args: object) -> list[Row]:
        """All rows of *query*, which changes something: without `begin` it is its own transaction."""
        if self.is_begun:
            return await self.rows(query, *args)
        with _own_errors(OutcomeUnknown, "the change may or may not have been made"):
            rows = await self.rows(query, *args)
        self._counts.commits += 1
        return rows

    async def run(self, statement: Statement, *args: object) -> int:
        """How many rows *statement* touched."""
        self._counts.statements += 1
        status: str = await self._connection.execute(statement.text, *args)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0


class Pool:
    """Connections to one database. Open it with `open_pool`, end it with `close`.

    A connection whose last use ended well is kept at hand for the next one: asyncpg's own release and acquire
    cost as much as a short statement.
    """

    def __init__(self, pool: Any, url: str) -> None:
        self._pool = pool
        self._kept: list[Any] = []
        self._waiting = 0
        self._is_closing = False
        self.url = url
        self.counts = Counts()

    @asynccontextmanager
    async def transaction(self, *, is_deferred: bool = False) -> AsyncIterator[Session]:
        """A transaction: committed when the block ends, rolled back when it raises.

        With *is_deferred* it begins when the block says so (`Session.begin`), if at all.
        Raises `Unavailable` (nothing written), `OutcomeUnknown` (the commit may have
        happened), `Retryable` or `Conflict` (rolled back).
        """
        with _own_errors(Unavailable, "nothing was written"):
            connection = await self._acquire()
        session = Session(connection, self.counts)
        is_well, is_broken = False, True
        try:
            with _own_errors(Unavailable, "nothing was written"):
                try:
                    if not is_deferred:
                        await session.begin()
                    yield session
                except BaseException as error:
                    # A cancelled statement may still be running: such a connection is cut instead.
                    if not _is_gone(connection) and not isinstance(error, asyncio.CancelledError):
                        await self._roll_back(session, connection)
                        is_broken = False
                    raise
            if session.is_begun:
                with _own_errors(OutcomeUnknown, "the change may or may not have been made"):
                    await connection.execute("COMMIT")
                self.counts.commits += 1
            is_well = True
        finally:
            if not (is_well and self._keep(connection)):
                await self._release(connection, is_broken and not is_well)

    async def _roll_back(self, session: Session, connection: Any) -> None:
        self.counts.rollbacks += 1
        if session.is_begun:
            async with asyncio.timeout(2.0):
                await connection.execute("ROLLBACK")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Session]:
        """A connection whose reads all see one moment. Raises as `transaction` does."""
        async with self.session() as session:
            await session.begin_snapshot()
            yield session
            await session.end_snapshot()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A connection whose statements commit one by one. Raises as `transaction` does."""
        with _own_errors(Unavailable, "nothing was written"):
            connection = await self._acquire()
        is_well = False
        try:
            with _own_errors(OutcomeUnknown, "the change may or may not have been made"):
                yield Session(connection, self.counts)
            is_well = True
        finally:
            if not (is_well and self._keep(connection)):
                await self._release(connection, not is_well and not _is_idle(connection))

    async def rows(self, query: Query[Row], *args: object) -> list[Row]:
        """All rows of *query*, run by itself."""
        async with self.session() as session:
            return await session.rows(query, *args)

    async def _acquire(self) -> Any:
        while self._kept:
            connection = self._kept.pop()
            if not _is_gone(connection):
                return connection
            await self._release(connection, is_broken=True)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        except ValueError as error:
            raise Invalid(
                f"not a Postgres URL: {error}; expected postgresql://user:password@host:port/database"
            ) from error
        finally:
            self._waiting -= 1

    def _keep(self, connection: Any) -> bool:
        """Keep a connection at hand, unless somebody waits at the pool for one."""
        if self._waiting or self._is_closing:
            return False
        self._kept.append(connection)
        return True

    async def _release(self, connection: Any, is_broken: bool) -> None:
        # A connection in an unknown state is cut, not tidied up: tidying would wait for a server
        # that may be frozen. One whose server is gone has left the pool by itself; asyncpg then
        # refuses every further word to it.
        with contextlib.suppress(*gone()):
            if is_broken:
                connection.terminate()
            await self._pool.release(connection, timeout=2.0)

    async def close(self) -> None:
        """End every connection; those in use get two seconds."""
        self._is_closing = True
        try:
            async with asyncio.timeout(2.0):
                while self._kept:
                    await self._release(self._kept.pop(), is_broken=False)
                await self._pool.close()
        except gone():
            self._pool.terminate()


async def open_pool(url: str, *, size: int, name: str, schemas: str = "holdfast") -> Pool:
    """A pool of up to *size* connections. It connects when first used: what is wrong with *url* is told then.

    In *schemas*, one after the other, statements find what they name.
    """
    import asyncpg

    pool = await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size,
        max_inactive_connection_lifetime=0,
        command_timeout=COMMAND_TIMEOUT_S,
        timeout=5.0,
        reset=_no_reset,
        server_settings={
            "application_name": name,
            "search_path": schemas,
            "jit": "off",
            # Planned once: the statements are the same whatever the arrays hold.
            "plan_cache_mode": "force_generic_plan",
            # A plan made while the tables were empty is kept: it must not be a scan of them.
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            # Short statements, of which many run at once: helpers cost more than they bring.
            "max_parallel_workers_per_gather": "0",
            "statement_timeout": "15000",
            "lock_timeout": "10000",
            "idle_in_transaction_session_timeout": "5000",
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
        },
    )
    return Pool(pool, url)


async def _no_reset(connection: Any) -> None:
    """Nothing to reset: no code sets session state."""


def _is_idle(connection: Any) -> bool:
    return not _is_gone(connection) and not connection.is_in_transaction()


def _is_gone(connection: Any) -> bool:
    """Whether the connection is closed. One that has left the pool by itself refuses to say so."""
    import asyncpg

    try:
        closed: bool = connection.is_closed()
    except asyncpg.InterfaceError:
        return True
    return closed


def _is_misuse(error: BaseException) -> bool:
    """Whether asyncpg complains about our call (a wrong number of arguments), not about the connection: a bug."""
    import asyncpg

    return isinstance(error, asyncpg.InterfaceError) and "argument" in str(error)


class _own_errors:  # noqa: N801 - reads as a statement
    """Turns asyncpg's errors into ours; *gone* is what a lost connection means here."""

    def __init__(self, gone: type[Unavailable], consequence: str) -> None:
        self._gone = gone
        self._consequence = consequence

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, HoldfastError):
            return
        import asyncpg

        if isinstance(error, again()):
            raise Retryable(f"Postgres rolled the transaction back: {error}") from error
        if isinstance(error, asyncpg.UniqueViolationError):
            raise Conflict(f"somebody else wrote the same row first: {error}") from error
        if isinstance(error, asyncpg.DataError | asyncpg.NotNullViolationError):
            raise Unwritable(f"Postgres cannot take a value of the request: {error}") from error
        if isinstance(
            error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError | asyncpg.InvalidSchemaNameError
        ):
            raise Unavailable(f"the database is not migrated ({error}): run `holdfast migrate`") from error
        if isinstance(error, gone()) and not _is_misuse(error):
            raise self._gone(
                f"lost Postgres ({str(error) or type(error).__name__}): {self._consequence}; try again with the same request id"
            ) from error
