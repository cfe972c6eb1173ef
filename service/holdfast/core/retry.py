"""Retry arithmetic. Pure functions of a policy and a number of attempts."""

from __future__ import annotations

import math

from holdfast.wire.failures import Failure, RetryPolicy

TASK_BACKOFF_FIRST_S = 1.0
TASK_BACKOFF_MAX_S = 60.0
DELAY_MAX_S = 3.2e9
"""A century: what lies beyond is no time that a database could keep."""

# Why no further attempt was made, as it stands in events and errors.
NON_RETRYABLE = "non_retryable_failure"
MAXIMUM_ATTEMPTS = "maximum_attempts_reached"
NO_TIME_LEFT = "timeout"
CANCEL_REQUESTED = "cancel_requested"


def retry_delay_s(policy: RetryPolicy, attempt: int) -> float:
    """Seconds to wait after try number *attempt* (1 is the first).

    Grows by `policy.coefficient` up to `policy.max_s` (default 100 x initial). No jitter,
    so that this stays a function of its arguments.
    """
    longest = policy.max_s if policy.max_s is not None else 100 * policy.initial_s
    # Beyond ~1,000 attempts the power overflows a float long after it passed any sane maximum.
    try:
        delay = policy.initial_s * policy.coefficient ** (attempt - 1)
    except OverflowError:
        return longest
    return min(delay, longest)


def task_delay_s(attempt: int) -> float:
    """Seconds until a failed workflow task is tried again, after try number *attempt*: 1, 2, 4 … 60."""
    return TASK_BACKOFF_FIRST_S * 2.0 ** (attempt - 1) if attempt < 7 else TASK_BACKOFF_MAX_S


def next_attempt(
    policy: RetryPolicy, attempt: int, failure: Failure, now: float, close_by: float | None
) -> tuple[float | None, str]:
    """When to try again after try number *attempt* failed, or None with the reason why not.

    A try that could not begin before *close_by* (schedule-to-close) is not made at all.
    """
    if failure.non_retryable or (failure.type is not None and failure.type in policy.non_retryable):
        return None, NON_RETRYABLE
    if policy.max_attempts and attempt >= policy.max_attempts:
        return None, MAXIMUM_ATTEMPTS
    delay = failure.next_retry_delay_s
    # What a failure asks for is user input: NaN (which is below nothing) means the policy's own delay.
    is_given = delay is not None and not math.isnan(delay)
    at = now + (min(max(delay or 0.0, 0.0), DELAY_MAX_S) if is_given else retry_delay_s(policy, attempt))
    if close_by is not None and at >= close_by:
        return None, NO_TIME_LEFT
    return at, ""
