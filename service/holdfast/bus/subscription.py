"""Subscriptions: what outlives a link, and how an async receiver gets its messages without holding up others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from holdfast.bus.link import Receive
from holdfast.bus.message import Msg, subject_bytes
from holdfast.bus.spawn import Spawned

PlainReceiver = Callable[[Msg], None]
AsyncReceiver = Callable[[Msg], Awaitable[None]]


@dataclass(slots=True)
class BusStats:
    """What a bus has done since it was made; plain counters for whoever exports them."""

    published: int = 0
    publish_dropped: int = 0
    """Not sent because the server was away or did not read."""
    received: int = 0
    receive_dropped: int = 0
    """Arrived while a subscription's backlog was full."""
    hints_suppressed: int = 0
    """Hints not sent because `drop_hints` is on."""
    requests: int = 0
    request_timeouts: int = 0
    no_responders: int = 0
    outcomes_unknown: int = 0
    """Requests whose connection was lost before the answer came."""
    responses: int = 0
    response_errors: int = 0
    acked: int = 0
    """Messages that a stream confirmed."""
    connects: int = 0
    disconnects: int = 0
    connect_failures: int = 0
    streams_ensured: int = 0

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(0, self.connects - 1)


class Subscription:
    """Interest in a subject, restored on every new link until `unsubscribe`."""

    __slots__ = ("_close", "_ready", "queue_group", "receive", "sid", "subject")

    def __init__(
        self,
        sid: bytes,
        subject: str,
        queue_group: str | None,
        receive: Receive,
        close: Callable[[Subscription], None],
    ) -> None:
        self.sid = sid
        self.subject = subject
        self.queue_group = queue_group
        self.receive = receive
        self._close = close
        self._ready = asyncio.Event()

    @property
    def command(self) -> bytes:
        """The protocol command that subscribes."""
        group = subject_bytes(self.queue_group) if self.queue_group else b""
        return b"SUB %b %b %b\r\n" % (subject_bytes(self.subject), group, self.sid)

    @property
    def is_ready(self) -> bool:
        """Whether the server is known to deliver now."""
        return self._ready.is_set()

    async def ready(self) -> None:
        """Return once the server has processed the subscription: what is published from then on arrives.

        While the server is away this waits for it, however long; the caller brings the timeout.
        """
        await self._ready.wait()

    def confirm(self) -> None:
        """The server has processed `command` on the present link."""
        self._ready.set()

    def suspend(self) -> None:
        """The link is gone."""
        self._ready.clear()

    async def unsubscribe(self) -> None:
        """Get no further messages. Receivers that are running already finish."""
        self._close(self)


def run_inline(receiver: PlainReceiver, stats: BusStats) -> Receive:
    """Call *receiver* as each message arrives: cheap, and nothing else is read meanwhile, so it must be quick."""

    def receive(subject: bytes, reply: bytes, data: bytes, raw_headers: bytes | None) -> None:
        stats.received += 1
        receiver(Msg(subject.decode(), reply.decode(), data, raw_headers))

    return receive


@dataclass(frozen=True, kw_only=True, slots=True)
class Intake:
    """How much an async receiver may hold: at work at once, waiting behind that, and bytes of both together."""

    concurrency: int = 64
    backlog_max: int = 8_192
    bytes_max: int = 32 * 1024 * 1024


def hand_off(
    receiver: AsyncReceiver, spawned: Spawned, stats: BusStats, intake: Intake, refuse: PlainReceiver | None
) -> Receive:
    """Run *receiver* beside the reading, several messages at once, begun in order of arrival.

    What exceeds the intake goes to *refuse*, if given, and is dropped and counted: a receiver that stopped must
    not eat the memory. A single message is always taken.
    """
    backlog: deque[Msg] = deque()
    running = 0
    held_bytes = 0

    async def work(msg: Msg) -> None:
        nonlocal running, held_bytes
        try:
            await receiver(msg)
        finally:
            running -= 1
            held_bytes -= len(msg.data)
            if backlog:
                running += 1
                spawned.spawn(work(backlog.popleft()))

    def receive(subject: bytes, reply: bytes, data: bytes, raw_headers: bytes | None) -> None:
        nonlocal running, held_bytes
        stats.received += 1
        msg = Msg(subject.decode(), reply.decode(), data, raw_headers)
        is_room = running == 0 or (held_bytes + len(data) <= intake.bytes_max)
        if is_room and running < intake.concurrency:
            running += 1
            held_bytes += len(data)
            spawned.spawn(work(msg))
        elif is_room and len(backlog) < intake.backlog_max:
            held_bytes += len(data)
            backlog.append(msg)
        else:
            stats.receive_dropped += 1
            if refuse is not None:
                refuse(msg)

    return receive
