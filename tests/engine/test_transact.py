"""Batches: everything in one transaction, each request as if it had come alone, in the order they came."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.core.requests import FireTimer
from holdfast.engine.dispatch import Credit, Credits
from holdfast.engine.transact import Change, Outcome, is_retry, transact
from holdfast.exceptions import AlreadyExists, HoldfastError, Invalid, LeaseLost, NotFound, Refused
from holdfast.store.session import Conflict, Pool
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.engine.parts import (
    QUEUE,
    Parts,
    asking,
    completion,
    credit,
    reporting,
    schedule,
    signal_of,
    start_of,
    starting,
)
from tests.store.rows import Sql

NS = "main"
NOWHERE = "00000000-0000-7000-8000-000000000000"


async def carry_out(pool: Pool, *changes: Change, credits: Credits | None = None) -> list[Any]:
    """The answers, or errors, to changes that share one transaction."""
    committed = await transact(pool, credits or Credits(), changes, lease_s=10.0, heard_now=0.0)
    return [answer_of(out) for out in committed.outcomes]


def answer_of(out: Outcome | HoldfastError) -> Any:
    return out.answer if isinstance(out, Outcome) else out


async def names(look: Sql, workflow_id: str = "order-1") -> list[str]:
    return await look(
        "SELECT e.type FROM event AS e JOIN run AS r USING (run_id) WHERE r.workflow_id = $1 ORDER BY r.run_id, e.seq",
        workflow_id,
    )


# -- one bad request ------------------------------------------------------------------------


async def test_a_bad_request_is_refused_alone(pool: Pool, look: Sql) -> None:
    good, bad, ugly, fine = await carry_out(
        pool,
        starting(NS, start_of("one")),
        asking(NS, signal_of("nobody")),
        reporting(NS, m.ReleaseTask(run_id=NOWHERE, worker="w", fence=1)),
        starting(NS, start_of("two")),
    )

    assert (good.is_new, fine.is_new) == (True, True)
    assert isinstance(bad, NotFound)
    assert isinstance(ugly, NotFound)
    assert await look("SELECT workflow_id FROM run ORDER BY 1") == ["one", "two"]


async def test_a_batch_in_which_everything_is_refused_writes_nothing(pool: Pool) -> None:
    refused = await carry_out(pool, asking(NS, signal_of("nobody")), asking(NS, signal_of("nobody else")))

    assert [type(answer) for answer in refused] == [NotFound, NotFound]
    assert pool.counts.commits == 0


async def test_each_request_sees_what_the_earlier_ones_did(pool: Pool, look: Sql) -> None:
    await carry_out(pool, starting(NS, start_of()))
    end = m.Terminate(request_id="t", workflow_id="order-1")

    first, done, late = await carry_out(
        pool, asking(NS, signal_of()), asking(NS, end), asking(NS, signal_of())
    )

    assert isinstance(first, m.Done)
    assert isinstance(done, m.Done)
    assert isinstance(late, Refused)
    assert await names(look) == ["WorkflowStarted", "SignalReceived", "WorkflowTerminated"]


# -- starts -----------------------------------------------------------------------------------


async def test_a_signal_right_after_the_start_of_its_run_finds_it_in_the_same_batch(
    pool: Pool, look: Sql
) -> None:
    started, done = await carry_out(pool, starting(NS, start_of()), asking(NS, signal_of()))

    assert done.run_id == started.run_id
    assert await names(look) == ["WorkflowStarted", "SignalReceived"]


async def test_a_run_may_be_started_signalled_and_ended_in_one_batch(pool: Pool, look: Sql) -> None:
    await carry_out(
        pool,
        starting(NS, start_of()),
        asking(NS, signal_of()),
        asking(NS, m.Terminate(request_id="t", workflow_id="order-1")),
    )

    assert await names(look) == ["WorkflowStarted", "SignalReceived", "WorkflowTerminated"]
    assert await look.one("SELECT count(*) FROM task") == 0


async def test_a_workflow_id_may_end_and_start_again_in_one_batch(pool: Pool, look: Sql) -> None:
    first, _, second, done = await carry_out(
        pool,
        starting(NS, start_of()),
        asking(NS, m.Terminate(request_id="t", workflow_id="order-1")),
        starting(NS, start_of()),
        asking(NS, signal_of()),
    )

    assert first.run_id < second.run_id
    assert done.run_id == second.run_id
    assert await look("SELECT status FROM run ORDER BY run_id") == ["TERMINATED", "PENDING"]


@pytest.mark.parametrize("same_request", [True, False])
async def test_two_starts_of_one_id_in_one_batch_are_one_run(
    pool: Pool, look: Sql, same_request: bool
) -> None:
    one = start_of(request_id="r1")
    two = one if same_request else start_of(request_id="r2")

    first, second = await carry_out(pool, starting(NS, one), starting(NS, two))

    assert first.is_new
    if same_request:
        assert (second.run_id, second.is_new) == (first.run_id, False)
    else:
        assert isinstance(second, AlreadyExists)
    assert await look.one("SELECT count(*) FROM run") == 1


async def test_two_starts_that_use_what_exists_are_one_run(pool: Pool, look: Sql) -> None:
    answers = await carry_out(
        pool, *(starting(NS, start_of(request_id=f"r{n}", id_conflict="use_existing")) for n in range(3))
    )

    assert len({answer.run_id for answer in answers}) == 1
    assert [answer.is_new for answer in answers] == [True, False, False]


async def test_a_request_id_with_another_body_is_refused_within_a_batch_too(pool: Pool) -> None:
    _, refused = await carry_out(
        pool,
        starting(NS, start_of(request_id="same")),
        starting(NS, start_of(request_id="same", workflow_type="another")),
    )

    assert isinstance(refused, Refused)
    assert "another body" in refused.message


async def test_starts_of_one_id_by_many_processes_at_once_are_one_run(pool: Pool, look: Sql) -> None:
    """Each in a transaction of its own; those that lose are decided again and then refused."""
    starts = [starting(NS, start_of(request_id=f"r{n}")) for n in range(12)]

    found = await asyncio.gather(*(carry_out(pool, one) for one in starts))

    winners = [answers[0] for answers in found if isinstance(answers[0], m.Started)]
    assert len(winners) == 1
    assert all(
        is_retry(answers[0]) or isinstance(answers[0], AlreadyExists)
        for answers in found
        if answers[0] is not winners[0]
    )
    assert await look.one("SELECT count(*) FROM run") == 1
    assert await names(look) == ["WorkflowStarted"]


async def test_terminate_existing_ends_the_old_run_and_starts_the_new_one_together(
    pool: Pool, look: Sql
) -> None:
    (old,) = await carry_out(pool, starting(NS, start_of()))
    commits = pool.counts.commits

    (new,) = await carry_out(pool, starting(NS, start_of(id_conflict="terminate_existing")))

    assert new.run_id > old.run_id
    assert pool.counts.commits - commits == 1
    assert await look("SELECT status, closed_at IS NULL FROM run ORDER BY run_id") == [
        ("TERMINATED", False),
        ("PENDING", True),
    ]


async def test_terminate_existing_repeated_ends_nothing(pool: Pool, look: Sql) -> None:
    again = starting(NS, start_of(request_id="r2", id_conflict="terminate_existing"))
    await carry_out(pool, starting(NS, start_of()))
    (first,) = await carry_out(pool, again)

    (second,) = await carry_out(pool, again)

    assert (second.run_id, second.is_new) == (first.run_id, False)
    assert await look.one("SELECT count(*) FROM run WHERE closed_at IS NULL") == 1


async def test_one_request_id_may_replace_runs_of_several_workflow_ids(pool: Pool, look: Sql) -> None:
    """A start's request id counts within its workflow id: the ends it brings about must not collide."""
    names_ = ["one", "two", "three"]
    await carry_out(pool, *(starting(NS, start_of(name)) for name in names_))
    replace = {"request_id": "nightly", "id_conflict": "terminate_existing"}

    together = await carry_out(pool, *(starting(NS, start_of(name, **replace)) for name in names_[:2]))
    alone = await carry_out(pool, starting(NS, start_of(names_[2], **replace)))

    assert all(answer.is_new for answer in [*together, *alone])
    assert await look.one("SELECT count(*) FROM run WHERE status = 'TERMINATED'") == 3


