"""Folders for data that any user may enter."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_folder() -> Iterator[Path]:
    """A folder whose path any user may walk: pytest's own are closed to others, and Postgres never runs as root."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
