"""The deterministic loop by itself: asyncio's own parts on it, and its end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.sdk.loop import ForbiddenInWorkflow, Timer, WorkflowLoop, new_loop


class Clockmaker:
    """Owns a loop and fires its timers in order, moving time as it goes."""

    def __init__(self) -> None:
        self.loop: WorkflowLoop = new_loop(self)
        self.waiting: list[Timer] = []
        self.asked: list[str] = []
        self.errors: list[dict[str, Any]] = []
        self.idle = 0

    def start_timer(self, timer: Timer, delay_s: float) -> None:
        timer.seq = len(self.asked) + 1
        self.waiting.append(timer)
        self.asked.append(f"start {delay_s}")

    def cancel_timer(self, timer: Timer) -> None:
        self.waiting.remove(timer)
        self.asked.append("cancel")

    def on_idle(self) -> None:
        self.idle += 1

    def on_loop_error(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine, context=self.loop.context.copy())
        self.loop.run_until_idle()
        return task

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The result of *coroutine*, all timers fired in the order they are due."""
        task = self.begin(coroutine)
        while not task.done() and self.waiting:
            timer = min(self.waiting, key=lambda t: (t.when(), t.seq))
            self.waiting.remove(timer)
            self.loop.now = timer.when()
            self.loop.fire(timer)
            self.loop.run_until_idle()
        return task.result()


@pytest.fixture
def maker() -> Clockmaker:
    return Clockmaker()


def test_sleeping_asks_for_a_timer_and_moves_no_clock(maker: Clockmaker) -> None:
    async def code() -> list[float]:
        loop = asyncio.get_running_loop()
        times = [loop.time()]
        times.append(await asyncio.sleep(3, 7))
        return [*times, loop.time()]

    assert maker.run(code()) == [0.0, 7, 3.0]
    assert maker.asked == ["start 3"]


@pytest.mark.parametrize("delay", [0, -1, -0.5])
def test_no_delay_needs_no_timer(maker: Clockmaker, delay: float) -> None:
    assert maker.run(asyncio.sleep(delay, "slept")) == "slept"
    assert maker.asked == []


def test_a_timeout_in_the_past_fires_without_a_timer(maker: Clockmaker) -> None:
    async def code() -> str:
        try:
            async with asyncio.timeout(-1):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "went on"

    assert maker.run(code()) == "timed out"
    assert maker.asked == []


def test_a_delay_reaches_the_owner_as_it_was_written(maker: Clockmaker) -> None:
    """asyncio.timeout adds the delay to the loop's time, which at today's epoch costs digits."""
    maker.loop.now = 1_750_000_000.123456

    async def code() -> None:
        async with asyncio.timeout(60):
            await asyncio.sleep(0.1)

    maker.run(code())

    assert maker.asked == ["start 60.0", "start 0.1", "cancel"]


def test_a_timer_that_fired_is_not_cancelled_any_more(maker: Clockmaker) -> None:
    async def code() -> str:
        async with asyncio.timeout(9):
            await asyncio.sleep(1)
        return "done"

    assert maker.run(code()) == "done"
    assert maker.asked == ["start 9.0", "start 1", "cancel"]


def test_an_infinite_delay_is_no_timer_and_no_number_is_an_error(maker: Clockmaker) -> None:
    async def code() -> str:
        async with asyncio.timeout(float("inf")):  # noqa: ASYNC100 - it is the timer that counts
            with pytest.raises(ValueError, match="NaN"):
                asyncio.get_running_loop().call_later(float("nan"), print)
            return "done"

    assert maker.run(code()) == "done"
    assert maker.asked == []


async def gathered() -> Any:
    async def one(n: int) -> int:
        await asyncio.sleep(n)
        if n == 2:
            raise ValueError(n)
        return n

    return [str(r) for r in await asyncio.gather(one(3), one(2), one(1), return_exceptions=True)]


async def grouped() -> Any:
    ends: list[str] = []

    async def one(name: str, delay: int) -> None:
        try:
            await asyncio.sleep(delay)
            raise LookupError(name)
        except asyncio.CancelledError:
            ends.append(name)
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(20):
                group.create_task(one(f"t{n}", 5 if n != 7 else 1))
    except* LookupError as errors:
        ends.append(f"{errors.exceptions}")
    return ends


