"""Whatever workers, clients and the clock do, in any order and again: a run keeps its promises after every step."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.core.requests import Ask, ExpireTask, FireTimer
from holdfast.exceptions import HoldfastError, LeaseLost
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy
from tests.core.invariants import check_all
from tests.core.story import activity, started, timer

FAILURES = st.builds(
    Failure,
    message=st.sampled_from(["boom", "bang"]),
    type=st.none() | st.just("Fatal"),
    non_retryable=st.booleans(),
    next_retry_delay_s=st.none() | st.sampled_from([0.0, 30.0]),
)
POLICIES = st.builds(
    RetryPolicy,
    initial_s=st.sampled_from([0.0, 1.0]),
    max_attempts=st.integers(0, 3),
    non_retryable=st.just(("Fatal",)),
)
LIMITS = st.sampled_from([None, None, 5.0, 20.0])
NEW = st.one_of(
    st.builds(
        lambda policy, a, b, d, h: activity(
            1, policy, schedule_to_close_s=a, schedule_to_start_s=b, start_to_close_s=d, heartbeat_s=h
        ),
        POLICIES,
        LIMITS,
        LIMITS,
        LIMITS,
        LIMITS,
    ),
    st.builds(timer, delay_s=st.sampled_from([1.0, 30.0])),
    st.just(c.RecordMarker(kind="side_effect", name="n")),
)
CLOSINGS = st.sampled_from([None] * 12 + [c.CompleteWorkflow(), c.CancelWorkflow()])


class Machine(RuleBasedStateMachine):
    """One run under every kind of request, with fresh and stale fences."""

    def __init__(self) -> None:
        super().__init__()
        self.run = started()
        self.acknowledged: list[str] = []
        self.fences: dict[int, list[int]] = {}
        self.reports: list[Any] = []
        self.requests = 0
        self.history: list[Any] = []
        self.closed_rows: Any = None

    # -- claims ----------------------------------------------------------------------------

    @precondition(lambda self: any(task.worker is None for task in self.run.tasks.values()))
    @rule(data=st.data(), worker=st.sampled_from(["w1", "w2"]))
    def claim(self, data: st.DataObject, worker: str) -> None:
        ready = [seq for seq, task in self.run.tasks.items() if task.worker is None]
        seq = data.draw(st.sampled_from(ready))
        self.run.now = max(self.run.now, self.run.tasks[seq].ready_at)
        fence = self.run.claim(seq, worker)
        handed = self.fences.setdefault(seq, [])
        assert all(fence > earlier for earlier in handed), "a fence was given out twice (W2)"
        handed.append(fence)

    # -- reports ---------------------------------------------------------------------------

    def commands(self, data: st.DataObject) -> list[c.AnyCommand]:
        """What code could ask for: new things with free numbers, cancels of what there is, sometimes the end."""
        free = self.run.run.command_seq
        found: list[c.AnyCommand] = []
        for command in data.draw(st.lists(NEW, max_size=3)):
            if not isinstance(command, c.RecordMarker):
                free += 1
                command = msgspec.structs.replace(command, seq=free)  # noqa: PLW2901
            found.append(command)
        activities = {*self.run.activities, *(x.seq for x in found if isinstance(x, c.ScheduleActivity))}
        timers = {*self.run.timers, *(x.seq for x in found if isinstance(x, c.StartTimer))}
        for kind, known in ((c.RequestCancelActivity, activities), (c.CancelTimer, timers)):
            if known and data.draw(st.booleans()):
                found.append(kind(seq=data.draw(st.sampled_from(sorted(known)))))
        closing = data.draw(CLOSINGS)
        return found if closing is None else [*found, closing]

    def report(self, seq: int, report: Any) -> Any:
        """The answer to a report; only the newest lease may have changed anything."""
        before, length = self.run.rows(), len(self.run.history)
        (answer,) = self.run.batch(report)
        self.reports.append(report)
        newest = self.fences.get(seq, [0])[-1]
        if isinstance(answer, LeaseLost):
            assert self.run.rows() == before
        if self.run.rows() != before:
            assert report.fence == newest, "an old lease changed something (W2)"
        markers = sum(isinstance(event, e.WorkflowTaskCompleted) for event in self.run.events[length:])
        assert markers <= 1
        return answer

    def any_fence(self, data: st.DataObject, seq: int) -> int:
        """Usually the newest one, sometimes an older or made-up one."""
        handed = self.fences.get(seq, [])
        return data.draw(st.sampled_from([*handed[-1:] * 6, *handed, 0, 1_000]))

    @precondition(lambda self: self.run.task is not None)
    @rule(data=st.data(), behind=st.sampled_from([0, 0, 0, 1, 3]))
    def take_a_turn(self, data: st.DataObject, behind: int) -> None:
        """Claim the task if nobody has it, and complete it; a message may come in between."""
        if self.run.tasks[0].worker is None:
            self.run.now = max(self.run.now, self.run.tasks[0].ready_at)
            self.fences.setdefault(0, []).append(self.run.claim())
        seen = max(1, self.run.run.last_seq - behind)
        if data.draw(st.booleans()):
            self.signal(is_new=True)
        self.report(0, self.run.completion(self.fences[0][-1], *self.commands(data), seen=seen))

    @rule(data=st.data(), behind=st.sampled_from([0, 0, 0, 1, 3]))
    def complete(self, data: st.DataObject, behind: int) -> None:
        seen = max(1, self.run.run.last_seq - behind)
        self.report(0, self.run.completion(self.any_fence(data, 0), *self.commands(data), seen=seen))

    @rule(data=st.data(), failure=FAILURES)
    def fail_task(self, data: st.DataObject, failure: Failure) -> None:
        fence = self.any_fence(data, 0)
        report = m.FailWorkflowTask(
            run_id="run-1", worker="w1", fence=fence, cause="payload", failure=failure
        )
        self.report(0, report)

    @precondition(lambda self: self.run.activities)
    @rule(data=st.data(), failure=FAILURES, kind=st.sampled_from(["done", "failed", "cancelled", "release"]))
    def end_activity(self, data: st.DataObject, failure: Failure, kind: str) -> None:
        seq = data.draw(st.sampled_from(sorted(self.run.activities)))
        fence = self.any_fence(data, seq)
        match kind:
            case "failed":
                self.report(seq, self.run.failed(seq, fence, failure))
            case _:
                self.report(seq, getattr(self.run, kind)(seq, fence))

    @precondition(lambda self: any(seq for seq in self.run.tasks))
    @rule(data=st.data(), off=st.sampled_from([0, 0, 0, 1, -1]))
    def coalesced(self, data: st.DataObject, off: int) -> None:
        """An activity ends with the turn it leads to; usually on the right assumption."""
        seq = data.draw(st.sampled_from(sorted(seq for seq in self.run.tasks if seq)))
        if self.run.tasks[seq].worker is None:
            self.run.now = max(self.run.now, self.run.tasks[seq].ready_at)
            self.fences.setdefault(seq, []).append(self.run.claim(seq))
        was_open, head = self.run.task is not None, self.run.run.last_seq
        fence = self.any_fence(data, seq)
        answer = self.report(seq, self.run.done(seq, fence, turn=self.commands(data), assumed=head + 1 + off))
        if getattr(answer, "is_turn_applied", False):
            assert (was_open, off) == (False, 0), "a turn counted although something else happened"
            assert isinstance(self.run.events[head], e.ActivityCompleted)
            assert self.run.events[head + 1].seen_seq == head + 1  # type: ignore[union-attr]

    @precondition(lambda self: self.run.activities)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.run.activities)))
        fence = self.any_fence(data, seq)
        beat = m.ActivityHeartbeat(run_id="run-1", seq=seq, fence=fence, worker="w1", details=b"[1]")
        self.report(seq, beat)
        self.reports.pop()

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def repeat_a_report(self, data: st.DataObject) -> None:
        """A worker that did not hear the answer sends the same again: at most a refusal, never a second effect."""
        report = data.draw(st.sampled_from(self.reports[-4:]))
        (first,) = self.run.batch(report)
        before = self.run.rows()
        (second,) = self.run.batch(report)
        assert self.run.rows() == before
        assert isinstance(second, HoldfastError) is isinstance(first, HoldfastError)

    # -- clients and the clock -------------------------------------------------------------

    def asked(self, message: m.Signal | m.Cancel | m.Terminate) -> bool:
        (answer,) = self.run.batch(Ask(message, message.request_id.encode()))
        return not isinstance(answer, HoldfastError)

    @rule(is_new=st.sampled_from([True, True, False]))
    def signal(self, is_new: bool) -> None:
        self.requests += is_new
        request_id = f"s{self.requests}"
        if (
            self.asked(m.Signal(request_id=request_id, workflow_id="order-1", name="go"))
            and request_id not in self.acknowledged
        ):
            self.acknowledged.append(request_id)

    @rule()
    def cancel(self) -> None:
        self.requests += 1
        self.asked(m.Cancel(request_id=f"c{self.requests}", workflow_id="order-1"))
        assert self.run.count(e.WorkflowCancelRequested) <= 1

    @precondition(lambda self: len(self.run.history) > 25)
    @rule()
    def terminate(self) -> None:
        self.asked(m.Terminate(request_id="t", workflow_id="order-1"))
        assert not self.run.run.is_open

    @rule(seconds=st.sampled_from([0.0, 0.5, 0.5, 1.0, 10.0, 60.0, -5.0]))
    def time_passes(self, seconds: float) -> None:
        """Sometimes the database's clock is set back."""
        self.run.wait(seconds)

    @rule(spare=st.booleans())
    def the_clock_looks(self, spare: bool) -> None:
        """One pass over everything, due or not, and once more: the second changes nothing."""
        asked: list[Any] = [FireTimer(seq) for seq in self.run.timers]
        asked += [ExpireTask(seq, spare) for seq in list(self.run.tasks)]
        self.run.batch(*asked)
        before = self.run.rows()
        self.run.batch(*asked)
        assert self.run.rows() == before

    # -- what must hold --------------------------------------------------------------------

    @invariant()
    def promises_are_kept(self) -> None:
        check_all(self.run, self.acknowledged)

    @invariant()
    def what_was_read_once_stays(self) -> None:
        """History is append-only (H2), and a closed run never changes (H4)."""
        assert self.run.history[: len(self.history)] == self.history
        self.history = list(self.run.history)
        rows = None if self.run.run.is_open else self.run.rows()
        if self.closed_rows is not None:
            assert rows == self.closed_rows
        self.closed_rows = rows


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
