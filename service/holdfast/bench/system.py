"""The system under measurement: servers, one service process and one worker process; this process is the client.

Starts and ends them; measures nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from uuid import uuid4

import msgspec

from holdfast.bench import usage, workloads
from holdfast.client import Client
from holdfast.dev.folder import free_port
from holdfast.dev.process import tail
from holdfast.dev.stack import NATS_VARIABLE, POSTGRES_VARIABLE, Stack, embedded
from holdfast.dev.supervisor import Part, Status, Supervisor, supervise
from holdfast.exceptions import HoldfastError, Refused, Unavailable

START_S = 60.0
ASK_S = 0.02
SERVICE = ("serve", "engine")
QUIET = {"HOLDFAST_LOG_LEVEL": "warning"}


class System:
    """A running system. `client` is connected to it, the worker works on the task queue `queue`."""

    def __init__(
        self, stack: Stack, supervisor: Supervisor, client: Client, queue: str, ops_url: str
    ) -> None:
        self.stack = stack
        self.supervisor = supervisor
        self.client = client
        self.queue = queue
        self._ops_url = ops_url
        self._pids = self._now()

    async def usage(self) -> usage.Usage:
        """What all processes have used so far; the client is this process."""
        return await usage.read(self._pids | {"client": os.getpid()}, self._ops_url)

    def check(self) -> None:
        """Raise `Refused` if a process died since the beginning: figures across a restart mean nothing."""
        now = self._now()
        for role, pid in self._pids.items():
            if now.get(role) != pid:
                log = self.stack.logs / f"{role}.log"
                raise Refused(f"the {role} died during the measurement; its last words:\n{tail(log)}")

    def _now(self) -> dict[str, int]:
        return {part.role: part.pid for part in self.supervisor.parts() if part.pid is not None}


class Urls(msgspec.Struct, frozen=True):
    """Servers to measure with in place of embedded ones. None: embedded."""

    postgres: str | None = None
    nats: str | None = None


@contextlib.asynccontextmanager
async def running(urls: Urls) -> AsyncIterator[System]:
    """A durable system in a temporary folder, or on the servers of *urls*; ended and removed with the block.

    On servers that are given the workflows stay, in the namespace "main". Raises `Unavailable` if it does not
    start, `DevError` if an embedded server does not.
    """
    _choose(urls)
    with _folder() as folder:
        async with embedded(folder / "data", migrate=True) as stack:
            queue = f"bench-{uuid4().hex[:12]}"
            ops_url = f"http://127.0.0.1:{free_port()}"
            parts = _parts(stack, queue, ops_url)
            async with (
                supervise(stack, parts) as supervisor,
                await Client.connect(stack.nats_url) as client,
            ):
                await _until_working(client, supervisor, queue)
                yield System(stack, supervisor, client, queue, ops_url)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        # As root, Postgres runs as another user, who must be able to enter.
        Path(name).chmod(0o755)
        yield Path(name)


def conditions(system: System) -> dict[str, object]:
    """What figures depend on besides the program: write it down beside them."""
    return {
        "holdfast": _version(),
        "python": platform.python_version(),
        "uvloop": find_spec("uvloop") is not None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "postgres": _where(system.stack, "postgres"),
        "nats": _where(system.stack, "nats"),
        "fsync_ms": round(_fsync_ms(system.stack.data), 3),
    }


def _version() -> str:
    try:
        return metadata.version("holdfast")
    except metadata.PackageNotFoundError:
        return "from source"


def _choose(urls: Urls) -> None:
    """Only what was given with the command counts: a database of the environment may be one with work in it."""
    for variable, url in ((POSTGRES_VARIABLE, urls.postgres), (NATS_VARIABLE, urls.nats)):
        os.environ.pop(variable, None)
        if url is not None:
            os.environ[variable] = url


def _parts(stack: Stack, queue: str, ops_url: str) -> list[Part]:
    """`-P`: a file in the current directory must not shadow a module."""
    holdfast = [sys.executable, "-P", "-m", "holdfast"]
    service = [*holdfast, *SERVICE, "--ops", ops_url.removeprefix("http://")]
    worker = [*holdfast, "worker", workloads.__name__, "--queue", queue]
    place = {"HOLDFAST_ADDRESS": stack.nats_url, "HOLDFAST_NAMESPACE": "main"}
    return [Part("service", service, QUIET), Part("worker", worker, QUIET | place)]


async def _until_working(client: Client, supervisor: Supervisor, queue: str) -> None:
    """Return when a workflow has been carried out."""
    try:
        async with asyncio.timeout(START_S):
            await supervisor.until(lambda: all(part.status is Status.RUNNING for part in supervisor.parts()))
            while True:
                try:
                    await client.execute_workflow(workloads.one, 0, id=uuid4().hex, task_queue=queue)
                except HoldfastError:
                    await asyncio.sleep(ASK_S)
                else:
                    return
    except TimeoutError:
        logs = [tail(part.log) for part in supervisor.parts() if part.role in {"service", "worker"}]
        raise Unavailable(
            f"no workflow was carried out within {START_S:g} s; last words:\n" + "\n".join(logs)
        ) from None


def _where(stack: Stack, role: str) -> str:
    for server in stack.servers:
        if server.role == role:
            version = f" {stack.postgres.install.major}" if role == "postgres" else ""
            return f"embedded{version}, durable"
    return "given"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _fsync_ms(folder: Path) -> float:
    """The median time of writing and syncing one 8 KiB page where the embedded servers keep their data."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return 1_000 * median(_timed(lambda: _write_through(file.fileno())) for _ in range(100))


def _write_through(file: int) -> None:
    os.pwrite(file, b"x" * 8_192, 0)
    os.fsync(file)


def _timed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
