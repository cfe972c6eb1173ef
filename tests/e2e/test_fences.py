"""A lease that was taken over is worth nothing; whoever races, no task counts under two leases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from holdfast.app import running
from holdfast.bus import Bus
from holdfast.config import Config
from holdfast.exceptions import LeaseLost
from holdfast.sdk.rpc import Rpc
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.e2e.load import Load
from tests.e2e.system import client_of, system
from tests.e2e.wire_worker import STEPS, Book, WireWorker, until_ready
from tests.invariants.check import violations

pytestmark = pytest.mark.xdist_group("whole-system")

LEASE_S = 0.5
RUNS, WORKERS = 40, 10
EVERYTHING = """
    SELECT array_agg(to_jsonb(t)::text ORDER BY to_jsonb(t)::text) AS rows FROM (
        SELECT 'run' AS kind, to_jsonb(r) AS row FROM holdfast.run AS r
        UNION ALL SELECT 'event', to_jsonb(e) FROM holdfast.event AS e
        UNION ALL SELECT 'task', to_jsonb(k) FROM holdfast.task AS k
        UNION ALL SELECT 'activity', to_jsonb(a) FROM holdfast.activity AS a
        UNION ALL SELECT 'timer', to_jsonb(i) FROM holdfast.timer AS i
    ) AS t
