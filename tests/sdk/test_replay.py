"""Replaying: turns cut from a history, what is seen when, and the error when code and history part."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from holdfast import workflow
from holdfast.exceptions import ApplicationError
from holdfast.sdk.replay import HistoryGap, NondeterminismError, activations, replay
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire.events import HistoryEvent
from tests.sdk.recorder import Recorder, completed, started


@workflow.defn
async def as_recorded() -> str:
    await workflow.execute_activity("reserve", activity_id="r")
    await asyncio.sleep(5)
    await workflow.execute_activity("ship")
    return "shipped"


@workflow.defn
async def swapped() -> None:
    await asyncio.sleep(5)
    await workflow.execute_activity("reserve", activity_id="r")


@workflow.defn
async def inserted() -> None:
    await workflow.execute_activity("reserve", activity_id="r")
    await workflow.execute_activity("audit")
    await asyncio.sleep(5)


@workflow.defn
async def removed() -> None:
    await workflow.execute_activity("reserve", activity_id="r")
    await workflow.execute_activity("ship")


@workflow.defn
async def renamed() -> None:
    await workflow.execute_activity("book", activity_id="r")


@workflow.defn
async def other_id() -> None:
    await workflow.execute_activity("reserve", activity_id="other")


@workflow.defn
async def ends_early() -> str:
    await workflow.execute_activity("reserve", activity_id="r")
    return "done"


@workflow.defn
async def waits_for_ever() -> None:
    await workflow.execute_activity("reserve", activity_id="r")
    await workflow.wait_condition(lambda: False)


@workflow.defn
async def asks_for_more() -> None:
    both = [workflow.start_activity("reserve", activity_id="r"), workflow.start_activity("audit")]
    await asyncio.gather(*both)


@workflow.defn
async def other_arguments() -> None:
    await workflow.execute_activity("reserve", "new argument", activity_id="r")
    await asyncio.sleep(500)
    await workflow.execute_activity("ship")


def recorded_history() -> list[HistoryEvent]:
    recorder = started(as_recorded)
    recorder.happen(e.ActivityCompleted(seq=1))
    recorder.turn()
    recorder.happen(e.TimerFired(seq=2))
    recorder.turn()
    recorder.close()
    return recorder.history


def replay_with(code: Any, history: list[HistoryEvent]) -> list[Any]:
    recorder = Recorder(code)
    run = recorder.run
    try:
        return list(run.activate(history, head_seq=history[-1].seq, now=history[-1].time))
    finally:
        run.close()


@pytest.mark.parametrize(
    ("code", "event_id", "expected", "actual", "place"),
    [
        (
            swapped,
            3,
            "ActivityScheduled(seq=1, name='reserve', activity_id='r')",
            "StartTimer(seq=1)",
            "swapped",
        ),
        (
            inserted,
            6,
            "TimerStarted(seq=2)",
            "ScheduleActivity(seq=2, name='audit', activity_id='2')",
            "inserted",
        ),
        (
            removed,
            6,
            "TimerStarted(seq=2)",
            "ScheduleActivity(seq=2, name='ship', activity_id='2')",
            "removed",
        ),
        (renamed, 3, "ActivityScheduled(seq=1, name='reserve', activity_id='r')", "name='book'", "renamed"),
        (other_id, 3, "activity_id='r'", "activity_id='other'", "other_id"),
        (ends_early, 6, "TimerStarted(seq=2)", "CompleteWorkflow()", None),
        (waits_for_ever, 6, "TimerStarted(seq=2)", None, "waits_for_ever"),
        (asks_for_more, 4, None, "ScheduleActivity(seq=2, name='audit', activity_id='2')", "asks_for_more"),
    ],
)
def test_code_that_parts_from_its_history_is_told_where_and_how(
    code: Any, event_id: int, expected: str | None, actual: str | None, place: str | None
) -> None:
    with pytest.raises(NondeterminismError) as caught:
        replay_with(code, recorded_history())

    error = caught.value
    assert error.event_id == event_id
    assert (expected or "None") in str(error.expected)
    assert (actual or "None") in str(error.actual)
    assert error.build_id == "build-1"
    assert f"event {event_id}: expected" in error.message
    assert "'build-1'" in error.message
    assert "workflow.patched()" in error.message
    if place is None:
        assert error.source_line is None
    else:
        assert error.source_line is not None
        assert "test_replay.py:" in error.source_line
        assert error.source_line.endswith(f"in {place}")
        assert error.source_line in error.message


def test_changed_arguments_and_delays_are_no_nondeterminism() -> None:
    """The recorded ones hold; only what is asked for, and in which order, is compared."""
    assert replay_with(other_arguments, recorded_history()) == []


def test_a_history_cut_short_inside_a_batch_is_reported() -> None:
    history = recorded_history()
    marker = history[1].event
    assert isinstance(marker, e.WorkflowTaskCompleted)
    history[1] = HistoryEvent(2, history[1].time, e.WorkflowTaskCompleted(seen_seq=1, events=0))
    del history[2:]

    with pytest.raises(NondeterminismError, match="no further command in this turn"):
        replay_with(as_recorded, history)


def test_a_turn_sees_exactly_what_it_saw_when_it_was_recorded() -> None:
    """The second activity ends after the worker looked, but before its answer is recorded."""

    @workflow.defn
    async def watching() -> list[list[bool]]:
        handles = [workflow.start_activity("a"), workflow.start_activity("b")]
        seen = []
        for _ in range(2):
            await workflow.wait([*handles], return_when=asyncio.FIRST_COMPLETED)
            seen.append([h.done() for h in handles])
            await workflow.execute_activity("tell", seen[-1])
        return seen

    recorder = started(watching)
    recorder.happen(e.ActivityCompleted(seq=1))
    told = recorder.turn(e.ActivityCompleted(seq=2))

    assert [command.input for command in told if isinstance(command, c.ScheduleActivity)] == [
        b"[[true,false]]"
    ]
    recorder.happen(e.ActivityCompleted(seq=3))
    recorder.turn()
    recorder.replay_every_turn()
    recorder.close()


def test_turns_are_cut_at_what_each_saw() -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[tuple[list[int], bool]] = []

        def turn(self, activation: Any) -> list[c.AnyCommand]:
            self.heard.append(([x.seq for x in activation.events], activation.marker is not None))
            return []

        def source_line(self, command: Any) -> None:
            return None

    def signal(seq: int) -> HistoryEvent:
        return HistoryEvent(seq, float(seq), e.SignalReceived(name="s"))

    history = [
        HistoryEvent(1, 1.0, e.WorkflowStarted(workflow_id="w", workflow_type="t", task_queue="q")),
        signal(2),
        HistoryEvent(3, 3.0, e.WorkflowTaskCompleted(seen_seq=1)),
        signal(4),
        HistoryEvent(5, 5.0, e.WorkflowTaskCompleted(seen_seq=4)),
        signal(6),
        signal(7),
    ]
    listener = Listener()

    assert replay(history, listener) == []

    assert listener.heard == [([1], True), ([2, 4], True), ([6, 7], False)]
    assert [turn.now for turn in activations(history)] == [1.0, 4.0, 7.0]
    assert [turn.seen_seq for turn in activations(history)] == [1, 4, 7]


def test_the_history_of_a_terminated_run_has_no_live_turn() -> None:
    history = recorded_history()
    history.append(HistoryEvent(history[-1].seq + 1, history[-1].time, e.WorkflowTerminated(reason="enough")))

    assert all(turn.marker is not None for turn in activations(history))
    assert replay_with(as_recorded, history) == []


def test_a_cancelled_timer_that_had_fired_leaves_no_event_and_no_trace() -> None:
    @workflow.defn
    async def raced() -> str:
        timer = asyncio.create_task(asyncio.sleep(60))
        await workflow.execute_activity("work")
        timer.cancel()
        await workflow.execute_activity("more")
        return f"{timer.cancelled()}"

    recorder = started(raced)
    # The tasks of the sleep start when the main code first waits.
    activity = next(iter(recorder.activities))
    timer = next(iter(recorder.timers))
    recorder.happen(e.ActivityCompleted(seq=activity))
    asked = recorder.turn(e.TimerFired(seq=timer))

    assert c.CancelTimer(seq=timer) in asked
    assert not any(isinstance(x.event, e.TimerCancelled) for x in recorder.history)
    recorder.happen(e.ActivityCompleted(seq=next(iter(recorder.activities))))
    recorder.turn()
    recorder.replay_every_turn()
    recorder.close()


def test_a_cancel_that_was_recorded_though_the_code_does_not_ask_for_it_is_reported() -> None:
    recorder = started(as_recorded)
    history = list(recorder.history)
    history[1] = HistoryEvent(2, history[1].time, e.WorkflowTaskCompleted(seen_seq=1, events=2))
    history.append(HistoryEvent(4, history[-1].time, e.ActivityCancelRequested(seq=1)))

    with pytest.raises(NondeterminismError, match=r"expected ActivityCancelRequested\(seq=1\)"):
        replay_with(as_recorded, history)
    recorder.close()


def test_missing_events_are_refused_before_any_code_runs() -> None:
    recorder = started(as_recorded)
    recorder.happen(e.ActivityCompleted(seq=1))
    recorder.happen(e.SignalReceived(name="s"))

    with pytest.raises(HistoryGap, match="expected them from 4 on"):
        recorder.run.activate(recorder.history[4:], head_seq=5, now=recorder.clock)
    with pytest.raises(HistoryGap, match="of 5"):
        recorder.run.activate(recorder.history[3:4], head_seq=5, now=recorder.clock)
    # Nothing was spoiled by asking, and what it knows already does no harm.
    assert recorder.run.activate(recorder.history, head_seq=5, now=recorder.clock) == [
        c.StartTimer(seq=2, delay_s=5)
    ]
    recorder.close()


def test_a_run_that_is_behind_its_own_answer_needs_what_happened_in_between() -> None:
    recorder = started(as_recorded)
    recorder.happen(e.ActivityCompleted(seq=1))
    recorder.turn(e.SignalReceived(name="s"))
    recorder.happen(e.TimerFired(seq=2))

    with pytest.raises(HistoryGap):
        recorder.run.activate(recorder.history[-1:], head_seq=recorder.head, now=recorder.clock)
    assert recorder.run.predict(e.TimerFired(seq=2), now=recorder.clock) is None

    assert [type(x) for x in recorder.turn()] == [c.ScheduleActivity]
    recorder.close()


def test_a_predicted_turn_is_the_turn_that_follows() -> None:
    """The activity's result is fed to the cached run before anybody has recorded it."""
    recorder = started(as_recorded)
    event = e.ActivityCompleted(seq=1, result=b'"ok"')

    commands = recorder.run.predict(event, now=recorder.clock + 1)

    assert commands == [c.StartTimer(seq=2, delay_s=5)]
    assert recorder.run.seen_seq == recorder.head + 1
    recorder.happen(event)
    recorder.record(commands, recorder.head)
    recorder.happen(e.TimerFired(seq=2))
    assert recorder.turn() == recorder.replay(recorder.turns[-1].head_seq)
    recorder.close()


