"""The change feed as a consumer outside of Holdfast reads it: with a NATS client of its own, from the stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, DeliverPolicy

from holdfast.wire import codec
from holdfast.wire.events import StoredEvent
from holdfast.wire.records import JournalEntry

STREAM = "HF_EVENT"
AGAIN_S = 0.2
READ_S = 10.0


@dataclass(frozen=True)
class Told:
    """One message: of a run's events, or of a journal entry."""

    id: str
    subject: str
    run_id: str = ""
    events: tuple[StoredEvent, ...] = ()
    entry: JournalEntry | None = None


class Consumer:
    """Reads from the position where it stopped, drops what it has seen by message id, and keeps the rest in order.

    A stream that was made anew is read from its beginning.
    """

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.doubles = 0
        self.position = 0
        self._made_at: object = None
        self._ids: set[str] = set()

    async def read(self, nats_url: str) -> None:
        """Everything that the stream has now."""
        connection = await _connect(nats_url)
        try:
            await self._read(connection)
        finally:
            await connection.close()

    async def follow(self, nats_url: str, is_over: asyncio.Event) -> None:
        """Read again and again, whatever happens to the broker, until *is_over*.

        Not to be cancelled: the client tells a cancellation as a lost connection when it has lost one. A connection
        is given up only when it is gone: the client leaks one whose server does not greet.
        """
        connection: Client | None = None
        try:
            while not is_over.is_set():
                try:
                    if connection is None or connection.is_closed:
                        connection = await _connect(nats_url)
                    async with asyncio.timeout(READ_S):
                        await self._read(connection)
                except (TimeoutError, NatsError, OSError):
                    # Away. The position says where to go on.
                    pass
                await asyncio.sleep(AGAIN_S)
        finally:
            if connection is not None:
                await connection.close()

    async def _read(self, connection: Client) -> None:
        stream = connection.jetstream()
        info = await stream.stream_info(STREAM)
        if info.created != self._made_at:
            self._made_at, self.position = info.created, 0
        if info.state.last_seq <= self.position:
            return
        start = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self.position + 1
        )
        subscription = await stream.subscribe("hf.>", stream=STREAM, ordered_consumer=True, config=start)
        while self.position < info.state.last_seq:
            self._take(await subscription.next_msg(timeout=3))
        await subscription.unsubscribe()

    def _take(self, message: Msg) -> None:
        self.position = message.metadata.sequence.stream
        told = _told(message)
        if told.id in self._ids:
            self.doubles += 1
            return
        self._ids.add(told.id)
        self.told.append(told)


def _told(message: Msg) -> Told:
    headers = message.headers or {}
    if message.subject.startswith("hf.journal."):
        return Told(headers["Nats-Msg-Id"], message.subject, entry=codec.decode(message.data, JournalEntry))
    events: list[StoredEvent] = codec.decode(message.data, list[StoredEvent])
    return Told(headers["Nats-Msg-Id"], message.subject, headers["Holdfast-Run"], tuple(events))


async def _connect(nats_url: str) -> Client:
    return await nats.connect(nats_url, allow_reconnect=False, connect_timeout=2, error_cb=_quiet)


async def _quiet(_: Exception) -> None:
    """The broker is killed on purpose."""


async def read_feed(nats_url: str) -> dict[str, list[int]]:
    """The event numbers of each run, in the order in which the stream has them, once each message id."""
    consumer = Consumer()
    await consumer.read(nats_url)
    found: dict[str, list[int]] = {}
    for told in consumer.told:
        if told.run_id:
            found.setdefault(told.run_id, []).extend(event.seq for event in told.events)
    return found
