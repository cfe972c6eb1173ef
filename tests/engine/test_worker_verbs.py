"""What workers are told over a real bus: tasks as they become ready, what to stop, and what they have lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.bus import Bus
from holdfast.exceptions import LeaseLost, Refused
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy
from tests.engine.by_hand import QUEUE, Hand, hand
from tests.engine.parts import Heard, schedule
from tests.store.rows import Sql

BOOM = Failure(message="boom", type="Boom")


@pytest.fixture
def by(env: WorkflowEnvironment) -> Hand:
    return hand(env)


def signal(workflow_id: str) -> m.Signal:
    return m.Signal(request_id="s1", workflow_id=workflow_id, name="go")


async def test_a_late_report_is_told_that_its_lease_is_lost(by: Hand, look: Sql) -> None:
    await by.start("order-1")
    task = await by.one_task()
    await look("UPDATE task SET fence = fence + 1")

    with pytest.raises(LeaseLost):
        await by.complete(task)


async def test_a_message_the_code_has_not_seen_is_told_as_unhandled(by: Hand) -> None:
    await by.start("order-1")
    task = await by.one_task()
    await by.ask("signal", signal("order-1"))

    with pytest.raises(Refused, match="unhandled events"):
        await by.complete(task, c.CompleteWorkflow())

    await by.complete(await by.one_task(), c.CompleteWorkflow())


async def answering(bus: Bus, worker: str) -> asyncio.Queue[m.Push]:
    """What is pushed to the worker, which acknowledges all of it."""
    pushed: asyncio.Queue[m.Push] = asyncio.Queue()

    async def acknowledge(subject: str, data: bytes) -> bytes:
        pushed.put_nowait(codec.decode(data, m.Push))
        return b""

    await bus.respond(subjects.worker("main", worker), acknowledge).ready()
    return pushed


async def next_push(pushed: asyncio.Queue[m.Push]) -> m.Push:
    async with asyncio.timeout(10):
        return await pushed.get()


async def test_a_new_task_is_pushed_to_a_worker_that_said_it_had_room(by: Hand, bus: Bus) -> None:
    pushed = await answering(bus, "hand")
    await by.claim(workflows=2)

    started = await by.start("order-1")

    (task,) = (await next_push(pushed)).workflow_tasks
    assert task.run_id == started.run_id
    assert [event.seq for event in task.events] == [1]
    assert (await by.complete(task, c.CompleteWorkflow())).is_closed


async def test_a_task_pushed_to_a_worker_that_is_gone_is_anybodys_again(
    env: WorkflowEnvironment, by: Hand, bus: Bus
) -> None:
    await hand(env, "gone").claim(workflows=1)
    await by.start("order-1")

    async with asyncio.timeout(10):
        while not (found := (await by.claim(workflows=1)).workflow_tasks):
            await asyncio.sleep(0.02)

    assert (await by.complete(found[0], c.CompleteWorkflow())).is_closed


async def test_without_a_worker_that_has_room_the_queue_is_hinted(by: Hand, bus: Bus) -> None:
    heard = await Heard.on(bus, subjects.hint("main", "workflow", QUEUE))

    await by.start("order-1")

    assert codec.decode((await heard.next()).data, m.Hint).oldest_ready_at > 1e9


async def test_a_running_activity_is_told_to_stop_though_it_never_heartbeats(by: Hand, bus: Bus) -> None:
    await by.start("order-1")
    await by.complete(await by.one_task(), schedule(1))
    task = await by.one_activity()
    await by.ask("signal", signal("order-1"))
    heard = await Heard.on(bus, subjects.worker("main", "hand"))
    await by.complete(await by.one_task(), c.RequestCancelActivity(seq=1))

    assert await next_cancelled(heard) == [m.Lease(task.run_id, 1, task.fence)]


async def next_cancelled(heard: Heard) -> list[m.Lease]:
    """What the worker is told to stop; it may be told other things before."""
    while not (push := codec.decode((await heard.next()).data, m.Push)).cancelled:
        pass
    return list(push.cancelled)


async def test_the_activities_of_a_terminated_run_are_told_to_stop(by: Hand, bus: Bus) -> None:
    await by.start("order-1")
    await by.complete(await by.one_task(), schedule(1))
    task = await by.one_activity()
    heard = await Heard.on(bus, subjects.worker("main", "hand"))

    await by.ask("terminate", m.Terminate(request_id="t", workflow_id="order-1"))

    assert await next_cancelled(heard) == [m.Lease(task.run_id, 1, task.fence)]


async def test_the_answer_to_a_turn_brings_its_activities_to_a_worker_with_room(by: Hand) -> None:
    await by.start("order-1")
    task = await by.one_task()

    answer = await by.complete(
        task, schedule(1, input=b"[1]"), schedule(2), task_queue=QUEUE, activity_slots=1
    )

    (eager,) = answer.activity_tasks
    assert (eager.seq, eager.input) == (1, b"[1]")
    done = m.CompleteActivity(run_id=task.run_id, worker="hand", seq=1, fence=eager.fence)
    await by.ask("report", done)


async def test_an_activity_that_must_not_be_eager_waits_to_be_claimed(by: Hand) -> None:
    await by.start("order-1")
    eager_slots: dict[str, Any] = {"task_queue": QUEUE, "activity_slots": 5}

    answer = await by.complete(await by.one_task(), schedule(1, is_eager=False), schedule(2), **eager_slots)

    assert [task.seq for task in answer.activity_tasks] == [2]


async def test_a_heartbeat_extends_and_tells_what_is_lost(by: Hand, look: Sql) -> None:
    await by.start("one")
    await by.start("two")
    first, second = (await by.claim(workflows=2)).workflow_tasks
    await look("UPDATE task SET fence = fence + 1 WHERE run_id = $1::uuid", second.run_id)
    leases = [m.Lease(task.run_id, 0, task.fence) for task in (first, second)]

    answer = await by.ask("heartbeat", m.WorkerHeartbeat(worker="hand", task_queue=QUEUE, leases=leases))

    assert answer.lost == [leases[1]]


async def test_a_worker_that_stops_is_given_nothing_more(by: Hand, bus: Bus) -> None:
    await by.claim(workflows=5)
    heard = await Heard.on(bus, subjects.hint("main", "workflow", QUEUE))

    await by.ask("heartbeat", m.WorkerHeartbeat(worker="hand", task_queue=QUEUE, is_stopping=True))
    await by.start("order-1")

    await heard.next()
    assert len((await by.claim(workflows=1)).workflow_tasks) == 1


async def test_progress_is_kept_for_the_next_attempt(by: Hand) -> None:
    await by.start("order-1")
    await by.complete(await by.one_task(), schedule(1, retry=RetryPolicy(initial_s=0.0)))
    task = await by.one_activity()
    beat = m.ActivityHeartbeat(run_id=task.run_id, seq=1, fence=task.fence, worker="hand", details=b"[42]")
    assert not (await by.ask("activity_heartbeat", beat)).is_cancel_requested
    await by.ask(
        "report", m.FailActivity(run_id=task.run_id, worker="hand", seq=1, fence=task.fence, failure=BOOM)
    )

    again = await by.one_activity()

    assert (again.heartbeat_details, again.attempt) == (b"[42]", 2)


async def test_a_full_answer_says_that_there_is_more(by: Hand) -> None:
    for number in range(3):
        await by.start(f"w{number}")

    assert (await by.claim(workflows=2)).is_more
    assert not (await by.claim(workflows=2)).is_more


@pytest.mark.parametrize("slots", [-5, 0])
async def test_a_claim_without_room_leases_nothing(by: Hand, slots: int) -> None:
    await by.start("order-1")

    found = await by.claim(workflows=slots, activities=slots)

    assert (found.workflow_tasks, found.activity_tasks, found.is_more) == ([], [], False)
