"""Activities through the contract: made once, claimed once and in order, settled once, and timed out on time."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from holdfast.core import record_activities as rules
from holdfast.exceptions import AlreadyExists, Invalid, NotFound, Refused
from holdfast.store import Store
from holdfast.wire.records import ACTIVITY_STATUSES, WorkflowActivity
from tests.contract.given import NOON, QUEUE, activity, claimed, closed, created, database_now, worker
from tests.contract.journal import entries, facts
from tests.store.rows import Sql

ODD = '{"n":  1e400, "s": "\\u0000 ü"}'
FULL: dict[str, Any] = {
    "input": ODD,
    "status": "RUNNING",
    "result": "1",
    "error": "boom ü",
    "attempt": 3,
    "max_attempts": 7,
    "initial_interval_secs": 0.5,
    "backoff_coefficient": 1.5,
    "max_interval_secs": 9.25,
    "start_to_close_secs": 11.0,
    "schedule_to_start_secs": 12.0,
    "schedule_to_close_secs": 13.0,
    "heartbeat_timeout_secs": 14.0,
    "heartbeat_details": ODD,
    "claimed_by": "w9",
    "scheduled_at": NOON + 0.000001,
    "started_at": NOON + 1,
    "completed_at": NOON + 2,
    "last_heartbeat": NOON + 3,
}


async def read(store: Store, id: int | None) -> WorkflowActivity:
    found = await store.get_activity(id or 0)
    assert found is not None
    return found


async def told_since(sql: Sql, count: int) -> list[str]:
    return [fact for fact, _ in (await facts(sql))[count:]]


async def claims(
    store: Store, worker_id: str = "w1", *, queue: str = QUEUE, namespace: str = "main"
) -> list[int]:
    """The numbers of all that the worker can get."""
    found = []
    while (one := await store.claim_activity(queue, worker_id, namespace=namespace)) is not None:
        found.append(one.id or 0)
    return found


# -- create_activity, get_activity, get_activity_by_workflow_seq ---------------------------------------------


@pytest.mark.parametrize("status", ACTIVITY_STATUSES)
async def test_an_activity_reads_as_it_was_written(store: Store, sql: Sql, status: str) -> None:
    await closed(store)
    given = activity(seq=4, **{**FULL, "status": status})

    number = await store.create_activity(given)

    expected = msgspec.structs.replace(given, id=number)
    assert await store.get_activity(number) == expected
    assert await store.get_activity_by_workflow_seq("order-1", 4) == expected
    told = (await entries(sql))[-1]
    assert (told.fact, told.record, told.key) == ("ActivityCreated", "activity", str(number))
    assert told.fields["seq"] == 4
    assert ODD not in told.fields.values()


async def test_defaults_are_those_of_the_record(store: Store) -> None:
    await created(store)

    number = await store.create_activity(activity())

    assert await read(store, number) == activity(id=number)


async def test_the_same_activity_again_gives_its_number_and_stays_as_it_is(store: Store, sql: Sql) -> None:
    await created(store)
    number = await store.create_activity(activity(input="1"))

    assert await store.create_activity(activity(input="2", max_attempts=9)) == number

    assert (await read(store, number)).input == "1"
    assert await told_since(sql, 1) == ["ActivityCreated"]


@pytest.mark.parametrize("fields", [{"name": "refund"}, {"task_queue": "back"}])
async def test_a_number_that_another_activity_has_is_refused(
    store: Store, sql: Sql, fields: dict[str, Any]
) -> None:
    await created(store)
    await store.create_activity(activity())

    with pytest.raises(AlreadyExists, match="use another seq"):
        await store.create_activity(activity(**fields))
    assert await told_since(sql, 1) == ["ActivityCreated"]


async def test_ten_racing_creators_make_one_activity(store: Store, other: Store) -> None:
    await created(store)

    numbers = await asyncio.gather(*((store, other)[n % 2].create_activity(activity()) for n in range(10)))

    assert len(set(numbers)) == 1
    assert await claims(store) == numbers[:1]


async def test_an_unknown_workflow_has_no_activities(store: Store, sql: Sql) -> None:
    with pytest.raises(NotFound, match="'order-1'"):
        await store.create_activity(activity())

    assert await store.get_activity_by_workflow_seq("order-1", 1) is None
    assert await store.cancel_pending_activities("order-1") == 0
    assert await facts(sql) == []


@pytest.mark.parametrize("number", [0, -1, 999, 2**63, 2**80])
async def test_a_number_that_nothing_has_gives_nothing(store: Store, sql: Sql, number: int) -> None:
    await created(store)
    await store.create_activity(activity())

    assert await store.get_activity(number) is None
    assert await store.get_activity_by_workflow_seq("order-1", number) is None
    assert await store.heartbeat_activity(number, None) is True
    await store.complete_activity(number, None, None, False)
    await store.requeue_activity_for_retry(number, 2, NOON)
    assert await told_since(sql, 1) == ["ActivityCreated"]


async def test_equal_ids_in_two_namespaces_and_older_runs_never_meet(store: Store) -> None:
    await store.create_namespace("billing")
    old = await closed(store, run_id="01800000-0000-7000-8000-000000000001")
    await created(store)
    await created(store, namespace="billing")
    await store.create_activity(activity(input='"old"'), run_id=old.run_id)
    await store.create_activity(activity(input='"new"'))
    await store.create_activity(activity(input='"there"'), namespace="billing")

    found = [
        await store.get_activity_by_workflow_seq("order-1", 1, run_id=old.run_id),
        await store.get_activity_by_workflow_seq("order-1", 1),
        await store.get_activity_by_workflow_seq("order-1", 1, namespace="billing"),
    ]

    assert [one and one.input for one in found] == ['"old"', '"new"', '"there"']


@pytest.mark.parametrize(
    "fields",
    [
        {"seq": -1},
        {"seq": 2**31},
        {"name": ""},
        {"name": "a\x00"},
        {"task_queue": "\ud800"},
        {"status": "DONE"},
        {"attempt": -1},
        {"max_attempts": 2**31},
        {"input": '"\x00"'},
        {"error": "\ud800"},
        {"claimed_by": ""},
        {"scheduled_at": float("inf")},
        {"started_at": 1e15},
        {"start_to_close_secs": float("nan")},
        {"heartbeat_timeout_secs": -1.0},
        {"backoff_coefficient": 1e300},
    ],
)
async def test_odd_values_are_refused_at_the_door(store: Store, fields: dict[str, Any]) -> None:
    await created(store)

    with pytest.raises(Invalid):
        await store.create_activity(activity(**fields))
    assert await store.get_activity_by_workflow_seq("order-1", 1) is None


# -- complete_activity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failed", "status"), [(False, "COMPLETED"), (True, "FAILED")])
async def test_an_activity_is_settled_with_its_outcome(
    store: Store, sql: Sql, failed: bool, status: str
) -> None:
    running = await claimed(store)
    before, told = await database_now(sql), len(await facts(sql))

    await store.complete_activity(running.id or 0, ODD, "why", failed)

    found = await read(store, running.id)
    assert found == msgspec.structs.replace(
        running, status=status, result=ODD, error="why", completed_at=found.completed_at
    )
    assert before <= (found.completed_at or 0) <= await database_now(sql)
    assert await told_since(sql, told) == [f"Activity{status.title()}"]


async def test_the_same_settlement_again_changes_nothing(store: Store, sql: Sql) -> None:
    running = await claimed(store)
    await store.complete_activity(running.id or 0, "1", None, False)
    first, told = await read(store, running.id), len(await facts(sql))

    await store.complete_activity(running.id or 0, "1", None, False)

    assert await read(store, running.id) == first
    assert await told_since(sql, told) == []


@pytest.mark.parametrize(
    "second", [("2", None, False), ("1", None, True), ("1", "late", False), (None, None, False)]
)
async def test_another_settlement_is_refused(store: Store, sql: Sql, second: Any) -> None:
    running = await claimed(store)
    await store.complete_activity(running.id or 0, "1", None, False)
    first, told = await read(store, running.id), len(await facts(sql))

    with pytest.raises(Refused, match="is COMPLETED already"):
        await store.complete_activity(running.id or 0, *second)

    assert await read(store, running.id) == first
    assert await told_since(sql, told) == []


async def test_a_cancelled_activity_is_settled(store: Store) -> None:
    await created(store)
    number = await store.create_activity(activity())
    await store.cancel_pending_activities("order-1")

    with pytest.raises(Refused, match="is CANCELLED already"):
        await store.complete_activity(number, "1", None, False)


async def test_an_activity_that_nobody_claimed_may_be_settled_and_is_claimed_no_more(store: Store) -> None:
    await created(store)
    number = await store.create_activity(activity())

    await store.complete_activity(number, "1", None, False)

    assert (await read(store, number)).status == "COMPLETED"
    assert await claims(store) == []


async def test_of_ten_racing_settlements_one_wins(store: Store, other: Store) -> None:
    running = await claimed(store)

    outcomes = await asyncio.gather(
        *((store, other)[n % 2].complete_activity(running.id or 0, str(n), None, False) for n in range(10)),
        return_exceptions=True,
    )

    won = [n for n, outcome in enumerate(outcomes) if outcome is None]
    assert [str(n) for n in won] == [(await read(store, running.id)).result]
    assert sum(isinstance(outcome, Refused) for outcome in outcomes) == 9


# -- requeue_activity_for_retry --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_failed", [False, True])
async def test_what_runs_or_failed_waits_for_its_next_attempt(
    store: Store, sql: Sql, is_failed: bool
) -> None:
    running = await claimed(store, input="1")
    await store.heartbeat_activity(running.id or 0, '"half"')
    if is_failed:
        await store.complete_activity(running.id or 0, None, "boom", True)
    told = len(await facts(sql))

    await store.requeue_activity_for_retry(running.id or 0, 2, NOON + 0.000001)

    assert await read(store, running.id) == activity(
        id=running.id, input="1", attempt=2, scheduled_at=NOON + 0.000001, heartbeat_details='"half"'
    )
    assert await told_since(sql, told) == ["ActivityRequeued"]


async def test_the_next_attempt_gets_the_last_ones_details_and_a_new_start(store: Store) -> None:
    running = await claimed(store)
    await store.heartbeat_activity(running.id or 0, '"half"')
    await store.requeue_activity_for_retry(running.id or 0, 2, NOON)

    again = await store.claim_activity(QUEUE, "w2")

    assert again is not None
    assert (again.id, again.attempt, again.heartbeat_details) == (running.id, 2, '"half"')
    assert (again.claimed_by, again.last_heartbeat) == ("w2", None)
    assert (again.started_at or 0) > (running.started_at or 0)


async def test_backoff_is_honoured_by_the_claim(store: Store, sql: Sql) -> None:
    running = await claimed(store)
    now = await database_now(sql)

    await store.requeue_activity_for_retry(running.id or 0, 2, now + 3600)
    assert await claims(store) == []

    await store.requeue_activity_for_retry(running.id or 0, 2, now)
    assert await claims(store) == [running.id]


async def test_requeueing_the_same_again_changes_nothing(store: Store, sql: Sql) -> None:
    running = await claimed(store)
    await store.requeue_activity_for_retry(running.id or 0, 2, NOON)
    told = len(await facts(sql))

    await store.requeue_activity_for_retry(running.id or 0, 2, NOON)

    assert await told_since(sql, told) == []


@pytest.mark.parametrize("status", ["COMPLETED", "CANCELLED"])
async def test_what_is_over_is_not_tried_again(store: Store, sql: Sql, status: str) -> None:
    await created(store)
    number = await store.create_activity(activity(status=status))
    told = len(await facts(sql))

    with pytest.raises(Refused, match=f"is {status}"):
        await store.requeue_activity_for_retry(number, 2, NOON)

    assert (await read(store, number)).status == status
    assert await told_since(sql, told) == []


@pytest.mark.parametrize(("attempt", "at"), [(-1, NOON), (2**31, NOON), (2, float("nan")), (2, 1e15)])
async def test_an_attempt_or_a_time_that_is_none_is_refused(store: Store, attempt: int, at: float) -> None:
    with pytest.raises(Invalid):
        await store.requeue_activity_for_retry(1, attempt, at)


# -- get_timed_out_activities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "deadline"),
    [
        ({"start_to_close_secs": 10.0}, 10.0),
        ({"start_to_close_secs": 10.0, "heartbeat_timeout_secs": 3.0}, 3.0),
        ({"start_to_close_secs": 10.0, "heartbeat_timeout_secs": 3.0, "last_heartbeat": NOON + 5}, 8.0),
        ({"start_to_close_secs": 10.0, "heartbeat_timeout_secs": 3.0, "last_heartbeat": NOON + 9}, 10.0),
        ({"start_to_close_secs": 10.0, "last_heartbeat": NOON + 5}, 10.0),
    ],
)
async def test_an_activity_times_out_strictly_after_its_deadline(
    store: Store, sql: Sql, fields: dict[str, Any], deadline: float
) -> None:
    await created(store)
    given = activity(status="RUNNING", claimed_by="w1", started_at=NOON, **fields)
    number = await store.create_activity(given)
    told = len(await facts(sql))

    assert rules.deadline(given) == NOON + deadline
    assert await store.get_timed_out_activities(NOON + deadline) == []
    assert await store.get_timed_out_activities(NOON + deadline + 0.001) == [await read(store, number)]
    assert await told_since(sql, told) == []


@pytest.mark.parametrize("status", ["PENDING", "COMPLETED", "FAILED", "CANCELLED"])
async def test_only_what_runs_times_out(store: Store, status: str) -> None:
    await created(store)
    await store.create_activity(activity(status=status, started_at=NOON))
    await store.create_activity(activity(seq=2, status="RUNNING"))

    assert await store.get_timed_out_activities(NOON + 1e9) == []


async def test_the_longest_overdue_comes_first_from_every_namespace(store: Store) -> None:
    await store.create_namespace("billing")
    await created(store)
    await created(store, namespace="billing")
    for seq, age in enumerate((1, 3, 2), 1):
        await store.create_activity(activity(seq=seq, status="RUNNING", started_at=NOON - age))
    await store.create_activity(activity(seq=4, status="RUNNING", started_at=NOON - 9), namespace="billing")

    async def seqs(**fields: Any) -> list[int]:
        return [one.seq for one in await store.get_timed_out_activities(NOON + 1e6, **fields)]

    assert await seqs() == [4, 2, 3, 1]
    assert await seqs(limit=2) == [4, 2]
    assert await seqs(namespace="main") == [2, 3, 1]
    assert await store.get_timed_out_activities(1_000.0) == []


# -- cancel_pending_activities ---------------------------------------------------------------------------------


async def test_what_waits_is_cancelled_and_what_runs_is_not(store: Store, sql: Sql) -> None:
    await created(store)
    numbers = [
        await store.create_activity(activity(seq=seq, status=status))
        for seq, status in enumerate(("PENDING", "PENDING", "RUNNING", "COMPLETED", "FAILED"), 1)
    ]
    before = [await read(store, number) for number in numbers[2:]]
    told = len(await facts(sql))

    assert await store.cancel_pending_activities("order-1") == 2

    assert [(await read(store, number)).status for number in numbers[:2]] == ["CANCELLED"] * 2
    assert [await read(store, number) for number in numbers[2:]] == before
    assert await claims(store) == []
    assert await told_since(sql, told) == [
        "ActivityCancelled",
        "ActivityCancelled",
        "ActivityCancelRequested",
    ]

    assert await store.cancel_pending_activities("order-1") == 0
    assert len(await facts(sql)) == told + 3


async def test_other_workflows_activities_are_left_alone(store: Store) -> None:
    await store.create_namespace("billing")
    await created(store)
    await created(store, "order-2")
    await created(store, namespace="billing")
    await store.create_activity(activity())
    await store.create_activity(activity("order-2"))
    await store.create_activity(activity(), namespace="billing")

    assert await store.cancel_pending_activities("order-1", namespace="billing") == 1

    assert len(await claims(store)) == 2


async def test_an_activity_is_either_claimed_or_cancelled(store: Store, other: Store) -> None:
    await created(store)
    for seq in range(1, 31):
        await store.create_activity(activity(seq=seq))

    taken, cancelled = await asyncio.gather(claims(other), store.cancel_pending_activities("order-1"))

    assert len(taken) + cancelled == 30
    assert [await store.heartbeat_activity(number, None) for number in taken] == [True] * len(taken)


async def test_a_worker_of_another_namespace_is_registered_elsewhere(store: Store) -> None:
    await store.create_namespace("billing")
    await store.register_worker(worker("w1", namespace="billing"))
    await created(store)
    await store.create_activity(activity())

    assert await claims(store, "w1", namespace="main") == []
