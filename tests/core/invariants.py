"""What must hold of a run after every step, told from its history and rows alone.

An independent second opinion: nothing here uses the service's own transition code.
"""

from __future__ import annotations

from typing import Any

from holdfast.wire import events as e
from tests.core.story import Story

SETTLING = (e.ActivityCompleted, e.ActivityFailed, e.ActivityTimedOut, e.ActivityCancelled)
WAKING = (
    e.WorkflowStarted,
    *SETTLING,
    e.TimerFired,
    e.SignalReceived,
    e.WorkflowCancelRequested,
)
MESSAGES = (e.SignalReceived, e.WorkflowCancelRequested)
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


def check_history(run: Story) -> None:
    """Gapless, one start, at most one end and that the last, time never going back (H1, H3, H7)."""
    assert run.run.last_seq == len(run.history)
    assert isinstance(run.events[0], e.WorkflowStarted)
    assert run.count(e.WorkflowStarted) == 1
    closing = [index for index, event in enumerate(run.events) if type(event) in e.CLOSING]
    assert closing in ([], [len(run.events) - 1])
    assert run.run.is_open is not bool(closing)
    times = [at for at, _ in run.history]
    assert times == sorted(times)


def check_closed_owns_nothing(run: Story) -> None:
    """H4."""
    if run.run.is_open:
        return
    assert run.run.status == e.CLOSING[type(run.last)]
    assert run.tasks == {}
    assert all(activity.closed_at is not None for activity in run.activities.values())
    assert all(timer.state != 0 for timer in run.timers.values())


def check_batches(run: Story) -> None:
    """Every marker is followed by exactly the events it counts, each of a command (W3)."""
    for index, event in enumerate(run.events):
        if isinstance(event, e.WorkflowTaskCompleted):
            batch = run.events[index + 1 : index + 1 + event.events]
            assert len(batch) == event.events
            assert all(isinstance(item, OF_COMMANDS) for item in batch)
            assert 1 <= event.seen_seq <= index
            if batch and type(batch[-1]) in e.CLOSING:
                unseen = run.events[event.seen_seq : index]
                assert not any(isinstance(item, MESSAGES) for item in unseen), "closed over a message (G1)"


def check_settled_once(run: Story) -> None:
    """At most one end for everything that was opened, and only after it was opened (A1)."""
    open_activities: set[int] = set()
    open_timers: dict[int, float] = {}
    for at, event in run.history:
        match event:
            case e.ActivityScheduled():
                assert event.seq not in open_activities
                open_activities.add(event.seq)
            case e.TimerStarted():
                assert event.seq not in open_timers
                open_timers[event.seq] = event.fire_at
            case e.ActivityCompleted() | e.ActivityFailed() | e.ActivityTimedOut() | e.ActivityCancelled():
                open_activities.remove(event.seq)
            case e.ActivityCancelRequested():
                assert event.seq in open_activities
            case e.TimerCancelled():
                del open_timers[event.seq]
            case e.TimerFired():
                assert at >= open_timers.pop(event.seq), "a timer fired early (T1)"
    if run.run.is_open:
        _check_rows(run, open_activities, set(open_timers))


def _check_rows(run: Story, activities: set[int], timers: set[int]) -> None:
    """The rows are what the history says is open (H5)."""
    assert {seq for seq, row in run.activities.items() if row.closed_at is None} == activities
    assert {seq for seq, row in run.timers.items() if row.state == 0} == timers
    assert set(run.tasks) - {0} == activities
    assert (run.run.open_activities, run.run.open_timers) == (len(activities), len(timers))


def check_not_stuck(run: Story) -> None:
    """Whatever the code has not seen and must react to, there is a workflow task for it (D3)."""
    if not run.run.is_open:
        return
    seen, own = 0, range(0)
    for index, event in enumerate(run.events, 1):
        if isinstance(event, e.WorkflowTaskCompleted):
            seen, own = event.seen_seq, range(index, index + event.events + 1)
    unseen = [
        event
        for index, event in enumerate(run.events, 1)
        if index > seen and index not in own and isinstance(event, WAKING)
    ]
    assert run.task is not None or not unseen, f"nobody will react to {unseen}"


def check_leases(run: Story) -> None:
    """Whoever holds a task, something will be decided about it."""
    for task in run.tasks.values():
        assert (task.worker is None) == (task.lease_until is None)
        if task.worker is not None:
            assert task.deadline is not None


def check_signals(run: Story, acknowledged: list[str]) -> None:
    """Every acknowledged signal once, in the order of the acknowledgements, and no other (G1, G2)."""
    found = [event.request_id for event in run.events if isinstance(event, e.SignalReceived)]
    assert found == acknowledged


def check_all(run: Story, acknowledged: list[str]) -> None:
    """Every invariant."""
    checks: list[Any] = [
        check_history,
        check_closed_owns_nothing,
        check_batches,
        check_settled_once,
        check_not_stuck,
        check_leases,
    ]
    for check in checks:
        check(run)
    check_signals(run, acknowledged)
