"""Who waits for which run to close, and how runs ended lately. In memory: whoever lost their place asks again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from holdfast.exceptions import NotFound
from holdfast.store import views
from holdfast.store.session import Pool
from holdfast.wire import codec
from holdfast.wire import events as e
from holdfast.wire import messages as m

OUTCOMES_KEPT = 10_000
KNOWN_MAX = 100_000
KEPT_BYTES_MAX = 16 * 1024


class Outcomes:
    """The outcomes of this process. A run started here needs no look at the database until it closes."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiters: dict[str, list[asyncio.Future[m.Outcome]]] = {}
        self._outcomes: OrderedDict[str, m.Outcome] = OrderedDict()
        # Runs started here: their namespace and workflow id, and whether they are open as far as this process knows.
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._open: set[str] = set()

    def opened(self, namespace: str, workflow_id: str, run_id: str) -> None:
        """A run was started here."""
        self._known[run_id] = namespace, workflow_id
        self._open.add(run_id)
        if len(self._known) > KNOWN_MAX:
            self._open.discard(self._known.popitem(last=False)[0])

    def knows(self, namespace: str, workflow_id: str, run_id: str) -> bool:
        """Whether the run was started here, as one of this workflow, and not too long ago."""
        return self._known.get(run_id) == (namespace, workflow_id)

    async def wait(self, run_id: str, wait_s: float) -> m.Outcome:
        """The run's outcome, waiting up to *wait_s* for it. `event` is None if it is still open then."""
        known = self._outcomes.get(run_id)
        if known is not None:
            return known
        # The waiter is in place before anything is read, so that a close in between is not missed.
        future: asyncio.Future[m.Outcome] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(run_id, []).append(future)
        try:
            if run_id not in self._open:
                read = await self._read(run_id)
                if read.event is not None:
                    return read
            try:
                async with asyncio.timeout(wait_s):
                    return await future
            except TimeoutError:
                return await self._read(run_id)
        finally:
            waiters = self._waiters.get(run_id)
            if waiters is not None and future in waiters:
                waiters.remove(future)
                if not waiters:
                    del self._waiters[run_id]

    def heard_closed(self, run_id: str) -> bool:
        """Some process says that the run closed: it is believed open no longer. Whether anybody waits for it here."""
        self._open.discard(run_id)
        return run_id in self._waiters

    def doubt(self) -> None:
        """What was said of closed runs may have been missed: believe of none that it is open."""
        self._open.clear()

    async def look(self, run_id: str) -> None:
        """Another process says that the run closed: see for ourselves."""
        await self._read(run_id)

    async def _read(self, run_id: str) -> m.Outcome:
        row = (await views.outcomes(self._pool, [run_id])).get(run_id)
        if row is None:
            raise NotFound(f"no run {run_id}")
        event = None
        if row.closed_at is not None and row.body is not None:
            event = e.HistoryEvent(
                row.last_seq, row.recorded_at or row.closed_at, codec.decode_event(row.body)
            )
        outcome = m.Outcome(run_id=run_id, status=row.status, event=event)
        if event is not None:
            self.settle(outcome)
        return outcome

    def settle(self, outcome: m.Outcome) -> None:
        """The run closed with *outcome*: tell whoever waits, and keep it for those who ask soon."""
        self._open.discard(outcome.run_id)
        if outcome.event is not None and _is_small(outcome.event.event):
            self._outcomes[outcome.run_id] = outcome
        if len(self._outcomes) > OUTCOMES_KEPT:
            self._outcomes.popitem(last=False)
        for future in self._waiters.pop(outcome.run_id, ()):
            if not future.done():
                future.set_result(outcome)


def _is_small(event: e.AnyEvent) -> bool:
    """Whether the closing event may be kept: thousands of large ones would fill the memory."""
    size = len(event.result) if isinstance(event, e.WorkflowCompleted) else len(codec.encode_event(event))
    return size <= KEPT_BYTES_MAX
