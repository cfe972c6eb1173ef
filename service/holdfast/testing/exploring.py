"""Runs one workflow in every order of its racing events and with a crash at every point, and shows the shortest that goes wrong.

Each schedule is a run of its own on an engine in memory whose clock stands still. One after the other happens: the
workflow's code goes on, an activity runs, a signal arrives, time passes to what is due next; or the worker dies, between
two commits, or after an activity has had its effect and before anybody heard of it. A schedule is told by where it departs
from the plain course; those with fewer departures are tried first.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from holdfast.activity import ActivityDefinition, definition_of
from holdfast.converter import DataConverter
from holdfast.core import state as s
from holdfast.engine.verbs import VERBS
from holdfast.memory import MemoryEngine, Tables
from holdfast.sdk import definitions
from holdfast.sdk.runtime import Identity, WorkflowRun
from holdfast.testing.activities import ActivityEnvironment
from holdfast.wire import codec
from holdfast.wire import events as e
from holdfast.wire import messages as m

NOON = 1_800_000_000.0
FOREVER_S = 1e9
NAMESPACE, QUEUE, ID = "main", "explored", "explored"
STEPS_MAX = 1_000

Signal = tuple[str, Sequence[Any]]


class Explored(msgspec.Struct, frozen=True):
    """How many schedules were tried; whether those were all within the bounds."""

    schedules: int
    is_complete: bool


class WentWrong(AssertionError):
    """A schedule with the fewest departures that goes wrong. `steps` is what happened, in order."""

    def __init__(self, why: str, steps: Sequence[str], schedules: int) -> None:
        told = "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1))
        super().__init__(f"{why}\nafter {schedules} schedules, in this one:\n{told}")
        self.why = why
        self.steps = list(steps)


async def explore(
    workflow: Any,
    *args: Any,
    activities: Sequence[Callable[..., Any]] = (),
    signals: Sequence[Signal] = (),
    setup: Callable[[], None] = lambda: None,
    check: Callable[[Any], None] = lambda _: None,
    departures_max: int = 2,
    schedules_max: int = 2_000,
    data_converter: DataConverter = DataConverter.default,
) -> Explored:
    """Try *workflow* under every schedule with at most *departures_max* departures, at most *schedules_max* of them.

    *setup* is called before each; *check* gets the result of each and raises AssertionError if it, or what the
    activities did, is not as it should be. *signals* (name and arguments) arrive in their order, at any time. Raises
    `WentWrong` for a run that is checked wrong, fails, can go on no more, or does something else when it is replayed.
    """
    case = _Case(
        workflow=definitions.must_define(workflow),
        input=data_converter.encode_args(args),
        activities={found.name: found for fn in activities if (found := definition_of(fn)) is not None},
        signals=signals,
        setup=setup,
        check=check,
        converter=data_converter,
    )
    waiting: deque[dict[int, int]] = deque([{}])
    tried = 0
    while waiting and tried < schedules_max:
        schedule = waiting.popleft()
        tried += 1
        course = await _follow(case, schedule)
        if course.fault:
            raise WentWrong(course.fault, course.steps, tried)
        if len(schedule) < departures_max:
            first = max(schedule, default=-1) + 1
            waiting.extend(
                {**schedule, step: choice}
                for step in range(first, len(course.choices))
                for choice in range(1, course.choices[step])
            )
    return Explored(tried, not waiting)


class _Case(msgspec.Struct):
    workflow: Any
    input: bytes
    activities: Mapping[str | None, ActivityDefinition]
    signals: Sequence[Signal]
    setup: Callable[[], None]
    check: Callable[[Any], None]
    converter: DataConverter


class _Course(msgspec.Struct):
    """What happened: each step, how many there were to choose from at each, and what went wrong, if anything did."""

    steps: list[str] = []
    choices: list[int] = []
    fault: str = ""


async def _follow(case: _Case, schedule: Mapping[int, int]) -> _Course:
    course = _Course()
    case.setup()
    async with MemoryEngine.running(Tables(NOON), lease_s=FOREVER_S) as engine:
        stage = _Stage(case, engine)
        try:
            await stage.begin()
            while (closing := stage.closing()) is None:
                actions = await stage.actions()
                if not actions or len(course.steps) >= STEPS_MAX:
                    course.fault = "the workflow is not done, and nothing happens any more"
                    return course
                name, act = actions[schedule.get(len(course.steps), 0)]
                course.choices.append(len(actions))
                course.steps.append(name)
                await act()
            if not isinstance(closing, e.WorkflowCompleted):
                course.fault = f"the workflow did not complete: {closing}"
                return course
            case.check(case.converter.decode_value(closing.result, case.workflow.types[1]))
        except AssertionError as error:
            course.fault = str(error) or "the check failed"
        except Exception as error:  # noqa: BLE001 - users' workflows run here, and what they raise is what is looked for
            course.fault = f"{type(error).__name__}: {error}"
        finally:
            stage.crash()
    return course


class _Stage:
    """One run, and what can happen to it next."""

    def __init__(self, case: _Case, engine: MemoryEngine) -> None:
        self._case = case
        self._engine = engine
        self._run: WorkflowRun | None = None
        self._run_id = ""
        self._held: dict[int, m.ActivityTask] = {}
        self._signals = list(case.signals)

    async def begin(self) -> None:
        """Start the workflow."""
        start = m.Start(
            request_id="start",
            workflow_id=ID,
            workflow_type=self._case.workflow.name or "",
            task_queue=QUEUE,
            input=self._case.input,
        )
        self._run_id = (await self._ask("start", start)).run_id

    def closing(self) -> e.AnyEvent | None:
        """The event that closed the run."""
        tables = self._engine.tables
        if tables.runs[self._run_id].is_open:
            return None
        last = tables.events[self._run_id][-1]
        return codec.decode_event(last.body)

    async def actions(self) -> list[tuple[str, Callable[[], Any]]]:
        """What can happen next, the plain course first."""
        await self._hold()
        tables = self._engine.tables
        found: list[tuple[str, Callable[[], Any]]] = []
        task = tables.tasks.get((self._run_id, 0))
        if task is not None and task.ready_at <= tables.now:
            found.append(("the workflow's code goes on", self._go_on))
        found += [
            (f"activity {held.name} runs", partial(self._perform, held)) for held in self._held.values()
        ]
        if self._signals:
            name = self._signals[0][0]
            found.append((f"signal {name} arrives", self._signal))
        if any(timer.state == s.TIMER_OPEN for timer in tables.timers.values()) or not found:
            due = tables.next_due()
            if due is not None and due < NOON + FOREVER_S:
                found.append((f"time passes: {due - tables.now:g} s", self._pass_time))
        if self._run is not None and found:
            found.append(("the worker dies", self._die))
        found += [
            (f"activity {held.name} runs, and its worker dies", partial(self._perform_unheard, held))
            for held in self._held.values()
            if held.max_attempts != 1
        ]
        return found

    def crash(self) -> None:
        """Forget what the worker knows of the run."""
        if self._run is not None:
            self._run.close()
            self._run = None

    async def _die(self) -> None:
        self.crash()

    async def _go_on(self) -> None:
        claim = m.Claim(worker="w", task_queue=QUEUE, workflow_slots=1)
        (task,) = (await self._ask("claim", claim)).workflow_tasks
        if self._run is None:
            self._run = self._new_run()
        seen = self._run.seen_seq
        rows = self._engine.tables.events[self._run_id][seen : task.head_seq]
        events = [e.HistoryEvent(row.seq, row.recorded_at, codec.decode_event(row.body)) for row in rows]
        commands = self._run.activate(events, head_seq=task.head_seq, now=task.now)
        report = m.CompleteWorkflowTask(
            run_id=task.run_id,
            worker="w",
            task_queue=QUEUE,
            fence=task.fence,
            seen_seq=self._run.seen_seq,
            now=self._run.loop.now,
            commands=commands,
        )
        answer: m.Reported = await self._ask("report", report)
        if self._run.is_closed or answer.is_closed:
            self.crash()
        else:
            self._run.committed(head_seq=answer.head_seq, marker_seq=answer.marker_seq)

    def _new_run(self) -> WorkflowRun:
        identity = Identity(
            run_id=self._run_id,
            workflow_id=ID,
            workflow_type=self._case.workflow.name or "",
            task_queue=QUEUE,
            namespace=NAMESPACE,
        )
        return WorkflowRun(self._case.workflow, identity, self._case.converter)

    async def _hold(self) -> None:
        """Take what activities are ready, and let go of those that are no longer wanted."""
        claim = m.Claim(worker="w", task_queue=QUEUE, activity_slots=100)
        for task in (await self._ask("claim", claim)).activity_tasks:
            self._held[task.seq] = task
        self._held = {seq: task for seq, task in self._held.items() if self._is_in_force(task)}

    def _is_in_force(self, held: m.ActivityTask) -> bool:
        """Whether a result would still count: an attempt that has timed out, or is not wanted any more, would not."""
        task = self._engine.tables.tasks.get((self._run_id, held.seq))
        return task is not None and task.fence == held.fence and task.worker is not None

    async def _perform(self, task: m.ActivityTask) -> None:
        del self._held[task.seq]
        about: dict[str, Any] = {"run_id": task.run_id, "worker": "w", "seq": task.seq, "fence": task.fence}
        try:
            result = await self._call(task)
        except Exception as error:  # noqa: BLE001 - users' activities run here
            failure = self._case.converter.encode_failure(error)
            await self._ask("report", m.FailActivity(**about, failure=failure))
            return
        encoded = self._case.converter.encode_value(result)
        await self._ask("report", m.CompleteActivity(**about, result=encoded))

    async def _perform_unheard(self, task: m.ActivityTask) -> None:
        """It has had its effect, and is done again by the next worker."""
        del self._held[task.seq]
        # What it returns or raises, nobody hears of.
        with contextlib.suppress(Exception):
            await self._call(task)
        self.crash()
        await self._ask(
            "report", m.ReleaseTask(run_id=task.run_id, worker="w", seq=task.seq, fence=task.fence)
        )

    async def _call(self, task: m.ActivityTask) -> Any:
        definition = self._case.activities.get(task.name)
        if definition is None:
            raise LookupError(f"no activity {task.name}: pass it to explore(activities=[…])")
        args = self._case.converter.decode_args(task.input, definition.types[0])
        result: Any = ActivityEnvironment().run(definition.fn, *args)
        return await result if definition.is_async else result

    async def _signal(self) -> None:
        name, args = self._signals.pop(0)
        request = m.Signal(
            request_id=f"signal {len(self._signals)}",
            workflow_id=ID,
            name=name,
            input=self._case.converter.encode_args(args),
        )
        await self._ask("signal", request)

    async def _pass_time(self) -> None:
        due = self._engine.next_due()
        if due is not None:
            await self._engine.advance(due - self._engine.now)

    async def _ask(self, verb: str, request: Any) -> Any:
        answer = await VERBS[verb](self._engine, NAMESPACE, request)
        # Nobody is to be given work unasked.
        self._engine.credits.forget(NAMESPACE, "w")
        return answer
