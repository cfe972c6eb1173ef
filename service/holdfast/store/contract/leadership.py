"""One holder among all processes: an advisory lock on a connection of its own that beats.

Safety never rests on it. A holder that is frozen or cannot be reached loses it within `IDLE_S` and a little: the
server ends a session that is silent, and the holder drops one that does not answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast.exceptions import Invalid, Unavailable
from holdfast.store.driver import lost

BEAT_S = 1.5
ANSWER_S = 2.0
IDLE_S = 5.0

TRY_LOCK = "SELECT pg_try_advisory_lock(hashtext('holdfast scheduler'), 1)"
BEAT = "SELECT 1"


class Leadership:
    """The scheduler lock of one process. Nothing is connected until it is asked for.

    One coroutine at a time touches the connection: whoever has the turn. Whatever cancels or fails in between, a
    connection is either kept here, with its beat, or ended.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._beat: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._is_closed = False

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock, as far as it knows: a loss is noticed within seconds."""
        return self._connection is not None

    async def acquire(self) -> bool:
        """Whether this process holds the lock now; asking again while it does gives True.

        Raises `Unavailable` when Postgres does not answer or after `close`, `Invalid` for an URL that is none.
        """
        async with self._turn:
            if self._is_closed:
                raise Unavailable("the store is closed: open it again to ask for the scheduler lock")
            if self._connection is not None:
                if await self._answers():
                    return True
                self._lose()
            connection = await self._connect()
            is_held: bool = False
            try:
                async with asyncio.timeout(ANSWER_S):
                    is_held = await connection.fetchval(TRY_LOCK)
            except lost() as error:
                raise Unavailable(f"Postgres does not answer: {_named(error)}; ask again") from error
            finally:
                if not is_held:
                    # Not said goodbye to: the answer could be waited for in vain.
                    connection.terminate()
            if is_held:
                self._connection = connection
                self._beat = asyncio.create_task(self._keep(connection), name="holdfast scheduler lock")
            return is_held

    async def close(self) -> None:
        """Let go of the lock, if held, for good. Waits for an `acquire` that is under way, seconds at most."""
        self._is_closed = True
        async with self._turn:
            connection = self._connection
            self._forget()
            if connection is None:
                return
            try:
                # The lock is free once the server has heard of it.
                await connection.close(timeout=ANSWER_S)
            except lost():
                connection.terminate()

    async def _keep(self, connection: Any) -> None:
        """Beat until the connection does not answer any more, or another one has taken its place."""
        while True:
            await asyncio.sleep(BEAT_S)
            async with self._turn:
                if self._connection is not connection:
                    return
                if not await self._answers():
                    self._lose()
                    return

    async def _answers(self) -> bool:
        """Whether the session lives, and so holds what it held."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._connection.fetchval(BEAT)
        except lost():
            return False
        return True

    def _lose(self) -> None:
        self._connection.terminate()
        self._forget()

    def _forget(self) -> None:
        # The beat only ever sleeps or waits for its turn while somebody else has it, so it may be cancelled and left.
        if self._beat is not None and self._beat is not asyncio.current_task():
            self._beat.cancel()
        self._beat = self._connection = None

    async def _connect(self) -> Any:
        import asyncpg

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
        except lost() as error:
            raise Unavailable(f"Postgres does not answer: {_named(error)}") from error


def _named(error: BaseException) -> str:
    return str(error) or type(error).__name__
