"""The small HTTP server on which each process tells how it is: `/livez`, `/readyz`, `/metrics`.

It runs inside the process's own event loop, so that `/livez` answers exactly while the loop
turns. It takes no part in the work, needs no authentication, and says nothing about workflows
beyond bounded metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from holdfast.config import Address
from holdfast.exceptions import Invalid
from holdfast.metrics import CONTENT_TYPE

PROBE_S = 2.0
"""A probe that takes longer counts as failed."""
REMEMBERED_S = 1.0


class Probe(msgspec.Struct, frozen=True):
    """A part the process stands on. `check` returns None if it is well, else one sentence of what is wrong.

    The process is ready while every probe that is `is_required` is well; the others are told
    as notes.
    """

    name: str
    check: Callable[[], Awaitable[str | None]]
    is_required: bool = True


class Remembered:
    """A check whose answer is good for a while: however many ask, it is made once in that time, and never twice at once."""

    def __init__(
        self,
        check: Callable[[], Awaitable[str | None]],
        *,
        for_s: float = REMEMBERED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check = check
        self._for_s = for_s
        self._clock = clock
        self._turn = asyncio.Lock()
        self._asked_at: float | None = None
        self._answer: str | None = None

    async def __call__(self) -> str | None:
        """What the check says or raises, as a sentence; None if all is well."""
        async with self._turn:
            now = self._clock()
            if self._asked_at is None or now >= self._asked_at + self._for_s:
                try:
                    self._answer = await self._check()
                except Exception as error:  # noqa: BLE001 - the outer edge: what it raises is its answer
                    self._answer = str(error) or type(error).__name__
                self._asked_at = now
            return self._answer


class Health(msgspec.Struct, frozen=True):
    """What the probes found: by name, None for well or what is wrong."""

    is_ready: bool
    checks: Mapping[str, str | None]


async def health(probes: Sequence[Probe]) -> Health:
    """What all *probes* say, asked at the same time; one that raises or takes over `PROBE_S` is not well."""
    answers = await asyncio.gather(*map(_ask, probes))
    is_ready = all(answer is None for probe, answer in zip(probes, answers, strict=True) if probe.is_required)
    return Health(is_ready, {probe.name: answer for probe, answer in zip(probes, answers, strict=True)})


def bind(address: Address) -> socket.socket:
    """A listening socket at *address*; `address_of` tells its port. Raises `Invalid` if it cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(100)
    except OSError as error:
        sock.close()
        raise Invalid(_bind_fault(address, error), details={"address": str(address)}) from error
    sock.setblocking(False)
    return sock


def address_of(sock: socket.socket) -> Address:
    """Where *sock* listens."""
    host, port = sock.getsockname()[:2]
    return Address(host, port)


async def serve_ops(sock: socket.socket, probes: Sequence[Probe], exposition: Callable[[], bytes]) -> None:
    """Answer on *sock* (from `bind`) until cancelled, then close it. Meant as one task of a group."""
    await serve_app(sock, ops_app(probes, exposition))


def ops_app(probes: Sequence[Probe], exposition: Callable[[], bytes]) -> ASGIApp:
    """The three routes. `/readyz` is 503 only when a required probe is not well."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(_: Request) -> Response:
        found = await health(probes)
        checks = {name: {"ok": wrong is None, "note": wrong} for name, wrong in found.checks.items()}
        return JSONResponse({"ready": found.is_ready, "checks": checks}, 200 if found.is_ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(exposition(), headers={"content-type": CONTENT_TYPE})

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)])


async def serve_app(sock: socket.socket, app: ASGIApp, *, drain_s: float = 1.0) -> None:
    """Serve *app* on *sock* until cancelled; then answer what is under way for at most *drain_s*."""
    settings = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
    server = _Server(settings)
    try:
        await server.serve(sockets=[sock])
    finally:
        # Cancelled, uvicorn leaves its connections open; its shutdown answers what is under way.
        if server.started and not server.should_exit:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s + 1):
                    await server.shutdown(sockets=[sock])
        sock.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _ask(probe: Probe) -> str | None:
    try:
        async with asyncio.timeout(PROBE_S):
            return await probe.check()
    except TimeoutError:
        return f"no answer within {PROBE_S:g} s"
    except Exception as error:  # noqa: BLE001 - the outer edge
        # The outer edge: whatever a probe raises is the answer to the question it was asked.
        return str(error) or type(error).__name__


def _bind_fault(address: Address, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"port {address.port} on {address.host} is taken by another process; "
                f"stop that one, or choose another port (0 takes a free one)"
            )
        case errno.EACCES | errno.EPERM:
            return f"port {address.port} is not open to this user; choose one above 1023, or 0 for a free one"
        case errno.EADDRNOTAVAIL:
            return f"{address.host} is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all"
        case _:
            return f"cannot listen on {address}: {error.strerror or error}; expected HOST:PORT"
