"""Keeps the parts of a stack up: restarts what dies, ends everything in order.

    async with embedded(default_data(), migrate=True) as stack:
        async with supervise(stack, [Part("service", [...]), Part("worker", [...])]) as supervisor:
            await supervisor.wait()          # until SIGINT or SIGTERM
            supervisor.parts()               # how everything is, for a screen

Knows nothing of what the parts do. Runs in one event loop, without threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from holdfast.dev.errors import DevError
from holdfast.dev.folder import ProcessState
from holdfast.dev.logs import bound
from holdfast.dev.process import Process, ended, spawn
from holdfast.dev.stack import NATS_VARIABLE, POSTGRES_VARIABLE, Server, Stack
from holdfast.exceptions import NotFound

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0
STEADY_S = 10.0
"""A part that lived this long has recovered: its next wait is the first again."""
LOGS_S = 5.0
"""How often logs are looked at."""

_logger = logging.getLogger("holdfast.dev")


@dataclass(frozen=True)
class Part:
    """A program to keep up. `argv[0]` is a path; it must become the program itself, not start it as a child.

    It gets our environment, the stack's URLs in `HOLDFAST_POSTGRES_URL` and `HOLDFAST_NATS_URL`, and *env*. It runs
    in *cwd* (ours if None), its output goes to `<data>/logs/<role>.log`. With *is_once* it is not started again when
    it has ended. On stopping it gets SIGTERM, and *grace_s* later SIGKILL.
    """

    role: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    is_once: bool = False
    grace_s: float = 10.0


class Status(Enum):
    """How a part is."""

    RUNNING = "running"
    WAITING = "waiting"
    """It died or could not be started, and will be started again."""
    ENDED = "ended"
    """It will not be started again."""


@dataclass(frozen=True)
class PartState:
    """How one part is now. *since* is `time.monotonic()`; *problem* says how it last died, empty if it never did."""

    role: str
    status: Status
    log: Path
    since: float
    pid: int | None = None
    deaths: int = 0
    exit_code: int | None = None
    problem: str = ""


class Supervisor:
    """The parts of a running stack. Made by `supervise`."""

    def __init__(self, stack: Stack) -> None:
        self.signal: signal.Signals | None = None
        """The signal that let `wait` return, if one did."""
        self._stack = stack
        self._states: dict[str, PartState] = {}
        self._programs: list[_Program] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._fault: BaseException | None = None
        self._is_over = asyncio.Event()
        self._news = asyncio.Event()

    def parts(self) -> list[PartState]:
        """How every part is: the embedded servers first, then the others in the order they were started."""
        return list(self._states.values())

    def part(self, role: str) -> PartState:
        """How one part is. Raises `NotFound`."""
        if role not in self._states:
            raise NotFound(f"no part is called {role}; there are {', '.join(self._states) or 'none'}")
        return self._states[role]

    def start(self, part: Part) -> None:
        """Start one more part and keep it up. Raises `DevError` if another one has its role."""
        if part.role in self._states:
            raise DevError(f"two parts are called {part.role}: each needs a role of its own")
        program = _Program(part, self._stack)
        self._programs.append(program)
        self._keep(program, is_once=part.is_once)

    async def wait(self) -> None:
        """Return when SIGINT or SIGTERM came, or `end` was called."""
        await self._is_over.wait()
        if self._fault is not None:
            raise self._fault

    def end(self) -> None:
        """Let `wait` return."""
        self._is_over.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Return as soon as *is_so* holds. It is asked whenever a part changes."""
        while not is_so():
            await self._news.wait()
            if self._fault is not None:
                raise self._fault

    async def finished(self, role: str) -> int:
        """How a part with `is_once` ended: its exit code, or minus the number of the signal that killed it."""
        await self.until(lambda: self.part(role).status is Status.ENDED)
        return self.part(role).exit_code or 0

    def hear(self, number: signal.Signals) -> None:
        """Take a signal: the first lets `wait` return, the next kills parts that take their time to end."""
        if self._is_over.is_set():
            for program in self._programs:
                program.kill()
        self.signal = self.signal or number
        self.end()

    # --- what runs beside the block ----------------------------------------------------------------------------------

    def watch(self) -> None:
        """Keep the embedded servers up and the logs short."""
        for server in self._stack.servers:
            self._keep(server)
        self._run(self._shorten_logs())

    async def stop(self) -> None:
        """End the parts, the last started first. The servers are no longer kept up; ending them is the stack's."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        while self._programs:
            await self._programs[-1].stop()
            self._programs.pop()

    def _keep(self, kept: Server | _Program, *, is_once: bool = False) -> None:
        self._states[kept.role] = PartState(kept.role, Status.WAITING, kept.log, time.monotonic())
        self._run(self._keep_up(kept, is_once))

    def _run(self, keeping: Coroutine[Any, Any, None]) -> None:
        keeper = asyncio.create_task(keeping)
        keeper.add_done_callback(self._look_at)
        self._keepers.append(keeper)

    def _look_at(self, keeper: asyncio.Task[None]) -> None:
        """Whoever waits learns of a fault of ours at once; the parts' own faults never come here."""
        if not keeper.cancelled() and (fault := keeper.exception()) is not None:
            self._fault = fault
            self._is_over.set()
            self._news.set()

    async def _keep_up(self, kept: Server | _Program, is_once: bool) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            begun = time.monotonic()
            try:
                await kept.start()
            except DevError as error:
                _logger.warning("%s cannot be started: %s", kept.role, error.message)
                self._note(kept.role, problem=error.message)
            else:
                self._note(kept.role, status=Status.RUNNING, pid=kept.pid)
                code = await kept.wait()
                if is_once:
                    self._note(kept.role, status=Status.ENDED, pid=None, exit_code=code)
                    return
                _logger.warning("%s died (%s) and is started again", kept.role, ended(code))
                deaths = self._states[kept.role].deaths + 1
                self._note(
                    kept.role,
                    status=Status.WAITING,
                    pid=None,
                    exit_code=code,
                    deaths=deaths,
                    problem=ended(code),
                )
            if time.monotonic() - begun > STEADY_S:
                wait_s = FIRST_WAIT_S
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _note(self, role: str, **changed: Any) -> None:
        self._states[role] = replace(self._states[role], since=time.monotonic(), **changed)
        running = [(program.role, program.pid) for program in self._programs]
        try:
            self._stack.tell_processes(ProcessState(role, pid) for role, pid in running if pid is not None)
        except OSError as error:
            # A full disk is no reason to end what runs; the file is behind until the next change.
            _logger.warning("cannot write state.json in %s: %s", self._stack.data, error)
        self._news.set()
        self._news = asyncio.Event()

    async def _shorten_logs(self) -> None:
        while True:
            try:
                bound(self._stack.logs)
            except OSError as error:
                _logger.warning("cannot shorten the logs in %s: %s", self._stack.logs, error)
            await asyncio.sleep(LOGS_S)


