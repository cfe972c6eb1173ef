"""Random lives of runs, written step by step: the rows are at every end what the core says they are."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from holdfast.core import state as s
from holdfast.core.ids import uuid7
from holdfast.core.requests import Ask, ExpireTask, FireTimer
from holdfast.store.journal import lock
from holdfast.store.record import record
from holdfast.store.session import Pool
from holdfast.wire import codec
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy
from tests.core.story import Story, activity, started, timer
from tests.store.rows import Sql

RUN = uuid7(1_700_000_000_000, bytes(10))


class Recorded(Story):
    """A story that keeps what each transaction would write."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.commits: list[s.RunState] = []

    def commit(self, state: s.RunState) -> None:
        self.commits.append(copy.deepcopy(state))
        super().commit(state)


def new_story() -> Recorded:
    story = started()
    state = story.state()
    story.run.run_id = RUN
    first = s.RunState(run=story.run, is_new=True, first_new_seq=1, events=list(story.history))
    for seq, task in state.tasks.items():
        task.run_id = RUN
        first.tasks[seq] = task
        first.opened_tasks.add(seq)
    recorded = Recorded(copy.copy(story.run))
    recorded.commit(first)
    return recorded


def live(story: Recorded, choose: random.Random) -> None:
    """Something happens, likely enough to get far."""
    ready = [seq for seq, task in story.tasks.items() if task.worker is None]
    held = [seq for seq, task in story.tasks.items() if task.worker is not None]
    name = f"r{len(story.commits)}"
    match choose.choice(["claim", "claim", "report", "report", "report", "message", "clock", "time"]):
        case "claim" if ready:
            seq = choose.choice(ready)
            story.now = max(story.now, story.tasks[seq].ready_at)
            story.claim(seq, choose.choice(["w1", "w2"]))
        case "report" if held:
            seq = choose.choice(held)
            (report_on_turn if seq == 0 else report_on_activity)(story, choose, seq)
        case "message":
            kinds: list[Any] = [m.Signal(request_id=name, workflow_id="order-1", name="go")] * 3
            kinds.append(m.Cancel(request_id=name, workflow_id="order-1"))
            if choose.random() < 0.05:
                kinds = [m.Terminate(request_id=name, workflow_id="order-1")]
            story.batch(Ask(choose.choice(kinds), name.encode()))
        case "clock":
            story.batch(*(FireTimer(seq) for seq in story.timers), *(ExpireTask(seq) for seq in story.tasks))
        case "time":
            story.wait(choose.choice([0.5, 3.0, 11.0]))


def commands(story: Recorded, choose: random.Random) -> list[c.AnyCommand]:
    """New things, cancels of old ones, rarely the end."""
    seq, found = story.run.command_seq, []
    for _ in range(choose.randrange(4)):
        seq += 1
        policy = RetryPolicy(max_attempts=choose.randrange(3))
        limits = {"schedule_to_close_s": 20.0, "heartbeat_s": 4.0} if choose.random() < 0.4 else {}
        found.append(choose.choice([activity(seq, policy, **limits), timer(seq, choose.choice([1.0, 9.0]))]))
    if story.timers and choose.random() < 0.3:
        found.append(c.CancelTimer(seq=choose.choice(list(story.timers))))
    if story.activities and choose.random() < 0.3:
        found.append(c.RequestCancelActivity(seq=choose.choice(list(story.activities))))
    return [*found, c.CompleteWorkflow(result=b"1")] if choose.random() < 0.08 else found


def report_on_turn(story: Recorded, choose: random.Random, seq: int) -> None:
    fence = story.tasks[0].fence
    if choose.random() < 0.2:
        story.fail_task(fence)
    elif choose.random() < 0.1:
        story.ask(story.release(0, fence))
    else:
        story.batch(story.completion(fence, *commands(story, choose)))


