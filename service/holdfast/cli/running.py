"""How a long-lived command runs: one event loop, logs set up, a signal ends it in order.

The first SIGTERM or SIGINT cancels the main coroutine, which drains and cleans up; a second
one ends the process at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from holdfast import logs
from holdfast.config import Config

_log = logging.getLogger(__name__)


def run_until_signal(main: Coroutine[Any, Any, None], config: Config) -> None:
    """Run *main* until it ends or a signal cancels it. Returns normally after a drain; errors pass through."""
    logs.configure(config.log_level, config.log_format)
    for name, nearest in config.unknown:
        _log.warning("%s is not a setting%s", name, f"; did you mean {nearest}?" if nearest else "")
    # What was imported stays; the collector need not look at it again, nor at every few hundred messages.
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_until_signal(main))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, or None (asyncio's own) where it is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _until_signal(main: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()
    asked: list[signal.Signals] = []

    def ask(number: signal.Signals) -> None:
        if asked:
            os._exit(128 + number)
        asked.append(number)
        _log.info("stopping on %s; a second signal ends at once", number.name)
        if running is not None:
            running.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    try:
        await main
    except asyncio.CancelledError:
        if not asked:
            raise
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