class _Program:
    """A part's process, with the same life as an embedded server."""

    def __init__(self, part: Part, stack: Stack) -> None:
        self.role = part.role
        self.log = stack.logs / f"{part.role}.log"
        self._part = part
        self._stack = stack
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.is_running else None

    async def start(self) -> None:
        urls = {POSTGRES_VARIABLE: self._stack.postgres_url, NATS_VARIABLE: self._stack.nats_url}
        self._process = spawn(
            self._part.argv,
            log=self.log,
            env={**os.environ, **urls, **self._part.env},
            cwd=self._part.cwd or Path.cwd(),
        )

    async def wait(self) -> int:
        return 0 if self._process is None else await self._process.wait()

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop(grace_s=self._part.grace_s)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill_group()


@contextlib.asynccontextmanager
async def supervise(
    stack: Stack, parts: Iterable[Part] = (), *, hears_signals: bool = True
) -> AsyncIterator[Supervisor]:
    """Start *parts* in order and keep them, and the embedded servers of *stack*, up until the block ends.

    Then, however it ends, the parts are stopped in reverse order before this returns. With *hears_signals* (main thread
    only) SIGINT and SIGTERM let `Supervisor.wait` return instead of interrupting the block; a second one
    kills what is slow to stop. A part that dies waits 0.2 s for its restart, twice as long each time up to 5 s.
    """
    supervisor = Supervisor(stack)
    with _heard(supervisor) if hears_signals else contextlib.nullcontext():
        try:
            supervisor.watch()
            for part in parts:
                supervisor.start(part)
            yield supervisor
        finally:
            await supervisor.stop()


@contextlib.contextmanager
def _heard(supervisor: Supervisor) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, supervisor.hear, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
