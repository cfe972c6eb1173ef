"""Runs that the engine closes are counted when they close, each once, so that statistics never read them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from holdfast.store import Store, tally
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.engine.parts import Parts


@pytest.fixture
async def store(parts: Parts) -> AsyncIterator[Store]:
    async with await Store.connect(parts.engine.pool.url) as opened:
        yield opened


async def test_a_run_is_counted_under_how_it_ended(parts: Parts, store: Store) -> None:
    await parts.start("done")
    await parts.turn(c.CompleteWorkflow(result=b"1"))
    await parts.start("stopped")
    stop = m.Terminate(request_id="t1", workflow_id="stopped")
    await parts.ask("terminate", stop)
    await parts.ask("terminate", stop)
    await parts.start("open")

    stats = await store.get_namespace_stats(parts.namespace)

    assert (stats.total_workflows, stats.completed, stats.terminated) == (3, 1, 1)
    assert stats.pending + stats.running == 1


async def test_a_run_that_another_start_replaces_is_counted_too(parts: Parts, store: Store) -> None:
    await parts.start("order")
    await parts.start("order", request_id="again", id_conflict="terminate_existing")

    stats = await store.get_namespace_stats(parts.namespace)

    assert (stats.total_workflows, stats.terminated) == (2, 1)


async def test_adding_up_changes_no_figure(parts: Parts, store: Store) -> None:
    for name in ("a", "b", "c"):
        await parts.start(name)
        await parts.ask("terminate", m.Terminate(request_id=f"stop {name}", workflow_id=name))
    before = await store.get_namespace_stats(parts.namespace)

    await tally.add_up(parts.engine.pool)

    assert await store.get_namespace_stats(parts.namespace) == before
    assert before.terminated == 3
    assert await parts.look.one("SELECT count(*) FROM tally WHERE namespace = $1", parts.namespace) == 1
