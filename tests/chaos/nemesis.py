"""What can be done to a running system: each fault breaks something, waits a moment, and heals it again.

A fault returns when it is healed: what it broke runs and can be reached. What the faults do to the work in the
system is for others to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable

import asyncpg
import nats
from nats.js.errors import NotFoundError

from holdfast.dev.process import send_all, working_in
from tests.e2e.system import Part, System

DOWN_S = (0.0, 1.5)
FROZEN_S = (1.0, 4.0)
CUTS = 10

Fault = Callable[[System, random.Random], Awaitable[None]]


async def kill_worker(whole: System, dice: random.Random) -> None:
    """-9, and a new process in its place."""
    await _replace(dice.choice(whole.workers), dice)


async def kill_engine(whole: System, dice: random.Random) -> None:
    """-9, and a new process in its place."""
    await _replace(dice.choice(whole.engines), dice)


async def kill_broker(whole: System, dice: random.Random) -> None:
    """-9, with or without the loss of its store."""
    await whole.stack.nats.kill()
    if dice.random() < 0.5:
        whole.stack.nats.wipe()
    await asyncio.sleep(dice.uniform(*DOWN_S))
    await whole.stack.nats.start()


async def kill_postgres(whole: System, dice: random.Random) -> None:
    """-9 for the whole cluster, as when a machine dies."""
    await whole.stack.postgres.kill()
    await asyncio.sleep(dice.uniform(*DOWN_S))
    await whole.stack.postgres.start()


async def cut_sessions(whole: System, dice: random.Random) -> None:
    """One of the service's sessions after the other, wherever it is in its transaction."""
    for _ in range(CUTS):
        await whole.fetch(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE 'holdfast %' ORDER BY state = 'idle', random() LIMIT 1
            """
        )
        await asyncio.sleep(dice.uniform(0, 0.2))


async def freeze_postgres(whole: System, dice: random.Random) -> None:
    """It answers nobody, and its connections stay open."""
    pids = working_in(whole.stack.postgres.cluster, "postgres")
    await _frozen(pids, dice)


async def freeze_broker(whole: System, dice: random.Random) -> None:
    """It answers nobody, and its connections stay open."""
    pid = whole.stack.nats.pid
    assert pid is not None
    await _frozen([pid], dice)


async def freeze_engine(whole: System, dice: random.Random) -> None:
    """It wakes up believing that nothing has changed, also that it still relays the feed."""
    await _frozen([dice.choice(whole.engines).pids[-1]], dice)


async def freeze_worker(whole: System, dice: random.Random) -> None:
    """Longer than its leases: it reports what others have done meanwhile."""
    await _frozen([dice.choice(whole.workers).pids[-1]], dice)


async def delete_streams(whole: System, dice: random.Random) -> None:
    """Somebody tidies up in the broker."""
    connection = await nats.connect(whole.stack.nats_url)
    try:
        for name in ("HF_HINT", "HF_EVENT"):
            with contextlib.suppress(NotFoundError):
                await connection.jetstream().delete_stream(name)
    finally:
        await connection.close()


async def restart_one_after_another(whole: System, dice: random.Random) -> None:
    """A new version is rolled out: every engine stops in order."""
    for part in whole.engines:
        code = await part.stop()
        assert code == 0, f"{part.name} ended with {code}"
        part.start()
        await part.ready()


async def hold_locks(whole: System, dice: random.Random) -> None:
    """An operator's session sits on the rows of some open runs."""
    connection = await asyncpg.connect(whole.stack.postgres_url)
    try:
        async with connection.transaction():
            await connection.execute(
                "SELECT FROM holdfast.run WHERE closed_at IS NULL ORDER BY run_id LIMIT 5 FOR UPDATE SKIP LOCKED"
            )
            await asyncio.sleep(dice.uniform(*DOWN_S))
    finally:
        await connection.close()


FAULTS: list[Fault] = [
    kill_worker,
    kill_engine,
    kill_broker,
    kill_postgres,
    cut_sessions,
    freeze_postgres,
    freeze_broker,
    freeze_engine,
    freeze_worker,
    delete_streams,
    restart_one_after_another,
    hold_locks,
]
# They need what the others take away, or take it away from each other.
ALONE = {delete_streams, restart_one_after_another, cut_sessions, hold_locks}


def plan(dice: random.Random) -> list[list[Fault]]:
    """Every fault once, in any order; a good part of them two at a time, each on something else."""
    order = dice.sample(FAULTS, len(FAULTS))
    steps: list[list[Fault]] = []
    for fault in order:
        last = steps[-1] if steps else []
        can_join = len(last) == 1 and not {fault, last[0]} & ALONE and _victim(fault) != _victim(last[0])
        if can_join and dice.random() < 0.6:
            last.append(fault)
        else:
            steps.append([fault])
    return steps


def _victim(fault: Fault) -> str:
    return fault.__name__.rpartition("_")[2]


async def _replace(part: Part, dice: random.Random) -> None:
    await part.kill()
    await asyncio.sleep(dice.uniform(*DOWN_S))
    part.start()
    # A worker says that it is ready once it has reached the broker, which may be away as well.
    async with asyncio.timeout(60):
        await part.ready()


async def _frozen(pids: list[int], dice: random.Random) -> None:
    send_all(pids, signal.SIGSTOP)
    try:
        await asyncio.sleep(dice.uniform(*FROZEN_S))
    finally:
        send_all(pids, signal.SIGCONT)
