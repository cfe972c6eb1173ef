"""What the clock asks: fire due timers, end lapsed leases and timeouts, find tasks that no hint found.

One statement a second tells whether there is anything to do; an idle system runs no other.
Due work is found by state, never by position, and decided in the journal like everything else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from holdfast.core.requests import ExpireTask, FireTimer
from holdfast.engine.engine import Engine
from holdfast.engine.loops import TRANSIENT
from holdfast.engine.transact import Change
from holdfast.exceptions import HoldfastError
from holdfast.metrics import replace
from holdfast.store import due_work, journal, tally
from holdfast.wire.subjects import TaskKind

STEP_MAX = 1_000
RESCUE_AFTER_S = 0.25
"""A task that stayed ready this long was missed by its hint, or its queue is behind."""

SPARED_S = 5.0
"""Workers try to be back every second; longer than this, what a dead one held would wait too long after an outage."""
REQUESTS_KEPT_S = 48 * 3600.0
FORGET_EVERY_S = 600.0
FORGET_MAX = 5_000


class Clock:
    """The steps and what they remember between passes."""

    def __init__(
        self,
        engine: Engine,
        *,
        sweep_s: float = 1.0,
        sweep_away_s: float = 0.25,
        spared_s: float = SPARED_S,
        hear_schedule: Callable[[float | None], None] | None = None,
    ) -> None:
        self._engine = engine
        self._spared_s = spared_s
        # Told in how many seconds the next schedule is due, so that the scheduler needs no pulse of its own.
        self._hear_schedule = hear_schedule
        self._sweep_s = sweep_s
        self._sweep_away_s = sweep_away_s
        self._bus_up_since = time.monotonic()
        self._was_up = False

    async def step(self) -> int:
        """One pass: ask what is due, and do it. Returns how many things were handled."""
        engine = self._engine
        self._watch_bus()
        engine.next_due_at = time.monotonic() + self._longest_s()
        self._sleep_until(engine.next_backoff_s())
        pulse = await due_work.pulse(engine.pool)
        handled = 0
        if pulse.next_timer_s is not None and pulse.next_timer_s <= 0:
            handled += await self._fire_timers()
        elif pulse.next_timer_s is not None:
            self._sleep_until(pulse.next_timer_s)
        if pulse.next_deadline_s is not None and pulse.next_deadline_s <= 0:
            handled += await self._expire()
        elif pulse.next_deadline_s is not None:
            self._sleep_until(pulse.next_deadline_s)
        await self._sweep(has_waiting=pulse.has_waiting)
        engine.metrics.outbox_lag.set(max(pulse.oldest_owed_s or 0.0, 0.0))
        if self._hear_schedule is not None:
            self._hear_schedule(pulse.next_schedule_s)
        if pulse.has_journal:
            engine.owe_journal()
        if pulse.oldest_owed_s is not None:
            engine.feed_wake.set()
        return handled

    async def forget(self) -> int:
        """Drop request ids that nobody repeats any more, and workers that are gone; a pass every ten minutes.

        The counts of closed runs are added up, so that reading them stays cheap.
        """
        self._engine.credits.forget_silent(time.monotonic())
        await tally.add_up(self._engine.pool)
        return await journal.forget_requests(self._engine.pool, REQUESTS_KEPT_S, FORGET_MAX)

    def idle_s(self) -> float:
        """How long to wait after a pass that found nothing: until what is due next, at most a sweep."""
        until = self._engine.next_due_at - time.monotonic()
        return min(max(until, 0.001), self._longest_s())

    def _longest_s(self) -> float:
        return self._sweep_s if self._engine.bus.is_connected else self._sweep_away_s

    def _sleep_until(self, in_s: float) -> None:
        self._engine.next_due_at = min(self._engine.next_due_at, time.monotonic() + in_s)

    def _watch_bus(self) -> None:
        is_up = self._engine.bus.is_connected
        if is_up and not self._was_up:
            self._bus_up_since = time.monotonic()
        self._was_up = is_up

    @property
    def _spares_leases(self) -> bool:
        """Workers that cannot reach us are not dead: after the bus is back they get some time to say so."""
        spared_s = min(self._engine.lease_s, self._spared_s)
        return not self._was_up or time.monotonic() - self._bus_up_since < spared_s

    async def _fire_timers(self) -> int:
        due = await due_work.due_timers(self._engine.pool, STEP_MAX)
        for timer in due:
            self._engine.metrics.timer_lateness.observe(timer.late_s)
        return await self._decide(
            [Change(timer.namespace, FireTimer(timer.seq), run_id=timer.run_id) for timer in due]
        )

    async def _expire(self) -> int:
        spare = self._spares_leases
        due = await due_work.due_tasks(self._engine.pool, STEP_MAX, spare_leases=spare)
        handled = await self._decide(
            [Change(task.namespace, ExpireTask(task.seq, spare), run_id=task.run_id) for task in due]
        )
        for task in due:
            if task.worker is not None and not spare:
                self._engine.metrics.leases_expired.labels("activity" if task.seq else "workflow").inc()
                self._engine.credits.forget(task.namespace, task.worker)
        return handled

    async def _decide(self, changes: list[Change]) -> int:
        """How many of the changes had an effect. One that is refused is nobody's answer."""
        futures = [self._engine.changes.submit(change) for change in changes]
        if futures:
            await asyncio.wait(futures)
        handled = 0
        for future in futures:
            error = future.exception()
            if error is None:
                handled += bool(future.result().answer)
            elif isinstance(error, TRANSIENT) or not isinstance(error, HoldfastError):
                raise error
        return handled

    async def _sweep(self, *, has_waiting: bool) -> None:
        """Hint again for queues with tasks that nobody took."""
        engine = self._engine
        ages: dict[tuple[str, ...], float] = {}
        counts: dict[tuple[str, ...], float] = {}
        for queue in await due_work.ready_queues(engine.pool) if has_waiting else ():
            kind: TaskKind = "workflow" if queue.is_workflow else "activity"
            age_s = queue.now - queue.oldest_ready_at
            ages[queue.namespace, queue.task_queue, kind] = age_s
            counts[queue.namespace, queue.task_queue, kind] = queue.ready
            if age_s >= RESCUE_AFTER_S:
                engine.metrics.sweep_rescues.labels(kind).inc()
            # A retry whose backoff has just ended was never hinted: nobody committed anything then.
            engine.hint(queue.namespace, kind, queue.task_queue, queue.oldest_ready_at)
            engine.nudge(queue.namespace, queue.task_queue, is_workflow=queue.is_workflow)
        replace(engine.metrics.backlog_age, ages)
        replace(engine.metrics.backlog, counts)
