"""The checker is not blind: each violation that is planted in a sound database is found by the check of its name."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from holdfast import Worker, workflow
from holdfast.dev import Stack
from holdfast.testing import service_on
from holdfast.wire import codec
from holdfast.wire import events as e
from tests.e2e import programs
from tests.invariants.check import violations
from tests.invariants.checks import LIVENESS, SAFETY
from tests.invariants.replaying import by_type
from tests.invariants.vocabulary import Effect, Op

DEFINITIONS = by_type(*programs.WORKFLOWS)


class Specimen(NamedTuple):
    """A database in which everything holds: run `closed` is an `Order`, run `open` is `Waiting`."""

    url: str
    name: str
    closed: str
    open: str
    effects: list[Effect]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def specimen(stack: Stack, template: str) -> AsyncIterator[Specimen]:
    """Made by the real service, once."""
    name = f"specimen_{uuid4().hex}"
    url = at(stack, name)
    await do(stack.postgres_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    await do(url, programs.EFFECTS)
    os.environ[programs.EFFECTS_VARIABLE] = url
    async with service_on(url, stack.nats_url) as env:
        worker = Worker(
            env.client, task_queue="specimen", workflows=programs.WORKFLOWS, activities=[programs.double]
        )
        async with worker:
            order = await env.client.start_workflow(
                programs.Order, args=[3, 0.01], id="closed", task_queue="specimen"
            )
            await order.signal(programs.Order.approve, "Ada")
            assert await order.result() == programs.result_of(3, "Ada")
            waiting = await env.client.start_workflow(programs.Waiting, id="open", task_queue="specimen")
            await waiting.signal(programs.Waiting.tell, "hello")
            async with asyncio.timeout(20):
                while len((await waiting.fetch_history()).events) < 6:
                    await asyncio.sleep(0.01)
    await programs.forget_connections()
    del os.environ[programs.EFFECTS_VARIABLE]
    rows = await fetch(url, "SELECT run_id::text AS run_id, seq, fence FROM e2e.effect")
    runs = {
        row["workflow_id"]: row["id"]
        for row in await fetch(url, "SELECT workflow_id, run_id::text AS id FROM holdfast.run")
    }
    yield Specimen(url, name, runs["closed"], runs["open"], [Effect(**dict(row)) for row in rows])
    await do(stack.postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def copy(stack: Stack, specimen: Specimen) -> AsyncIterator[str]:
    """A copy of the specimen to break."""
    name = f"copy_{uuid4().hex}"
    await do(stack.postgres_url, f"CREATE DATABASE {name} TEMPLATE {specimen.name}")
    yield at(stack, name)
    await do(stack.postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


def at(stack: Stack, name: str) -> str:
    return re.sub(r"(://[^/]+)/[^?]*", rf"\1/{name}", stack.postgres_url)


async def do(url: str, statement: str, *args: Any) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement, *args)
    finally:
        await connection.close()


async def fetch(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


def body(event: e.Event) -> str:
    return f"'\\x{codec.encode_event(event).hex()}'::bytea"


def add(event: e.Event, run: str = "open", after: int = 0, earlier_s: float = 0) -> str:
    """Statements that put *event* behind the run's last one (and *after* more), as `record` would."""
    return f"""
        INSERT INTO holdfast.event (run_id, recorded_at, seq, type, body)
        SELECT run_id, last_at - interval '{earlier_s} s', last_seq + 1 + {after}, '{type(event).__name__}', {body(event)}
        FROM holdfast.run WHERE workflow_id = '{run}';
        UPDATE holdfast.run SET last_seq = last_seq + 1 + {after} WHERE workflow_id = '{run}';
    """


def of(run: str, where: str = "true") -> str:
    return f"run_id = (SELECT run_id FROM holdfast.run WHERE workflow_id = '{run}') AND {where}"


