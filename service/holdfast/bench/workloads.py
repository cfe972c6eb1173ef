"""The workflows that are measured. The worker process of the benchmark loads this module."""

from __future__ import annotations

import time
from datetime import timedelta

from holdfast import activity, workflow


@activity.defn(start_to_close_timeout=timedelta(seconds=60))
async def double(number: int) -> int:
    """The least an activity can do."""
    return 2 * number


@workflow.defn
async def one(number: int) -> int:
    """One activity."""
    return await double(number)


@workflow.defn
async def five(number: int) -> int:
    """Five activities, each after the other."""
    for _ in range(5):
        number = await double(number)
    return number


@workflow.defn
async def moment(_: int) -> float:
    """When this code began, by the machine's monotonic clock. Ends with its first task, so it is never replayed."""
    return time.monotonic()
