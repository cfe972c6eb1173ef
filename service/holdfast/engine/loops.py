"""How background work runs: a step does one pass, `repeat` loops it, `serve` supervises the loops.

Named transient errors back off; anything else is a bug and ends the process. This is the
only module of the service that makes tasks.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from holdfast.exceptions import Unavailable
from holdfast.store.session import Conflict

log = logging.getLogger("holdfast.engine")

TRANSIENT = (Unavailable, Conflict)
BACKOFF_MAX_S = 2.0


async def repeat(
    name: str,
    step: Callable[[], Awaitable[int]],
    idle_s: Callable[[], float],
    wake: asyncio.Event | None = None,
) -> None:
    """Run *step* for ever. A pass that handled something is followed at once by the next.

    After an empty pass it waits `idle_s()` seconds (with a tenth of jitter) or until *wake*
    is set. Transient errors are told once, waited out with growing delay, and told again
    when they are over.
    """
    failures = 0
    while True:
        try:
            handled = await step()
            if failures:
                log.info("%s: works again after %d failures", name, failures)
            failures = 0
        except TRANSIENT as error:
            if not failures:
                log.warning("%s: %s", name, error)
            failures += 1
            await asyncio.sleep(min(0.1 * 2.0**failures, BACKOFF_MAX_S) * random.uniform(0.5, 1.0))
            continue
        if handled:
            # Other work of the process gets its turn.
            await asyncio.sleep(0)
            continue
        await wait_for_wake(wake, idle_s() * random.uniform(0.95, 1.05))


async def wait_for_wake(wake: asyncio.Event | None, timeout_s: float) -> None:
    """Return when *wake* is set (and clear it) or after *timeout_s*."""
    if wake is None:
        await asyncio.sleep(timeout_s)
        return
    try:
        async with asyncio.timeout(timeout_s):
            await wake.wait()
    except TimeoutError:
        return
    wake.clear()


async def serve(loops: Sequence[Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
    """Run all loops until *stop* is set or one of them ends with a bug, then cancel the rest."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()


def start(loops: Sequence[Coroutine[Any, Any, None]], stop: asyncio.Event) -> asyncio.Future[None]:
    """`serve` in the background. The caller keeps the future, sets *stop*, and awaits it."""
    return asyncio.get_running_loop().create_task(serve(loops, stop))


class Spawner:
    """Short-lived background work that somebody must remember: pushes after a commit.

    An error other than a transient one is a bug; it is raised by `watch`.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._bug: asyncio.Future[None] | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def watch(self) -> None:
        """Raise the first bug of spawned work; a loop for `serve`."""
        self._bug = asyncio.get_running_loop().create_future()
        await self._bug

    async def finish(self, grace_s: float) -> None:
        """Wait up to *grace_s* for what is running, then cancel it."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if isinstance(error, TRANSIENT):
            log.warning("background work: %s", error)
        elif self._bug is not None and not self._bug.done():
            self._bug.set_exception(error)
        else:
            log.error("background work failed", exc_info=error)
