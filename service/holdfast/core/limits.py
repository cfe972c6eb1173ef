"""A run's own limits: how long it may take, and how long its first task waits. Pure.

A time limit is a row like a timer's, under a number that no command can use, so that the clock finds it as it finds
timers and closing the run settles it. Only the limit that ends first is kept.
"""

from __future__ import annotations

from typing import Final

from holdfast.core import state as s
from holdfast.wire import events as e

RUN: Final = 0
EXECUTION: Final = -1

NAMES: Final = {RUN: "run", EXECUTION: "execution"}
"""What `WorkflowTimedOut.timeout` says of each."""


def first_limit(started: e.WorkflowStarted, at: float) -> s.Timer | None:
    """The limit that ends first, of a run that started *at*; None if it may take for ever."""
    limits = [
        (seconds, seq)
        for seq, seconds in ((RUN, started.run_timeout_s), (EXECUTION, started.execution_timeout_s))
        if seconds is not None
    ]
    if not limits:
        return None
    seconds, seq = min(limits)
    return s.Timer(run_id="", seq=seq, fire_at=at + started.start_delay_s + seconds)


def is_delayed(state: s.RunState, now: float) -> bool:
    """Whether the run's first task waits for the end of the start delay."""
    task, run = state.task, state.run
    return task is not None and run.status == s.PENDING and task.worker is None and task.ready_at > now
