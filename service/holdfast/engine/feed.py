"""The change feed: what the outbox owes, published in order by one relay, forgotten after the acknowledgement.

A message holds one run's events of one transaction; its id is the run and its first event
number, so a message published twice is dropped by the stream. Order holds per run: rows of
one run are inserted under its lock, with rising ids, and one relay publishes by id.
"""

from __future__ import annotations

import asyncio
import time

from holdfast.engine.engine import Engine
from holdfast.store import outbox, views
from holdfast.wire import codec, subjects
from holdfast.wire import events as e

ROLE = "feed"
PAGE = 500
TTL_S = 10.0
LINGER_S = 0.02
HEADER_ROOM_BYTES = 16 * 1024
LIFECYCLE = frozenset({"WorkflowStarted", *(kind.__name__ for kind in e.CLOSING)})


class Relay:
    """The relay of this process; at most one of all processes works at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._epoch: int | None = None
        self._held_until = 0.0
        self._retry_at = 0.0

    async def step(self) -> int:
        """Publish one page of what is owed. Returns how many rows were settled."""
        engine = self._engine
        # The feed may come a moment later, so that a run's next turns travel along and the run itself goes first.
        await asyncio.sleep(LINGER_S)
        if not engine.bus.is_connected or not await self._lead():
            return 0
        owed = await outbox.read_owed(engine.pool, PAGE)
        engine.metrics.outbox_rows.set(len(owed))
        if not owed:
            return 0
        messages = await self._messages([row for row in owed if row.feed != "off"])
        if messages:
            await engine.bus.publish_acked(messages)
        await outbox.delete_owed(engine.pool, [row.id for row in owed], ROLE, engine.name, self._epoch or 0)
        engine.metrics.events_published.inc(len(messages))
        return len(owed)

    def idle_s(self) -> float:
        """The relay sleeps until a commit or the clock's pulse wakes it."""
        return 60.0

    async def _lead(self) -> bool:
        """Whether this process is the relay. Trusted for half the time it was granted for, from before it asked."""
        asked_at = time.monotonic()
        if asked_at < self._held_until:
            return True
        if asked_at < self._retry_at:
            return False
        self._epoch = await outbox.take_role(self._engine.pool, ROLE, self._engine.name, TTL_S)
        if self._epoch is None:
            self._retry_at = asked_at + 1.0
            return False
        self._held_until = asked_at + TTL_S / 2
        return True

    async def _messages(self, owed: list[outbox.Owed]) -> list[tuple[str, bytes, dict[str, str]]]:
        rows = await views.read_events(
            self._engine.pool, [(row.run_id, row.first_seq - 1, row.last_seq) for row in owed], PAGE * 10
        )
        by_run: dict[str, dict[int, views.EventRow]] = {}
        for event in rows:
            by_run.setdefault(event.run_id, {})[event.seq] = event
        messages = []
        for row in owed:
            found = [by_run[row.run_id][seq] for seq in range(row.first_seq, row.last_seq + 1)]
            names = [event.type for event in found]
            if row.feed == "lifecycle":
                kept = [(event, name) for event, name in zip(found, names, strict=True) if name in LIFECYCLE]
                found, names = [event for event, _ in kept], [name for _, name in kept]
            if not found:
                continue
            headers = {
                "Nats-Msg-Id": f"{row.run_id}:{row.first_seq}",
                "Holdfast-Run": row.run_id,
                "Holdfast-Events": ",".join(names),
            }
            subject = subjects.event(row.namespace, row.workflow_type, row.workflow_id)
            body = _body(found)
            if len(body) > self._engine.bus.max_payload_bytes - HEADER_ROOM_BYTES:
                # Larger than the broker takes: the reader is told which events these are, and reads them by number.
                headers["Holdfast-Omitted"] = f"{row.first_seq}-{row.last_seq}"
                body = _body([])
            messages.append((subject, body, headers))
        return messages


def _body(events: list[views.EventRow]) -> bytes:
    stored = [e.StoredEvent(event.seq, event.recorded_at, codec.raw(event.body)) for event in events]
    return codec.encode(stored)
