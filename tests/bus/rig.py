"""A NATS server that a test may kill, freeze, wipe and restart on the same port, and ways to wait for news."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.bus import Bus

PATIENCE_S = 20.0


class NatsServer:
    """A nats-server process on a port of its own, with its store under *folder*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.extra = ""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        configuration = self.folder / "nats.conf"
        configuration.write_text(
            f'listen: "{self.address}"\nmax_payload: 4194304\npid_file: "{self.folder}/nats.pid"\n'
            f'jetstream {{ store_dir: "{self.folder}/store", max_mem: 64M, max_file: 256M }}\n{self.extra}\n'
        )
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sysconfig.get_path("scripts")) / "nats-server", "-c", configuration],
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "store")

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does; returns once it has stopped."""
        self._signal(signal.SIGSTOP)
        assert self.process is not None
        threads = Path(f"/proc/{self.process.pid}/task")
        deadline = time.monotonic() + PATIENCE_S
        while any(_state(thread) != "T" for thread in threads.iterdir()):
            assert time.monotonic() < deadline, "the server does not stop"

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def reload(self, extra: str) -> None:
        """Take a changed configuration into force without a restart."""
        assert self.process is not None
        configuration = self.folder / "nats.conf"
        configuration.write_text(configuration.read_text().removesuffix(f"{self.extra}\n") + f"{extra}\n")
        self.extra = extra
        self._signal(signal.SIGHUP)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process is not None:
            self._signal(signal.SIGCONT)
            self.kill()


def _state(thread: Path) -> str:
    """The scheduler's letter for a thread: T is stopped."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


MakeBus = Callable[..., Awaitable[Bus]]


class Heard:
    """Collects what a subscription receives, and waits for so much of it."""

    def __init__(self) -> None:
        self.items: list[object] = []
        self._news = asyncio.Event()

    def add(self, item: object) -> None:
        self.items.append(item)
        self._news.set()

    async def count(self, wanted: int) -> list[object]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.items) < wanted:
                self._news.clear()
                await self._news.wait()
        return self.items


def happens(callbacks: list[Callable[[], None]]) -> Awaitable[None]:
    """Await what this returns to wait for the next call of *callbacks* (`on_up`, `on_down`), counted from now."""
    event = asyncio.Event()
    callbacks.append(event.set)

    async def wait() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await event.wait()
        callbacks.remove(event.set)

    return wait()


@contextmanager
def logged(logger_name: str, text: str) -> Iterator[Heard]:
    """Collects the log messages with *text* in them, of every level."""
    heard = Heard()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                heard.add(record.getMessage())

    logger, listener = logging.getLogger(logger_name), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    try:
        yield heard
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
