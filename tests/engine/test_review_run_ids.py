"""The newest run of a workflow id is the one that was started last, whatever the clocks of the processes say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from holdfast.core.ids import uuid7
from holdfast.exceptions import AlreadyExists
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.engine.by_hand import hand


@pytest_asyncio.fixture
async def sql(database: str) -> AsyncIterator[Any]:
    """A connection to change rows with."""
    connection = await asyncpg.connect(database, server_settings={"search_path": "holdfast"})
    yield connection
    await connection.close()


async def copy_of_run(sql: Any, run: m.Started, **changes: Any) -> None:
    """Another process wrote the same run, but for *changes*."""
    await sql.execute(f"CREATE TEMP TABLE copy AS SELECT * FROM run WHERE run_id = '{run.run_id}'")
    for column, value in changes.items():
        await sql.execute(f"UPDATE copy SET {column} = $1", value)
    await sql.execute("INSERT INTO run SELECT * FROM copy")
    await sql.execute("DROP TABLE copy")


async def test_a_run_started_by_a_process_whose_clock_was_ahead_does_not_hide_the_next_one(
    env: WorkflowEnvironment, sql: Any
) -> None:
    # Run ids came from the process's clock and "newest" is the highest id: after a start by a process
    # an hour ahead, the next run could neither be signalled nor found, and every further start lost
    # against a run that nobody could see.
    by = hand(env)
    first = await by.start("w")
    await by.complete(await by.one_task(), c.CompleteWorkflow())
    await copy_of_run(sql, first, run_id=uuid7(int((time.time() + 3600) * 1000), b"0123456789"))

    second = await by.start("w")
    done: m.Done = await by.ask("signal", m.Signal(request_id="s", workflow_id="w", name="hello"))
    assert done.run_id == second.run_id
    described: m.Description = await by.ask("describe", m.Describe(workflow_id="w"))
    assert described.summary.run_id == second.run_id
    with pytest.raises(AlreadyExists):
        await by.start("w")


async def test_runs_that_replace_each_other_as_fast_as_they_can_keep_their_order(
    env: WorkflowEnvironment,
) -> None:
    by = hand(env)
    runs = [await by.start("w", id_conflict="terminate_existing") for _ in range(30)]
    listed: m.ListPage = await by.ask("list", m.List(workflow_id="w"))
    assert [run.run_id for run in listed.runs] == [run.run_id for run in reversed(runs)]
    assert [run.status for run in listed.runs] == ["PENDING", *["TERMINATED"] * 29]


async def test_starts_of_one_id_in_one_batch_name_a_run_that_exists(env: WorkflowEnvironment) -> None:
    by = hand(env)
    answers = await asyncio.gather(*(by.start("w") for _ in range(20)), return_exceptions=True)
    (started,) = [answer for answer in answers if isinstance(answer, m.Started)]
    refused = [answer for answer in answers if isinstance(answer, AlreadyExists)]
    assert {answer.details["run_id"] for answer in refused} == {started.run_id}
    assert len(refused) == 19


async def test_a_start_that_lost_against_another_process_names_the_run_that_won(
    env: WorkflowEnvironment, sql: Any
) -> None:
    # Within a batch the second start of an id was refused for the sake of the first one, which then lost
    # against a run of another process: the refusal named a run that never came to be.
    by = hand(env)
    winner = uuid7(int(time.time() * 1000), b"0123456789")
    other = await by.start("other")
    async with sql.transaction():
        await copy_of_run(sql, other, workflow_id="w", run_id=winner)
        starts = asyncio.gather(*(by.start("w") for _ in range(5)), return_exceptions=True)
        await somebody_waits(sql)
    answers = await starts
    assert [type(answer) for answer in answers] == [AlreadyExists] * 5
    assert {answer.details["run_id"] for answer in answers if isinstance(answer, AlreadyExists)} == {winner}


async def somebody_waits(sql: Any) -> None:
    """Return when another connection waits for this one's transaction."""
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    )
    async with asyncio.timeout(5.0):
        while not await sql.fetchval(waiting):
            pass
