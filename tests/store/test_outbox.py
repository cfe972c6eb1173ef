"""The outbox: one relay at a time, in order, and nothing is forgotten that nobody confirmed."""

from __future__ import annotations

import asyncio

from holdfast.core.requests import Ask
from holdfast.store import outbox
from holdfast.store.session import Pool
from holdfast.wire import messages as m
from tests.store.rows import Sql, change, start

ROLE = "feed"
LONG_S = 60.0


async def expire(sql: Sql) -> None:
    """The holder's time runs out."""
    await sql("UPDATE leader SET until = now() - interval '1 s'")


async def test_the_first_to_ask_gets_the_role(pool: Pool) -> None:
    assert await outbox.take_role(pool, ROLE, "a", LONG_S) == 1
    assert await outbox.take_role(pool, ROLE, "b", LONG_S) is None


async def test_the_holder_keeps_its_epoch_when_it_asks_again(pool: Pool, sql: Sql) -> None:
    await outbox.take_role(pool, ROLE, "a", 1.0)

    assert await outbox.take_role(pool, ROLE, "a", LONG_S) == 1
    left = await sql.one("SELECT extract(epoch FROM until - now())::float8 FROM leader")
    assert left > 30


async def test_a_role_whose_time_ran_out_goes_to_the_next_in_a_new_epoch(pool: Pool, sql: Sql) -> None:
    await outbox.take_role(pool, ROLE, "a", LONG_S)
    await expire(sql)

    assert await outbox.take_role(pool, ROLE, "b", LONG_S) == 2
    assert await outbox.take_role(pool, ROLE, "a", LONG_S) is None


async def test_a_holder_that_is_late_but_was_not_replaced_goes_on_in_its_epoch(pool: Pool, sql: Sql) -> None:
    await outbox.take_role(pool, ROLE, "a", LONG_S)
    await expire(sql)

    assert await outbox.take_role(pool, ROLE, "a", LONG_S) == 1


async def test_of_many_that_ask_at_once_one_gets_it(pool: Pool) -> None:
    epochs = await asyncio.gather(*(outbox.take_role(pool, ROLE, f"p{n}", LONG_S) for n in range(8)))

    assert [epoch for epoch in epochs if epoch is not None] == [1]


async def test_roles_are_independent(pool: Pool) -> None:
    assert await outbox.take_role(pool, "feed", "a", LONG_S) == 1
    assert await outbox.take_role(pool, "other", "b", LONG_S) == 1


async def test_what_is_owed_is_read_in_order_and_bounded(pool: Pool) -> None:
    runs = [await start(pool, f"w{n}") for n in range(5)]

    found = await outbox.read_owed(pool, 3)

    assert [row.run_id for row in found] == runs[:3]
    assert [row.id for row in found] == sorted(row.id for row in found)
    assert {(row.first_seq, row.last_seq, row.namespace, row.feed) for row in found} == {
        (1, 1, "main", "full")
    }


async def test_the_rows_of_a_run_are_in_the_order_of_its_events(pool: Pool) -> None:
    run_id = await start(pool)

    async def signal(number: int) -> None:
        message = m.Signal(request_id=f"s{number}", workflow_id="order-1", name="n")
        await change(pool, run_id, Ask(message, b"h"))

    await asyncio.gather(*(signal(number) for number in range(12)))

    found = await outbox.read_owed(pool, 100)
    assert [(row.first_seq, row.last_seq) for row in found] == [(n, n) for n in range(1, 14)]


async def test_a_row_that_becomes_visible_late_is_found_although_higher_ones_were_before(
    pool: Pool, sql: Sql
) -> None:
    """A reader that remembered a position would have passed it by."""
    run_id = await start(pool, "w0")
    await sql("BEGIN")
    await sql("INSERT INTO outbox (run_id, first_seq, last_seq) VALUES ($1::uuid, 2, 2)", run_id)
    await start(pool, "w1")
    first = await outbox.read_owed(pool, 10)
    assert [row.workflow_id for row in first] == ["w0", "w1"]
    epoch = await outbox.take_role(pool, ROLE, "a", LONG_S)
    assert epoch is not None
    await outbox.delete_owed(pool, [row.id for row in first], ROLE, "a", epoch)
    await sql("COMMIT")

    assert [(row.workflow_id, row.first_seq) for row in await outbox.read_owed(pool, 10)] == [("w0", 2)]


async def test_only_what_was_confirmed_is_forgotten(pool: Pool) -> None:
    for n in range(3):
        await start(pool, f"w{n}")
    epoch = await outbox.take_role(pool, ROLE, "a", LONG_S)
    assert epoch is not None
    owed = await outbox.read_owed(pool, 10)

    assert await outbox.delete_owed(pool, [owed[0].id, owed[2].id], ROLE, "a", epoch) == 2

    assert [row.id for row in await outbox.read_owed(pool, 10)] == [owed[1].id]


async def test_a_deposed_relay_deletes_nothing(pool: Pool, sql: Sql) -> None:
    """It published, was frozen, and another took over meanwhile: that one publishes again, under the same ids."""
    await start(pool)
    old = await outbox.take_role(pool, ROLE, "a", LONG_S)
    assert old is not None
    ids = [row.id for row in await outbox.read_owed(pool, 10)]
    await expire(sql)
    new = await outbox.take_role(pool, ROLE, "b", LONG_S)
    assert new is not None

    assert await outbox.delete_owed(pool, ids, ROLE, "a", old) == 0
    assert await outbox.delete_owed(pool, ids, ROLE, "a", new) == 0
    assert await outbox.delete_owed(pool, ids, ROLE, "b", old) == 0
    assert await outbox.delete_owed(pool, ids, ROLE, "b", new) == 1


async def test_the_setting_of_the_namespace_is_told(pool: Pool, sql: Sql) -> None:
    await sql("INSERT INTO namespace (name, feed) VALUES ('quiet', 'off'), ('brief', 'lifecycle')")
    for name in ("main", "quiet", "brief", "gone"):
        await start(pool, "w", namespace=name)

    found = await outbox.read_owed(pool, 10)

    assert [row.feed for row in found] == ["full", "off", "lifecycle", "off"]


async def test_deleting_nothing_is_nothing(pool: Pool) -> None:
    assert await outbox.delete_owed(pool, [], ROLE, "a", 1) == 0
