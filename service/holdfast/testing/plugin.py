"""Fixtures for pytest: `holdfast_env` and `holdfast_client`. Needs pytest-asyncio.

Load it with `pytest_plugins = ["holdfast.testing.plugin"]` in the topmost `conftest.py`, or with `-p holdfast.testing.plugin`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from holdfast.client import Client
from holdfast.testing.environment import WorkflowEnvironment

OPTION = "--holdfast-env"
SKIPPING = "time-skipping"
LOCAL = "local"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line say where workflows run."""
    parser.getgroup("holdfast").addoption(
        OPTION,
        choices=(SKIPPING, LOCAL),
        default=SKIPPING,
        help="where holdfast_env runs workflows: in memory, with skipped time, or on real Postgres and NATS",
    )


@pytest_asyncio.fixture
async def holdfast_env(request: pytest.FixtureRequest) -> AsyncIterator[WorkflowEnvironment]:
    """An environment that only this test uses."""
    is_local = request.config.getoption(OPTION) == LOCAL
    start = WorkflowEnvironment.start_local if is_local else WorkflowEnvironment.start_time_skipping
    async with await start() as environment:
        yield environment


@pytest.fixture
def holdfast_client(holdfast_env: WorkflowEnvironment) -> Client:
    """A client of `holdfast_env`."""
    return holdfast_env.client
