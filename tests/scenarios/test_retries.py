"""What fails is tried again as its policy says, and the workflow sees how it ended."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from holdfast import activity, workflow
from holdfast.common import RetryPolicy
from holdfast.exceptions import ActivityError, ApplicationError, ApplicationErrorCategory, RetryState
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import (
    A_MINUTE,
    AT_ONCE,
    ONCE,
    event_types,
    failure,
    outcome,
    seconds,
    told,
    worker,
)


class Flaky:
    """An activity that raises what it was made with, in turn, and then returns its attempt."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.at: list[float] = []

    @activity.defn
    async def flaky(self) -> int:
        # The service's time: where time is skipped, no clock of this machine sees the wait.
        self.at.append(activity.info().started_time.timestamp())
        if self.errors:
            raise self.errors.pop(0)
        return activity.info().attempt

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.at, self.at[1:], strict=False)]


async def attempt(env: WorkflowEnvironment, flaky: Flaky, **options: Any) -> Any:
    @workflow.defn
    async def calls() -> int:
        return await flaky.flaky.options(**{"start_to_close_timeout": A_MINUTE, **options})()

    return await outcome(env, calls, activities=[flaky.flaky])


async def test_maximum_attempts_counts_the_first(env: WorkflowEnvironment) -> None:
    flaky = Flaky(*(ValueError(str(number)) for number in range(10)))
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=5), maximum_attempts=3)

    error = await failure(attempt(env, flaky, retry_policy=policy))

    assert told(error) == [
        ["ActivityError", "Activity task failed", "MAXIMUM_ATTEMPTS_REACHED"],
        ["ApplicationError", "2", "ValueError", []],
    ]
    assert len(flaky.at) == 3


async def test_without_a_maximum_an_activity_is_tried_until_it_succeeds(env: WorkflowEnvironment) -> None:
    flaky = Flaky(*(OSError(str(number)) for number in range(12)))

    assert await attempt(env, flaky, retry_policy=AT_ONCE) == 13


async def test_waits_grow_by_the_coefficient_up_to_the_maximum(env: WorkflowEnvironment) -> None:
    flaky = Flaky(*(OSError() for _ in range(4)))
    policy = RetryPolicy(
        initial_interval=timedelta(milliseconds=50),
        backoff_coefficient=2,
        maximum_interval=timedelta(milliseconds=150),
    )

    await attempt(env, flaky, retry_policy=policy)

    for gap, least in zip(flaky.gaps, [0.05, 0.1, 0.15, 0.15], strict=True):
        assert least <= gap < least + 1.5


@pytest.mark.parametrize(
    ("error", "types"),
    [
        (ApplicationError("no", type="Fatal"), ["Fatal"]),
        (KeyError("no"), ["KeyError"]),
        (ApplicationError("no", non_retryable=True), []),
    ],
    ids=["by its own type", "by its class", "by itself"],
)
async def test_what_is_not_retryable_fails_at_once(
    env: WorkflowEnvironment, error: Exception, types: list[str]
) -> None:
    flaky = Flaky(error, error)
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=5), non_retryable_error_types=types)

    caught = await failure(attempt(env, flaky, retry_policy=policy))

    assert isinstance(caught, ActivityError)
    assert caught.retry_state == RetryState.NON_RETRYABLE_FAILURE
    assert len(flaky.at) == 1


async def test_an_error_may_say_itself_when_to_try_again(env: WorkflowEnvironment) -> None:
    soon = ApplicationError("later", next_retry_delay=timedelta(milliseconds=300))
    flaky = Flaky(soon, OSError())
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1)

    assert await attempt(env, flaky, retry_policy=policy) == 3

    assert 0.3 <= flaky.gaps[0] < 1.8
    assert flaky.gaps[1] < flaky.gaps[0]


async def test_a_retry_that_cannot_begin_before_the_end_is_not_waited_for(env: WorkflowEnvironment) -> None:
    flaky = Flaky(ApplicationError("first", type="First"))
    began = time.monotonic()

    error = await failure(
        attempt(
            env,
            flaky,
            start_to_close_timeout=None,
            schedule_to_close_timeout=seconds(20),
            retry_policy=RetryPolicy(initial_interval=seconds(30)),
        )
    )

    assert time.monotonic() - began < 10
    assert told(error) == [
        ["ActivityError", "Activity task failed", "TIMEOUT"],
        ["ApplicationError", "first", "First", []],
    ]


