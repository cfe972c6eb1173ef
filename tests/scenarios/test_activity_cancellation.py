"""Cancelling activities: what the activity feels, and what the workflow that cancelled it sees."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.client import WorkflowExecutionStatus
from holdfast.exceptions import ActivityError, ApplicationError, CancelledError, is_cancelled_exception
from holdfast.testing import WorkflowEnvironment
from holdfast.workflow import ActivityCancellationType
from tests.scenarios.stage import (
    A_MINUTE,
    AT_ONCE,
    ONCE,
    PATIENCE_S,
    QUEUE,
    event_types,
    everything_seen,
    failure,
    told,
    worker,
)
from tests.sdk.patience import until

TRY = ActivityCancellationType.TRY_CANCEL
WAIT = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
ABANDON = ActivityCancellationType.ABANDON


@workflow.defn
class Canceller:
    """Starts the activity of that name, cancels it when told to, and says what came of it."""

    def __init__(self) -> None:
        self.may_cancel = False
        self.may_end = True

    @workflow.run
    async def run(self, name: str, kind: ActivityCancellationType) -> list[list[Any]] | Any:
        handle = workflow.start_activity(
            name, start_to_close_timeout=A_MINUTE, cancellation_type=kind, retry_policy=ONCE
        )
        await workflow.wait_condition(lambda: self.may_cancel)
        handle.cancel()
        try:
            return await handle
        except ActivityError as error:
            assert is_cancelled_exception(error) == isinstance(error.cause, CancelledError)
            return told(error)
        finally:
            await workflow.wait_condition(lambda: self.may_end)

    @workflow.signal
    def cancel(self) -> None:
        self.may_cancel = True

    @workflow.signal
    def hold(self) -> None:
        self.may_end = False

    @workflow.signal
    def end(self) -> None:
        self.may_end = True


async def start(env: WorkflowEnvironment, name: str, kind: ActivityCancellationType) -> Any:
    return await env.client.start_workflow(Canceller.run, args=[name, kind], id=name, task_queue=QUEUE)


CANCELLED = ["ActivityError", "Activity cancelled", "CANCEL_REQUESTED"]


async def test_try_cancel_goes_on_at_once_and_the_activity_hears_of_it_all_the_same(
    env: WorkflowEnvironment,
) -> None:
    began, heard, may_stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @activity.defn
    async def slow_to_stop() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            heard.set()
            await may_stop.wait()

    async with worker(env.client, Canceller, activities=[slow_to_stop]):
        handle = await start(env, "slow_to_stop", TRY)
        await began.wait()
        await handle.signal("hold")
        await handle.signal("cancel")
        await heard.wait()
        await handle.signal("end")

        assert await handle.result() == [CANCELLED, ["CancelledError", "Activity cancelled"]]
        may_stop.set()
        assert "ActivityCancelRequested" in await event_types(handle)


async def test_waiting_for_the_cancellation_gives_what_the_activity_left(env: WorkflowEnvironment) -> None:
    began = asyncio.Event()

    @activity.defn
    async def cleans_up() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise CancelledError("stopped at", "page", 7) from None

    async with worker(env.client, Canceller, activities=[cleans_up]):
        handle = await start(env, "cleans_up", WAIT)
        await began.wait()
        await handle.signal("cancel")
        assert await handle.result() == [CANCELLED, ["CancelledError", "Activity cancelled"]]

    (cancelled,) = [e for e in (await handle.fetch_history()).events if e.event_type == "ActivityCancelled"]
    assert cancelled.attributes["details"] == '["page",7]'


async def test_an_activity_that_fails_while_it_is_cancelled_is_seen_as_failed(
    env: WorkflowEnvironment,
) -> None:
    began = asyncio.Event()

    @activity.defn
    async def breaks() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ApplicationError("broke", type="Broke") from None

    async with worker(env.client, Canceller, activities=[breaks]):
        handle = await start(env, "breaks", WAIT)
        await began.wait()
        await handle.signal("cancel")

        assert await handle.result() == [
            ["ActivityError", "Activity task failed", "CANCEL_REQUESTED"],
            ["ApplicationError", "broke", "Broke", []],
        ]


async def test_an_abandoned_activity_runs_on_undisturbed(env: WorkflowEnvironment) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    @activity.defn
    async def undisturbed() -> None:
        began.set()
        try:
            await may_end.wait()
            ended.append("by itself")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with worker(env.client, Canceller, activities=[undisturbed]):
        handle = await start(env, "undisturbed", ABANDON)
        await began.wait()
        await handle.signal("hold")
        await handle.signal("cancel")
        await everything_seen(handle)
        may_end.set()
        await until(handle, lambda found: not found.pending_activities)
        await handle.signal("end")
        assert await handle.result() == [CANCELLED, ["CancelledError", "Activity cancelled"]]

    types = await event_types(handle)
    assert ended == ["by itself"]
    assert "ActivityCancelRequested" not in types
    assert "ActivityCompleted" in types


async def test_a_cancelled_activity_that_waits_for_its_retry_never_starts_again(
    env: WorkflowEnvironment,
) -> None:
    attempts = 0

    @activity.defn
    async def flaky() -> None:
        nonlocal attempts
        attempts += 1
        raise OSError("again")

    @workflow.defn
    async def gives_up() -> list[list[Any]]:
        handle = workflow.start_activity(flaky, start_to_close_timeout=A_MINUTE, cancellation_type=WAIT)
        await workflow.sleep(timedelta(milliseconds=300))
        handle.cancel()
        try:
            return await handle  # type: ignore[return-value]
        except ActivityError as error:
            return told(error)

    async with worker(env.client, gives_up, activities=[flaky]):
        result = await env.client.execute_workflow(gives_up, id="gives-up", task_queue=QUEUE)

    assert result == [CANCELLED, ["CancelledError", "Activity cancelled"]]
    assert attempts == 1


async def test_an_activity_that_nobody_has_taken_is_cancelled_without_a_worker(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def changes_its_mind() -> list[list[Any]]:
        handle = workflow.start_activity(
            "x", task_queue="nobody", start_to_close_timeout=A_MINUTE, cancellation_type=WAIT
        )
        await workflow.sleep(0.05)
        handle.cancel()
        try:
            return await handle  # type: ignore[no-any-return]
        except ActivityError as error:
            return told(error)

    async with worker(env.client, changes_its_mind):
        result = await env.client.execute_workflow(changes_its_mind, id="mind", task_queue=QUEUE)

    assert result == [CANCELLED, ["CancelledError", "Activity cancelled"]]


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_cancellation_reaches_an_activity_that_never_heartbeats_well_under_a_second(
    env: WorkflowEnvironment, kind: str
) -> None:
    began = threading.Event()
    felt: list[float] = []

    @activity.defn(name="silent")
    async def coroutine() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            felt.append(time.monotonic())

    @activity.defn(name="silent")
    def thread() -> None:
        began.set()
        try:
            while True:
                threading.Event().wait(0.005)
        finally:
            felt.append(time.monotonic())

    async with worker(env.client, Canceller, activities=[coroutine if kind == "coroutine" else thread]):
        handle = await start(env, "silent", WAIT)
        await asyncio.to_thread(began.wait, PATIENCE_S)
        asked = time.monotonic()
        await handle.signal("cancel")
        assert await handle.result() == [CANCELLED, ["CancelledError", "Activity cancelled"]]

    assert felt[0] - asked < 0.8


async def test_a_thread_may_shield_a_part_from_its_cancellation(env: WorkflowEnvironment) -> None:
    began, may_go_on = threading.Event(), threading.Event()
    done: list[str] = []

    @activity.defn
    def careful() -> None:
        with activity.shield_thread_cancel_exception():
            began.set()
            may_go_on.wait(PATIENCE_S)
            activity.wait_for_cancelled_sync(PATIENCE_S)
            done.append(f"shielded, cancelled: {activity.is_cancelled()}")
        done.append("after")

    async with worker(env.client, Canceller, activities=[careful]):
        handle = await start(env, "careful", WAIT)
        await asyncio.to_thread(began.wait, PATIENCE_S)
        await handle.signal("cancel")
        may_go_on.set()
        assert await handle.result() == [CANCELLED, ["CancelledError", "Activity cancelled"]]

    assert done == ["shielded, cancelled: True"]


async def test_a_thread_that_ignores_exceptions_may_ask_and_finish(env: WorkflowEnvironment) -> None:
    began = threading.Event()

    @activity.defn(no_thread_cancel_exception=True)
    def polite() -> str:
        began.set()
        activity.wait_for_cancelled_sync(PATIENCE_S)
        details = activity.cancellation_details()
        return f"finished, asked: {details.cancel_requested if details else None}"

    async with worker(env.client, Canceller, activities=[polite]):
        handle = await start(env, "polite", WAIT)
        await asyncio.to_thread(began.wait, PATIENCE_S)
        await handle.signal("cancel")

        assert await handle.result() == "finished, asked: True"


async def test_a_terminated_run_stops_its_activities(env: WorkflowEnvironment) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def orphan() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with worker(env.client, Canceller, activities=[orphan]):
        handle = await start(env, "orphan", WAIT)
        await began.wait()
        await handle.terminate()
        async with asyncio.timeout(5):
            await ended.wait()

    assert (await event_types(handle))[-1] == "WorkflowTerminated"


async def test_a_workflow_that_ends_stops_the_activities_it_left_running(env: WorkflowEnvironment) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def left_behind() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @workflow.defn
    async def leaves() -> str:
        workflow.start_activity(left_behind, start_to_close_timeout=A_MINUTE)
        await workflow.sleep(0.1)
        return "left"

    async with worker(env.client, leaves, activities=[left_behind]):
        assert await env.client.execute_workflow(leaves, id="leaves", task_queue=QUEUE) == "left"
        async with asyncio.timeout(5):
            await ended.wait()


async def test_cancelling_twice_or_too_late_changes_nothing(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def quick() -> str:
        return "done"

    @workflow.defn
    async def insists() -> list[Any]:
        handle = workflow.start_activity(quick, start_to_close_timeout=A_MINUTE)
        result = await handle
        return [handle.cancel(), handle.cancel(), result, await handle]

    async with worker(env.client, insists, activities=[quick]):
        handle = await env.client.start_workflow(insists, id="insists", task_queue=QUEUE)
        assert await handle.result() == [False, False, "done", "done"]

    assert "ActivityCancelRequested" not in await event_types(handle)


async def test_an_activity_that_loses_a_race_against_a_timeout_is_cancelled(env: WorkflowEnvironment) -> None:
    ended = asyncio.Event()

    @activity.defn
    async def racer() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @workflow.defn
    async def races() -> str:
        try:
            async with asyncio.timeout(0.2):
                await racer()
        except TimeoutError:
            return "too slow"
        return "never"

    async with worker(env.client, races, activities=[racer]):
        assert await env.client.execute_workflow(races, id="races", task_queue=QUEUE) == "too slow"
        async with asyncio.timeout(5):
            await ended.wait()


async def test_the_first_of_several_activities_wins_and_the_others_are_cancelled(
    env: WorkflowEnvironment,
) -> None:
    stopped: list[int] = []
    all_began = asyncio.Barrier(3)

    @activity.defn
    async def runner(number: int) -> int:
        await all_began.wait()
        if number == 1:
            return number
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(number)
        return -1

    @workflow.defn
    async def race() -> int:
        handles = [
            workflow.start_activity(
                runner, n, start_to_close_timeout=A_MINUTE, cancellation_type=WAIT, retry_policy=AT_ONCE
            )
            for n in range(3)
        ]
        done, pending = await workflow.wait(handles, return_when=asyncio.FIRST_COMPLETED)
        for handle in pending:
            handle.cancel()
        await workflow.wait(pending)
        return await done[0]

    async with worker(env.client, race, activities=[runner]):
        handle = await env.client.start_workflow(race, id="race", task_queue=QUEUE)
        assert await handle.result() == 1

    assert sorted(stopped) == [0, 2]
    assert (await event_types(handle)).count("ActivityCancelled") == 2
    assert (await handle.describe()).status == WorkflowExecutionStatus.COMPLETED


async def test_a_cancellation_that_nobody_asked_for_is_a_failed_attempt(env: WorkflowEnvironment) -> None:
    """Library code inside of the activity raises asyncio's CancelledError for reasons of its own."""

    @activity.defn
    async def confused() -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    @workflow.defn
    async def calls() -> None:
        await confused.options(retry_policy=ONCE)()

    async with worker(env.client, calls, activities=[confused]):
        error = await failure(env.client.execute_workflow(calls, id="confused", task_queue=QUEUE))

    assert told(error)[0] == ["ActivityError", "Activity task failed", "MAXIMUM_ATTEMPTS_REACHED"]
