"""One connection to NATS, from handshake to loss: messages in by call, commands out once per turn of the loop.

nats-py does what is delicate and rare: handshake, TLS, credentials, pings, protocol errors. It sees control
lines only. Messages are cut out of the byte stream here and handed over at once, without nats-py's queue and
task per subscription: half the time of a request and half of its CPU. The seam is nats-py's own `Transport`;
`Client._transport` is the one private name used, and a test holds it. A link never reconnects and knows nothing
of what messages mean; `connection.py` makes a new one.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import ParseResult, urlsplit

from nats import errors
from nats.aio.client import Client
from nats.aio.transport import Transport

from holdfast.exceptions import Invalid

_log = logging.getLogger(__name__)

Receive = Callable[[bytes, bytes, bytes, bytes | None], None]
"""What a subscription is: called with subject, reply subject, data and raw headers of each message."""

# What can go wrong on the way to a server and is cured by trying again.
TRANSIENT: Final = (OSError, errors.Error, TimeoutError, asyncio.IncompleteReadError)

_PING: Final = b"PING\r\n"
_PONG: Final = b"PONG\r\n"
_WRITE_AT_ONCE_BYTES: Final = 256 * 1024
_CONGESTED_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkOptions:
    """How to connect. Passwords and tokens may also stand in the server's URL."""

    name: str
    connect_timeout_s: float = 2.0
    ping_interval_s: float = 10.0
    tls: ssl.SSLContext | None = None
    credentials_file: str | None = None


def server_url(server: str) -> str:
    """*server* as a URL: a bare `host:port` or `host` gets the scheme and the default port 4222.

    Raises Invalid for schemes other than nats and tls, and for URLs without a host.
    """
    url = server if "://" in server else f"nats://{server}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _unusable(server) from None
    if parts.scheme not in {"nats", "tls"} or not parts.hostname:
        raise _unusable(server)
    return url if port is not None else f"{url.rstrip('/:')}:4222"


def _unusable(server: str) -> Invalid:
    shown = server.rpartition("@")[2]
    return Invalid(
        f"NATS server {shown!r} cannot be used: expected host:port, nats://host:port or tls://host:port"
    )


async def open_link(server: str, subscriptions: Mapping[bytes, Receive], options: LinkOptions) -> Link:
    """A link on which the server has accepted us. Raises one of `TRANSIENT` when it has not.

    *subscriptions* (sid to receiver) is read for each message, so the caller may change it meanwhile.
    """
    link = Link(subscriptions)
    try:
        await _handshake(link, server, options)
    except BaseException:
        link.abort()
        raise
    return link


async def _handshake(link: Link, server: str, options: LinkOptions) -> None:
    causes: list[Exception] = []

    async def on_error(error: Exception) -> None:
        if link.client.is_connected and not isinstance(error, errors.UnexpectedEOF):
            _log.warning("%s reports: %s", server.rpartition("@")[2], error)
        causes.append(error)
        del causes[:-1]

    link.client._transport = _Tap(link)
    try:
        await link.client.connect(
            servers=[server],
            name=options.name,
            error_cb=on_error,
            # nats-py must not wander: retrying, pausing and choosing the server are our caller's.
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=options.connect_timeout_s,  # type: ignore[arg-type]  # any number will do
            ping_interval=options.ping_interval_s,  # type: ignore[arg-type]
            max_outstanding_pings=2,
            tls=options.tls,
            user_credentials=options.credentials_file,
        )
    except errors.NoServersError:
        raise causes[-1] if causes else OSError("no answer") from None


