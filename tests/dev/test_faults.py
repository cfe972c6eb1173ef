"""What an embedded stack survives, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import asyncpg
import nats
import pytest

from holdfast.dev import DevError, embedded
from holdfast.dev.process import working_in
from holdfast.exceptions import Refused
from tests.dev.running import execute, gone, holder


async def test_kill_9_of_the_holder_leaves_no_process_and_loses_nothing(tmp_folder: Path) -> None:
    async with holder("--data", str(tmp_folder), "--sleepers", "2") as other:
        await execute(other.told["postgres_url"], "CREATE TABLE kept AS SELECT 42 AS n")
        assert len(other.pids) >= 5
        other.process.kill()
        await gone(other.pids)

    async with embedded(tmp_folder) as stack:
        assert await execute(stack.postgres_url, "SELECT n FROM kept") == 42


async def test_kill_9_while_a_statement_runs_leaves_no_process() -> None:
    """A backend in the middle of computing does not look whether its postmaster lives."""
    async with holder() as other:
        connection = await asyncpg.connect(other.told["postgres_url"])
        computing = asyncio.create_task(
            connection.execute("SELECT count(*) FROM generate_series(1, 10000000000)")
        )
        backends = await execute(
            other.told["postgres_url"],
            "SELECT array_agg(pid) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()",
        )
        other.process.kill()
        await gone([*other.pids, *(backends or [])])
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await computing
        connection.terminate()


async def test_the_next_temporary_stack_removes_what_a_killed_one_left() -> None:
    async with holder() as other:
        other.process.kill()
        await gone(other.pids)
        left = Path(other.told["data"])
        assert left.exists()

    async with embedded() as stack:
        assert stack.data.exists()
        assert not left.exists()


async def test_a_running_temporary_stack_is_no_leftover() -> None:
    async with embedded() as one, embedded():
        assert await execute(one.postgres_url, "SELECT 1") == 1
        assert (one.data / "state.json").exists()


async def test_a_stack_opens_while_the_killed_ones_postgres_is_still_on_its_way_down(
    tmp_folder: Path,
) -> None:
    async with holder("--data", str(tmp_folder)) as other:
        [postmaster] = [
            pid for pid in other.pids if _names(tmp_folder / "postgres" / "postmaster.pid") == pid
        ]
        os.kill(postmaster, signal.SIGSTOP)
        other.process.kill()
        await other.process.wait()
        # Asleep, it has not taken the order to end; awake, it takes its time.
        opening = asyncio.create_task(_opened(tmp_folder))
        os.kill(postmaster, signal.SIGCONT)
        assert await opening == 1


async def test_orphaned_backends_of_a_killed_postmaster_do_not_block_the_next_start(tmp_folder: Path) -> None:
    """SIGKILL of the postmaster alone: its backends hold the cluster's shared memory."""
    async with embedded(tmp_folder) as stack:
        connection = await asyncpg.connect(stack.postgres_url)
        computing = asyncio.create_task(
            connection.execute("SELECT count(*) FROM generate_series(1, 10000000000)")
        )
        await asyncio.sleep(0)
        assert stack.postgres.pid is not None
        os.kill(stack.postgres.pid, signal.SIGKILL)
        await stack.postgres.wait()

        await stack.postgres.start()

        assert await execute(stack.postgres_url, "SELECT 1") == 1
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await computing
        connection.terminate()


@pytest.mark.parametrize(
    "named", ["a living process that is none of ours", "a number that nobody has", "nothing"]
)
async def test_a_stale_pid_file_is_repaired(tmp_folder: Path, named: str) -> None:
    """Postgres itself refuses to start while the process that the file names lives, whatever it is."""
    async with embedded(tmp_folder):
        pass
    sleeper = await asyncio.create_subprocess_exec("/bin/sleep", "1000")
    text = {"a living": f"{sleeper.pid}\n{tmp_folder}/postgres\n", "a number": "999999999\n", "nothing": ""}
    [content] = [content for start, content in text.items() if named.startswith(start)]
    (tmp_folder / "postgres" / "postmaster.pid").write_text(content)
    (tmp_folder / "nats" / "nats.pid").write_text(content)

    async with embedded(tmp_folder) as stack:
        assert await execute(stack.postgres_url, "SELECT 1") == 1
        assert sleeper.returncode is None

    sleeper.kill()
    await sleeper.wait()


