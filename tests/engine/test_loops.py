"""Background work: passes follow each other, trouble is waited out, and a bug is never hidden."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from holdfast.engine import loops
from holdfast.exceptions import Unavailable


class Steps:
    """A step that does as it is told, one word per pass, and then stays."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.passes = 0
        self.at_the_end = asyncio.Event()

    async def __call__(self) -> int:
        self.passes += 1
        if not self.answers:
            self.at_the_end.set()
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def run(
    steps: Steps, idle_s: Callable[[], float] = lambda: 0.0, wake: asyncio.Event | None = None
) -> None:
    """Loop the step until it has no more to say."""
    loop = asyncio.create_task(loops.repeat("work", steps, idle_s, wake))
    ended = asyncio.create_task(steps.at_the_end.wait())
    async with asyncio.timeout(10):
        await asyncio.wait([loop, ended], return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if loop.done():
        await loop
    loop.cancel()
    await asyncio.wait([loop])


async def test_a_full_pass_is_followed_by_the_next_without_waiting() -> None:
    steps = Steps(3, 2, 1)

    await run(steps, idle_s=lambda: 1_000.0)

    assert steps.passes == 4


async def test_after_an_empty_pass_it_waits_until_it_is_woken() -> None:
    steps, wake, waits = Steps(0), asyncio.Event(), asyncio.Event()

    def idle() -> float:
        waits.set()
        return 1_000.0

    loop = asyncio.create_task(run(steps, idle, wake))
    await waits.wait()
    assert steps.passes == 1

    wake.set()
    await loop

    assert steps.passes == 2
    assert not wake.is_set(), "it may be woken again"


async def test_trouble_is_told_once_and_its_end_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "BACKOFF_MAX_S", 0.001)
    caplog.set_level(logging.INFO)
    gone = [Unavailable("Postgres is away") for _ in range(5)]

    await run(Steps(*gone, 0))

    assert [record.getMessage() for record in caplog.records] == [
        "work: Postgres is away",
        "work: works again after 5 failures",
    ]


async def test_a_bug_ends_the_loop() -> None:
    with pytest.raises(ZeroDivisionError):
        await run(Steps(1, ZeroDivisionError()))


async def test_a_bug_in_one_loop_ends_all_of_them() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def broken() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        await loops.serve([other(), broken()], asyncio.Event())

    assert ended.is_set()


async def test_stopping_ends_every_loop() -> None:
    stop = asyncio.Event()
    serving = loops.start([loops.wait_for_wake(None, 1_000.0), loops.wait_for_wake(None, 1_000.0)], stop)

    stop.set()

    async with asyncio.timeout(5):
        await serving


# -- short-lived work -------------------------------------------------------------------------


async def test_finishing_waits_for_what_is_under_way() -> None:
    spawner, done = loops.Spawner(), []

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.append(1)

    for _ in range(3):
        spawner.spawn(work())
    await spawner.finish(5.0)

    assert done == [1, 1, 1]


async def test_finishing_does_not_wait_for_ever() -> None:
    spawner = loops.Spawner()
    spawner.spawn(loops.wait_for_wake(None, 1_000.0))

    async with asyncio.timeout(5):
        await spawner.finish(0.01)


async def test_a_bug_in_spawned_work_reaches_whoever_watches() -> None:
    spawner = loops.Spawner()
    watching = asyncio.create_task(spawner.watch())
    await asyncio.sleep(0)

    async def broken() -> None:
        raise ZeroDivisionError

    spawner.spawn(broken())

    with pytest.raises(ZeroDivisionError):
        await watching


async def test_trouble_in_spawned_work_is_told_and_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    spawner = loops.Spawner()
    watching = asyncio.create_task(spawner.watch())
    await asyncio.sleep(0)

    async def unlucky() -> None:
        raise Unavailable("nobody there")

    spawner.spawn(unlucky())
    await spawner.finish(5.0)
    await asyncio.sleep(0)

    assert not watching.done()
    assert "nobody there" in caplog.text
    watching.cancel()
