"""Fixtures of the SDK's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sdk.recorder import Recorder, started


@pytest.fixture
def begin() -> Iterator[Callable[..., Recorder]]:
    """Starts recorders, which are closed at the end of the test."""
    open_ones: list[Recorder] = []

    def start(code: Any, *args: Any, **options: Any) -> Recorder:
        open_ones.append(started(code, *args, **options))
        return open_ones[-1]

    yield start
    for recorder in open_ones:
        recorder.close()
