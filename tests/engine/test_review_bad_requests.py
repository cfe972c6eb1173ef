"""One bad request is that caller's alone: it is refused, and the process that got it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.exceptions import HoldfastError, Invalid
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure
from tests.engine.by_hand import QUEUE, Hand, hand, is_alive

TOO_LARGE = 2**40
SOME_RUN = "01234567-89ab-7cde-8f01-23456789abcd"


def reports(run_id: str, seq: int, fence: int = 1) -> list[Any]:
    common = {"run_id": run_id, "worker": "hand", "seq": seq, "fence": fence}
    return [
        m.CompleteActivity(**common),
        m.FailActivity(**common, failure=Failure(message="boom")),
        m.CancelActivity(**common),
    ]


async def refused(by: Hand, verb: str, request: Any) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught:
        await by.ask(verb, request)
    return caught.value


@pytest.mark.parametrize(
    "run_id",
    [
        "0x345678-1234-1234-1234-123456789abc",
        "1_345678-1234-1234-1234-123456789abc",
        "+2345678-1234-1234-1234-123456789abc",
        "١٢٣٤٥٦٧٨-1234-1234-1234-123456789abc",
        "nonsense",
    ],
)
async def test_a_run_id_that_only_looks_like_one_is_refused_at_the_door(
    env: WorkflowEnvironment, run_id: str
) -> None:
    # What Python's int() takes for hexadecimal is not what Postgres takes for a UUID: such an id
    # reached the batch, and the error ended the process with everybody else's requests.
    by = hand(env)
    for report in (*reports(run_id, 1), m.ReleaseTask(run_id=run_id, worker="hand", fence=1)):
        assert isinstance(await refused(by, "report", report), Invalid)
    lease = m.WorkerHeartbeat(worker="hand", task_queue=QUEUE, leases=[m.Lease(run_id, 0, 1)])
    assert isinstance(await refused(by, "heartbeat", lease), Invalid)
    assert isinstance(await refused(by, "describe", m.Describe(workflow_id="w", run_id=run_id)), Invalid)
    signal = m.Signal(request_id="s", workflow_id="w", name="n", run_id=run_id)
    assert isinstance(await refused(by, "signal", signal), Invalid)
    assert is_alive(env)


async def test_numbers_that_no_column_holds_are_refused_at_the_door(env: WorkflowEnvironment) -> None:
    by = hand(env)
    started = await by.start()
    task = await by.one_task()
    for report in (
        *reports(started.run_id, TOO_LARGE),
        m.ReleaseTask(run_id=started.run_id, worker="hand", fence=1, seq=TOO_LARGE),
        by.completion(task, c.CancelTimer(seq=TOO_LARGE)),
        by.completion(task, c.RequestCancelActivity(seq=TOO_LARGE)),
        by.completion(task, c.StartTimer(seq=TOO_LARGE, delay_s=1.0)),
    ):
        assert (await refused(by, "report", report)).code in {"invalid", "refused"}, report
    beat = m.ActivityHeartbeat(run_id=started.run_id, seq=TOO_LARGE, fence=1, worker="hand")
    assert isinstance(await refused(by, "activity_heartbeat", beat), Invalid)
    lease = m.Lease(started.run_id, TOO_LARGE, 2**63)
    heartbeat = m.WorkerHeartbeat(worker="hand", task_queue=QUEUE, leases=[lease])
    assert isinstance(await refused(by, "heartbeat", heartbeat), Invalid)
    page = m.History(workflow_id=started.workflow_id, after=TOO_LARGE)
    assert isinstance(await refused(by, "history", page), Invalid)
    assert isinstance(await refused(by, "list", m.List(cursor="x" * 36)), Invalid)
    assert is_alive(env)
    await by.complete(task, c.CompleteWorkflow())
    assert await by.status(started) == "COMPLETED"


async def test_a_workflow_task_is_not_an_activity_even_under_its_own_fence(env: WorkflowEnvironment) -> None:
    # Number 0 is the workflow task's place among the tasks; there is no activity 0 to settle.
    by = hand(env)
    started = await by.start()
    task = await by.one_task()
    for report in reports(started.run_id, 0, task.fence):
        assert isinstance(await refused(by, "report", report), Invalid)
    beat = m.ActivityHeartbeat(run_id=started.run_id, seq=0, fence=task.fence, worker="hand")
    assert isinstance(await refused(by, "activity_heartbeat", beat), Invalid)
    assert is_alive(env)
    await by.complete(task, c.CompleteWorkflow())
    assert await by.status(started) == "COMPLETED"
