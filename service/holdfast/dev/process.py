"""Child processes that never outlive us, and questions about other processes.

Knows nothing of what it runs. Uses no threads and no child watcher of asyncio: a process may be started under
one event loop and awaited under another, as test suites do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from holdfast.dev import guard
from holdfast.dev.errors import DevError

LOOK_S = 0.01
"""How often to look where nothing can be waited for."""
KILL_S = 5.0
"""How long a killed process may take to be gone: longer than any disk write it may be in."""
KERNEL_WATCHES = sys.platform == "linux" and find_spec("_ctypes") is not None
"""Whether the kernel can end a child when its parent dies; elsewhere the guard watches a pipe."""
HAS_PROC = Path("/proc/self/stat").exists()


class Account(NamedTuple):
    """A user that a child runs as."""

    uid: int
    gid: int
    name: str


class Process:
    """A started child: a session of its own, so that Ctrl-C in our terminal does not reach it."""

    def __init__(self, popen: subprocess.Popen[bytes], lifeline: int | None) -> None:
        self._popen = popen
        self._lifeline = lifeline

    @property
    def pid(self) -> int:
        """The child's process id, which is also its group's."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet. One that has is reaped by asking."""
        return self._popen.poll() is None

    async def wait(self) -> int:
        """How it ended: its exit code, or minus the signal's number. Any number of callers may wait."""
        while (code := self._popen.poll()) is None:
            await _until_exit(self.pid)
        self._close()
        return code

    def send(self, number: int) -> None:
        """Signal it; nothing happens if it has ended. SIGKILL goes to its whole group.

        The guard, where it stays as the program's parent, passes every other signal on.
        """
        if number == signal.SIGKILL:
            self.kill_group()
        elif self.is_running:
            self._popen.send_signal(number)

    def kill_group(self) -> None:
        """SIGKILL it and whatever it started in its group."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, number: int = signal.SIGTERM, *, grace_s: float) -> int:
        """Ask it to end with signal *number*, kill it after *grace_s* seconds; how it ended.

        When this is cancelled, the process is killed before the cancellation goes on.
        """
        self.send(number)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    return await self.wait()
            self.kill_group()
            return await self.wait()
        finally:
            self.kill_now()

    def kill_now(self) -> None:
        """SIGKILL and reap it without waiting for anything else, for when there is no time left."""
        if self.is_running:
            self.kill_group()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(KILL_S)
        self._close()

    def _close(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def spawn(
    program: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    cwd: Path | str = "/",
    account: Account | None = None,
    death_signal: int = signal.SIGKILL,
    is_watched_by_kernel: bool = KERNEL_WATCHES,
) -> Process:
    """Start *program* (its first element is a path), everything it says appended to *log*.

    When this process ends in any way, the kernel sends *death_signal* to the child. That is also so
    when only the thread ends that called this. *account* is the user to become; that takes root.
    """
    reader, writer = (None, None) if is_watched_by_kernel else os.pipe()
    asked = guard.order(
        os.getpid(),
        death_signal,
        -1 if account is None else account.uid,
        -1 if account is None else account.gid,
        -1 if reader is None else reader,
    )
    command = [sys.executable, "-I", "-S", guard.__file__, asked, *program]
    try:
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as sink:  # noqa: PTH123
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=env,
                cwd=cwd,
                pass_fds=() if reader is None else (reader,),
                start_new_session=True,
            )
    except OSError as error:
        if writer is not None:
            os.close(writer)
        raise DevError(f"cannot start {program[0]} (its output goes to {log}): {error.strerror}") from error
    finally:
        if reader is not None:
            os.close(reader)
    return Process(popen, writer)


async def run(
    program: Sequence[str], *, log: Path, env: Mapping[str, str], account: Account | None, limit_s: float
) -> None:
    """Run *program* to its end. Raises `DevError` with the end of its output if it fails or takes too long."""
    said = size(log)
    process = spawn(program, log=log, env=env, account=account)
    try:
        async with asyncio.timeout(limit_s):
            code = await process.wait()
    except TimeoutError:
        raise DevError(f"{program[0]} did not end within {limit_s:.0f} s\n{tail(log, said)}") from None
    finally:
        process.kill_now()
    if code != 0:
        raise DevError(f"{program[0]} failed ({ended(code)})\n{tail(log, said)}")


def ended(code: int) -> str:
    """How a process ended, in words, from `Process.wait`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def size(log: Path) -> int:
    """Bytes in *log*, 0 if it is not there."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def tail(log: Path, start: int = 0, lines: int = 12) -> str:
    """The last *lines* that were appended to *log* after byte *start*, indented, with its path."""
    try:
        with log.open("rb") as source:
            source.seek(max(start, size(log) - 8_192))
            text = source.read().decode(errors="replace")
    except OSError:
        text = ""
    kept = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join([*(f"  {line}" for line in kept), f"  (log: {log})"])


async def _until_exit(pid: int) -> None:
    """Return when child *pid* may have ended; the caller looks and comes again."""
    try:
        watched = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # No such call on this system or in this sandbox.
        await asyncio.sleep(LOOK_S)
        return
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()
    loop.add_reader(watched, is_over.set)
    try:
        await is_over.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


# --- processes that are not our children -------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether *pid* runs; a zombie does not."""
    if HAS_PROC:
        stat = _proc(pid, "stat")
        return bool(stat) and stat.rpartition(")")[2].split()[0] not in ("Z", "X")
    return bool(state := _ps(pid, "stat")) and not state.startswith("Z")


def command_of(pid: int) -> str:
    """The command line of *pid*, arguments separated by spaces; empty if it is gone or not ours to see."""
    if HAS_PROC:
        return _proc(pid, "cmdline").replace("\0", " ").strip()
    return _ps(pid, "command")


def working_in(folder: Path, name: str) -> list[int]:
    """The live processes called *name* whose working directory is *folder*. Empty where it cannot be known."""
    place = os.path.realpath(folder)
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd") == place and _proc(pid, "comm").strip() == name:  # noqa: PTH115
                found.append(pid)
    return found


def _pids() -> Iterable[int]:
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208
    except OSError:
        return []


def send_all(pids: Iterable[int], number: int) -> None:
    """Signal processes that may be gone by now. Raises `DevError` for one that is not ours to signal."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            raise DevError(
                f"process {pid} ({command_of(pid)}) is in the way and belongs to another user: end it as that user"
            ) from None


async def are_gone(pids: Callable[[], Iterable[int]], limit_s: float) -> bool:
    """Whether *pids* became empty within *limit_s* seconds."""
    try:
        async with asyncio.timeout(limit_s):
            while list(pids()):  # noqa: ASYNC110 - they are not our children: nothing tells of their end
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        return False
    return True


def _proc(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_text(errors="replace")
    except OSError:
        return ""


def _ps(pid: int, column: str) -> str:
    try:
        told = subprocess.run(
            ["/bin/ps", "-p", str(pid), "-o", f"{column}="],
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip()
