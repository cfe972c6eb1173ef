"""Every fault we can make, in any order and also two at a time, under load: safety all the time, progress when it is calm."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from pathlib import Path

import pytest

from tests.chaos.nemesis import plan
from tests.e2e.load import Load
from tests.e2e.programs import TASK_QUEUE, result_of
from tests.e2e.system import System, client_of, system

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("whole-system")]

APART_S = 0.15
BETWEEN_S = (0.2, 1.0)
LEASE_S = 2.0
STUCK_S = 10.0
PATIENCE_S = 60.0


async def test_nothing_is_lost_whatever_breaks(tmp_path: Path) -> None:
    """The plan comes from a seed: `CHAOS_SEED=…` makes the same faults again."""
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    dice = random.Random(seed)
    steps = plan(dice)
    print(f"CHAOS_SEED={seed}: {[[fault.__name__ for fault in step] for step in steps]}")
    async with (
        system(
            tmp_path,
            engines=2,
            workers=2,
            worker_options=["--queue", TASK_QUEUE],
            HOLDFAST_LEASE_S=str(LEASE_S),
        ) as whole,
        client_of(whole) as client,
    ):
        load = Load(client)
        running: list[asyncio.Task[object]] = []
        loading = asyncio.create_task(keep_starting(load, running))
        for step in steps:
            await asyncio.sleep(dice.uniform(*BETWEEN_S))
            await asyncio.gather(*(fault(whole, dice) for fault in step))
            assert await safety(whole) == []
        loading.cancel()
        _, late = await asyncio.wait(running, timeout=STUCK_S)

        assert not late, f"open {STUCK_S} s after the last fault:\n" + "\n".join(await whole.open_runs())
        assert [task.result() for task in running] == [
            result_of(number, "Ada") for number in range(len(running))
        ]
        assert load.unanswered == []
        assert whole.ended == []
        assert await whole.violations(load.log) == []
        await whole.until(lambda: nothing_is_owed(whole), "the outbox is empty")
        print(
            f"{len(running)} workflows, {sum(map(len, steps))} faults, {len(await whole.effects())} effects"
        )


async def keep_starting(load: Load, running: list[asyncio.Task[object]]) -> None:
    while True:
        running.append(asyncio.create_task(one_order(load, len(running))))
        await asyncio.sleep(APART_S)


async def one_order(load: Load, number: int) -> object:
    workflow_id = f"order {number}"
    await load.start("order", workflow_id, number, random.uniform(0.05, 0.5), timeout_s=PATIENCE_S)
    await load.signal(workflow_id, "approve", "Ada", timeout_s=PATIENCE_S, client=number)
    return await load.result(workflow_id)


async def safety(whole: System) -> list[str]:
    """What must hold at every instant; progress is for later."""
    return await whole.violations(is_calm=False)


async def nothing_is_owed(whole: System) -> bool:
    return not await whole.fetch("SELECT FROM holdfast.outbox LIMIT 1")
