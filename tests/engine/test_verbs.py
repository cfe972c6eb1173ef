"""The verbs over a real bus, from a client's request to the answer it gets."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from holdfast.exceptions import AlreadyExists, HoldfastError, Invalid, NotFound, Refused
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy
from tests.engine.by_hand import QUEUE, Hand, hand
from tests.engine.parts import schedule
from tests.store.rows import Sql

NOWHERE = "00000000-0000-7000-8000-000000000000"
BOOM = Failure(message="boom", type="Boom")


@pytest.fixture
def by(env: WorkflowEnvironment) -> Hand:
    return hand(env)


@pytest.fixture
async def other(env: WorkflowEnvironment, look: Sql, namespace: str) -> Hand:
    """A client of another namespace."""
    await look("INSERT INTO namespace (name) VALUES ($1)", namespace)
    return hand(env, namespace=namespace)


async def described(by: Hand, workflow_id: str) -> m.Description:
    found: m.Description = await by.ask("describe", m.Describe(workflow_id=workflow_id))
    return found


async def listed(by: Hand, **filters: Any) -> list[str]:
    page: m.ListPage = await by.ask("list", m.List(**filters))
    return [run.workflow_id for run in page.runs]


def signal(workflow_id: str, request_id: str = "s1", **fields: Any) -> m.Signal:
    return m.Signal(request_id=request_id, workflow_id=workflow_id, name="go", **fields)


# -- a run from its start to its end ------------------------------------------------------------------


async def test_a_run_goes_from_start_over_activity_and_signal_to_its_result(by: Hand) -> None:
    started = await by.start("order-1", input=b'["x"]')
    await by.complete(await by.one_task(), schedule(1, input=b"[7]"))
    task = await by.one_activity()
    assert (task.name, task.input, task.attempt) == ("charge", b"[7]", 1)
    done = m.CompleteActivity(run_id=task.run_id, worker="hand", seq=1, fence=task.fence, result=b'"paid"')
    await by.ask("report", done)
    await by.ask("signal", signal("order-1"))
    turn = await by.one_task()
    assert [type(event.event).__name__ for event in turn.events][-2:] == [
        "ActivityCompleted",
        "SignalReceived",
    ]
    await by.complete(turn, c.CompleteWorkflow(result=b'"shipped"'))

    outcome = await by.ask("result", m.Result(workflow_id="order-1", run_id=started.run_id))
    page = await by.ask("history", m.History(workflow_id="order-1"))

    assert outcome.event.event.result == b'"shipped"'
    assert (page.status, page.last_seq) == ("COMPLETED", 7)
    assert [event.seq for event in page.events] == list(range(1, 8))


async def test_a_waiting_caller_is_answered_when_the_run_closes(by: Hand) -> None:
    await by.start("order-1")
    waiting = asyncio.create_task(by.ask("result", m.Result(workflow_id="order-1", wait_s=5.0)))
    await by.complete(await by.one_task(), c.CompleteWorkflow())

    async with asyncio.timeout(4):
        assert (await waiting).status == "COMPLETED"


# -- describe and list ------------------------------------------------------------------------------------


async def test_a_description_shows_what_is_open(by: Hand) -> None:
    await by.start("order-1")
    await by.complete(
        await by.one_task(),
        schedule(1, activity_id="pay", retry=RetryPolicy(max_attempts=3)),
        schedule(2),
        c.StartTimer(seq=3, delay_s=60),
    )
    first, _ = (await by.claim(activities=2)).activity_tasks
    failing = m.FailActivity(
        run_id=first.run_id, worker="hand", seq=first.seq, fence=first.fence, failure=BOOM
    )
    await by.ask("report", failing)

    found = await described(by, "order-1")

    assert found.summary.status == "RUNNING"
    by_seq = {activity.seq: activity for activity in found.activities}
    assert sorted(by_seq) == [1, 2]
    failed, running = by_seq[first.seq], by_seq[3 - first.seq]
    assert (failed.state, failed.attempt, failed.last_failure) == ("scheduled", 2, BOOM)
    assert failed.next_attempt_at is not None
    assert (running.state, running.worker) == ("started", "hand")
    assert (by_seq[1].activity_id, by_seq[1].max_attempts) == ("pay", 3)
    assert [timer.seq for timer in found.timers] == [3]


async def test_a_description_shows_why_code_fails(by: Hand) -> None:
    await by.start("order-1")
    task = await by.one_task()
    failing = m.FailWorkflowTask(
        run_id=task.run_id, worker="hand", fence=task.fence, cause="nondeterminism", failure=BOOM
    )
    await by.ask("report", failing)

    found = await described(by, "order-1")

    assert (found.task_failure_cause, found.task_failure, found.task_attempt) == ("nondeterminism", BOOM, 2)
    assert found.summary.task_failure == "nondeterminism"
    assert await listed(by, task_failing=True) == ["order-1"]


async def test_a_run_is_pending_until_somebody_took_it(by: Hand) -> None:
    await by.start("order-1")
    assert (await described(by, "order-1")).summary.status == "PENDING"

    await by.one_task()

    assert (await described(by, "order-1")).summary.status == "RUNNING"


async def test_a_list_is_newest_first_and_filtered_by_everything_given(by: Hand) -> None:
    for number in range(4):
        await by.start(f"w{number}", workflow_type="A" if number % 2 else "B")
    await by.ask("terminate", m.Terminate(request_id="t", workflow_id="w1"))

    assert await listed(by) == ["w3", "w2", "w1", "w0"]
    assert await listed(by, workflow_type="A") == ["w3", "w1"]
    assert await listed(by, statuses=["TERMINATED"]) == ["w1"]
    assert await listed(by, statuses=["running"]) == ["w3", "w2", "w0"], "every open run"
    assert await listed(by, statuses=["TERMINATED", "RUNNING"], workflow_type="A") == ["w3", "w1"]
    assert await listed(by, workflow_id="w2") == ["w2"]
    assert await listed(by, workflow_type="none") == []


async def test_a_list_is_read_in_pages_to_its_end(by: Hand) -> None:
    for number in range(5):
        await by.start(f"w{number}")
    seen: list[str] = []
    cursor = None
    while True:
        page: m.ListPage = await by.ask("list", m.List(limit=2, cursor=cursor))
        seen += [run.workflow_id for run in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert seen == ["w4", "w3", "w2", "w1", "w0"]


@pytest.mark.parametrize(
    "request_",
    [
        m.List(limit=0),
        m.List(limit=1_001),
        m.List(statuses=["DANCING"]),
        m.List(cursor="x"),
        m.List(workflow_id="a\x00b"),
        m.List(workflow_type="\x00"),
    ],
    ids=repr,
)
async def test_a_list_that_makes_no_sense_is_invalid(by: Hand, request_: m.List) -> None:
    with pytest.raises(Invalid):
        await by.ask("list", request_)


async def test_history_is_read_in_pages(by: Hand) -> None:
    await by.start("order-1")
    for number in range(9):
        await by.ask("signal", signal("order-1", f"s{number}"))

    page: m.HistoryPage = await by.ask("history", m.History(workflow_id="order-1", after=3, limit=4))

    assert [event.seq for event in page.events] == [4, 5, 6, 7]
    assert page.last_seq == 10
    beyond: m.HistoryPage = await by.ask("history", m.History(workflow_id="order-1", after=10))
    assert beyond.events == []


@pytest.mark.parametrize("fields", [{"limit": 0}, {"limit": 1_001}, {"after": -1}, {"after": 2**40}], ids=str)
async def test_a_page_that_makes_no_sense_is_invalid(by: Hand, fields: dict[str, int]) -> None:
    await by.start("order-1")

    with pytest.raises(Invalid):
        await by.ask("history", m.History(workflow_id="order-1", **fields))


# -- what is refused, and how ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "request_"),
    [
        ("signal", signal("nobody")),
        ("cancel", m.Cancel(request_id="c", workflow_id="nobody")),
        ("terminate", m.Terminate(request_id="t", workflow_id="nobody")),
        ("describe", m.Describe(workflow_id="nobody")),
        ("history", m.History(workflow_id="nobody")),
        ("result", m.Result(workflow_id="nobody", wait_s=0.0)),
        ("describe", m.Describe(workflow_id="known", run_id=NOWHERE)),
        ("signal", signal("known", run_id=NOWHERE)),
        ("report", m.ReleaseTask(run_id=NOWHERE, worker="w", fence=1)),
    ],
    ids=repr,
)
async def test_what_is_not_there_is_not_found(by: Hand, verb: str, request_: Any) -> None:
    await by.start("known")

    with pytest.raises(NotFound):
        await by.ask(verb, request_)


async def test_a_second_start_says_which_run_is_in_the_way(by: Hand) -> None:
    first = await by.start("order-1")

    with pytest.raises(AlreadyExists) as refused:
        await by.start("order-1")

    assert refused.value.details == {"workflow_id": "order-1", "run_id": first.run_id}


async def test_an_unknown_namespace_is_not_found(env: WorkflowEnvironment) -> None:
    with pytest.raises(NotFound, match="no namespace 'nowhere'"):
        await hand(env, namespace="nowhere").start("order-1")


@pytest.mark.parametrize("odd", ["with space", "dots.>.*", "🦆" * 100, "x" * 1_000, "; DROP TABLE run", "\n"])
async def test_odd_names_go_all_the_way(by: Hand, odd: str) -> None:
    started = await by.start(odd, workflow_type=odd, request_id=odd)
    await by.ask(
        "signal", m.Signal(request_id=odd + "!"[: 1_000 - len(odd)] or "s", workflow_id=odd, name=odd)
    )

    assert await listed(by, workflow_id=odd) == [odd]
    assert (await described(by, odd)).summary.run_id == started.run_id


async def test_one_bad_request_of_a_frame_is_refused_alone(env: WorkflowEnvironment) -> None:
    bus = env.client.caller.rpc.bus
    good = codec.encode(m.Start(request_id="r", workflow_id="w", workflow_type="t", task_queue=QUEUE))
    frame = codec.encode_frame([b"\xc0", good, msgspec.msgpack.encode({"workflow_id": 5}), codec.encode({})])

    answers = codec.decode_answers(await bus.request(subjects.rpc("main", "start"), frame))

    assert [answer.code for answer in answers] == ["invalid", "ok", "invalid", "invalid"]


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x81\xa1a\x01", b"\x91" * 100_000, b"hello"], ids=lambda d: str(len(d))
)
async def test_what_is_no_frame_is_told_to_be_none(env: WorkflowEnvironment, data: bytes) -> None:
    with pytest.raises(Invalid):
        await env.client.caller.rpc.bus.request(subjects.rpc("main", "start"), data)


async def test_an_empty_frame_is_answered_with_nothing(env: WorkflowEnvironment) -> None:
    reply = await env.client.caller.rpc.bus.request(subjects.rpc("main", "start"), b"\x90")

    assert codec.decode_answers(reply) == []


# -- namespaces are walls -------------------------------------------------------------------------------------


async def test_equal_ids_in_two_namespaces_never_meet(by: Hand, other: Hand) -> None:
    mine = await by.start("order-1", request_id="same")
    theirs = await other.start("order-1", request_id="same")
    assert mine.run_id != theirs.run_id

    await other.ask("terminate", m.Terminate(request_id="same-t", workflow_id="order-1"))

    assert await by.status(mine) == "PENDING"
    assert await other.status(theirs) == "TERMINATED"
    assert (await by.one_task()).run_id == mine.run_id


@pytest.mark.parametrize("verb", ["describe", "history", "result", "signal", "cancel", "terminate"])
async def test_a_run_id_opens_no_door_into_another_namespace(by: Hand, other: Hand, verb: str) -> None:
    run_id = (await by.start("order-1")).run_id
    request_ = {
        "describe": m.Describe(workflow_id="order-1", run_id=run_id),
        "history": m.History(workflow_id="order-1", run_id=run_id),
        "result": m.Result(workflow_id="order-1", run_id=run_id, wait_s=0.0),
        "signal": signal("order-1", run_id=run_id),
        "cancel": m.Cancel(request_id="c", workflow_id="order-1", run_id=run_id),
        "terminate": m.Terminate(request_id="t", workflow_id="order-1", run_id=run_id),
    }[verb]

    with pytest.raises(NotFound):
        await other.ask(verb, request_)


async def test_a_workers_report_counts_in_its_own_namespace_only(by: Hand, other: Hand) -> None:
    await by.start("order-1")
    task = await by.one_task()

    with pytest.raises(NotFound):
        await other.complete(task, c.CompleteWorkflow())

    assert (await by.complete(task, c.CompleteWorkflow())).is_closed


async def test_a_claim_sees_its_own_namespace_only(by: Hand, other: Hand) -> None:
    await by.start("order-1")

    assert (await other.claim(workflows=5)).workflow_tasks == []
    assert await listed(other) == []


async def test_every_error_keeps_its_kind_over_the_bus(by: Hand) -> None:
    """What callers catch is what the service raised."""
    raised: list[type[HoldfastError]] = []
    await by.start("order-1")
    for ask in (
        by.start("order-1"),
        by.ask("describe", m.Describe(workflow_id="nobody")),
        by.start("order-2", id_reuse="maybe"),
        by.ask("signal", signal("order-1", request_id="start")),
        by.ask("signal", signal("order-1", request_id="start", input=b"[1]")),
    ):
        try:
            await ask
        except HoldfastError as error:
            raised.append(type(error))

    assert raised == [AlreadyExists, NotFound, Invalid, Refused]
