"""Who waits for which reply: one inbox, a token per request, a future or a receiver behind each."""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from holdfast.bus.message import NoResponders, error_of, is_no_responders
from holdfast.bus.subscription import BusStats
from holdfast.exceptions import DeadlineExceeded, HoldfastError, OutcomeUnknown

_CLOCK_TICK_S: Final = 0.001


class Waiting(msgspec.Struct):
    """A request that was sent and not answered."""

    answer: asyncio.Future[bytes]
    deadline: float
    timeout_s: float
    subject: str


class Inlet(msgspec.Struct, frozen=True):
    """Where the replies to many messages go: `receive(tail, data, raw_headers)`, and `lost()` when the link goes."""

    receive: Callable[[bytes, bytes, bytes | None], None]
    lost: Callable[[], None]


class Replies:
    """The inbox of a connection. Nothing stays behind of a request that ended, in whatever way."""

    def __init__(self, inbox_prefix: str, stats: BusStats) -> None:
        # The name cannot be guessed, and is the same on every link.
        self.inbox = f"{inbox_prefix}.{secrets.token_hex(11)}.".encode()
        self._inbox_bytes = len(self.inbox)
        self._stats = stats
        self._tokens = itertools.count(1)
        self._waiting: dict[bytes, Waiting] = {}
        self._inlets: dict[bytes, Inlet] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def expect(self, subject: str, timeout_s: float) -> tuple[bytes, asyncio.Future[bytes]]:
        """A token to ask under, and the future of the answer; DeadlineExceeded when none comes in time."""
        token = b"%d" % next(self._tokens)
        loop = self._loop or self._use_loop()
        deadline = loop.time() + timeout_s
        answer: asyncio.Future[bytes] = loop.create_future()
        self._waiting[token] = Waiting(answer, deadline, timeout_s, subject)
        if deadline < self._alarm_at:
            self._set_alarm(deadline)
        return token, answer

    def forget(self, token: bytes) -> None:
        """The asker is gone."""
        self._waiting.pop(token, None)

    def _use_loop(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    # One alarm for all who wait, set to the earliest deadline and left alone when an answer comes: it then
    # rings for nothing and is set anew. A timer per request would cost a third of an idle request's time.

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = (self._loop or self._use_loop()).call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        # The loop's clock may tick in milliseconds and ring a little early.
        now = (self._loop or self._use_loop()).time() + _CLOCK_TICK_S
        for token in [token for token, waiting in self._waiting.items() if waiting.deadline <= now]:
            late = self._waiting.pop(token)
            self._stats.request_timeouts += 1
            _fail(late.answer, DeadlineExceeded(f"{late.subject} did not answer within {late.timeout_s:g} s"))
        if self._waiting:
            self._set_alarm(min(waiting.deadline for waiting in self._waiting.values()))

    def receive(self, subject: bytes, _reply: bytes, data: bytes, raw_headers: bytes | None) -> None:
        """A message came to the inbox."""
        token = subject[self._inbox_bytes :]
        waiting = self._waiting.pop(token, None)
        if waiting is None:
            head, _, tail = token.partition(b".")
            if (inlet := self._inlets.get(head)) is not None:
                inlet.receive(tail, data, raw_headers)
            return
        if raw_headers is None:
            if not waiting.answer.done():
                waiting.answer.set_result(data)
        elif is_no_responders(data, raw_headers):
            self._stats.no_responders += 1
            _fail(waiting.answer, NoResponders(f"nobody answers {waiting.subject}: is the service running?"))
        elif (error := error_of(raw_headers)) is not None:
            _fail(waiting.answer, error)
        elif not waiting.answer.done():
            waiting.answer.set_result(data)

    def fail_all(self) -> None:
        """The link is gone: whether the requests on their way were carried out cannot be known."""
        lost, self._waiting = self._waiting, {}
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm, self._alarm_at = None, math.inf
        for waiting in lost.values():
            self._stats.outcomes_unknown += 1
            _fail(waiting.answer, OutcomeUnknown(f"NATS was lost before {waiting.subject} answered"))
        for inlet in list(self._inlets.values()):
            inlet.lost()

    @contextmanager
    def inlet(self, inlet: Inlet) -> Iterator[bytes]:
        """Within, replies sent to the yielded subject and a tail of any length go to *inlet*."""
        token = b"%d" % next(self._tokens)
        self._inlets[token] = inlet
        try:
            yield self.inbox + token + b"."
        finally:
            del self._inlets[token]


def _fail(answer: asyncio.Future[bytes], error: HoldfastError) -> None:
    if not answer.done():
        answer.set_exception(error)
