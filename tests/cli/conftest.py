"""One running `holdfast dev`, shared by the tests of the commands that talk to it."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.processes import Running, running


@dataclass
class DevStack:
    """A running `holdfast dev` and where it is."""

    process: Running
    data: Path
    address: str
    http_url: str
    ops_url: str
    postgres_url: str


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A temporary folder that the user Postgres drops to can enter, too."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-cli-"))
    if os.geteuid() == 0:
        folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(open_folder: Path) -> Iterator[DevStack]:
    """A whole system with the demo's worker."""
    data = open_folder / ".holdfast"
    with running(["dev", "--data", str(data), "--port", "0"], cwd=open_folder) as process:
        process.line("Ctrl-C stops everything")
        state = json.loads((data / "state.json").read_text(encoding="utf-8"))
        yield DevStack(
            process, data, state["nats_url"], state["http_url"], state["ops_url"], state["postgres_url"]
        )
