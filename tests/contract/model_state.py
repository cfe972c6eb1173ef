"""What the model of the store holds, in plain dicts, and the questions that several of its methods ask.

Every method runs from its first line to its last without waiting, so nothing here needs a lock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import msgspec

from holdfast.exceptions import Invalid, NotFound
from holdfast.store.contract.door import check_address, check_moment_if_any
from holdfast.wire.records import (
    TERMINAL_STATUSES,
    ApiKeyRecord,
    WorkflowActivity,
    WorkflowEvent,
    WorkflowRecord,
    WorkflowSchedule,
    WorkflowSignal,
    WorkflowSnapshot,
    WorkflowTimer,
    WorkflowWorker,
)

replace = msgspec.structs.replace


class Tick(float):
    """A time that the clock gave, not an argument: another clock's answer to the same call differs a little."""


class Merged(str):
    """JSON text that the store wrote, not the caller: equal when it means the same."""


@dataclass(slots=True, eq=False)
class Run:
    """A run with all that belongs to it. `closed_at` counts once it is closed."""

    record: WorkflowRecord
    closed_at: float = 0.0
    ready_at: float | None = None
    worker: str | None = None
    beat_at: float | None = None
    events: dict[int, WorkflowEvent] = field(default_factory=dict)
    activities: dict[int, WorkflowActivity] = field(default_factory=dict)
    stopping: set[int] = field(default_factory=set)
    timers: dict[int, WorkflowTimer] = field(default_factory=dict)
    timer_states: dict[int, Literal["open", "fired", "cancelled"]] = field(default_factory=dict)
    signals: list[WorkflowSignal] = field(default_factory=list)
    snapshots: dict[int, WorkflowSnapshot] = field(default_factory=dict)

    @property
    def is_closed(self) -> bool:
        return self.record.status in TERMINAL_STATUSES

    def set(self, **fields: Any) -> None:
        """Change the record."""
        self.record = replace(self.record, **fields)


class State:
    """Everything in the store. *clock* is the database's, *number* and *run_id* give what a new row is called."""

    def __init__(
        self,
        clock: Callable[[], float],
        number: Callable[[], int] | None = None,
        run_id: Callable[[], str] | None = None,
    ) -> None:
        numbers = count(1)
        self._clock = clock
        self.number = number or (lambda: next(numbers))
        self.run_id = run_id or (lambda: f"0190{next(numbers):04x}-0000-7000-8000-000000000000")
        self.changes = 0
        self.namespaces: dict[str, float] = {"main": Tick(clock())}
        self.runs: dict[str, Run] = {}
        self.schedules: dict[tuple[str, str], WorkflowSchedule] = {}
        self.workers: dict[str, WorkflowWorker] = {}
        self.keys: dict[str, tuple[str, ApiKeyRecord]] = {}
        self.has_scheduler_lock = False

    def now(self) -> Tick:
        """The clock's time."""
        return Tick(self._clock())

    def changed(self, times: int = 1) -> None:
        """Count changes: as many as the journal is to tell of."""
        self.changes += times

    def find(self, namespace: str, workflow_id: str, run_id: str | None) -> Run | None:
        """The newest run of the id, or *run_id* if it is one of its runs. Raises `Invalid` for what is no name."""
        check_address(namespace, workflow_id, run_id)
        named = [
            (key, run)
            for key, run in self.runs.items()
            if run.record.namespace == namespace and run.record.id == workflow_id and run_id in (None, key)
        ]
        return max(named, key=lambda item: item[0])[1] if named else None

    def known(self, namespace: str, workflow_id: str, run_id: str | None) -> Run:
        """As `find`. Raises `NotFound`."""
        run = self.find(namespace, workflow_id, run_id)
        if run is None:
            raise NotFound(workflow_id)
        return run

    def wall(self, worker_id: str, namespace: str) -> str | None:
        """The namespace whose work that worker may have; None if that one was deleted."""
        registered = self.workers.get(worker_id)
        name = registered.namespace if registered else namespace
        return name if name in self.namespaces else None

    def heard_at(self, worker_id: str) -> float:
        """When that worker was last heard of, if it is registered."""
        who = self.workers.get(worker_id)
        return -math.inf if who is None else who.last_heartbeat

    def slots(self, worker_id: str, kind: str) -> tuple[list[str] | None, float]:
        """Which workflows or activities, by *kind*, that worker takes, None for any, and how many at a time."""
        who = self.workers.get(worker_id)
        if who is None:
            return None, math.inf
        return getattr(who, kind) or None, getattr(who, f"max_concurrent_{kind}")

    def activity(self, number: int) -> tuple[Run, WorkflowActivity] | None:
        """The activity with that number of the store's."""
        return next(((run, a) for run, a in self.all_activities() if a.id == number), None)

    def all_activities(self) -> Iterator[tuple[Run, WorkflowActivity]]:
        """Every activity with its run."""
        return ((run, activity) for run in self.runs.values() for activity in run.activities.values())


def check_moments(**moments: float | None) -> None:
    """Every one is a time, or None."""
    for name, at in moments.items():
        check_moment_if_any(name, at)


def json_object(text: str) -> dict[str, Any]:
    """What *text* means. Raises `Invalid` unless it is an object that every reader and Postgres can take."""
    try:
        value = json.loads(text, parse_constant=_refused)
        whole = json.dumps(value, ensure_ascii=False)
        whole.encode()
    except (ValueError, RecursionError) as error:
        raise Invalid(str(error)) from None
    if not isinstance(value, dict) or "\\u0000" in whole or "\x00" in text:
        raise Invalid("not an object, or one with a NUL")
    return value


def _refused(text: str) -> float:
    raise ValueError(text)


def contains(whole: Any, part: Any) -> bool:
    """Whether JSON *whole* has everything that *part* has, with the same types: Postgres's `@>`."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(whole, list) and isinstance(part, list):
        return all(any(contains(has, wanted) for has in whole) for wanted in part)
    if isinstance(whole, bool) or isinstance(part, bool):
        return whole is part
    if isinstance(whole, int | float) and isinstance(part, int | float):
        return whole == part
    return type(whole) is type(part) and bool(whole == part)


def same(found: Any, expected: Any) -> bool:
    """Whether what the store gave is what the model *expected*: `Tick`s within a minute, `Merged` by meaning."""
    match expected:
        case Tick():
            return isinstance(found, float) and abs(found - expected) < 60
        case Merged():
            return isinstance(found, str) and json.loads(found) == json.loads(expected)
        case list():
            return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
        case msgspec.Struct():
            return type(found) is type(expected) and all(
                same(getattr(found, name), getattr(expected, name)) for name in expected.__struct_fields__
            )
    if isinstance(expected, bool) or not isinstance(expected, int | float):
        return type(found) is type(expected) and bool(found == expected)
    return isinstance(found, int | float) and not isinstance(found, bool) and found == expected
