"""Every process is killed with -9 under load, one after the other; nothing that was acknowledged is lost or done twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.feed import read_feed
from tests.e2e.load import Load
from tests.e2e.programs import TASK_QUEUE, result_of
from tests.e2e.system import System, client_of, system

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("whole-system")]

WORKFLOWS = 200
APART_S = 0.1
STUCK_S = 10.0
DOWN_S = 1.0


async def test_nothing_is_lost_when_every_process_is_killed_under_load(tmp_path: Path) -> None:
    """A worker, an engine, the broker with its store, and Postgres, while 200 workflows of five activities run."""
    async with (
        system(tmp_path, engines=2, workers=2, worker_options=["--queue", TASK_QUEUE]) as whole,
        client_of(whole) as client,
    ):
        load = Load(client)
        nemesis = asyncio.create_task(kill_one_after_another(whole, load))
        results = await all_orders(whole, load, nemesis)
        broker_back_at = await nemesis

        assert results == [result_of(number, "Ada") for number in range(WORKFLOWS)]
        assert {op.outcome for op in load.log} == {"ok"}
        assert whole.ended == []
        assert await whole.violations(load.log) == []
        await every_activity_once(whole)
        await whole.until(lambda: is_published(whole), "the outbox is empty")
        await feed_is_whole(whole, broker_back_at)


async def all_orders(whole: System, load: Load, nemesis: asyncio.Task[float]) -> list[object]:
    """Start them at an even pace and signal each; their results, which must be there soon after the last fault."""
    running = []
    for number in range(WORKFLOWS):
        running.append(asyncio.create_task(one_order(load, number)))
        await asyncio.sleep(APART_S)
    await nemesis
    calm_at = time.monotonic()
    _, late = await asyncio.wait(running, timeout=STUCK_S)
    assert not late, f"open {STUCK_S} s after the last fault:\n" + "\n".join(await whole.open_runs())
    print(f"all closed {time.monotonic() - calm_at:.1f} s after the last fault")
    return [task.result() for task in running]


async def one_order(load: Load, number: int) -> object:
    workflow_id = f"order {number}"
    assert await load.start("order", workflow_id, number, random.uniform(0.1, 1.0)) is not None
    await asyncio.sleep(random.uniform(0, 1.0))
    assert await load.signal(workflow_id, "approve", "Ada", client=number) is not None
    return await load.result(workflow_id)


async def kill_one_after_another(whole: System, load: Load) -> float:
    """Each fault when so many starts were acknowledged; the database's time at which the new broker was ready."""

    async def started(count: int) -> None:
        async def is_so() -> bool:
            return len(load.acknowledged) >= count

        await whole.until(is_so, f"{count} starts are acknowledged")

    await started(30)
    for part in (whole.workers[0], whole.engines[0]):
        await part.kill()
        part.start()
        await part.ready()
        await started(len(load.acknowledged) + 30)
    await whole.stack.nats.kill()
    whole.stack.nats.wipe()
    await asyncio.sleep(DOWN_S)
    await whole.stack.nats.start()
    broker_back_at = await whole.now()
    await started(min(len(load.acknowledged) + 30, 170))
    await whole.stack.postgres.kill()
    await asyncio.sleep(DOWN_S)
    await whole.stack.postgres.start()
    return broker_back_at


async def every_activity_once(whole: System) -> None:
    completed = await whole.fetch(
        """
        SELECT r.workflow_id, count(*) AS completed, max(e.head) AS head FROM holdfast.run AS r
        JOIN (SELECT *, max(seq) OVER (PARTITION BY run_id) AS head FROM holdfast.event) AS e USING (run_id)
        WHERE e.type = 'ActivityCompleted' GROUP BY r.workflow_id
        """
    )
    assert Counter(row["completed"] for row in completed) == {5: WORKFLOWS}
    effects = await whole.effects()
    assert len({(effect.run_id, effect.seq) for effect in effects}) == 5 * WORKFLOWS
    again = sum(effect.fence > 1 for effect in effects)
    print(f"{again} effects by later attempts, {len(effects) - 5 * WORKFLOWS} more effects than activities")


async def is_published(whole: System) -> bool:
    return not await whole.fetch("SELECT FROM holdfast.outbox LIMIT 1")


async def feed_is_whole(whole: System, since: float) -> None:
    """Every event since the broker came back with an empty store is in its stream, each run's in order."""
    feed = await read_feed(whole.stack.nats_url)
    recorded = await whole.fetch(
        "SELECT run_id::text AS run_id, seq FROM holdfast.event WHERE recorded_at >= to_timestamp($1)", since
    )
    missing = [
        (row["run_id"], row["seq"]) for row in recorded if row["seq"] not in feed.get(row["run_id"], ())
    ]
    assert missing == []
    assert len(recorded) > WORKFLOWS
    for run_id, numbers in feed.items():
        # A commit's message may be there twice, and then in its old place: what counts is the first time.
        first = list(dict.fromkeys(numbers))
        assert first == sorted(first), f"the feed of run {run_id} is out of order: {numbers}"
