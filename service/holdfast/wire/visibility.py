"""What is asked about many runs, and why one stands still. Data only.

| verb | request | response |
|---|---|---|
| count | Count | Counted |
| why | Why | Because |
"""

from __future__ import annotations

import msgspec

from holdfast.wire.messages import Message


class Count(Message, frozen=True, kw_only=True):
    """How many runs a filter matches; `GROUP BY ExecutionStatus` at its end counts each status."""

    query: str = ""


class Counted(Message, frozen=True, kw_only=True):
    """`groups` has a number per status if the filter asked for groups."""

    count: int
    groups: dict[str, int] = msgspec.field(default_factory=dict)


class Why(Message, frozen=True, kw_only=True):
    """Asks why a run does not move on."""

    workflow_id: str
    run_id: str | None = None


class Because(Message, frozen=True, kw_only=True):
    """One sentence that says it."""

    run_id: str
    sentence: str
