"""Runs and their rows in a real database, made by the real core and written by the real journal. Claims nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg

from holdfast.core import state as s
from holdfast.core.decide import decide, first_facts, open_run
from holdfast.core.evolve import evolve
from holdfast.core.ids import uuid7
from holdfast.core.requests import OpenRun
from holdfast.store import journal
from holdfast.store.record import record
from holdfast.store.session import Pool
from holdfast.wire import commands as c
from holdfast.wire import messages as m

PATIENCE_S = 20.0
QUEUE = "q"
LEASE_S = 10.0
_entropy = iter(range(1, 2**62))


class Sql:
    """Plain statements in schema holdfast."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Self]:
        connection = await asyncpg.connect(url, server_settings={"search_path": "holdfast", "jit": "off"})
        try:
            yield cls(connection)
        finally:
            await connection.close(timeout=5)

    async def __call__(self, text: str, *args: Any) -> list[Any]:
        """The rows, each as a tuple, or the one column of each."""
        rows = [tuple(row) for row in await self.connection.fetch(text, *args)]
        return [row[0] for row in rows] if rows and len(rows[0]) == 1 else rows

    async def one(self, text: str, *args: Any) -> Any:
        """The first column of the first row."""
        return await self.connection.fetchval(text, *args)

    async def until(self, text: str, *args: Any) -> None:
        """Return once the statement gives true: for what happens inside Postgres, of which no event tells."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.one(text, *args):
                await asyncio.sleep(0.005)


def new_run(
    workflow_id: str = "order-1", *, namespace: str = "main", queue: str = QUEUE, now: float, ms: int = 0
) -> s.RunState:
    """The state of a run that is about to be written: started, with its first task ready. Ids rise."""
    start = m.Start(
        request_id=f"start {workflow_id}", workflow_id=workflow_id, workflow_type="order", task_queue=queue
    )
    run_id = uuid7(ms or int(now * 1000), next(_entropy).to_bytes(10, "big"))
    state = open_run(OpenRun(start, b"h", run_id), now)
    assert isinstance(state, s.RunState)
    state.run.namespace = namespace
    state.first_new_seq = 1
    for fact in first_facts(start):
        evolve(state, fact, now)
    return state


async def database_now(pool: Pool) -> float:
    """The database's clock."""
    return (await journal.resolve(_Plain(pool), [journal.Address("main", os.urandom(8).hex())]))[0].now  # type: ignore[arg-type]


class _Plain:
    """A pool where a session is asked for: single statements."""

    def __init__(self, pool: Pool) -> None:
        self.rows = pool.rows


async def save(pool: Pool, *states: s.RunState) -> set[str]:
    """Write these states; the ids of those that lost their workflow id to another run."""
    async with pool.transaction(is_deferred=True) as session:
        return (await record(session, states)).lost


async def start(pool: Pool, workflow_id: str = "order-1", **fields: Any) -> str:
    """The id of a new run with a ready workflow task."""
    state = new_run(workflow_id, now=await database_now(pool), **fields)
    assert not await save(pool, state)
    return state.run.run_id


async def change(
    pool: Pool,
    run_id: str,
    *requests: Any,
    activities: Sequence[int] = (),
    timers: Sequence[int] = (),
    before_commit: Callable[[], Any] | None = None,
) -> list[Any]:
    """Lock a run, decide these requests, record: the answers. The engine's transaction without the engine."""
    async with pool.transaction() as session:
        states, now = await journal.lock(
            session, [run_id], [(run_id, seq) for seq in activities], [(run_id, seq) for seq in timers], []
        )
        state, answers = states[run_id], []
        for request in requests:
            decision = decide(state, request, now)
            for fact in decision.facts:
                evolve(state, fact, now)
            answers.append(decision.answer)
        await record(session, [state])
        if before_commit is not None:
            await before_commit()
        return answers


async def turn(pool: Pool, run_id: str, *commands: c.AnyCommand, worker: str = "w1") -> None:
    """Complete the run's ready workflow task with these commands, as *worker* that claimed it."""
    async with pool.transaction() as session:
        states, now = await journal.lock(session, [run_id], [], [], [])
        state = states[run_id]
        task = state.tasks[0]
        report = m.CompleteWorkflowTask(
            run_id=run_id,
            worker=worker,
            fence=task.fence,
            seen_seq=state.run.last_seq,
            commands=list(commands),
        )
        for fact in decide(state, report, now).facts:
            evolve(state, fact, now)
        await record(session, [state])


async def read(
    pool: Pool, run_id: str, activities: Sequence[int] = (), timers: Sequence[int] = ()
) -> s.RunState:
    """The run's rows as they are."""
    async with pool.transaction() as session:
        states, _ = await journal.lock(
            session, [run_id], [(run_id, seq) for seq in activities], [(run_id, seq) for seq in timers], []
        )
        return states[run_id]


def schedule(seq: int = 1, **fields: Any) -> c.ScheduleActivity:
    """A command that schedules activity *seq*."""
    return c.ScheduleActivity(seq=seq, name="charge", **fields)
