"""Typed calls to the service, repeated until they have a definite answer or their time is up.

A call that changes something is safe to repeat because it carries a request id, or a worker's fence; this
module repeats all alike. What one turn of the loop asks of a verb leaves as one message.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

from holdfast.bus import Bus, FramedCaller, framed_caller
from holdfast.exceptions import DeadlineExceeded, Unavailable, error_of_code
from holdfast.wire import codec, subjects
from holdfast.wire.messages import Answer

CALL_TIMEOUT_S = 30.0
ATTEMPT_TIMEOUT_S = 5.0
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 0.5
AWAY_S = 5.0


class Rpc:
    """Calls into one namespace over a bus."""

    def __init__(self, bus: Bus, namespace: str) -> None:
        self.bus = bus
        self.namespace = namespace
        self._callers: dict[str, FramedCaller] = {}

    async def once(self, verb: str, request: Any) -> Any:
        """The response to *request*, asked once. Raises the error that the service answered, or one of `Unavailable`."""
        return _response(verb, await self._caller(verb)(codec.encode(request)))

    async def call(self, verb: str, request: Any, timeout_s: float | None = CALL_TIMEOUT_S) -> Any:
        """The response to *request*, asked again while there is none, with *timeout_s* None for ever.

        Raises the error that the service answered, `DeadlineExceeded` when the time is up.
        """
        caller, item = self._caller(verb), codec.encode(request)
        return await self._until_definite(verb, lambda: caller(item), timeout_s)

    async def poll(
        self, verb: str, request: Any, is_enough: Callable[[Any], bool], timeout_s: float | None
    ) -> Any:
        """The first response that *is_enough*; each try is a request of its own that the service may hold for a while.

        *request* has `wait_s`, how long the service may hold it.
        """
        subject = subjects.rpc(self.namespace, verb)
        frame = codec.encode_frame([codec.encode(request)])
        hold_s: float = request.wait_s + ATTEMPT_TIMEOUT_S

        async def ask() -> bytes:
            return bytes(codec.decode_frame(await self.bus.request(subject, frame, hold_s))[0])

        try:
            async with asyncio.timeout(timeout_s):
                while not is_enough(found := await self._until_definite(verb, ask, None)):
                    pass
                return found
        except TimeoutError:
            raise DeadlineExceeded(f"{verb}: nothing to tell within {timeout_s:g} s") from None

    async def pause(self, attempt: int) -> None:
        """Wait before the try after number *attempt*; while the broker is away, until it is back and no longer."""
        if self.bus.is_connected:
            await asyncio.sleep(retry_delay_s(attempt))
            return
        with contextlib.suppress(Unavailable):
            await self.bus.connected(AWAY_S)
        # Everybody was waiting for this moment.
        await asyncio.sleep(FIRST_RETRY_S * random.random())

    async def _until_definite(self, verb: str, ask: Callable[[], Any], timeout_s: float | None) -> Any:
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        attempt, last = 0, "no answer"
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    attempt += 1
                    try:
                        return _response(verb, await ask())
                    except Unavailable as error:
                        last = str(error) or last
                    await self.pause(attempt)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{verb}: no definite answer within {timeout_s:g} s and {attempt} attempts; the last one: {last}"
            ) from None

    def _caller(self, verb: str) -> FramedCaller:
        caller = self._callers.get(verb)
        if caller is None:
            subject = subjects.rpc(self.namespace, verb)
            caller = self._callers[verb] = framed_caller(self.bus, subject, timeout_s=ATTEMPT_TIMEOUT_S)
        return caller


def retry_delay_s(attempt: int) -> float:
    """Seconds to wait after try number *attempt* (1 is the first); random, so that callers do not march in step."""
    return float(min(FIRST_RETRY_S * 2 ** min(attempt - 1, 10), LAST_RETRY_S) * random.uniform(0.5, 1.0))


def _response(verb: str, data: bytes) -> Any:
    answer: Answer = codec.decode(data, Answer)
    if answer.code == "ok":
        return codec.decode(answer.value, codec.RESPONSES[verb])
    raise error_of_code(answer.code, answer.message, answer.details)
