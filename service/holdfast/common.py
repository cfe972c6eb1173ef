"""Values that clients, workers and workflows share: retry policies, id policies, priorities.

Plain data with validation; nothing here talks to anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import ClassVar

from holdfast.sdk.search_attributes import (
    SearchAttributeIndexedValueType,
    SearchAttributeKey,
    SearchAttributePair,
    SearchAttributeUpdate,
    SearchAttributeValue,
    TypedSearchAttributes,
)
from holdfast.wire.payloads import Payload

__all__ = [
    "Priority",
    "RawValue",
    "RetryPolicy",
    "SearchAttributeIndexedValueType",
    "SearchAttributeKey",
    "SearchAttributePair",
    "SearchAttributeUpdate",
    "SearchAttributeValue",
    "TypedSearchAttributes",
    "WorkflowIDConflictPolicy",
    "WorkflowIDReusePolicy",
]


@dataclass
class RetryPolicy:
    """How often, and how long apart, something that failed is tried again."""

    initial_interval: timedelta = timedelta(seconds=1)
    """Wait before the second attempt."""

    backoff_coefficient: float = 2.0
    """Factor by which each wait grows over the one before."""

    maximum_interval: timedelta | None = None
    """Longest wait; 100 times `initial_interval` if None."""

    maximum_attempts: int = 0
    """Attempts in total, the first included; 0 means no limit."""

    non_retryable_error_types: Sequence[str] | None = None
    """Error types (`ApplicationError.type`, or an exception's class name) that are not tried again."""

    def validate(self) -> None:
        """Raise ValueError if the fields contradict each other. A policy of one attempt is always valid."""
        if self.maximum_attempts == 1:
            return
        if self.initial_interval < timedelta(0):
            raise ValueError("Initial interval cannot be negative")
        if self.backoff_coefficient < 1:
            raise ValueError("Backoff coefficient cannot be less than 1")
        if self.maximum_interval:
            if self.maximum_interval < timedelta(0):
                raise ValueError("Maximum interval cannot be negative")
            if self.maximum_interval < self.initial_interval:
                raise ValueError("Maximum interval cannot be less than initial interval")
        if self.maximum_attempts < 0:
            raise ValueError("Maximum attempts cannot be negative")


class WorkflowIDReusePolicy(IntEnum):
    """Whether a new run may take the id of a closed one."""

    ALLOW_DUPLICATE = 1
    ALLOW_DUPLICATE_FAILED_ONLY = 2
    REJECT_DUPLICATE = 3
    TERMINATE_IF_RUNNING = 4


class WorkflowIDConflictPolicy(IntEnum):
    """What a start does when a run with its id is still open. UNSPECIFIED means FAIL."""

    UNSPECIFIED = 0
    FAIL = 1
    USE_EXISTING = 2
    TERMINATE_EXISTING = 3


@dataclass(frozen=True)
class RawValue:
    """A payload that is passed through unconverted, as a parameter or as a result."""

    payload: Payload


@dataclass(frozen=True)
class Priority:
    """How urgent a task is among those that wait in its queue."""

    priority_key: int | None = None
    """1 (soonest) to 5; 3 if None."""

    fairness_key: str | None = None
    """Tasks of different keys take turns, whatever the length of their backlogs."""

    fairness_weight: float | None = None
    """Share of this key in the turns; 1.0 if None."""

    default: ClassVar[Priority]

    def __post_init__(self) -> None:
        if self.priority_key is None:
            return
        if not isinstance(self.priority_key, int):
            raise TypeError("priority_key must be an integer")
        if self.priority_key < 1:
            raise ValueError("priority_key must be a positive integer")


Priority.default = Priority()