def test_a_cached_run_follows_turns_that_another_worker_made() -> None:
    recorder = started(as_recorded)
    recorder.happen(e.ActivityCompleted(seq=1))
    other = recorder.fresh()
    head = recorder.head
    commands = other.activate(recorder.history, head_seq=head, now=recorder.clock)
    cached, recorder.run = recorder.run, other
    recorder.record(commands, head)
    recorder.happen(e.TimerFired(seq=2))

    asked = cached.activate(recorder.history[cached.seen_seq :], head_seq=recorder.head, now=recorder.clock)

    assert [command.name for command in asked if isinstance(command, c.ScheduleActivity)] == ["ship"]
    cached.close()
    other.close()


def old_way() -> Any:
    @workflow.defn(name="patching")
    async def before() -> None:
        await workflow.execute_activity("old")
        await workflow.execute_activity("last")

    return before


def new_way() -> Any:
    @workflow.defn(name="patching")
    async def after() -> str:
        name = "new" if workflow.patched("p") else "old"
        await workflow.execute_activity(name)
        await workflow.execute_activity("last")
        return f"{workflow.patched('p')}"

    return after


def deprecated_way() -> Any:
    @workflow.defn(name="patching")
    async def later() -> None:
        workflow.deprecate_patch("p")
        await workflow.execute_activity("new")
        await workflow.execute_activity("last")

    return later


