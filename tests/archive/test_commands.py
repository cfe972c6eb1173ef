"""`holdfast archive`: archive now, see what was archived, bring a run back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import errors
from holdfast.store import Store
from tests.cli.processes import command
from tests.contract.given import workflow


@pytest.fixture
def env(database: str, tmp_path: Path) -> dict[str, str]:
    return {
        "HOLDFAST_POSTGRES_URL": database,
        "HOLDFAST_ARCHIVE_URL": str(tmp_path / "archive"),
        "HOLDFAST_RETENTION_S": "0",
    }


async def closed(url: str, *ids: str) -> None:
    """Runs that closed just now."""
    async with await Store.connect(url) as store:
        for id in ids:
            await store.create_workflow(workflow(id))
            await store.update_workflow_status(id, "COMPLETED", result='"done"')


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """What the command told as JSON."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_what_is_due_is_archived_listed_and_restored(database: str, env: dict[str, str]) -> None:
    await closed(database, "order-1", "order-2")

    assert answer(command("archive", "run", **env)) == {"archived": 2}

    listed = answer(command("archive", "list", **env))
    assert {row["workflow_id"] for row in listed} == {"order-1", "order-2"}
    for row in listed:
        assert row["status"] == "COMPLETED"
        assert Path(row["archive_uri"].removeprefix("file://")).exists()

    assert answer(command("archive", "restore", "order-1", **env))["workflow_id"] == "order-1"
    assert [row["workflow_id"] for row in answer(command("archive", "list", **env))] == ["order-2"]
    async with await Store.connect(database) as store:
        run = await store.get_workflow("order-1")
        assert run is not None
        assert (run.archived_at, run.result) == (None, '"done"')


async def test_what_is_not_due_stays(database: str, env: dict[str, str]) -> None:
    await closed(database, "order-1")

    assert answer(command("archive", "run", **{**env, "HOLDFAST_RETENTION_S": "3600"})) == {"archived": 0}
    assert answer(command("archive", "list", **env)) == []


async def test_while_another_process_archives_that_is_told(database: str, env: dict[str, str]) -> None:
    """The command that was the last to archive keeps the role for a moment."""
    await closed(database, "order-1")
    assert answer(command("archive", "run", **env)) == {"archived": 1}
    await closed(database, "order-2")

    done = command("archive", "run", **env)

    assert done.returncode == errors.FAILED
    assert "another process archives at the moment" in done.stderr


async def test_an_archive_that_cannot_be_written_is_unreachable(database: str, env: dict[str, str]) -> None:
    await closed(database, "order-1")
    Path(env["HOLDFAST_ARCHIVE_URL"]).mkdir()
    (Path(env["HOLDFAST_ARCHIVE_URL"]) / "v1").write_text("a file where a folder must be")

    done = command("archive", "run", **env)

    assert done.returncode == errors.UNREACHABLE
    assert "see that the archive can be reached and written to" in done.stderr


@pytest.mark.parametrize("id", ["order-1", "nobody"])
async def test_only_what_was_archived_is_restored(database: str, env: dict[str, str], id: str) -> None:
    await closed(database, "order-1")

    done = command("archive", "restore", id, **env)

    assert done.returncode == (errors.FAILED if id == "order-1" else errors.NOT_FOUND)
    assert done.stderr.endswith("Try: holdfast archive list\n")


def test_without_an_archive_its_setting_is_named() -> None:
    done = command("archive", "run", HOLDFAST_POSTGRES_URL="postgresql://a@127.0.0.1:1/b")

    assert done.returncode == errors.USAGE
    assert "HOLDFAST_ARCHIVE_URL is not set, expected /folder" in done.stderr
