"""The stack as root and as an ordinary user: what each may touch, and what the other can reach.

As root both kinds are tried. An ordinary user can only try its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path

import psutil
import pytest

from holdfast.dev import DevError, embedded
from holdfast.dev.account import account_for, obstacle
from holdfast.dev.binaries import Install, find_nats, find_postgres, within_reach
from holdfast.dev.process import Account
from tests.dev.running import ROOT, execute, gone, holder

IS_ROOT = os.geteuid() == 0
NOBODY = Account(pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid, "nobody")


def is_for_everybody() -> bool:
    """Whether an ordinary user can run this interpreter, this code and the servers: not below a closed home."""
    paths = [Path(shutil.which("python3") or "/"), ROOT / "service", find_postgres().root, Path(find_nats())]
    return all(obstacle(path, NOBODY) is None for path in (*paths, Path(os.path.realpath(sys.executable))))


async def test_a_stack_runs_as_whoever_opens_it(tmp_folder: Path) -> None:
    async with embedded(tmp_folder / "data") as stack:
        bus, database = psutil.Process(stack.nats.pid), psutil.Process(stack.postgres.pid)
        assert bus.uids().real == os.geteuid()
        assert database.uids().real == (
            stack.postgres.account.uid if stack.postgres.account else os.geteuid()
        )
        assert database.uids().real != 0
        assert stack.postgres.cluster.stat().st_uid == database.uids().real


def test_a_closed_folder_on_the_way_is_found(tmp_folder: Path) -> None:
    (tmp_folder / "closed" / "open").mkdir(parents=True)
    (tmp_folder / "closed").chmod(0o700)
    stranger = Account(os.geteuid() + 12_345, os.getegid() + 12_345, "stranger")

    assert obstacle(tmp_folder, stranger) is None
    assert obstacle(tmp_folder / "closed" / "open", stranger) == (tmp_folder / "closed").resolve()
    assert obstacle(tmp_folder / "closed", Account(os.geteuid(), os.getegid(), "we")) is None


def test_programs_out_of_reach_are_copied_once_with_only_what_is_needed(tmp_folder: Path) -> None:
    """As when an environment lies below root's home."""
    closed = tmp_folder / "closed"
    closed.mkdir(mode=0o700)
    hidden = _copied_into(closed)
    stranger = Account(os.geteuid() + 12_345, os.getegid() + 12_345, "stranger")

    copied = within_reach(hidden, stranger, tmp_folder / "copies")

    assert copied.root.is_relative_to(tmp_folder / "copies")
    assert obstacle(copied.root / "bin", stranger) is None
    assert sorted(path.name for path in (copied.root / "bin").iterdir()) == ["initdb", "postgres"]
    before = Path(copied.postgres).stat().st_mtime_ns
    assert within_reach(hidden, stranger, tmp_folder / "copies") == copied
    assert Path(copied.postgres).stat().st_mtime_ns == before
    assert within_reach(hidden, None, tmp_folder / "copies") == hidden


def test_a_version_that_is_not_here_is_said() -> None:
    with pytest.raises(DevError, match=r"no Postgres 9 here .*version 18.*HOLDFAST_POSTGRES_URL"):
        find_postgres(9)


if IS_ROOT:

    async def test_root_cannot_keep_data_where_postgres_user_cannot_go(tmp_folder: Path) -> None:
        closed = tmp_folder / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(
            DevError, match=r"runs as \w+, who cannot enter .*closed: choose a data folder elsewhere"
        ):
            async with embedded(closed / "data"):
                pass
        assert closed.stat().st_mode & 0o777 == 0o700

    async def test_root_runs_a_copied_postgres(tmp_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = tmp_folder / "closed"
        closed.mkdir(mode=0o700)
        account = account_for(tmp_folder / "none")
        assert account is not None
        copied = within_reach(_copied_into(closed), account, tmp_folder / "copies")
        monkeypatch.setattr("holdfast.dev.postgres.find_postgres", lambda _major: copied)
        async with embedded(tmp_folder / "data", migrate=True) as stack:
            assert psutil.Process(stack.postgres.pid).exe() == copied.postgres

    if is_for_everybody():

        async def test_an_ordinary_user_runs_everything_as_itself(tmp_folder: Path) -> None:
            os.chown(tmp_folder, NOBODY.uid, NOBODY.gid)
            async with holder(
                "--data", str(tmp_folder / "data"), "--as", str(NOBODY.uid), HOME="/nonexistent"
            ) as other:
                assert {psutil.Process(pid).uids().real for pid in other.pids} == {NOBODY.uid}
                assert await execute(other.told["postgres_url"], "SELECT 1") == 1
                other.process.kill()
                await gone(other.pids)
            assert (tmp_folder / "data").stat().st_mode & 0o777 == 0o700

        async def test_an_ordinary_user_is_told_when_a_folder_is_not_writable(
            tmp_folder: Path, capfd: pytest.CaptureFixture[str]
        ) -> None:
            with pytest.raises(AssertionError, match="exit code 1"):
                async with holder("--data", str(tmp_folder / "data"), "--as", str(NOBODY.uid)):
                    pass
            assert "cannot use the data folder" in (told := capfd.readouterr().err)
            assert "Permission denied: choose another one with --data" in told

        async def test_an_ordinary_user_is_told_when_the_data_is_another_users(
            tmp_folder: Path, capfd: pytest.CaptureFixture[str]
        ) -> None:
            async with embedded(tmp_folder):
                pass
            os.chown(tmp_folder, NOBODY.uid, NOBODY.gid)
            with pytest.raises(AssertionError, match="exit code 1"):
                async with holder("--data", str(tmp_folder), "--as", str(NOBODY.uid)):
                    pass
            assert (
                "was made by root, and this process runs as nobody: run it as that user"
                in capfd.readouterr().err
            )

        async def test_root_leaves_an_ordinary_users_data_alone(tmp_folder: Path) -> None:
            """A file of root's in between would lock the user out."""
            os.chown(tmp_folder, NOBODY.uid, NOBODY.gid)
            async with holder("--data", str(tmp_folder / "data"), "--as", str(NOBODY.uid)):
                pass
            with pytest.raises(DevError, match="was made by nobody, and this process runs as root"):
                async with embedded(tmp_folder / "data"):
                    pass
            owners = {path.stat().st_uid for path in (tmp_folder / "data").rglob("*")}
            assert owners == {NOBODY.uid}


def _copied_into(closed: Path) -> Install:
    """A Postgres in a folder that others may not enter, with the libraries that its wheel keeps beside it."""
    install = find_postgres()
    package = install.root.parent
    root = closed / package.name / install.root.name
    shutil.copytree(install.root, root)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, closed / libraries.name)
    return Install(root, install.major)