async def queued() -> Any:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
    got: list[int] = []

    async def consume() -> None:
        while True:
            got.append(await queue.get())
            await asyncio.sleep(1)
            queue.task_done()

    consumers = [asyncio.create_task(consume()) for _ in range(2)]
    for n in range(5):
        await queue.put(n)
    await queue.join()
    for task in consumers:
        task.cancel()
    return [got, await asyncio.gather(*consumers, return_exceptions=True) and "cancelled"]


async def locked() -> Any:
    lock, order = asyncio.Lock(), []

    async def one(n: int) -> None:
        async with lock:
            order.append(n)
            await asyncio.sleep(1)

    await asyncio.gather(*(one(n) for n in range(4)))
    return order


async def bounded() -> Any:
    semaphore, high, now = asyncio.Semaphore(2), 0, 0

    async def one() -> None:
        nonlocal high, now
        async with semaphore:
            now += 1
            high = max(high, now)
            await asyncio.sleep(1)
            now -= 1

    await asyncio.gather(*(one() for _ in range(5)))
    return high


async def notified() -> Any:
    condition, seen = asyncio.Condition(), []

    async def one(n: int) -> None:
        async with condition:
            await condition.wait_for(lambda: len(seen) >= n)
            seen.append(n)
            condition.notify_all()

    tasks = [asyncio.create_task(one(n)) for n in (2, 1, 0)]
    await asyncio.sleep(1)
    async with condition:
        condition.notify_all()
    await asyncio.gather(*tasks)
    return seen


async def evented() -> Any:
    event, order = asyncio.Event(), []

    async def one(n: int) -> None:
        await event.wait()
        order.append(n)

    tasks = [asyncio.create_task(one(n)) for n in range(3)]
    await asyncio.sleep(1)
    event.set()
    await asyncio.wait(tasks)
    return order


