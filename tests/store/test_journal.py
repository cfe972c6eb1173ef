"""Finding, locking and writing runs: what is read is what was written, and overlapping batches never block for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from holdfast.core import facts as f
from holdfast.core import state as s
from holdfast.core.decide import decide
from holdfast.core.evolve import evolve
from holdfast.core.requests import Ask
from holdfast.store import journal, tasks
from holdfast.store.journal import Address
from holdfast.store.record import record
from holdfast.store.session import Conflict, Pool
from holdfast.wire import codec
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy
from tests.store.rows import (
    LEASE_S,
    QUEUE,
    Sql,
    change,
    database_now,
    new_run,
    read,
    save,
    schedule,
    start,
    turn,
)

NOWHERE = "00000000-0000-7000-8000-000000000000"


# -- finding ------------------------------------------------------------------------------


async def test_an_unknown_workflow_is_found_as_nothing(pool: Pool) -> None:
    async with pool.session() as session:
        (found,) = await journal.resolve(session, [Address("main", "nobody", None, "r")])

    assert (found.newest, found.repeat) == (None, None)
    assert found.now > 1e9


async def test_the_newest_run_of_an_id_is_found_and_the_one_that_the_request_started(pool: Pool) -> None:
    first = await start(pool)
    await change(pool, first, Ask(m.Terminate(request_id="t", workflow_id="order-1"), b"h"))
    state = new_run(now=await database_now(pool) + 1)
    state.run.request_id = "another"
    await save(pool, state)

    async with pool.session() as session:
        (found,) = await journal.resolve(session, [Address("main", "order-1", None, "start order-1")])

    assert found.newest is not None
    assert found.newest.run_id == state.run.run_id
    assert found.repeat is not None
    assert (found.repeat.run_id, found.repeat.status) == (first, "TERMINATED")


async def test_each_of_many_addresses_gets_its_own_answer(pool: Pool) -> None:
    runs = {f"w{n}": await start(pool, f"w{n}") for n in range(5)}
    asked = [*runs, "nobody", "w0"]

    async with pool.session() as session:
        found = await journal.resolve(session, [Address("main", workflow_id) for workflow_id in asked])

    assert [item.newest.run_id if item.newest else None for item in found] == [
        runs.get(name) for name in asked
    ]
    assert all(item.repeat is None for item in found), "no request id was asked for"


async def test_equal_ids_in_two_namespaces_never_meet(pool: Pool, sql: Sql) -> None:
    await sql("INSERT INTO namespace (name) VALUES ('other')")
    mine = await start(pool)
    theirs = await start(pool, namespace="other")

    async with pool.session() as session:
        found = await journal.resolve(
            session, [Address(namespace, "order-1", None, "start order-1") for namespace in ("main", "other")]
        )

    assert [(item.newest.run_id, item.repeat.run_id) for item in found] == [(mine, mine), (theirs, theirs)]  # type: ignore[union-attr]


# -- locking ------------------------------------------------------------------------------


async def test_unknown_runs_are_missing_from_what_is_locked(pool: Pool) -> None:
    run_id = await start(pool)

    async with pool.transaction() as session:
        states, now = await journal.lock(session, [NOWHERE, run_id], [(NOWHERE, 1)], [(NOWHERE, 1)], [])

    assert set(states) == {run_id}
    assert now > 1e9


async def test_only_the_rows_that_are_named_are_read(pool: Pool) -> None:
    run_id = await start(pool)
    await turn(
        pool, run_id, schedule(1), schedule(2), c.StartTimer(seq=3, delay_s=9), c.StartTimer(seq=4, delay_s=9)
    )

    state = await read(pool, run_id, activities=[2, 77], timers=[4, 88])

    assert (set(state.activities), set(state.tasks), set(state.timers)) == ({2}, {2}, {4})


async def test_the_clock_is_read_after_the_lock_not_before_the_wait(pool: Pool) -> None:
    """What happens under the lock happens after what the earlier holder did."""
    run_id = await start(pool)
    order: list[float] = []

    async def take(seconds: float) -> None:
        async with pool.transaction() as session:
            _, now = await journal.lock(session, [run_id], [], [], [])
            await asyncio.sleep(seconds)
            order.append(now)
            order.append(await _clock(session))

    await asyncio.gather(take(0.05), take(0.0))

    assert order == sorted(order)


async def _clock(session: Any) -> float:
    return (await journal.resolve(session, [Address("main", "nobody")]))[0].now


async def test_requests_that_were_kept_are_read_by_namespace(pool: Pool, sql: Sql) -> None:
    await sql("INSERT INTO namespace (name) VALUES ('other')")
    mine, theirs = await start(pool), await start(pool, namespace="other")
    for run_id, hash_ in ((mine, b"mine"), (theirs, b"theirs")):
        await change(pool, run_id, Ask(m.Signal(request_id="same", workflow_id="order-1", name="n"), hash_))

    async with pool.transaction() as session:
        states, _ = await journal.lock(session, [mine, theirs], [], [], [("main", "same"), ("other", "same")])

    assert states[mine].requests["same"].hash == b"mine"
    assert states[theirs].requests["same"].hash == b"theirs"


async def test_two_batches_that_overlap_in_opposite_order_both_finish(pool: Pool) -> None:
    """Rows are locked in the order of their ids whatever the order of the requests."""
    runs = [await start(pool, f"w{n}") for n in range(6)]

    async def lock_all(order: list[str]) -> None:
        for _ in range(10):
            async with pool.transaction() as session:
                states, now = await journal.lock(session, order, [(run_id, 1) for run_id in order], [], [])
                for state in states.values():
                    evolve(state, f.Recorded(e.SignalReceived(name="n")), now)
                await record(session, list(states.values()))

    async with asyncio.timeout(20):
        await asyncio.gather(*(lock_all(random.sample(runs, 6)) for _ in range(6)))

    for run_id in runs:
        assert (await read(pool, run_id)).run.last_seq == 61


SLOW_STARTS = """
    CREATE FUNCTION holdfast.dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$;
    CREATE TRIGGER dawdles BEFORE INSERT ON holdfast.run FOR EACH ROW EXECUTE FUNCTION holdfast.dawdle()