async def test_equal_ids_in_two_namespaces_are_two_runs_in_one_batch(pool: Pool, look: Sql) -> None:
    await look("INSERT INTO namespace (name) VALUES ('other')")

    mine, theirs, done = await carry_out(
        pool,
        starting(NS, start_of(request_id="same")),
        starting("other", start_of(request_id="same")),
        asking("other", signal_of()),
    )

    assert mine.run_id != theirs.run_id
    assert done.run_id == theirs.run_id


# -- whom a request speaks of -------------------------------------------------------------------


async def test_a_run_of_another_namespace_or_workflow_is_not_found(pool: Pool, look: Sql) -> None:
    await look("INSERT INTO namespace (name) VALUES ('other')")
    (started,) = await carry_out(pool, starting(NS, start_of()))

    answers = await carry_out(
        pool,
        asking("other", signal_of(run_id=started.run_id)),
        asking(NS, signal_of("order-2", run_id=started.run_id)),
        reporting("other", m.ReleaseTask(run_id=started.run_id, worker="w", fence=1)),
        Change("other", FireTimer(1), run_id=started.run_id),
    )

    assert [type(answer) for answer in answers] == [NotFound] * 4
    assert await names(look) == ["WorkflowStarted"]


async def test_a_message_may_go_to_an_older_run_by_its_id(pool: Pool) -> None:
    (old,) = await carry_out(pool, starting(NS, start_of()))
    await carry_out(pool, starting(NS, start_of(id_conflict="terminate_existing")))

    (answer,) = await carry_out(pool, asking(NS, signal_of(run_id=old.run_id)))

    assert isinstance(answer, Refused)
    assert old.run_id in answer.message


