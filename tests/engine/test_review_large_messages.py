"""What a message cannot hold is not lost: tasks go in several messages, or are given back for the next one."""

from __future__ import annotations

import asyncio

import asyncpg

from holdfast.bus import Msg
from holdfast.sdk.rpc import Rpc
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure
from tests.engine.by_hand import Hand, hand, is_alive

MIB = 1024 * 1024


def of_size(size: int) -> bytes:
    """Arguments in so many bytes."""
    return b'["' + b"x" * (size - 4) + b'"]'


class Pushed:
    """The workflow tasks that are pushed to a worker from now on, acknowledged as a worker does."""

    def __init__(self, by: Hand) -> None:
        self.tasks: list[m.WorkflowTask] = []
        self._bus = by.rpc.bus
        self._news = asyncio.Event()
        self._bus.subscribe(subjects.worker(by.rpc.namespace, by.worker), self._hear)

    def _hear(self, message: Msg) -> None:
        if message.reply:
            self._bus.publish(message.reply, b"")
        push: m.Push = codec.decode(message.data, m.Push)
        self.tasks += push.workflow_tasks
        self._news.set()

    async def until(self, count: int) -> None:
        """Return when there are so many."""
        async with asyncio.timeout(10.0):
            while len(self.tasks) < count:
                self._news.clear()
                await self._news.wait()


async def claimed(by: Hand, count: int) -> list[m.ActivityTask]:
    """So many activities, claimed before any lease could have run out."""
    found: list[m.ActivityTask] = []
    async with asyncio.timeout(8.0):
        while len(found) < count:
            found += (await by.claim(activities=100)).activity_tasks
    return found


async def test_starts_that_share_a_batch_reach_their_worker_whatever_their_size(
    env: WorkflowEnvironment,
) -> None:
    # Pushed in one message they were more than the broker takes; the refusal ended the process.
    by = hand(env)
    pushed = Pushed(by)
    await by.claim(workflows=500)
    await asyncio.gather(*(by.start(input=of_size(50_000)) for _ in range(500)))
    await pushed.until(500)
    assert is_alive(env)
    assert len({task.run_id for task in pushed.tasks}) == 500


async def test_activities_too_large_for_one_message_are_claimed_in_several(env: WorkflowEnvironment) -> None:
    # Leased and then undeliverable, they came back ten seconds later, an attempt poorer, to fail in the same way.
    by = hand(env)
    for _ in range(8):
        await by.start()
    for task in (await by.claim(workflows=8)).workflow_tasks:
        large = (c.ScheduleActivity(seq=n, name="large", input=of_size(MIB)) for n in (1, 2))
        await by.complete(task, *large)
    found = await claimed(by, 16)
    assert len({(task.run_id, task.seq) for task in found}) == 16
    assert {task.attempt for task in found} == {1}


async def test_activities_too_large_for_the_answer_to_a_report_wait_for_a_claim(
    env: WorkflowEnvironment,
) -> None:
    # A task says more than the command that it comes from: what fits into a report need not fit into its answer.
    by = hand(env)
    await by.start("w" * 900)
    task = await by.one_task()
    size = 8 * MIB // 100 - 100
    large = [c.ScheduleActivity(seq=n, name="large", input=of_size(size)) for n in range(1, 101)]
    answer = await by.complete(task, *large, task_queue=task.task_queue, activity_slots=100)
    got = [*answer.activity_tasks, *(await claimed(by, 100 - len(answer.activity_tasks)))]
    assert {task.seq for task in got} == set(range(1, 101))
    assert {task.attempt for task in got} == {1}


async def test_answers_that_one_message_cannot_hold_are_told_to_ask_again(env: WorkflowEnvironment) -> None:
    # Asked in one turn they share a frame; its answer was refused as a whole, for all who asked.
    by = hand(env)
    runs = [await by.start(input=of_size(MIB)) for _ in range(12)]
    rpc: Rpc = by.rpc
    asked = [rpc.call("history", m.History(workflow_id=run.workflow_id), 10.0) for run in runs]
    pages: list[m.HistoryPage] = await asyncio.gather(*asked)
    assert [page.run_id for page in pages] == [run.run_id for run in runs]
    assert all(len(page.events) == 1 for page in pages)


async def test_a_huge_failure_of_workflow_code_is_kept_in_history_and_told_in_short_beside_the_run(
    env: WorkflowEnvironment, database: str
) -> None:
    # It lay whole in the run's own row, to be read and written again with every change of the run.
    by = hand(env)
    started = await by.start()
    task = await by.one_task()
    failure = Failure(message="boom" * MIB, stack="line\n" * 100_000, cause=Failure(message="why" * MIB))
    report = m.FailWorkflowTask(
        run_id=task.run_id, worker=by.worker, fence=task.fence, cause="unhandled_failure", failure=failure
    )
    await by.ask("report", report)
    connection = await asyncpg.connect(database)
    size = await connection.fetchval("SELECT octet_length(task_failure) FROM holdfast.run")
    await connection.close()
    assert size < 100_000
    described: m.Description = await by.ask("describe", m.Describe(workflow_id=started.workflow_id))
    assert described.task_failure is not None
    assert described.task_failure.message.startswith("boomboom")
    page: m.HistoryPage = await by.ask("history", m.History(workflow_id=started.workflow_id))
    (recorded,) = [event.event for event in page.events if isinstance(event.event, e.WorkflowTaskFailed)]
    assert recorded.failure == failure
