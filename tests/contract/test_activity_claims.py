"""Who gets an activity, what its worker hears, and how the engine's own are shown."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from holdfast.exceptions import Invalid, Refused
from holdfast.store import Store, tasks
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy
from holdfast.wire.records import WorkflowActivity
from tests.contract.given import NOON, QUEUE, activity, claimed, created, database_now, worker
from tests.contract.journal import entries, facts
from tests.store.rows import LEASE_S, Sql, change, start, turn


async def claims(
    store: Store, worker_id: str = "w1", *, queue: str = QUEUE, namespace: str = "main"
) -> list[int]:
    """The numbers in their runs of all that the worker can get."""
    found = []
    while (one := await store.claim_activity(queue, worker_id, namespace=namespace)) is not None:
        found.append(one.seq)
    return found


# -- claim_activity ----------------------------------------------------------------------------------


async def test_a_claim_gives_the_activity_running_and_owned(store: Store, sql: Sql) -> None:
    await created(store)
    number = await store.create_activity(activity(input="1", heartbeat_details='"half"', last_heartbeat=NOON))
    before, told = await database_now(sql), len(await facts(sql))

    found = await store.claim_activity(QUEUE, "w1")

    assert type(found) is WorkflowActivity
    assert found == activity(
        id=number,
        input="1",
        status="RUNNING",
        claimed_by="w1",
        heartbeat_details='"half"',
        started_at=found.started_at,
    )
    assert before <= (found.started_at or 0) <= await database_now(sql)
    assert await store.get_activity(number) == found
    (entry,) = (await entries(sql))[told:]
    assert (entry.fact, entry.record, entry.key) == ("ActivityClaimed", "activity", str(number))
    assert entry.fields["worker"] == "w1"
    assert entry.fields["workflow_id"] == "order-1"


async def test_an_empty_queue_gives_nothing_and_tells_nothing(store: Store, sql: Sql) -> None:
    assert await store.claim_activity(QUEUE, "w1") is None
    assert await facts(sql) == []


async def test_the_longest_due_goes_first_then_the_first_made(store: Store) -> None:
    await created(store)
    for seq, age in enumerate((1, 3, 2, 3), 1):
        await store.create_activity(activity(seq=seq, scheduled_at=NOON - age))

    assert await claims(store) == [2, 4, 3, 1]


async def test_what_is_not_due_is_not_handed_out(store: Store, sql: Sql) -> None:
    await created(store)
    now = await database_now(sql)
    await store.create_activity(activity(seq=1, scheduled_at=now + 3600))
    await store.create_activity(activity(seq=2, scheduled_at=now))

    assert await claims(store) == [2]


@pytest.mark.parametrize("status", ["RUNNING", "COMPLETED", "FAILED", "CANCELLED"])
async def test_only_what_waits_is_handed_out(store: Store, status: str) -> None:
    await created(store)
    await store.create_activity(activity(status=status))

    assert await claims(store) == []


async def test_no_two_workers_get_the_same_activity(store: Store, other: Store, sql: Sql) -> None:
    await created(store)
    for seq in range(1, 41):
        await store.create_activity(activity(seq=seq))

    found = await asyncio.gather(*(claims((store, other)[n % 2], f"w{n}") for n in range(6)))

    rest = await claims(store)
    assert sorted(seq for part in [*found, rest] for seq in part) == list(range(1, 41))
    assert [fact for fact, _ in await facts(sql)].count("ActivityClaimed") == 40


async def test_an_activity_that_somebody_writes_is_skipped_and_blocks_nobody(store: Store, sql: Sql) -> None:
    await created(store)
    for seq in (1, 2):
        await store.create_activity(activity(seq=seq))
    async with sql.connection.transaction():
        await sql("SELECT 1 FROM run FOR UPDATE")
        await sql("SELECT 1 FROM record_activity WHERE seq = 1 FOR UPDATE")

        assert await claims(store) == [2]

    assert await claims(store) == [1]


async def test_activities_of_a_closed_run_are_never_handed_out(store: Store) -> None:
    await created(store)
    await store.create_activity(activity())
    await store.update_workflow_status("order-1", "TERMINATED", None, None)

    assert await claims(store) == []


async def test_activities_of_a_deleted_namespace_are_never_handed_out(store: Store) -> None:
    await store.create_namespace("brief")
    await store.register_worker(worker("w1", namespace="brief"))
    await created(store, namespace="brief")
    await store.create_activity(activity(), namespace="brief")
    await store.delete_namespace("brief")

    assert await claims(store, "w1") == []
    assert await claims(store, "w2", namespace="brief") == []


async def test_queues_and_namespaces_are_walls(store: Store) -> None:
    await store.create_namespace("billing")
    await store.register_worker(worker("w1", namespace="billing"))
    await created(store)
    await created(store, namespace="billing")
    await store.create_activity(activity(seq=1))
    await store.create_activity(activity(seq=2), namespace="billing")
    await store.create_activity(activity(seq=3, task_queue="back"))

    assert await claims(store, queue="none") == []
    assert await claims(store, "w1", namespace="main") == [2], "a registered worker has its own namespace"
    assert await claims(store, "stranger") == [1]
    assert await claims(store, "stranger", queue="back") == [3]


@pytest.mark.parametrize(
    ("queue", "worker_id"), [("", "w1"), ("q\x00", "w1"), (QUEUE, ""), (QUEUE, "\ud800")]
)
async def test_odd_names_are_refused_at_the_door(store: Store, queue: str, worker_id: str) -> None:
    with pytest.raises(Invalid):
        await store.claim_activity(queue, worker_id)


# -- heartbeat_activity ------------------------------------------------------------------------------


async def test_a_heartbeat_keeps_its_details_and_its_time(store: Store, sql: Sql) -> None:
    running = await claimed(store)
    before, told = await database_now(sql), len(await facts(sql))

    assert await store.heartbeat_activity(running.id or 0, '"half"') is False

    found = await store.get_activity(running.id or 0)
    assert found is not None
    assert found == msgspec.structs.replace(
        running, heartbeat_details='"half"', last_heartbeat=found.last_heartbeat
    )
    assert before <= (found.last_heartbeat or 0) <= await database_now(sql)
    assert (await facts(sql))[told:] == [("ActivityHeartbeatRecorded", str(running.id))]


async def test_a_heartbeat_without_details_keeps_the_last_ones(store: Store) -> None:
    running = await claimed(store)
    await store.heartbeat_activity(running.id or 0, '"half"')

    assert await store.heartbeat_activity(running.id or 0, None) is False

    found = await store.get_activity(running.id or 0)
    assert found is not None
    assert found.heartbeat_details == '"half"'


async def test_a_heartbeat_puts_the_timeout_off(store: Store, sql: Sql) -> None:
    running = await claimed(store, heartbeat_timeout_secs=30.0)
    late = (running.started_at or 0) + 30.000001
    await sql("UPDATE record_activity SET started_at = started_at - 20")
    assert await store.get_timed_out_activities(late) != []

    await store.heartbeat_activity(running.id or 0, None)

    assert await store.get_timed_out_activities((running.started_at or 0) + 29) == []


async def test_a_worker_hears_that_its_run_was_cancelled_also_in_a_later_attempt(store: Store) -> None:
    running = await claimed(store)
    assert await store.cancel_pending_activities("order-1") == 0

    assert await store.heartbeat_activity(running.id or 0, '"half"') is True

    await store.requeue_activity_for_retry(running.id or 0, 2, NOON)
    assert await claims(store, "w2") == [1]
    assert await store.heartbeat_activity(running.id or 0, None) is True


async def test_a_worker_hears_that_its_run_is_closed(store: Store) -> None:
    running = await claimed(store)
    await store.update_workflow_status("order-1", "CANCELLED", None, None)

    assert await store.heartbeat_activity(running.id or 0, None) is True


@pytest.mark.parametrize("status", ["PENDING", "COMPLETED", "FAILED", "CANCELLED"])
async def test_what_does_not_run_should_stop_and_keeps_nothing(store: Store, sql: Sql, status: str) -> None:
    await created(store)
    number = await store.create_activity(activity(status=status))
    told = await facts(sql)

    assert await store.heartbeat_activity(number, '"half"') is True

    found = await store.get_activity(number)
    assert found == activity(id=number, status=status)
    assert await facts(sql) == told


async def test_a_worker_that_lost_its_activity_hears_it_and_keeps_nothing(store: Store) -> None:
    running = await claimed(store, "w1")
    await store.requeue_activity_for_retry(running.id or 0, 2, NOON)
    await store.claim_activity(QUEUE, "w2")

    assert await store.heartbeat_activity(running.id or 0, '"late"', worker_id="w1") is True
    assert await store.heartbeat_activity(running.id or 0, '"half"', worker_id="w2") is False

    found = await store.get_activity(running.id or 0)
    assert found is not None
    assert found.heartbeat_details == '"half"'


async def test_details_that_are_no_text_are_refused(store: Store) -> None:
    with pytest.raises(Invalid):
        await store.heartbeat_activity(1, '"\x00"')


# -- the engine's --------------------------------------------------------------------------------------


async def driven(store: Store) -> str:
    """A run that the engine drives, with activity 1 due."""
    run_id = await start(store.pool, "order-1", queue=QUEUE)
    await tasks.claim_workflows(store.pool, "main", QUEUE, "w1", 1, LEASE_S)
    charge = c.ScheduleActivity(
        seq=1,
        name="charge",
        input=b'[{"n":1}]',
        schedule_to_close_s=90.0,
        heartbeat_s=5.0,
        retry=RetryPolicy(initial_s=2.0, max_attempts=4),
    )
    await turn(store.pool, run_id, charge)
    return run_id


async def test_the_engines_activities_are_shown_and_left_alone(store: Store, sql: Sql) -> None:
    await driven(store)

    found = await store.get_activity_by_workflow_seq("order-1", 1)

    assert found is not None
    assert found == WorkflowActivity(
        workflow_id="order-1",
        seq=1,
        name="charge",
        task_queue=QUEUE,
        input='[{"n":1}]',
        max_attempts=4,
        initial_interval_secs=2.0,
        start_to_close_secs=90.0,
        schedule_to_close_secs=90.0,
        heartbeat_timeout_secs=5.0,
        scheduled_at=found.scheduled_at,
    )
    assert await claims(store) == []
    with pytest.raises(Refused, match="cancel its activities"):
        await store.cancel_pending_activities("order-1")
    assert await facts(sql) == []


async def test_an_activity_that_the_engine_leased_is_shown_running(store: Store) -> None:
    await driven(store)
    await tasks.claim_activities(store.pool, "main", QUEUE, "w7", 1, LEASE_S)

    found = await store.get_activity_by_workflow_seq("order-1", 1)

    assert found is not None
    assert (found.status, found.claimed_by) == ("RUNNING", "w7")
    assert (found.started_at or 0) >= found.scheduled_at


@pytest.mark.parametrize("is_failed", [False, True])
async def test_an_activity_that_the_engine_settled_is_shown_with_its_outcome(
    store: Store, is_failed: bool
) -> None:
    run_id = await driven(store)
    (leased,) = await tasks.claim_activities(store.pool, "main", QUEUE, "w7", 1, LEASE_S)
    report: m.CompleteActivity | m.FailActivity = m.CompleteActivity(
        run_id=run_id, worker="w7", seq=1, fence=leased.fence, result=b'{"ok":true}'
    )
    if is_failed:
        failure = Failure(message="no money", non_retryable=True)
        report = m.FailActivity(run_id=run_id, worker="w7", seq=1, fence=leased.fence, failure=failure)
    await change(store.pool, run_id, report, activities=[1])

    found = await store.get_activity_by_workflow_seq("order-1", 1)

    assert found is not None
    expected = ("FAILED", None, "no money") if is_failed else ("COMPLETED", '{"ok":true}', None)
    assert (found.status, found.result, found.error) == expected
    assert (found.completed_at or 0) >= found.scheduled_at


async def test_an_activity_of_the_contract_on_a_driven_run_goes_before_the_engines(store: Store) -> None:
    await driven(store)

    number = await store.create_activity(activity(name="refund"))

    assert await store.get_activity_by_workflow_seq("order-1", 1) == activity(name="refund", id=number)
    assert await claims(store) == [1]
