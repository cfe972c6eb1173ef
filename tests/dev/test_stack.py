"""An embedded stack from the point of view of whoever opens one."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path

import nats
import psutil
import pytest

from holdfast.dev import DevError, embedded
from holdfast.dev.folder import SYSTEM_DATA, default_data, is_free, read_state
from holdfast.dev.stack import reset
from holdfast.exceptions import Refused
from tests.dev.running import execute, family, gone, until

NOBODY_MAY = 0o077


async def test_a_stack_answers_on_both_its_urls() -> None:
    async with embedded() as stack:
        assert await execute(stack.postgres_url, "SELECT 1") == 1
        bus = await nats.connect(stack.nats_url)
        assert bus.max_payload == 8 * 1024 * 1024
        assert (await bus.jetstream().account_info()).streams == 0
        await bus.close()


async def test_a_temporary_stack_leaves_no_process_and_no_file() -> None:
    async with embedded() as stack:
        data, pids = stack.data, [process.pid for process in stack.state.processes[1:]]
        assert len(pids) == 2

    await gone(pids)
    assert not data.exists()


async def test_migrate_gives_this_versions_schema() -> None:
    async with embedded(migrate=True) as stack:
        assert (
            await execute(stack.postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'holdfast'")
            > 0
        )


async def test_rows_and_urls_are_there_again_next_time(tmp_folder: Path) -> None:
    async with embedded(tmp_folder) as stack:
        urls = stack.postgres_url, stack.nats_url
        await execute(stack.postgres_url, "CREATE TABLE kept AS SELECT 42 AS n")

    async with embedded(tmp_folder) as stack:
        assert (stack.postgres_url, stack.nats_url) == urls
        assert await execute(stack.postgres_url, "SELECT n FROM kept") == 42


async def test_only_a_durable_stack_waits_for_the_disk(tmp_folder: Path) -> None:
    async with embedded(tmp_folder) as durable, embedded() as temporary:
        assert await execute(durable.postgres_url, "SHOW fsync") == "on"
        assert await execute(durable.postgres_url, "SHOW synchronous_commit") == "on"
        assert await execute(temporary.postgres_url, "SHOW fsync") == "off"


async def test_two_stacks_share_nothing() -> None:
    async with embedded() as one, embedded() as other:
        assert one.data != other.data
        ports = {one.postgres.port, one.nats.port, other.postgres.port, other.nats.port}
        assert len(ports) == 4
        assert not ports & {5432, 4222}


async def test_no_stranger_is_let_in() -> None:
    """Other users of the machine reach loopback too."""
    async with embedded() as stack:
        with pytest.raises(Exception, match="password"):
            await execute(f"postgresql://holdfast:guess@127.0.0.1:{stack.postgres.port}/postgres", "SELECT 1")
        secret = [stack.data / "endpoints.json", stack.data / "state.json", stack.data / "nats"]
        secret += [stack.data / "postgres", stack.data / "nats" / "nats.conf"]
        assert [path for path in secret if path.stat().st_mode & NOBODY_MAY] == []


async def test_both_servers_listen_on_loopback_only() -> None:
    async with embedded() as stack:
        for server in stack.servers:
            listening = psutil.Process(server.pid).net_connections("tcp")
            hosts = {at.laddr.ip for at in listening if at.status == psutil.CONN_LISTEN}
            assert hosts == {"127.0.0.1"}


async def test_postgres_never_runs_as_root() -> None:
    async with embedded() as stack:
        assert psutil.Process(stack.postgres.pid).uids().real != 0
        assert (stack.postgres_user is not None) == (os.geteuid() == 0)


async def test_state_json_tells_where_everything_is_while_it_runs(tmp_folder: Path) -> None:
    async with embedded(tmp_folder) as stack:
        stack.tell(http_url="http://127.0.0.1:1")
        stack.tell(ops_url="http://127.0.0.1:2")
        told = json.loads((tmp_folder / "state.json").read_text())
        assert told["pid"] == os.getpid()
        assert told["address"] == told["nats_url"] == stack.nats_url
        assert told["postgres_url"] == stack.postgres_url
        assert (told["http_url"], told["ops_url"]) == ("http://127.0.0.1:1", "http://127.0.0.1:2")
        assert {p["role"]: p["pid"] for p in told["processes"]} == {
            "dev": os.getpid(),
            "postgres": stack.postgres.pid,
            "nats": stack.nats.pid,
        }

    assert read_state(tmp_folder) is None


async def test_urls_in_the_environment_take_the_place_of_embedded_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with embedded() as other:
        monkeypatch.setenv("HOLDFAST_POSTGRES_URL", other.postgres_url)
        async with embedded() as stack:
            assert stack.postgres_url == other.postgres_url
            assert [server.role for server in stack.servers] == ["nats"]
            with pytest.raises(Refused, match="HOLDFAST_POSTGRES_URL"):
                stack.postgres  # noqa: B018

        monkeypatch.setenv("HOLDFAST_NATS_URL", other.nats_url)
        async with embedded() as stack:
            assert (stack.nats_url, stack.servers) == (other.nats_url, [])


async def test_an_older_postgres_can_be_chosen_and_keeps_its_cluster(tmp_folder: Path) -> None:
    async with embedded(tmp_folder, postgres_major=16) as stack:
        assert str(await execute(stack.postgres_url, "SHOW server_version")).startswith("16.")

    async with embedded(tmp_folder) as stack:
        assert str(await execute(stack.postgres_url, "SHOW server_version")).startswith("16.")
    with pytest.raises(DevError, match="was made by Postgres 16, not 18"):
        async with embedded(tmp_folder, postgres_major=18):
            pass


async def test_an_odd_path_is_as_good_as_any(tmp_folder: Path) -> None:
    async with embedded(tmp_folder / 'a "quoted" $HOME 🙂 {folder}' / ("x" * 120)) as stack:
        assert await execute(stack.postgres_url, "SELECT 1") == 1
        bus = await nats.connect(stack.nats_url)
        await bus.close()


async def test_a_data_folder_never_shows_up_in_git(tmp_folder: Path) -> None:
    async with embedded(tmp_folder / "new"):
        assert (tmp_folder / "new" / ".gitignore").read_text() == "*\n"


async def test_no_folder_that_was_there_is_changed(tmp_folder: Path) -> None:
    (tmp_folder / "data").mkdir(mode=0o755)
    before = [(path.stat().st_mode, path.stat().st_uid) for path in (tmp_folder, tmp_folder / "data")]

    async with embedded(tmp_folder / "data"):
        pass

    assert [(path.stat().st_mode, path.stat().st_uid) for path in (tmp_folder, tmp_folder / "data")] == before


async def test_reset_begins_anew(tmp_folder: Path) -> None:
    async with embedded(tmp_folder) as stack:
        await execute(stack.postgres_url, "CREATE TABLE kept AS SELECT 42 AS n")
        with pytest.raises(DevError, match="in use"):
            await reset(tmp_folder)

    await reset(tmp_folder)

    async with embedded(tmp_folder) as stack:
        assert await execute(stack.postgres_url, "SELECT to_regclass('kept')") is None


async def test_a_stored_port_that_is_taken_meanwhile_is_replaced(tmp_folder: Path) -> None:
    async with embedded(tmp_folder) as stack:
        taken = stack.postgres.port
    endpoints = json.loads((tmp_folder / "endpoints.json").read_text())

    async with embedded() as other:
        endpoints["postgres_port"] = other.nats.port
        (tmp_folder / "endpoints.json").write_text(json.dumps(endpoints))
        async with embedded(tmp_folder) as stack:
            assert stack.postgres.port not in {taken, other.nats.port}
            assert not is_free(stack.postgres.port)


async def test_a_stack_that_is_cancelled_while_it_starts_leaves_nothing(tmp_folder: Path) -> None:
    async def open_one() -> None:
        async with embedded(tmp_folder):
            raise AssertionError("it was cancelled before")

    before = set(family(os.getpid()))
    opening = asyncio.create_task(open_one())
    await until(lambda: len(set(family(os.getpid())) - before) > 0)
    started = set(family(os.getpid())) - before
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    await gone(started)
    async with embedded(tmp_folder) as stack:
        assert await execute(stack.postgres_url, "SELECT 1") == 1


def test_roots_data_lies_where_other_users_can_go(tmp_folder: Path) -> None:
    data = default_data(tmp_folder)
    if os.geteuid() == 0:
        assert data.parent == SYSTEM_DATA
        assert data.name.startswith(f"{tmp_folder.name}-")
        assert data != default_data(tmp_folder / "other")
    else:
        assert data == tmp_folder / ".holdfast"
    assert stat.S_ISDIR(tmp_folder.stat().st_mode)
