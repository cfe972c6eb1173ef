"""The data folder of an embedded stack: whose it is, who holds it, what is remembered and told in it.

    <data>/lock            held (flock) by the process that runs the stack; names its pid
    <data>/endpoints.json  ports and passwords, chosen once
    <data>/state.json      where everything is while the stack runs
    <data>/postgres  nats  logs

Starts and stops nothing. Never changes a file or folder that it did not make.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import random
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from holdfast.dev.account import name_of
from holdfast.dev.errors import DevError, PortTaken

SYSTEM_DATA = Path("/var/lib/holdfast")
"""Where root's data lies: Postgres drops to a user who cannot enter root's home."""
TEMPORARY = "holdfast-dev-"
PATH_BYTES_MAX = 900
"""Postgres keeps paths in 1,024 bytes; the longest name it adds is shorter than the rest."""
PORTS = (16_384, 32_000)
"""Below the range that systems give to outgoing connections: a server that is down for a moment
would lose such a port to any client, and a client that retries on it can even connect to itself."""
CLOSE_S = 1.0
OURS = ("postgres", "nats", "logs", "endpoints.json", "state.json")


class Endpoints(msgspec.Struct, frozen=True):
    """Where the embedded servers listen and what they ask for. Chosen once per data folder."""

    postgres_port: int
    nats_port: int
    postgres_password: str
    nats_password: str


class ProcessState(msgspec.Struct, frozen=True):
    """One process of the stack."""

    role: str
    pid: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json`: what other programs need to join the stack. Valid while `pid` runs.

    `address` is the bus once more, for clients; `project` the directory the stack was started in.
    """

    pid: int
    project: str
    address: str
    postgres_url: str
    nats_url: str
    http_url: str | None = None
    ops_url: str | None = None
    processes: tuple[ProcessState, ...] = ()


def default_data(project: Path | None = None) -> Path:
    """Where `holdfast dev` keeps its data for *project* (the current directory).

    `.holdfast` in it; as root a folder of its own under /var/lib/holdfast.
    """
    project = Path.cwd() if project is None else project.resolve()
    if os.geteuid() != 0:
        return project / ".holdfast"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", project.name).strip(".-")[:40] or "root"
    return SYSTEM_DATA / f"{name}-{hashlib.sha256(os.fsencode(project)).hexdigest()[:8]}"


@contextlib.contextmanager
def claimed(data: Path | None) -> Iterator[Path]:
    """The data folder, made if need be and held by this process until the block ends.

    None gives a temporary folder that is removed with the block; one whose process was killed is removed by
    the next. Raises `DevError` if the folder cannot be used or another process holds it.
    """
    if data is None:
        with _temporary() as folder:
            yield folder
        return
    folder = Path.cwd() / data.expanduser()
    try:
        _prepare(folder)
        held = _hold(folder)
    except OSError as error:
        raise DevError(
            f"cannot use the data folder {folder}: {error.strerror}: choose another one with --data"
        ) from error
    if held is None:
        raise DevError(
            f"{folder} is in use by process {holder(folder) or 'unknown'}: "
            "end that one first, or choose another data folder with --data"
        )
    try:
        yield folder
    finally:
        os.close(held)


def holder(folder: Path) -> int | None:
    """The process that holds *folder* or held it last."""
    try:
        return int((folder / "lock").read_text())
    except (OSError, ValueError):
        return None


def _prepare(folder: Path) -> None:
    if len(os.fsencode(folder)) > PATH_BYTES_MAX:
        raise DevError(
            f"the path of the data folder has {len(os.fsencode(folder))} bytes, at most {PATH_BYTES_MAX} work: "
            f"choose a shorter one ({str(folder)[:60]}…)"
        )
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise DevError(f"the path of the data folder is not UTF-8: {folder!r}") from None
    if folder.is_dir():
        _check_owner(folder)
        strangers = [
            path.name
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.name != "lost+found"
        ]
        if strangers and not (folder / "lock").exists():
            raise DevError(
                f"{folder} holds other things ({', '.join(sorted(strangers)[:3])}): "
                "give an empty folder, or one that does not exist yet"
            )
    else:
        _make(folder)


def _check_owner(folder: Path) -> None:
    """One user's files among another's would lock the first one out, even if root made them."""
    with contextlib.suppress(FileNotFoundError):
        owner = (folder / "lock").stat().st_uid
        if owner != os.geteuid():
            raise DevError(
                f"{folder} was made by {name_of(owner)}, and this process runs as {name_of(os.geteuid())}: "
                "run it as that user, or choose another data folder with --data"
            )


