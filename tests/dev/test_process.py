"""Children do not outlive us, whoever watches them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
import uvloop

from holdfast.dev import embedded
from holdfast.dev.errors import DevError
from holdfast.dev.process import KERNEL_WATCHES, Process, ended, is_alive, run, spawn, tail
from tests.dev.running import execute, family, gone, until

PARENT = """
import os, signal, sys
from pathlib import Path
from holdfast.dev.process import spawn
child = spawn(["/bin/sleep", "1000"], log=Path(sys.argv[1]), env={}, is_watched_by_kernel=sys.argv[2] == "kernel")
print(child.pid, flush=True)
signal.pause()
"""
WATCHES = ["kernel", "pipe"] if KERNEL_WATCHES else ["pipe"]


@pytest.mark.parametrize("watch", WATCHES)
async def test_a_child_dies_with_its_parent(tmp_path: Path, watch: str) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        str(tmp_path / "log"),
        watch,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert parent.stdout is not None
        child = int(await parent.stdout.readline())
        # The guard has become the program, or has started it.
        await until(lambda: any(psutil.Process(pid).name() == "sleep" for pid in family(child)))
        pids = family(child)
    finally:
        parent.kill()
        await parent.communicate()
    await gone(pids)


@pytest.mark.parametrize("watch", WATCHES)
async def test_how_a_child_ended_is_told(tmp_path: Path, watch: str) -> None:
    def start(text: str) -> Process:
        return spawn(
            ["/bin/sh", "-c", text], log=tmp_path / "log", env={}, is_watched_by_kernel=watch == "kernel"
        )

    assert await start("exit 3").wait() == 3
    assert await start("echo said; exit 0").wait() == 0
    assert "said" in tail(tmp_path / "log")
    stopped = start("trap 'exit 5' TERM; echo trapped; while :; do sleep 0.01; done")
    await until(lambda: "trapped" in (tmp_path / "log").read_text())
    assert await stopped.stop(grace_s=10) == 5
    assert ended(-signal.SIGKILL) == "killed by SIGKILL"


@pytest.mark.parametrize("watch", WATCHES)
async def test_a_deaf_child_is_killed_after_its_grace(tmp_path: Path, watch: str) -> None:
    child = spawn(
        ["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.01; done"],
        log=tmp_path / "log",
        env={"PATH": os.defpath},
        is_watched_by_kernel=watch == "kernel",
    )
    await until(lambda: "deaf" in (tmp_path / "log").read_text())
    pids = family(child.pid)
    assert await child.stop(grace_s=0.05) == -signal.SIGKILL
    await gone(pids)


@pytest.mark.parametrize("watch", WATCHES)
async def test_sigkill_reaches_the_program_behind_a_guard(tmp_path: Path, watch: str) -> None:
    """The guard alone was killed once, and its server went on unseen on the same port."""
    child = spawn(
        ["/bin/sh", "-c", "echo up; exec /bin/sleep 1000"],
        log=tmp_path / "log",
        env={},
        is_watched_by_kernel=watch == "kernel",
    )
    await until(lambda: "up" in (tmp_path / "log").read_text())
    pids = family(child.pid)
    assert await child.stop(signal.SIGKILL, grace_s=10) == -signal.SIGKILL
    await gone(pids)


async def test_any_number_may_wait_for_one_child(tmp_path: Path) -> None:
    child = spawn(["/bin/sleep", "1000"], log=tmp_path / "log", env={})
    waits = [asyncio.create_task(child.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    child.kill_now()
    assert await asyncio.gather(*waits) == [-signal.SIGKILL] * 3


async def test_a_program_that_fails_says_how(tmp_path: Path) -> None:
    with pytest.raises(DevError, match="exit code 7\\)\n  no luck"):
        await run(
            ["/bin/sh", "-c", "echo no luck; exit 7"], log=tmp_path / "log", env={}, account=None, limit_s=10
        )
    with pytest.raises(DevError, match="did not end within"):
        await run(["/bin/sleep", "1000"], log=tmp_path / "log", env={}, account=None, limit_s=0.05)


def test_a_stack_outlives_the_loop_it_was_opened_in_and_runs_on_uvloop() -> None:
    """Test suites open a stack in one event loop and use it in others."""
    with asyncio.Runner() as opening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as using:
        context = embedded()
        stack = opening.run(context.__aenter__())
        using.run(stack.postgres.kill())
        using.run(stack.postgres.start())
        assert using.run(execute(stack.postgres_url, "SELECT 1")) == 1
        pids = [server.pid or 0 for server in stack.servers]
        opening.run(context.__aexit__(None, None, None))
    assert not any(is_alive(pid) for pid in pids)
