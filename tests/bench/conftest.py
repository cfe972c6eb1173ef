"""`holdfast bench` run to its end, its record read back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import command

Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A function that runs `holdfast bench` with some options and returns its record."""

    def run(*options: str) -> dict[str, Any]:
        ended = command("bench", *options, "-o", "json", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        record: dict[str, Any] = json.loads(ended.stdout)
        return record

    return run
