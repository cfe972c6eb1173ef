"""What a consumer of the feed sees is what was committed, in order, whatever happens to the broker and to the relay."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.dev.binaries import find_nats
from holdfast.dev.folder import free_port
from holdfast.dev.nats import prepare, url_of
from holdfast.wire import codec, subjects
from holdfast.wire.records import JournalEntry
from tests.e2e.feed import Consumer, Told
from tests.e2e.load import Load
from tests.e2e.programs import TASK_QUEUE
from tests.e2e.system import Part, System, client_of, system
from tests.e2e.writers import RECORDS, Done, writing
from tests.store.rows import Sql

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("whole-system")]

WRITERS = 6
DRIVEN_PAUSE_S = 0.1
MORE = 100
PASSWORD = "copy"

# The relay forgets what it delivered. A copy by the writer's own transaction says what was committed.
KEEP = """
CREATE TABLE e2e.told (id bigint PRIMARY KEY, at float8, namespace text, record text, entry bytea);
CREATE FUNCTION e2e.keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO e2e.told
    VALUES (NEW.id, extract(epoch FROM NEW.created_at)::float8, NEW.namespace, NEW.record, NEW.entry);
    RETURN NULL;
END $$;
CREATE TRIGGER keep AFTER INSERT ON holdfast.journal FOR EACH ROW EXECUTE FUNCTION e2e.keep();
"""
# They take what nobody else holds, and do not lock the run: among its other changes they stand where real time has them.
CLAIMS = frozenset({"WorkflowTaskLeased", "ActivityClaimed", "TimerFired"})


@dataclass(frozen=True)
class Committed:
    """A journal entry as its transaction wrote it."""

    id: int
    message_id: str
    namespace: str
    entry: JournalEntry


async def test_what_a_consumer_sees_is_what_was_committed(tmp_path: Path) -> None:
    """Always with a page on its way: the relay dies, the broker dies and keeps its store, the broker dies and loses it."""
    async with system(tmp_path, engines=2) as whole, client_of(whole) as client:
        async with Sql.connected(whole.stack.postgres_url) as sql:
            await sql.connection.execute(KEEP)
        await whole.add_worker("--queue", TASK_QUEUE).ready()
        consumer, load = Consumer(), Load(client)
        async with writing(whole.stack.postgres_url, WRITERS) as writers, driven(load) as runs:
            async with following(consumer, whole):
                await told_more(whole)
                await freeze_the_broker(whole)
                await kill_the_relay(whole)
                thaw_the_broker(whole)
                await caught_up(whole)
                await freeze_the_broker(whole)
                await whole.stack.nats.kill()
                await told_more(whole)
                await whole.stack.nats.start()
                await caught_up(whole)
            await freeze_the_broker(whole)
            await whole.stack.nats.kill()
            killed_at = await whole.now()
            shutil.copytree(whole.stack.nats.store, tmp_path / "copy" / "store")
            whole.stack.nats.wipe()
            await told_more(whole)
            await whole.stack.nats.start()
            await told_more(whole)
        results = await asyncio.gather(*(load.result(f"driven {number}") for number in runs))
        assert results == [8 * number for number in runs]
        await caught_up(whole)

        # What the lost store had; somebody who was quick has read it.
        await read_copy(consumer, tmp_path / "copy")
        before = len(consumer.told)
        await consumer.read(whole.stack.nats_url)

        committed = await journal(whole)
        print(f"{len(committed)} entries, {len(consumer.told)} messages, {consumer.doubles} doubles dropped")
        the_journal_is_whole(consumer.told, committed)
        in_the_order_of_the_commits(consumer.told, committed)
        in_the_order_of_real_time(consumer.told, [done for writer in writers for done in writer.ledger])
        await the_events_are_the_histories(whole, consumer.told)
        await what_came_later_is_in_the_new_store(whole, consumer.told[before:], killed_at)
        assert whole.ended == []


# -- what happens ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def following(consumer: Consumer, whole: System) -> AsyncIterator[None]:
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.follow(whole.stack.nats_url, is_over))
        try:
            yield
        finally:
            is_over.set()


@contextlib.asynccontextmanager
async def driven(load: Load) -> AsyncIterator[list[int]]:
    """Workflows that the engine drives are started all the time; the numbers of those that were."""
    started: list[int] = []

    async def one(number: int) -> None:
        assert await load.start("retried", f"driven {number}", number) is not None
        started.append(number)

    async def all_the_time() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            group.create_task(one(number))
            await asyncio.sleep(DRIVEN_PAUSE_S)

    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(all_the_time())
        try:
            yield started
        finally:
            is_over.set()


async def told_more(whole: System) -> None:
    """Return once so many more entries were committed."""
    before = await count(whole, "e2e.told")

    async def is_so() -> bool:
        return await count(whole, "e2e.told") >= before + MORE

    await whole.until(is_so, f"{MORE} more entries are committed")


async def caught_up(whole: System) -> None:
    """Return once everything is published that has been committed by now."""
    (newest,) = await whole.fetch("SELECT max(id) AS id FROM e2e.told")
    now = await whole.now()

    async def is_so() -> bool:
        owed = await whole.fetch("SELECT FROM holdfast.journal WHERE id <= $1 LIMIT 1", newest["id"])
        older = await whole.fetch(
            "SELECT FROM holdfast.outbox WHERE created_at <= to_timestamp($1) LIMIT 1", now
        )
        return not owed and not older

    await whole.until(is_so, "what was committed is published")


async def count(whole: System, table: str) -> int:
    rows = await whole.fetch(f"SELECT count(*)::int AS count FROM {table}")
    return int(rows[0]["count"])


async def freeze_the_broker(whole: System) -> None:
    """Return with a page on its way to it that it does not confirm."""
    assert whole.stack.nats.pid is not None
    os.kill(whole.stack.nats.pid, signal.SIGSTOP)

    async def is_so() -> bool:
        # The relay looks once a second.
        return bool(
            await whole.fetch(
                "SELECT FROM holdfast.journal WHERE created_at < clock_timestamp() - interval '1.5 s' LIMIT 1"
            )
        )

    await whole.until(is_so, "what was committed is not confirmed")


def thaw_the_broker(whole: System) -> None:
    """It goes on with what it was sent."""
    assert whole.stack.nats.pid is not None
    os.kill(whole.stack.nats.pid, signal.SIGCONT)


async def kill_the_relay(whole: System) -> None:
    """The engine that publishes; another one goes on, and it comes back."""
    (leader,) = await whole.fetch("SELECT holder FROM holdfast.leader WHERE role = 'feed'")
    relay = next(part for part in whole.engines if is_named(part, leader["holder"]))
    await relay.kill()
    relay.start()
    await relay.ready()


def is_named(part: Part, holder: str) -> bool:
    return holder.split("-")[-2] == str(part.pids[-1])


async def read_copy(consumer: Consumer, folder: Path) -> None:
    server = prepare(
        folder,
        log=folder / "nats.log",
        port=free_port(),
        password=PASSWORD,
        program=find_nats(),
        is_durable=False,
    )
    await server.start()
    try:
        await consumer.read(url_of(server.port, PASSWORD))
    finally:
        await server.kill()


# -- what must hold --------------------------------------------------------------------------------


async def journal(whole: System) -> dict[str, Committed]:
    """What was committed, by the id of its message."""
    rows = await whole.fetch("SELECT id, at, namespace, record, entry FROM e2e.told ORDER BY id")
    found = [
        Committed(
            row["id"],
            f"journal:{row['id']}:{row['at']}",
            row["namespace"],
            msgspec.structs.replace(codec.decode(row["entry"], JournalEntry), at=row["at"]),
        )
        for row in rows
    ]
    return {entry.message_id: entry for entry in found}


def entries(told: Iterable[Told]) -> list[tuple[str, str, JournalEntry]]:
    return [(one.id, one.subject, one.entry) for one in told if one.entry is not None]


def the_journal_is_whole(told: list[Told], committed: dict[str, Committed]) -> None:
    """Every entry, nothing else, as it was written, where it belongs."""
    seen = {id: (subject, entry) for id, subject, entry in entries(told)}
    assert seen == {
        id: (subjects.journal(one.namespace, one.entry.record), one.entry) for id, one in committed.items()
    }
    assert {entry.record for _, entry in seen.values()} == RECORDS


def in_the_order_of_the_commits(told: list[Told], committed: dict[str, Committed]) -> None:
    """Who changes a record, or a run, locks it: a later change has a higher number."""
    by_record: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    by_run: dict[str, list[int]] = defaultdict(list)
    for id, _, entry in entries(told):
        one = committed[id]
        by_record[one.namespace, entry.record, entry.key].append(one.id)
        if "run_id" in entry.fields and entry.fact not in CLAIMS:
            by_run[entry.fields["run_id"]].append(one.id)
    for numbers in [*by_record.values(), *by_run.values()]:
        assert numbers == sorted(numbers)
    assert max(map(len, by_run.values())) > 10, "runs were changed often"


def in_the_order_of_real_time(told: list[Told], ledger: list[Done]) -> None:
    """Of two calls on a workflow, if one was answered before the other began, it is told of first."""
    place_of: dict[tuple[str, str], int] = {}
    for place, (_, _, entry) in enumerate(entries(told)):
        place_of.setdefault((entry.record, entry.key), place)
    by_workflow: dict[tuple[str, str], list[Done]] = defaultdict(list)
    for done in ledger:
        by_workflow[done.place].append(done)
    assert len(by_workflow) > 1
    for calls in by_workflow.values():
        # The place of the latest in the feed of those that had been answered when this one began.
        answered = sorted((done.ended, place_of[done.record, done.key]) for done in calls)
        latest, index = -1, 0
        for done in sorted(calls, key=lambda done: done.began):
            while answered[index][0] < done.began:
                latest = max(latest, answered[index][1])
                index += 1
            assert latest < place_of[done.record, done.key], done


async def histories(whole: System, since: float = 0.0) -> dict[str, list[tuple[int, bytes]]]:
    rows: list[Any] = await whole.fetch(
        """
        SELECT run_id::text AS run_id, seq, body FROM holdfast.event
        WHERE recorded_at > to_timestamp($1) ORDER BY run_id, seq
        """,
        since,
    )
    found: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for row in rows:
        found[row["run_id"]].append((row["seq"], row["body"]))
    return found


def runs_of(told: Iterable[Told]) -> dict[str, list[tuple[int, bytes]]]:
    found: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for one in told:
        if one.run_id:
            found[one.run_id].extend((event.seq, bytes(event.event)) for event in one.events)
    return found


async def the_events_are_the_histories(whole: System, told: list[Told]) -> None:
    """Each run's events as its history has them: all, once, in order, and of no other run."""
    recorded = await histories(whole)
    assert runs_of(told) == recorded
    assert len(recorded) > 10


async def what_came_later_is_in_the_new_store(whole: System, told: list[Told], killed_at: float) -> None:
    """Whoever lost all that the old store had finds the rest of each run in the new one, and the start in Postgres."""
    seen = runs_of(told)
    for run_id, events in (await histories(whole, killed_at)).items():
        assert events == [event for event in seen[run_id] if event[0] >= events[0][0]]
    later = await whole.fetch("SELECT id, at FROM e2e.told WHERE at > $1", killed_at)
    assert {f"journal:{row['id']}:{row['at']}" for row in later} <= {one.id for one in told}
    assert len(later) > MORE
