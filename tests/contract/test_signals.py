"""Signals through the contract: kept in the order they came, each taken once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.exceptions import Invalid, NotFound
from holdfast.store import Store
from holdfast.wire.records import WorkflowSignal
from tests.contract.given import NOON, QUEUE, closed, created, signal
from tests.contract.journal import entries, facts
from tests.store.rows import Sql, start

ODD = '{"n":  1e400, "s": "\\u0000 ü"}'


async def test_a_signal_comes_back_as_it_was_sent(store: Store, sql: Sql) -> None:
    await created(store)
    number = await store.send_signal(signal(payload=ODD, received_at=NOON + 0.000001, request_id="r1"))

    assert await store.consume_signals("order-1", "paid") == [
        WorkflowSignal(
            id=number,
            workflow_id="order-1",
            name="paid",
            payload=ODD,
            consumed=True,
            received_at=NOON + 0.000001,
            request_id="r1",
        )
    ]
    sent, consumed = (await entries(sql))[1:]
    assert (sent.fact, sent.record, sent.key) == ("SignalSent", "signal", str(number))
    assert (consumed.fact, consumed.key) == ("SignalConsumed", str(number))
    assert sent.fields["name"] == "paid"
    assert sent.fields["workflow_id"] == "order-1"
    assert "payload" not in sent.fields


async def test_signals_are_consumed_in_the_order_they_came_whatever_their_times(store: Store) -> None:
    await created(store)
    numbers = [await store.send_signal(signal(payload=str(n), received_at=NOON - n)) for n in range(5)]

    taken = await store.consume_signals("order-1", "paid")

    assert [one.payload for one in taken] == ["0", "1", "2", "3", "4"]
    assert [one.id for one in taken] == numbers == sorted(numbers)


async def test_a_signal_is_consumed_once(store: Store, sql: Sql) -> None:
    await created(store)
    await store.send_signal(signal())
    assert len(await store.consume_signals("order-1", "paid")) == 1
    told = await facts(sql)

    assert await store.consume_signals("order-1", "paid") == []
    assert await facts(sql) == told

    await store.send_signal(signal(payload="2"))
    assert [one.payload for one in await store.consume_signals("order-1", "paid")] == ["2"]


async def test_signals_of_other_names_stay(store: Store) -> None:
    await created(store)
    await store.send_signal(signal(name="paid"))
    await store.send_signal(signal(name="PAID"))

    assert [one.name for one in await store.consume_signals("order-1", "PAID")] == ["PAID"]
    assert [one.name for one in await store.consume_signals("order-1", "paid")] == ["paid"]


async def test_the_same_request_gives_the_first_signals_number(store: Store, sql: Sql) -> None:
    await created(store)
    first = await store.send_signal(signal(payload="1", request_id="r1"))

    assert await store.send_signal(signal(payload="2", request_id="r1")) == first
    assert [one.payload for one in await store.consume_signals("order-1", "paid")] == ["1"]
    assert await store.send_signal(signal(payload="1", request_id="r1")) == first, "consumed, still known"
    assert await store.consume_signals("order-1", "paid") == []
    assert [fact for fact, _ in await facts(sql)].count("SignalSent") == 1


async def test_request_ids_are_a_runs_own_and_none_is_no_id(store: Store) -> None:
    await created(store, "order-1")
    await created(store, "order-2")

    numbers = {
        await store.send_signal(signal("order-1", request_id="r1")),
        await store.send_signal(signal("order-2", request_id="r1")),
        await store.send_signal(signal("order-1")),
        await store.send_signal(signal("order-1")),
    }

    assert len(numbers) == 4


async def test_ten_racing_repeats_are_one_signal(store: Store, other: Store) -> None:
    await created(store)

    numbers = await asyncio.gather(
        *((store, other)[n % 2].send_signal(signal(request_id="r1")) for n in range(10))
    )

    assert len(set(numbers)) == 1
    assert len(await store.consume_signals("order-1", "paid")) == 1


async def test_an_unknown_workflow_takes_no_signal(store: Store, sql: Sql) -> None:
    with pytest.raises(NotFound, match="'order-1'"):
        await store.send_signal(signal())

    assert await store.consume_signals("order-1", "paid") == []
    assert await facts(sql) == []


async def test_a_closed_run_keeps_signals_too(store: Store) -> None:
    await closed(store)

    await store.send_signal(signal(consumed=True))
    await store.send_signal(signal(payload="2"))

    assert [one.payload for one in await store.consume_signals("order-1", "paid")] == ["2"]


async def test_equal_ids_in_two_namespaces_never_meet(store: Store, sql: Sql) -> None:
    await store.create_namespace("billing")
    await created(store)
    await created(store, namespace="billing")
    await store.send_signal(signal(payload="here", request_id="r1"))
    await store.send_signal(signal(payload="there", request_id="r1"), namespace="billing")

    assert [s.payload for s in await store.consume_signals("order-1", "paid", namespace="billing")] == [
        "there"
    ]
    assert [s.payload for s in await store.consume_signals("order-1", "paid")] == ["here"]
    assert set(await sql("SELECT DISTINCT namespace FROM journal WHERE record = 'signal'")) == {
        "main",
        "billing",
    }


async def test_the_newest_run_is_meant_unless_one_is_named(store: Store) -> None:
    old = await closed(store, run_id="01800000-0000-7000-8000-000000000001")
    await created(store)
    await store.send_signal(signal(payload="new"))
    await store.send_signal(signal(payload="old"), run_id=old.run_id)

    assert [s.payload for s in await store.consume_signals("order-1", "paid")] == ["new"]
    assert [s.payload for s in await store.consume_signals("order-1", "paid", run_id=old.run_id)] == ["old"]


async def test_two_consumers_never_share_a_signal(store: Store, other: Store) -> None:
    await created(store)
    numbers = [await store.send_signal(signal(payload=str(n))) for n in range(50)]

    taken, later = await asyncio.gather(
        asyncio.gather(*((store, other)[n % 2].consume_signals("order-1", "paid") for n in range(6))),
        asyncio.gather(*(store.send_signal(signal(payload=str(n))) for n in range(50, 60))),
    )
    rest = await store.consume_signals("order-1", "paid")

    found = [one.id or 0 for part in [*taken, rest] for one in part]
    assert sorted(found) == sorted([*numbers, *later])


async def test_a_run_that_the_engine_drives_keeps_what_is_sent_through_the_contract(store: Store) -> None:
    await start(store.pool, "order-1", queue=QUEUE)

    await store.send_signal(signal(payload="1"))

    assert [one.payload for one in await store.consume_signals("order-1", "paid")] == ["1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a\x00b"},
        {"payload": '"\x00"'},
        {"payload": '"\ud800"'},
        {"request_id": ""},
        {"received_at": float("nan")},
        {"received_at": 1e15},
    ],
)
async def test_odd_values_are_refused_at_the_door(store: Store, fields: dict[str, Any]) -> None:
    await created(store)

    with pytest.raises(Invalid):
        await store.send_signal(signal(**fields))
    assert await store.consume_signals("order-1", "paid") == []
