"""Many requests in one message: whatever is called in one turn of the loop leaves as one frame.

No timer waits for company: an idle caller pays nothing, and a busy one shares the cost of a message. A reply
answers the whole frame at once, so long polls must not share one with quick requests: give them a caller of
their own. Nothing is retried here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from holdfast.bus.connection import Connection
from holdfast.exceptions import HoldfastError, OutcomeUnknown
from holdfast.wire.codec import decode_frame, encode_frame

FRAME_ITEMS_MAX: Final = 500
FRAME_BYTES_MAX: Final = 1024 * 1024
# What msgpack puts before an array; items bring their own lengths.
_FRAME_OVERHEAD_BYTES: Final = 5


class _Call(msgspec.Struct):
    item: bytes
    answer: asyncio.Future[bytes]


class FramedCaller:
    """Calls one subject, a frame per turn of the loop. Create it in the loop that uses it."""

    def __init__(
        self,
        connection: Connection,
        subject: str,
        *,
        timeout_s: float,
        frame_items_max: int = FRAME_ITEMS_MAX,
        frame_bytes_max: int = FRAME_BYTES_MAX,
    ) -> None:
        self.frames = 0
        """Frames sent so far."""
        self._connection = connection
        self._subject = subject
        self._timeout_s = timeout_s
        self._items_max = frame_items_max
        self._bytes_max = frame_bytes_max
        self._loop = asyncio.get_running_loop()
        self._calls: list[_Call] = []

    async def __call__(self, item: bytes) -> bytes:
        """The answer to *item*, an encoded request. Raises what `Connection.request` raises."""
        if not self._calls:
            self._loop.call_soon(self._send_all)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._calls.append(_Call(item, answer))
        return await answer

    def _send_all(self) -> None:
        calls, self._calls = self._calls, []
        bytes_max = min(self._bytes_max, self._connection.max_payload_bytes // 2)
        frame: list[_Call] = []
        frame_bytes = _FRAME_OVERHEAD_BYTES
        for call in calls:
            # The caller may have been cancelled in the same turn: then nobody wants it done.
            if call.answer.done():
                continue
            if frame and (len(frame) >= self._items_max or frame_bytes + len(call.item) > bytes_max):
                self._send(frame)
                frame, frame_bytes = [], _FRAME_OVERHEAD_BYTES
            frame.append(call)
            frame_bytes += len(call.item)
        if frame:
            self._send(frame)

    def _send(self, frame: list[_Call]) -> None:
        try:
            reply = self._connection.ask(
                self._subject, encode_frame([call.item for call in frame]), self._timeout_s
            )
        except HoldfastError as error:
            _fail(frame, error)
            return
        self.frames += 1
        reply.add_done_callback(partial(self._answered, frame))

    def _answered(self, frame: list[_Call], reply: asyncio.Future[bytes]) -> None:
        error = reply.exception()
        if isinstance(error, HoldfastError):
            _fail(frame, error)
            return
        try:
            answers = decode_frame(reply.result())
        except HoldfastError as malformed:
            _fail(frame, OutcomeUnknown(f"{self._subject} answered with what is not a frame: {malformed}"))
            return
        if len(answers) != len(frame):
            found = f"{self._subject} gave {len(answers)} answers to {len(frame)} requests"
            _fail(frame, OutcomeUnknown(found))
            return
        for call, answer in zip(frame, answers, strict=True):
            if not call.answer.done():
                call.answer.set_result(bytes(answer))


def _fail(frame: list[_Call], error: HoldfastError) -> None:
    for call in frame:
        if not call.answer.done():
            # One copy each: a shared exception would gather the tracebacks of all who raise it.
            copy = type(error).__new__(type(error), error.message)
            HoldfastError.__init__(copy, error.message, details=error.details)
            call.answer.set_exception(copy)


def framed_caller(
    connection: Connection,
    subject: str,
    *,
    timeout_s: float,
    frame_items_max: int = FRAME_ITEMS_MAX,
    frame_bytes_max: int = FRAME_BYTES_MAX,
) -> FramedCaller:
    """A function of an encoded request that returns its encoded answer, batching what one turn of the loop brings.

    A frame holds at most *frame_items_max* requests and *frame_bytes_max* bytes, and at most half of what NATS
    takes; a larger request goes alone.
    """
    return FramedCaller(
        connection,
        subject,
        timeout_s=timeout_s,
        frame_items_max=frame_items_max,
        frame_bytes_max=frame_bytes_max,
    )


def framed_responder(
    respond_many: Callable[[str, list[msgspec.Raw]], Awaitable[Sequence[bytes]]],
) -> Callable[[str, bytes], Awaitable[bytes]]:
    """A responder for `Bus.respond` that takes frames apart, and puts the answers, in order, into one.

    What is not a frame is refused with Invalid.
    """

    async def responder(subject: str, data: bytes) -> bytes:
        return encode_frame(list(await respond_many(subject, decode_frame(data))))

    return responder
