"""What reaches a run from outside: signals and cancel requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from holdfast import workflow
from holdfast.common import RawValue
from holdfast.exceptions import ApplicationError
from holdfast.sdk.runtime import WorkflowTaskFailure
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import failures as f
from tests.sdk.recorder import Recorder, completed, failure_of, signal

Start = Callable[..., Recorder]


class Mistake(Exception):
    pass


def test_cancelling_a_run_cancels_its_code_once_and_clean_up_may_go_on(begin: Start) -> None:
    @workflow.defn
    async def code() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await workflow.execute_activity("refund")

    recorder = begin(code)
    recorder.happen(e.WorkflowCancelRequested(reason="enough"))
    assert [type(x) for x in recorder.turn()] == [c.CancelTimer, c.ScheduleActivity]
    recorder.happen(e.WorkflowCancelRequested(reason="again"))
    assert recorder.turn() == []
    recorder.happen(e.ActivityCompleted(seq=2))

    assert recorder.turn() == [c.CancelWorkflow()]
    recorder.replay_every_turn()


def test_a_cancelled_run_that_waits_for_an_activity_ends_cancelled(begin: Start) -> None:
    @workflow.defn
    async def code() -> None:
        await workflow.execute_activity("a")

    recorder = begin(code)
    recorder.happen(e.WorkflowCancelRequested())

    assert recorder.turn() == [c.RequestCancelActivity(seq=1), c.CancelWorkflow()]


def test_a_run_may_refuse_to_be_cancelled_and_knows_the_reason(begin: Start) -> None:
    @workflow.defn
    async def code() -> str | None:
        try:
            await asyncio.shield(asyncio.create_task(asyncio.sleep(60)))
        except asyncio.CancelledError:
            return workflow.cancellation_reason()
        return None

    recorder = begin(code)
    recorder.happen(e.WorkflowCancelRequested(reason="why"))

    assert completed(recorder.turn()) == "why"


def test_a_run_cancelled_before_it_began_sees_it(begin: Start) -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "saw it"
        return "?"

    recorder = Recorder(code)
    recorder.happen(e.WorkflowCancelRequested())

    assert completed(recorder.turn()) == "saw it"
    recorder.close()


def test_a_cancellation_that_nobody_asked_for_is_a_failure(begin: Start) -> None:
    @workflow.defn
    async def code() -> None:
        task = asyncio.create_task(asyncio.sleep(1))
        task.cancel()
        await task

    assert failure_of(begin(code).turns[0].commands).kind == f.CANCELLED


@workflow.defn
class Counter:
    @workflow.init
    def __init__(self, start: int) -> None:
        self.seen: list[Any] = [start]
        self.is_over = False

    @workflow.run
    async def run(self, start: int) -> list[Any]:
        self.seen.append("run")
        await workflow.wait_condition(lambda: self.is_over and workflow.all_handlers_finished())
        return self.seen

    @workflow.signal
    async def slow(self, name: str) -> None:
        self.seen.append(f"{name} begins")
        await workflow.execute_activity("work", name)
        self.seen.append(f"{name} ends")

    @workflow.signal(name="add")
    def plain(self, number: int) -> None:
        self.seen.append(number)

    @workflow.signal
    def over(self) -> None:
        self.is_over = True

    @workflow.signal(dynamic=True)
    def other(self, name: str, args: Sequence[RawValue]) -> None:
        self.seen.append([name, *(workflow.payload_converter().from_payload(a.payload) for a in args)])


def test_signals_are_handled_in_order_and_before_the_code_sees_the_turn(begin: Start) -> None:
    recorder = Recorder(Counter, [7])
    recorder.happen(signal("add", 1))
    recorder.happen(signal("slow", "x"))
    recorder.happen(signal("add", 2))
    recorder.turn()
    recorder.happen(signal("unknown", "y", 3))
    recorder.happen(signal("over"))
    assert recorder.turn() == []
    recorder.happen(e.ActivityCompleted(seq=1))

    assert completed(recorder.turn()) == [7, 1, "x begins", 2, "run", ["unknown", "y", 3], "x ends"]
    recorder.replay_every_turn()
    recorder.close()


def test_signals_wait_for_a_handler_that_is_set_later(begin: Start) -> None:
    @workflow.defn
    async def code() -> list[Any]:
        seen: list[Any] = []
        await asyncio.sleep(1)

        def handle(value: int) -> None:
            seen.append(value)

        workflow.set_signal_handler("number", handle)
        assert workflow.get_signal_handler("number") is handle
        await asyncio.sleep(0)
        workflow.set_dynamic_signal_handler(lambda name, args: seen.append((name, len(args))))
        await workflow.wait_condition(lambda: len(seen) == 4)
        workflow.set_signal_handler("number", None)
        assert workflow.get_signal_handler("number") is None
        return seen

    recorder = begin(code)
    for event in [signal("number", 1), signal("text", "a", "b"), signal("number", 2), e.TimerFired(seq=1)]:
        recorder.happen(event)
    recorder.turn()
    recorder.happen(signal("number", 3))

    assert completed(recorder.turn()) == [1, 2, ["text", 2], 3]
    recorder.replay_every_turn()


def test_a_signal_that_does_not_decode_is_left_out_loudly_but_only_once(
    begin: Start, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = begin(Counter, 0)
    recorder.happen(signal("add", "no number"))
    recorder.happen(signal("add", 2))
    recorder.happen(signal("over"))

    assert completed(recorder.turn()) == [0, "run", 2]
    recorder.replay_every_turn()
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        "signal 'add' does not decode for its handler and is left out"
    ] * 2  # the live turn, and the one that replays up to it and is live again


def test_a_handler_that_fails_ends_the_run_as_its_own_code_would(begin: Start) -> None:
    @workflow.defn
    class Failing:
        @workflow.run
        async def run(self) -> None:
            await asyncio.sleep(60)

        @workflow.signal
        async def fail(self) -> None:
            raise ApplicationError("from the handler")

        @workflow.signal
        def bug(self) -> None:
            raise Mistake("bug")

    recorder = begin(Failing)
    recorder.happen(signal("fail"))
    assert failure_of(recorder.turn()).message == "from the handler"

    recorder = begin(Failing)
    recorder.happen(signal("bug"))
    with pytest.raises(WorkflowTaskFailure, match="bug"):
        recorder.turn()


def test_handlers_cut_off_by_the_end_are_warned_about(begin: Start) -> None:
    @workflow.defn
    class Hasty:
        @workflow.run
        async def run(self) -> None: ...

        @workflow.signal
        async def slow(self) -> None:
            await asyncio.sleep(60)

        @workflow.signal(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
        async def unimportant(self) -> None:
            await asyncio.sleep(60)

    recorder = Recorder(Hasty)
    for _ in range(2):
        recorder.happen(signal("slow"))
        recorder.happen(signal("unimportant"))

    with pytest.warns(
        workflow.UnfinishedSignalHandlersWarning, match=r"running: slow, slow; .*all_handlers_finished"
    ):
        recorder.turn()
    recorder.close()