async def waited() -> Any:
    tasks = [asyncio.create_task(asyncio.sleep(n, n)) for n in (3, 1, 2, 4)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    names = sorted(t.result() for t in done)
    done, pending = await asyncio.wait(pending, timeout=0.5)
    return [names, sorted(t.result() for t in done), len(pending), [t.cancel() for t in pending]]


async def shielded() -> Any:
    inner = asyncio.create_task(asyncio.sleep(2, "kept"))
    try:
        async with asyncio.timeout(1):
            await asyncio.shield(inner)
    except TimeoutError:
        return [inner.cancelled(), await inner]
    return "no timeout"


async def contextual() -> Any:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    async def inner() -> str:
        before = name.get()
        name.set("inner")
        await asyncio.sleep(1)
        return f"{before} {name.get()}"

    name.set("outer")
    return [await asyncio.create_task(inner()), name.get()]


async def cancelled_twice() -> Any:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            return "cleaned up"
        return "slept"

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(1)
    task.cancel("enough")
    return [await task, task.cancelled()]


async def generated() -> Any:
    closed: list[str] = []

    async def numbers() -> Any:
        try:
            for n in range(9):
                await asyncio.sleep(0)
                yield n
        finally:
            closed.append("closed")

    async for n in numbers():
        if n == 2:
            break
    gc.collect()
    await asyncio.sleep(1)
    return closed


@pytest.mark.parametrize(
    "code",
    [
        gathered,
        grouped,
        queued,
        locked,
        bounded,
        notified,
        evented,
        waited,
        shielded,
        contextual,
        cancelled_twice,
        generated,
    ],
)
def test_asyncio_does_here_what_it_does_on_its_own_loop(
    maker: Clockmaker, code: Callable[[], Coroutine[Any, Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = maker.run(code())

    # asyncio's own loop, at a hundred times the speed.
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        call_at = loop.call_at
        monkeypatch.setattr(
            loop,
            "call_at",
            lambda when, *args, **kw: call_at(loop.time() + (when - loop.time()) / 100, *args, **kw),
        )
        theirs = runner.run(code())
    if code is grouped:
        # Only here is the order of a TaskGroup's cancellations a promise.
        assert ours == [*(f"t{n}" for n in range(20) if n != 7), "(LookupError('t7'),)"]
        ours, theirs = sorted(ours), sorted(theirs)
    assert ours == theirs
    assert maker.errors == []


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        pytest.param(*case, id=str(number))
        for number, case in enumerate(
            [
                (lambda loop: loop.run_in_executor(None, print), "activity"),
                (lambda loop: asyncio.to_thread(print), "activity"),
                (lambda loop: loop.call_soon_threadsafe(print), "signal"),
                (lambda loop: asyncio.open_connection("localhost", 1), "activity"),
                (lambda loop: loop.sock_recv(None, 1), "activity"),
                (lambda loop: asyncio.create_subprocess_exec("true"), "activity"),
                (lambda loop: loop.add_reader(0, print), "activity"),
                (lambda loop: loop.add_signal_handler(2, print), "cancel or terminate"),
                (lambda loop: loop.getaddrinfo("localhost", 1), "activity"),
                (lambda loop: loop.run_until_complete(None), "await it"),
                (lambda loop: loop.stop(), "return"),
            ]
        )
    ],
)
def test_what_cannot_be_replayed_is_refused_with_the_durable_way(
    maker: Clockmaker, call: Callable[[Any], Any], advice: str
) -> None:
    async def code() -> None:
        made = call(asyncio.get_running_loop())
        if asyncio.iscoroutine(made):
            await made

    with pytest.raises(ForbiddenInWorkflow, match=advice):
        maker.run(code())


async def test_it_runs_inside_another_loop_and_puts_it_back(maker: Clockmaker) -> None:
    outer, task = asyncio.get_running_loop(), asyncio.current_task()

    async def code() -> Any:
        return asyncio.get_running_loop(), asyncio.current_task()

    loop, current = maker.run(code())

    assert loop is maker.loop
    assert current is not task
    assert asyncio.get_running_loop() is outer
    assert asyncio.current_task() is task
    await asyncio.sleep(0)


async def test_the_outer_loop_is_put_back_when_code_exits(maker: Clockmaker) -> None:
    async def code() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        maker.begin(code())

    await asyncio.sleep(0)


def test_context_of_the_caller_does_not_leak_in(maker: Clockmaker) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    name.set("worker")

    async def code() -> str:
        return name.get()

    assert maker.run(code()) == "nobody"


def test_a_callback_that_raises_is_reported_and_the_rest_runs(maker: Clockmaker) -> None:
    ran: list[int] = []

    async def code() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: 1 / 0)
        loop.call_soon(ran.append, 1)
        loop.call_soon(ran.append, 2).cancel()

    maker.begin(code())

    assert ran == [1]
    assert isinstance(maker.errors[0]["exception"], ZeroDivisionError)


def test_tasks_nobody_refers_to_are_kept(maker: Clockmaker) -> None:
    """Asyncio refers to tasks weakly; a collection at some moment must not end them."""
    done: list[int] = []

    async def lonely(n: int) -> None:
        await asyncio.get_running_loop().create_future()
        done.append(n)

    async def code() -> None:
        for n in range(200):
            asyncio.create_task(lonely(n))  # noqa: RUF006 - that is the point
        await asyncio.sleep(0)

    maker.begin(code())
    gc.collect()

    assert len([t for t in maker.loop.tasks if not t.done()]) == 200
    maker.loop.close()


def test_closing_ends_suspended_code_without_letting_it_ask_for_anything(
    maker: Clockmaker, recwarn: pytest.WarningsRecorder
) -> None:
    """Clean-up code runs, because Python offers no way around it; whatever it waits for ends it again."""
    cleaned: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.append(name)
            await asyncio.sleep(5)
            cleaned.append(f"{name} slept")

    async def code() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child("a"))
                group.create_task(child("b"))
        finally:
            try:
                async with asyncio.timeout(1):
                    await asyncio.gather(child("c"), child("d"))
            except Exception:
                cleaned.append("caught")
            finally:
                asyncio.create_task(child("e"))  # noqa: RUF006 - it never runs

    maker.begin(code())
    maker.asked.clear()

    maker.loop.close()
    maker.loop.close()
    gc.collect()

    assert sorted(cleaned) == ["a", "b"]
    assert maker.asked == []
    assert maker.errors == []
    assert not recwarn.list


def test_a_dropped_loop_says_nothing(maker: Clockmaker, caplog: pytest.LogCaptureFixture) -> None:
    async def code() -> None:
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(ValueError("nobody looks"))
        await asyncio.get_running_loop().create_future()

    maker.begin(code())
    maker.loop.close()
    maker.loop.tasks.clear()
    gc.collect()

    assert caplog.records == []
