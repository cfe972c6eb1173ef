"""The engine in memory: time is its owner's, and what is due happens at its moment, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.api.rpc import serve_rpc
from holdfast.bus import Msg
from holdfast.engine.verbs import VERBS
from holdfast.exceptions import LeaseLost, NotFound
from holdfast.memory import MemoryEngine, MemoryPool, Tables
from holdfast.sdk.rpc import Rpc
from holdfast.store.outbox import READ_OWED
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy

NOON = 1_800_000_000.0


class Asked:
    """A client and a worker of the engine."""

    def __init__(self, engine: MemoryEngine) -> None:
        self.engine = engine

    async def ask(self, verb: str, request: Any) -> Any:
        return await VERBS[verb](self.engine, "main", request)

    async def start(self, workflow_id: str = "order-1") -> str:
        request = m.Start(
            request_id=f"start {workflow_id}", workflow_id=workflow_id, workflow_type="order", task_queue="q"
        )
        started: m.Started = await self.ask("start", request)
        return started.run_id

    async def claim(self, workflows: int = 0, activities: int = 0) -> m.Tasks:
        request = m.Claim(worker="w1", task_queue="q", workflow_slots=workflows, activity_slots=activities)
        tasks: m.Tasks = await self.ask("claim", request)
        self.engine.credits.forget("main", "w1")
        return tasks

    async def turn(self, *commands: c.AnyCommand) -> m.Reported:
        (task,) = (await self.claim(workflows=1)).workflow_tasks
        report = m.CompleteWorkflowTask(
            run_id=task.run_id,
            worker="w1",
            fence=task.fence,
            seen_seq=task.head_seq,
            commands=list(commands),
        )
        reported: m.Reported = await self.ask("report", report)
        return reported

    async def history(self, workflow_id: str = "order-1") -> list[tuple[float, str]]:
        """How many seconds after noon what happened."""
        page: m.HistoryPage = await self.ask("history", m.History(workflow_id=workflow_id))
        stored: list[Any] = page.events
        rows = self.engine.tables.events[page.run_id]
        assert [item.seq for item in stored] == [row.seq for row in rows]
        return [(row.recorded_at - NOON, row.type) for row in rows]


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    async with MemoryEngine.running(Tables(NOON)) as engine:
        yield Asked(engine)


async def test_nothing_is_due_when_nothing_was_started(asked: Asked) -> None:
    assert asked.engine.next_due() is None
    assert await asked.engine.advance(3600.0) == 0
    assert asked.engine.now == NOON + 3600.0


async def test_a_timer_fires_at_its_moment_however_far_time_is_moved(asked: Asked) -> None:
    await asked.start()
    await asked.turn(c.StartTimer(seq=1, delay_s=60.0), c.StartTimer(seq=2, delay_s=30.0))
    assert asked.engine.next_due() == NOON + 30.0

    await asked.engine.advance(29.0)
    assert "TimerFired" not in [name for _, name in await asked.history()]
    assert await asked.engine.advance(3600.0) == 2

    fired = [(at, name) for at, name in await asked.history() if name == "TimerFired"]
    assert fired == [(30.0, "TimerFired"), (60.0, "TimerFired")]
    assert asked.engine.now == NOON + 3629.0


async def test_a_failed_activity_is_ready_again_when_its_backoff_ends(asked: Asked) -> None:
    await asked.start()
    await asked.turn(c.ScheduleActivity(seq=1, name="charge", retry=RetryPolicy(initial_s=8.0)))
    (task,) = (await asked.claim(activities=1)).activity_tasks
    failed = m.FailActivity(
        run_id=task.run_id, worker="w1", seq=1, fence=task.fence, failure=Failure(message="x")
    )
    await asked.ask("report", failed)

    assert asked.engine.next_due() == NOON + 8.0
    assert (await asked.claim(activities=1)).activity_tasks == []
    await asked.engine.advance(8.0)

    assert [task.attempt for task in (await asked.claim(activities=1)).activity_tasks] == [2]


async def test_a_lease_that_is_not_extended_ends(asked: Asked) -> None:
    await asked.start()
    (task,) = (await asked.claim(workflows=1)).workflow_tasks
    assert asked.engine.next_due() == NOON + 10.0

    assert await asked.engine.advance(10.0) == 1

    (again,) = (await asked.claim(workflows=1)).workflow_tasks
    assert (again.attempt, again.fence) == (2, task.fence + 1)
    late = m.CompleteWorkflowTask(run_id=task.run_id, worker="w1", fence=task.fence, seen_seq=1)
    with pytest.raises(LeaseLost):
        await asked.ask("report", late)


async def test_a_closed_run_is_owed_nothing_any_more(asked: Asked) -> None:
    await asked.start()
    await asked.turn(c.StartTimer(seq=1, delay_s=60.0), c.ScheduleActivity(seq=2, name="charge"))

    await asked.ask("terminate", m.Terminate(request_id="t", workflow_id="order-1"))

    assert asked.engine.next_due() is None
    assert await asked.engine.advance(3600.0) == 0
    assert (await asked.claim(workflows=9, activities=9)) == m.Tasks()


async def test_whoever_waits_for_the_result_is_told(asked: Asked) -> None:
    await asked.start()
    await asked.turn(c.CompleteWorkflow(result=b"1"))

    outcome: m.Outcome = await asked.ask("result", m.Result(workflow_id="order-1"))

    assert outcome.event is not None
    assert outcome.event.event == e.WorkflowCompleted(result=b"1")


async def test_ready_tasks_are_hinted(asked: Asked) -> None:
    messages: list[Msg] = []
    await asked.engine.bus.subscribe("hf.hint.>", messages.append).ready()

    await asked.start()
    await asked.engine.bus.subscribe("nothing", messages.append).ready()

    assert [message.subject for message in messages] == ["hf.hint.main.workflow.q"]


async def test_what_a_request_was_kept_for_is_forgotten_after_two_days(asked: Asked) -> None:
    await asked.start()
    signal = m.Signal(request_id="s", workflow_id="order-1", name="go")
    await asked.ask("signal", signal)
    await asked.engine.advance(49 * 3600.0)

    assert await asked.engine.clock.forget() == 1


async def test_an_unknown_workflow_is_not_found(asked: Asked) -> None:
    with pytest.raises(NotFound):
        await asked.ask("describe", m.Describe(workflow_id="nobody"))


async def test_it_answers_over_its_bus_as_a_service_does(asked: Asked) -> None:
    """A client and a worker in this process need nothing but the bus; what nobody claims is pushed to who has room."""
    bus = asked.engine.bus
    await serve_rpc(asked.engine, bus)
    rpc = Rpc(bus, "main")
    pushed: asyncio.Future[m.Push] = asyncio.get_running_loop().create_future()

    async def take(_: str, data: bytes) -> bytes:
        pushed.set_result(codec.decode(data, m.Push))
        return b""

    bus.respond(subjects.worker("main", "w1"), take)
    await rpc.call("claim", m.Claim(worker="w1", task_queue="q", workflow_slots=1), 5.0)
    start = m.Start(request_id="s", workflow_id="order-1", workflow_type="order", task_queue="q")

    started: m.Started = await rpc.call("start", start, 5.0)

    (task,) = (await pushed).workflow_tasks
    assert task.run_id == started.run_id
    with pytest.raises(NotFound):
        await Rpc(bus, "nowhere").call("start", start, 5.0)


async def test_a_query_that_the_pool_does_not_know_is_a_bug() -> None:
    with pytest.raises(KeyError):
        await MemoryPool(Tables(NOON)).rows(READ_OWED, 1)
