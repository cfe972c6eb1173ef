"""JetStream: the two streams, messages whose storage is confirmed, and the hints that a stream remembers.

A confirmation from NATS is no proof of durability, so nothing here is a fact; the database is. This module
makes no consumers: they cost a stream dearly, and core subscriptions are nearly free.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from holdfast.bus.connection import Connection
from holdfast.bus.link import Link
from holdfast.bus.message import Msg, NoResponders, decode_headers, is_no_responders
from holdfast.bus.replies import Inlet
from holdfast.exceptions import DeadlineExceeded, Invalid, Unavailable
from holdfast.wire import subjects
from holdfast.wire.messages import Hint

_log = logging.getLogger(__name__)

Outgoing = tuple[str, bytes, Mapping[str, str] | None]
"""Subject, data, headers. A `Nats-Msg-Id` header makes a repetition within two minutes a no-op."""

MaySend = Callable[[], bool]
"""Asked before each message."""

_MIB: Final = 1024 * 1024
_NANOSECONDS: Final = 1_000_000_000
_DEDUPE_WINDOW_S: Final = 120
_ATOMIC_SINCE: Final = (2, 12)
# JetStream's err_code for "there is one of this name with another configuration".
_NAME_IN_USE: Final = 10058
# Its err_codes for "that many bytes are not free", in memory and on disk.
_NO_ROOM: Final = (10028, 10047)
_BYTES_MIN: Final = 2 * _MIB
_WINDOW: Final = 2_048
# End of batch; nothing held; nobody listens, which is a missing stream.
_HINTS_END: Final = ("204", "404", "503")
_decode_hint = msgspec.msgpack.Decoder(Hint).decode
_RETRY_S: Final = (0.1, 0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamLimits:
    """How much the streams may keep. `None` stands for no bound."""

    event_age_s: float | None = 7 * 86_400.0
    event_bytes: int | None = 1024 * _MIB
    hint_age_s: float = 600.0
    hint_bytes: int = 32 * _MIB
    consumers_max: int = 1_000
    replicas: int = 1


def stream_configs(limits: StreamLimits, server_version: tuple[int, int]) -> list[dict[str, Any]]:
    """The streams as JetStream wants them described.

    Hints live in memory: they say "look now", and after a restart of the server everybody looks anyway. One per
    subject makes the stream a dirty flag per task queue.
    """
    shared = {
        "retention": "limits",
        "discard": "old",
        "num_replicas": limits.replicas,
        "max_consumers": limits.consumers_max,
        "max_msgs": -1,
        "allow_direct": True,
    }
    hint = {
        **shared,
        "name": subjects.HINT_STREAM,
        "subjects": list(subjects.HINT_STREAM_SUBJECTS),
        "storage": "memory",
        "max_msgs_per_subject": 1,
        "max_age": int(limits.hint_age_s * _NANOSECONDS),
        "max_bytes": limits.hint_bytes,
        "max_msg_size": 4_096,
        # Nobody repeats a hint under an id, so there is nothing to remember; 0 would mean two minutes.
        "duplicate_window": _NANOSECONDS,
    }
    event = {
        **shared,
        "name": subjects.EVENT_STREAM,
        "subjects": list(subjects.EVENT_STREAM_SUBJECTS),
        "storage": "file",
        "max_msgs_per_subject": -1,
        "max_age": int((limits.event_age_s or 0) * _NANOSECONDS),
        "max_bytes": -1 if limits.event_bytes is None else limits.event_bytes,
        "max_msg_size": -1,
        # NATS refuses a window longer than the messages live.
        "duplicate_window": int(min(_DEDUPE_WINDOW_S, limits.event_age_s or _DEDUPE_WINDOW_S) * _NANOSECONDS),
    }
    if server_version >= _ATOMIC_SINCE:
        event["allow_atomic"] = True
    return [hint, event]


class Streams:
    """Keeps the streams there once `ensure` was called: on every new connection, and when one is deleted."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._limits: StreamLimits | None = None
        # On which the stream has confirmed all that was published to it last.
        self._proven: Link | None = None

    async def ensure(self, limits: StreamLimits | None = None) -> None:
        """Create what is missing and change what differs. Raises Unavailable while JetStream cannot do it.

        *limits* of None keeps what was given before, or takes the defaults.
        """
        is_first = self._limits is None
        self._limits = limits or self._limits or StreamLimits()
        if is_first:
            self._connection.on_up.append(self._ensure_later)
            for name in (subjects.HINT_STREAM, subjects.EVENT_STREAM):
                self._connection.subscribe(f"$JS.EVENT.ADVISORY.STREAM.DELETED.{name}", self._on_deleted)
        link = self._connection.link
        if link is None:
            raise Unavailable(
                f"NATS is away: the streams will be made once it is back ({self._connection.last_error})"
            )
        for config in stream_configs(self._limits, link.server_version):
            await _ensure_stream(self._connection, config, self._timeout_s)
        self._connection.stats.streams_ensured += 1

    def _on_deleted(self, msg: Msg) -> None:
        _log.warning("a stream was deleted (%s), making it anew", msg.subject.rpartition(".")[2])
        self._proven = None
        self._ensure_later()

    def _ensure_later(self) -> None:
        self._connection.spawned.spawn(self._ensure_until_done())

    async def _ensure_until_done(self) -> None:
        attempt = 0
        while (link := self._connection.link) is not None:
            try:
                await self.ensure()
                return
            except Unavailable as error:
                _log.warning("the streams of NATS cannot be made yet: %s", error)
            # Ends early when the link goes: the next one starts its own attempt.
            try:
                async with asyncio.timeout(_RETRY_S[min(attempt, len(_RETRY_S) - 1)]):
                    await link.lost.wait()
            except TimeoutError:
                attempt += 1

    async def publish_acked(self, messages: Sequence[Outgoing], timeout_s: float, may_send: MaySend) -> int:
        """See `Bus.publish_acked`."""
        window = await self._publish(messages, 0, timeout_s, may_send)
        if window.is_stream_missing:
            done = window.acked_prefix
            try:
                await self.ensure()
            except Unavailable as error:
                window.fail(f"the streams cannot be made: {error}")
            else:
                window = await self._publish(messages, done, timeout_s, may_send)
        if window.failure is not None:
            raise Unavailable(
                f"{window.acked_prefix} of {len(messages)} messages are stored: {window.failure}",
                details={"acked": str(window.acked_prefix)},
            )
        return len(messages)

    async def _publish(
        self, messages: Sequence[Outgoing], start: int, timeout_s: float, may_send: MaySend
    ) -> AckWindow:
        link = self._connection.link
        is_proven = link is not None and link is self._proven
        window = await _publish_window(
            self._connection, messages, start, timeout_s, may_send, is_proven=is_proven
        )
        self._proven = link if messages and window.failure is None else None
        return window