"""


async def test_batches_that_start_the_same_ids_in_opposite_order_all_finish(pool: Pool, sql: Sql) -> None:
    """Every row takes its time, so that they meet: in any other order than the index has, they would wait for
    each other.
    """
    await sql.connection.execute(SLOW_STARTS)
    now = await database_now(pool)
    names = [f"w{n}" for n in range(60)]

    async def start_all(order: list[str]) -> set[str]:
        return await save(pool, *(new_run(name, now=now) for name in order))

    async with asyncio.timeout(20):
        lost = await asyncio.gather(*(start_all(names[::step]) for step in (1, -1, 1, -1)))

    assert sum(map(len, lost)) == 3 * len(names), "each id was started once"


# -- writing and reading back -----------------------------------------------------------------


async def test_a_new_run_is_read_back_as_it_was_written(pool: Pool) -> None:
    now = await database_now(pool)
    state = new_run("wörk/1 🦆", now=now)
    await save(pool, state)

    found = await read(pool, state.run.run_id)

    assert found.run == state.run
    assert found.tasks == state.tasks
    assert found.first_new_seq == 2


async def test_an_activity_is_read_back_as_it_was_scheduled(pool: Pool) -> None:
    run_id = await start(pool)
    policy = RetryPolicy(initial_s=0.25, coefficient=1.5, max_s=9.0, max_attempts=7, non_retryable=("A", "Ü"))
    await turn(
        pool,
        run_id,
        schedule(
            1,
            retry=policy,
            schedule_to_close_s=60.0,
            schedule_to_start_s=30.5,
            start_to_close_s=20.0,
            heartbeat_s=5.0,
        ),
    )

    state = await read(pool, run_id, activities=[1])

    assert state.activities[1].options == s.Options(policy, 60.0, 30.5, 20.0, 5.0)
    task = state.tasks[1]
    assert (task.start_to_close_s, task.heartbeat_s) == (20.0, 5.0)
    assert task.start_by == pytest.approx(task.ready_at + 30.5)
    assert task.deadline == task.start_by


async def test_a_failure_is_read_back_whole(pool: Pool) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1))
    (claimed,) = await tasks.claim_activities(pool, "main", QUEUE, "w1", 1, LEASE_S)
    failure = Failure(message="boom", type="T", details=b"[1]", cause=Failure(message="inner"))
    report = m.FailActivity(run_id=run_id, worker="w1", seq=1, fence=claimed.fence, failure=failure)

    await change(pool, run_id, report, activities=[1])

    assert (await read(pool, run_id, activities=[1])).activities[1].last_failure == failure


async def test_events_are_stored_in_order_with_their_times(pool: Pool, sql: Sql) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1), c.StartTimer(seq=2, delay_s=9))

    rows = await sql("SELECT seq, recorded_at, type, body FROM event ORDER BY seq")

    assert [seq for seq, _, _, _ in rows] == [1, 2, 3, 4]
    assert [name for _, _, name, _ in rows] == [type(codec.decode_event(body)).__name__ for *_, body in rows]
    assert [at for _, at, _, _ in rows] == sorted(at for _, at, _, _ in rows)


async def test_a_transaction_owes_the_feed_one_row_per_run(pool: Pool, sql: Sql) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1), schedule(2))

    assert await sql("SELECT run_id::text, first_seq, last_seq FROM outbox ORDER BY id") == [
        (run_id, 1, 1),
        (run_id, 2, 4),
    ]


async def test_closing_a_run_settles_what_it_owns_and_tells_whom_to_stop(pool: Pool, sql: Sql) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1), schedule(2), c.StartTimer(seq=3, delay_s=9))
    (claimed,) = await tasks.claim_activities(pool, "main", QUEUE, "w1", 1, LEASE_S)

    async with pool.transaction() as session:
        states, now = await journal.lock(session, [run_id], [], [], [])
        evolve(states[run_id], f.Recorded(e.WorkflowTerminated()), now)
        await record(session, list(states.values()))

    assert await sql.one("SELECT count(*) FROM task") == 0
    assert await sql("SELECT DISTINCT status FROM activity") == ["CANCELLED"]
    assert await sql("SELECT state FROM timer") == [2]
    (told,) = states[run_id].cancel_pushes
    assert (told.seq, told.worker, told.fence) == (claimed.seq, "w1", claimed.fence)


async def test_a_run_that_lost_its_workflow_id_leaves_nothing_at_all(pool: Pool, sql: Sql) -> None:
    await start(pool)
    counts = "SELECT (SELECT count(*) FROM run), (SELECT count(*) FROM event), (SELECT count(*) FROM task), (SELECT count(*) FROM outbox)"
    before = await sql(counts)
    late = new_run(now=await database_now(pool))
    evolve(late, f.Recorded(e.SignalReceived(name="with start")), late.run.last_at)

    assert await save(pool, late) == {late.run.run_id}

    assert await sql(counts) == before


async def test_one_batch_may_end_a_run_and_start_the_next_of_its_id(pool: Pool, sql: Sql) -> None:
    first = await start(pool)
    async with pool.transaction() as session:
        states, now = await journal.lock(session, [first], [], [], [])
        evolve(states[first], f.Recorded(e.WorkflowTerminated()), now)
        second = new_run(now=now)
        lost = (await record(session, [*states.values(), second])).lost

    assert lost == set()
    assert await sql("SELECT status FROM run ORDER BY run_id") == ["TERMINATED", "PENDING"]


async def test_a_request_id_that_two_transactions_keep_is_a_conflict_of_the_second(pool: Pool) -> None:
    one, two = await start(pool, "w1"), await start(pool, "w2")
    await change(pool, one, Ask(m.Signal(request_id="same", workflow_id="w1", name="n"), b"1"))

    with pytest.raises(Conflict):
        await change(pool, two, Ask(m.Signal(request_id="same", workflow_id="w2", name="n"), b"2"))

    assert (await read(pool, two)).run.last_seq == 1


async def test_a_batch_without_any_fact_writes_nothing(pool: Pool) -> None:
    run_id = await start(pool)
    statements = pool.counts.statements

    async with pool.transaction() as session:
        states, _ = await journal.lock(session, [run_id], [], [], [])
        assert (await record(session, list(states.values()))).lost == set()

    assert pool.counts.statements - statements == 1, "the one that locks"


async def test_a_turn_is_one_statement_that_locks_and_one_that_writes(pool: Pool) -> None:
    run_id = await start(pool)
    statements = pool.counts.statements

    await turn(pool, run_id, schedule(1), c.StartTimer(seq=2, delay_s=9))

    assert pool.counts.statements - statements == 2


async def test_starting_alone_is_one_statement_without_a_transaction_around_it(pool: Pool) -> None:
    state = new_run(now=await database_now(pool))
    statements = pool.counts.statements

    await save(pool, state)

    assert pool.counts.statements - statements == 1


async def test_request_ids_are_forgotten_when_they_are_old_and_not_before(pool: Pool, sql: Sql) -> None:
    run_id = await start(pool)
    for name in ("old", "new"):
        await change(pool, run_id, Ask(m.Signal(request_id=name, workflow_id="order-1", name="n"), b"h"))
    await sql("UPDATE request SET created_at = now() - interval '49 hours' WHERE request_id = 'old'")

    assert await journal.forget_requests(pool, 48 * 3600.0, 100) == 1

    assert await sql("SELECT request_id FROM request") == ["new"]


# -- a lock that was waited for -----------------------------------------------------------------


async def read_behind(
    pool: Pool, run_id: str, writing: Callable[[Callable[[], Any]], Awaitable[Any]]
) -> s.RunState:
    """What is read under the lock of a run by somebody who waited for it until *writing* was committed.

    *writing* is carried out until it calls what it is given, then the reader asks.
    """
    reading: list[asyncio.Task[s.RunState]] = []

    async def ask() -> None:
        reading.append(asyncio.create_task(read(pool, run_id, activities=[1, 2])))
        async with Sql.connected(pool.url) as other:
            await other.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')")

    await writing(ask)
    return await reading[0]


async def test_work_that_was_scheduled_meanwhile_is_seen(pool: Pool) -> None:
    run_id = await start(pool)

    async def write(before_commit: Callable[[], Any]) -> None:
        async with pool.transaction() as session:
            states, now = await journal.lock(session, [run_id], [], [], [])
            state = states[run_id]
            report = m.CompleteWorkflowTask(
                run_id=run_id, worker="w1", fence=1, seen_seq=1, commands=[schedule(1), schedule(2)]
            )
            for fact in decide(state, report, now).facts:
                evolve(state, fact, now)
            await record(session, [state])
            await before_commit()

    found = await read_behind(pool, run_id, write)

    assert (set(found.activities), set(found.tasks)) == ({1, 2}, {1, 2})
    assert (found.run.open_activities, found.run.last_seq) == (2, 4)


async def test_progress_that_was_told_meanwhile_is_seen_though_it_is_no_event(pool: Pool) -> None:
    """Of the activity's row nothing is locked; that it changed is told by the version of its run."""
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1))
    (claimed,) = await tasks.claim_activities(pool, "main", QUEUE, "w1", 1, LEASE_S)
    beat = m.ActivityHeartbeat(run_id=run_id, worker="w1", seq=1, fence=claimed.fence, details=b"[7]")

    found = await read_behind(
        pool, run_id, lambda ask: change(pool, run_id, beat, activities=[1], before_commit=ask)
    )

    assert found.activities[1].heartbeat_details == b"[7]"
    assert found.first_new_seq == 4, "no event"


