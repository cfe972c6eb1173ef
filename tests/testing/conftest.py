"""Fixtures of the tests of test environments."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from holdfast.testing import WorkflowEnvironment


@pytest_asyncio.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    """An environment in memory."""
    async with await WorkflowEnvironment.start_time_skipping() as environment:
        yield environment
