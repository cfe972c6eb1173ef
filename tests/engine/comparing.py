"""Asks the engine on Postgres and the one in memory the same, and compares all that can be seen of them. Claims nothing."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.wire import messages as m
from tests.engine import verb_shown as shown
from tests.engine.both import TICK_S, Bench, Example, Side

REPEATED_MAX = 8
READS = {"describe", "history", "list", "result"}
OWED = "SELECT run_id::text, first_seq, last_seq FROM outbox ORDER BY id"


class Comparison:
    """The two engines of one example, and what was asked of them lately. `is_alike` until something was not."""

    def __init__(self, bench: Bench, namespaces: tuple[str, ...], answering: tuple[str, ...]) -> None:
        self.bench = bench
        self.namespaces = namespaces
        self.example = Example(bench, namespaces, answering)
        self.tables = self.example.both.tables
        self.memory = self.example.both.memory
        self.asked: list[tuple[str, str, Any]] = []
        self.request_ids: list[tuple[str, str]] = []
        self.kept = ""
        self.is_alike = True

    def call(self, verb: str, namespace: str, request: Any, *, may_repeat: bool = False) -> Any:
        """Ask both and compare everything. In *request*, names stand for run ids. The answer is that in memory."""
        return self.call_all([(verb, namespace, request)], may_repeat=may_repeat)[0]

    def call_all(self, questions: list[tuple[str, str, Any]], *, may_repeat: bool = False) -> list[Any]:
        """As `call`, several at the same moment."""
        self.is_alike = False
        verbs = {verb for verb, _, _ in questions}
        self.bench.verbs |= verbs
        if "start" in verbs:
            # Run ids rise with time.
            self.example.move(self.tables.now + TICK_S)
        found: list[Any]
        answers: list[Any]
        found, answers = self.example.each(lambda side: side.ask(*resolved(side, questions)))
        real, memory = self.sides
        for question, one, other in zip(questions, found, answers, strict=True):
            asked, expected = in_order(real, one), in_order(memory, other)
            assert asked == expected, f"{question}:\n found    {asked}\n expected {expected}"
        if not verbs <= READS:
            kept = self.kept
            self.compare(str(verbs))
            if isinstance(answers[0], m.Reported) and kept == self.kept:
                self.check_retold(questions[0][2], answers[0])
        self.is_alike = True
        if may_repeat:
            self.asked = [*self.asked, *questions][-REPEATED_MAX:]
        return answers

    @property
    def sides(self) -> tuple[Side, Side]:
        """The real one, and that in memory."""
        return self.example.both.real, self.example.both.memory

    def compare(self, what: str) -> None:
        """What was said and what is kept."""
        found, expected = (side.said() for side in self.sides)
        assert found == expected, f"after {what}, said:\n found    {found}\n expected {expected}"
        runs = [self.memory.named(run_id) for run_id in self.tables.runs]
        owned = [
            (self.memory.named(run_id), seq) for run_id, seq in (*self.tables.activities, *self.tables.timers)
        ]
        rows, wanted = self.example.each(lambda side: side.rows(runs, owned, self.request_ids))
        assert rows == wanted, f"after {what}, kept:\n found    {rows}\n expected {wanted}"
        self.kept = wanted

    def check_retold(self, report: Any, answer: m.Reported) -> None:
        """Who reports again may not have heard the first answer: it names all that the worker holds of the run."""
        run_id = self.memory.ids[report.run_id]
        held = {
            seq: task.fence
            for (owner, seq), task in self.tables.tasks.items()
            if owner == run_id and task.worker == report.worker
        }
        told = {task.seq: task.fence for task in answer.activity_tasks}
        if answer.workflow_task is not None:
            told[0] = answer.workflow_task.fence
        assert told == held, f"{report} again: told {told}, holds {held}"

    def look(self) -> None:
        """Both clocks look for what is due."""
        self.is_alike = False
        found, expected = self.example.each(Side.look)
        assert found == expected, f"the clock found {found} things to do, expected {expected}"
        self.compare("the clock's look")
        self.is_alike = True

    def check_contract(self, run_id: str) -> None:
        """The store contract shows the run as the tables in memory have it."""
        run = self.tables.runs[run_id]
        real_id = self.example.both.real.ids[self.memory.named(run_id)]
        for method, arguments, expected in shown.of_run(self.tables, run):
            at = {"namespace": run.namespace, "run_id": real_id}
            found = self.bench.do(getattr(self.bench.store, method)(*arguments, **at))
            self.check_same(f"{method} of {arguments}", found, expected)

    def check_figures(self, namespace: str) -> None:
        """As `check_contract`, lists and counts."""
        for method, arguments, expected in shown.of_namespace(self.tables, namespace):
            found = self.bench.do(getattr(self.bench.store, method)(*arguments))
            self.check_same(f"{method} of {arguments}", found, expected)

    def check_same(self, what: str, found: Any, expected: Any) -> None:
        """What the real side showed is what was expected of the one in memory."""
        shown_real, shown_memory = self.sides[0].named(found), self.memory.named(expected)
        self.is_alike = shown_real == shown_memory
        assert self.is_alike, f"{what}:\n found    {shown_real}\n expected {shown_memory}"

    def check_all(self) -> None:
        """Every history reads the same, and the feed is owed each event once, in order."""
        for run_id, run in list(self.tables.runs.items()):
            at: dict[str, Any] = {"workflow_id": run.workflow_id, "run_id": self.memory.named(run_id)}
            self.call("history", run.namespace, m.History(**at))
            self.check_contract(run_id)
        for namespace in self.namespaces:
            self.call("list", namespace, m.List())
            self.check_figures(namespace)
        owed: dict[str, int] = {}
        for run_id, first, last in self.bench.do(self.bench.sql(OWED)):
            assert first == owed.get(run_id, 0) + 1, (
                f"the feed is owed event {first} of {run_id} out of order"
            )
            owed[run_id] = last
        heads = {self.memory.named(run_id): run.last_seq for run_id, run in self.tables.runs.items()}
        assert {self.example.both.real.named(run_id): last for run_id, last in owed.items()} == heads


def resolved(side: Side, questions: list[tuple[str, str, Any]]) -> list[tuple[str, str, Any]]:
    """*questions* with the side's run ids in place of names."""
    return [(verb, namespace, _resolved(side, request)) for verb, namespace, request in questions]


def _resolved(side: Side, request: Any) -> Any:
    changes: dict[str, Any] = {}
    for field in ("run_id", "cursor"):
        name = getattr(request, field, None)
        if name is not None:
            changes[field] = side.ids.get(name, name)
    if isinstance(request, m.WorkerHeartbeat):
        changes["leases"] = [
            m.Lease(side.ids[lease.run_id], lease.seq, lease.fence) for lease in request.leases
        ]
    return msgspec.structs.replace(request, **changes) if changes else request


def in_order(side: Side, answer: Any) -> str:
    """*answer* in words; what has no order in one. An error is told with its class and facts."""
    changes: dict[str, Any] = {}
    match answer:
        case Exception():
            return side.named(f"{type(answer).__name__} {answer} {getattr(answer, 'details', '')}")
        case m.Tasks() | m.Reported():
            key = lambda task: (side.named(task.run_id), task.seq)  # noqa: E731
            changes["activity_tasks"] = sorted(answer.activity_tasks, key=key)
        case m.WorkerAnswer():
            for field in ("lost", "cancelled"):
                changes[field] = sorted(getattr(answer, field), key=side.named)
    return side.named(msgspec.structs.replace(answer, **changes) if changes else answer)
