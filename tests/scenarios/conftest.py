"""Every scenario runs twice: on real servers, and on the engine in memory with skipped time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from holdfast.testing import WorkflowEnvironment

LOCAL_ONLY: dict[str, str] = {}
"""What runs on real servers only, and why."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that asks for an environment both."""
    if "env" in metafunc.fixturenames:
        kinds = ["local"] if metafunc.function.__name__ in LOCAL_ONLY else ["local", "skipping"]
        metafunc.parametrize("env", kinds, indirect=True)


@pytest.fixture
def env(request: pytest.FixtureRequest) -> WorkflowEnvironment:
    """The environment of this kind."""
    found: WorkflowEnvironment = request.getfixturevalue(f"{request.param}_env")
    return found


@pytest_asyncio.fixture
async def skipping_env() -> AsyncIterator[WorkflowEnvironment]:
    """An environment in memory that only this test uses."""
    async with await WorkflowEnvironment.start_time_skipping() as environment:
        yield environment
