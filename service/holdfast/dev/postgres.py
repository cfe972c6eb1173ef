"""An embedded Postgres: one cluster, run by us as a direct child.

Never runs as root, listens on loopback only, asks for a password. Knows nothing of what is stored in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from holdfast.dev.account import account_for, obstacle
from holdfast.dev.binaries import Install, find_postgres, within_reach
from holdfast.dev.errors import DevError, PortTaken
from holdfast.dev.folder import SYSTEM_DATA, await_free, is_free
from holdfast.dev.process import (
    KILL_S,
    Account,
    Process,
    are_gone,
    command_of,
    ended,
    is_alive,
    run,
    send_all,
    size,
    spawn,
    tail,
    working_in,
)

ROLE = "holdfast"
LOOK_S = 0.005
START_S = 60.0
"""How long recovery after a crash may take before we give up."""
STOP_S = 15.0
"""How long the last checkpoint may take before backends are killed; nothing is lost by that either."""
STATUS_LINE = 7
"""The line of postmaster.pid (from 0) that says "starting", "ready" or "stopping"."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # No socket file: its path has at most 107 bytes, a data folder's may have more.
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "huge_pages": "off",
    # In the data folder, so that a killed server leaves nothing in /dev/shm, which containers keep small.
    "dynamic_shared_memory_type": "mmap",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "max_logical_replication_workers": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    "logging_collector": "off",
}
"""The same whether data is kept or not."""
TEMPORARY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}
DURABLE_SETTINGS = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}


class Postgres:
    """The server of one cluster. Stopped and started as often as one likes, always on the same port."""

    role = "postgres"

    def __init__(
        self,
        cluster: Path,
        *,
        log: Path,
        port: int,
        install: Install,
        account: Account | None,
        is_durable: bool,
    ) -> None:
        self.cluster = cluster
        self.log = log
        self.port = port
        self.install = install
        self.account = account
        self.is_durable = is_durable
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None while it is down."""
        return self._process.pid if self._process is not None and self._process.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether the postmaster runs; it may still be starting."""
        return self.pid is not None

    async def start(self) -> None:
        """Start it, if it is down, and return once it takes connections.

        Ends first whatever an earlier server left: a pid file, a server that is still on its way down, orphans.
        Raises `PortTaken`, or `DevError` with the end of its log.
        """
        async with self._turn:
            if self.is_running:
                return
            await clear_remains(self.cluster)
            await await_free(self.port, self.role)
            said = size(self.log)
            process = self._process = spawn(
                [self.install.postgres, "-D", str(self.cluster), *self._options()],
                log=self.log,
                env=_environment(),
                account=self.account,
                # An immediate shutdown: the postmaster ends every backend within 5 s and removes its pid file.
                death_signal=signal.SIGQUIT,
            )
            try:
                async with asyncio.timeout(START_S):
                    await self._until_ready(process, said)
            except TimeoutError:
                self._kill_all()
                raise DevError(
                    f"Postgres was not ready after {START_S:.0f} s\n{tail(self.log, said)}"
                ) from None
            except BaseException:
                self._kill_all()
                raise

    async def stop(self) -> None:
        """End it in order, sessions first; at once if its data is not kept. Nothing happens if it is down."""
        process = self._process
        if process is None:
            return
        try:
            await process.stop(signal.SIGINT if self.is_durable else signal.SIGQUIT, grace_s=STOP_S)
        finally:
            self._kill_all()

    async def kill(self) -> None:
        """SIGKILL the postmaster and all its backends, as when a machine dies, and return when they are gone."""
        self._kill_all()
        if not await are_gone(lambda: working_in(self.cluster, "postgres"), KILL_S):
            raise DevError(f"processes of {self.cluster} did not die: {working_in(self.cluster, 'postgres')}")

    async def wait(self) -> int:
        """How the server ended, as soon as it has; at once if it is down."""
        return 0 if self._process is None else await self._process.wait()

    def _kill_all(self) -> None:
        """Backends outlive a postmaster that is killed for moments; two rounds, as one may just have been forked."""
        if self._process is not None:
            self._process.kill_group()
        for _ in range(2):
            send_all(working_in(self.cluster, "postgres"), signal.SIGKILL)
        if self._process is not None:
            self._process.kill_now()

    def _options(self) -> Sequence[str]:
        settings = SETTINGS | (DURABLE_SETTINGS if self.is_durable else TEMPORARY_SETTINGS)
        settings["port"] = str(self.port)
        if self.install.major >= 18:
            # Without worker processes for reading: fewer to start, and none that wakes an idle machine.
            settings["io_method"] = "sync"
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    async def _until_ready(self, process: Process, said: int) -> None:
        told = self.cluster / "postmaster.pid"
        while True:
            if not process.is_running:
                if not is_free(self.port):
                    raise PortTaken(f"port {self.port} is taken, and {self.role} was told to use it")
                how = ended(await process.wait())
                raise DevError(f"Postgres did not start ({how})\n{tail(self.log, said)}")
            with contextlib.suppress(FileNotFoundError):
                lines = told.read_text().splitlines()
                if len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready":
                    return
            await asyncio.sleep(LOOK_S)


