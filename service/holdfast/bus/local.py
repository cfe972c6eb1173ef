"""A bus inside one process, for an engine, clients and workers that share an event loop: no server, no streams.

Everything above the link is the bus as it is. Messages arrive at the end of the turn in which they were sent, in
order; who asks where nobody listens is told so, as NATS does it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

from holdfast.bus.bus import Bus
from holdfast.bus.link import Link
from holdfast.bus.subscription import Subscription

_MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
_NOBODY: Final = b"NATS/1.0 503\r\n\r\n"


class LocalBus(Bus):
    """A bus whose other end is itself. `start` it inside a running loop; it is connected from then on."""

    def __init__(self, *, name: str) -> None:
        super().__init__("in-process", name=name)
        self.on_traffic: Callable[[], None] | None = None
        """Called whenever messages are delivered: whoever wants to know when everybody is still."""

    async def start(self) -> None:
        """Connect."""
        if self.link is None:
            await self._attach(_Loopback(self, self._subscriptions))

    def is_heard(self, subject: str) -> bool:
        """Whether somebody listens to exactly this subject."""
        return any(subscription.subject == subject for subscription in self._subscriptions.values())

    async def close(self, grace_s: float = 1.0) -> None:
        """As `Connection.close`."""
        await super().close(grace_s)
        self._detach()


class _Loopback(Link):
    """A link that gives what is sent to the subscriptions of the same bus."""

    def __init__(self, bus: LocalBus, listening: dict[bytes, Subscription]) -> None:
        super().__init__({})
        self._bus = bus
        self._listening = listening
        self._turns = itertools.count()

    @property
    def max_payload_bytes(self) -> int:
        """As large as brokers are usually set to."""
        return _MAX_PAYLOAD_BYTES

    async def flush(self) -> None:
        """Deliver what was sent so far."""
        self.write_outgoing()

    def write_outgoing(self) -> None:
        """Deliver what was sent in this turn."""
        outgoing, self._outgoing = self._outgoing, []
        self._outgoing_bytes = 0
        if outgoing and self._bus.on_traffic is not None:
            self._bus.on_traffic()
        for command in outgoing:
            if command.startswith((b"PUB ", b"HPUB ")):
                self._publish(command)

    def _publish(self, command: bytes) -> None:
        line_end = command.index(b"\r\n")
        kind, subject, *words = command[:line_end].split()
        header_bytes = int(words.pop(-2)) if kind == b"HPUB" else 0
        reply = words[0] if len(words) == 2 else b""
        body = line_end + 2 + header_bytes
        headers = command[line_end + 2 : body] if header_bytes else None
        data = command[body:-2]
        inbox = self._bus.replies
        if subject.startswith(inbox.inbox):
            self._deliver(inbox.receive, subject, reply, data, headers)
            return
        found = self._receivers(subject.decode())
        for subscription in found:
            self._deliver(subscription.receive, subject, reply, data, headers)
        if not found and reply.startswith(inbox.inbox):
            self._deliver(inbox.receive, reply, b"", b"", _NOBODY)

    def _receivers(self, subject: str) -> list[Subscription]:
        """Who gets a message: every subscription of its own, and of each queue group one, in turn."""
        tokens = subject.split(".")
        found: list[Subscription] = []
        groups: dict[str, list[Subscription]] = {}
        for subscription in self._listening.values():
            if _matches(subscription.subject.split("."), tokens):
                if subscription.queue_group:
                    groups.setdefault(subscription.queue_group, []).append(subscription)
                else:
                    found.append(subscription)
        return [*found, *(members[next(self._turns) % len(members)] for members in groups.values())]


def _matches(pattern: list[str], tokens: list[str]) -> bool:
    """Whether a subject is one of those that *pattern* stands for."""
    if pattern[-1] == ">" and len(tokens) >= len(pattern):
        pattern, tokens = pattern[:-1], tokens[: len(pattern) - 1]
    return len(pattern) == len(tokens) and all(
        part in ("*", token) for part, token in zip(pattern, tokens, strict=True)
    )
