"""A pool without connections: it answers the engine's queries from `Tables`. A query that it does not know is a bug."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from holdfast.memory import claims, reads
from holdfast.memory.tables import Tables
from holdfast.store.owned_rows import FORGET_REQUESTS
from holdfast.store.session import Counts, Pool, Query, Row, Session, Statement
from holdfast.store.tally import ADD_UP

_QUERIES: dict[Any, Callable[..., list[Any]]] = {**claims.ANSWERS, **reads.ANSWERS}


class MemoryPool(Pool):
    """The pool of an engine in memory. Every block is one turn of the event loop's: nothing in it waits."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(None, "memory:")
        self.tables = tables

    @asynccontextmanager
    async def transaction(self, *, is_deferred: bool = False) -> AsyncIterator[Session]:  # noqa: ARG002
        """As `Pool.transaction`: what is written is written by `Tables.record` alone, at the end and at once."""
        yield _MemorySession(self.tables, self.counts)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """As `Pool.session`."""
        yield _MemorySession(self.tables, self.counts)

    async def close(self) -> None:
        """Nothing is held."""


class _MemorySession(Session):
    def __init__(self, tables: Tables, counts: Counts) -> None:
        super().__init__(None, counts)
        self._tables = tables

    async def begin(self) -> None:
        """Nothing to begin: nobody comes in between."""

    begin_snapshot = end_snapshot = begin

    async def rows(self, query: Query[Row], *args: object) -> list[Row]:
        """All rows of *query*."""
        self._counts.statements += 1
        return _QUERIES[query](self._tables, *args)

    async def run(self, statement: Statement, *args: object) -> int:
        """How many rows *statement* touched."""
        self._counts.statements += 1
        return _STATEMENTS[statement](self._tables, *args)


def _forget_requests(tables: Tables, older_than_s: float, limit: int) -> int:
    old = [key for key, at in tables.requested_at.items() if at < tables.now - older_than_s][:limit]
    for key in old:
        del tables.requested_at[key], tables.requests[key]
    return len(old)


def _nothing(_: Tables) -> int:
    """Closed runs are counted when somebody asks."""
    return 0


_STATEMENTS: dict[Statement, Callable[..., int]] = {FORGET_REQUESTS: _forget_requests, ADD_UP: _nothing}
