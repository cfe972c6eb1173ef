"""The archiver: what is past its retention goes to the archive and out of Postgres, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math

import pytest

from holdfast.app import running
from holdfast.config import Config
from holdfast.engine.archiver import ROLE, Archiver
from holdfast.exceptions import Invalid, NotFound, Unavailable
from holdfast.store import outbox
from holdfast.store.contract import namespaces
from holdfast.wire import bundle, codec
from holdfast.wire import messages as m
from holdfast.wire.records import JournalEntry, WorkflowEvent
from tests.contract.given import workflow
from tests.engine.archiving import Archiving, Damage, Watched, stop
from tests.engine.parts import Parts


async def contract_run(here: Archiving, id: str, parent_id: str | None = None) -> None:
    """A run of the store contract that closed long ago."""
    record = workflow(id, namespace=here.parts.namespace, parent_id=parent_id)
    await here.store.create_workflow(record)
    await here.store.update_workflow_status(id, "COMPLETED", namespace=here.parts.namespace)


async def calm(here: Archiving, archiver: Archiver) -> int:
    """How many runs it archives until there are none left."""
    total = 0
    while done := await archiver.step():
        total += done
    return total


async def test_a_closed_run_is_archived_whole_and_then_purged(here: Archiving) -> None:
    run_id = await here.closed()

    assert await here.archiver().step() == 1

    (file,) = here.bundles()
    found = bundle.unpack(file.read_bytes())
    assert found.record.id == "order-1"
    assert (found.history[0].type, found.history[-1].type) == ("WorkflowStarted", "WorkflowCompleted")
    assert await here.owned(run_id) == 0
    record = await here.store.get_workflow("order-1", namespace=here.parts.namespace)
    assert record is not None
    assert (record.status, record.result) == ("COMPLETED", '"done"')
    assert record.archive_uri == f"file://{file}"
    metrics = here.parts.engine.metrics
    assert metrics.archived.labels(here.parts.namespace).value == 1


async def test_open_runs_stay(here: Archiving) -> None:
    run_id = await here.parts.start()
    await here.publish()

    assert await here.archiver().step() == 0
    assert await here.owned(run_id) == 1


@pytest.mark.parametrize("place", ["before_put", "after_put", "after_verify"])
async def test_a_process_that_ends_between_two_steps_loses_nothing(here: Archiving, place: str) -> None:
    """The next one does it all again, finds the file there if it was put, and leaves one."""
    run_id = await here.closed()
    before, owned = await here.shown(), await here.owned(run_id)

    with pytest.raises(asyncio.CancelledError):
        await here.archiver(Watched(here.archive, **{place: stop})).step()

    assert await here.owned(run_id) == owned
    assert await here.shown() == before
    assert len(here.bundles()) == (place != "before_put")
    assert await here.archiver().step() == 1
    assert await here.owned(run_id) == 0
    assert await here.shown() == before
    assert len(here.bundles()) == 1


async def test_a_process_that_ends_while_it_purges_loses_nothing(here: Archiving, database: str) -> None:
    """It waits for the run's row, which another transaction holds, when it is cancelled."""
    run_id = await here.closed()
    before, owned = await here.shown(), await here.owned(run_id)

    async with here.parts.look.connection.transaction():
        await here.parts.look("SELECT 1 FROM run WHERE run_id = $1 FOR UPDATE", run_id)
        step = asyncio.create_task(here.archiver().step())
        await here.parts.look.until(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database())"
        )
        step.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await step

    assert await here.owned(run_id) == owned
    assert await here.shown() == before
    assert await here.archiver().step() == 1
    assert await here.shown() == before
    assert len(here.bundles()) == 1


async def test_a_run_that_the_feed_owes_something_of_waits_for_it(here: Archiving) -> None:
    """The relay reads what it publishes from the rows that would go."""
    await here.closed("told")
    run_id = await here.parts.start("untold")
    await here.parts.ask("terminate", m.Terminate(workflow_id="untold", request_id="end"))

    assert await calm(here, here.archiver()) == 1
    assert await here.archived() == ["told"]
    assert await here.owned(run_id) == 2
    await here.publish()
    assert await here.archiver().step() == 1
    assert await here.owned(run_id) == 0


async def test_one_process_archives_at_a_time(here: Archiving) -> None:
    await here.closed()
    first, second = here.archiver(), here.archiver(engine=here.other_engine())
    role = await outbox.take_role(here.parts.engine.pool, ROLE, "engine-2", 60.0)
    assert role is not None
    counts = here.parts.engine.pool.counts
    before = counts.statements

    assert await first.step() == 0
    assert counts.statements - before == 2, "it looks, and asks for the role"
    assert await second.step() == 1


