"""Programs and questions for the tests of the embedded stack; run as a script, it holds a stack until it is killed.

python tests/dev/running.py [--data DIR] [--sleepers N] [--as UID]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from holdfast.dev import embedded
from holdfast.dev.process import is_alive
from holdfast.dev.supervisor import Part, Status, supervise

PATIENCE_S = 20.0
ROOT = Path(__file__).parents[2]


async def execute(url: str, statement: str) -> Any:
    """The first value that a statement gives."""
    connection = await asyncpg.connect(url, timeout=PATIENCE_S)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Return once something holds of which no event tells, such as the end of a process that is not our child."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def gone(pids: Iterable[int]) -> None:
    """Return once none of *pids* runs."""
    left = list(pids)
    try:
        await until(lambda: not [pid for pid in left if is_alive(pid)])
    except TimeoutError:
        stayed = [
            psutil.Process(pid).as_dict(["pid", "ppid", "status", "name"]) for pid in left if is_alive(pid)
        ]
        raise AssertionError(f"still running: {stayed}") from None


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


class Holder:
    """Another process that holds a stack. `told` is what it printed about it."""

    def __init__(self, process: asyncio.subprocess.Process, told: dict[str, Any]) -> None:
        self.process = process
        self.told = told
        self.pids = family(process.pid)


@asynccontextmanager
async def holder(*options: str, **env: str) -> AsyncIterator[Holder]:
    """Another process that holds a stack, once that runs. It is killed with the block, if it is not before."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        *options,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **env, "PYTHONPATH": f"{ROOT / 'service'}:{ROOT}"},
        cwd="/",
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert process.stdout is not None
            line = await process.stdout.readline()
        assert line, f"no stack, exit code {await process.wait()}"
        yield Holder(process, json.loads(line))
    finally:
        if process.returncode is None:
            process.kill()
        # The pipe must be seen closed as well, else its transport outlives the loop.
        await process.communicate()


async def hold(data: str | None, sleepers: int) -> None:
    """Hold a stack with some parts on it until a signal comes."""
    parts = [Part(f"sleeper-{number}", ["/bin/sleep", "1000"]) for number in range(sleepers)]
    async with embedded(data) as stack, supervise(stack, parts) as supervisor:
        await supervisor.until(lambda: all(part.status is Status.RUNNING for part in supervisor.parts()))
        told = {"data": str(stack.data), "postgres_url": stack.postgres_url, "uid": os.geteuid()}
        print(json.dumps(told), flush=True)
        await supervisor.wait()


def main() -> None:
    """Become another user where told, then hold a stack."""
    reader = argparse.ArgumentParser()
    reader.add_argument("--data")
    reader.add_argument("--sleepers", type=int, default=0)
    reader.add_argument("--as", type=int, dest="uid")
    asked = reader.parse_args()
    if asked.uid is not None:
        os.setgroups([])
        os.setgid(asked.uid)
        os.setuid(asked.uid)
    asyncio.run(hold(asked.data, asked.sleepers))


if __name__ == "__main__":
    main()
