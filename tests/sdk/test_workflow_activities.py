"""Activities in workflow code: called, awaited, cancelled, and what their ends look like."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.common import RetryPolicy
from holdfast.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    TimeoutError,
    is_cancelled_exception,
)
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import failures as f
from tests.sdk.recorder import Recorder, completed, failure_of

Start = Callable[..., Recorder]


@activity.defn(
    start_to_close_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(maximum_attempts=5),
    task_queue="cards",
)
async def charge(card: str, cents: int) -> tuple[str, int]:
    return card, cents


def test_an_activity_is_called_directly_with_the_options_of_its_definition(begin: Start) -> None:
    @workflow.defn
    async def code() -> Any:
        return await charge("c-1", cents=5)

    recorder = begin(code)

    assert recorder.turns[0].commands == [
        c.ScheduleActivity(
            seq=1,
            name="charge",
            input=b'["c-1",5]',
            activity_id="1",
            task_queue="cards",
            start_to_close_s=10.0,
            retry=f.RetryPolicy(max_attempts=5),
        )
    ]
    recorder.happen(e.ActivityCompleted(seq=1, result=b'["c-1",5]'))
    recorder.turn()
    assert completed(recorder.turns[-1].commands) == ["c-1", 5]


def test_options_of_the_call_win_field_by_field(begin: Start) -> None:
    @workflow.defn
    async def code() -> None:
        workflow.start_activity(
            charge,
            args=["c", 1],
            task_queue="other",
            heartbeat_timeout=timedelta(seconds=2),
            activity_id="mine",
        )
        await charge.options(schedule_to_close_timeout=timedelta(minutes=1), activity_id="third")("c", 2)

    first, second = begin(code).turns[0].commands

    assert (first.task_queue, first.heartbeat_s, first.start_to_close_s, first.activity_id) == (
        "other",
        2.0,
        10.0,
        "mine",
    )
    assert first.retry.max_attempts == 5
    assert (second.task_queue, second.schedule_to_close_s, second.start_to_close_s, second.activity_id) == (
        "cards",
        60.0,
        10.0,
        "third",
    )


def test_an_activity_called_by_name_has_the_default_retry_policy_for_ever(begin: Start) -> None:
    @workflow.defn
    async def code() -> int:
        return await workflow.execute_activity("named", {"a": 1}, result_type=int)

    recorder = begin(code)

    (asked,) = recorder.turns[0].commands
    assert (asked.name, asked.input, asked.retry) == ("named", b'[{"a":1}]', f.RetryPolicy())
    recorder.happen(e.ActivityCompleted(seq=1, result=b"4"))
    assert completed(recorder.turn()) == 4


def test_an_undecorated_function_is_no_activity(begin: Start) -> None:
    def plain() -> None: ...

    @workflow.defn(failure_exception_types=[ValueError])
    async def code() -> None:
        await workflow.execute_activity(plain)

    assert "Activity plain missing attributes" in failure_of(begin(code).turns[0].commands).message


def test_arguments_that_have_no_encoding_fail_at_the_call_and_schedule_nothing(begin: Start) -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await workflow.execute_activity("a", object())
        except Exception as error:
            return f"{type(error).__name__}"
        return "?"

    commands = begin(code).turns[0].commands

    assert completed(commands) == "Invalid"
    assert len(commands) == 1


@pytest.mark.parametrize(
    ("event", "message", "cause_type", "cause_text"),
    [
        (
            e.ActivityFailed(
                seq=1, failure=f.Failure(message="no", type="Broke"), retry_state="maximum_attempts_reached"
            ),
            "Activity task failed",
            ApplicationError,
            "Broke: no",
        ),
        (
            e.ActivityTimedOut(seq=1, timeout="start_to_close", retry_state="timeout"),
            "Activity task timed out",
            TimeoutError,
            "activity StartToClose timeout",
        ),
        (
            e.ActivityCancelled(seq=1, details=b"[7]"),
            "Activity cancelled",
            CancelledError,
            "Activity cancelled",
        ),
    ],
    ids=["failed", "timed out", "cancelled"],
)
def test_an_activity_that_ends_badly_raises_with_its_cause(
    begin: Start, event: Any, message: str, cause_type: type, cause_text: str
) -> None:
    seen: list[ActivityError] = []

    @workflow.defn
    async def code() -> None:
        try:
            await workflow.execute_activity("a")
        except ActivityError as error:
            seen.append(error)
            raise

    recorder = begin(code)
    recorder.happen(event)
    failure = failure_of(recorder.turn())

    (error,) = seen
    assert (error.message, error.activity_type, error.activity_id) == (message, "a", "1")
    assert error.scheduled_event_id == 3
    assert isinstance(error.cause, cause_type)
    assert str(error.cause) == cause_text
    assert failure.kind == f.ACTIVITY
    assert failure.cause is not None
    recorder.replay_every_turn()
    assert [x.scheduled_event_id for x in seen] == [3] * len(seen)


def test_the_number_of_the_scheduling_event_holds_when_a_cancel_left_none(begin: Start) -> None:
    """The batch is one event shorter than its commands, which a cached run learns only later."""
    seen: list[int] = []

    @workflow.defn
    async def code() -> None:
        timer = asyncio.create_task(asyncio.sleep(60))
        await workflow.execute_activity("a")
        timer.cancel()
        await asyncio.sleep(0)
        try:
            await workflow.execute_activity("b")
        except ActivityError as error:
            seen.append(error.scheduled_event_id)

    recorder = begin(code)
    recorder.happen(e.ActivityCompleted(seq=1))
    recorder.turn(e.TimerFired(seq=2))
    recorder.happen(e.ActivityFailed(seq=3, failure=f.Failure(message="no")))
    recorder.turn()
    recorder.replay_every_turn()

    scheduled = [x.seq for x in recorder.history if isinstance(x.event, e.ActivityScheduled)]
    assert seen == [scheduled[-1]] * 2


Cancelling = workflow.ActivityCancellationType


@pytest.mark.parametrize(
    ("kind", "asks", "ends_at_once"),
    [
        (Cancelling.TRY_CANCEL, True, True),
        (Cancelling.ABANDON, False, True),
        (Cancelling.WAIT_CANCELLATION_COMPLETED, True, False),
    ],
)
def test_cancelling_an_activity(begin: Start, kind: Cancelling, asks: bool, ends_at_once: bool) -> None:
    @workflow.defn
    async def code() -> str:
        handle = workflow.start_activity("a", cancellation_type=kind)
        await asyncio.sleep(1)
        handle.cancel()
        handle.cancel()
        try:
            return str(await handle)
        except ActivityError as error:
            return f"{type(error.cause).__name__} {is_cancelled_exception(error)}"

    recorder = begin(code)
    recorder.happen(e.TimerFired(seq=2))
    commands = recorder.turn()

    assert (c.RequestCancelActivity(seq=1) in commands) is asks
    assert commands.count(c.RequestCancelActivity(seq=1)) <= 1
    if ends_at_once:
        assert completed(commands) == "CancelledError True"
    else:
        recorder.happen(e.ActivityCompleted(seq=1, result=b'"finished all the same"'))
        assert completed(recorder.turn()) == "finished all the same"
    recorder.replay_every_turn()


def test_what_is_opened_and_cancelled_in_one_turn_is_never_asked_for(begin: Start) -> None:
    @workflow.defn
    async def code() -> list[str]:
        handle = workflow.start_activity("a")
        kept = workflow.start_activity("b")
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        handle.cancel()
        results = await asyncio.gather(handle, kept, return_exceptions=True)
        return [type(r).__name__ for r in results]

    recorder = begin(code)

    assert [(x.seq, x.name) for x in recorder.turns[0].commands] == [(2, "b")]
    recorder.happen(e.ActivityCompleted(seq=2))
    assert completed(recorder.turn()) == ["ActivityError", "NoneType"]


async def first_way() -> None:
    await charge("c", 1)


async def second_way() -> None:
    await workflow.execute_activity(charge, args=["c", 1])


@pytest.mark.parametrize(("way", "ended"), [(first_way, "TimeoutError"), (second_way, "ActivityError")])
def test_a_timeout_around_an_activity(begin: Start, way: Any, ended: str) -> None:
    """A direct call is awaited as asyncio awaits; the functions of `workflow` always raise ActivityError."""

    @workflow.defn
    async def code() -> str:
        try:
            async with asyncio.timeout(5):
                await way()
        except Exception as error:
            return type(error).__name__
        return "went on"

    recorder = begin(code)
    timer, call = recorder.turns[0].commands
    assert (type(timer), type(call)) == (c.StartTimer, c.ScheduleActivity)
    recorder.happen(e.TimerFired(seq=1))
    commands = recorder.turn()

    assert commands[0] == c.RequestCancelActivity(seq=2)
    assert completed(commands) == ended


def test_direct_calls_in_a_task_group_are_cancelled_with_their_siblings(begin: Start) -> None:
    @workflow.defn
    async def code() -> list[str]:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(charge("a", 1))
                group.create_task(charge("b", 2))
        except ExceptionGroup as errors:
            return [str(error) for error in errors.exceptions]
        return []

    recorder = begin(code)
    recorder.happen(e.ActivityFailed(seq=1, failure=f.Failure(message="declined")))
    commands = recorder.turn()

    assert commands[0] == c.RequestCancelActivity(seq=2)
    assert completed(commands) == ["Activity task failed"]
