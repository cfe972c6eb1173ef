"""Time that is skipped: tables whose clock goes on by itself, and who moves it ahead when everybody only waits.

Time runs at its own pace, so that whatever really takes time does so here too. It jumps to the next due moment when a
result or a sleep is awaited, no message has been sent for some turns of the event loop, and no worker holds a task. It
never jumps over the lease of a worker that lives, since who holds one is working.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from holdfast.bus.local import LocalBus
from holdfast.engine.loops import start
from holdfast.memory import MemoryEngine, Tables
from holdfast.sdk.rpc import Rpc
from holdfast.wire import subjects

STILL_TURNS = 20
"""So many turns of the loop without a message, and nobody is about to send one: who is would need two or three."""
SETTLE_S = 0.05
"""How long stillness is waited for before what is due is done all the same."""
TICK_S = 1e-6
"""Times are floats: a moment is over only a little later."""


class FlowingTables(Tables):
    """Tables whose time passes as it does everywhere, from a moment that may be set ahead."""

    def __init__(self, now: float, namespaces: Iterable[str]) -> None:
        self._ahead_s = 0.0
        super().__init__(now, namespaces)

    @property
    def now(self) -> float:
        """The time in epoch seconds."""
        return self._ahead_s + time.monotonic()

    @now.setter
    def now(self, at: float) -> None:
        self._ahead_s = at - time.monotonic()


class Skipper:
    """Does what falls due in an engine, and skips the time until then while it may."""

    def __init__(self, engine: MemoryEngine, bus: LocalBus) -> None:
        self._engine = engine
        self._bus = bus
        self._wake = asyncio.Event()
        self._looked_at = engine.now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._awaited = 0
        self._disabled = 0

    @property
    def now(self) -> float:
        """The time in epoch seconds."""
        return self._engine.now

    def rpc(self, namespace: str) -> Rpc:
        """Calls into a namespace of the engine; while a result is awaited by them, time may be skipped."""
        return SkippingRpc(self._bus, namespace, self)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within the block, time has effects."""
        stop = asyncio.Event()
        self._bus.on_traffic = self._wake.set
        loop = start([self._run()], stop)
        try:
            yield
        finally:
            self._bus.on_traffic = None
            stop.set()
            await loop

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Within, somebody waits for a result: time may be skipped."""
        self._awaited += 1
        self._wake.set()
        try:
            yield
        finally:
            self._awaited -= 1

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within, nothing is skipped for the sake of results."""
        self._disabled += 1
        try:
            yield
        finally:
            self._disabled -= 1
            self._wake.set()

    async def sleep(self, seconds: float) -> None:
        """Return when so much time has passed, skipped or not."""
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._engine.now + seconds, next(self._numbers), woken))
        self._wake.set()
        try:
            await woken
        finally:
            self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[2] is not woken]
            heapq.heapify(self._sleepers)

    # -- the loop ----------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._until_needed()
            await self._step(is_still=await self._settled())

    async def _until_needed(self) -> None:
        """Until something is sent, somebody begins to wait, or the next moment comes by itself."""
        due = self._next_due()
        alarm = None
        if due is not None:
            in_s = max(due - self._engine.now, 0.0)
            alarm = asyncio.get_running_loop().call_later(in_s, self._wake.set)
        await self._wake.wait()
        if alarm is not None:
            alarm.cancel()

    async def _settled(self) -> bool:
        """Whether everybody has become still; False if that takes too long."""
        give_up_at, still = time.monotonic() + SETTLE_S, 0
        while still < STILL_TURNS:
            self._wake.clear()
            await asyncio.sleep(0)
            still = 0 if self._wake.is_set() else still + 1
            if time.monotonic() > give_up_at:
                return False
        return True

    async def _step(self, *, is_still: bool) -> None:
        """Do what is due, and before that make it due, if that is allowed."""
        due = self._next_due()
        if due is None:
            return
        if due > self._engine.now:
            if not is_still or not self._may_skip or self._is_somebody_working():
                return
            self._engine.tables.now = due + TICK_S
        # A moment that comes while it is being looked at is looked at again.
        self._looked_at = self._engine.now
        while self._sleepers and self._sleepers[0][0] <= self._looked_at:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)
        await self._engine.look()
        self._wake.set()

    def _next_due(self) -> float | None:
        moments = [self._engine.tables.next_due(self._looked_at)]
        moments += [at for at, _, _ in self._sleepers[:1]]
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def _may_skip(self) -> bool:
        return bool(self._sleepers) or (self._awaited > 0 and not self._disabled)

    def _is_somebody_working(self) -> bool:
        """Whether a worker that lives holds a task. What a dead one held ends in skipped time."""
        holders = {
            (task.namespace, task.worker)
            for task in self._engine.tables.tasks.values()
            if task.worker is not None
        }
        return any(self._bus.is_heard(subjects.worker(*holder)) for holder in holders)


class SkippingRpc(Rpc):
    """Calls of a client whose waiting for results lets time be skipped."""

    def __init__(self, bus: LocalBus, namespace: str, skipper: Skipper) -> None:
        super().__init__(bus, namespace)
        self._skipper = skipper

    async def poll(
        self, verb: str, request: Any, is_enough: Callable[[Any], bool], timeout_s: float | None
    ) -> Any:
        """As `Rpc.poll`."""
        with self._skipper.awaited():
            return await super().poll(verb, request, is_enough, timeout_s)
