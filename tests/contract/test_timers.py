"""Timers through the contract: made once, fired once, in order, and never when cancelled or closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.exceptions import Invalid, NotFound, Refused
from holdfast.store import Store, tasks
from holdfast.wire import commands as c
from holdfast.wire.records import WorkflowTimer
from tests.contract.given import NOON, QUEUE, closed, created, database_now, timer
from tests.contract.journal import entries, facts
from tests.store.rows import LEASE_S, Sql, start, turn

STATES = "SELECT state FROM record_timer ORDER BY seq"


async def with_timers(store: Store, *fire_at: float, id: str = "order-1") -> list[int]:
    """A new workflow with timers 1, 2, … of these times."""
    await created(store, id)
    return [await store.create_timer(timer(id, seq, fire_at=at)) for seq, at in enumerate(fire_at, 1)]


# -- create_timer, get_timer_by_workflow_seq ----------------------------------------------------------


async def test_a_timer_reads_as_it_was_written(store: Store, sql: Sql) -> None:
    await created(store)

    number = await store.create_timer(timer(seq=7, fire_at=NOON + 0.000001))

    expected = WorkflowTimer(id=number, workflow_id="order-1", seq=7, fire_at=NOON + 0.000001, fired=False)
    assert await store.get_timer_by_workflow_seq("order-1", 7) == expected
    told = (await entries(sql))[-1]
    assert (told.fact, told.record, told.key) == ("TimerCreated", "timer", str(number))
    assert told.fields["seq"] == 7
    assert told.fields["fire_at"] == NOON + 0.000001


async def test_the_same_timer_again_keeps_the_first_time(store: Store, sql: Sql) -> None:
    await created(store)
    number = await store.create_timer(timer(fire_at=NOON))

    assert await store.create_timer(timer(fire_at=NOON + 60)) == number

    found = await store.get_timer_by_workflow_seq("order-1", 1)
    assert found is not None
    assert found.fire_at == NOON
    assert (await facts(sql))[1:] == [("TimerCreated", str(number))]


async def test_a_timer_that_fired_is_not_made_again(store: Store) -> None:
    (number,) = await with_timers(store, NOON)
    await store.fire_due_timers(NOON)

    assert await store.create_timer(timer()) == number
    assert await store.fire_due_timers(NOON + 60) == []


async def test_ten_racing_creators_make_one_timer(store: Store, other: Store) -> None:
    await created(store)

    numbers = await asyncio.gather(
        *((store, other)[n % 2].create_timer(timer(fire_at=NOON + n)) for n in range(10))
    )

    assert len(set(numbers)) == 1
    assert len(await store.fire_due_timers(NOON + 60)) == 1


async def test_an_unknown_workflow_has_no_timers(store: Store, sql: Sql) -> None:
    with pytest.raises(NotFound, match="'order-1'"):
        await store.create_timer(timer())

    assert await store.get_timer_by_workflow_seq("order-1", 1) is None
    assert await store.cancel_pending_timers("order-1") == 0
    assert await facts(sql) == []


@pytest.mark.parametrize("seq", [0, 2, -1, 2**31, 2**70])
async def test_a_number_that_no_timer_has_gives_none(store: Store, seq: int) -> None:
    await with_timers(store, NOON)

    assert await store.get_timer_by_workflow_seq("order-1", seq) is None


async def test_a_timer_may_be_written_as_fired_also_to_a_closed_run(store: Store) -> None:
    await closed(store)
    await store.create_timer(timer(fired=True))

    found = await store.get_timer_by_workflow_seq("order-1", 1)

    assert found is not None
    assert found.fired


async def test_the_newest_run_is_meant_unless_one_is_named(store: Store) -> None:
    old = await closed(store, run_id="01800000-0000-7000-8000-000000000001")
    await created(store)
    await store.create_timer(timer(fire_at=1.0), run_id=old.run_id)
    await store.create_timer(timer(fire_at=2.0))

    newest = await store.get_timer_by_workflow_seq("order-1", 1)
    named = await store.get_timer_by_workflow_seq("order-1", 1, run_id=old.run_id)

    assert (newest and newest.fire_at, named and named.fire_at) == (2.0, 1.0)


@pytest.mark.parametrize(
    "fields", [{"seq": -1}, {"seq": 2**31}, {"fire_at": float("inf")}, {"fire_at": 1e15}, {"workflow_id": ""}]
)
async def test_odd_values_are_refused_at_the_door(store: Store, fields: dict[str, Any]) -> None:
    await created(store)

    with pytest.raises(Invalid):
        await store.create_timer(timer(**fields))


# -- fire_due_timers ----------------------------------------------------------------------------------


async def test_what_is_due_fires_inclusively_and_in_the_order_of_its_times(store: Store, sql: Sql) -> None:
    first, second, third, later = await with_timers(store, NOON, NOON - 5, NOON, NOON + 0.000001)

    fired = await store.fire_due_timers(NOON)

    assert [(one.id, one.seq, one.fired) for one in fired] == [
        (second, 2, True),
        (first, 1, True),
        (third, 3, True),
    ]
    assert {one.workflow_id for one in fired} == {"order-1"}
    assert await sql(STATES) == [1, 1, 1, 0]
    assert (await facts(sql))[5:] == [("TimerFired", str(id)) for id in (second, first, third)]
    assert [one.id for one in await store.fire_due_timers(NOON + 1)] == [later]


@pytest.mark.parametrize("now", [1_000.0, 9_990_000_000.0])
async def test_now_wins_over_the_clock(store: Store, now: float) -> None:
    await with_timers(store, now)

    assert await store.fire_due_timers(now - 0.5) == []
    assert len(await store.fire_due_timers(now)) == 1


async def test_no_more_than_the_limit_fires_at_once(store: Store) -> None:
    await with_timers(store, *(NOON + n for n in range(5)))

    seqs = [[one.seq for one in await store.fire_due_timers(NOON + 60, limit=2)] for _ in range(4)]

    assert seqs == [[1, 2], [3, 4], [5], []]


@pytest.mark.parametrize("limit", [0, -1, 10_001])
async def test_a_limit_out_of_range_is_refused(store: Store, limit: int) -> None:
    with pytest.raises(Invalid, match="limit"):
        await store.fire_due_timers(NOON, limit=limit)


async def test_of_many_callers_each_timer_is_anyones_once(store: Store, other: Store, sql: Sql) -> None:
    for n in range(6):
        await with_timers(store, *(NOON + k for k in range(10)), id=f"order-{n}")

    fired = await asyncio.gather(
        *((store, other)[n % 2].fire_due_timers(NOON + 60, limit=7) for n in range(6))
    )
    rest = await store.fire_due_timers(NOON + 60)

    ids = [one.id for part in [*fired, rest] for one in part]
    assert len(ids) == len(set(ids)) == 60
    assert [fact for fact, _ in await facts(sql)].count("TimerFired") == 60


async def test_timers_of_a_closed_run_never_fire(store: Store, sql: Sql) -> None:
    await with_timers(store, NOON)
    await store.update_workflow_status("order-1", "FAILED", None, None)
    await closed(store, "order-2")
    await store.create_timer(timer("order-2"))

    assert await store.fire_due_timers(NOON + 60) == []
    assert await sql(STATES) == [0, 0]


async def test_timers_of_a_deleted_namespace_never_fire(store: Store) -> None:
    await store.create_namespace("brief")
    await created(store, namespace="brief")
    await store.create_timer(timer(), namespace="brief")
    await store.delete_namespace("brief")

    assert await store.fire_due_timers(NOON) == []


async def test_all_namespaces_fire_unless_one_is_named(store: Store, sql: Sql) -> None:
    await store.create_namespace("billing")
    await created(store)
    await created(store, namespace="billing")
    here = await store.create_timer(timer())
    there = await store.create_timer(timer(), namespace="billing")

    assert [one.id for one in await store.fire_due_timers(NOON, namespace="billing")] == [there]
    assert [one.id for one in await store.fire_due_timers(NOON)] == [here]
    assert await sql("SELECT namespace FROM journal WHERE record = 'timer' ORDER BY id") == [
        "main",
        "billing",
        "billing",
        "main",
    ]


async def test_firing_waits_for_nobody(store: Store, sql: Sql) -> None:
    await with_timers(store, NOON, NOON)
    async with sql.connection.transaction():
        await sql("SELECT 1 FROM run FOR UPDATE")
        await sql("SELECT 1 FROM record_timer WHERE seq = 1 FOR UPDATE")

        assert [one.seq for one in await store.fire_due_timers(NOON)] == [2]

    assert [one.seq for one in await store.fire_due_timers(NOON)] == [1]


# -- cancel_pending_timers ----------------------------------------------------------------------------


async def test_cancelled_timers_read_as_fired_and_never_fire(store: Store, sql: Sql) -> None:
    ids = await with_timers(store, NOON, NOON + 5, NOON - 5)
    await store.fire_due_timers(NOON - 5)
    told = len(await facts(sql))

    assert await store.cancel_pending_timers("order-1") == 2
    assert await store.cancel_pending_timers("order-1") == 0

    found = [await store.get_timer_by_workflow_seq("order-1", seq) for seq in (1, 2, 3)]
    assert [one and one.fired for one in found] == [True, True, True]
    assert await store.fire_due_timers(NOON + 60) == []
    assert await sql(STATES) == [2, 2, 1]
    assert (await facts(sql))[told:] == [("TimerCancelled", str(id)) for id in ids[:2]]


async def test_other_workflows_timers_are_left_alone(store: Store) -> None:
    await store.create_namespace("billing")
    await with_timers(store, NOON, id="order-1")
    await with_timers(store, NOON, id="order-2")
    await created(store, namespace="billing")
    await store.create_timer(timer(), namespace="billing")

    assert await store.cancel_pending_timers("order-1") == 1

    assert len(await store.fire_due_timers(NOON)) == 2


async def test_a_timer_is_either_fired_or_cancelled(store: Store, other: Store) -> None:
    await with_timers(store, *(NOON for _ in range(40)))

    fired, cancelled, more = await asyncio.gather(
        store.fire_due_timers(NOON, limit=20),
        other.cancel_pending_timers("order-1"),
        other.fire_due_timers(NOON, limit=20),
    )

    rest = await store.fire_due_timers(NOON)
    assert len(fired) + len(more) + len(rest) + cancelled == 40


# -- the engine's --------------------------------------------------------------------------------------


async def test_the_engines_timers_are_shown_and_left_alone(store: Store, sql: Sql) -> None:
    run_id = await start(store.pool, "order-1", queue=QUEUE)
    await tasks.claim_workflows(store.pool, "main", QUEUE, "w1", 1, LEASE_S)
    await turn(store.pool, run_id, c.StartTimer(seq=1, delay_s=3600.0))

    found = await store.get_timer_by_workflow_seq("order-1", 1)

    assert found is not None
    assert (found.id, found.workflow_id, found.seq, found.fired) == (None, "order-1", 1, False)
    assert 3500 < found.fire_at - await database_now(sql) <= 3600
    assert await store.fire_due_timers(NOON + 1e9) == []
    with pytest.raises(Refused, match="cancel its timers"):
        await store.cancel_pending_timers("order-1")


async def test_a_timer_of_the_contract_on_a_driven_run_goes_before_the_engines(store: Store) -> None:
    await start(store.pool, "order-1", queue=QUEUE)

    number = await store.create_timer(timer(seq=9))

    assert await store.get_timer_by_workflow_seq("order-1", 9) == timer(seq=9, id=number)
    assert [one.id for one in await store.fire_due_timers(NOON)] == [number]