async def test_an_archiver_that_was_overtaken_changes_nothing(here: Archiving) -> None:
    """It is frozen with its bundle in hand; another takes over and archives the run; then it wakes up."""
    run_id = await here.closed()
    before = await here.shown()

    async def overtaken() -> None:
        await here.parts.look("UPDATE leader SET until = now() - interval '1 s'")
        assert await here.archiver(engine=here.other_engine()).step() == 1

    await here.archiver(Watched(here.archive, after_verify=overtaken)).step()

    assert await here.archived() == ["order-1"]
    assert await here.owned(run_id) == 0
    assert await here.shown() == before
    assert len(here.bundles()) == 1


async def test_two_archivers_at_once_archive_each_run_once(here: Archiving) -> None:
    """Neither keeps the role for longer than it takes to store a run."""
    names = [f"order-{number}" for number in range(6)]
    for name in names:
        await here.closed(name)

    one_at_a_time = asyncio.Lock()

    async def deposed() -> None:
        async with one_at_a_time:
            await here.parts.look("UPDATE leader SET until = now() - interval '1 s'")

    racing = Watched(here.archive, after_verify=deposed)
    await asyncio.gather(
        here.archiver(racing).step(), here.archiver(racing, engine=here.other_engine()).step()
    )
    await calm(here, here.archiver())

    assert sorted(await here.archived()) == names
    assert len(here.bundles()) == len(names)


async def test_each_namespace_keeps_its_runs_as_long_as_it_says(here: Archiving) -> None:
    """One for ever, one for a day, one not at all, and one as long as the service says."""
    terms = {"ever": math.inf, "day": 86_400.0, "none": 0.0, "default": None}
    for name, term in terms.items():
        await here.store.create_namespace(f"{here.parts.namespace}-{name}")
        await namespaces.set_retention(here.store, f"{here.parts.namespace}-{name}", term)
        await here.closed(name, Parts(here.parts.engine, f"{here.parts.namespace}-{name}", here.parts.look))

    assert await calm(here, here.archiver(retention_s=3600.0)) == 1
    assert await here.archived() == ["none"]
    await here.parts.look("UPDATE run SET closed_at = closed_at - interval '2 h'")
    assert await calm(here, here.archiver(retention_s=3600.0)) == 1
    assert await here.archived() == ["none", "default"]
    young = await here.closed(
        "young", Parts(here.parts.engine, f"{here.parts.namespace}-day", here.parts.look)
    )
    await here.parts.look("UPDATE run SET closed_at = closed_at - interval '23 h'")
    assert await calm(here, here.archiver(retention_s=3600.0)) == 1
    assert await here.archived() == ["day"], "the others were told before"
    assert await here.owned(young) > 0


async def test_runs_of_a_namespace_that_is_gone_are_archived_too(here: Archiving) -> None:
    run_id = await here.closed()
    await here.store.delete_namespace(here.parts.namespace)

    assert await here.archiver().step() == 1
    assert await here.owned(run_id) == 0


