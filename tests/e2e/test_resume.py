"""A worker dies in the middle of a run; another one goes on where it was, by replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.wire import codec
from holdfast.wire import events as e
from tests.e2e.load import Load
from tests.e2e.programs import TASK_QUEUE
from tests.e2e.system import System, client_of, system

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("whole-system")]


async def test_another_worker_goes_on_and_side_effects_are_recorded_once(tmp_path: Path) -> None:
    """Killed inside an activity, after a step and an activity that are done."""
    steps = tmp_path / "steps"
    async with system(tmp_path, HOLDFAST_LEASE_S="1.5") as whole, client_of(whole) as client:
        first = whole.add_worker("--queue", TASK_QUEUE)
        await first.ready()
        load = Load(client)
        await load.start("stepped", "resumed", str(steps))
        await whole.until(lambda: is_held(whole), "the activity has begun")

        await first.kill()
        second = whole.add_worker("--queue", TASK_QUEUE)
        await second.ready()
        result = await load.result("resumed", 30)

        drawn = int(steps.read_text().split()[1])
        assert result == [drawn, drawn * 2, drawn * 4]
        assert len(steps.read_text().splitlines()) == 1, "the step ran once, on the first worker"
        assert await by_process(whole, first.pids[0]) == ["double", "held"]
        assert await by_process(whole, second.pids[0]) == ["held", "double"]
        history = [
            codec.decode_event(row["body"])
            for row in await whole.fetch("SELECT body FROM holdfast.event ORDER BY seq")
        ]
        assert [event.kind for event in history if isinstance(event, e.MarkerRecorded)] == ["side_effect"]
        attempts = [event.attempt for event in history if isinstance(event, e.ActivityCompleted)]
        assert attempts == [1, 2, 1]
        markers = [event for event in history if isinstance(event, e.WorkflowTaskCompleted)]
        assert markers[0].worker != markers[-1].worker
        assert await whole.violations(load.log) == []


async def is_held(whole: System) -> bool:
    return bool(await whole.fetch("SELECT FROM e2e.effect WHERE name = 'held'"))


async def by_process(whole: System, pid: int) -> list[str]:
    """The effects that process *pid* left, in order."""
    rows = await whole.fetch("SELECT name FROM e2e.effect WHERE pid = $1 ORDER BY at", pid)
    return [row["name"] for row in rows]