async def _ensure_stream(connection: Connection, config: dict[str, Any], timeout_s: float) -> None:
    name = config["name"]
    while (error := await _create_or_update(connection, config, timeout_s)) is not None:
        if error.err_code not in _NO_ROOM or config["max_bytes"] < _BYTES_MIN:
            raise Unavailable(f"stream {name} cannot be made: {error.description} ({error.err_code})")
        # NATS reserves max_bytes. A smaller feed is better than none: its readers can fall back to history.
        config["max_bytes"] //= 2
        _log.warning("NATS has no room for stream %s, trying %d bytes", name, config["max_bytes"])


async def _create_or_update(
    connection: Connection, config: dict[str, Any], timeout_s: float
) -> _ApiError | None:
    body = msgspec.json.encode(config)
    error = await _api(connection, f"STREAM.CREATE.{config['name']}", body, timeout_s)
    if error is not None and error.err_code == _NAME_IN_USE:
        return await _api(connection, f"STREAM.UPDATE.{config['name']}", body, timeout_s)
    return error


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _ApiAnswer(msgspec.Struct):
    error: _ApiError | None = None


_decode_answer = msgspec.json.Decoder(_ApiAnswer).decode


async def _api(connection: Connection, call: str, body: bytes, timeout_s: float) -> _ApiError | None:
    try:
        return _decode_answer(await connection.request(f"$JS.API.{call}", body, timeout_s)).error
    except NoResponders:
        raise Unavailable(
            "JetStream is not enabled on the NATS server: set `jetstream` in its configuration"
        ) from None
    except msgspec.DecodeError as error:
        raise Unavailable(f"NATS answered {call} with what is not a JetStream answer: {error}") from None


