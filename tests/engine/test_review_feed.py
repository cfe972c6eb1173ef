"""The change feed gets past whatever a run did, tells every event once and in order, and holds a bounded part of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest_asyncio

from holdfast.bus import Msg
from holdfast.store import views
from holdfast.store.session import open_pool
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from tests.engine.by_hand import Hand, hand, is_alive

MIB = 1024 * 1024


@pytest_asyncio.fixture
async def sql(database: str) -> AsyncIterator[Any]:
    """A connection to look at rows with."""
    connection = await asyncpg.connect(database, server_settings={"search_path": "holdfast"})
    yield connection
    await connection.close()


class Feed:
    """What the feed says of one workflow from now on."""

    def __init__(self, by: Hand, workflow_id: str) -> None:
        self.messages: list[Msg] = []
        self._news = asyncio.Event()
        by.rpc.bus.subscribe(subjects.event(by.rpc.namespace, "Any", workflow_id), self._hear)

    def _hear(self, message: Msg) -> None:
        self.messages.append(message)
        self._news.set()

    async def until(self, name: str) -> None:
        """Return when an event of this name was told."""
        async with asyncio.timeout(20.0):
            while not any(name in message.headers["Holdfast-Events"].split(",") for message in self.messages):
                self._news.clear()
                await self._news.wait()

    def seqs(self) -> list[int]:
        """The numbers of the events told, those that were left out for their size included."""
        found: list[int] = []
        # A page whose confirmation was late is sent again; the stream drops what it has by this id.
        for message in {message.headers["Nats-Msg-Id"]: message for message in self.messages}.values():
            omitted = message.headers.get("Holdfast-Omitted")
            if omitted is None:
                found += [event.seq for event in codec.decode(message.data, list[e.StoredEvent])]
            else:
                first, _, last = omitted.partition("-")
                found += range(int(first), int(last) + 1)
        return found


async def test_a_transaction_of_thousands_of_events_does_not_stop_the_feed(env: WorkflowEnvironment) -> None:
    # The names of its events made a header larger than a stream takes; it was refused, and with it, for
    # good, everything that the feed still owed.
    by = hand(env)
    feed = Feed(by, "w")
    started = await by.start("w")
    many = range(1, 2001)
    await by.complete(await by.one_task(), *(c.ScheduleActivity(seq=n, name="act") for n in many))
    await by.ask("cancel", m.Cancel(request_id="c", workflow_id="w"))
    await by.complete(await by.one_task(), *(c.RequestCancelActivity(seq=n) for n in many))
    await by.complete(await by.one_task(), c.CancelWorkflow())
    await feed.until("WorkflowCancelled")
    assert feed.seqs() == list(range(1, 6007))
    assert await by.status(started) == "CANCELLED"


async def test_events_that_no_message_can_hold_are_told_by_number(env: WorkflowEnvironment) -> None:
    by = hand(env)
    feed = Feed(by, "w")
    await by.start("w")
    task = await by.one_task()
    large = b'"' + b"x" * (MIB + MIB // 2) + b'"'
    await by.complete(
        task, *(c.RecordMarker(kind="side_effect", name=f"m{n}", value=large) for n in range(5))
    )
    signals = [
        m.Signal(request_id=f"s{n}", workflow_id="w", name="s", input=b"[" + large + b"]") for n in range(8)
    ]
    await asyncio.gather(*(by.ask("signal", signal) for signal in signals))
    await by.complete(await by.one_task(), c.CompleteWorkflow())
    await feed.until("WorkflowCompleted")
    assert feed.seqs() == list(range(1, 18))
    assert is_alive(env)


async def test_an_entry_whose_events_are_gone_is_passed_over(env: WorkflowEnvironment, sql: Any) -> None:
    # As when the run was purged: looking for them ended the process, and the next one that tried.
    by = hand(env)
    feed = Feed(by, "w")
    started = await by.start("w")
    insert = "INSERT INTO outbox (run_id, first_seq, last_seq) VALUES ($1, 900, 901)"
    await sql.execute(insert, started.run_id)
    await by.complete(await by.one_task(), c.CompleteWorkflow())
    await feed.until("WorkflowCompleted")
    assert feed.seqs() == [1, 2, 3]
    assert is_alive(env)


async def test_a_page_of_history_is_all_that_is_read_of_it(env: WorkflowEnvironment, database: str) -> None:
    # A thousand events were read for a page of one mebibyte: two gibibytes, if they were large.
    by = hand(env)
    runs = [(await by.start(f"w{n}")).run_id for n in range(4)]
    large = b'["' + b"x" * (MIB // 2) + b'"]'
    for n in range(4):
        for k in range(6):
            await by.ask(
                "signal", m.Signal(request_id=f"{n}/{k}", workflow_id=f"w{n}", name="s", input=large)
            )
    pool = await open_pool(database, size=1, name="review")
    asked = [(run_id, 0, 100) for run_id in runs]
    rows = await views.read_events(pool, asked, limit=1000, run_bytes=MIB, total_bytes=3 * MIB)
    assert [(runs.index(row.run_id), row.seq) for row in rows] == [
        *((0, seq) for seq in (1, 2, 3)),
        *((1, seq) for seq in (1, 2, 3)),
        *((2, seq) for seq in (1, 2, 3)),
    ]
    await pool.close()
    seen: list[int] = []
    while len(seen) < 7:
        asked_page = m.History(workflow_id="w0", after=seen[-1] if seen else 0)
        page: m.HistoryPage = await by.ask("history", asked_page)
        assert len(codec.encode(page)) < 2 * MIB
        seen += [event.seq for event in page.events]
    assert seen == list(range(1, 8))
