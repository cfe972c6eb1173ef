"""Activities by themselves: info, heartbeats, cancellation and shutdown as a worker gives them."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from typing import Any

import pytest

from holdfast import activity
from holdfast.exceptions import CancelledError
from holdfast.testing import ActivityEnvironment


@activity.defn
async def greets(name: str, loud: bool = False) -> str:
    activity.heartbeat("about to greet", name)
    return f"{activity.info().activity_id}: Hello, {name}{'!' if loud else '.'}"


@activity.defn
def counts(upto: int) -> int:
    for number in range(upto):
        activity.heartbeat(number)
    return activity.info().attempt


async def test_an_async_activity_runs_with_info_and_heartbeats() -> None:
    env = ActivityEnvironment()
    beats: list[tuple[Any, ...]] = []
    env.on_heartbeat = lambda *details: beats.append(details)
    env.info = dataclasses.replace(ActivityEnvironment.default_info(), activity_id="greeting")

    assert await env.run(greets, "Ann", True) == "greeting: Hello, Ann!"
    assert beats == [("about to greet", "Ann")]
    assert not activity.in_activity()


def test_a_sync_activity_runs_without_an_event_loop() -> None:
    env = ActivityEnvironment()
    beats: list[tuple[Any, ...]] = []
    env.on_heartbeat = lambda *details: beats.append(details)

    assert env.run(counts, 2) == 1
    assert beats == [(0,), (1,)]


def test_any_function_may_run_as_an_activity() -> None:
    assert ActivityEnvironment().run(lambda: activity.info().task_queue) == "test"


async def test_cancelling_reaches_a_coroutine_with_its_reason() -> None:
    env, begun = ActivityEnvironment(), asyncio.Event()

    @activity.defn
    async def waits() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            assert activity.is_cancelled()
            return f"timed out: {details is not None and details.timed_out}"
        return "not cancelled"

    running = asyncio.ensure_future(env.run(waits))
    await begun.wait()
    env.cancel(activity.ActivityCancellationDetails(timed_out=True))
    env.cancel()

    assert await running == "timed out: True"


@pytest.mark.parametrize("is_shielded", [False, True])
def test_cancelling_is_raised_into_a_thread_unless_it_is_shielded(is_shielded: bool) -> None:
    env, begun, seen = ActivityEnvironment(), threading.Event(), []

    @activity.defn
    def works() -> None:
        begun.set()
        if is_shielded:
            with activity.shield_thread_cancel_exception():
                activity.wait_for_cancelled_sync(20)
                seen.append("went on")
        while True:
            pass

    def run() -> None:
        try:
            env.run(works)
        except CancelledError:
            seen.append("cancelled")

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait(20)
    env.cancel()
    thread.join(20)

    assert seen == ["went on", "cancelled"][not is_shielded :]


async def test_what_is_run_after_cancel_finds_itself_cancelled() -> None:
    env = ActivityEnvironment()
    env.cancel()

    assert env.run(activity.is_cancelled) is True


async def test_a_shutdown_of_the_worker_is_told() -> None:
    env, begun = ActivityEnvironment(), asyncio.Event()

    @activity.defn
    async def waits() -> bool:
        assert not activity.is_worker_shutdown()
        begun.set()
        await activity.wait_for_worker_shutdown()
        return activity.is_worker_shutdown()

    running = asyncio.ensure_future(env.run(waits))
    await begun.wait()
    env.worker_shutdown()

    assert await running is True
