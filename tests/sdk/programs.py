"""Random workflow programs, built from asyncio's own parts. Data, and the workflow that carries them out."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from hypothesis import strategies as st

from holdfast import workflow

# A program is a list: the operation, then its operands.
Program = list[Any]

_leaf = st.one_of(
    st.builds(lambda d: ["sleep", d], st.sampled_from([0, 1, 2, 5])),
    st.just(["activity"]),
    st.just(["direct"]),
    st.just(["raise"]),
    st.builds(lambda n: ["put", n], st.integers(0, 1)),
    st.builds(lambda n: ["get", n], st.integers(0, 1)),
    st.builds(lambda n: ["set", n], st.integers(0, 1)),
    st.builds(lambda n: ["event", n], st.integers(0, 1)),
    st.just(["condition"]),
    st.just(["random"]),
)


def _nested(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    several = st.lists(inner, min_size=1, max_size=4)
    return st.one_of(
        st.builds(lambda p: ["sequence", *p], several),
        st.builds(lambda p: ["gather", *p], several),
        st.builds(lambda p: ["group", *p], several),
        st.builds(lambda p: ["wait_first", *p], several),
        st.builds(lambda p: ["wait", *p], several),
        st.builds(lambda p: ["as_completed", *p], several),
        st.builds(lambda d, p: ["timeout", d, p], st.sampled_from([1, 3]), inner),
        st.builds(lambda p: ["locked", p], inner),
        st.builds(lambda p: ["semaphore", p], inner),
        st.builds(lambda p: ["shield", p], inner),
        st.builds(lambda p, q: ["finally", p, q], inner, inner),
        st.builds(lambda p: ["notified", p], inner),
    )


programs = st.recursive(_leaf, _nested, max_leaves=14).map(lambda p: ["sequence", p, ["activity"]])

depth: contextvars.ContextVar[int] = contextvars.ContextVar("depth", default=0)


class Boom(Exception):
    pass


class Machine:
    """What a program shares, and a trace of what it did."""

    def __init__(self) -> None:
        self.queues = [asyncio.Queue[str](maxsize=1) for _ in range(2)]
        self.events = [asyncio.Event() for _ in range(2)]
        self.lock = asyncio.Lock()
        self.semaphore = asyncio.Semaphore(2)
        self.condition = asyncio.Condition()
        self.trace: list[str] = []

    async def do(self, program: Program, path: str) -> None:
        depth.set(depth.get() + 1)
        self.trace.append(f"{path} {program[0]} at {workflow.time()} depth {depth.get()}")
        try:
            await getattr(self, f"do_{program[0]}")(path, *program[1:])
        except (Exception, asyncio.CancelledError) as error:
            self.trace.append(f"{path} {type(error).__name__}")
            raise
        self.trace.append(f"{path} done")

    def each(self, path: str, programs: tuple[Program, ...]) -> list[Any]:
        return [self.do(program, f"{path}.{number}") for number, program in enumerate(programs)]

    async def do_sleep(self, path: str, delay: int) -> None:
        await asyncio.sleep(delay)

    async def do_activity(self, path: str) -> None:
        self.trace.append(await workflow.execute_activity("named", path, result_type=str))

    async def do_direct(self, path: str) -> None:
        handle = workflow.start_activity("direct", args=[path, 1])
        self.trace.append(await handle)

    async def do_raise(self, path: str) -> None:
        raise Boom(path)

    async def do_put(self, path: str, number: int) -> None:
        await self.queues[number].put(path)

    async def do_get(self, path: str, number: int) -> None:
        self.trace.append(await self.queues[number].get())

    async def do_set(self, path: str, number: int) -> None:
        self.events[number].set()

    async def do_event(self, path: str, number: int) -> None:
        await self.events[number].wait()

    async def do_condition(self, path: str) -> None:
        length = len(self.trace) + 6
        await workflow.wait_condition(lambda: len(self.trace) > length, timeout=2)

    async def do_random(self, path: str) -> None:
        self.trace.append(f"{workflow.random().random()} {workflow.uuid4()}")

    async def do_sequence(self, path: str, *programs: Program) -> None:
        for number, program in enumerate(programs):
            await self.do(program, f"{path}.{number}")

    async def do_gather(self, path: str, *programs: Program) -> None:
        results = await asyncio.gather(*self.each(path, programs), return_exceptions=True)
        self.trace.append(f"{path} {[type(r).__name__ for r in results]}")

    async def do_group(self, path: str, *programs: Program) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for coroutine in self.each(path, programs):
                    group.create_task(coroutine)
        except BaseExceptionGroup as errors:
            self.trace.append(f"{path} {[str(e) for e in errors.exceptions]}")

    async def do_wait_first(self, path: str, *programs: Program) -> None:
        tasks = [asyncio.create_task(coroutine) for coroutine in self.each(path, programs)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # Sets: their order must be the same in every replay.
        for task in pending:
            task.cancel()
        self.trace.extend(f"{path} {task.get_name()} {task.exception()!r}" for task in done)

    async def do_wait(self, path: str, *programs: Program) -> None:
        tasks = [asyncio.create_task(coroutine) for coroutine in self.each(path, programs)]
        done, pending = await workflow.wait(tasks, timeout=2)
        self.trace.append(f"{path} {len(done)} {len(pending)}")
        for task in [*done, *pending]:
            task.cancel()

    async def do_as_completed(self, path: str, *programs: Program) -> None:
        for next_done in workflow.as_completed(self.each(path, programs), timeout=4):
            try:
                await next_done
            except (Boom, TimeoutError) as error:
                self.trace.append(f"{path} {error!r}")

    async def do_timeout(self, path: str, delay: int, program: Program) -> None:
        try:
            async with asyncio.timeout(delay):
                await self.do(program, f"{path}.0")
        except TimeoutError:
            self.trace.append(f"{path} timed out")

    async def do_locked(self, path: str, program: Program) -> None:
        if self.lock.locked() and self.trace.count(f"{path} locked") > 0:
            return
        self.trace.append(f"{path} locked")
        async with asyncio.timeout(2), self.lock:
            await self.do(program, f"{path}.0")

    async def do_semaphore(self, path: str, program: Program) -> None:
        async with asyncio.timeout(2), self.semaphore:
            await self.do(program, f"{path}.0")

    async def do_shield(self, path: str, program: Program) -> None:
        await asyncio.shield(asyncio.create_task(self.do(program, f"{path}.0")))

    async def do_finally(self, path: str, program: Program, cleanup: Program) -> None:
        try:
            await self.do(program, f"{path}.0")
        finally:
            await self.do(cleanup, f"{path}.1")

    async def do_notified(self, path: str, program: Program) -> None:
        async def notify() -> None:
            await self.do(program, f"{path}.0")
            async with self.condition:
                self.condition.notify_all()

        task = asyncio.create_task(notify())
        async with asyncio.timeout(3), self.condition:
            await self.condition.wait()
        await task


latest: list[Machine] = []


@workflow.defn(failure_exception_types=[Boom, ExceptionGroup])
async def program_workflow(program: Program) -> list[str]:
    machine = Machine()
    latest[:] = [machine]
    async with asyncio.timeout(50):
        await machine.do(program, "0")
    return machine.trace
