"""How a process tells whether it lives, whether it is ready, and what it counted."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Never

import httpx
import pytest

from holdfast.api.ops import Probe, Remembered, address_of, bind, serve_ops
from holdfast.config import Address
from holdfast.exceptions import Invalid
from holdfast.metrics import Metrics, exposition

FREE = Address("127.0.0.1", 0)


async def well() -> None:
    return None


async def away() -> str:
    return "broker away since 12 s, working at sweep latency"


async def broken() -> Never:
    raise ConnectionError("connection refused")


async def stuck() -> None:
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def ops(*probes: Probe) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an ops server with these probes."""
    metrics = Metrics()
    metrics.commits.inc(7)
    sock = bind(FREE)
    async with asyncio.TaskGroup() as group:
        server = group.create_task(serve_ops(sock, probes, lambda: exposition(metrics.families)))
        async with httpx.AsyncClient(base_url=f"http://{address_of(sock)}", trust_env=False) as client:
            yield client
        server.cancel()


async def test_a_process_whose_parts_are_all_well_is_ready() -> None:
    async with ops(Probe("postgres", well), Probe("bus", well, is_required=False)) as client:
        answer = await client.get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "checks": {"postgres": {"ok": True, "note": None}, "bus": {"ok": True, "note": None}},
    }


async def test_the_broker_away_is_a_note_and_the_process_stays_ready() -> None:
    async with ops(Probe("postgres", well), Probe("bus", away, is_required=False)) as client:
        answer = await client.get("/readyz")

    assert answer.status_code == 200
    assert answer.json()["checks"]["bus"] == {"ok": False, "note": await away()}


async def test_postgres_away_is_not_ready_but_alive() -> None:
    async with ops(Probe("postgres", broken)) as client:
        ready, alive = await client.get("/readyz"), await client.get("/livez")

    assert ready.status_code == 503
    assert ready.json()["checks"]["postgres"] == {"ok": False, "note": "connection refused"}
    assert alive.status_code == 200


async def test_a_probe_that_never_answers_counts_as_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.api.ops.PROBE_S", 0.05)
    async with ops(Probe("postgres", stuck)) as client:
        answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert "no answer within" in answer.json()["checks"]["postgres"]["note"]


async def test_however_many_ask_a_remembered_check_is_made_once_a_second() -> None:
    now, made = 50.0, 0

    async def counted() -> str:
        nonlocal made
        made += 1
        await asyncio.sleep(0)
        return f"answer {made}"

    check = Remembered(counted, clock=lambda: now)

    assert set(await asyncio.gather(*(check() for _ in range(20)))) == {"answer 1"}
    now += 0.999
    assert await check() == "answer 1"
    now += 0.001
    assert await check() == "answer 2"


async def test_what_a_remembered_check_raised_is_remembered_too() -> None:
    """Postgres is away: a hundred probes must not be a hundred attempts to connect."""
    made = 0

    async def counted() -> Never:
        nonlocal made
        made += 1
        raise ConnectionError("connection refused")

    check = Remembered(counted, clock=lambda: 50.0)

    async with ops(Probe("postgres", check)) as client:
        answers = [await client.get("/readyz") for _ in range(3)]

    assert [answer.json()["checks"]["postgres"]["note"] for answer in answers] == ["connection refused"] * 3
    assert made == 1


async def test_a_check_that_was_given_up_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.api.ops.PROBE_S", 0.05)
    asked = 0

    async def stuck_at_first() -> None:
        nonlocal asked
        asked += 1
        await (stuck() if asked == 1 else well())

    check = Remembered(stuck_at_first, clock=lambda: 50.0)

    async with ops(Probe("postgres", check)) as client:
        answers = [await client.get("/readyz") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [503, 200]


async def test_metrics_are_in_prometheus_form() -> None:
    async with ops() as client:
        answer = await client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "holdfast_commits_total 7.0" in answer.text
    assert "process_resident_memory_bytes" in answer.text


async def test_any_other_path_is_not_found() -> None:
    async with ops() as client:
        assert (await client.get("/")).status_code == 404


async def test_stopping_the_server_frees_its_port() -> None:
    sock = bind(FREE)
    address = address_of(sock)
    server = asyncio.create_task(serve_ops(sock, (), bytes))
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"http://{address}/livez")
    server.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server

    bind(address).close()


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Invalid, match=f"port {port} on 127.0.0.1 is taken by another process; stop"):
            bind(Address("127.0.0.1", port))


def test_an_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(Invalid, match=r"192\.0\.2\.1 is not an address of this machine"):
        bind(Address("192.0.2.1", 0))
