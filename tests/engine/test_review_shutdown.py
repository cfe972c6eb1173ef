"""A process that is told to stop finishes what it took, and says of the rest what is true."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from holdfast import app
from holdfast.config import Config
from holdfast.core.requests import ExpireTask
from holdfast.engine.batching import Batcher
from holdfast.engine.transact import Change
from holdfast.exceptions import OutcomeUnknown, Unavailable


class Work:
    """Carries out batches, each when it is let."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[int | BaseException]:
        self.begun.set()
        await self.may_end.wait()
        return [item * 10 for item in items]


async def test_draining_waits_for_the_batch_that_is_being_carried_out() -> None:
    # Only what had not begun was waited for: the transaction in flight was cut, its callers were told
    # nothing had been written, and the leases it gave were nobody's until they ran out.
    work = Work()
    batcher: Batcher[int, int] = Batcher(work, size=1)
    writer = asyncio.create_task(batcher.run())
    taken = batcher.submit(1)
    await work.begun.wait()
    drained = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    assert not drained.done()
    with pytest.raises(Unavailable):
        await batcher.submit(3)
    work.may_end.set()
    await drained
    assert taken.result() == 10
    writer.cancel()


async def test_a_batch_that_is_cut_off_may_have_been_carried_out() -> None:
    work = Work()
    batcher: Batcher[int, int] = Batcher(work, size=1)
    writer = asyncio.create_task(batcher.run())
    future = batcher.submit(1)
    await work.begun.wait()
    writer.cancel()
    with pytest.raises(OutcomeUnknown):
        await future


async def test_a_process_that_ends_by_a_bug_does_not_wait_for_work_that_nobody_does(
    database: str, nats_url: str
) -> None:
    # It drained what its writers had left, but they were gone: ten seconds without service before it
    # could be started again.
    async def bug() -> None:
        raise ZeroDivisionError

    async def life() -> None:
        config = Config(postgres_url=database, nats_url=nats_url, drain_s=60.0)
        async with app.running(config) as parts:
            await parts.is_serving.wait()
            parts.engine.spawner.spawn(bug())
            with contextlib.suppress(ExceptionGroup):
                await parts.watch()
            parts.engine.changes.submit(Change("main", ExpireTask(1), run_id=RUN))

    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(15.0):
            await life()


RUN = "01234567-89ab-7cde-8f01-23456789abcd"
