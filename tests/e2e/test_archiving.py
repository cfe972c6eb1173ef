"""A thousand runs are archived while others run and the service is killed again and again; every history is there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from holdfast import Client
from holdfast.archive.keys import key_of
from holdfast.store import Store
from holdfast.store.contract import archiving, namespaces
from holdfast.wire import bundle, codec
from holdfast.wire import messages as m
from tests.e2e.load import Load
from tests.e2e.programs import TASK_QUEUE
from tests.e2e.system import System, client_of, system

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("whole-system")]

RUNS = 1_000
AT_ONCE = 100
KILLED_AT = (1, 250, 500, 750)


async def test_a_thousand_runs_are_archived_under_load_and_kills_and_none_is_lost(tmp_path: Path) -> None:
    """Each has a timer and an activity. In the end they are restored, and all invariants hold of them."""
    folder = tmp_path / "archive"
    async with (
        system(
            tmp_path,
            engines=1,
            workers=1,
            worker_options=["--queue", TASK_QUEUE],
            HOLDFAST_ARCHIVE_URL=str(folder),
        ) as whole,
        client_of(whole) as client,
        await Store.connect(whole.stack.postgres_url) as store,
    ):
        load = Load(client)
        names = [f"old {number}" for number in range(RUNS)]
        assert await of_each(names, partial(one_run, load)) == [2 * number for number in range(RUNS)]
        originals = await of_each(names, partial(history, client))
        assert await archived(whole) == []

        began = time.monotonic()
        await namespaces.set_retention(store, "main", 0.0)
        newer = asyncio.create_task(new_work(load))
        await kill_while_it_archives(whole, names)
        print(f"archived {RUNS} runs in {time.monotonic() - began:.1f} s, {len(KILLED_AT)} kills")
        newer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await newer

        assert await of_each(names, partial(history, client)) == originals
        await namespaces.set_retention(store, "main", math.inf)
        await whole.until(lambda: is_closed(whole), "the newer runs are closed")
        assert await whole.engines[0].stop() == 0
        assert len(await every_bundle_restored(whole, store, folder)) >= RUNS
        assert {op.outcome for op in load.log} == {"ok"}
        assert await whole.violations(load.log) == []


async def of_each(names: list[str], work: Callable[[str], Awaitable[Any]]) -> list[Any]:
    """What *work* gives for each name, so many at a time."""
    found: list[Any] = []
    for first in range(0, len(names), AT_ONCE):
        found += await asyncio.gather(*map(work, names[first : first + AT_ONCE]))
    return found


async def one_run(load: Load, name: str) -> object:
    number = int(name.rsplit(maxsplit=1)[-1])
    assert await load.start("paused", name, number, 0.05) is not None
    return await load.result(name)


async def history(client: Client, name: str) -> bytes:
    page = await client.caller.rpc.call("history", m.History(workflow_id=name), 30.0)
    assert len(page.events) == page.last_seq
    return codec.encode(page)


async def new_work(load: Load) -> None:
    """A new run every so often, for ever."""
    for number in itertools.count():
        await one_run(load, f"new {number}")


async def kill_while_it_archives(whole: System, names: list[str]) -> None:
    """SIGKILL the engine whenever so many are archived. The time for which its role is kept for it passes at once."""
    engine = whole.engines[0]
    for count in KILLED_AT:
        if count > 1:
            await whole.until(
                lambda count=count: has(whole, names, count), f"{count} runs are archived", 60.0
            )
        await engine.kill()
        await whole.fetch("UPDATE holdfast.leader SET until = now()")
        engine.start()
        await engine.ready()
    await whole.until(lambda: has(whole, names, RUNS), "all runs are archived", 60.0)


async def has(whole: System, names: list[str], count: int) -> bool:
    rows = await whole.fetch(
        "SELECT count(*) AS count FROM holdfast.run WHERE archived_at IS NOT NULL AND workflow_id = ANY($1)",
        names,
    )
    return bool(rows[0]["count"] >= count)


async def archived(whole: System) -> list[str]:
    """Where archived runs lie."""
    rows = await whole.fetch("SELECT archive_uri FROM holdfast.record WHERE archive_uri IS NOT NULL")
    return [row["archive_uri"] for row in rows]


async def is_closed(whole: System) -> bool:
    return not await whole.open_runs()


async def every_bundle_restored(whole: System, store: Store, folder: Path) -> list[str]:
    """The URIs of archived runs, one file each, whole; the runs have their rows again."""
    uris = await archived(whole)
    files = {f"file://{file}": file for file in folder.rglob("*.hfb")}
    assert set(uris) <= set(files)
    # What a killed engine had put, and no other came to purge before the end.
    assert len(files) - len(uris) <= 1
    for uri in uris:
        data = files[uri].read_bytes()
        digest, found = bundle.check(data), bundle.unpack(data)
        assert uri.endswith(key_of("main", found.record.id, found.record.run_id or "", digest))
        assert await archiving.restore(store, found)
    assert await archived(whole) == []
    return uris
