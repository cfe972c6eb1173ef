"""The engine's verbs on a run that was archived: all as before, through the pointer, or a clear word why not."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.exceptions import AlreadyExists, HoldfastError, Refused, Unavailable
from holdfast.store.contract import archiving
from holdfast.wire import bundle, codec
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from tests.engine.archiving import Archiving
from tests.engine.parts import start_of

HISTORY = m.History(workflow_id="order-1")


@pytest.fixture
async def run_id(here: Archiving) -> str:
    """A run that was archived, and that this process did not see."""
    run_id = await here.closed()
    assert await here.archiver().step() == 1
    here.forget_outcomes()
    return run_id


@pytest.mark.parametrize("page", [1, 3, 1000])
async def test_everything_is_told_as_before(here: Archiving, page: int) -> None:
    """History by pages of any size, result, description and list: byte for byte."""
    await here.closed()
    await here.closed("order-2")
    before = await here.shown(page=page)

    assert await here.archiver().step() == 2
    here.forget_outcomes()

    assert await here.shown(page=page) == before
    assert len(before[0]) > 6


async def test_pages_of_large_events_end_where_they_did(here: Archiving) -> None:
    """About a MiB a page: the third of these events begins the next one."""
    await here.parts.start()
    for _ in range(4):
        await here.parts.signal(input=b'"' + b"x" * 600_000 + b'"')
    await here.parts.turn(c.CompleteWorkflow(result=b"1"))
    await here.publish()
    before = await pages(here)
    assert len(before) > 2

    assert await here.archiver().step() == 1

    assert await pages(here) == before


async def pages(here: Archiving) -> list[bytes]:
    found: list[bytes] = []
    after = 0
    while True:
        asked = m.History(workflow_id="order-1", after=after)
        page: m.HistoryPage = await here.parts.ask("history", asked)
        if not page.events:
            return found
        found.append(codec.encode(page))
        after += len(page.events)


async def test_the_result_needs_no_archive(here: Archiving, run_id: str) -> None:
    here.read_from(None)

    outcome: m.Outcome = await here.parts.ask("result", m.Result(workflow_id="order-1", wait_s=0))

    assert (outcome.run_id, outcome.status) == (run_id, "COMPLETED")
    assert outcome.event is not None
    assert outcome.event.event == e.WorkflowCompleted(result=b'"done"')


async def test_without_an_archive_the_setting_is_named(here: Archiving, run_id: str) -> None:
    here.read_from(None)

    with pytest.raises(Refused, match="set HOLDFAST_ARCHIVE_URL to the archive"):
        await here.parts.ask("history", HISTORY)


async def test_an_archive_that_cannot_be_reached_is_unavailable_and_comes_back(
    here: Archiving, run_id: str
) -> None:
    """Never "not found": the run is there."""
    here.folder.rename(here.folder.with_name("elsewhere"))

    with pytest.raises(Unavailable, match="mount or make it"):
        await here.parts.ask("history", HISTORY)

    here.folder.with_name("elsewhere").rename(here.folder)
    assert len((await here.parts.ask("history", HISTORY)).events) > 6


async def test_a_bundle_that_is_gone_is_unavailable_too(here: Archiving, run_id: str) -> None:
    here.bundles()[0].unlink()

    with pytest.raises(Unavailable, match="put it back"):
        await here.parts.ask("history", HISTORY)


async def test_an_altered_bundle_is_told_as_such(here: Archiving, run_id: str) -> None:
    (file,) = here.bundles()
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")

    with pytest.raises(Refused, match="what lies there was altered"):
        await here.parts.ask("history", HISTORY)


async def test_another_runs_bundle_is_told_as_such(here: Archiving, run_id: str) -> None:
    (file,) = here.bundles()
    other = await here.closed("order-2")
    data, _ = bundle.pack(
        await archiving.read_for_archive(here.store, here.parts.namespace, "order-2", other)
    )
    file.write_bytes(data)

    with pytest.raises(Refused, match=f"there lies run {other}"):
        await here.parts.ask("history", HISTORY)


async def test_a_pointer_into_another_archive_is_told_as_such(here: Archiving, run_id: str) -> None:
    await here.parts.look("UPDATE record SET archive_uri = 's3://elsewhere/v1/x'")

    with pytest.raises(Refused, match="is not in this archive"):
        await here.parts.ask("history", HISTORY)


async def test_pages_of_one_history_are_read_from_the_archive_once(here: Archiving, run_id: str) -> None:
    """The file is gone after the first page."""
    await here.parts.ask("history", m.History(workflow_id="order-1", limit=1))
    here.bundles()[0].unlink()

    found: m.HistoryPage = await here.parts.ask("history", m.History(workflow_id="order-1", after=1))

    assert len(found.events) == found.last_seq - 1


async def test_many_readers_at_once_each_get_the_whole(here: Archiving, run_id: str) -> None:
    found = await asyncio.gather(*(here.parts.ask("history", HISTORY) for _ in range(20)))

    assert {len(page.events) for page in found} == {found[0].last_seq}


async def test_ids_are_as_taken_as_before(here: Archiving) -> None:
    """A repeated start gets the archived run; the policies see it; a new run of the id is a new one."""
    request = start_of()
    first: m.Started = await here.parts.ask("start", request)
    await here.parts.turn(c.CompleteWorkflow(result=b"1"))
    await here.publish()
    assert await here.archiver().step() == 1

    again: m.Started = await here.parts.ask("start", request)
    assert again.run_id == first.run_id
    for policy in ("reject", "allow_if_failed"):
        with pytest.raises(AlreadyExists):
            await here.parts.ask("start", start_of(id_reuse=policy))
    assert await here.parts.start() != first.run_id
    assert await here.parts.history() == ["WorkflowStarted"]


async def test_a_signal_to_an_archived_run_is_refused_as_before(here: Archiving) -> None:
    await here.closed()
    refusals = []
    for _ in range(2):
        with pytest.raises(HoldfastError) as caught:
            await here.parts.signal()
        refusals.append((type(caught.value), caught.value.message))
        await here.archiver().step()

    assert await here.archived() == ["order-1"]
    assert refusals[0] == refusals[1]


async def test_a_restored_run_is_read_from_postgres_again(here: Archiving, run_id: str) -> None:
    before = await here.shown()
    found = bundle.unpack(here.bundles()[0].read_bytes())

    assert await archiving.restore(here.store, found)

    here.read_from(None)
    here.forget_outcomes()
    assert await here.shown() == before
    assert await here.parts.look("SELECT closing FROM record") == [None]