async def test_a_shell_that_stands_in_the_cluster_is_left_alone(tmp_folder: Path) -> None:
    async with embedded(tmp_folder):
        pass
    shell = await asyncio.create_subprocess_exec("/bin/sleep", "1000", cwd=tmp_folder / "postgres")
    async with embedded(tmp_folder) as stack:
        await stack.postgres.kill()
    assert shell.returncode is None
    shell.kill()
    await shell.wait()


async def test_a_killed_postgres_is_gone_as_a_whole_and_comes_back_on_its_port(tmp_folder: Path) -> None:
    async with embedded(tmp_folder) as stack:
        await execute(stack.postgres_url, "CREATE TABLE kept AS SELECT 42 AS n")
        await stack.postgres.kill()
        assert not stack.postgres.is_running
        assert working_in(stack.postgres.cluster, "postgres") == []

        await stack.postgres.start()
        assert await execute(stack.postgres_url, "SELECT n FROM kept") == 42


async def test_a_killed_nats_keeps_its_streams_and_a_wiped_one_does_not() -> None:
    async with embedded() as stack:
        await _add_stream(stack.nats_url)
        await stack.nats.kill()
        await stack.nats.start()
        assert await _streams(stack.nats_url) == 1

        with pytest.raises(Refused, match="kill or stop it"):
            stack.nats.wipe()
        await stack.nats.kill()
        stack.nats.wipe()
        await stack.nats.start()
        assert await _streams(stack.nats_url) == 0


async def test_starting_what_runs_and_stopping_what_does_not_changes_nothing() -> None:
    async with embedded() as stack:
        for server in stack.servers:
            before = server.pid
            await server.start()
            assert server.pid == before
            await server.stop()
            await server.stop()
            await server.kill()
            assert server.pid is None


async def test_two_on_one_folder_is_refused_with_the_pid_of_the_first(tmp_folder: Path) -> None:
    async with holder("--data", str(tmp_folder)) as other:
        with pytest.raises(DevError, match=rf"in use by process {other.process.pid}\b"):
            await _opened(tmp_folder)
        assert await execute(other.told["postgres_url"], "SELECT 1") == 1


async def test_a_folder_with_other_things_is_refused_and_left_as_it_is(tmp_folder: Path) -> None:
    (tmp_folder / "thesis.txt").write_text("years of work")
    with pytest.raises(DevError, match="holds other things"):
        await _opened(tmp_folder)
    assert [path.name for path in tmp_folder.iterdir()] == ["thesis.txt"]


async def test_a_folder_that_cannot_be_made_is_said(tmp_folder: Path) -> None:
    (tmp_folder / "file").write_text("")
    with pytest.raises(DevError, match="cannot use the data folder"):
        await _opened(tmp_folder / "file")
    with pytest.raises(DevError, match="cannot use the data folder"):
        await _opened(Path("/proc/holdfast"))
    with pytest.raises(DevError, match="cannot use the data folder"):
        await _opened(tmp_folder / ("x" * 300))


async def test_a_path_that_is_too_long_is_said(tmp_folder: Path) -> None:
    with pytest.raises(DevError, match="at most 900"):
        await _opened(tmp_folder.joinpath(*["x" * 100] * 9))


async def test_a_lost_password_is_said(tmp_folder: Path) -> None:
    async with embedded(tmp_folder):
        pass
    (tmp_folder / "endpoints.json").unlink()
    with pytest.raises(DevError, match="use --reset"):
        await _opened(tmp_folder)


async def test_a_server_that_does_not_start_says_why(tmp_folder: Path) -> None:
    async with embedded(tmp_folder):
        pass
    (tmp_folder / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(DevError, match="no_such_setting"):
        await _opened(tmp_folder)


async def test_a_port_that_is_lost_while_a_server_is_down_is_said() -> None:
    async with embedded() as stack:
        for server in stack.servers:
            await server.kill()
            with socket.socket() as stranger:
                stranger.bind(("127.0.0.1", server.port))
                stranger.listen()
                with pytest.raises(DevError, match=f"port {server.port} is taken"):
                    await server.start()
            await server.start()
            assert server.is_running


async def _opened(folder: Path) -> int:
    async with embedded(folder) as stack:
        return int(await execute(stack.postgres_url, "SELECT 1"))


def _names(told: Path) -> int:
    return int(told.read_text().splitlines()[0])


async def _add_stream(url: str) -> None:
    bus = await nats.connect(url)
    await bus.jetstream().add_stream(name="kept", subjects=["kept"])
    await bus.close()


async def _streams(url: str) -> int:
    bus = await nats.connect(url)
    found = (await bus.jetstream().account_info()).streams
    await bus.close()
    return found
