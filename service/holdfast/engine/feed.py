"""The change feed: what the outbox owes, published in order by one relay, forgotten after the acknowledgement.

A message holds one run's events of one transaction; its id is the run and its first event
number, so a message published twice is dropped by the stream. Order holds per run: rows of
one run are inserted under its lock, with rising ids, and one relay publishes by id.

What is promised: every message at least once, and the first time a message id appears, it stands in
its run's order. A relay that was frozen asks its own clock before each message and the
database before each part of a page, so that it publishes nothing that it read before its time
was over. What it had given to the socket by then may still arrive. The stream drops that for two
minutes after the first time; after that it is there once more, and a consumer drops it by its id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import msgspec

from holdfast.engine.engine import Engine
from holdfast.store import journal_feed, outbox, views
from holdfast.wire import codec, subjects
from holdfast.wire import events as e
from holdfast.wire.records import JournalEntry

ROLE = "feed"
PAGE = 500
TTL_S = 10.0
LINGER_S = 0.02
PAGE_BYTES = 16 * 1024 * 1024
PART = 100
PART_BYTES = 1024 * 1024
EVENTS_MAX = 50_000
HEADER_ROOM_BYTES = 16 * 1024
NAMES_BYTES = 12 * 1024
Message = tuple[str, bytes, dict[str, str]]
LIFECYCLE = frozenset({"WorkflowStarted", *(kind.__name__ for kind in e.CLOSING)})


class Relay:
    """The relay of this process; at most one of all processes works at a time."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._epoch: int | None = None
        self._asked_at = -TTL_S
        self._retry_at = 0.0

    async def step(self) -> int:
        """Publish one page of what is owed. Returns how many rows were settled."""
        engine = self._engine
        # The feed may come a moment later, so that a run's next turns travel along and the run itself goes first.
        await asyncio.sleep(LINGER_S)
        if not engine.bus.is_connected or not await self._lead():
            return 0
        told = await self._publish_journal() if engine.is_journal_owed else 0
        owed = await outbox.read_owed(engine.pool, PAGE)
        engine.metrics.outbox_rows.set(len(owed))
        if not owed:
            return told
        messages, settled = await self._messages(owed)
        if not await self._publish(messages):
            return told
        await outbox.delete_owed(engine.pool, settled, ROLE, engine.name, self._epoch or 0)
        engine.metrics.events_published.inc(len(messages))
        return told + len(settled)

    async def _publish_journal(self) -> int:
        """Publish one page of what is not history. Returns how many entries were settled."""
        engine = self._engine
        engine.is_journal_owed = False
        owed = await journal_feed.read_journal(engine.pool, PAGE)
        messages = [_entry_message(row) for row in owed if row.feed != "off"]
        if messages:
            # Whatever goes wrong now is owed still.
            engine.is_journal_owed = True
            if not await self._publish(messages):
                return 0
        if owed:
            await journal_feed.delete_journal(
                engine.pool, [row.id for row in owed], ROLE, engine.name, self._epoch or 0
            )
        engine.is_journal_owed = len(owed) == PAGE
        engine.metrics.events_published.inc(len(messages))
        return len(owed)

    def idle_s(self) -> float:
        """The relay sleeps until a commit or the clock's pulse wakes it."""
        return 60.0

    async def _lead(self) -> bool:
        """Whether this process is the relay. Trusted for half the time it was granted for, from before it asked."""
        now = self._clock()
        if now < self._asked_at + TTL_S / 2:
            return True
        if now < self._retry_at:
            return False
        self._epoch = await outbox.take_role(self._engine.pool, ROLE, self._engine.name, TTL_S)
        if self._epoch is None:
            self._retry_at = now + 1.0
            return False
        self._asked_at = now
        return True

    def _may_send(self) -> bool:
        """Whether nobody else can be the relay yet, by this process's own clock."""
        return self._clock() < self._asked_at + TTL_S

    async def _publish(self, messages: list[Message]) -> bool:
        """Publish what was read; False, with the rest unpublished, once another process may have been the relay since."""
        epoch = self._epoch
        for part in _parts(messages):
            if not await self._lead() or self._epoch != epoch:
                return False
            await self._engine.bus.publish_acked(part, may_send=self._may_send)
        return True

    async def _messages(self, owed: list[outbox.Owed]) -> tuple[list[Message], list[int]]:
        """The messages for as many of *owed*, from the front, as may be held at once, and the ids of these."""
        room_bytes = self._engine.bus.max_payload_bytes - HEADER_ROOM_BYTES
        told = [row for row in owed if row.feed != "off"]
        events = await views.read_events(
            self._engine.pool,
            [(row.run_id, row.first_seq - 1, row.last_seq) for row in told],
            limit=EVENTS_MAX,
            run_bytes=room_bytes,
            total_bytes=PAGE_BYTES,
        )
        by_place = {(event.run_id, event.seq): event for event in events}
        messages: list[Message] = []
        settled: list[int] = []
        for row in owed:
            if row.feed != "off":
                places = [(row.run_id, seq) for seq in range(row.first_seq, row.last_seq + 1)]
                found = [by_place[place] for place in places if place in by_place]
                is_whole = len(found) == len(places)
                if not is_whole and settled:
                    # More than may be held at once: the first of the next page.
                    break
                if is_whole:
                    message = _message(row, [event.type for event in found], found, room_bytes)
                else:
                    # Larger than a page, or purged.
                    names = await views.event_types(
                        self._engine.pool, row.run_id, row.first_seq, row.last_seq
                    )
                    message = _message(row, names, None, room_bytes)
                if message is not None:
                    messages.append(message)
            settled.append(row.id)
        return messages, settled


