"""Natural batching: whatever waits while one batch is in flight goes together as the next.

Idle, a request goes at once, alone; under load dozens share a transaction. No timer, no linger.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from holdfast.exceptions import OutcomeUnknown, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects items and has them carried out in batches of at most *size*, by as many writers as `run` is called.

    *carry_out* gets the items in the order they came and returns one result each, in the
    same order; a result that is an exception is raised to its own submitter only.
    """

    def __init__(
        self, carry_out: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]], *, size: int
    ) -> None:
        self._carry_out = carry_out
        self._size = size
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._in_flight = 0
        self._landed = asyncio.Event()
        self._wake = asyncio.Event()
        self._is_closed = False

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """A future of the item's result. Must be called inside the loop that runs `run`."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            future.set_exception(
                Unavailable("this process is shutting down: try again, another one will answer")
            )
            return future
        self._waiting.append((item, future))
        self._wake.set()
        return future

    async def run(self) -> None:
        """One writer: carries out batch after batch until cancelled."""
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            self._in_flight += 1
            try:
                await self._carry(batch)
            finally:
                self._in_flight -= 1
                self._landed.set()

    async def drain(self) -> None:
        """Take no more items, and return when every one that was taken has its result."""
        self._is_closed = True
        while self._waiting or self._in_flight:
            self._landed.clear()
            await self._landed.wait()

    async def _carry(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._carry_out([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                _fail(
                    future,
                    OutcomeUnknown("this process stopped in the middle: ask again to learn the outcome"),
                )
            raise
        except BaseException as error:
            # A bug in the batch: whoever waits must hear of it, and the process must not go on.
            for _, future in batch:
                _fail(future, error)
            raise
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                _fail(future, result)
            elif not future.done():
                future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        # Marked as seen: a submitter that went away is no reason to complain.
        future.exception()
