"""The rows a run must have, rebuilt from its history alone: slow, obvious, and nothing of the service's own code.

`differences` holds the rows that are there against it, column by column. What history cannot say (leases,
backoffs, progress, who has the run in a cache) is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.wire import events as e
from tests.invariants.vocabulary import Read, Row, Snapshot, decoded

CLOSED_AS: dict[type[Any], str] = {
    e.WorkflowCompleted: "COMPLETED",
    e.WorkflowFailed: "FAILED",
    e.WorkflowCancelled: "CANCELLED",
    e.WorkflowTerminated: "TERMINATED",
    e.WorkflowTimedOut: "TIMED_OUT",
}
SETTLED_AS: dict[type[Any], str] = {
    e.ActivityCompleted: "COMPLETED",
    e.ActivityFailed: "FAILED",
    e.ActivityTimedOut: "FAILED",
    e.ActivityCancelled: "CANCELLED",
}
# Each command leaves one of these, in the batch it was part of and nowhere else.
OF_COMMANDS = (
    e.ActivityScheduled,
    e.ActivityCancelRequested,
    e.TimerStarted,
    e.TimerCancelled,
    e.MarkerRecorded,
    e.SearchAttributesUpserted,
    e.MemoUpserted,
    e.WorkflowCompleted,
    e.WorkflowFailed,
    e.WorkflowCancelled,
)
NOTHING_TO_SEE = (e.WorkflowTaskCompleted, e.WorkflowTaskFailed)


class Expected:
    """What the rows of one run must say."""

    def __init__(self) -> None:
        self.run: dict[str, Any] = {
            "last_message_seq": 0,
            "command_seq": 0,
            "done_marker": 0,
            "done_head": 0,
            "is_cancel_requested": False,
            "task_failure_cause": None,
            "closed_at": None,
        }
        self.activities: dict[int, dict[str, Any]] = {}
        self.timers: dict[int, dict[str, Any]] = {}
        self.unseen = False
        self.closed_as: str | None = None
        self.markers = 0


def differences(snapshot: Snapshot) -> Iterator[str]:
    """What is wrong, one line each: rows that differ from their history, and batches that are not whole."""
    tasks, activities, timers = (
        by_run(rows) for rows in (snapshot.tasks, snapshot.activities, snapshot.timers)
    )
    for run_id, run in snapshot.runs.items():
        reads = decoded(snapshot.events.get(run_id, []))
        if any(read.event is None for read in reads):
            yield f"fold: run {run_id} has an event that cannot be decoded"
            continue
        yield from _batches(run_id, reads)
        try:
            expected = fold(reads)
        except KeyError as error:
            yield f"fold: run {run_id} settles {error}, which it never opened"
            continue
        yield from _run(run, expected)
        yield from _rows("activity", run_id, expected.activities, activities.get(run_id, {}))
        yield from _rows("timer", run_id, expected.timers, timers.get(run_id, {}))
        yield from _tasks(run_id, expected, set(tasks.get(run_id, {})))


def fold(reads: list[Read]) -> Expected:
    """What the history of one run leaves behind. Raises KeyError for something settled that was never opened."""
    is_, batch_ends = Expected(), 0
    unseen: list[int] = []
    for read in reads:
        row, event = read.row, read.event
        is_.run |= {"last_seq": row.seq, "last_at": row.recorded_at}
        _fold_run(is_, row, event)
        _fold_work(is_, row, event)
        if isinstance(event, e.WorkflowTaskCompleted):
            batch_ends = row.seq + event.events
            # What arrived between what the code saw and its marker is still to be seen.
            unseen = [seq for seq in unseen if seq > event.seen_seq]
        elif row.seq > batch_ends and not isinstance(event, NOTHING_TO_SEE):
            unseen.append(row.seq)
    is_.unseen = bool(unseen)
    opened = [a for a in is_.activities.values() if a["closed_at"] is None]
    is_.run["open_activities"] = len(opened)
    is_.run["open_timers"] = sum(t["state"] == 0 for t in is_.timers.values())
    if is_.closed_as is not None:
        # Whatever was open ends with the run; the counts stay as the close found them.
        for activity in opened:
            activity |= {"status": "CANCELLED", "closed_at": ...}
        for timer in is_.timers.values():
            timer["state"] = timer["state"] or 2
    return is_


def _fold_run(is_: Expected, row: Row, event: Any) -> None:
    match event:
        case e.WorkflowStarted():
            is_.run |= {
                "workflow_id": event.workflow_id,
                "workflow_type": event.workflow_type,
                "task_queue": event.task_queue,
                "request_id": event.request_id,
                "created_at": row.recorded_at,
            }
        case e.WorkflowTaskCompleted():
            is_.markers += 1
            is_.run |= {
                "done_marker": row.seq,
                "done_head": row.seq + event.events,
                "task_failure_cause": None,
            }
        case e.WorkflowTaskFailed():
            is_.run["task_failure_cause"] = event.cause
        case e.SignalReceived():
            is_.run["last_message_seq"] = row.seq
        case e.WorkflowCancelRequested():
            is_.run |= {"last_message_seq": row.seq, "is_cancel_requested": True}
    if type(event) in CLOSED_AS:
        is_.closed_as = CLOSED_AS[type(event)]
        is_.run["closed_at"] = row.recorded_at


def _fold_work(is_: Expected, row: Row, event: Any) -> None:
    match event:
        case e.WorkflowStarted():
            # The limit that ends first is a timer that no command can name; it begins behind the start delay.
            limits = {0: event.run_timeout_s, -1: event.execution_timeout_s}
            seconds, seq = (
                min((s, n) for n, s in limits.items() if s is not None) if any(limits.values()) else (0, 1)
            )
            if seconds:
                ends = row.recorded_at.timestamp() + event.start_delay_s + seconds
                is_.timers[seq] = {"fire_at": ends, "state": 0}
        case e.ActivityScheduled():
            is_.run["command_seq"] = max(is_.run["command_seq"], event.seq)
            is_.activities[event.seq] = {
                "activity_id": event.activity_id,
                "name": event.name,
                "task_queue": event.task_queue,
                "scheduled_seq": row.seq,
                "scheduled_at": row.recorded_at,
                "is_cancel_requested": False,
                "status": "PENDING",
                "closed_at": None,
            }
        case e.ActivityCancelRequested():
            is_.activities[event.seq]["is_cancel_requested"] = True
        case e.ActivityCompleted() | e.ActivityFailed() | e.ActivityTimedOut() | e.ActivityCancelled():
            is_.activities[event.seq] |= {"status": SETTLED_AS[type(event)], "closed_at": row.recorded_at}
            if not isinstance(event, e.ActivityCancelled):
                is_.activities[event.seq]["attempt"] = event.attempt
        case e.TimerStarted():
            is_.run["command_seq"] = max(is_.run["command_seq"], event.seq)
            is_.timers[event.seq] = {"fire_at": event.fire_at, "state": 0}
        case e.TimerFired():
            is_.timers[event.seq]["state"] = 1
        case e.TimerCancelled():
            is_.timers[event.seq]["state"] = 2


def _batches(run_id: str, reads: list[Read]) -> Iterator[str]:
    """A marker is followed by exactly as many events of commands as it says; there are no others."""
    left = 0
    marker = 0
    for read in reads:
        is_of_command = isinstance(read.event, OF_COMMANDS)
        if left and not is_of_command:
            yield f"batch_whole: run {run_id}: event {read.row.seq} ({read.row.type}) stands in the batch of {marker}"
        if not left and is_of_command:
            yield f"batch_whole: run {run_id}: event {read.row.seq} ({read.row.type}) belongs to no batch"
        left = max(left - 1, 0)
        if isinstance(read.event, e.WorkflowTaskCompleted):
            marker, left = read.row.seq, read.event.events
            if read.event.seen_seq >= marker:
                yield f"batch_whole: run {run_id}: marker {marker} has seen event {read.event.seen_seq}"
    if left:
        yield f"batch_whole: run {run_id}: {left} events are missing behind marker {marker}"


def _run(run: Row, expected: Expected) -> Iterator[str]:
    yield from _differ(f"run {run.run}", expected.run, run)
    allowed = {expected.closed_as} if expected.closed_as else {"RUNNING"}
    if not expected.closed_as and not expected.markers:
        # Whether a worker has claimed it yet is not history.
        allowed = {"PENDING", "RUNNING"}
    if run.status not in allowed:
        yield f"fold: run {run.run}: status is {run.status}, history says {' or '.join(sorted(allowed))}"


def by_run(rows: list[Row]) -> dict[str, dict[int, Row]]:
    """The rows of each run, by their numbers."""
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        found.setdefault(row.run, {})[row.seq] = row
    return found


def _rows(
    kind: str, run_id: str, expected: dict[int, dict[str, Any]], found: dict[int, Row]
) -> Iterator[str]:
    if set(found) != set(expected):
        yield f"fold: run {run_id} has {kind} rows {sorted(found)}, history opened {sorted(expected)}"
    for seq in set(found) & set(expected):
        yield from _differ(f"{kind} {seq} of run {run_id}", expected[seq], found[seq])


def _tasks(run_id: str, expected: Expected, found: set[int]) -> Iterator[str]:
    wanted: set[int] = set()
    if expected.closed_as is None:
        wanted = {seq for seq, activity in expected.activities.items() if activity["closed_at"] is None}
        if expected.unseen:
            wanted.add(0)
    if found != wanted:
        yield f"fold: run {run_id} has tasks {sorted(found)}, history wants {sorted(wanted)} (0: the workflow task)"


def _differ(what: str, expected: dict[str, Any], row: Row) -> Iterator[str]:
    for column, value in expected.items():
        is_there = getattr(row, column)
        if value is ... and is_there is not None:
            continue
        if isinstance(value, float) and abs(is_there.timestamp() - value) < 1e-5:
            continue
        if is_there != value and not (column == "status" and {is_there, value} == {"PENDING", "RUNNING"}):
            yield f"fold: {what}: {column} is {is_there!r}, history says {value!r}"
