"""Parts on top of a stack are kept up, and ended in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast.dev import DevError, Stack, embedded
from holdfast.dev.folder import read_state
from holdfast.dev.logs import bound
from holdfast.dev.process import is_alive
from holdfast.dev.supervisor import Part, Status, Supervisor, supervise
from holdfast.exceptions import NotFound
from tests.dev.running import execute, gone, holder, until

SLEEP = ["/bin/sleep", "1000"]


@pytest.fixture
async def own_stack() -> AsyncIterator[Stack]:
    """A stack whose servers the test may kill."""
    async with embedded() as running:
        yield running


def program(text: str) -> list[str]:
    """A part that runs some Python."""
    return [sys.executable, "-I", "-S", "-u", "-c", text]


async def running(supervisor: Supervisor, role: str, *, other_than: int | None = None) -> int:
    """The pid of a part, once it runs."""
    await supervisor.until(lambda: supervisor.part(role).pid not in {None, other_than})
    return supervisor.part(role).pid or 0


async def test_a_part_that_dies_is_started_again(own_stack: Stack) -> None:
    async with supervise(own_stack, [Part("one", SLEEP)]) as supervisor:
        first = await running(supervisor, "one")
        os.kill(first, signal.SIGKILL)
        second = await running(supervisor, "one", other_than=first)

        state = supervisor.part("one")
        assert (state.deaths, state.status, state.problem) == (1, Status.RUNNING, "killed by SIGKILL")
        assert is_alive(second)


async def test_restarts_of_a_part_that_always_dies_are_ever_further_apart(own_stack: Stack) -> None:
    tick = program("import time; print(time.monotonic())")
    async with supervise(own_stack, [Part("flapping", tick)]) as supervisor:
        await supervisor.until(lambda: supervisor.part("flapping").deaths == 4)
        started = [float(line) for line in supervisor.part("flapping").log.read_text().split()]

    waits = [later - before for before, later in pairwise(started)]
    assert waits[0] >= 0.2
    assert waits[1] >= 0.4
    assert waits[2] >= 0.8


async def test_a_program_that_is_not_there_is_told_and_tried_again(own_stack: Stack) -> None:
    async with supervise(own_stack, [Part("absent", ["/no/such/program"])]) as supervisor:
        await supervisor.until(lambda: supervisor.part("absent").deaths > 0)
        assert "cannot run /no/such/program" in supervisor.part("absent").log.read_text()


@pytest.mark.parametrize("role", ["postgres", "nats"])
async def test_an_embedded_server_that_dies_is_started_again_on_its_port(own_stack: Stack, role: str) -> None:
    async with supervise(own_stack) as supervisor:
        first = await running(supervisor, role)
        os.kill(first, signal.SIGKILL)
        await running(supervisor, role, other_than=first)
        assert await execute(own_stack.postgres_url, "SELECT 1") == 1
        assert supervisor.part(role).deaths == 1


async def test_parts_get_the_stacks_urls_and_their_own_settings(own_stack: Stack) -> None:
    text = "import os; print(os.environ['HOLDFAST_POSTGRES_URL'], os.environ['HOLDFAST_NATS_URL'], os.environ['OWN'])"
    part = Part("teller", program(text), env={"OWN": "set"}, is_once=True)
    async with supervise(own_stack, [part]) as supervisor:
        assert await supervisor.finished("teller") == 0
        told = supervisor.part("teller").log.read_text().split()
        assert told == [own_stack.postgres_url, own_stack.nats_url, "set"]


async def test_a_part_for_once_is_not_started_again_and_its_end_is_told(own_stack: Stack) -> None:
    parts = [
        Part("fine", program("pass"), is_once=True),
        Part("bad", program("raise SystemExit(3)"), is_once=True),
    ]
    async with supervise(own_stack, parts) as supervisor:
        assert await supervisor.finished("fine") == 0
        assert await supervisor.finished("bad") == 3
        assert supervisor.part("bad").status is Status.ENDED


async def test_parts_end_in_reverse_order_each_with_time_to_finish(
    own_stack: Stack, tmp_folder: Path
) -> None:
    text = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    print(sys.argv[1], 'ends', time.monotonic()); raise SystemExit\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('up'); signal.pause()\n"
    )
    parts = [Part(role, [*program(text), role]) for role in ("first", "second", "third")]
    async with supervise(own_stack, parts) as supervisor:
        logs = [supervisor.part(part.role).log for part in parts]
        await until(lambda: all("up" in (log.read_text() if log.exists() else "") for log in logs))

    ends = {line[0]: float(line[2]) for log in logs for line in [log.read_text().splitlines()[-1].split()]}
    assert sorted(ends, key=ends.__getitem__) == ["third", "second", "first"]


async def test_a_part_that_does_not_end_is_killed_with_all_it_started(own_stack: Stack) -> None:
    text = (
        "import signal, subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['/bin/sleep', '1000']).pid)\n"
        "signal.pause()\n"
    )
    async with supervise(own_stack, [Part("deaf", program(text), grace_s=0.1)]) as supervisor:
        pid, log = await running(supervisor, "deaf"), supervisor.part("deaf").log
        await until(lambda: log.read_text().endswith("\n"))
        started = int(log.read_text())

    await gone([pid, started])


async def test_the_first_signal_ends_the_wait_and_the_second_the_patience(own_stack: Stack) -> None:
    text = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); signal.pause()"
    before = signal.getsignal(signal.SIGINT)
    async with supervise(own_stack, [Part("deaf", program(text), grace_s=60.0)]) as supervisor:
        log = supervisor.part("deaf").log
        await until(lambda: log.exists() and "up" in log.read_text())
        os.kill(os.getpid(), signal.SIGINT)
        await supervisor.wait()
        assert supervisor.signal is signal.SIGINT
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
        begun = time.monotonic()

    assert time.monotonic() - begun < 10
    assert signal.getsignal(signal.SIGINT) is before


async def test_sigterm_ends_everything_and_exits_0(tmp_folder: Path) -> None:
    async with holder("--data", str(tmp_folder), "--sleepers", "2") as other:
        other.process.terminate()
        assert await other.process.wait() == 0
        await gone(other.pids)
        assert read_state(tmp_folder) is None


async def test_a_cancelled_block_ends_its_parts(own_stack: Stack) -> None:
    pids: list[int] = []

    async def keep() -> None:
        async with supervise(own_stack, [Part("one", SLEEP)]) as supervisor:
            pids.append(await running(supervisor, "one"))
            await supervisor.wait()

    keeping = asyncio.create_task(keep())
    await until(lambda: bool(pids))
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    await gone(pids)


async def test_an_error_in_the_block_ends_the_parts_and_comes_out(own_stack: Stack) -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with supervise(own_stack, [Part("one", SLEEP)]) as supervisor:
            pids.append(await running(supervisor, "one"))
            raise LookupError("the block's own")

    with pytest.raises(LookupError, match="the block's own"):
        await fail()
    await gone(pids)


async def test_state_json_names_every_process(own_stack: Stack) -> None:
    async with supervise(own_stack, [Part("one", SLEEP)]) as supervisor:
        pid = await running(supervisor, "one")
        state = read_state(own_stack.data)
        assert state is not None
        assert {process.role: process.pid for process in state.processes} == {
            "dev": os.getpid(),
            "postgres": own_stack.postgres.pid,
            "nats": own_stack.nats.pid,
            "one": pid,
        }


async def test_a_part_can_be_added_and_two_of_a_name_are_refused(own_stack: Stack) -> None:
    async with supervise(own_stack) as supervisor:
        supervisor.start(Part("late", SLEEP))
        await running(supervisor, "late")
        assert [part.role for part in supervisor.parts()] == ["postgres", "nats", "late"]
        with pytest.raises(DevError, match="two parts are called late"):
            supervisor.start(Part("late", SLEEP))
        with pytest.raises(NotFound, match="there are postgres, nats, late"):
            supervisor.part("early")


def test_logs_do_not_grow_without_end(tmp_path: Path) -> None:
    """The process keeps its file open, so the file is emptied and not replaced."""
    with (tmp_path / "one.log").open("ab", buffering=0) as log:
        log.write(b"old\n" * 100)
        assert bound(tmp_path, bytes_max=1_000) == 0
        assert bound(tmp_path, bytes_max=100) == 1
        log.write(b"new\n")

    assert (tmp_path / "one.log").read_text() == "new\n"
    assert (tmp_path / "one.log.1").read_text() == "old\n" * 100
