"""Activities are ordinary functions with a name, options, and questions they may ask while they run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.activity import ActivityFunction, definition_of
from holdfast.common import RawValue, RetryPolicy
from holdfast.converter import DataConverter
from holdfast.exceptions import CancelledError
from holdfast.sdk.activity_context import ActivityContext, Flag, ThreadCanceller, current
from holdfast.sdk.runtime import Identity, WorkflowRun
from holdfast.wire.commands import ScheduleActivity
from holdfast.wire.events import HistoryEvent, WorkflowStarted
from holdfast.wire.messages import ActivityTask


@activity.defn
async def greet(name: str, times: int = 1) -> str:
    """Says hello."""
    return f"hello {name}" * times


@activity.defn(
    name="charge-card",
    start_to_close_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(maximum_attempts=5),
)
def charge(card: str, cents: int) -> str:
    return f"{card}:{cents}"


class Shop:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    @activity.defn
    async def ship(self, item: str) -> str:
        return self.prefix + item


@activity.defn
class Refund:
    async def __call__(self, cents: int) -> int:
        return -cents


# -- definitions


async def test_outside_of_a_workflow_an_activity_is_its_function() -> None:
    assert await greet("you", times=2) == "hello youhello you"
    assert charge("4", 5) == "4:5"
    assert await Shop("to ").ship("home") == "to home"


def test_a_definition_knows_name_types_and_kind() -> None:
    found = definition_of(charge)

    assert found is not None
    assert (found.name, found.is_async, found.types) == ("charge-card", False, ([str, int], str))
    assert found.options.start_to_close_timeout == timedelta(seconds=10)
    assert definition_of(greet).name == "greet"  # type: ignore[union-attr]
    assert definition_of(len) is None


async def test_a_bound_method_is_an_activity_of_its_instance() -> None:
    found = definition_of(Shop("to ").ship)

    assert found is not None
    assert (found.name, found.types) == ("ship", ([str], str))
    assert await found.fn("you") == "to you"


async def test_an_instance_of_an_activity_class_is_an_activity() -> None:
    found = definition_of(Refund())

    assert found is not None
    assert (found.name, found.is_async, found.types) == ("Refund", True, ([int], int))
    assert await found.fn(5) == -5


def test_an_activity_keeps_the_face_of_its_function() -> None:
    assert isinstance(greet, ActivityFunction)
    assert (greet.__name__, greet.__doc__) == ("greet", "Says hello.")
    assert repr(greet) == "<activity greet>"


def test_types_may_be_defined_below_the_activity() -> None:
    found = definition_of(later)

    assert found is not None
    assert found.types == ([Later], type(None))


@activity.defn
async def later(value: Later) -> None: ...


class Later: ...


@pytest.mark.parametrize(
    ("define", "says"),
    [
        (lambda: activity.defn(greet), "already contains activity definition"),
        (lambda: activity.defn(name="x", dynamic=True), "Cannot provide name and dynamic"),
        (lambda: activity.defn(5), "not callable"),
        (lambda: activity.defn(lambda *, a: a), "keyword-only arguments: a"),
        (lambda: activity.defn(dynamic=True)(lambda name: name), "single Sequence"),
        (lambda: activity.defn(retry_policy=RetryPolicy(backoff_coefficient=0.5)), "less than 1"),
    ],
)
def test_a_definition_that_cannot_work_is_refused_where_it_is_made(define: Any, says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        define()


def test_a_dynamic_activity_takes_raw_values() -> None:
    @activity.defn(dynamic=True)
    async def anything(args: Sequence[RawValue]) -> None: ...

    assert definition_of(anything).name is None  # type: ignore[union-attr]


# -- called in a workflow


def _first_commands(fn: Any) -> list[Any]:
    definition = workflow.defn(fn)
    started = WorkflowStarted(workflow_id="w", workflow_type=fn.__name__, task_queue="q")
    run = WorkflowRun(
        definition.__holdfast_workflow__,
        Identity(run_id="r", workflow_id="w", workflow_type=fn.__name__, task_queue="q"),
        DataConverter.default,
    )
    commands = run.activate([HistoryEvent(1, 1.0, started)], head_seq=1, now=1.0)
    run.close()
    return commands


def test_in_a_workflow_a_call_is_scheduled_with_the_defined_options() -> None:
    async def order() -> None:
        await charge("4", cents=5)

    (command,) = _first_commands(order)

    assert isinstance(command, ScheduleActivity)
    assert (command.name, command.input) == ("charge-card", b'["4",5]')
    assert (command.start_to_close_s, command.retry.max_attempts) == (10.0, 5)


def test_options_of_one_call_override_and_leave_the_rest() -> None:
    async def order() -> None:
        await charge.options(task_queue="slow", heartbeat_timeout=timedelta(seconds=3))("4", 5)

    (command,) = _first_commands(order)

    assert (command.task_queue, command.heartbeat_s, command.start_to_close_s) == ("slow", 3.0, 10.0)
    assert definition_of(charge).options.task_queue is None  # type: ignore[union-attr]


def test_a_default_argument_is_filled_in_when_a_later_one_is_named() -> None:
    @activity.defn
    async def three(a: int, b: int = 2, c: int = 3) -> None: ...

    async def order() -> None:
        await three(1, c=5)

    assert _first_commands(order)[0].input == b"[1,2,5]"


# -- what a running activity may ask


def _context(**task: Any) -> ActivityContext:
    fields = {
        "run_id": "r",
        "seq": 1,
        "fence": 2,
        "workflow_id": "w",
        "workflow_type": "order",
        "activity_id": "1",
        "name": "greet",
        "task_queue": "q",
        "attempt": 3,
        "scheduled_at": 10.0,
        "started_at": 20.0,
        "lease_s": 10.0,
    }
    return ActivityContext(
        ActivityTask(**(fields | task)),
        namespace="main",
        converter=DataConverter.default,
        heartbeat=lambda *details: None,
        worker_stopping=Flag(),
    )


def test_an_activity_can_ask_about_itself() -> None:
    token = current.set(_context(heartbeat_s=5.0, heartbeat_details=b'[7,"x"]'))
    try:
        info = activity.info()

        assert activity.in_activity()
        assert (info.activity_type, info.attempt, info.workflow_id, info.workflow_type) == (
            "greet",
            3,
            "w",
            "order",
        )
        assert list(info.heartbeat_details) == [7, "x"]
        assert info.heartbeat_timeout == timedelta(seconds=5)
        assert info.started_time.timestamp() == 20.0
        assert info.in_workflow
        assert activity.payload_converter() is DataConverter.default.payload_converter
        with pytest.raises(RuntimeError, match="No client available"):
            activity.client()
    finally:
        current.reset(token)


def test_outside_of_an_activity_the_questions_are_refused() -> None:
    assert not activity.in_activity()
    for ask in (activity.info, activity.heartbeat, activity.is_cancelled, activity.is_worker_shutdown):
        with pytest.raises(RuntimeError, match="Not in activity context"):
            ask()


def test_log_records_tell_which_activity_wrote_them(caplog: pytest.LogCaptureFixture) -> None:
    token = current.set(_context())
    try:
        with caplog.at_level(logging.INFO):
            activity.logger.info("working", extra={"mine": 1})
    finally:
        current.reset(token)

    (record,) = caplog.records
    assert "'workflow_id': 'w'" in record.getMessage()
    assert (record.mine, record.holdfast_activity["attempt"]) == (1, 3)  # type: ignore[attr-defined]


# -- flags and threads


async def test_a_flag_wakes_coroutines_and_threads() -> None:
    flag = Flag()
    waiting = asyncio.create_task(flag.wait())
    in_thread = asyncio.create_task(asyncio.to_thread(flag.wait_in_thread, 30.0))
    await asyncio.sleep(0)

    assert not flag.wait_in_thread(0)
    flag.set()

    assert await in_thread
    await waiting
    await flag.wait()
    assert flag.wait_in_thread(None)


def _run_in_thread(work: Any) -> list[str]:
    said: list[str] = []
    thread = threading.Thread(target=work, args=(said,))
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    return said


def test_a_synchronous_activity_is_interrupted() -> None:
    canceller, began = ThreadCanceller(), threading.Event()

    def work(said: list[str]) -> None:
        try:
            with canceller.running():
                began.set()
                while True:
                    pass
        except CancelledError:
            said.append("cancelled")

    threading.Thread(target=lambda: (began.wait(), canceller.cancel())).start()

    assert _run_in_thread(work) == ["cancelled"]


def test_a_shield_puts_the_interruption_off_to_its_end() -> None:
    canceller = ThreadCanceller()

    def work(said: list[str]) -> None:
        try:
            with canceller.running(), canceller.shield():
                with canceller.shield():
                    canceller.cancel()
                    said.append("inner")
                said.append("outer")
        except CancelledError:
            said.append("cancelled")

    assert _run_in_thread(work) == ["inner", "outer", "cancelled"]


def test_an_interruption_that_comes_too_late_does_not_hit_the_threads_next_activity() -> None:
    canceller = ThreadCanceller()

    def work(said: list[str]) -> None:
        with canceller.running():
            pass
        canceller.cancel()
        for _ in range(1000):
            pass
        said.append("untouched")

    assert _run_in_thread(work) == ["untouched"]


def test_an_interruption_before_the_start_keeps_the_code_from_running() -> None:
    canceller = ThreadCanceller()
    canceller.cancel()

    def work(said: list[str]) -> None:
        try:
            with canceller.running():
                said.append("ran")
        except CancelledError:
            said.append("cancelled")

    assert _run_in_thread(work) == ["cancelled"]