def _make(folder: Path) -> None:
    """Make *folder* and its missing parents. As root everybody may enter them, for the user Postgres drops to."""
    is_root = os.geteuid() == 0
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        if is_root:
            path.chmod(0o755)
        elif path == folder:
            path.chmod(0o700)
    # So that a data folder inside a working tree never shows up as a change.
    (folder / ".gitignore").write_text("*\n")


def _hold(folder: Path) -> int | None:
    """The open lock of *folder*, or None if another process holds it. The kernel frees it when we die."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


# --- temporary folders ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    for parent in _temporary_parents():
        _sweep(parent)
        try:
            folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
            break
        except OSError:
            continue
    else:
        raise DevError("no folder for temporary files can be written to: set TMPDIR, or choose a data folder")
    held = None
    try:
        if os.geteuid() == 0:
            folder.chmod(0o755)
        held = _hold(folder)
        if held is None:
            raise DevError(f"{folder} was taken for a leftover by another process that starts: start again")
        yield folder
    finally:
        # Postgres' statistics files and sockets may go while the tree is read.
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def _temporary_parents() -> Iterator[Path]:
    """Where temporary folders may be made; as root only where everybody may enter."""
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - mkdtemp makes them safe
    for path in candidates:
        is_open = all(part.stat().st_mode & 0o001 for part in (path.resolve(), *path.resolve().parents))
        if os.geteuid() != 0 or is_open:
            yield path


def _sweep(parent: Path) -> None:
    """Remove temporary folders whose process was killed: they are ours, and nobody holds their lock."""
    for folder in parent.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            told = folder.lstat()
            if told.st_uid != os.geteuid() or folder.is_symlink() or not (folder / "lock").exists():
                continue
            held = _hold(folder)
            if held is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(held)


# --- what is kept and told -----------------------------------------------------------------------------------------


def endpoints(folder: Path) -> Endpoints:
    """The ports and passwords of *folder*: as chosen before, a port that somebody took meanwhile replaced."""
    path = folder / "endpoints.json"
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Endpoints)
    except FileNotFoundError:
        if (folder / "postgres").exists():
            raise DevError(
                f"{path} is missing, and with it the password of the database: use --reset"
            ) from None
        known = Endpoints(0, 0, secrets.token_urlsafe(24), secrets.token_urlsafe(24))
    except msgspec.DecodeError as error:
        raise DevError(f"{path} cannot be read ({error}): use --reset") from None
    postgres_port = known.postgres_port if is_free(known.postgres_port) else free_port()
    nats_port = known.nats_port if is_free(known.nats_port) else free_port(other_than=postgres_port)
    chosen = Endpoints(postgres_port, nats_port, known.postgres_password, known.nats_password)
    if chosen != known:
        write(path, msgspec.json.format(msgspec.json.encode(chosen)))
    return chosen


def free_port(other_than: int = 0) -> int:
    """A loopback port that nobody listens on now."""
    for _ in range(200):
        port = random.randrange(*PORTS)
        if port != other_than and is_free(port):
            return port
    raise DevError(f"no free port between {PORTS[0]} and {PORTS[1]} in 200 tries")


def is_free(port: int) -> bool:
    """Whether a server could listen on loopback *port* now; 0 is no port."""
    if port == 0:
        return False
    with socket.socket() as probe:
        # As servers do: connections that ended a moment ago do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


async def await_free(port: int, role: str) -> None:
    """Return once *role* could listen on *port*, which it had before: a killed server closes it a moment later.

    Raises `PortTaken` when that takes too long.
    """
    try:
        async with asyncio.timeout(CLOSE_S):
            while not is_free(port):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise PortTaken(f"port {port} is taken, and {role} was told to use it") from None


def write_state(folder: Path, state: State) -> None:
    """Tell others where everything is."""
    write(folder / "state.json", msgspec.json.format(msgspec.json.encode(state)))


def read_state(folder: Path) -> State | None:
    """What the stack in *folder* told, None if none runs there. Its `pid` may have been killed since."""
    try:
        return msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    except (OSError, msgspec.DecodeError):
        return None


def write(path: Path, content: bytes) -> None:
    """Replace *path* as a whole; only its owner may read it."""
    beside = path.with_name(f".{path.name}.new")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
        file.write(content + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def erase(folder: Path) -> None:
    """Remove everything a stack keeps in *folder*, which this process holds. Nothing else is touched."""
    for name in OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
