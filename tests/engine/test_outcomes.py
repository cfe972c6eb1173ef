"""Waiting for a run to close: told at once by whoever knows, found by looking otherwise, never too long."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from holdfast.bus import Bus
from holdfast.engine.outcomes import Outcomes
from holdfast.exceptions import NotFound
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.subjects import closed
from tests.engine.parts import Heard, Parts

NOWHERE = "00000000-0000-7000-8000-000000000000"


def elsewhere(parts: Parts) -> Outcomes:
    """What another process of the service knows: nothing yet."""
    return Outcomes(parts.engine.pool)


async def test_a_waiter_hears_of_the_close_that_this_process_commits(parts: Parts) -> None:
    run_id = await parts.start()
    waiting = asyncio.create_task(parts.engine.outcomes.wait(run_id, 60.0))
    await asyncio.sleep(0)

    await parts.turn(c.CompleteWorkflow(result=b'"done"'))

    async with asyncio.timeout(5):
        outcome = await waiting
    assert outcome.status == "COMPLETED"
    assert outcome.event is not None
    assert outcome.event.event == e.WorkflowCompleted(result=b'"done"')
    assert outcome.event.seq == 3


async def test_all_waiters_hear_of_it(parts: Parts) -> None:
    run_id = await parts.start()
    waiting = [asyncio.create_task(parts.engine.outcomes.wait(run_id, 60.0)) for _ in range(10)]
    await asyncio.sleep(0)

    await parts.turn(c.CompleteWorkflow())

    async with asyncio.timeout(5):
        assert {outcome.status for outcome in await asyncio.gather(*waiting)} == {"COMPLETED"}


async def test_a_run_that_is_closed_already_is_answered_at_once(parts: Parts) -> None:
    run_id = await parts.start()
    await parts.turn(c.CompleteWorkflow())

    for outcomes in (parts.engine.outcomes, elsewhere(parts)):
        async with asyncio.timeout(5):
            assert (await outcomes.wait(run_id, 60.0)).status == "COMPLETED"


async def test_a_run_that_stays_open_is_answered_when_the_wait_is_over(parts: Parts) -> None:
    run_id = await parts.start()

    for outcomes in (parts.engine.outcomes, elsewhere(parts)):
        outcome = await outcomes.wait(run_id, 0.02)
        assert (outcome.event, outcome.status) == (None, "PENDING")


async def test_a_wait_of_nothing_only_looks(parts: Parts) -> None:
    run_id = await parts.start()
    began = time.monotonic()

    assert (await parts.engine.outcomes.wait(run_id, 0.0)).event is None
    assert time.monotonic() - began < 2


async def test_an_unknown_run_is_not_found(parts: Parts) -> None:
    with pytest.raises(NotFound):
        await parts.engine.outcomes.wait(NOWHERE, 60.0)


async def test_a_waiter_elsewhere_hears_it_from_the_bus(parts: Parts) -> None:
    """That process knew the run as open; it looks when it is told."""
    run_id = await parts.start()
    other = elsewhere(parts)
    waiting = asyncio.create_task(other.wait(run_id, 60.0))
    while not other.heard_closed(run_id):
        await asyncio.sleep(0)
    await parts.turn(c.CompleteWorkflow())

    assert other.heard_closed(run_id)
    await other.look(run_id)

    async with asyncio.timeout(5):
        assert (await waiting).status == "COMPLETED"


async def test_a_lost_message_only_costs_the_rest_of_the_wait(parts: Parts) -> None:
    run_id = await parts.start()
    other = elsewhere(parts)
    waiting = asyncio.create_task(other.wait(run_id, 0.5))
    await asyncio.sleep(0)
    await parts.turn(c.CompleteWorkflow())

    assert (await waiting).status == "COMPLETED"


async def test_every_close_is_told_on_the_bus(parts: Parts, bus: Bus) -> None:
    run_id = await parts.start()
    heard = await Heard.on(bus, closed(parts.namespace, run_id))

    await parts.ask("terminate", m.Terminate(request_id="t", workflow_id="order-1"))

    assert (await heard.next()).data == b""


async def test_a_caller_that_goes_away_leaves_no_waiter_behind(parts: Parts) -> None:
    run_id = await parts.start()
    waiting = asyncio.create_task(parts.engine.outcomes.wait(run_id, 60.0))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait([waiting])

    assert not parts.engine.outcomes.heard_closed(run_id)


@pytest.mark.parametrize(
    ("end", "status", "event"),
    [
        (c.CompleteWorkflow(), "COMPLETED", "WorkflowCompleted"),
        (c.FailWorkflow(failure=m.Failure(message="no")), "FAILED", "WorkflowFailed"),
        (None, "TERMINATED", "WorkflowTerminated"),
    ],
    ids=["completed", "failed", "terminated"],
)
async def test_the_outcome_is_the_closing_event(parts: Parts, end: Any, status: str, event: str) -> None:
    run_id = await parts.start()
    if end is None:
        await parts.ask("terminate", m.Terminate(request_id="t", workflow_id="order-1"))
    else:
        await parts.turn(end)

    for outcomes in (parts.engine.outcomes, elsewhere(parts)):
        found = await outcomes.wait(run_id, 5.0)
        assert found.status == status
        assert found.event is not None
        assert type(found.event.event).__name__ == event


async def test_a_result_is_that_of_its_workflow_only(parts: Parts) -> None:
    """Knowing a run's id is not enough: it must be a run of the workflow that is asked for."""
    run_id = await parts.start("mine")

    with pytest.raises(NotFound):
        await parts.ask("result", m.Result(workflow_id="another", run_id=run_id, wait_s=0.0))


async def test_without_a_run_id_the_newest_run_is_waited_for(parts: Parts) -> None:
    await parts.start(request_id="r1")
    newest = await parts.start(request_id="r2", id_conflict="terminate_existing")

    outcome = await parts.ask("result", m.Result(workflow_id="order-1", wait_s=0.0))

    assert (outcome.run_id, outcome.event) == (newest, None)


async def test_the_newest_run_of_a_replaced_one_can_be_asked_for_by_its_id(parts: Parts) -> None:
    old = await parts.start(request_id="r1")
    await parts.start(request_id="r2", id_conflict="terminate_existing")

    outcome = await parts.ask("result", m.Result(workflow_id="order-1", run_id=old, wait_s=0.0))

    assert outcome.status == "TERMINATED"
