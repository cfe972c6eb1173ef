"""The public HTTP address: who is there and whether it is well. Decode, ask, encode; no rule lives here."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from holdfast.api.ops import Probe, health


def http_app(version: str, probes: Sequence[Probe]) -> ASGIApp:
    """`GET /api/v1/healthz` (503 while a required part is away) and `GET /api/v1/version`."""

    async def healthz(_request: Request) -> Response:
        found = await health(probes)
        return JSONResponse(
            {"status": "ok" if found.is_ready else "unavailable"}, 200 if found.is_ready else 503
        )

    async def told_version(_request: Request) -> Response:
        return JSONResponse({"name": "holdfast", "version": version})

    return Starlette(routes=[Route("/api/v1/healthz", healthz), Route("/api/v1/version", told_version)])