async def test_two_messages_with_one_request_id_for_two_runs_do_not_both_count(pool: Pool, look: Sql) -> None:
    """Within one transaction the second cannot be seen coming; the unique key of the table finds it."""
    await carry_out(pool, starting(NS, start_of("one")), starting(NS, start_of("two")))

    with pytest.raises(Conflict):
        await carry_out(
            pool,
            asking(NS, signal_of("one", request_id="same")),
            asking(NS, signal_of("two", request_id="same")),
        )

    assert await look.one("SELECT count(*) FROM event WHERE type = 'SignalReceived'") == 0


# -- the engine's way around what happens to a whole batch ------------------------------------------


async def test_a_batch_that_collides_is_carried_out_one_by_one(parts: Parts) -> None:
    await asyncio.gather(parts.start("one"), parts.start("two"), parts.start("three"))

    one, two, three = await asyncio.gather(
        parts.signal("one", request_id="same"),
        parts.signal("two", request_id="same"),
        parts.signal("three"),
        return_exceptions=True,
    )

    assert sorted(type(answer).__name__ for answer in (one, two)) == ["Done", "Refused"]
    assert isinstance(three, m.Done)


async def test_a_value_that_postgres_cannot_hold_refuses_its_request_alone(parts: Parts) -> None:
    """Let in by mistake, it must neither stop the others nor be retried for ever."""
    bad, good = await asyncio.gather(
        parts.ask("start", start_of("bad", workflow_type="a\x00b")),
        parts.start("good"),
        return_exceptions=True,
    )

    assert isinstance(bad, Invalid)
    assert isinstance(good, str)


async def test_racing_starts_over_the_engine_are_one_run_and_every_caller_hears_of_it(parts: Parts) -> None:
    answers = await asyncio.gather(
        *(parts.ask("start", start_of(request_id=f"r{n}", id_conflict="use_existing")) for n in range(30))
    )

    assert len({answer.run_id for answer in answers}) == 1
    assert sum(answer.is_new for answer in answers) == 1


