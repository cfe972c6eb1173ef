"""A run and its rows in memory: what the service does with a run, without a database, clock or worker.

Every call is one transaction: the rows are read, the request is decided, the facts are folded, and only
what `evolve` noted as touched is kept, as `store.record` does it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast.core import facts as f
from holdfast.core import state as s
from holdfast.core.decide import decide, first_facts, open_run
from holdfast.core.evolve import evolve
from holdfast.core.requests import Ask, ExpireTask, FireTimer, OpenRun
from holdfast.exceptions import HoldfastError
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy

NOON = 1_700_000_000.0
LEASE_S = 10.0
BOOM = Failure(message="boom", type="Boom")


class Story:
    """One run. `now` is the database's clock; tests move it."""

    def __init__(self, run: s.Run, now: float = NOON) -> None:
        self.now = now
        self.run = run
        self.tasks: dict[int, s.Task] = {}
        self.activities: dict[int, s.Activity] = {}
        self.timers: dict[int, s.Timer] = {}
        self.requests: dict[str, s.KeptRequest] = {}
        self.history: list[tuple[float, e.AnyEvent]] = []
        self.told_to_stop: list[int] = []
        """The activities whose worker was told, by seq."""

    # -- reading ---------------------------------------------------------------------------

    @property
    def events(self) -> list[e.AnyEvent]:
        return [event for _, event in self.history]

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    @property
    def last(self) -> Any:
        return self.events[-1]

    @property
    def task(self) -> s.Task | None:
        return self.tasks.get(0)

    def count(self, kind: type[e.Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    def rows(self) -> Any:
        """Everything, to see whether anything changed."""
        return copy.deepcopy(
            (self.run, self.tasks, self.activities, self.timers, self.requests, self.history)
        )

    # -- one transaction -------------------------------------------------------------------

    def state(self) -> s.RunState:
        """What `journal.lock` would read."""
        return s.RunState(
            run=copy.copy(self.run),
            first_new_seq=self.run.last_seq + 1,
            tasks={seq: copy.copy(task) for seq, task in self.tasks.items()},
            activities={seq: copy.copy(row) for seq, row in self.activities.items()},
            timers={seq: copy.copy(row) for seq, row in self.timers.items()},
            requests=dict(self.requests),
        )

    def ask(self, request: Any) -> Any:
        """The answer to one request, or its error."""
        (answer,) = self.batch(request)
        if isinstance(answer, HoldfastError):
            raise answer
        return answer

    def batch(self, *requests: Any) -> list[Any]:
        """The answers, or errors, to several requests that share a transaction."""
        state, answers = self.state(), []
        for request in requests:
            try:
                decision = decide(state, request, self.now)
            except HoldfastError as error:
                answers.append(error)
                continue
            for fact in decision.facts:
                evolve(state, fact, self.now)
            answers.append(decision.refusal or decision.answer)
        self.commit(state)
        return answers

    def facts(self, *facts: f.AnyFact) -> None:
        """These happen, whoever decided so."""
        state = self.state()
        for fact in facts:
            evolve(state, fact, self.now)
        self.commit(state)

    def commit(self, state: s.RunState) -> None:
        """Keep what is noted as touched, and nothing else."""
        if state.is_touched or state.is_new:
            self.run = state.run
        for seq in state.opened_tasks | state.touched_tasks:
            if seq in state.tasks:
                self.tasks[seq] = state.tasks[seq]
        for seq in state.closed_tasks:
            self.tasks.pop(seq, None)
        for seq in state.opened_activities | state.touched_activities:
            self.activities[seq] = state.activities[seq]
        for seq in state.opened_timers | state.touched_timers:
            self.timers[seq] = state.timers[seq]
        self.requests |= {kept.request_id: kept for kept in state.new_requests}
        self.history += state.events
        self.told_to_stop += [task.seq for task in state.cancel_pushes]
        if not self.run.is_open:
            self._close()

    def _close(self) -> None:
        """What `record` does with the open work of a run that just closed."""
        self.told_to_stop += [seq for seq, task in self.tasks.items() if task.worker is not None]
        self.tasks.clear()
        for activity in self.activities.values():
            if activity.closed_at is None:
                activity.status, activity.closed_at = s.CANCELLED, self.now
        for timer in self.timers.values():
            if timer.state == s.TIMER_OPEN:
                timer.state = s.TIMER_CANCELLED

    # -- workers ---------------------------------------------------------------------------

    def claim(self, seq: int = 0, worker: str = "w1", lease_s: float = LEASE_S) -> int:
        """Lease task *seq* to *worker*; its fence."""
        task = self.tasks[seq]
        assert task.worker is None, f"task {seq} is leased to {task.worker}"
        assert task.ready_at <= self.now, f"task {seq} is ready in {task.ready_at - self.now} s"
        self.facts(f.TaskLeased(seq, worker, lease_s))
        return self.tasks[seq].fence

    def complete(
        self, fence: int, *commands: c.AnyCommand, seen: int | None = None, worker: str = "w1"
    ) -> m.Reported:
        """Report a workflow task, as having seen everything unless told otherwise."""
        answer: m.Reported = self.ask(self.completion(fence, *commands, seen=seen, worker=worker))
        return answer

    def completion(
        self, fence: int, *commands: c.AnyCommand, seen: int | None = None, worker: str = "w1"
    ) -> m.CompleteWorkflowTask:
        return m.CompleteWorkflowTask(
            run_id=self.run.run_id,
            worker=worker,
            fence=fence,
            seen_seq=self.run.last_seq if seen is None else seen,
            commands=list(commands),
        )

    def turn(self, *commands: c.AnyCommand) -> m.Reported:
        """Claim the workflow task and complete it."""
        return self.complete(self.claim(), *commands)

    def fail_task(self, fence: int, cause: str = "unhandled_failure", failure: Failure = BOOM) -> m.Reported:
        report = m.FailWorkflowTask(
            run_id=self.run.run_id, worker="w1", fence=fence, cause=cause, failure=failure
        )
        answer: m.Reported = self.ask(report)
        return answer

    def done(
        self,
        seq: int,
        fence: int,
        result: bytes = b"1",
        turn: Sequence[c.AnyCommand] | None = None,
        assumed: int | None = None,
    ) -> m.CompleteActivity:
        """The report that activity *seq* returned, with a turn of these commands if given."""
        coalesced = None
        if turn is not None:
            head = self.run.last_seq + 1 if assumed is None else assumed
            coalesced = m.Turn(assumed_seq=head, commands=list(turn))
        return m.CompleteActivity(
            run_id=self.run.run_id, worker="w1", seq=seq, fence=fence, result=result, turn=coalesced
        )

    def failed(self, seq: int, fence: int, failure: Failure = BOOM) -> m.FailActivity:
        return m.FailActivity(run_id=self.run.run_id, worker="w1", seq=seq, fence=fence, failure=failure)

    def cancelled(self, seq: int, fence: int) -> m.CancelActivity:
        return m.CancelActivity(run_id=self.run.run_id, worker="w1", seq=seq, fence=fence)

    def release(self, seq: int, fence: int) -> m.ReleaseTask:
        return m.ReleaseTask(run_id=self.run.run_id, worker="w1", seq=seq, fence=fence)

    def heartbeat(self, seq: int, fence: int, details: bytes = b"[1]") -> m.HeartbeatAnswer:
        request = m.ActivityHeartbeat(
            run_id=self.run.run_id, seq=seq, fence=fence, worker="w1", details=details
        )
        answer: m.HeartbeatAnswer = self.ask(request)
        return answer

    # -- clients and the clock -------------------------------------------------------------

    def signal(self, name: str = "go", request_id: str = "s1", hash_: bytes = b"s") -> m.Done:
        message = m.Signal(request_id=request_id, workflow_id=self.run.workflow_id, name=name)
        answer: m.Done = self.ask(Ask(message, hash_))
        return answer

    def cancel(self, request_id: str = "c1", hash_: bytes = b"c") -> m.Done:
        answer: m.Done = self.ask(
            Ask(m.Cancel(request_id=request_id, workflow_id=self.run.workflow_id, reason="why"), hash_)
        )
        return answer

    def terminate(self, request_id: str = "t1", hash_: bytes = b"t") -> m.Done:
        answer: m.Done = self.ask(
            Ask(m.Terminate(request_id=request_id, workflow_id=self.run.workflow_id, reason="why"), hash_)
        )
        return answer

    def fire(self, seq: int) -> Any:
        return self.ask(FireTimer(seq))

    def expire(self, seq: int = 0, *, spare: bool = False) -> Any:
        return self.ask(ExpireTask(seq, spare))

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def start_request(**fields: Any) -> m.Start:
    given: dict[str, Any] = {
        "request_id": "r1",
        "workflow_id": "order-1",
        "workflow_type": "order",
        "task_queue": "main",
    }
    return m.Start(**{**given, **fields})


def started(*commands: c.AnyCommand, now: float = NOON, **fields: Any) -> Story:
    """A run that was started; with *commands*, also its first workflow task completed with them."""
    request = start_request(**fields)
    opened = open_run(OpenRun(request, b"h", "run-1"), now)
    assert isinstance(opened, s.RunState)
    opened.run.namespace = "main"
    opened.first_new_seq = 1
    for fact in first_facts(request):
        evolve(opened, fact, now)
    story = Story(opened.run, now)
    story.commit(opened)
    if commands:
        story.turn(*commands)
    return story


def activity(seq: int = 1, retry: RetryPolicy | None = None, **fields: Any) -> c.ScheduleActivity:
    """A command that schedules activity *seq*."""
    return c.ScheduleActivity(seq=seq, name="charge", retry=retry or RetryPolicy(), **fields)


def timer(seq: int = 1, delay_s: float = 60.0) -> c.StartTimer:
    return c.StartTimer(seq=seq, delay_s=delay_s)


def error_of(error: type[HoldfastError], story: Story, request: Any) -> HoldfastError:
    """The error that *request* is refused with; nothing else may have changed."""
    before = story.rows()
    (answer,) = story.batch(request)
    assert isinstance(answer, error), f"expected {error.__name__}, got {answer!r}"
    assert story.rows() == before, "a refused request changed something"
    return answer


def with_run(story: Story, **fields: Any) -> Story:
    """The same story with other values in its run row."""
    story.run = msgspec.structs.replace(story.run, **fields)
    return story
