"""Every scenario runs twice: on real servers, and on the engine in memory with skipped time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from holdfast.sdk.runtime import Identity
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import codec
from holdfast.wire.events import HistoryEvent
from tests.invariants.replaying import defined_in, replay

LOCAL_ONLY: dict[str, str] = {
    "test_the_store_contract_and_the_engine_see_the_same_attributes": "the store contract is on Postgres",
}
"""The names of tests that run on real servers only, and why."""


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
async def skipping_env(request: pytest.FixtureRequest) -> AsyncIterator[WorkflowEnvironment]:
    """An environment in memory that only this test uses. In the end its histories must replay."""
    async with await WorkflowEnvironment.start_time_skipping() as environment:
        yield environment
        tables = environment._skipper._engine.tables
    definitions = defined_in(request.module)
    for run_id, run in tables.runs.items():
        definition = definitions.get(run.workflow_type)
        if definition is not None:
            who = Identity(
                run_id=run_id,
                workflow_id=run.workflow_id,
                workflow_type=run.workflow_type,
                task_queue=run.task_queue,
                namespace=run.namespace,
            )
            rows = tables.events[run_id]
            history = [HistoryEvent(row.seq, row.recorded_at, codec.decode_event(row.body)) for row in rows]
            replay(definition, who, history)