async def test_racing_starts_that_replace_each_other_leave_one_open_run(parts: Parts) -> None:
    answers = await asyncio.gather(
        *(
            parts.ask("start", start_of(request_id=f"r{n}", id_conflict="terminate_existing"))
            for n in range(4)
        )
    )

    assert len({answer.run_id for answer in answers}) == 4
    assert await parts.look.one("SELECT count(*) FROM run WHERE closed_at IS NULL") == 1
    newest = max(answer.run_id for answer in answers)
    assert await parts.look("SELECT run_id::text FROM run WHERE closed_at IS NULL") == [newest]


async def test_a_hundred_signals_to_one_run_all_count_in_few_commits(parts: Parts) -> None:
    await parts.start()
    commits = parts.engine.pool.counts.commits

    await asyncio.gather(*(parts.signal() for _ in range(100)))

    assert (await parts.history()).count("SignalReceived") == 100
    assert parts.engine.pool.counts.commits - commits <= 4


# -- tasks that travel with the commit -----------------------------------------------------------------


def with_credit(**fields: Any) -> tuple[Credits, Credit]:
    known, own = Credits(), credit(**fields)
    known.hear(own)
    return known, own


async def test_a_rolled_back_batch_leaves_the_workers_their_credit(pool: Pool) -> None:
    await carry_out(pool, starting(NS, start_of("one")), starting(NS, start_of("two")))
    known, own = with_credit(workflows=5)

    with pytest.raises(Conflict):
        await carry_out(
            pool,
            starting(NS, start_of("three")),
            asking(NS, signal_of("one", request_id="same")),
            asking(NS, signal_of("two", request_id="same")),
            credits=known,
        )

    assert own.workflow_slots == 5


async def test_a_fresh_run_is_leased_in_the_transaction_that_starts_it(pool: Pool, look: Sql) -> None:
    known, _ = with_credit()

    await carry_out(pool, starting(NS, start_of()), credits=known)

    assert await look("SELECT worker, fence, lease_until > now() FROM task") == [("w1", 2, True)]


async def test_two_reports_of_one_run_in_one_batch_travel_with_the_last(pool: Pool, look: Sql) -> None:
    known, own = with_credit(workflows=0)
    (started,) = await carry_out(pool, starting(NS, start_of()))
    await look(
        "UPDATE task SET worker = 'w1', fence = 2, leased_at = now(), lease_until = now() + interval '1 min'"
    )
    await carry_out(pool, reporting(NS, complete(started.run_id, 2, 1, schedule(1), schedule(2))))
    await look(
        "UPDATE task SET worker = 'w1', fence = 1, leased_at = now(), lease_until = now() + interval '1 min'"
    )
    own.workflow_slots = 3

    committed = await transact(
        pool,
        known,
        [
            reporting(NS, m.CompleteActivity(run_id=started.run_id, worker="w1", seq=seq, fence=1), own)
            for seq in (1, 2)
        ],
        lease_s=10.0,
        heard_now=0.0,
    )

    first, second = committed.outcomes
    assert isinstance(first, Outcome)
    assert isinstance(second, Outcome)
    assert (len(first.assigned), len(second.assigned)) == (0, 1)
    assert (first.head_seq, second.head_seq) == (5, 6)


def complete(run_id: str, fence: int, seen: int, *commands: c.AnyCommand) -> m.CompleteWorkflowTask:
    return m.CompleteWorkflowTask(
        run_id=run_id, worker="w1", fence=fence, seen_seq=seen, commands=list(commands)
    )


async def test_a_report_that_was_refused_brings_no_tasks(parts: Parts) -> None:
    await parts.start()
    (task,) = (await parts.claim(workflows=1)).workflow_tasks
    await parts.ask("report", completion(task, schedule(1)))
    late = completion(task, schedule(2), task_queue=QUEUE, workflow_slots=5, activity_slots=5)

    again = await parts.ask("report", late)
    assert again.activity_tasks == [], "nobody leased it to the worker"

    with pytest.raises(LeaseLost):
        await parts.ask("report", m.CompleteActivity(run_id=task.run_id, worker="w1", seq=1, fence=9))