def _parts(messages: list[Message]) -> Iterator[list[Message]]:
    """The messages in parts that are sent well within the time for which the role is held."""
    part: list[Message] = []
    part_bytes = 0
    for message in messages:
        part.append(message)
        part_bytes += len(message[1])
        if len(part) == PART or part_bytes >= PART_BYTES:
            yield part
            part, part_bytes = [], 0
    if part:
        yield part


def _entry_message(row: journal_feed.OwedEntry) -> Message:
    """The message of one journal entry. Its id is the entry's number and moment: a restored database counts again."""
    entry = codec.decode(row.entry, JournalEntry)
    body = codec.encode(msgspec.structs.replace(entry, at=row.at))
    headers = {
        "Nats-Msg-Id": f"journal:{row.id}:{row.at}",
        "Holdfast-Fact": entry.fact,
    }
    return subjects.journal(row.namespace, row.record), body, headers


def _message(
    row: outbox.Owed, names: list[str], found: list[views.EventRow] | None, room_bytes: int
) -> Message | None:
    """The message of one run and transaction, with *found* or, if that is None or too large, without its events.

    None if there is nothing to tell.
    """
    if row.feed == "lifecycle":
        names = [name for name in names if name in LIFECYCLE]
        found = None if found is None else [event for event in found if event.type in LIFECYCLE]
    if not names:
        return None
    listed = ",".join(names)
    if len(listed) > NAMES_BYTES:
        # Each once: a stream takes no larger headers, and who waits for a name still finds it.
        listed = ",".join(dict.fromkeys(names))
    headers = {
        "Nats-Msg-Id": f"{row.run_id}:{row.first_seq}",
        "Holdfast-Run": row.run_id,
        "Holdfast-Events": listed,
    }
    body = _body(found or [])
    if found is None or len(body) > room_bytes:
        # Larger than the broker takes: the reader is told which events these are, and reads them by number.
        headers["Holdfast-Omitted"] = f"{row.first_seq}-{row.last_seq}"
        body = _body([])
    return subjects.event(row.namespace, row.workflow_type, row.workflow_id), body, headers


def _body(events: list[views.EventRow]) -> bytes:
    stored = [e.StoredEvent(event.seq, event.recorded_at, codec.raw(event.body)) for event in events]
    return codec.encode(stored)