async def test_the_activity_error_says_which_activity_where_and_by_whom(env: WorkflowEnvironment) -> None:
    flaky = Flaky(OSError("x"))

    @workflow.defn
    async def calls() -> None:
        await workflow.execute_activity_method(
            Flaky.flaky, activity_id="a-7", start_to_close_timeout=A_MINUTE, retry_policy=ONCE
        )

    async with worker(env.client, calls, activities=[flaky.flaky], identity="me") as running:
        handle = await env.client.start_workflow(calls, id="which", task_queue="stage")
        error = await failure(handle.result())

    history = (await handle.fetch_history()).events
    assert isinstance(error, ActivityError)
    assert (error.activity_type, error.activity_id, error.identity) == ("flaky", "a-7", running.identity)
    assert history[error.scheduled_event_id - 1].event_type == "ActivityScheduled"


async def test_an_exceptions_own_causes_come_along_with_their_stacks(env: WorkflowEnvironment) -> None:
    @activity.defn
    def nested() -> None:
        try:
            {}["deep"]
        except KeyError as error:
            raise RuntimeError("outer") from error

    @workflow.defn
    async def calls() -> None:
        await nested.options(retry_policy=ONCE)()

    error = await failure(outcome(env, calls, activities=[nested]))

    assert told(error)[1:] == [
        ["ApplicationError", "outer", "RuntimeError", []],
        ["ApplicationError", "'deep'", "KeyError", []],
    ]
    assert error.__cause__ is not None
    assert "in nested" in error.__cause__.failure.stack  # type: ignore[attr-defined]


async def test_a_workflow_may_handle_a_failure_and_go_on(env: WorkflowEnvironment) -> None:
    flaky = Flaky(ApplicationError("declined", type="Declined", non_retryable=True))

    @workflow.defn
    async def compensates() -> str:
        try:
            await flaky.flaky()
        except ActivityError as error:
            assert isinstance(error.cause, ApplicationError)
            if error.cause.type == "Declined":
                return f"compensated, then attempt {await flaky.flaky()}"
            raise
        return "never"

    result = await outcome(env, compensates, activities=[flaky.flaky])
    assert result == "compensated, then attempt 1"


async def test_retries_are_not_history(env: WorkflowEnvironment) -> None:
    flaky = Flaky(*(OSError() for _ in range(5)))
    await attempt(env, flaky, retry_policy=AT_ONCE)

    types = await event_types(env.client.get_workflow_handle("run"))

    assert types.count("ActivityScheduled") == types.count("ActivityCompleted") == 1
    assert len(types) == 6


@pytest.mark.parametrize("number", [1, 2])
async def test_an_error_that_the_workflow_raises_is_its_failure(
    env: WorkflowEnvironment, number: int
) -> None:
    @workflow.defn
    async def fails(number: int) -> None:
        error = ApplicationError(
            f"failed {number}", number, type="Mine", category=ApplicationErrorCategory.BENIGN
        )
        if number == 1:
            raise error
        raise error from ValueError("because")

    error = await failure(outcome(env, fails, number))

    expected: list[list[Any]] = [["ApplicationError", f"failed {number}", "Mine", [number]]]
    if number == 2:
        expected.append(["ApplicationError", "because", "ValueError", []])
    assert told(error) == expected
    assert isinstance(error, ApplicationError)
    assert error.category == ApplicationErrorCategory.BENIGN


async def test_one_failure_of_many_gathered_is_seen_and_the_rest_may_end(env: WorkflowEnvironment) -> None:
    done: list[int] = []

    @activity.defn
    async def odd_ones_fail(number: int) -> int:
        if number % 2:
            raise ApplicationError(str(number), non_retryable=True)
        done.append(number)
        return number

    @workflow.defn
    async def all_of_them() -> list[str]:
        results = await asyncio.gather(*(odd_ones_fail(n) for n in range(6)), return_exceptions=True)
        return [str(r.__cause__) if isinstance(r, BaseException) else str(r) for r in results]

    result = await outcome(env, all_of_them, activities=[odd_ones_fail])

    assert result == ["0", "1", "2", "3", "4", "5"]
    assert sorted(done) == [0, 2, 4]
