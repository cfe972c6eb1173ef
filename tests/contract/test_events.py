"""Events: added once each, read in their order, counted without being read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from holdfast.exceptions import AlreadyExists, Invalid, NotFound, Refused
from holdfast.store import Store
from holdfast.wire import commands as c
from holdfast.wire.records import WorkflowEvent
from tests.contract.given import NOON, closed, created
from tests.contract.journal import entries, facts
from tests.contract.test_workflows import driven
from tests.store.rows import Sql


def event(seq: int = 1, **fields: Any) -> WorkflowEvent:
    """An event of order-1 at noon."""
    given = {"workflow_id": "order-1", "event_type": "Charged", "timestamp": NOON}
    return WorkflowEvent(**{**given, "seq": seq, **fields})


async def test_an_event_reads_as_it_was_written(store: Store) -> None:
    await created(store)

    first = await store.append_event(event(1, payload='{"b":  1}', timestamp=1000.000001))
    second = await store.append_event(event(2, timestamp=9_999_999_999.123456))

    assert first < second
    assert await store.list_events("order-1") == [
        event(1, id=first, payload='{"b":  1}', timestamp=1000.000001),
        event(2, id=second, timestamp=9_999_999_999.123456),
    ]
    assert await store.get_event_count("order-1") == 2


async def test_a_new_workflow_has_no_events_and_an_unknown_one_neither(store: Store) -> None:
    await created(store)

    for id in ("order-1", "order-2"):
        assert await store.list_events(id) == []
        assert await store.get_event_count(id) == 0
    with pytest.raises(NotFound, match="no workflow 'order-2'"):
        await store.append_event(event(workflow_id="order-2"))


async def test_a_number_is_taken_once(store: Store, sql: Sql) -> None:
    await created(store)
    number = await store.append_event(event(1, payload="1"))

    with pytest.raises(AlreadyExists, match="has an event 1 already"):
        await store.append_event(event(1, payload="2"))

    assert await store.list_events("order-1") == [event(1, id=number, payload="1")]
    assert await store.get_event_count("order-1") == 1
    assert (await facts(sql))[1:] == [("EventAppended", str(number))]


async def test_gaps_are_allowed_and_order_is_by_number(store: Store) -> None:
    await created(store)
    for seq in (7, 2, 2**31 - 1):
        await store.append_event(event(seq))

    assert [found.seq for found in await store.list_events("order-1")] == [2, 7, 2**31 - 1]
    assert await store.get_event_count("order-1") == 3


async def test_pages_go_on_after_a_number(store: Store) -> None:
    await created(store)
    for seq in range(1, 6):
        await store.append_event(event(seq))

    assert [e.seq for e in await store.list_events("order-1", after=2, limit=2)] == [3, 4]
    assert [e.seq for e in await store.list_events("order-1", after=4)] == [5]
    assert await store.list_events("order-1", after=5, limit=1) == []
    for after, limit in ((-1, None), (0, 0), (0, -1)):
        with pytest.raises(Invalid):
            await store.list_events("order-1", after=after, limit=limit)


async def test_a_closed_run_and_an_older_one_take_events(store: Store) -> None:
    await closed(store, run_id="01900000-0000-7000-8000-000000000001")
    await created(store)

    await store.append_event(event(1), run_id="01900000-0000-7000-8000-000000000001")

    assert await store.list_events("order-1") == []
    assert await store.get_event_count("order-1", run_id="01900000-0000-7000-8000-000000000001") == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"seq": 0},
        {"seq": -1},
        {"seq": 2**31},
        {"event_type": ""},
        {"event_type": "\x00"},
        {"payload": "\x00"},
        {"payload": "\ud800"},
        {"timestamp": float("nan")},
        {"timestamp": 1e300},
        {"workflow_id": "\x00"},
    ],
)
async def test_an_event_that_cannot_be_kept_is_refused(store: Store, fields: dict[str, Any]) -> None:
    await created(store)

    with pytest.raises(Invalid):
        await store.append_event(event(**fields))


async def test_of_racing_writers_of_a_number_one_wins_and_every_other_number_counts(
    store: Store, other: Store
) -> None:
    await created(store)

    outcomes = await asyncio.gather(
        *(s.append_event(event(seq)) for seq in range(1, 11) for s in (store, other)), return_exceptions=True
    )

    assert [type(one) for one in outcomes].count(AlreadyExists) == 10
    assert await store.get_event_count("order-1") == 10
    assert len(await store.list_events("order-1")) == 10


async def test_an_event_is_told_of_without_its_payload(store: Store, sql: Sql) -> None:
    await created(store)
    number = await store.append_event(event(3, payload='"secret"'))

    entry = (await entries(sql))[-1]

    assert (entry.fact, entry.record, entry.key) == ("EventAppended", "event", str(number))
    assert entry.fields["seq"] == 3
    assert entry.fields["workflow_id"] == "order-1"
    assert "payload" not in entry.fields


async def test_the_engines_history_is_shown_and_left_alone(store: Store) -> None:
    await driven(store, c.CompleteWorkflow(result=b'{"n": 1}'))

    found = await store.list_events("order-1")

    assert [(e.id, e.seq, e.event_type) for e in found] == [
        (1, 1, "WorkflowStarted"),
        (2, 2, "WorkflowTaskCompleted"),
        (3, 3, "WorkflowCompleted"),
    ]
    assert json.loads(found[2].payload or "") == {"result": '{"n": 1}'}
    assert json.loads(found[0].payload or "")["workflow_type"] == "order"
    assert found[0].timestamp <= found[2].timestamp
    assert await store.get_event_count("order-1") == 3
    assert await store.list_events("order-1", after=1, limit=1) == found[1:2]
    with pytest.raises(Refused, match="driven by the engine"):
        await store.append_event(event(4))
