"""Cancels a coroutine at its k-th wait, so that a test can try every one of them. Claims nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any

WAITS_MAX = 200


class CancelAt:
    """Awaits *work*, and cancels the task that does just before its wait number *k* (from 1).

    `was_reached` tells whether there was such a wait.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], k: int) -> None:
        self._work = work
        self._k = k
        self.was_reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps, waits = self._work.__await__(), 0
        send: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            try:
                waiting = send()
            except StopIteration as end:
                return end.value
            waits += 1
            if waits == self._k:
                self.was_reached = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                value = yield waiting
            except BaseException as error:
                send = lambda error=error: steps.throw(error)  # noqa: E731
            else:
                send = lambda value=value: steps.send(value)  # noqa: E731


async def every_wait(
    work: Callable[[], Awaitable[Any]],
) -> AsyncIterator[tuple[int, BaseException | None]]:
    """Run *work* again and again, cancelled at its first wait, its second, and so on until it has no more.

    Tells after each run at which wait, and what came out: CancelledError, another error, or None for a run
    that ended well.
    """
    for k in range(1, WAITS_MAX):
        cancelling = CancelAt(_as_coroutine(work), k)
        outcome: list[BaseException | None] = []

        async def run(cancelling: CancelAt = cancelling, outcome: Any = outcome) -> None:
            try:
                await cancelling
            except BaseException as error:
                outcome.append(error)
            else:
                outcome.append(None)

        await asyncio.create_task(run())
        if not cancelling.was_reached:
            return
        yield k, outcome[0]
    raise AssertionError(f"still waiting after {WAITS_MAX} waits")


async def _as_coroutine(work: Callable[[], Awaitable[Any]]) -> None:
    await work()
