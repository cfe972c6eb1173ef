"""One holder among all processes: an advisory lock on a connection of its own that beats.

Safety never rests on it. A holder that is frozen or cannot be reached loses it within `IDLE_S` and a little: the
server ends a session that is silent, and the holder drops one that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import asyncpg

from holdfast.exceptions import Invalid, Unavailable

BEAT_S = 1.5
ANSWER_S = 2.0
IDLE_S = 5.0

TRY_LOCK = "SELECT pg_try_advisory_lock(hashtext('holdfast scheduler'), 1)"
BEAT = "SELECT 1"

_GONE = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError)


class Leadership:
    """The scheduler lock of one process. Nothing is connected until it is asked for."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._beat: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock, as far as it knows."""
        return self._connection is not None

    async def acquire(self) -> bool:
        """Whether this process holds the lock now; asking again while it does gives True.

        Raises `Unavailable` when Postgres does not answer, `Invalid` for an URL that is none.
        """
        async with self._turn:
            if self._connection is not None and await self._answers():
                return True
            await self._drop()
            connection = await self._connect()
            try:
                async with asyncio.timeout(ANSWER_S):
                    is_held: bool = await connection.fetchval(TRY_LOCK)
            except _GONE as error:
                connection.terminate()
                raise Unavailable(f"Postgres does not answer: {error}; ask again") from error
            except BaseException:
                connection.terminate()
                raise
            if not is_held:
                await _hang_up(connection)
                return False
            self._connection = connection
            self._beat = asyncio.create_task(self._keep(connection), name="holdfast scheduler lock")
            return True

    async def close(self) -> None:
        """Let go of the lock, if held."""
        async with self._turn:
            await self._drop()

    async def _keep(self, connection: Any) -> None:
        """Beat until the connection does not answer any more."""
        while True:
            await asyncio.sleep(BEAT_S)
            async with self._turn:
                if self._connection is not connection:
                    return
                if not await self._answers():
                    self._connection = None
                    connection.terminate()
                    return

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._connection.fetchval(BEAT)
        except _GONE:
            return False
        return True

    async def _drop(self) -> None:
        beat, connection = self._beat, self._connection
        self._beat = self._connection = None
        if beat is not None and not beat.done():
            beat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beat
        if connection is not None:
            await _hang_up(connection)

    async def _connect(self) -> Any:
        try:
            return await asyncpg.connect(
                self._url,
                timeout=5.0,
                server_settings={
                    "application_name": "holdfast scheduler lock",
                    "idle_session_timeout": str(int(IDLE_S * 1000)),
                    "tcp_keepalives_idle": "3",
                    "tcp_keepalives_interval": "1",
                    "tcp_keepalives_count": "3",
                },
            )
        except ValueError as error:
            raise Invalid(
                f"not a Postgres URL: {error}; expected postgresql://user:password@host:port/database"
            ) from error
        except _GONE as error:
            raise Unavailable(f"Postgres does not answer: {str(error) or type(error).__name__}") from error


async def _hang_up(connection: Any) -> None:
    try:
        await connection.close(timeout=ANSWER_S)
    except (*_GONE, TimeoutError):
        connection.terminate()
