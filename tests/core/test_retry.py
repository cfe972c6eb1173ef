"""Retry arithmetic: when, how often, and when not at all."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.retry import (
    MAXIMUM_ATTEMPTS,
    NO_TIME_LEFT,
    NON_RETRYABLE,
    next_attempt,
    retry_delay_s,
    task_delay_s,
)
from holdfast.wire.failures import Failure, RetryPolicy
from tests.core.story import BOOM, NOON

POLICIES = st.builds(
    RetryPolicy,
    initial_s=st.floats(0, 1e6),
    coefficient=st.floats(1, 1e6),
    max_s=st.none() | st.floats(0, 1e9),
)


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        ({}, [1, 2, 4, 8, 16, 32, 64, 100, 100]),
        ({"initial_s": 5.0, "coefficient": 1.0}, [5, 5, 5]),
        ({"initial_s": 1.0, "coefficient": 10.0, "max_s": 50.0}, [1, 10, 50, 50]),
        ({"initial_s": 0.0}, [0, 0, 0]),
        ({"initial_s": 2.0, "max_s": 1.0}, [1, 1]),
        ({"initial_s": 1.0, "max_s": 0.0}, [0, 0]),
    ],
    ids=str,
)
def test_delays_grow_to_their_maximum(policy: dict[str, Any], waits: list[float]) -> None:
    found = [retry_delay_s(RetryPolicy(**policy), attempt) for attempt in range(1, len(waits) + 1)]

    assert found == waits


@given(policy=POLICIES, attempt=st.integers(1, 100_000))
def test_a_delay_is_always_a_number_within_the_policy(policy: RetryPolicy, attempt: int) -> None:
    longest = policy.max_s if policy.max_s is not None else 100 * policy.initial_s

    assert 0 <= retry_delay_s(policy, attempt) <= longest


@given(policy=POLICIES, attempt=st.integers(1, 2_000))
def test_a_later_attempt_never_waits_less(policy: RetryPolicy, attempt: int) -> None:
    assert retry_delay_s(policy, attempt) <= retry_delay_s(policy, attempt + 1)


@pytest.mark.parametrize("attempt", [1_025, 10_000, 10**9])
def test_no_number_of_attempts_overflows(attempt: int) -> None:
    assert retry_delay_s(RetryPolicy(), attempt) == 100


def test_failed_workflow_tasks_wait_from_1_to_60_seconds() -> None:
    assert [task_delay_s(n) for n in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert task_delay_s(10**9) == 60


# -- whether at all -----------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [1, 2, 3, 1_000_000])
def test_without_a_maximum_there_is_always_another_attempt(attempt: int) -> None:
    at, why = next_attempt(RetryPolicy(), attempt, BOOM, NOON, None)

    assert at is not None
    assert at > NOON
    assert why == ""


@pytest.mark.parametrize(("attempt", "is_last"), [(1, False), (2, False), (3, True), (4, True)])
def test_the_maximum_counts_the_first_attempt(attempt: int, is_last: bool) -> None:
    at, why = next_attempt(RetryPolicy(max_attempts=3), attempt, BOOM, NOON, None)

    assert (at is None, why) == (is_last, MAXIMUM_ATTEMPTS if is_last else "")


def test_one_attempt_means_never_again() -> None:
    assert next_attempt(RetryPolicy(max_attempts=1), 1, BOOM, NOON, None) == (None, MAXIMUM_ATTEMPTS)


@pytest.mark.parametrize(
    ("failure", "is_final"),
    [
        (Failure(message="", non_retryable=True), True),
        (Failure(message="", type="Fatal"), True),
        (Failure(message="", type="fatal"), False),
        (Failure(message="Fatal"), False),
        (Failure(message="", type="Other", cause=Failure(message="", type="Fatal")), False),
    ],
    ids=str,
)
def test_only_the_failures_own_type_is_compared_and_exactly(failure: Failure, is_final: bool) -> None:
    at, why = next_attempt(RetryPolicy(non_retryable=("Fatal",)), 1, failure, NOON, None)

    assert (at is None, why) == (is_final, NON_RETRYABLE if is_final else "")


def test_a_non_retryable_failure_is_told_as_that_even_in_the_last_attempt() -> None:
    failure = Failure(message="", non_retryable=True)

    assert next_attempt(RetryPolicy(max_attempts=1), 1, failure, NOON, NOON)[1] == NON_RETRYABLE


@pytest.mark.parametrize(
    ("asked_s", "waits_s"),
    [
        (0.0, 0),
        (7.0, 7),
        (1e6, 1e6),
        (-5.0, 0),
        (math.inf, 3.2e9),
        (-math.inf, 0),
        (math.nan, 1),
        (1e300, 3.2e9),
    ],
)
def test_a_failures_own_delay_replaces_the_policys_as_far_as_it_is_one(
    asked_s: float, waits_s: float
) -> None:
    """It is user code's word: what no clock can hold is cut to what one can."""
    failure = Failure(message="busy", next_retry_delay_s=asked_s)

    at, _ = next_attempt(RetryPolicy(max_s=0.5 if math.isnan(asked_s) else None), 1, failure, NOON, None)

    assert at == NOON + (0.5 if math.isnan(asked_s) else waits_s)


def test_a_failures_own_delay_does_not_add_attempts() -> None:
    failure = Failure(message="busy", next_retry_delay_s=1.0)

    assert next_attempt(RetryPolicy(max_attempts=1), 1, failure, NOON, None) == (None, MAXIMUM_ATTEMPTS)


@pytest.mark.parametrize(("left_s", "is_made"), [(1.001, True), (1.0, False), (0.5, False), (-1.0, False)])
def test_an_attempt_must_begin_before_the_total_time_is_over(left_s: float, is_made: bool) -> None:
    at, why = next_attempt(RetryPolicy(), 1, BOOM, NOON, NOON + left_s)

    assert (at is not None, why) == (is_made, "" if is_made else NO_TIME_LEFT)


def test_a_failures_own_delay_must_fit_into_the_total_time_too() -> None:
    failure = Failure(message="busy", next_retry_delay_s=10.0)

    assert next_attempt(RetryPolicy(), 1, failure, NOON, NOON + 10) == (None, NO_TIME_LEFT)