OPEN, CLOSED = "workflow_id = 'open'", "workflow_id = 'closed'"
AGAIN = """
    INSERT INTO holdfast.run SELECT (jsonb_populate_record(r, jsonb_build_object('run_id', gen_random_uuid()) || {})).*
    FROM holdfast.run AS r WHERE workflow_id = 'closed';
"""
PLANTED = {
    "gapless": f"DELETE FROM holdfast.event WHERE {of('closed', 'seq = 4')}",
    "last_seq": f"UPDATE holdfast.run SET last_seq = last_seq + 1 WHERE {OPEN}",
    "retention": f"DELETE FROM holdfast.event WHERE {of('closed')}",
    "type_agrees": f"UPDATE holdfast.event SET type = 'TimerFired' WHERE {of('closed', 'seq = 2')}",
    "one_start": add(e.WorkflowStarted(workflow_id="open", workflow_type="waiting", task_queue="specimen")),
    "terminal_once": add(e.WorkflowCompleted(), "closed"),
    "terminal_last": add(e.SignalReceived(name="late"), "closed"),
    "status_agrees": f"UPDATE holdfast.run SET status = 'RUNNING' WHERE {CLOSED}",
    "closed_has_open_work": f"UPDATE holdfast.timer SET state = 0 WHERE {of('closed')}",
    "one_open_run": "DROP INDEX holdfast.run_open;"
    + AGAIN.format("""'{"workflow_id": "open", "closed_at": null, "status": "RUNNING"}'"""),
    "start_dup": AGAIN.format("'{}'"),
    "close_once": add(e.ActivityCompleted(seq=1), "closed"),
    "close_without_open": add(e.TimerFired(seq=77)),
    "fence_monotonic": add(e.SignalReceived(name="x"))
    + f"""
        INSERT INTO holdfast.task (run_id, ready_at, fence, seq, attempt, namespace, task_queue)
        SELECT run_id, now(), fence, 0, 1, namespace, task_queue FROM holdfast.run WHERE {OPEN}
    """,
    "batch_whole": add(e.WorkflowTaskCompleted(seen_seq=5, events=1)),
    "command_once": add(e.WorkflowTaskCompleted(seen_seq=5, events=1))
    + add(e.TimerStarted(seq=1, fire_at=0)),
    "timer_early": f"UPDATE holdfast.timer SET fire_at = fire_at + interval '1 h' WHERE {of('closed')}",
    "signal_dup": add(e.SignalReceived(name="x", request_id="r"))
    + add(e.SignalReceived(name="x", request_id="r")),
    "clock_monotonic": add(e.SignalReceived(name="x"), earlier_s=9),
    "ns_mix": f"UPDATE holdfast.task SET namespace = 'other' WHERE {of('open')}",
    "outbox_within_history": f"INSERT INTO holdfast.outbox (run_id, first_seq, last_seq) SELECT run_id, 1, 999 FROM holdfast.run WHERE {OPEN}",
    "stuck_run": add(e.SignalReceived(name="unseen")),
    "timer_lost": f"UPDATE holdfast.timer SET fire_at = now() - interval '11 s' WHERE {of('open')}",
    "dispatch_overdue": f"UPDATE holdfast.task SET ready_at = now() - interval '11 s' WHERE {of('open')}",
    "lease_stuck": f"UPDATE holdfast.task SET worker = 'w', lease_until = now() - interval '11 s' WHERE {of('open')}",
    "outbox_overdue": f"""
        INSERT INTO holdfast.outbox (run_id, first_seq, last_seq, created_at)
        SELECT run_id, 1, 1, now() - interval '11 s' FROM holdfast.run WHERE {OPEN}
    """,
    "fold: run .* has tasks": f"DELETE FROM holdfast.task WHERE {of('open')}",
    "fold: run .* last_message_seq": f"UPDATE holdfast.run SET last_message_seq = 1 WHERE {OPEN}",
    "fold: run .* open_timers": f"UPDATE holdfast.run SET open_timers = 0 WHERE {OPEN}",
    "fold: run .* status": f"UPDATE holdfast.run SET status = 'FAILED' WHERE {CLOSED}",
    "fold: run .* command_seq": f"UPDATE holdfast.run SET command_seq = 1 WHERE {OPEN}",
    "fold: activity .* status": f"UPDATE holdfast.activity SET status = 'FAILED' WHERE {of('closed', 'seq = 1')}",
    "fold: run .* activity rows": f"DELETE FROM holdfast.activity WHERE {of('closed', 'seq = 1')}",
    "fold: timer .* fire_at": f"UPDATE holdfast.timer SET fire_at = fire_at + interval '1 s' WHERE {of('open')}",
    "fold: run .* cannot be decoded": f"UPDATE holdfast.event SET body = 'x' WHERE {of('open', 'seq = 2')}",
    "replay": f"""
        UPDATE holdfast.event SET body = {body(e.WorkflowCompleted(result=b"1"))}
        WHERE {of("closed", "type = 'WorkflowCompleted'")}
    """,
}


