"""A whole system of real processes to break: embedded servers with durable settings, `holdfast serve`, `holdfast worker`.

Everything is loopback, on free ports, in one folder; every process is known by its pid, ended with the block, and
dies with the test run however that ends. On failure the ends of all logs are printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import asyncpg

from holdfast import Client
from holdfast.dev import Stack, embedded
from holdfast.dev.process import Process, spawn, tail
from holdfast.store.migrate import migrate
from tests.cli.processes import environment
from tests.e2e import programs
from tests.invariants.check import violations
from tests.invariants.replaying import by_type
from tests.invariants.vocabulary import Effect, Op

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
LOOK_S = 0.01


class Part:
    """One `holdfast` process under a name, started as often as one likes; its log is kept over all of its lives."""

    def __init__(self, name: str, args: Iterable[str], logs: Path, env: dict[str, str]) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.pids: list[int] = []
        self._command = [sys.executable, "-m", "holdfast", *args]
        self._env = env
        self._process: Process | None = None
        self._said = 0

    @property
    def is_running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.is_running

    def start(self) -> None:
        """Start it; `ready` waits until it works."""
        self._said = self.log.stat().st_size if self.log.exists() else 0
        self._process = spawn(self._command, log=self.log, env=self._env, cwd=str(ROOT))
        self.pids.append(self._process.pid)

    async def ready(self) -> None:
        """Return once it has said so."""
        await self.said(r"^ready\b")

    async def said(self, pattern: str) -> re.Match[str]:
        """The first match of *pattern* in what this life of it says."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with self.log.open("rb") as source:
                    source.seek(self._said)
                    text = source.read().decode(errors="replace")
                if found := re.search(pattern, text, re.MULTILINE):
                    return found
                assert self.is_running, f"{self.name} ended:\n{text}"
                await asyncio.sleep(LOOK_S)

    async def stop(self) -> int:
        """Ask it to end in order, and return its exit code."""
        assert self._process is not None
        return await self._process.stop(signal.SIGTERM, grace_s=PATIENCE_S)

    async def kill(self) -> None:
        """SIGKILL it, by its pid, and return when it is gone."""
        if self._process is not None:
            await self._process.stop(signal.SIGKILL, grace_s=5)


class System:
    """The running system. `engines` and `workers` are its processes; the servers are `stack`'s."""

    def __init__(self, stack: Stack, logs: Path, settings: dict[str, str]) -> None:
        self.stack = stack
        self.logs = logs
        self.engines: list[Part] = []
        self.workers: list[Part] = []
        self._env = environment(
            HOLDFAST_POSTGRES_URL=stack.postgres_url,
            HOLDFAST_NATS_URL=stack.nats_url,
            HOLDFAST_ADDRESS=stack.nats_url,
            HOLDFAST_OPS="127.0.0.1:0",
            EFFECTS_URL=stack.postgres_url,
            **settings,
        )

    @property
    def parts(self) -> list[Part]:
        """All processes but the servers."""
        return [*self.engines, *self.workers]

    def add_engine(self) -> Part:
        """One more `holdfast serve engine`."""
        return self._add("engine", self.engines, ["serve", "engine"])

    def add_worker(self, *options: str, program: str = "tests.e2e.programs") -> Part:
        """One more `holdfast worker`."""
        return self._add("worker", self.workers, ["worker", program, *options])

    def _add(self, kind: str, parts: list[Part], args: list[str]) -> Part:
        part = Part(f"{kind}-{len(parts) + 1}", args, self.logs, self._env)
        parts.append(part)
        part.start()
        return part

    async def fetch(self, statement: str, *args: Any) -> list[Any]:
        """Rows of the system's database."""
        connection = await asyncpg.connect(self.stack.postgres_url, timeout=5)
        try:
            return list(await connection.fetch(statement, *args))
        finally:
            await connection.close()

    async def now(self) -> float:
        """The database's time, in epoch seconds."""
        rows = await self.fetch("SELECT extract(epoch FROM clock_timestamp())::float8 AS now")
        return float(rows[0]["now"])

    async def effects(self) -> list[Effect]:
        """What activities really did."""
        rows = await self.fetch("SELECT run_id::text AS run_id, seq, fence FROM e2e.effect")
        return [Effect(**dict(row)) for row in rows]

    async def violations(self, log: Iterable[Op] = (), *, is_calm: bool = True) -> list[str]:
        """What does not hold: see `tests.invariants`. Effects are compared only when nothing moves any more."""
        return await violations(
            self.stack.postgres_url,
            log=log,
            effects=await self.effects() if is_calm else (),
            definitions=by_type(*programs.WORKFLOWS),
            is_calm=is_calm,
        )

    async def until(self, is_so: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
        """Return once the coroutine function *is_so* says True; it is asked a few times a second."""
        try:
            async with asyncio.timeout(patience_s):
                while not await is_so():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {patience_s} s: {what}") from None

    @property
    def ended(self) -> list[str]:
        """The processes that have ended although nobody killed them."""
        return [part.name for part in self.parts if not part.is_running]

    async def open_runs(self) -> list[str]:
        """What is still open, and what it waits for."""
        rows = await self.fetch(
            """
            SELECT r.workflow_id, r.last_seq, r.status, t.seq, t.worker, t.attempt, t.fence, t.sticky_worker,
                t.ready_at - now() AS ready_in, t.deadline - now() AS deadline_in, t.lease_until - now() AS lease_in
            FROM holdfast.run AS r LEFT JOIN holdfast.task AS t USING (run_id)
            WHERE r.closed_at IS NULL ORDER BY r.created_at LIMIT 20
            """
        )
        return [", ".join(f"{name}={value}" for name, value in row.items()) for row in rows]

    def tell_logs(self) -> str:
        """The end of each log."""
        logs = sorted([*self.logs.glob("*.log"), *self.stack.logs.glob("*")])
        told = [line[:500] for log in logs for line in [f"--- {log.name}", *tail(log, lines=25).splitlines()]]
        return "\n".join(told)


@contextlib.asynccontextmanager
async def system(
    logs: Path, *, engines: int = 1, workers: int = 0, worker_options: Iterable[str] = (), **settings: str
) -> AsyncIterator[System]:
    """A system with so many engines and workers, ready; *settings* are environment variables of its processes."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-e2e-"))
    if os.geteuid() == 0:
        # Postgres does not run as root; the user it becomes must be able to enter.
        folder.chmod(0o755)
    try:
        async with embedded(folder / "data") as stack:
            await migrate(stack.postgres_url)
            whole = System(stack, logs, settings)
            connection = await asyncpg.connect(stack.postgres_url)
            await connection.execute(programs.EFFECTS)
            await connection.close()
            try:
                for _ in range(engines):
                    whole.add_engine()
                for _ in range(workers):
                    whole.add_worker(*worker_options)
                await asyncio.gather(*(part.ready() for part in whole.parts))
                yield whole
            except BaseException:
                print(whole.tell_logs())
                raise
            finally:
                for part in whole.parts:
                    await part.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def client_of(whole: System) -> AsyncIterator[Client]:
    """A client in this process."""
    client = await Client.connect(whole.stack.nats_url)
    try:
        yield client
    finally:
        await client.close()