async def test_while_the_archive_is_away_nothing_is_purged(
    here: Archiving, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once, however often it is tried; told again when it is back."""
    run_ids = [await here.closed(f"order-{number}") for number in range(3)]
    before = [await here.owned(run_id) for run_id in run_ids]
    here.folder.rename(here.folder.with_name("elsewhere"))
    archiver = here.archiver()

    with caplog.at_level(logging.INFO, logger="holdfast.archiver"):
        for _ in range(3):
            archiver._look_at = 0.0  # Its pause is over.
            assert await archiver.step() == 0
            assert archiver.idle_s() > 0.5

        assert [await here.owned(run_id) for run_id in run_ids] == before
        assert len(caplog.records) == 1
        assert "mount or make it" in caplog.text
        assert here.parts.engine.metrics.archive_failures.labels("unavailable").value == 9
        assert here.parts.engine.metrics.archive_lag.value > 0

        here.folder.with_name("elsewhere").rename(here.folder)
        archiver._look_at = 0.0
        assert await calm(here, archiver) == 3
    assert [record.message for record in caplog.records][1:] == ["archive: works again after 3 failures"]
    assert here.parts.engine.metrics.archive_lag.value == 0


async def test_what_cannot_be_read_back_is_not_purged_and_holds_nobody_up(
    here: Archiving, caplog: pytest.LogCaptureFixture
) -> None:
    """Its file is damaged as soon as it is written."""
    bad, good = await here.closed("bad"), await here.closed("good")
    owned = await here.owned(bad)

    archiver = here.archiver(Watched(here.archive, after_put=Damage(here, "bad")))
    assert await calm(here, archiver) == 1

    assert await here.archived() == ["good"]
    assert (await here.owned(bad), await here.owned(good)) == (owned, 0)
    assert f"run {bad} stays in Postgres" in caplog.text
    assert here.parts.engine.metrics.archive_failures.labels("invalid").value == 1
    # It lies where the bundle belongs, and is not overwritten.
    assert await calm(here, here.archiver()) == 0
    assert here.parts.engine.metrics.archive_failures.labels("refused").value == 1
    assert await here.owned(bad) == owned


async def test_a_run_that_is_too_large_is_not_even_read(
    here: Archiving, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are archived meanwhile."""
    for name, size in (("huge", 9_000_000), ("large", 7_000_000), ("small", 1)):
        await contract_run(here, name)
        event = WorkflowEvent(
            workflow_id=name, seq=1, event_type="X", payload=f'"{"x" * size}"', timestamp=1.0
        )
        await here.store.append_event(event, namespace=here.parts.namespace)

    assert await calm(here, here.archiver(bytes_max=8_000_000)) == 2

    assert sorted(await here.archived()) == ["large", "small"]
    assert "its rows hold 9000002 bytes, expected at most 8000000" in caplog.text
    assert len(here.bundles()) == 2


async def test_a_run_that_changed_while_it_was_stored_is_archived_anew(here: Archiving) -> None:
    await contract_run(here, "order-1")
    event = WorkflowEvent(workflow_id="order-1", seq=1, event_type="Late", timestamp=1.0)

    async def change() -> None:
        await here.store.append_event(event, namespace=here.parts.namespace)

    assert await here.archiver(Watched(here.archive, after_verify=change)).step() == 0
    assert len(await here.store.list_events("order-1", namespace=here.parts.namespace)) == 1

    assert await here.archiver().step() == 1
    record = await here.store.get_workflow("order-1", namespace=here.parts.namespace)
    assert record is not None
    assert record.archive_uri is not None
    assert [
        event.event_type for event in bundle.unpack(await here.archive.get(record.archive_uri)).events
    ] == ["Late"]


async def test_parents_go_first_and_a_parent_that_stays_keeps_its_children(here: Archiving) -> None:
    """The grandchild closed first, the root last; then the root's file is damaged."""
    for id, parent in (("c", "b"), ("b", "a"), ("a", None), ("other", None)):
        await contract_run(here, id, parent)

    damage = Damage(here, "a")
    assert await calm(here, here.archiver(Watched(here.archive, after_put=damage))) == 1
    assert await here.archived() == ["other"]
    assert damage.file is not None
    damage.file.unlink()
    assert await calm(here, here.archiver()) == 3
    assert await here.archived() == ["other", "a", "b", "c"]


async def test_a_namespaces_term_is_a_length_of_time_and_told_on_the_bus(here: Archiving) -> None:
    name = here.parts.namespace
    for wrong in (-1.0, math.nan):
        with pytest.raises(Invalid, match="expected seconds, 0 or more"):
            await namespaces.set_retention(here.store, name, wrong)
    for unknown in ("nowhere", "no name\x00"):
        with pytest.raises(NotFound, match="create it first"):
            await namespaces.set_retention(here.store, unknown, 1.0)

    await namespaces.set_retention(here.store, name, 60.0)

    (entry,) = await here.parts.look("SELECT entry FROM journal")
    told = codec.decode(entry, JournalEntry)
    assert (told.fact, told.key, told.fields["retention_s"]) == ("NamespaceRetentionSet", name, 60.0)


async def test_an_archive_that_cannot_be_is_told_at_the_start_with_its_setting() -> None:
    for url in ("/proc/nothing/can/be/made/here", "s3://b/%"):
        with pytest.raises(Invalid, match="HOLDFAST_ARCHIVE_URL cannot be used: archive"):
            async with running(Config(archive_url=url)):
                pass


async def test_a_process_that_is_newer_than_the_database_waits_for_its_migration(here: Archiving) -> None:
    """It starts before `holdfast migrate` has run: that is no bug, which would end it."""
    await here.parts.look("ALTER TABLE namespace DROP COLUMN retention_s")

    with pytest.raises(Unavailable, match="run `holdfast migrate`"):
        await here.archiver().step()


async def test_where_nothing_is_due_it_asks_once_and_then_waits(here: Archiving) -> None:
    """The oldest run is due in an hour: one statement now, none before the next look within a minute."""
    await here.closed()
    archiver = here.archiver(retention_s=3600.0)
    counts = here.parts.engine.pool.counts
    before = counts.statements

    for _ in range(100):
        assert await archiver.step() == 0

    assert counts.statements - before == 1
    assert 30 < archiver.idle_s() <= 60