"""


class Wire:
    """A service with short leases, and bare calls to it."""

    def __init__(self, rpc: Rpc, database: str) -> None:
        self.rpc = rpc
        self.database = database

    async def everything(self) -> list[str]:
        """All rows of the service but what only the feed needs."""
        connection = await asyncpg.connect(self.database)
        try:
            rows: list[str] = await connection.fetchval(EVERYTHING)
            return rows
        finally:
            await connection.close()

    async def started(self) -> None:
        await self.rpc.call(
            "start", m.Start(request_id="r", workflow_id="w", workflow_type="t", task_queue="q")
        )

    async def claimed(self, worker: str, *, activities: bool = False) -> m.Tasks:
        """Leased to *worker* as soon as there is anything. Without credit: nothing is pushed to it."""
        claim = m.Claim(
            worker=worker, task_queue="q", workflow_slots=int(not activities), activity_slots=int(activities)
        )
        return await until_ready(self.rpc, claim)

    async def report(self, report: Any) -> m.Reported:
        answer: m.Reported = await self.rpc.call("report", report)
        return answer

    async def lease_has_ended(self) -> None:
        async with asyncio.timeout(20):
            while any('"worker": "A"' in row for row in await self.everything() if '"lease_until"' in row):
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def wire(database: str, nats_url: str) -> AsyncIterator[Wire]:
    config = Config(postgres_url=database, nats_url=nats_url, lease_s=LEASE_S)
    async with running(config) as parts:
        await parts.is_serving.wait()
        bus = Bus(nats_url, name="bare")
        await bus.start()
        await bus.connected(10)
        yield Wire(Rpc(bus, "main"), database)
        await bus.close()
    assert await violations(database) == []


async def test_the_report_of_a_lease_that_was_taken_over_changes_nothing(wire: Wire) -> None:
    """A stalls on the workflow task, B gets it; then A answers, with a command that must not count."""
    await wire.started()
    (late,) = (await wire.claimed("A")).workflow_tasks
    (newer,) = (await wire.claimed("B")).workflow_tasks
    assert newer.fence > late.fence
    assert newer.attempt == 2
    before = await wire.everything()

    with pytest.raises(LeaseLost, match=f"lease {late.fence} ended, {newer.fence} is in force"):
        await wire.report(completes(late, "A"))

    assert await wire.everything() == before
    assert (await wire.report(completes(newer, "B"))).is_closed
    with pytest.raises(LeaseLost):
        await wire.report(completes(late, "A"))


async def test_the_report_of_a_lease_that_ended_counts_while_nobody_took_over(wire: Wire) -> None:
    await wire.started()
    (task,) = (await wire.claimed("A")).workflow_tasks
    await wire.lease_has_ended()

    assert (await wire.report(completes(task, "A"))).is_closed


async def test_a_late_result_of_an_activity_leaves_no_event(wire: Wire) -> None:
    """Its attempt has failed by then, and the next one decides."""
    await wire.started()
    (task,) = (await wire.claimed("B")).workflow_tasks
    schedule = c.ScheduleActivity(seq=1, name="a")
    await wire.report(
        m.CompleteWorkflowTask(
            run_id=task.run_id, worker="B", fence=task.fence, seen_seq=1, commands=[schedule]
        )
    )
    (late,) = (await wire.claimed("A", activities=True)).activity_tasks
    await wire.lease_has_ended()
    before = await wire.everything()

    with pytest.raises(LeaseLost):
        await wire.report(
            m.CompleteActivity(run_id=late.run_id, worker="A", seq=1, fence=late.fence, result=b'"late"')
        )

    assert await wire.everything() == before
    (newer,) = (await wire.claimed("B", activities=True)).activity_tasks
    assert (newer.attempt, newer.fence > late.fence) == (2, True)
    await wire.report(m.CompleteActivity(run_id=newer.run_id, worker="B", seq=1, fence=newer.fence))


async def test_a_report_that_is_repeated_gets_the_first_answer(wire: Wire) -> None:
    await wire.started()
    (task,) = (await wire.claimed("A")).workflow_tasks
    first = await wire.report(completes(task, "A"))
    before = await wire.everything()

    assert await wire.report(completes(task, "A")) == first
    assert await wire.everything() == before


def completes(task: m.WorkflowTask, worker: str) -> m.CompleteWorkflowTask:
    """The report of *worker* that ends the run, with its name as the result."""
    return m.CompleteWorkflowTask(
        run_id=task.run_id,
        worker=worker,
        fence=task.fence,
        seen_seq=task.head_seq,
        commands=[c.CompleteWorkflow(result=b'"%s"' % worker.encode())],
    )


@pytest.mark.e2e
async def test_two_engines_and_ten_workers_execute_no_task_under_two_leases(tmp_path: Path) -> None:
    """Some stall longer than their lease, so tasks change hands all the time."""
    async with (
        system(tmp_path, engines=2, HOLDFAST_LEASE_S=str(LEASE_S)) as whole,
        client_of(whole) as client,
    ):
        book, load = Book(), Load(client)
        buses = [Bus(whole.stack.nats_url, name=f"worker {number}") for number in range(WORKERS)]
        for bus in buses:
            await bus.start()
            await bus.connected(10)
        workers = [WireWorker(f"w{n}", bus, "q", book, stall_s) for n, bus in enumerate(buses)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(worker.run()) for worker in workers]
            for number in range(RUNS):
                await load.start("race", f"race {number}", task_queue="q")
            results = await asyncio.gather(*(load.result(f"race {number}", 60) for number in range(RUNS)))
            for task in tasks:
                task.cancel()
        for bus in buses:
            await bus.close()

        assert results == ["done"] * RUNS
        assert await whole.violations(load.log) == []
        check_book(book)
        assert book.refused, "no lease was taken over: the race was none"
        completed = await whole.fetch("SELECT run_id FROM holdfast.event WHERE type = 'ActivityCompleted'")
        assert len(completed) == RUNS * STEPS
        markers = await whole.fetch("SELECT run_id FROM holdfast.event WHERE type = 'WorkflowTaskCompleted'")
        turns = {lease for lease, _ in book.accepted if lease[1] == 0}
        assert len(markers) - RUNS <= len(turns) <= len(markers), "the last answers may not have been heard"


def stall_s() -> float:
    return random.uniform(LEASE_S * 0.9, LEASE_S * 3) if random.random() < 0.15 else random.uniform(0, 0.02)


def check_book(book: Book) -> None:
    """Each fence went to one worker; each activity counted once, under the newest fence that was handed out."""
    holders: dict[Any, set[str]] = {}
    newest: dict[tuple[str, int], int] = {}
    for lease, worker in book.handed_out:
        holders.setdefault(lease, set()).add(worker)
        run_id, seq, fence = lease
        newest[run_id, seq] = max(fence, newest.get((run_id, seq), 0))
    assert [lease for lease, names in holders.items() if len(names) > 1] == []
    counted: dict[tuple[str, int], set[int]] = {}
    for (run_id, seq, fence), _ in book.accepted:
        counted.setdefault((run_id, seq), set()).add(fence)
    for (run_id, seq), fences in counted.items():
        if seq:
            assert fences == {newest[run_id, seq]}, f"activity {seq} of {run_id}: accepted {fences}"
    assert not {lease for lease, _ in book.accepted} & {lease for lease, _ in book.refused}
