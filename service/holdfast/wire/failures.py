"""How a failure travels: plain data, no exception objects, no class names to load.

`kind` says which exception family the SDK rebuilds; everything else is text or a
payload. Nothing here may carry environment or local variables.
"""

from __future__ import annotations

import msgspec

APPLICATION = "application"
CANCELLED = "cancelled"
TIMEOUT = "timeout"
ACTIVITY = "activity"
CHILD = "child"
TERMINATED = "terminated"
SERVER = "server"

# Timeout names, as users read them in errors and in `describe`.
START_TO_CLOSE = "start_to_close"
SCHEDULE_TO_START = "schedule_to_start"
SCHEDULE_TO_CLOSE = "schedule_to_close"
HEARTBEAT = "heartbeat"


def timeout_message(timeout: str) -> str:
    """What a failure of an activity's *timeout* says: "activity StartToClose timeout"."""
    return f"activity {timeout.title().replace('_', '')} timeout"


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a failed attempt is tried again. Times in seconds.

    `max_attempts` 0 means without limit; 1 means never again. `max_s` None means
    100 x `initial_s`.
    """

    initial_s: float = 1.0
    coefficient: float = 2.0
    max_s: float | None = None
    max_attempts: int = 0
    non_retryable: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One link of a failure chain.

    `type` is the application's own error name (what `non_retryable` lists compare
    with); `details` is JSON array text, one element per detail value, or empty.
    `timeout` is set for kind "timeout" only; the `activity_*` fields for kind
    "activity" only.
    """

    message: str
    kind: str = APPLICATION
    type: str | None = None
    stack: str = ""
    details: bytes = b""
    non_retryable: bool = False
    next_retry_delay_s: float | None = None
    category: str = ""
    timeout: str | None = None
    last_heartbeat: bytes = b""
    activity_type: str | None = None
    activity_id: str | None = None
    scheduled_seq: int = 0
    identity: str = ""
    retry_state: str | None = None
    cause: Failure | None = None
