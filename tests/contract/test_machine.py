"""Whatever is called with whatever, in any order: the store answers as the model does, and tells what it changed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from holdfast.exceptions import HoldfastError
from holdfast.store import Store
from holdfast.wire.records import WorkflowSchedule, WorkflowSignal, WorkflowTimer, WorkflowWorker
from tests.contract.machine_values import ACTIVITY, CALLS, WORKFLOW, Address, Known, odd_of
from tests.contract.model import Model
from tests.contract.model_state import replace, same
from tests.store.rows import Sql

STEPS = 50
EXAMPLES = {18: 300, 16: 50}
"""How many stories are told, by the version of Postgres."""

OWNED = ("event", "activity", "timer", "signal")
BY_ID = ("get_workflow", "update_workflow_status", "claim_workflow")
X1 = WorkflowWorker(id="x1", namespace="main", last_heartbeat=1e9, registered_at=1e9)
T1 = WorkflowTimer(workflow_id="", seq=1, fire_at=1e9)
GO = WorkflowSignal(workflow_id="", name="go", received_at=1e9)
S1 = WorkflowSchedule(name="s1", workflow_type="order", cron_expr="0 0 1 1 *", created_at=1e9)

EMPTY = """
    DELETE FROM record; DELETE FROM record_event; DELETE FROM record_activity; DELETE FROM record_timer;
    DELETE FROM record_signal; DELETE FROM snapshot; DELETE FROM schedule; DELETE FROM worker; DELETE FROM api_key;
    DELETE FROM journal; DELETE FROM tally; DELETE FROM run; DELETE FROM namespace WHERE name <> 'main'
"""
TOLD = """
    SELECT extract(epoch FROM clock_timestamp())::float8, (SELECT count(*) FROM journal WHERE id > $1),
        (SELECT coalesce(max(id), $1) FROM journal WHERE id > $1)
"""


class Bench:
    """The store, a connection beside it, and the loop on which both live."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = self.do(Store.connect(url, pool_max=1))
        self._connected = Sql.connected(url)
        self.sql = self.do(self._connected.__aenter__())
        self.last_entry = 0
        self.now = 0.0

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        self.do(self.store.close())
        self.do(self._connected.__aexit__(None, None, None))
        self.loop.close()

    def major(self) -> int:
        """The version of Postgres."""
        return int(self.do(self.sql.one("SELECT current_setting('server_version_num')::int / 10000")))

    def empty(self) -> float:
        """An empty store again; since when "main" exists."""
        self.do(self.sql.connection.execute(EMPTY))
        return float(self.do(self.sql.one("SELECT extract(epoch FROM created_at)::float8 FROM namespace")))

    async def call(self, method: str, arguments: dict[str, Any]) -> tuple[Any, int]:
        """What the store answers, or raises, and how many changes it told of. Then the database's clock is read."""
        try:
            answer = await getattr(self.store, method)(**arguments)
        except HoldfastError as error:
            answer = error
        [(self.now, told, self.last_entry)] = await self.sql(TOLD, self.last_entry)
        return answer, told