def report_on_activity(story: Recorded, choose: random.Random, seq: int) -> None:
    fence = story.tasks[seq].fence
    match choose.randrange(6):
        case 0:
            story.ask(story.failed(seq, fence, Failure(message=f"boom {len(story.commits)}", details=b"[1]")))
        case 1:
            story.ask(story.cancelled(seq, fence))
        case 2:
            story.heartbeat(seq, fence, b"[%d]" % len(story.commits))
        case 3:
            story.ask(story.release(seq, fence))
        case 4:
            story.batch(story.done(seq, fence, turn=commands(story, choose)))
        case _:
            story.ask(story.done(seq, fence))


def near(value: Any) -> Any:
    """Times as the database keeps them, to the microsecond."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: near(item) for key, item in value.items()}
    if hasattr(value, "__struct_fields__") and not isinstance(value, s.Options | Failure):
        return {name: near(getattr(value, name)) for name in value.__struct_fields__}
    return value


async def rows_of(pool: Pool, story: Recorded) -> s.RunState:
    """Everything that the database has of the story's run."""
    activities = [(RUN, seq) for seq in story.activities]
    timers = [(RUN, seq) for seq in story.timers]
    asked = [("main", name) for name in story.requests]
    async with pool.transaction() as session:
        states, _ = await lock(session, [RUN], activities, timers, asked)
        return states[RUN]


@pytest.mark.parametrize("seed", range(12))
async def test_what_is_written_step_by_step_is_what_the_core_says(pool: Pool, sql: Sql, seed: int) -> None:
    choose, story = random.Random(seed), new_story()
    for _ in range(70):
        live(story, choose)

    for state in story.commits:
        async with pool.transaction(is_deferred=True) as session:
            await record(session, [state])

    found = await rows_of(pool, story)
    # The closing of timers and activities has a moment of its own; what counts is that they are closed.
    if story.run.is_open:
        assert near(found.run) == near(story.run)
        assert near(found.activities) == near(story.activities)
    assert found.run.status == story.run.status
    assert near(found.tasks) == near(story.tasks)
    assert near(found.timers) == near(story.timers)
    assert {n: r.hash for n, r in found.requests.items()} == {n: r.hash for n, r in story.requests.items()}
    assert {seq: row.status for seq, row in found.activities.items()} == {
        seq: row.status for seq, row in story.activities.items()
    }
    assert await sql.one("SELECT count(*) FROM task") == len(story.tasks)
    events = await sql("SELECT seq, body FROM event ORDER BY seq")
    assert [seq for seq, _ in events] == list(range(1, story.run.last_seq + 1))
    assert [codec.decode_event(body) for _, body in events] == story.events


async def test_the_lives_reach_what_matters() -> None:
    """Otherwise the test above would prove nothing."""
    names: set[str] = set()
    for seed in range(12):
        choose, story = random.Random(seed), new_story()
        for _ in range(70):
            live(story, choose)
        names |= set(story.names)

    assert names >= {
        "WorkflowTaskFailed",
        "ActivityCompleted",
        "ActivityFailed",
        "ActivityTimedOut",
        "ActivityCancelled",
        "ActivityCancelRequested",
        "TimerFired",
        "TimerCancelled",
        "SignalReceived",
        "WorkflowCancelRequested",
        "WorkflowCompleted",
    }


async def test_many_runs_in_one_batch_are_written_together(pool: Pool, sql: Sql) -> None:
    stories = [new_story() for _ in range(5)]
    for number, story in enumerate(stories):
        run_id = uuid7(1_700_000_000_000 + number, bytes(10))
        for state in story.commits:
            state.run.run_id = run_id
            state.run.workflow_id = f"w{number}"
            for task in state.tasks.values():
                task.run_id = run_id
    statements = pool.counts.statements

    async with pool.transaction(is_deferred=True) as session:
        await record(session, [story.commits[0] for story in stories])

    assert pool.counts.statements - statements == 1
    assert await sql.one("SELECT count(*) FROM run") == 5
    assert await sql.one("SELECT count(*) FROM event") == 5
    assert await sql.one("SELECT count(*) FROM task") == 5
