"""Coroutines that run beside their caller: the one place where the bus creates asyncio tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger(__name__)


class Spawned:
    """What a bus runs in the background, referenced until it ends; an error that escapes is logged."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._is_finished = False

    def __len__(self) -> int:
        """How much is running."""
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* soon, without anybody awaiting it. After `finish` it is thrown away instead."""
        if self._is_finished:
            work.close()
            return
        running = asyncio.get_running_loop().create_task(work)
        self._running.add(running)
        running.add_done_callback(self._ended)

    def _ended(self, ended: asyncio.Task[None]) -> None:
        self._running.discard(ended)
        if not ended.cancelled() and (error := ended.exception()) is not None:
            _log.error("background work of the bus failed: %r", error, exc_info=error)

    async def finish(self, grace_s: float) -> None:
        """Wait until everything has ended, at most *grace_s* seconds; what is left then is cancelled."""
        if self._running and grace_s > 0:
            await asyncio.wait(self._running, timeout=grace_s)
        self._is_finished = True
        running = set(self._running)
        for late in running:
            late.cancel()
        if running:
            await asyncio.wait(running)