class Link(asyncio.Protocol):
    """A live connection. `lost` is set once it is of no more use, for whatever reason."""

    def __init__(self, subscriptions: Mapping[bytes, Receive]) -> None:
        self.client = Client()
        self.lost = asyncio.Event()
        self.is_congested = False
        self._loop = asyncio.get_running_loop()
        self._subscriptions = subscriptions
        self._socket: asyncio.Transport | None = None
        # Bytes of an incomplete message, joined once enough have come.
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._needed_bytes = 0
        # Control lines for nats-py. During the handshake everything is one.
        self._is_handshake = True
        self._control = bytearray()
        self._control_arrived = asyncio.Event()
        # Whose the coming pongs are: a `flush`, or (None) nats-py's.
        self._pongs: deque[asyncio.Future[None] | None] = deque()
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0

    @property
    def max_payload_bytes(self) -> int:
        """The largest message this server takes, headers included."""
        return self.client.max_payload

    @property
    def server_version(self) -> tuple[int, int]:
        """Major and minor version of the server."""
        version = self.client.connected_server_version
        return version.major, version.minor

    def send(self, command: bytes) -> None:
        """Send a protocol command at the end of this turn of the loop, in order."""
        if not self._outgoing:
            self._loop.call_soon(self.write_outgoing)
        self._outgoing.append(command)
        self._outgoing_bytes += len(command)
        if self._outgoing_bytes > _WRITE_AT_ONCE_BYTES:
            self.write_outgoing()

    def write_outgoing(self) -> None:
        """Hand what was sent in this turn to the socket now."""
        if self._outgoing and self._socket is not None and not self._socket.is_closing():
            self._socket.write(b"".join(self._outgoing))
        self._outgoing.clear()
        self._outgoing_bytes = 0

    async def flush(self) -> None:
        """Return once the server has processed everything sent so far. Raises ConnectionError if it is lost first."""
        if self.lost.is_set():
            raise ConnectionResetError("the connection to NATS is lost")
        pong: asyncio.Future[None] = self._loop.create_future()
        self._pongs.append(pong)
        self.send(_PING)
        await pong

    def send_control(self, lines: bytes) -> None:
        """Send what nats-py wants sent, remembering whose the next pong is."""
        if lines == _PING and not self._is_handshake:
            self._pongs.append(None)
        self.send(lines)
        self.write_outgoing()

    def abort(self) -> None:
        """Give the connection up without saying goodbye; `lost` follows."""
        if self._socket is None:
            self.lost.set()
            self._control_arrived.set()
        else:
            self._socket.abort()

    async def close(self) -> None:
        """Give the connection up and end nats-py's tasks. Sent but unflushed commands may be lost."""
        await self.client.close()
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read from and write to *transport* from now on: the fresh connection, then its TLS layer."""
        self._socket = cast("asyncio.Transport", transport)
        self._socket.set_write_buffer_limits(high=_CONGESTED_BYTES)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Called by asyncio."""
        self.lost.set()
        self._control_arrived.set()
        for pong in self._pongs:
            if pong is not None and not pong.done():
                pong.set_exception(ConnectionResetError("the connection to NATS was lost"))
        self._pongs.clear()

    def pause_writing(self) -> None:
        """Called by asyncio when the server does not read fast enough."""
        self.is_congested = True

    def resume_writing(self) -> None:
        """Called by asyncio when it has caught up."""
        self.is_congested = False

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._is_handshake:
            self._control += data
            self._control_arrived.set()
            return
        if self._kept:
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes < self._needed_bytes:
                return
            data = b"".join(self._kept)
            self._kept.clear()
        try:
            used = self._cut(data)
        except (ValueError, IndexError) as error:
            _log.error("the server sent what is not NATS protocol, reconnecting: %s", error)
            self.abort()
            return
        if used < len(data):
            self._kept.append(data[used:])
            self._kept_bytes = len(data) - used
        # Answers given inline need not wait for the turn to end: what could join them has been received.
        self.write_outgoing()

    def _cut(self, data: bytes) -> int:
        """Deliver every complete message in *data*; returns how many bytes that used up."""
        at, end = 0, len(data)
        self._needed_bytes = 0
        while at < end:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                break
            header_bytes = 0
            if data.startswith(b"MSG ", at):
                words = data[at + 4 : line_end].split()
            elif data.startswith(b"HMSG ", at):
                words = data[at + 5 : line_end].split()
                header_bytes = int(words.pop(-2))
            else:
                self._receive_control(data[at : line_end + 2])
                at = line_end + 2
                continue
            start = line_end + 2
            stop = start + int(words[-1])
            if stop + 2 > end:
                self._needed_bytes = stop + 2 - at
                break
            at = stop + 2
            receive = self._subscriptions.get(words[1])
            if receive is not None:
                body = start + header_bytes
                self._deliver(
                    receive,
                    words[0],
                    words[2] if len(words) == 4 else b"",
                    data[body:stop],
                    data[start:body] if header_bytes else None,
                )
        return at

    def _receive_control(self, line: bytes) -> None:
        # Pongs come in the order of the pings. Those of `flush` end here, nats-py must not count them as its own.
        if line == _PONG and self._pongs and (pong := self._pongs.popleft()) is not None:
            if not pong.done():
                pong.set_result(None)
            return
        self._control += line
        self._control_arrived.set()

    def _deliver(
        self, receive: Receive, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        try:
            receive(subject, reply, data, headers)
        except Exception:  # noqa: BLE001 - the outer edge: one receiver's mistake must not cost everybody the connection
            _log.exception("a receiver of %s failed", subject.decode())

    async def control(self) -> bytes:
        """The control lines that came since the last call, or empty once the connection is lost.

        The first call ends the handshake: from then on messages are cut out.
        """
        if self._is_handshake:
            self._is_handshake = False
            early = bytes(self._control)
            self._control.clear()
            if early:
                self.data_received(early)
        while not self._control and not self.lost.is_set():
            self._control_arrived.clear()
            await self._control_arrived.wait()
        lines = bytes(self._control)
        self._control.clear()
        return lines

    async def handshake_line(self) -> bytes:
        """The next line, for the time before messages flow; shorter or empty if the connection is lost."""
        while (line_end := self._control.find(b"\n")) < 0 and not self.lost.is_set():
            self._control_arrived.clear()
            await self._control_arrived.wait()
        line = bytes(self._control[: line_end + 1]) if line_end >= 0 else bytes(self._control)
        del self._control[: len(line)]
        return line

    async def upgrade(self, context: ssl.SSLContext, hostname: str | None) -> None:
        """Go on under TLS."""
        if self._socket is None:
            raise OSError("TLS was asked for before there was a connection")
        upgraded = await self._loop.start_tls(self._socket, self, context, server_hostname=hostname)
        if upgraded is None:
            raise OSError("the connection closed during the TLS handshake")
        self.connection_made(upgraded)


class _Tap(Transport):
    """A link as nats-py sees it: a transport that only ever carries control lines."""

    def __init__(self, link: Link) -> None:
        self._link = link

    # Parameters are named as nats-py names them: it passes some by keyword.

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:  # noqa: ARG002
        host, port = uri.hostname or "", uri.port or 0
        async with asyncio.timeout(connect_timeout):
            await asyncio.get_running_loop().create_connection(lambda: self._link, host, port)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002
        connect_timeout: float,
    ) -> None:
        async with asyncio.timeout(connect_timeout):
            await self._link.upgrade(ssl_context, uri if isinstance(uri, str) else uri.hostname)

    def write(self, payload: bytes) -> None:
        self._link.send_control(payload)

    def writelines(self, payload: list[bytes]) -> None:
        self.write(b"".join(payload))

    async def read(self, buffer_size: int) -> bytes:  # noqa: ARG002
        return await self._link.control()

    async def readline(self) -> bytes:
        return await self._link.handshake_line()

    async def drain(self) -> None:
        """Nothing: control lines are few and small."""

    async def wait_closed(self) -> None:
        await self._link.lost.wait()

    def close(self) -> None:
        # Not a polite close: that would wait until a frozen server has read what is buffered.
        self._link.abort()

    def at_eof(self) -> bool:
        return self._link.lost.is_set()

    def __bool__(self) -> bool:
        return True
