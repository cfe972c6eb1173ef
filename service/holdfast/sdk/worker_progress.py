"""What a running activity says about its progress, thinned out on its way to the service.

The newest details win. The first heartbeat leaves at once, later ones at most once per interval, so that
heartbeating in a tight loop costs nothing; the interval is short enough for the heartbeat timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from holdfast.exceptions import HoldfastError, Invalid, Unavailable
from holdfast.sdk.worker_settings import WorkerSettings, log
from holdfast.wire import messages as m

RETRY_S = 1.0
FLUSH_TIMEOUT_S = 5.0


class Progress:
    """The heartbeats of one attempt. `on_stop` is called when an answer says that it should stop."""

    __slots__ = (
        "_details",
        "_interval_s",
        "_is_closed",
        "_loop",
        "_next_at",
        "_on_stop",
        "_sending",
        "_settings",
        "_task",
        "_timer",
        "is_lost",
    )

    def __init__(
        self,
        settings: WorkerSettings,
        task: m.ActivityTask,
        loop: asyncio.AbstractEventLoop,
        on_stop: Callable[[], None],
    ) -> None:
        self.is_lost = False
        self._settings = settings
        self._task = task
        self._loop = loop
        self._on_stop = on_stop
        self._details: bytes | None = None
        self._sending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0
        self._is_closed = False
        wanted_s = task.heartbeat_s * 0.8 if task.heartbeat_s else settings.default_heartbeat_throttle_s
        self._interval_s = min(wanted_s, settings.max_heartbeat_throttle_s)

    def note(self, *details: Any) -> None:
        """The activity lives, and has come so far. On the event loop."""
        self._noted(self._settings.converter.encode_args(details))

    def note_from_thread(self, *details: Any) -> None:
        """As `note`, from the thread of a synchronous activity."""
        encoded = self._settings.converter.encode_args(details)
        self._loop.call_soon_threadsafe(self._noted, encoded)

    async def flush(self) -> None:
        """Send what has been noted and not sent: the next attempt is to know it. After `close`."""
        if self._sending is not None:
            await asyncio.wait([self._sending])
        if self._details is not None and not self.is_lost:
            await self._send(FLUSH_TIMEOUT_S)

    def close(self) -> None:
        """The activity has ended."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _noted(self, details: bytes) -> None:
        self._details = details
        if self._sending is None and self._timer is None:
            self._when_due()

    def _when_due(self) -> None:
        self._timer = None
        if self._is_closed or self._details is None:
            return
        wait_s = self._next_at - self._loop.time()
        if wait_s > 0:
            self._timer = self._loop.call_later(wait_s, self._when_due)
        else:
            self._sending = self._loop.create_task(self._send_and_go_on())

    async def _send_and_go_on(self) -> None:
        self._next_at = self._loop.time() + self._interval_s
        await self._send(self._interval_s)
        self._sending = None
        self._when_due()

    async def _send(self, timeout_s: float) -> None:
        details, self._details = self._details, None
        task = self._task
        request = m.ActivityHeartbeat(
            run_id=task.run_id,
            seq=task.seq,
            fence=task.fence,
            worker=self._settings.worker,
            details=details or b"",
        )
        try:
            answer: m.HeartbeatAnswer = await self._settings.rpc.call(
                "activity_heartbeat", request, timeout_s
            )
        except Unavailable as error:
            log.debug("heartbeat of activity %s could not be delivered: %s", task.name, error)
            if self._details is None:
                self._details = details
            self._next_at = self._loop.time() + min(RETRY_S, self._interval_s)
        except Invalid as error:
            log.warning("heartbeat of activity %s was refused: %s", task.name, error)
        except HoldfastError:
            # The lease is somebody else's, or the activity is settled.
            self.is_lost = True
            if not self._is_closed:
                self._on_stop()
        else:
            if answer.is_cancel_requested and not self._is_closed:
                self._on_stop()
