"""The measurements: rounds of every scenario in turn, so that a slow minute of the machine touches all of them.

Counts and times; what is printed of it is `report`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import msgspec

from holdfast.bench import workloads
from holdfast.bench.system import System
from holdfast.bench.usage import Usage

WORKFLOWS: dict[str, Any] = {"one": workloads.one, "five": workloads.five}
"""Scenario → the workflow whose throughput it measures."""
IDLE = "idle"
SCENARIOS = (*WORKFLOWS, IDLE)

WARM_UP = 1_000
"""Workflows of each kind, at most, before anything is measured."""
PAUSE_S = 0.005
"""Between two workflows of an idle system: everything has gone to sleep again."""
SETTLE_S = 0.3
"""After a burst, for what follows the last result: the change feed, leases, the pools' own work."""
SMALL = 4
"""CPU is the slope between a burst and one of this fraction of it."""


class Plan(msgspec.Struct, frozen=True):
    """What to measure. *workflows* is the size of a burst at 16 and more in flight; below, a tenth of it."""

    scenarios: tuple[str, ...] = SCENARIOS
    in_flight: tuple[int, ...] = (1, 64, 256)
    workflows: int = 1_000
    rounds: int = 3

    def burst(self, scenario: str, in_flight: int) -> int:
        """Workflows in one burst; those of five activities take about half as many to fill the same time."""
        share = 1 if scenario == "one" else 2
        return max(SMALL, self.workflows // (share if in_flight >= 16 else share * 10))


class Burst(msgspec.Struct, frozen=True):
    """So many workflows, all with one scenario and number in flight: how long, and what they used."""

    workflows: int
    seconds: float
    used: Usage


class Round(msgspec.Struct, frozen=True):
    """A small and a large burst right after each other."""

    small: Burst
    large: Burst


class Idle(msgspec.Struct, frozen=True):
    """One workflow at a time. Seconds: until the start was acknowledged, its first task began, its result was here."""

    acknowledged_s: list[float]
    first_task_s: list[float]
    result_s: dict[str, list[float]]
    """By scenario."""
    used: dict[str, Burst]
    """By scenario; `seconds` includes the pauses."""


class Measured(msgspec.Struct, frozen=True):
    """Everything that was measured, by scenario and number in flight; the rounds of the idle system in one list."""

    plan: Plan
    throughput: dict[tuple[str, int], list[Round]]
    idle: list[Idle]


async def measure(system: System, plan: Plan, say: Callable[[str], None]) -> Measured:
    """Warm the system up, then carry out *plan*; *say* is told of each step. Raises `Refused` if a process dies."""
    cells = [(name, number) for name in WORKFLOWS if name in plan.scenarios for number in plan.in_flight]
    measured = Measured(plan, {cell: [] for cell in cells}, [])
    say("warming up")
    await _warm_up(system, plan)
    for number in range(plan.rounds):
        told = f"round {number + 1} of {plan.rounds}: "
        if IDLE in plan.scenarios:
            say(f"{told}one at a time on an idle system")
            measured.idle.append(await _idle(system, max(SMALL, plan.workflows // 10)))
        for name, in_flight in cells:
            size = plan.burst(name, in_flight)
            small = await _measured_burst(system, name, max(1, size // SMALL), in_flight)
            large = await _measured_burst(system, name, size, in_flight)
            measured.throughput[name, in_flight].append(Round(small, large))
            say(f"{told}{name}, {in_flight} in flight: {large.workflows / large.seconds:,.0f}/s")
        system.check()
    return measured


async def _warm_up(system: System, plan: Plan) -> None:
    """Fill caches, prepare statements and open connections, as far as *plan* will need them."""
    for name in WORKFLOWS:
        await _burst(system, name, min(WARM_UP, plan.workflows), max(plan.in_flight, default=1))
    await asyncio.sleep(SETTLE_S)


async def _measured_burst(system: System, name: str, workflows: int, in_flight: int) -> Burst:
    before = await system.usage()
    seconds = await _burst(system, name, workflows, in_flight)
    await asyncio.sleep(SETTLE_S)
    return Burst(workflows, seconds, difference(before, await system.usage()))


async def _burst(system: System, name: str, workflows: int, in_flight: int) -> float:
    """Seconds that *workflows* of them took, *in_flight* at a time, each from its start to its result here."""
    numbers = iter(range(workflows))
    begun = time.perf_counter()
    ids = _ids()
    await asyncio.gather(
        *(_lane(system, WORKFLOWS[name], numbers, ids) for _ in range(min(in_flight, workflows)))
    )
    return time.perf_counter() - begun


async def _lane(system: System, workflow: Any, numbers: Iterator[int], ids: Iterator[str]) -> None:
    for number in numbers:
        await system.client.execute_workflow(workflow, number, id=next(ids), task_queue=system.queue)


async def _idle(system: System, workflows: int) -> Idle:
    measured = Idle([], [], {}, {})
    client, ids = system.client, _ids()
    for _ in range(workflows):
        await asyncio.sleep(PAUSE_S)
        begun = time.monotonic()
        handle = await client.start_workflow(workloads.moment, 0, id=next(ids), task_queue=system.queue)
        measured.acknowledged_s.append(time.monotonic() - begun)
        # The worker runs on this machine, and the monotonic clock is the machine's.
        measured.first_task_s.append(await handle.result() - begun)
    for name, workflow in WORKFLOWS.items():
        taken = measured.result_s[name] = []
        await asyncio.sleep(SETTLE_S)
        before, begun_all = await system.usage(), time.perf_counter()
        for number in range(workflows):
            await asyncio.sleep(PAUSE_S)
            begun = time.perf_counter()
            await client.execute_workflow(workflow, number, id=next(ids), task_queue=system.queue)
            taken.append(time.perf_counter() - begun)
        seconds = time.perf_counter() - begun_all
        await asyncio.sleep(SETTLE_S)
        measured.used[name] = Burst(workflows, seconds, difference(before, await system.usage()))
    return measured


def difference(before: Usage, after: Usage) -> Usage:
    """What was used between two readings."""
    return Usage(
        {role: spent - before.cpu_s.get(role, 0.0) for role, spent in after.cpu_s.items()},
        {name: total - before.counters.get(name, 0.0) for name, total in after.counters.items()},
    )


def _ids() -> Iterator[str]:
    prefix = uuid4().hex
    return (f"{prefix}-{number}" for number in count())
