"""Holdfast's bus: requests, hints and the two streams over one lasting connection.

What travels here is never the truth: losing, repeating or forging any of it changes latency only.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import msgspec

from holdfast.bus.connection import Connection
from holdfast.bus.link import LinkOptions
from holdfast.bus.respond import QUEUE_GROUP, REQUEST_INTAKE, Discovery, Responder, endpoint_for, respond
from holdfast.bus.streams import HeldHint, MaySend, Outgoing, StreamLimits, Streams, last_hints
from holdfast.bus.subscription import Intake, Subscription
from holdfast.wire import subjects
from holdfast.wire.messages import Hint
from holdfast.wire.subjects import TaskKind

_encode = msgspec.msgpack.Encoder().encode


class Bus(Connection):
    """The bus as services, clients and workers use it. `start` it inside a running loop.

    *servers*: `host:port`, `nats://user:password@host:port` or `tls://…`, one or several. *name* is shown by
    `nats server report connections`. `drop_hints`, for tests, makes `hint` publish nothing.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        name: str,
        request_timeout_s: float = 5.0,
        connect_timeout_s: float = 2.0,
        ping_interval_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
        credentials_file: str | None = None,
        inbox_prefix: str = "_INBOX",
        drop_hints: bool = False,
        version: str = "0.0.0",
    ) -> None:
        options = LinkOptions(
            name=name,
            connect_timeout_s=connect_timeout_s,
            ping_interval_s=ping_interval_s,
            tls=tls,
            credentials_file=credentials_file,
        )
        super().__init__(servers, options, inbox_prefix=inbox_prefix)
        self.drop_hints = drop_hints
        self.request_timeout_s = request_timeout_s
        self._discovery = Discovery(self, version)
        self._streams = Streams(self, request_timeout_s)

    async def request(self, subject: str, data: bytes, timeout_s: float | None = None) -> bytes:
        """The answer of whoever listens on *subject*; see `Connection.request` for what can happen instead."""
        return await super().request(
            subject, data, self.request_timeout_s if timeout_s is None else timeout_s
        )

    def respond(
        self,
        subject: str,
        responder: Responder,
        queue_group: str = QUEUE_GROUP,
        *,
        intake: Intake = REQUEST_INTAKE,
    ) -> Subscription:
        """Answer requests on *subject* with *responder*, shared with the other members of *queue_group*.

        A service error that the responder raises is raised at the asker; any other is logged here and told there
        without its text. Each call is an endpoint of the micro service `holdfast`.
        """
        endpoint = endpoint_for(subject, queue_group)
        subscription = respond(self, endpoint, responder, intake)
        self._discovery.announce(endpoint)
        return subscription

    def hint(
        self, namespace: str, kind: TaskKind, queue: str, count: int = 1, oldest_ready_at: float = 0.0
    ) -> bool:
        """Say that *queue* has ready tasks, after the commit that made them; whether it was sent.

        Who listens hears it at once, who starts finds it with `last_hints`.
        """
        if self.drop_hints:
            self.stats.hints_suppressed += 1
            return False
        body = _encode(Hint(count=count, oldest_ready_at=oldest_ready_at))
        return self.publish(subjects.hint(namespace, kind, queue), body)

    async def last_hints(
        self, namespace: str, kind: TaskKind | None = None, queue: str | None = None
    ) -> list[HeldHint]:
        """The newest hint of each task queue that the stream remembers; see `streams.last_hints`."""
        return await last_hints(self, subjects.hints(namespace, kind, queue), self.request_timeout_s)

    async def ensure_streams(self, limits: StreamLimits | None = None) -> None:
        """Make the streams what they should be, now and whenever they may have gone; may be called again.

        From the first call on they are looked after on every new connection and when one is deleted, so
        Unavailable (raised while NATS or JetStream is away) needs no retry.
        """
        await self._streams.ensure(limits)

    async def publish_acked(
        self,
        messages: Sequence[Outgoing],
        timeout_s: float | None = None,
        *,
        may_send: MaySend = lambda: True,
    ) -> int:
        """Publish in order and return their number once the stream has confirmed every one.

        Raises Unavailable when *timeout_s* pass without news, the link goes, or the stream refuses;
        `details["acked"]` then tells how many from the front are stored. Later ones may be stored too: repeat
        from there under the same `Nats-Msg-Id`s. A missing stream is made and the rest sent once more. Invalid,
        with `details["index"]`, for a message that NATS can never take. Once *may_send* says no, nothing more is
        sent, and Unavailable says so.
        """
        return await self._streams.publish_acked(
            messages, self.request_timeout_s if timeout_s is None else timeout_s, may_send
        )