def url_of(port: int, password: str) -> str:
    """Where clients find it, password included."""
    return f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/postgres"


async def prepare(
    cluster: Path, *, log: Path, port: int, password: str, is_durable: bool, major: int | None = None
) -> Postgres:
    """The server of *cluster*, which is made if it is not there yet; not started.

    *major* chooses the version for a new cluster; one that is there needs its own. Raises `DevError`.
    """
    account = account_for(cluster)
    if account is not None and (closed := obstacle(cluster.parent, account)) is not None:
        raise DevError(
            f"Postgres does not run as root; it runs as {account.name}, who cannot enter {closed}: "
            f"choose a data folder elsewhere, such as {SYSTEM_DATA}/NAME"
        )
    kept = _version_of(cluster)
    if kept is not None and major not in (None, kept):
        raise DevError(f"{cluster} was made by Postgres {kept}, not {major}: use --reset to begin anew")
    cache_folder = (
        SYSTEM_DATA / "_bin" if os.access(_nearest(SYSTEM_DATA), os.W_OK) else cluster.parent / "_bin"
    )
    install = within_reach(find_postgres(major or kept), account, cache_folder)
    if kept is None:
        await _make(cluster, install, account, password, log, is_durable)
    return Postgres(cluster, log=log, port=port, install=install, account=account, is_durable=is_durable)


def _nearest(path: Path) -> Path:
    """*path*, or its nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _version_of(cluster: Path) -> int | None:
    try:
        return int((cluster / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DevError(
            f"{cluster} is not a usable Postgres cluster ({error}): use --reset to begin anew"
        ) from error


async def _make(
    cluster: Path, install: Install, account: Account | None, password: str, log: Path, is_durable: bool
) -> None:
    """Make the cluster beside its place and then put it there: it is complete or absent."""
    for leftover in cluster.parent.glob(".initdb-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    beside = Path(tempfile.mkdtemp(prefix=".initdb-", dir=cluster.parent))
    try:
        secret = beside / "password"
        secret.write_text(f"{password}\n")
        if account is not None:
            os.chown(beside, account.uid, account.gid)
            os.chown(secret, account.uid, account.gid)
        secret.chmod(0o600)
        options = ["-U", ROLE, "--pwfile", str(secret), "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]
        options += ["--no-instructions"] if is_durable else ["--no-instructions", "--no-sync"]
        if install.major >= 16:
            # The password is random: stretching it protects nothing, and costs each new connection 10 ms.
            options += ["-c", "scram_iterations=1"]
        program = [install.initdb, "-D", str(beside / "cluster"), *options]
        await run(program, log=log, env=_environment(), account=account, limit_s=START_S)
        (beside / "cluster").rename(cluster)
        if is_durable:
            _sync(cluster.parent)
    except OSError as error:
        raise DevError(f"cannot make a database in {cluster}: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


async def clear_remains(cluster: Path) -> None:
    """End what an earlier server left on *cluster*; afterwards a new one starts.

    The caller holds the data folder, so a server here is an orphan, maybe one still on its way down.
    The pid file may name a process that has nothing to do with it: pids are given out again.
    """
    told = cluster / "postmaster.pid"

    def remains() -> list[int]:
        found = working_in(cluster, "postgres")
        return found or ([named] if (named := _postmaster_in(told, cluster)) else [])

    for number, patience_s in ((signal.SIGINT, STOP_S), (signal.SIGQUIT, KILL_S), (signal.SIGKILL, KILL_S)):
        if not (pids := remains()):
            break
        # Backends whose postmaster is gone get no order from it; only SIGKILL is for everybody.
        postmaster = _postmaster_in(told, cluster)
        if number != signal.SIGKILL and postmaster is None:
            continue
        send_all(pids if number == signal.SIGKILL or postmaster is None else [postmaster], number)
        await are_gone(remains, patience_s)
    if left := remains():
        raise DevError(f"an earlier Postgres still runs on {cluster} and cannot be ended: processes {left}")
    told.unlink(missing_ok=True)


def _postmaster_in(told: Path, cluster: Path) -> int | None:
    """The process that the pid file names, if it really is a live postmaster of *cluster*."""
    try:
        pid = int(told.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    command = command_of(pid)
    is_ours = is_alive(pid) and "postgres" in command and f"-D {cluster}" in command
    return pid if is_ours else None


def _environment() -> dict[str, str]:
    """What the server gets of ours: nothing that would change its settings."""
    kept = {name: os.environ[name] for name in os.environ if name.startswith(("LD_", "DYLD_"))}
    return kept | {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
