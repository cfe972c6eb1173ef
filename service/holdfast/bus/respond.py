"""The answering side of requests, visible to `nats micro ls`.

A responder is an endpoint of one NATS micro service called `holdfast`. This module answers the protocol's
discovery subjects (`$SRV.PING`, `.INFO`, `.STATS`) itself: nats-py's own micro classes run the requests of an
endpoint one at a time. It decides nothing about what is answered.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from holdfast.bus.connection import Connection
from holdfast.bus.message import Msg, error_headers
from holdfast.bus.subscription import AsyncReceiver, Intake, Subscription
from holdfast.exceptions import HoldfastError, Internal, Invalid, Unavailable

_log = logging.getLogger(__name__)

Responder = Callable[[str, bytes], Awaitable[bytes]]
"""Called with the subject and the body of a request; what it returns is the answer, what it raises is told."""

SERVICE_NAME: Final = "holdfast"
QUEUE_GROUP: Final = "hf"
REQUEST_INTAKE: Final = Intake(concurrency=1_024)
_NANOSECONDS: Final = 1_000_000_000


@dataclass(slots=True)
class Endpoint:
    """A responder as discovery shows it."""

    name: str
    subject: str
    queue_group: str
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    busy_s: float = 0.0


class Discovery:
    """What this process answers on the discovery subjects; silent until there is an endpoint."""

    def __init__(self, connection: Connection, version: str) -> None:
        self.endpoints: list[Endpoint] = []
        self._connection = connection
        self._identity = {
            "name": SERVICE_NAME,
            "id": secrets.token_hex(11),
            "version": version,
            "metadata": {},
        }
        self._started = datetime.now(UTC).isoformat().replace("+00:00", "Z")

    def announce(self, endpoint: Endpoint) -> None:
        """Show *endpoint* from now on."""
        if not self.endpoints:
            self._listen()
        self.endpoints.append(endpoint)

    def _listen(self) -> None:
        for verb, describe in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            for suffix in ("", f".{SERVICE_NAME}", f".{SERVICE_NAME}.{self._identity['id']}"):
                self._connection.subscribe(f"$SRV.{verb}{suffix}", self._receiver(describe))

    def _receiver(self, describe: Callable[[], dict[str, Any]]) -> Callable[[Msg], None]:
        def receive(msg: Msg) -> None:
            if msg.reply:
                self._connection.publish(msg.reply, msgspec.json.encode(describe()))

        return receive

    def _ping(self) -> dict[str, Any]:
        return {"type": "io.nats.micro.v1.ping_response", **self._identity}

    def _info(self) -> dict[str, Any]:
        endpoints = [
            {"name": each.name, "subject": each.subject, "queue_group": each.queue_group, "metadata": {}}
            for each in self.endpoints
        ]
        return {
            "type": "io.nats.micro.v1.info_response",
            **self._identity,
            "description": "Holdfast durable workflows",
            "endpoints": endpoints,
        }

    def _stats(self) -> dict[str, Any]:
        endpoints = [
            {
                "name": each.name,
                "subject": each.subject,
                "queue_group": each.queue_group,
                "num_requests": each.requests,
                "num_errors": each.errors,
                "last_error": each.last_error,
                "processing_time": int(each.busy_s * _NANOSECONDS),
                "average_processing_time": int(each.busy_s * _NANOSECONDS / max(1, each.requests)),
            }
            for each in self.endpoints
        ]
        return {
            "type": "io.nats.micro.v1.stats_response",
            **self._identity,
            "started": self._started,
            "endpoints": endpoints,
        }


def respond(connection: Connection, endpoint: Endpoint, responder: Responder, intake: Intake) -> Subscription:
    """Answer what comes on the endpoint's subject with *responder*, many requests at once.

    What exceeds *intake* is answered with Unavailable at once: the asker should go elsewhere or come later.
    """

    def refuse(msg: Msg) -> None:
        if msg.reply:
            endpoint.requests += 1
            endpoint.errors += 1
            endpoint.last_error = "more requests than can be held"
            connection.publish(msg.reply, b"", error_headers(Unavailable("the service has too much to do")))

    return connection.subscribe(
        endpoint.subject,
        _answering(connection, endpoint, responder),
        endpoint.queue_group,
        intake=intake,
        refuse=refuse,
    )


def _answering(connection: Connection, endpoint: Endpoint, responder: Responder) -> AsyncReceiver:
    stats = connection.stats
    now_s = asyncio.get_running_loop().time

    async def receive(msg: Msg) -> None:
        # Nobody can use the answer: a stray publish, or a stream that captured the subject.
        if not msg.reply:
            return
        began_s = now_s()
        endpoint.requests += 1
        stats.responses += 1
        error: HoldfastError
        try:
            answer = await responder(msg.subject, msg.data)
            connection.publish(msg.reply, answer)
            return
        except HoldfastError as raised:
            error = raised
        except Exception:  # noqa: BLE001 - the outer edge: the asker must hear that something broke, but not the details
            _log.exception("the responder of %s failed", msg.subject)
            error = Internal("the service failed on this request; its log says why")
        finally:
            endpoint.busy_s += now_s() - began_s
        stats.response_errors += 1
        endpoint.errors += 1
        endpoint.last_error = error.message
        connection.publish(msg.reply, b"", error_headers(error))

    return receive


def endpoint_for(subject: str, queue_group: str) -> Endpoint:
    """The endpoint of *subject*, named by its last token that is no wildcard. Raises Invalid if there is none."""
    names = [token for token in subject.split(".") if token and token not in ("*", ">")]
    if not names:
        raise Invalid(f"cannot answer {subject!r}: a subject needs a token that is no wildcard")
    return Endpoint(names[-1], subject, queue_group)
