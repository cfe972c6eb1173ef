"""Exploration finds what a test of the plain course does not, and shows the shortest way to it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from holdfast import activity, workflow
from holdfast.common import RetryPolicy
from holdfast.testing import WentWrong, explore

charged: list[str] = []


@activity.defn(start_to_close_timeout=timedelta(seconds=9))
async def charge(order: str) -> str:
    charged.append(order)
    return f"paid {order}"


@activity.defn(start_to_close_timeout=timedelta(seconds=9), retry_policy=RetryPolicy(maximum_attempts=1))
async def charge_at_most_once(order: str) -> str:
    charged.append(order)
    return f"paid {order}"


@activity.defn(start_to_close_timeout=timedelta(seconds=9))
def ships(order: str) -> str:
    return f"sent {order}"


@workflow.defn
async def buys(order: str) -> list[str]:
    return [await charge(order), await ships(order)]


@workflow.defn
async def buys_once(order: str) -> str:
    return await charge_at_most_once(order)


def is_charged_once(_: object) -> None:
    assert charged == ["o-1"], f"charged {len(charged)} times"


async def test_a_double_charge_is_found_with_the_one_crash_that_makes_it() -> None:
    with pytest.raises(WentWrong, match="charged 2 times") as caught:
        await explore(buys, "o-1", activities=[charge, ships], setup=charged.clear, check=is_charged_once)

    assert caught.value.steps == [
        "the workflow's code goes on",
        "activity charge runs, and its worker dies",
        "activity charge runs",
        "the workflow's code goes on",
        "activity ships runs",
        "the workflow's code goes on",
    ]


async def test_what_is_done_at_most_once_passes_every_schedule() -> None:
    explored = await explore(
        buys_once, "o-1", activities=[charge_at_most_once], setup=charged.clear, check=is_charged_once
    )

    assert explored.is_complete
    assert explored.schedules > 1


@workflow.defn
class LocksTwice:
    """Two handlers take two locks, each in its own order, and hold the first while an activity runs."""

    def __init__(self) -> None:
        self.locks = asyncio.Lock(), asyncio.Lock()
        self.done = 0

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.done == 2)
        return self.done

    @workflow.signal
    async def forth(self) -> None:
        await self.take(0, 1)

    @workflow.signal
    async def back(self) -> None:
        await self.take(1, 0)

    async def take(self, first: int, second: int) -> None:
        async with self.locks[first]:
            await ships("x")
            async with self.locks[second]:
                self.done += 1


async def test_a_deadlock_of_two_locks_is_found() -> None:
    with pytest.raises(WentWrong, match="nothing happens any more") as caught:
        await explore(LocksTwice, activities=[ships], signals=[("forth", []), ("back", [])])

    assert "signal forth arrives" in caught.value.steps


@workflow.defn
async def hurries() -> str:
    try:
        async with asyncio.timeout(5):
            return await ships("x")
    except asyncio.TimeoutError:  # noqa: UP041 - as it reads
        return "late"


async def test_a_timer_that_may_win_is_tried_as_winner() -> None:
    seen: set[str] = set()

    explored = await explore(hurries, activities=[ships], check=seen.add)

    assert explored.is_complete
    assert seen == {"sent x", "late"}


async def test_code_that_does_something_else_when_replayed_is_found() -> None:
    """It is a crash between two commits that shows it."""
    calls: list[int] = []

    @workflow.defn
    async def forgets() -> str:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.sleep(1)
        else:
            await ships("first")
        await asyncio.sleep(2)
        return "done"

    with pytest.raises(WentWrong, match="Nondeterminism"):
        await explore(forgets, activities=[ships], setup=calls.clear)


async def test_the_number_of_schedules_is_bounded() -> None:
    explored = await explore(hurries, activities=[ships], schedules_max=3)

    assert (explored.schedules, explored.is_complete) == (3, False)


@workflow.defn
class Collects:
    """Takes what was sent when it is done, and forgets what arrives while it is being sent off."""

    def __init__(self) -> None:
        self.orders: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: bool(self.orders))
        batch = list(self.orders)
        await ships(",".join(batch))
        self.orders.clear()
        return batch

    @workflow.signal
    async def order(self, name: str) -> None:
        self.orders.append(name)


async def test_a_signal_that_is_lost_in_one_order_is_found() -> None:
    def has_all(batch: list[str]) -> None:
        assert batch == ["a", "b"], f"only {batch}"

    with pytest.raises(WentWrong, match=r"only \['a'\]"):
        await explore(
            Collects, activities=[ships], signals=[("order", ["a"]), ("order", ["b"])], check=has_all
        )
