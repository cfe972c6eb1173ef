"""Natural batching: idle, a request goes alone at once; busy, all that waited goes together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from holdfast.engine.batching import Batcher
from holdfast.exceptions import Refused, Unavailable


class Work:
    """Carries out batches when the test lets it, and remembers them."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.begun = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[int | BaseException]:
        self.batches.append(list(items))
        self.begun.set()
        await self.may_end.wait()
        return [Refused(f"{item} is odd") if item % 2 else item * 10 for item in items]

    async def until_begun(self) -> None:
        self.begun.clear()
        await self.begun.wait()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def batcher(work: Work) -> AsyncIterator[Batcher[int, int]]:
    """One writer, batches of at most four."""
    made: Batcher[int, int] = Batcher(work, size=4)
    writer = asyncio.create_task(made.run())
    yield made
    work.may_end.set()
    writer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writer


async def test_an_idle_batcher_carries_a_request_out_alone(batcher: Batcher[int, int], work: Work) -> None:
    assert await batcher.submit(2) == 20
    assert await batcher.submit(4) == 40

    assert work.batches == [[2], [4]]


async def test_what_is_submitted_in_one_turn_of_the_loop_goes_together(
    batcher: Batcher[int, int], work: Work
) -> None:
    found = await asyncio.gather(*(batcher.submit(n) for n in (2, 4, 6)))

    assert found == [20, 40, 60]
    assert work.batches == [[2, 4, 6]]


async def test_what_waits_while_one_is_in_flight_goes_as_the_next(
    batcher: Batcher[int, int], work: Work
) -> None:
    work.may_end.clear()
    first = batcher.submit(0)
    await work.until_begun()
    others = [batcher.submit(n) for n in (2, 4, 6)]

    work.may_end.set()
    await asyncio.gather(first, *others)

    assert work.batches == [[0], [2, 4, 6]]


async def test_a_batch_has_its_bound(batcher: Batcher[int, int], work: Work) -> None:
    await asyncio.gather(*(batcher.submit(2 * n) for n in range(10)))

    assert [len(batch) for batch in work.batches] == [4, 4, 2]
    assert [item for batch in work.batches for item in batch] == [2 * n for n in range(10)], "in order"


async def test_a_refused_request_is_refused_alone(batcher: Batcher[int, int], work: Work) -> None:
    good, bad, also_good = (batcher.submit(n) for n in (2, 3, 4))

    await asyncio.wait([good, bad, also_good])

    assert (good.result(), also_good.result()) == (20, 40)
    with pytest.raises(Refused, match="3 is odd"):
        bad.result()
    assert work.batches == [[2, 3, 4]]


async def test_a_caller_that_went_away_takes_nobody_with_it(batcher: Batcher[int, int], work: Work) -> None:
    gone, stays = batcher.submit(2), batcher.submit(4)
    gone.cancel()

    assert await stays == 40
    assert await batcher.submit(6) == 60


async def test_a_caller_that_went_away_with_a_refusal_is_no_error(
    batcher: Batcher[int, int], work: Work
) -> None:
    work.may_end.clear()
    gone = batcher.submit(3)
    await work.until_begun()
    gone.cancel()
    work.may_end.set()

    assert await batcher.submit(2) == 20


async def test_two_writers_carry_out_two_batches_at_once(work: Work) -> None:
    made: Batcher[int, int] = Batcher(work, size=4)
    writers = [asyncio.create_task(made.run()) for _ in range(2)]
    work.may_end.clear()
    first = made.submit(2)
    await work.until_begun()
    second = made.submit(4)
    await work.until_begun()

    assert work.batches == [[2], [4]]

    work.may_end.set()
    assert await asyncio.gather(first, second) == [20, 40]
    for writer in writers:
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writer


async def test_after_drain_began_nothing_new_is_taken(batcher: Batcher[int, int], work: Work) -> None:
    work.may_end.clear()
    waiting = [batcher.submit(2 * n) for n in range(6)]
    draining = asyncio.create_task(batcher.drain())
    await work.until_begun()

    with pytest.raises(Unavailable, match="shutting down"):
        await batcher.submit(8)
    assert not draining.done()

    work.may_end.set()
    await draining
    assert [future.result() for future in waiting] == [20 * n for n in range(6)]


async def test_draining_an_idle_batcher_ends_at_once(batcher: Batcher[int, int]) -> None:
    async with asyncio.timeout(1):
        await batcher.drain()


async def test_a_bug_reaches_everybody_who_waits_and_ends_the_writer() -> None:
    """A process that goes on after a bug would answer wrongly for ever."""

    async def broken(items: Sequence[int]) -> list[int | BaseException]:
        raise ZeroDivisionError

    made: Batcher[int, int] = Batcher(broken, size=4)
    writer = asyncio.create_task(made.run())
    waiting = [made.submit(n) for n in range(3)]
    await asyncio.wait(waiting)

    for future in waiting:
        with pytest.raises(ZeroDivisionError):
            future.result()
    with pytest.raises(ZeroDivisionError):
        await writer


async def test_a_batch_with_too_few_results_is_a_bug_not_a_mix_up() -> None:
    async def forgetful(items: Sequence[int]) -> list[int | BaseException]:
        return [0]

    made: Batcher[int, int] = Batcher(forgetful, size=4)
    writer = asyncio.create_task(made.run())
    waiting = [made.submit(n) for n in range(3)]

    with pytest.raises(ValueError, match="zip"):
        await writer
    del waiting
