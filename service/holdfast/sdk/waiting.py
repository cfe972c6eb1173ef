"""Ways to wait that asyncio does not have, or has with an order that differs from run to run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

from holdfast.sdk.context import must_run

T = TypeVar("T")
F = TypeVar("F", bound="asyncio.Future[Any]")


async def condition(fn: Callable[[], bool], timeout_s: float | None) -> None:
    """Return once *fn* is true; it is asked whenever the code has nothing else to do."""
    run = must_run()
    waiter: asyncio.Future[None] = run.loop.create_future()
    run.conditions.append((fn, waiter))
    if timeout_s is None:
        await waiter
        return
    async with asyncio.timeout(timeout_s):
        await waiter


async def wait(
    fs: Iterable[F], *, timeout: float | None = None, return_when: str = asyncio.ALL_COMPLETED
) -> tuple[list[F], list[F]]:
    """As `asyncio.wait`, with lists in the order of *fs* instead of sets."""
    if asyncio.isfuture(fs) or asyncio.iscoroutine(fs):
        raise TypeError(f"Expect an iterable of Tasks/Futures, not {type(fs).__name__}")
    given = list(fs)
    if not given:
        raise ValueError("Sequence of Tasks/Futures must not be empty.")
    done, _ = await asyncio.wait(given, timeout=timeout, return_when=return_when)
    return [f for f in given if f in done], [f for f in given if f not in done]


def as_completed(fs: Iterable[Awaitable[T]], *, timeout: float | None = None) -> Iterator[Awaitable[T]]:
    """As `asyncio.as_completed`, starting the coroutines in the order of *fs*."""
    if asyncio.isfuture(fs) or asyncio.iscoroutine(fs):
        raise TypeError(f"expect an iterable of futures, not {type(fs).__name__}")
    loop = asyncio.get_running_loop()
    todo: list[asyncio.Future[T]] = [asyncio.ensure_future(f, loop=loop) for f in fs]
    done: asyncio.Queue[asyncio.Future[T] | None] = asyncio.Queue()
    timer: asyncio.TimerHandle | None = None

    def on_done(future: asyncio.Future[T]) -> None:
        if future not in todo:
            return  # the timeout came first in this turn
        todo.remove(future)
        done.put_nowait(future)
        if not todo and timer is not None:
            timer.cancel()

    def on_timeout() -> None:
        for future in todo:
            future.remove_done_callback(on_done)
            done.put_nowait(None)
        todo.clear()

    async def next_done() -> T:
        future = await done.get()
        if future is None:
            raise TimeoutError
        return future.result()

    for future in todo:
        future.add_done_callback(on_done)
    if todo and timeout is not None:
        timer = loop.call_later(timeout, on_timeout)
    for _ in range(len(todo)):
        yield next_done()
