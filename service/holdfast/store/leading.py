"""Who leads: a row with an epoch, asked for on a connection of its own that is the asker's sign of life.

The row says until when. On the connection stands an advisory lock under the holder's name, which the server drops with
the process. Others take the row when its time is up (the holder is frozen, or cut off) or when nobody holds that lock
(the holder is gone). Safety never rests on it: what a leader writes takes its epoch along.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from holdfast.exceptions import Unavailable
from holdfast.store.driver import lost
from holdfast.store.outbox import Leadership
from holdfast.store.session import Counts, Query, Session

ANSWER_S = 2.0


class Shown(msgspec.Struct, kw_only=True):
    """Whether the session holds its process's sign of life."""

    is_shown: bool


# Whoever asks shows first that it lives: otherwise the next one would take the lead from it at once.
SHOW_LIFE = Query(
    "SELECT pg_try_advisory_lock(hashtext('holdfast leads'), hashtext($1)) AS is_shown",
    Shown,
)

TAKE_LEAD = Query(
    """
    INSERT INTO leader AS l (role, holder, epoch, until)
    VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
    ON CONFLICT (role) DO UPDATE
    SET
        holder = excluded.holder,
        until = excluded.until,
        epoch = CASE WHEN l.holder = excluded.holder THEN l.epoch ELSE l.epoch + 1 END
    WHERE l.holder = excluded.holder
        OR l.until < clock_timestamp()
        -- Let go of with this statement: it only tells whether the holder's own session is there.
        OR pg_try_advisory_xact_lock(hashtext('holdfast leads'), hashtext(l.holder))
    RETURNING l.holder, l.epoch
    """,
    Leadership,
)


class Candidate:
    """A process that wants to lead. Nothing is connected until it asks; `close` ends its connection, and its lead.

    One coroutine at a time asks.
    """

    def __init__(self, url: str, role: str, holder: str, counts: Counts) -> None:
        self._url = url
        self._role = role
        self._holder = holder
        self._counts = counts
        self._connection: Any = None

    async def ask(self, ttl_s: float) -> int | None:
        """The epoch in which this process leads for the next *ttl_s* seconds, or None while another does.

        Raises `Unavailable` when Postgres does not answer within seconds: then it may or may not lead.
        """
        is_well = False
        try:
            async with asyncio.timeout(ANSWER_S):
                session = await self._session()
                found = await session.rows(TAKE_LEAD, self._role, self._holder, ttl_s) if session else []
            is_well = session is not None
        except lost() as error:
            raise Unavailable(f"Postgres does not answer: {str(error) or type(error).__name__}") from error
        finally:
            if not is_well and self._connection is not None:
                self._connection.terminate()
                self._connection = None
        return found[0].epoch if found else None

    async def close(self) -> None:
        """Give up the lead, if held: the next one who asks has it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            # The server has heard of it when this returns.
            await connection.close(timeout=ANSWER_S)
        except lost():
            connection.terminate()

    async def _session(self) -> Session | None:
        """The session that shows life. None while the server has not noticed the end of the last one."""
        if self._connection is not None and not self._connection.is_closed():
            return Session(self._connection, self._counts)
        self._connection = await self._connect()
        session = Session(self._connection, self._counts)
        (shown,) = await session.rows(SHOW_LIFE, self._holder)
        return session if shown.is_shown else None

    async def _connect(self) -> Any:
        import asyncpg

        return await asyncpg.connect(
            self._url,
            server_settings={
                "application_name": "holdfast leads",
                "search_path": "holdfast",
                "statement_timeout": str(int(ANSWER_S * 1000)),
                "tcp_keepalives_idle": "3",
                "tcp_keepalives_interval": "1",
                "tcp_keepalives_count": "3",
            },
        )
