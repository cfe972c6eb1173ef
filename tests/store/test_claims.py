"""Claims and leases: the longest ready first, never twice, and never what is not ready or not theirs."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from holdfast.core import facts as f
from holdfast.core.evolve import evolve
from holdfast.core.requests import Ask
from holdfast.store import tasks
from holdfast.store.session import Pool
from holdfast.wire import codec
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure
from tests.store.rows import LEASE_S, QUEUE, Sql, change, read, schedule, start, turn

Claimed = tasks.ClaimedWorkflow | tasks.ClaimedActivity


async def claim_turns(
    pool: Pool, worker: str = "w1", limit: int = 10, **fields: Any
) -> list[tasks.ClaimedWorkflow]:
    return await tasks.claim_workflows(
        pool, fields.get("namespace", "main"), fields.get("queue", QUEUE), worker, limit, LEASE_S
    )


async def claim_activities(
    pool: Pool, worker: str = "w1", limit: int = 10, **fields: Any
) -> list[tasks.ClaimedActivity]:
    return await tasks.claim_activities(
        pool, fields.get("namespace", "main"), fields.get("queue", QUEUE), worker, limit, LEASE_S
    )


async def signal(pool: Pool, run_id: str, workflow_id: str = "order-1") -> None:
    request = m.Signal(request_id=f"{run_id} {workflow_id}", workflow_id=workflow_id, name="n")
    await change(pool, run_id, Ask(request, b"h"))


# -- order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["workflow", "activity"])
async def test_the_longest_ready_goes_first(pool: Pool, sql: Sql, kind: str) -> None:
    runs = [await start(pool, f"w{n}") for n in range(6)]
    if kind == "activity":
        for run_id in runs:
            await turn(pool, run_id, schedule(1))
    order = [3, 0, 5, 1, 4, 2]
    for age, number in enumerate(reversed(order), 1):
        await sql(
            "UPDATE task SET ready_at = now() - make_interval(secs => $1) WHERE run_id = $2::uuid",
            age,
            runs[number],
        )
    claim = claim_turns if kind == "workflow" else claim_activities

    first = await claim(pool, limit=4)
    rest = await claim(pool, limit=4)

    assert [runs.index(row.run_id) for row in [*first, *rest]] == order


async def test_those_ready_at_the_same_moment_go_in_the_order_of_their_runs(pool: Pool, sql: Sql) -> None:
    runs = [await start(pool, f"w{n}") for n in range(5)]
    await sql("UPDATE task SET ready_at = now() - interval '1 s'")

    assert [row.run_id for row in await claim_turns(pool)] == sorted(runs)


@pytest.mark.parametrize("kind", ["workflow", "activity"])
async def test_no_two_workers_get_the_same_task(pool: Pool, sql: Sql, kind: str) -> None:
    for n in range(60):
        run_id = await start(pool, f"w{n}")
        if kind == "activity":
            await turn(pool, run_id, schedule(1))
    claim = claim_turns if kind == "workflow" else claim_activities
    got: list[str] = []

    async def work(name: str) -> None:
        while rows := await claim(pool, name, limit=3):
            got.extend(row.run_id for row in rows)

    await asyncio.gather(*(work(f"w{n}") for n in range(6)))

    assert len(got) == len(set(got)) == 60
    assert await sql.one("SELECT count(*) FROM task WHERE worker IS NULL") == 0


async def test_a_task_that_somebody_else_is_claiming_is_passed_over_not_waited_for(
    pool: Pool, sql: Sql
) -> None:
    for n in range(3):
        await start(pool, f"w{n}")
    await sql("BEGIN")
    await sql("SELECT 1 FROM task ORDER BY ready_at LIMIT 1 FOR UPDATE")

    async with asyncio.timeout(2):
        assert len(await claim_turns(pool)) == 2
    await sql("ROLLBACK")


async def test_a_claim_takes_no_more_than_asked(pool: Pool) -> None:
    for n in range(3):
        await start(pool, f"w{n}")

    assert len(await claim_turns(pool, limit=2)) == 2


# -- what is not theirs ----------------------------------------------------------------------


async def test_other_namespaces_queues_and_kinds_are_invisible(pool: Pool, sql: Sql) -> None:
    await sql("INSERT INTO namespace (name) VALUES ('other')")
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1), schedule(2, task_queue="gpu"))
    await start(pool, "theirs", namespace="other")

    assert await claim_turns(pool) == [], "there is an activity, but no turn"
    assert await claim_turns(pool, queue="gpu") == []
    assert [row.seq for row in await claim_activities(pool, queue="gpu")] == [2]
    assert [row.seq for row in await claim_activities(pool)] == [1]
    assert await claim_activities(pool, namespace="other") == []
    assert [row.workflow_id for row in await claim_turns(pool, namespace="other")] == ["theirs"]


@pytest.mark.parametrize("queue", ["*", ">", "%", "_", "", "q ", "Q", "q'--"])
async def test_a_queue_is_its_name_and_nothing_else(pool: Pool, queue: str) -> None:
    await start(pool)

    assert await claim_turns(pool, queue=queue) == []


async def test_a_leased_task_is_not_ready(pool: Pool) -> None:
    await start(pool)
    await claim_turns(pool, "w1")

    assert await claim_turns(pool, "w2") == []
    assert await claim_turns(pool, "w1") == []


async def test_a_lease_that_ran_out_is_not_ready_until_somebody_decided_so(pool: Pool, sql: Sql) -> None:
    """Expiry is a decision like any other: it counts an attempt."""
    await start(pool)
    await claim_turns(pool, "w1")
    await sql("UPDATE task SET lease_until = now() - interval '1 h', deadline = now() - interval '1 h'")

    assert await claim_turns(pool, "w2") == []


async def test_backoff_is_honoured(pool: Pool, sql: Sql) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1))
    (claimed,) = await claim_activities(pool)
    report = m.FailActivity(
        run_id=run_id, worker="w1", seq=1, fence=claimed.fence, failure=Failure(message="x")
    )
    await change(pool, run_id, report, activities=[1])

    assert await claim_activities(pool) == []

    await sql("UPDATE task SET ready_at = now() - interval '1 us'")
    (again,) = await claim_activities(pool)
    assert (again.attempt, again.fence) == (2, claimed.fence + 2)


# -- who has it in the cache -------------------------------------------------------------------


async def test_a_turn_is_kept_for_a_while_for_the_worker_that_knows_the_run(pool: Pool, sql: Sql) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, c.StartTimer(seq=1, delay_s=60), worker="w1")
    await signal(pool, run_id)

    assert await claim_turns(pool, "w2") == []

    (task,) = await claim_turns(pool, "w1")
    assert task.known_seq == task.last_seq - 1, "it lacks only the signal"


async def test_when_the_while_is_over_anybody_may_have_it_and_needs_the_whole_history(
    pool: Pool, sql: Sql
) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, c.StartTimer(seq=1, delay_s=60), worker="w1")
    await signal(pool, run_id)
    await sql("UPDATE task SET sticky_until = now()")

    (task,) = await claim_turns(pool, "w2")

    assert task.known_seq == 0


# -- what a lease is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"schedule_to_close_s": 5.0},
        {"start_to_close_s": 3.0},
        {"heartbeat_s": 2.0, "start_to_close_s": 30.0},
        {"schedule_to_start_s": 4.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("seq", [0, 1])
async def test_a_lease_by_claim_is_the_same_as_one_given_in_a_transaction(
    pool: Pool, seq: int, limits: dict[str, float]
) -> None:
    """The claim is the one change that SQL makes without the core: both must agree on every column."""
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1, **limits))
    await signal(pool, run_id)
    before = await read(pool, run_id, activities=[1])
    (claimed,) = await (claim_activities(pool) if seq else claim_turns(pool))
    after = await read(pool, run_id, activities=[1])

    evolve(before, f.TaskLeased(seq, "w1", LEASE_S), claimed.now)

    fields = {name: getattr(before.tasks[seq], name) for name in before.tasks[seq].__struct_fields__}
    for name, expected in fields.items():
        assert getattr(after.tasks[seq], name) == (
            pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected
        ), name
    assert claimed.fence == after.tasks[seq].fence


async def test_an_activity_comes_with_its_input_and_progress(pool: Pool) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1, input=b"[7]"))
    (first,) = await claim_activities(pool)
    beat = m.ActivityHeartbeat(run_id=run_id, seq=1, fence=first.fence, worker="w1", details=b"[42]")
    await change(pool, run_id, beat, activities=[1])

    (held,) = await tasks.held_activities(pool, [run_id], "w1")

    scheduled = codec.decode_event(held.scheduled)
    assert isinstance(scheduled, e.ActivityScheduled)
    assert scheduled.input == b"[7]"
    assert held.heartbeat_details == b"[42]"
    assert msgspec.structs.replace(held, heartbeat_details=b"", now=first.now) == first
    assert await tasks.held_activities(pool, [run_id], "w2") == []


# -- extending --------------------------------------------------------------------------------


async def extend(
    pool: Pool, *leases: tuple[str, int, int], worker: str = "w1", **fields: Any
) -> list[tasks.LeaseRow]:
    return await tasks.extend(
        pool, fields.get("namespace", "main"), worker, leases, fields.get("lease_s", 30.0)
    )


async def lease_left(sql: Sql, column: str = "lease_until") -> float:
    left: float = await sql.one(
        f"SELECT extract(epoch FROM {column} - now())::float8 FROM task WHERE worker IS NOT NULL"
    )
    return left


async def test_a_lease_that_is_held_is_extended(pool: Pool, sql: Sql) -> None:
    run_id = await start(pool)
    (task,) = await claim_turns(pool)

    (row,) = await extend(pool, (run_id, 0, task.fence))

    assert (row.is_ours, row.is_cancel_requested) == (True, False)
    assert 25 < await lease_left(sql) <= 30
    assert await lease_left(sql, "deadline") == pytest.approx(await lease_left(sql), abs=0.5)


@pytest.mark.parametrize(
    ("limits", "most"),
    [({"start_to_close_s": 7.0}, 7), ({"schedule_to_close_s": 6.0}, 6), ({"heartbeat_s": 5.0}, 5)],
)
async def test_an_extended_lease_does_not_move_the_activitys_own_limits(
    pool: Pool, sql: Sql, limits: dict[str, float], most: float
) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1, **limits))
    (task,) = await claim_activities(pool)

    await extend(pool, (run_id, 1, task.fence))

    assert most - 3 < await lease_left(sql, "deadline") <= most


@pytest.mark.parametrize(
    "what", ["older fence", "newer fence", "other worker", "other namespace", "no such task"]
)
async def test_a_lease_that_is_not_theirs_is_told_and_left_alone(pool: Pool, sql: Sql, what: str) -> None:
    run_id = await start(pool)
    (task,) = await claim_turns(pool)
    fence = task.fence + {"older fence": -1, "newer fence": 1}.get(what, 0)
    seq = 5 if what == "no such task" else 0

    (row,) = await extend(
        pool,
        (run_id, seq, fence),
        worker="w9" if what == "other worker" else "w1",
        namespace="other" if what == "other namespace" else "main",
    )

    assert not row.is_ours
    assert await lease_left(sql) <= LEASE_S


async def test_a_heartbeat_tells_which_activities_should_stop(pool: Pool) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1), schedule(2))
    claimed = await claim_activities(pool)
    await signal(pool, run_id)
    await cancel(pool, run_id, 2)

    rows = await extend(pool, *((run_id, task.seq, task.fence) for task in claimed))

    assert {row.seq: row.is_cancel_requested for row in rows} == {1: False, 2: True}
    assert all(row.is_ours for row in rows), "it may still end as it likes"


async def cancel(pool: Pool, run_id: str, seq: int) -> None:
    state = await read(pool, run_id)
    report = m.CompleteWorkflowTask(
        run_id=run_id,
        worker="w1",
        fence=state.tasks[0].fence,
        seen_seq=state.run.last_seq,
        commands=[c.RequestCancelActivity(seq=seq)],
    )
    await change(pool, run_id, report, activities=[seq])


async def test_a_lease_under_decision_is_neither_waited_for_nor_called_lost(pool: Pool, sql: Sql) -> None:
    run_id = await start(pool)
    (task,) = await claim_turns(pool)
    await sql("BEGIN")
    await sql("SELECT 1 FROM task FOR UPDATE")

    async with asyncio.timeout(2):
        (row,) = await extend(pool, (run_id, 0, task.fence))

    assert row.is_ours
    await sql("ROLLBACK")


async def test_the_leases_of_a_closed_run_are_lost(pool: Pool) -> None:
    run_id = await start(pool)
    await turn(pool, run_id, schedule(1))
    (task,) = await claim_activities(pool)
    await change(pool, run_id, Ask(m.Terminate(request_id="t", workflow_id="order-1"), b"h"))

    (row,) = await extend(pool, (run_id, 1, task.fence))

    assert not row.is_ours
