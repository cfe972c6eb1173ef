"""The figures of this machine, for reading: nothing is asserted about speed. Run by `make bench`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import environment

pytestmark = pytest.mark.bench

LIMIT_S = 280.0


def test_the_whole_measurement_runs_to_its_end(tmp_path: Path) -> None:
    """Five rounds, as for figures to quote; `-s` shows the tables."""
    ended = subprocess.run(
        [sys.executable, "-m", "holdfast", "bench", "--rounds", "5", "-o", "table"],
        cwd=tmp_path,
        env=environment(),
        timeout=LIMIT_S,
        check=False,
    )

    assert ended.returncode == 0