def without_patch() -> Any:
    @workflow.defn(name="patching")
    async def at_last() -> None:
        await workflow.execute_activity("new")
        await workflow.execute_activity("last")

    return at_last


def two_turns(code: Any) -> list[HistoryEvent]:
    recorder = started(code())
    recorder.happen(e.ActivityCompleted(seq=next(iter(recorder.activities))))
    recorder.turn()
    recorder.close()
    return recorder.history


@pytest.mark.parametrize(
    ("recorded", "replayed"),
    [
        (old_way, new_way),
        (new_way, new_way),
        (new_way, deprecated_way),
        (deprecated_way, deprecated_way),
        (deprecated_way, without_patch),
        (deprecated_way, new_way),
    ],
)
def test_each_step_of_a_patch_replays_the_histories_of_the_one_before(recorded: Any, replayed: Any) -> None:
    assert replay_with(replayed(), two_turns(recorded)) == []


@pytest.mark.parametrize(("recorded", "replayed"), [(new_way, without_patch), (old_way, deprecated_way)])
def test_a_step_of_a_patch_that_is_left_out_is_reported(recorded: Any, replayed: Any) -> None:
    with pytest.raises(NondeterminismError):
        replay_with(replayed(), two_turns(recorded))


calls: list[int] = []


def toss(sides: int) -> tuple[int, int]:
    calls.append(sides)
    return sides, random.randrange(1_000_000)


def fail(text: str) -> None:
    calls.append(0)
    raise LookupError(f"{text} {random.random()}")


@workflow.defn
async def stepping() -> Any:
    value = await workflow.step(toss, 6)
    await workflow.execute_activity("use", list(value))
    try:
        await workflow.step(fail, "no")
    except ApplicationError as error:
        await workflow.execute_activity("use", str(error))
    return value


def test_a_step_is_computed_once_and_remembered_with_its_failure() -> None:
    calls.clear()
    recorder = started(stepping)
    recorder.happen(e.ActivityCompleted(seq=2))
    recorder.turn()
    assert calls == [6, 0]

    recorder.happen(e.ActivityCompleted(seq=4))
    recorder.turn()

    assert completed(recorder.replay(recorder.turns[-1].head_seq)) == completed(recorder.turns[-1].commands)
    assert calls == [6, 0]
    recorder.close()


def test_a_step_that_the_history_does_not_have_is_not_carried_out_again() -> None:
    calls.clear()

    with pytest.raises(NondeterminismError, match="RecordMarker"):
        replay_with(stepping, recorded_history())

    assert calls == []
