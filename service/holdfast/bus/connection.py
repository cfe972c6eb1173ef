"""A lasting connection to NATS: publish, subscribe, ask. It survives the server, its store and its credentials.

`Connection` keeps one `Link` alive for ever and puts every subscription back on each new one, so what is
subscribed here never has to be subscribed again. Nothing is queued while the server is away: what NATS carries
is a hint or a question, and both are worthless late. No subject of Holdfast is known here.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from holdfast.bus.link import TRANSIENT, Link, LinkOptions, Receive, open_link, server_url
from holdfast.bus.message import encode_headers, publish_command, subject_bytes
from holdfast.bus.replies import Replies
from holdfast.bus.spawn import Spawned
from holdfast.bus.subscription import (
    AsyncReceiver,
    BusStats,
    Intake,
    PlainReceiver,
    Subscription,
    hand_off,
    run_inline,
)
from holdfast.exceptions import Invalid, Unavailable

_log = logging.getLogger(__name__)

_FIRST_RETRY_S: Final = 0.25
# Short, because work waits for whoever comes back last.
_LAST_RETRY_S: Final = 0.75
_CONFIRM_S: Final = 5.0
_MAX_PAYLOAD_UNTIL_TOLD: Final = 1024 * 1024
_INBOX_SID: Final = b"1"
DEFAULT_INTAKE: Final = Intake()


class Connection:
    """A lasting connection. `start` it inside a running loop and `close` it in the same one.

    `on_up` and `on_down` are called in order whenever the server has become reachable (all subscriptions are in
    force by then) and when it is lost.
    """

    def __init__(
        self, servers: str | Sequence[str], options: LinkOptions, *, inbox_prefix: str = "_INBOX"
    ) -> None:
        self.stats = BusStats()
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.last_error: str | None = None
        """Why the server could not be reached or was lost last time, or None."""
        self.spawned = Spawned()
        self.replies = Replies(inbox_prefix, self.stats)
        self.link: Link | None = None
        """Where to send. Set a moment before `is_connected`, while the subscriptions are being put in force."""
        self._servers = [
            server_url(server) for server in ([servers] if isinstance(servers, str) else servers)
        ]
        if not self._servers:
            raise Invalid("a bus needs at least one NATS server, none was given")
        self._options = options
        self._supervision = Spawned()
        self._is_started = False
        self._connected = asyncio.Event()
        self._sids = itertools.count(int(_INBOX_SID) + 1)
        self._subscriptions: dict[bytes, Subscription] = {}
        self._receivers: dict[bytes, Receive] = {_INBOX_SID: self.replies.receive}

    # -- life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect, in the background and for ever; returns at once."""
        if not self._is_started:
            self._is_started = True
            self._supervision.spawn(self._keep_connected())

    @property
    def is_connected(self) -> bool:
        """Whether the server is reachable and every subscription in force, as far as is known."""
        return self._connected.is_set()

    async def connected(self, timeout_s: float) -> None:
        """Return once connected. Raises Unavailable, saying what is wrong, if that takes longer than *timeout_s*."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            shown = ", ".join(_without_secret(server) for server in self._servers)
            why = self.last_error or "no answer"
            raise Unavailable(f"no connection to NATS at {shown} within {timeout_s:g} s: {why}") from None

    async def close(self, grace_s: float = 1.0) -> None:
        """Stop: take no further messages, give running receivers *grace_s* seconds, say what is left, hang up."""
        for subscription in list(self._subscriptions.values()):
            self._drop(subscription)
        await self.spawned.finish(grace_s)
        if self.link is not None:
            try:
                async with asyncio.timeout(max(grace_s, 0.1)):
                    await self.link.flush()
            except TRANSIENT as error:
                _log.debug("the last messages may not have reached NATS: %s", error)
        await self._supervision.finish(0)

    async def _keep_connected(self) -> None:
        retry_s = _FIRST_RETRY_S
        for server in itertools.cycle(self._servers):
            try:
                link = await open_link(server, self._receivers, self._options)
            except TRANSIENT as error:
                self.stats.connect_failures += 1
                self._note(server, f"cannot connect: {str(error) or type(error).__name__}")
                await asyncio.sleep(retry_s * _spread(0.5, 1.0))
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
                continue
            try:
                if await self._attach(link):
                    retry_s = _FIRST_RETRY_S
                    await link.lost.wait()
                    self._note(server, f"connection lost: {link.client.last_error or 'closed'}")
            finally:
                self._detach()
                await link.close()
            # A herd of clients should not come back in the same millisecond.
            await asyncio.sleep(retry_s * _spread(0.0, 0.5))

    def _note(self, server: str, problem: str) -> None:
        level = logging.DEBUG if problem == self.last_error else logging.WARNING
        self.last_error = problem
        _log.log(level, "NATS at %s: %s; trying again", _without_secret(server), problem)

    async def _attach(self, link: Link) -> bool:
        """Put the inbox and every subscription in force on *link*; whether that worked."""
        self.link = link
        subscriptions = list(self._subscriptions.values())
        link.send(b"SUB %b> %b\r\n" % (self.replies.inbox, _INBOX_SID))
        for subscription in subscriptions:
            link.send(subscription.command)
        try:
            async with asyncio.timeout(_CONFIRM_S):
                await link.flush()
        except TRANSIENT:
            return False
        for subscription in subscriptions:
            subscription.confirm()
        self.last_error = None
        self.stats.connects += 1
        self._connected.set()
        _call_all(self.on_up)
        return True

    def _detach(self) -> None:
        was_connected = self._connected.is_set()
        self.link = None
        self._connected.clear()
        for subscription in self._subscriptions.values():
            subscription.suspend()
        self.replies.fail_all()
        if was_connected:
            self.stats.disconnects += 1
            _call_all(self.on_down)

    # -- messages ----------------------------------------------------------------------

    @property
    def max_payload_bytes(self) -> int:
        """The largest message the server takes, headers included; 1 MiB until it has told."""
        return _MAX_PAYLOAD_UNTIL_TOLD if self.link is None else self.link.max_payload_bytes

    def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, reply: bytes = b""
    ) -> bool:
        """Send a message if the server is there and reads; whether it was sent. It may be lost all the same.

        Never blocks, and raises only Invalid: for a message larger than the server takes, or a subject or header
        that cannot be one.
        """
        command = publish_command(subject_bytes(subject), reply, data, headers)
        if len(data) > self.max_payload_bytes or headers:
            self._check_size(subject, data, headers)
        link = self.link
        if link is None or link.is_congested:
            self.stats.publish_dropped += 1
            return False
        link.send(command)
        self.stats.published += 1
        return True

    def _check_size(self, subject: str, data: bytes, headers: Mapping[str, str] | None) -> None:
        size = len(data) + (len(encode_headers(headers)) if headers else 0)
        if size > self.max_payload_bytes:
            raise Invalid(
                f"message to {subject} has {size:,} bytes: NATS takes at most {self.max_payload_bytes:,}; "
                "raise max_payload in its configuration, or send less"
            )

    def subscribe(
        self,
        subject: str,
        receiver: PlainReceiver | AsyncReceiver,
        queue_group: str | None = None,
        *,
        intake: Intake = DEFAULT_INTAKE,
        refuse: PlainReceiver | None = None,
    ) -> Subscription:
        """Have *receiver* called with each message on *subject*, now and on every later connection.

        A plain function runs inline and must be quick. An async one runs beside the reading; what exceeds
        *intake* is given to *refuse*, if there is one, and dropped and counted. With a *queue_group*, each
        message goes to one member of it.
        """
        sid = b"%d" % next(self._sids)
        if _is_async(receiver):
            receive = hand_off(cast("AsyncReceiver", receiver), self.spawned, self.stats, intake, refuse)
        else:
            receive = run_inline(cast("PlainReceiver", receiver), self.stats)
        subscription = Subscription(sid, subject, queue_group, receive, self._drop)
        command = subscription.command
        self._subscriptions[sid] = subscription
        self._receivers[sid] = receive
        if self.link is not None:
            self.link.send(command)
            self.spawned.spawn(self._confirm(self.link, subscription))
        return subscription

    async def _confirm(self, link: Link, subscription: Subscription) -> None:
        try:
            await link.flush()
        except ConnectionError:
            return  # the next link confirms it
        if link is self.link:
            subscription.confirm()

    def _drop(self, subscription: Subscription) -> None:
        if self._subscriptions.pop(subscription.sid, None) is not None:
            del self._receivers[subscription.sid]
            if self.link is not None:
                self.link.send(b"UNSUB %b\r\n" % subscription.sid)

    def ask(self, subject: str, data: bytes, timeout_s: float) -> asyncio.Future[bytes]:
        """The future of the answer to a request; `request` for callers that cannot await.

        Raises what can be known at once: Invalid for what cannot be sent, Unavailable when the server is away.
        """
        return self._ask(subject, data, timeout_s)[1]

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """The answer of whoever listens on *subject*.

        Raises NoResponders (at once) if nobody does, Unavailable if NATS is away, DeadlineExceeded after
        *timeout_s*, OutcomeUnknown if the connection went before the answer came, Invalid for what cannot be
        sent, and the error that the responder raised.
        """
        token, answer = self._ask(subject, data, timeout_s)
        try:
            return await answer
        except asyncio.CancelledError:
            self.replies.forget(token)
            raise

    def _ask(self, subject: str, data: bytes, timeout_s: float) -> tuple[bytes, asyncio.Future[bytes]]:
        if len(data) > self.max_payload_bytes:
            self._check_size(subject, data, None)
        link = self.link
        if link is None or link.is_congested:
            problem = "is away" if link is None else "does not read"
            raise Unavailable(
                f"NATS {problem}: {subject} cannot be asked ({self.last_error or 'not connected yet'})"
            )
        target = subject_bytes(subject)
        token, answer = self.replies.expect(subject, timeout_s)
        link.send(publish_command(target, self.replies.inbox + token, data))
        self.stats.requests += 1
        return token, answer


def _is_async(receiver: object) -> bool:
    return inspect.iscoroutinefunction(receiver) or inspect.iscoroutinefunction(type(receiver).__call__)


def _spread(low: float, high: float) -> float:
    return random.uniform(low, high)


def _without_secret(server: str) -> str:
    return server.rpartition("@")[2].rpartition("//")[2]


def _call_all(callbacks: Sequence[Callable[[], None]]) -> None:
    for callback in list(callbacks):
        try:
            callback()
        except Exception:  # noqa: BLE001 - the outer edge: the connection goes on whatever its observers do
            _log.exception("a callback of the bus failed")