async def test_nothing_is_found_where_everything_holds(specimen: Specimen) -> None:
    log = [Op(op="start", run_id=specimen.closed, key="", outcome="ok")]

    assert await violations(specimen.url, log=log, effects=specimen.effects, definitions=DEFINITIONS) == []
    assert len(specimen.effects) == 5


@pytest.mark.parametrize("name", PLANTED)
async def test_a_planted_violation_is_found(copy: str, name: str) -> None:
    await do(copy, PLANTED[name])

    found = await violations(copy, definitions=DEFINITIONS)

    assert any(re.match(name, line) for line in found), found


LEDGER = {"start_lost", "signal_lost", "refused_but_applied", "signal_order"}
LEDGER |= {"effects_over", "effects_unearned", "effects_missing"}


def test_every_check_has_a_planted_violation() -> None:
    assert set(SAFETY) | set(LIVENESS) <= set(PLANTED) | LEDGER


async def test_code_that_changed_is_found_by_replay(specimen: Specimen) -> None:
    @workflow.defn(name="order")
    async def changed(number: int, pause_s: float) -> int:
        await asyncio.sleep(pause_s)
        return await programs.double(number)

    found = await violations(specimen.url, definitions=by_type(changed))

    assert [line for line in found if line.startswith("replay: ") and specimen.closed in line]


async def test_what_the_clients_saw_is_held_against_the_database(specimen: Specimen) -> None:
    signals = await fetch(specimen.url, "SELECT request_id FROM holdfast.request")
    lost, kept = "00000000-0000-0000-0000-000000000000", signals[0]["request_id"]

    log = [
        Op(op="start", run_id=lost, key="a", outcome="ok"),
        Op(op="signal", run_id=specimen.open, key="b", outcome="ok"),
        Op(op="signal", run_id=specimen.open, key=kept, outcome="refused"),
        Op(op="start", run_id=lost, key="c", outcome="unknown"),
    ]
    found = await violations(specimen.url, log=log)

    # Nobody works on the specimen: by now its ready task may be overdue, and rightly so.
    kinds = {line.split(":")[0] for line in found} - {"dispatch_overdue"}
    assert kinds == {"start_lost", "signal_lost", "refused_but_applied"}


async def test_signals_out_of_order_are_found(copy: str, specimen: Specimen) -> None:
    await do(
        copy,
        add(e.SignalReceived(name="x", request_id="second"))
        + add(e.SignalReceived(name="x", request_id="first")),
    )

    log = [
        Op(op="signal", run_id=specimen.open, key=key, outcome="ok", client_seq=number)
        for number, key in enumerate(["first", "second"])
    ]

    assert any(line.startswith("signal_order") for line in await violations(copy, log=log))


async def test_effects_are_held_against_the_leases(specimen: Specimen) -> None:
    one, *others = specimen.effects

    assert any(
        line.startswith("effects_over")
        for line in await violations(specimen.url, effects=[one, *specimen.effects])
    )
    assert any(line.startswith("effects_missing") for line in await violations(specimen.url, effects=others))
    later = Effect(run_id=one.run_id, seq=one.seq, fence=one.fence + 1)
    assert any(
        line.startswith("effects_unearned")
        for line in await violations(specimen.url, effects=[later, *specimen.effects])
    )
