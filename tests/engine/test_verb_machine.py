"""Whatever clients, workers and the clock do: the engine on Postgres answers, says and keeps what the one in memory does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdfast.core import state as s
from holdfast.engine.verbs import VERBS
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.engine import verb_values as v
from tests.engine.both import Bench
from tests.engine.comparing import Comparison

EXAMPLES, STEPS = 300, 50


class Machine(RuleBasedStateMachine):
    """Two engines that are told the same. What is to be compared is compared after every step."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.both = Comparison(bench, v.NAMESPACES, v.ANSWERING)
        self.tables = self.both.tables
        self.requests = 0

    def request_id(self, namespace: str, *, is_new: bool, n: int) -> str:
        """A new request id, or one that was used before."""
        used = [request_id for where, request_id in self.both.request_ids if where == namespace]
        if used and not is_new:
            return used[-1 - n % len(used)]
        self.requests += 1
        self.both.request_ids.append((namespace, f"request-{self.requests}"))
        return f"request-{self.requests}"

    @initialize(
        queues=st.lists(v.queue, min_size=1, max_size=3),
        opened=st.tuples(v.activity, v.timer, v.timer),
        batch=v.commands,
        is_other=v.rarely,
    )
    def begin(self, queues: Any, opened: tuple[Any, ...], batch: list[Any], is_other: bool) -> None:
        """Some runs, and the first turn of one, so that there is something to work on."""
        for workflow_id, queue in zip(v.WORKFLOWS, queues, strict=False):
            self.start("main", workflow_id, queue, "allow", "fail", is_new=True, n=0)
        if is_other:
            self.start("a", v.WORKFLOWS[0], queues[0], "allow", "fail", is_new=True, n=0)
        for n, commands in enumerate([list(opened), batch]):
            self.end_workflow_task(n, m.CompleteWorkflowTask, commands, off=0, behind=0, failure=None)

    # -- clients ---------------------------------------------------------------------------

    @rule(
        namespace=v.anywhere,
        workflow_id=v.workflow_id,
        kind=st.sampled_from([m.Start] * 3 + [m.Signal] * 4 + [m.Cancel] * 2 + [m.Terminate]),
        queue=v.queue,
        reuse=v.id_reuse,
        conflict=v.id_conflict,
        by_run=v.rarely,
        is_new=v.often,
        n=v.nth,
    )
    def client_asks(
        self,
        namespace: str,
        workflow_id: str,
        kind: type[Any],
        queue: str,
        reuse: str,
        conflict: str,
        by_run: bool,
        is_new: bool,
        n: int,
    ) -> None:
        if kind is m.Start:
            self.start(namespace, workflow_id, queue, reuse, conflict, is_new=is_new, n=n)
            return
        request = kind(
            request_id=self.request_id(namespace, is_new=is_new, n=n),
            workflow_id=workflow_id,
            run_id=self.any_run(n) if by_run else None,
            **({"name": "go"} if kind is m.Signal else {"reason": "enough"}),
        )
        self.both.call(kind.__name__.lower(), namespace, request, may_repeat=True)

    @rule(
        workflow_ids=st.lists(v.workflow_id, min_size=2, max_size=4),
        kind=v.id_conflict,
        numbers=st.lists(v.nth, min_size=4, max_size=4),
    )
    def clients_ask_together(self, workflow_ids: Any, kind: str, numbers: Any) -> None:
        """In one transaction: signals, and one that starts, cancels or terminates. Some have the same request id."""
        ids = [self.request_id("main", is_new=n % 2 == 0, n=n) for n in numbers]
        questions: list[tuple[str, str, Any]] = [
            ("signal", "main", m.Signal(request_id=request_id, workflow_id=workflow_id, name="go"))
            for request_id, workflow_id in zip(ids, workflow_ids, strict=False)
        ]
        named: dict[str, Any] = {"request_id": ids[-1], "workflow_id": workflow_ids[0]}
        other: tuple[str, str, Any] = ("cancel", "main", m.Cancel(**named))
        match numbers[-1] % 4:
            case 1:
                other = ("terminate", "main", m.Terminate(**named))
            case 2 | 3:
                start = m.Start(**named, workflow_type="order", task_queue="q", id_conflict=kind)
                other = ("start", "main", start)
        questions.insert(numbers[0] % 3, other)
        self.both.call_all(questions, may_repeat=True)

    def start(
        self, namespace: str, workflow_id: str, queue: str, reuse: str, conflict: str, *, is_new: bool, n: int
    ) -> None:
        request = m.Start(
            request_id=self.request_id(namespace, is_new=is_new, n=n),
            workflow_id=workflow_id,
            workflow_type="order",
            task_queue=queue,
            id_reuse=reuse,
            id_conflict=conflict,
        )
        self.both.call("start", namespace, request, may_repeat=True)

    @precondition(lambda self: self.both.asked)
    @rule(n=v.nth)
    def repeat(self, n: int) -> None:
        """Somebody did not hear the answer: the same again."""
        self.both.call(*self.both.asked[-1 - n % len(self.both.asked)])

    def any_run(self, n: int) -> str:
        """The name of a run, the newest first; sometimes there is none of that name."""
        names = [self.both.memory.named(run_id) for run_id in self.tables.runs]
        return names[-1 - n] if n < len(names) else v.NOBODY

    # -- workers ---------------------------------------------------------------------------

    @rule(namespace=v.namespace, worker=v.worker, queue=v.queue, workflows=v.slots, activities=v.slots)
    def claim(self, namespace: str, worker: str, queue: str, workflows: int, activities: int) -> None:
        # Of activities of one run that became ready in one moment, any may go first.
        capped = self.both.memory.engine.credits.roster.capped(worker, workflows, activities)[1]
        ready = sorted(
            (task.ready_at, task.run_id)
            for task in self.tables.tasks.values()
            if (task.namespace, task.task_queue, task.worker) == (namespace, queue, None)
            and task.seq
            and task.ready_at <= self.tables.now
        )
        if 0 < capped < len(ready) and ready[capped - 1] == ready[capped]:
            activities = 0
        request = m.Claim(
            worker=worker, task_queue=queue, workflow_slots=workflows, activity_slots=activities
        )
        self.both.call("claim", namespace, request)

    def held(self, n: int, *, is_workflow: bool) -> s.Task | None:
        """A task that some worker holds; if none does, one is claimed."""
        for _ in range(2):
            tasks = [task for task in self.tables.tasks.values() if (task.seq == 0) == is_workflow]
            leased = [task for task in tasks if task.worker is not None]
            if leased:
                return leased[n % len(leased)]
            now = self.tables.now
            ready = [task for task in tasks if task.ready_at <= now and (task.sticky_until or now) <= now]
            if not ready:
                return None
            task = ready[n % len(ready)]
            request = m.Claim(worker="w1", task_queue=task.task_queue, workflow_slots=9, activity_slots=9)
            self.both.call("claim", task.namespace, request)
        return None

    def commands(self, run_id: str, batch: list[Any]) -> list[c.AnyCommand]:
        """*batch* with numbers: new ones for what is opened, those of what exists for what is cancelled."""
        seq = self.tables.runs[run_id].command_seq
        activities = sorted(number for owner, number in self.tables.activities if owner == run_id)
        timers = sorted(number for owner, number in self.tables.timers if owner == run_id)
        found: list[c.AnyCommand] = []
        for command in batch:
            numbered = command
            match command:
                case c.ScheduleActivity() | c.StartTimer():
                    seq += 1
                    numbered = msgspec.structs.replace(command, seq=seq)
                    (activities if isinstance(command, c.ScheduleActivity) else timers).append(seq)
                case c.RequestCancelActivity() | c.CancelTimer() if command.seq < 10_000:
                    known = activities if isinstance(command, c.RequestCancelActivity) else timers
                    if not known:
                        continue
                    numbered = msgspec.structs.replace(command, seq=known[-min(command.seq, len(known))])
            found.append(numbered)
        return found

    def lease(self, task: s.Task, off: int) -> dict[str, Any]:
        return {
            "run_id": self.both.memory.named(task.run_id),
            "worker": task.worker or "w1",
            "fence": max(task.fence + off, 0),
        }

    @rule(n=v.nth, kind=v.task_end, batch=v.commands, off=v.off, behind=v.behind, failure=v.failure)
    def end_workflow_task(
        self, n: int, kind: type[Any], batch: list[Any], off: int, behind: int, failure: Any
    ) -> None:
        task = self.held(n, is_workflow=True)
        if task is None:
            return
        lease = self.lease(task, off)
        match kind:
            case m.CompleteWorkflowTask:
                report: Any = m.CompleteWorkflowTask(
                    **lease,
                    **self.slots(task, n),
                    seen_seq=self.tables.runs[task.run_id].last_seq - behind,
                    commands=self.commands(task.run_id, batch),
                    now=1.0,
                )
            case m.FailWorkflowTask:
                report = m.FailWorkflowTask(**lease, cause="payload", failure=failure)
            case _:
                report = m.ReleaseTask(**lease)
        self.both.call("report", task.namespace, report, may_repeat=True)

    def slots(self, task: s.Task, n: int) -> dict[str, Any]:
        """What the worker says of its free slots, if it does."""
        if n == 0:
            return {}
        return {"task_queue": task.task_queue, "workflow_slots": max(n % 4 - 1, 0), "activity_slots": n % 3}

    @rule(
        n=v.nth,
        kind=v.activity_end,
        off=v.off,
        batch=v.commands,
        assumed=v.assumed,
        failure=v.failure,
        more=v.activity,
    )
    def end_activity(
        self,
        n: int,
        kind: type[Any],
        off: int,
        batch: list[Any],
        assumed: int | None,
        failure: Any,
        more: c.ScheduleActivity,
    ) -> None:
        """One way or another; a completion alone, or with the turn to which it leads. If there is none, some is made."""
        task = self.held(n, is_workflow=False)
        if task is None:
            self.end_workflow_task(n, m.CompleteWorkflowTask, [more], off=0, behind=0, failure=failure)
            return
        lease = {**self.lease(task, off), "seq": task.seq}
        match kind:
            case m.CompleteActivity:
                turn = None
                if assumed is not None:
                    head = self.tables.runs[task.run_id].last_seq
                    turn = m.Turn(assumed_seq=head + assumed, commands=self.commands(task.run_id, batch))
                report: Any = m.CompleteActivity(**lease, **self.slots(task, n), result=b'"done"', turn=turn)
            case m.FailActivity:
                report = m.FailActivity(**lease, failure=failure)
            case m.CancelActivity:
                report = m.CancelActivity(**lease, details=b"[2]")
            case m.ReleaseTask:
                report = m.ReleaseTask(**lease)
            case _:
                beat = m.ActivityHeartbeat(**lease, details=f"[{n}]".encode())
                self.both.call("activity_heartbeat", task.namespace, beat)
                return
        self.both.call("report", task.namespace, report, may_repeat=True)

    @rule(
        namespace=v.namespace,
        worker=v.worker,
        queue=v.queue,
        workflows=v.slots,
        activities=v.slots,
        off=v.off,
        most=st.sampled_from([None, None, 1, 5]),
        is_stopping=v.rarely,
    )
    def heartbeat(
        self,
        namespace: str,
        worker: str,
        queue: str,
        workflows: int,
        activities: int,
        off: int,
        most: int | None,
        is_stopping: bool,
    ) -> None:
        """A worker tells that it lives, with everything that it holds."""
        leases = [
            m.Lease(self.both.memory.named(task.run_id), task.seq, max(task.fence + off, 0))
            for task in self.tables.tasks.values()
            if task.worker == worker
        ]
        beat = m.WorkerHeartbeat(
            worker=worker,
            task_queue=queue,
            workflow_slots=workflows,
            activity_slots=activities,
            leases=leases,
            max_workflow_tasks=most,
            max_activities=most,
            is_stopping=is_stopping,
        )
        self.both.call("heartbeat", namespace, beat)

    # -- time ------------------------------------------------------------------------------

    @rule(seconds=v.seconds, is_looked=st.sampled_from([True, True, True, False]))
    def time_passes(self, seconds: float | None, is_looked: bool) -> None:
        """None: until something is due, to the moment. The clock may be late to look."""
        due = self.tables.next_due()
        if seconds is not None or due is not None:
            self.both.example.move(self.tables.now + seconds if seconds is not None else due or 0.0)
        if is_looked:
            self.both.look()

    # -- reads -----------------------------------------------------------------------------

    @rule(verb=v.read, namespace=v.anywhere, workflow_id=v.workflow_id, n=v.nth, request=v.listing)
    def client_reads(self, verb: str, namespace: str, workflow_id: str, n: int, request: m.List) -> None:
        named: dict[str, Any] = {
            "workflow_id": workflow_id,
            "run_id": None if n % 4 else self.any_run(n // 4),
        }
        runs = list(self.tables.runs)
        match verb:
            case "describe":
                self.both.call(verb, namespace, m.Describe(**named))
                self.both.call("result", namespace, m.Result(**named, wait_s=0.0))
            case "history":
                self.both.call(verb, namespace, m.History(**named, after=n - 1, limit=request.limit))
            case "list":
                cursor = None if request.workflow_id is None else self.any_run(n)
                self.both.call(verb, namespace, msgspec.structs.replace(request, cursor=cursor))
            case _ if runs:
                self.both.check_contract(runs[-1 - n % len(runs)])
                self.both.check_figures(namespace)

    # -- the end ---------------------------------------------------------------------------

    def teardown(self) -> None:
        """In the end every history reads the same, and the feed is owed each event once, in order."""
        try:
            if self.both.is_alike:
                self.both.check_all()
        finally:
            self.both.example.end()


@pytest.fixture
def bench(database: str) -> Iterator[Bench]:
    opened = Bench(database)
    yield opened
    opened.close()


def test_the_engine_on_postgres_does_what_the_one_in_memory_does(bench: Bench) -> None:
    factory: Any = lambda: Machine(bench)  # noqa: E731 - hypothesis calls it, whatever its types say
    run_state_machine_as_test(
        factory,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=True,
            print_blob=True,
            report_multiple_bugs=False,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    # `count` and `why` only read, and have tests of their own.
    assert bench.verbs == set(VERBS) - {"count", "why"}, "the machine asks every other verb"