async def test_work_that_was_given_back_meanwhile_is_seen_as_ready(pool: Pool) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1))
    (claimed,) = await tasks.claim_activities(pool, "main", QUEUE, "w1", 1, LEASE_S)
    release = m.ReleaseTask(run_id=run_id, worker="w1", seq=1, fence=claimed.fence)

    found = await read_behind(
        pool, run_id, lambda ask: change(pool, run_id, release, activities=[1], before_commit=ask)
    )

    assert found.tasks[1].worker is None
    assert found.activities[1].status == "PENDING"


async def test_work_that_was_done_meanwhile_is_gone(pool: Pool) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1))
    (claimed,) = await tasks.claim_activities(pool, "main", QUEUE, "w1", 1, LEASE_S)
    done = m.CompleteActivity(run_id=run_id, worker="w1", seq=1, fence=claimed.fence, result=b"1")

    found = await read_behind(
        pool, run_id, lambda ask: change(pool, run_id, done, activities=[1], before_commit=ask)
    )

    assert set(found.tasks) == {0}, "the workflow task that the result opened"
    assert found.activities[1].status == "COMPLETED"


async def test_a_lock_that_nobody_held_is_one_statement_and_one_that_was_waited_for_two(pool: Pool) -> None:
    run_id = await start(pool)
    signal = Ask(m.Signal(request_id="s", workflow_id="order-1", name="n"), b"h")
    statements = pool.counts.statements

    await read(pool, run_id)
    assert pool.counts.statements - statements == 1
    await read_behind(pool, run_id, lambda ask: change(pool, run_id, signal, before_commit=ask))

    assert pool.counts.statements - statements == 1 + 2 + 2


# -- a lease is never overwritten --------------------------------------------------------------


async def test_a_decision_waits_for_a_claim_that_is_under_way_and_sees_its_lease(
    pool: Pool, sql: Sql
) -> None:
    run_id = await start(pool)
    await sql("BEGIN")
    await sql("UPDATE task SET worker = 'w9', fence = fence + 1, lease_until = now(), leased_at = now()")
    signal = Ask(m.Signal(request_id="s", workflow_id="order-1", name="n"), b"h")

    signalling = asyncio.create_task(change(pool, run_id, signal))
    async with Sql.connected(pool.url) as other:
        await other.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')")
    await sql("COMMIT")
    await signalling

    assert await sql("SELECT worker, fence FROM task") == [("w9", 2)]


async def test_a_claim_passes_over_a_run_that_is_being_decided(pool: Pool) -> None:
    run_id = await start(pool)
    async with pool.transaction() as session:
        await journal.lock(session, [run_id], [], [], [])
        assert await tasks.claim_workflows(pool, "main", QUEUE, "w1", 10, LEASE_S) == []

    assert len(await tasks.claim_workflows(pool, "main", QUEUE, "w1", 10, LEASE_S)) == 1