class AckWindow:
    """Which of a row of messages are stored, counted as the confirmations come in."""

    def __init__(self, count: int, acked: int) -> None:
        self.in_flight = 0
        self.failure: str | None = None
        self.is_stream_missing = False
        self._acked = bytearray(b"\1" * acked + b"\0" * (count - acked))
        self._low = 0
        self._changed = asyncio.Event()

    @property
    def acked_prefix(self) -> int:
        """How many messages are stored before the first that is not known to be."""
        first_open = self._acked.find(0)
        return len(self._acked) if first_open < 0 else first_open

    async def shrink(self, low: int, timeout_s: float) -> None:
        """Return once at most *low* messages are unconfirmed, or something failed; *timeout_s* without news is a failure."""
        self._low = low
        while self.in_flight > low and self.failure is None:
            before = self.in_flight
            self._changed.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                if self.in_flight == before:
                    self.fail(f"no confirmation for {timeout_s:g} s")

    def fail(self, why: str) -> None:
        """Give up; the first reason stays."""
        self.failure = self.failure or why
        self._changed.set()

    def lost(self) -> None:
        """The link is gone, and with it the confirmations."""
        self.fail("the connection to NATS was lost")

    def receive(self, tail: bytes, data: bytes, raw_headers: bytes | None) -> None:
        """A confirmation, or a refusal, of the message whose index is *tail*."""
        index = int(tail)
        if raw_headers is not None and is_no_responders(data, raw_headers):
            self.is_stream_missing = True
            self.fail("no stream keeps this subject")
        elif b'"error"' in data:
            self._refused(data)
        elif not self._acked[index]:
            self._acked[index] = 1
            self.in_flight -= 1
            if self.in_flight <= self._low:
                self._changed.set()

    def _refused(self, data: bytes) -> None:
        try:
            error = _decode_answer(data).error
        except msgspec.DecodeError:
            error = None
        self.fail(error.description if error else "NATS answered with what is no confirmation")


async def _publish_window(
    connection: Connection,
    messages: Sequence[Outgoing],
    start: int,
    timeout_s: float,
    may_send: MaySend,
    *,
    is_proven: bool,
) -> AckWindow:
    # A stream that somebody makes while the messages pass would keep the later ones only, and take the earlier ones
    # behind them when they come again. So the first one goes alone until the stream is known to be there.
    in_flight_max = _WINDOW if is_proven else 1
    window = AckWindow(len(messages), start)
    with connection.replies.inlet(Inlet(window.receive, window.lost)) as reply:
        for index in range(start, len(messages)):
            subject, data, headers = messages[index]
            if window.in_flight >= in_flight_max:
                await window.shrink(in_flight_max // 2, timeout_s)
                in_flight_max = _WINDOW
            if not may_send():
                window.fail("the sender lost its right to send")
            if window.failure is not None:
                break
            try:
                is_sent = connection.publish(subject, data, headers, reply=reply + b"%d" % index)
            except Invalid as error:
                raise Invalid(error.message, details={"index": str(index)}) from None
            if not is_sent:
                window.fail(f"NATS is away or does not read ({connection.last_error or 'not connected'})")
                break
            window.in_flight += 1
        await window.shrink(0, timeout_s)
    connection.stats.acked += window.acked_prefix - start
    return window


class HeldHint(msgspec.Struct, frozen=True):
    """A hint that the stream remembers. `subject` is the one of `subjects.hint`."""

    subject: str
    hint: Hint


async def last_hints(connection: Connection, subject_filter: str, timeout_s: float) -> list[HeldHint]:
    """The newest hint of each matching subject; empty if there is no stream. For whoever starts.

    Raises Unavailable when NATS cannot tell; it tells at most 1,024 subjects at once.
    """
    held: list[HeldHint] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive(_tail: bytes, data: bytes, raw_headers: bytes | None) -> None:
        headers = decode_headers(raw_headers)
        status = headers.get("Status")
        if done.done():
            return
        if status in _HINTS_END:
            done.set_result(None)
        elif status is not None:
            done.set_exception(
                Unavailable(f"hints cannot be read: {status} {headers.get('Description', '')}")
            )
        elif (hint := decode_hint(data)) is not None:
            held.append(HeldHint(headers.get("Nats-Subject", ""), hint))

    def lost() -> None:
        if not done.done():
            done.set_exception(Unavailable("hints cannot be read: the connection to NATS was lost"))

    with connection.replies.inlet(Inlet(receive, lost)) as reply:
        body = msgspec.json.encode({"multi_last": [subject_filter]})
        if not connection.publish(f"$JS.API.DIRECT.GET.{subjects.HINT_STREAM}", body, reply=reply + b"0"):
            raise Unavailable("hints cannot be read: NATS is away")
        try:
            async with asyncio.timeout(timeout_s):
                await done
        except TimeoutError:
            raise DeadlineExceeded(f"NATS did not tell its hints within {timeout_s:g} s") from None
    return held


def decode_hint(data: bytes) -> Hint | None:
    """The hint in a message, or None if it holds none: anybody may have published it."""
    try:
        hint = _decode_hint(data)
    except msgspec.DecodeError:
        return None
    return hint
