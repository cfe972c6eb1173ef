"""What workflow code can do, and what its run then asks for."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.common import RawValue
from holdfast.exceptions import ApplicationError
from holdfast.sdk.context import NotInWorkflow
from holdfast.sdk.definitions import must_define, name_and_result_type
from holdfast.sdk.runtime import WorkflowTaskFailure
from holdfast.wire import commands as c
from holdfast.wire import events as e
from tests.sdk.recorder import NOON, Recorder, completed, failure_of, identity, started

Start = Callable[..., Recorder]


@activity.defn
async def charge(card: str, cents: int) -> None: ...


# -- how runs end ------------------------------------------------------------------------


class Mistake(Exception):
    pass


def test_failures_fail_the_workflow_and_mistakes_only_its_task() -> None:
    @workflow.defn
    async def code(kind: str) -> None:
        if kind == "failure":
            raise ApplicationError("no", 1, type="T")
        if kind == "timeout":
            raise TimeoutError("late")
        raise Mistake("oops")

    assert failure_of(started(code, "failure").turns[0].commands).type == "T"
    assert failure_of(started(code, "timeout").turns[0].commands).type == "TimeoutError"
    assert (
        failure_of(started(code, "bug", failure_exception_types=[Mistake]).turns[0].commands).type
        == "Mistake"
    )
    with pytest.raises(WorkflowTaskFailure, match="unhandled_failure: oops") as caught:
        started(code, "bug")
    assert caught.value.failure.type == "Mistake"
    assert "in code" in caught.value.failure.stack
    assert isinstance(caught.value.__cause__, Mistake)


def test_nothing_runs_after_the_end(begin: Start) -> None:
    ran: list[str] = []

    @workflow.defn
    async def code() -> str:
        async def late() -> None:
            await asyncio.sleep(0)
            ran.append("late")
            await workflow.execute_activity("late")

        task = asyncio.create_task(late())
        asyncio.get_running_loop().call_soon(ran.append, "callback")
        assert not task.done()
        return "done"

    recorder = begin(code)

    assert completed(recorder.turns[0].commands) == "done"
    assert ran == []


@pytest.mark.parametrize("bad", [b"[1,2,3]", b'["x"]', b"[]"])
def test_arguments_that_do_not_fit_fail_the_task_and_not_the_run(bad: bytes) -> None:
    @workflow.defn
    async def code(number: int) -> None: ...

    recorder = Recorder(code)
    recorder.history[0] = type(recorder.history[0])(
        1, NOON, e.WorkflowStarted(workflow_id="w", workflow_type="t", task_queue="q", input=bad)
    )

    with pytest.raises(WorkflowTaskFailure):
        recorder.turn()
    recorder.close()


def test_a_result_that_does_not_decode_fails_the_task() -> None:
    @workflow.defn
    async def code() -> int:
        return await workflow.execute_activity("a", result_type=int)

    recorder = started(code)
    recorder.happen(e.ActivityCompleted(seq=1, result=b'"text"'))

    with pytest.raises(WorkflowTaskFailure) as caught:
        recorder.turn()
    assert caught.value.cause == "payload"
    recorder.close()


def test_exiting_the_process_from_workflow_code_fails_the_task() -> None:
    @workflow.defn
    async def code() -> None:
        raise SystemExit(3)

    with pytest.raises(WorkflowTaskFailure, match="unhandled_failure"):
        started(code)


# -- waiting -----------------------------------------------------------------------------


def test_a_condition_is_asked_again_whenever_the_code_has_nothing_else_to_do(begin: Start) -> None:
    @workflow.defn
    async def code() -> list[str]:
        order: list[str] = []

        async def waiter(name: str, wanted: int) -> None:
            await workflow.wait_condition(lambda: len(order) >= wanted)
            order.append(name)

        async with asyncio.TaskGroup() as group:
            for wanted in (2, 1, 0):
                group.create_task(waiter(f"w{wanted}", wanted))
        return order

    assert completed(begin(code).turns[0].commands) == ["w0", "w1", "w2"]


def test_a_condition_with_a_timeout_needs_a_timer_only_if_it_waits(begin: Start) -> None:
    @workflow.defn
    async def code() -> str:
        await workflow.wait_condition(lambda: True, timeout=10)
        try:
            await workflow.wait_condition(lambda: False, timeout=timedelta(seconds=10))
        except TimeoutError:
            return "timed out"
        return "?"

    recorder = begin(code)
    assert recorder.turns[0].commands == [c.StartTimer(seq=2, delay_s=10.0)]
    recorder.happen(e.TimerFired(seq=2))
    assert completed(recorder.turn()) == "timed out"


def test_a_condition_that_raises_does_so_where_it_is_awaited(begin: Start) -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await workflow.wait_condition(lambda: bool(1 / 0))
        except ZeroDivisionError:
            return "caught"
        return "?"

    assert completed(begin(code).turns[0].commands) == "caught"


def test_waits_keep_the_order_they_were_given(begin: Start) -> None:
    @workflow.defn
    async def code() -> list[Any]:
        handles = [workflow.start_activity(f"a{n}", result_type=int) for n in range(3)]
        done, pending = await workflow.wait(handles, timeout=5)
        times: list[Any] = [[h.name for h in done], [h.name for h in pending]]
        for next_done in workflow.as_completed(handles):
            times.append(await next_done)  # noqa: PERF401
        return times

    recorder = begin(code)
    recorder.happen(e.ActivityCompleted(seq=3, result=b"3"))
    recorder.turn()
    recorder.happen(e.TimerFired(seq=4))
    recorder.turn()
    recorder.happen(e.ActivityCompleted(seq=2, result=b"2"))
    recorder.happen(e.ActivityCompleted(seq=1, result=b"1"))

    assert completed(recorder.turn()) == [["a2"], ["a0", "a1"], 3, 2, 1]


# -- about the run, time and chance --------------------------------------------------------


def test_the_run_knows_who_it_is_and_time_stands_still_within_a_turn(begin: Start) -> None:
    @workflow.defn
    async def code() -> list[Any]:
        info = workflow.info()
        before = workflow.now()
        seen = [
            info.workflow_id,
            info.run_id,
            info.workflow_type,
            info.task_queue,
            info.namespace,
            info.attempt,
        ]
        seen.append(info.get_current_history_length())
        await asyncio.sleep(3600)
        seen += [workflow.now() - before >= timedelta(hours=1), workflow.time() == workflow.now().timestamp()]
        seen += [workflow.time_ns() // 1000 == round(workflow.time() * 1e6), info.start_time == before]
        return [*seen, info.get_current_history_length()]

    recorder = begin(code)
    recorder.clock += 3600
    recorder.happen(e.TimerFired(seq=1))

    assert completed(recorder.turn()) == [*["w-1", "run-1", "w", "q", "main", 1, 1], *[True] * 4, 4]
    assert recorder.history[0].time == NOON + 0.25
    recorder.replay_every_turn()


def test_chance_is_the_same_on_every_replay_and_different_in_every_run(begin: Start) -> None:
    @workflow.defn
    async def code() -> list[Any]:
        return [workflow.random().random(), str(workflow.uuid4()), str(workflow.uuid7())]

    recorder = begin(code)
    one = completed(recorder.turns[0].commands)

    assert completed(recorder.replay(1, recorder.turns[0].now)) == one
    assert completed(begin(code, who=identity(run_id="run-2")).turns[0].commands) != one
    assert one[1][14] == "4"
    assert one[2][14] == "7"


def test_the_logger_speaks_once(begin: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @workflow.defn
    async def code() -> None:
        workflow.logger.info("one")
        await asyncio.sleep(1)
        assert not workflow.unsafe.is_replaying()
        workflow.logger.info("two %d", 2)

    recorder = begin(code)
    recorder.happen(e.TimerFired(seq=1))
    recorder.turn()

    recorder.replay(recorder.turns[-1].head_seq)

    said = [record.getMessage().split(" (")[0] for record in caplog.records]
    assert said == ["one", "two 2", "two 2"]
    assert caplog.records[0].holdfast_workflow["run_id"] == "run-1"  # type: ignore[attr-defined]


def test_the_logger_is_a_plain_one_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    workflow.logger.warning("from outside")

    assert caplog.messages == ["from outside"]


@pytest.mark.parametrize(
    "call", [workflow.info, workflow.now, workflow.random, workflow.uuid4, workflow.instance]
)
def test_outside_of_workflow_code_there_is_no_workflow(call: Any) -> None:
    assert not workflow.in_workflow()
    with pytest.raises(NotInWorkflow, match="Not in workflow"):
        call()


def test_clean_up_of_a_dropped_run_asks_for_nothing_and_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    @workflow.defn
    async def code() -> None:
        try:
            await asyncio.gather(charge("c", 1), asyncio.sleep(60))
        finally:
            workflow.logger.warning("cleaning up")
            await charge("refund", 1)

    recorder = started(code)
    recorder.close()

    assert recorder.run.commands == recorder.turns[0].commands
    assert caplog.records == []


def test_a_dropped_run_is_gone_at_once_and_not_when_the_collector_comes_by() -> None:
    @workflow.defn
    async def code() -> None:
        async with asyncio.timeout(60):
            await charge("c", 1)

    gc.disable()
    try:
        recorder = started(code)
        recorder.close()
        dropped = weakref.ref(recorder.run)
        del recorder

        assert dropped() is None
    finally:
        gc.enable()


# -- definitions -------------------------------------------------------------------------


def test_a_dynamic_workflow_takes_raw_values(begin: Start) -> None:
    @workflow.defn(dynamic=True)
    class Any_:  # noqa: N801
        @workflow.run
        async def run(self, args: Sequence[RawValue]) -> list[Any]:
            return [workflow.payload_converter().from_payload(a.payload) for a in args]

    assert completed(begin(Any_, 1, "x").turns[0].commands) == [1, "x"]


@workflow.defn
class Counter:
    @workflow.run
    async def run(self) -> list[Any]:
        return []


def bad_class(**members: Any) -> type:
    return type("Bad", (), members)


async def run_method(self: Any, a: int) -> None: ...


def other_init(self: Any, a: str) -> None: ...


other_init.__name__ = "__init__"


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: workflow.defn(bad_class()), "Missing @workflow.run method"),
        (lambda: workflow.run(lambda: None), "must be an async function"),
        (lambda: workflow.defn(lambda: None), "class or an async function"),
        (
            lambda: workflow.defn(workflow.defn(type("W", (), {"run": workflow.run(run_method)}))),
            "already contains",
        ),
        (
            lambda: workflow.defn(
                bad_class(run=workflow.run(run_method), __init__=workflow.init(other_init))
            ),
            "parameters do not match",
        ),
        (lambda: workflow.defn(type("Sub", (Counter,), {})), "must be defined on Sub"),
        (lambda: workflow.init(run_method), "only be used on the __init__ method"),
    ],
    ids=["no run", "sync run", "lambda", "twice", "init", "subclass", "not init"],
)
def test_what_cannot_be_a_workflow_is_refused_when_it_is_declared(declare: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        declare()


def test_names_come_from_the_code_unless_given() -> None:
    assert name_and_result_type(Counter.run) == ("Counter", list[Any])
    assert name_and_result_type(Counter)[0] == "Counter"
    assert name_and_result_type("by name") == ("by name", None)

    async def undecorated() -> None: ...

    with pytest.raises(ValueError, match=r"was it decorated with @workflow.defn\?"):
        must_define(undecorated)


def test_time_is_utc(begin: Start) -> None:
    @workflow.defn
    async def code() -> bool:
        return workflow.now() == datetime.fromtimestamp(NOON + 0.25, UTC)

    assert completed(begin(code).turns[0].commands) is True