def answer_of(work: Coroutine[Any, Any, Any]) -> Any:
    """What the model answers or raises: it never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    except HoldfastError as error:
        return error
    raise AssertionError("the model waited")


class Machine(RuleBasedStateMachine):
    """A store and a model that are told the same. Rules for each method of the contract are added below."""

    bench: Bench

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        self.given: Any = None
        self.is_alike = True
        self.model = Model(lambda: bench.now, lambda: self.given, lambda: self.given)
        self.model.namespaces["main"] = bench.empty()

    @initialize(
        workflows=st.lists(WORKFLOW, min_size=2, max_size=4),
        activities=st.lists(ACTIVITY, min_size=1, max_size=3),
        claims=st.lists(st.sampled_from(["claim_workflow_task", "claim_activity"]), max_size=2),
    )
    def begin(self, workflows: list[Any], activities: list[Any], claims: list[str]) -> None:
        """Something of each kind, so that there is something to work on."""
        self.call("create_namespace", {"name": "a"})
        self.call("register_worker", {"worker": X1})
        self.call("create_schedule", {"schedule": S1})
        self.call("create_api_key", {"key_hash": "h1", "prefix": "p1", "label": None, "created_at": 1e9})
        for workflow in workflows:
            self.call("create_workflow", {"workflow": workflow})
        for n, activity in enumerate(activities):
            at = Address(Known("run", n), has_run_id=True)
            self.call("create_activity", {"activity": activity, "at": at})
            self.call("mark_workflow_dispatchable", {"at": at})
        at = Address(Known("run", 0))
        self.call("create_timer", {"timer": T1, "at": at})
        self.call("send_signal", {"signal": GO, "at": at})
        for claim in claims:
            self.call(claim, {"work": Known("work", 0), "worker_id": "x2"})

    def call(self, method: str, arguments: dict[str, Any]) -> None:
        """Call both and compare."""
        self.is_alike = False
        arguments = self.resolved(method, arguments)
        found, told = self.bench.do(self.bench.call(method, arguments))
        self.given = found
        if method == "create_workflow" and found is None:
            self.given = self.run_id_of(arguments["workflow"])
        before = self.model.changes
        expected = answer_of(getattr(self.model, method)(**arguments))
        changes = self.model.changes - before
        if isinstance(expected, HoldfastError):
            assert type(found) is type(expected), f"{method}: {found!r}, expected {expected!r}"
        else:
            assert same(found, expected), f"{method}:\n found    {found!r}\n expected {expected!r}"
        assert told == changes, f"{method} told of {told} changes, made {changes}; answered {found!r}"
        self.is_alike = True

    def resolved(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments with what exists in place of what stands for it."""
        arguments = dict(arguments)
        if "at" in arguments:
            self.put_address(method, arguments, arguments.pop("at"))
        if "work" in arguments:
            work = self.pick(arguments.pop("work"), self.work(method), ("main", "main"))
            arguments["task_queue"], arguments["namespace"] = work
        if isinstance(named := arguments.get("schedule"), Known | tuple):
            del arguments["schedule"]
            schedule = self.pick(named, sorted(self.model.schedules), ("main", "s1"))
            arguments["namespace"], arguments["name"] = schedule
        if isinstance(number := arguments.get("id"), Known):
            found = [activity for _, activity in self.model.all_activities()]
            running = [activity for activity in found if activity.status == "RUNNING"]
            found = running or found if method == "heartbeat_activity" else found
            arguments["id"] = self.pick(number, [activity.id for activity in found], 0)
        if (made := arguments.get("workflow")) and isinstance(made.run_id, Known):
            run_id = self.pick(made.run_id, list(self.model.runs), None)
            arguments["workflow"] = replace(made, run_id=run_id)
        return arguments

    def pick(self, named: Any, known: list[Any], none: Any) -> Any:
        """What *named* stands for."""
        if not isinstance(named, Known):
            return named
        return known[named.n % len(known)] if known else none

    def put_address(self, method: str, arguments: dict[str, Any], at: Address) -> None:
        """The workflow's id, namespace and run id as *method* takes them, and who has its lease."""
        run = self.pick(at.run, list(self.model.runs.values()), None)
        workflow_id, namespace, run_id = at.workflow_id or "w1", at.namespace, at.run_id
        if run is not None:
            workflow_id, namespace = run.record.id, run.record.namespace
            run_id = run.record.run_id if at.has_run_id else None
        arguments |= {"namespace": namespace, "run_id": run_id}
        owned = next((kind for kind in OWNED if kind in arguments), None)
        if owned is not None:
            arguments[owned] = replace(arguments[owned], workflow_id=workflow_id)
        else:
            arguments["id" if method in BY_ID else "workflow_id"] = workflow_id
        if isinstance(arguments.get("worker_id"), Known):
            arguments["worker_id"] = (run.worker if run else None) or "x1"

    def work(self, method: str) -> list[tuple[str, str]]:
        """Queues and namespaces where there is something to claim."""
        runs = [run for run in self.model.runs.values() if not run.is_closed]
        if method == "claim_workflow_task":
            return [(run.record.task_queue, run.record.namespace) for run in runs if run.ready_at is not None]
        return [
            (activity.task_queue, run.record.namespace)
            for run in runs
            for activity in run.activities.values()
            if activity.status == "PENDING"
        ]

    def run_id_of(self, made: Any) -> str:
        """The id of the run that was just made."""
        if made.run_id is not None:
            return str(made.run_id)
        found = self.bench.do(self.bench.store.get_workflow(made.id, namespace=made.namespace))
        return str(found.run_id)

    def teardown(self) -> None:
        """In the end everything reads the same."""
        if not self.is_alike:
            return
        for namespace in ("main", "a", "b"):
            for method in ("get_namespace_stats", "get_queue_stats", "list_workers", "list_schedules"):
                self.call(method, {"namespace": namespace})
        for method in ("list_namespaces", "list_api_keys"):
            self.call(method, {})
        for run_id, run in list(self.model.runs.items()):
            address = {"namespace": run.record.namespace, "run_id": run_id}
            self.call("get_workflow", {"id": run.record.id, **address})
            for method in ("list_events", "get_latest_snapshot"):
                self.call(method, {"workflow_id": run.record.id, **address})
            for seq in run.activities:
                self.call(
                    "get_activity_by_workflow_seq", {"workflow_id": run.record.id, "seq": seq, **address}
                )
            for seq in run.timers:
                self.call("get_timer_by_workflow_seq", {"workflow_id": run.record.id, "seq": seq, **address})


def rule_of(method: str) -> Callable[..., None]:
    """A rule that calls *method* with arguments of its kinds; one of them may be what it cannot be."""

    def call(self: Machine, odd: tuple[str, Any] | None, **arguments: Any) -> None:
        self.call(method, arguments if odd is None else {**arguments, odd[0]: odd[1]})

    call.__name__ = call.__qualname__ = method
    given: dict[str, Any] = {"odd": odd_of(CALLS[method]), **CALLS[method]}
    decorate: Callable[[Callable[..., None]], Callable[..., None]] = rule(**given)
    return decorate(call)


LOOKS = [method for method, arguments in CALLS.items() if not arguments]


def look(self: Machine, method: str) -> None:
    """One rule for what takes no argument, which would be called too often otherwise."""
    self.call(method, {})


Machine.look = rule(method=st.sampled_from(LOOKS))(look)
for _method in [method for method in CALLS if method not in LOOKS]:
    setattr(Machine, _method, rule_of(_method))


@pytest.fixture
def bench(database: str) -> Iterator[Bench]:
    opened = Bench(database)
    yield opened
    opened.close()


def test_the_machine_calls_every_method_of_the_contract() -> None:
    methods = {name for name, value in vars(Model).items() if inspect.iscoroutinefunction(value)}

    assert len(methods) == 54
    assert set(CALLS) == methods
    assert all(inspect.iscoroutinefunction(getattr(Store, method, None)) for method in methods)


def test_the_store_answers_as_the_model_does(bench: Bench) -> None:
    run_state_machine_as_test(
        lambda: Machine(bench),  # type: ignore[arg-type]  # takes whatever makes one
        settings=settings(
            max_examples=EXAMPLES[bench.major()],
            stateful_step_count=STEPS,
            derandomize=True,
            print_blob=True,
            report_multiple_bugs=False,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
