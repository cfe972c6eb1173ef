"""Runs that are archived by hand, and an archive that stops or errs where a test says. Claims nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from holdfast.archive import Archive, open_archive
from holdfast.engine.archived import ArchivedHistories
from holdfast.engine.archiver import Archiver
from holdfast.engine.engine import Engine
from holdfast.engine.feed import Relay
from holdfast.metrics import Metrics
from holdfast.store import Store
from holdfast.wire import bundle, codec
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from tests.engine.parts import Parts, schedule

OWNED = ("event", "activity", "timer", "record_event", "record_activity", "record_timer", "record_signal")


class Watched(Archive):
    """The archive in that folder, with something that happens before or after its own steps."""

    def __init__(self, inner: Archive, **then: Callable[[], Awaitable[None]]) -> None:
        super().__init__(inner.root, inner._store, folder=inner._folder)
        self._then = then

    async def put(self, namespace: str, workflow_id: str, run_id: str, data: bytes) -> str:
        await self._at("before_put")
        uri = await super().put(namespace, workflow_id, run_id, data)
        await self._at("after_put")
        return uri

    async def verify(self, uri: str, digest: str) -> None:
        await super().verify(uri, digest)
        await self._at("after_verify")

    async def _at(self, place: str) -> None:
        if place in self._then:
            await self._then[place]()


class Archiving:
    """An engine with an archive in a folder. Nothing is archived but by the test."""

    def __init__(self, parts: Parts, store: Store, folder: Path) -> None:
        self.parts = parts
        self.store = store
        self.folder = folder
        self.archive = open_archive(str(folder))
        self.read_from(self.archive)

    def read_from(self, archive: Archive | None) -> None:
        """Have the engine read histories from there, and forget those that it has read."""
        self.parts.engine.histories = ArchivedHistories(archive)

    def archiver(
        self,
        archive: Archive | None = None,
        *,
        engine: Engine | None = None,
        retention_s: float = 0.0,
        **options: int,
    ) -> Archiver:
        """One as a process has it that just started."""
        engine = engine or self.parts.engine
        return Archiver(
            engine.pool,
            archive or self.archive,
            engine.metrics,
            name=engine.name,
            retention_s=retention_s,
            on_archived=engine.owe_journal,
            **options,
        )

    def other_engine(self) -> Engine:
        """Another process of the service."""
        return Engine(self.parts.engine.pool, self.parts.engine.bus, Metrics(), name="engine-2")

    async def closed(self, workflow_id: str = "order-1", parts: Parts | None = None) -> str:
        """The id of a run that did something of each kind and completed; the feed has told of it."""
        parts = parts or self.parts
        run_id = await parts.start(workflow_id, input=b'["x"]')
        await parts.turn(schedule(1), c.StartTimer(seq=2, delay_s=60.0))
        (task,) = (await parts.claim(activities=1)).activity_tasks
        report = m.CompleteActivity(run_id=run_id, worker="w1", seq=1, fence=task.fence, result=b'"charged"')
        await parts.ask("report", report)
        await parts.signal(workflow_id, input=b"[1]")
        await parts.turn(c.CompleteWorkflow(result=b'"done"'))
        await self.publish()
        return run_id

    async def publish(self) -> None:
        """Have the relay settle all that is owed."""
        await self.parts.engine.bus.ensure_streams()
        relay = Relay(self.parts.engine)
        while await relay.step():
            pass

    async def shown(self, workflow_id: str = "order-1", *, page: int = 1000) -> list[Any]:
        """All that the engine's verbs tell of a workflow, as they would send it."""
        events: list[Any] = []
        while True:
            asked = m.History(workflow_id=workflow_id, after=len(events), limit=page)
            found: m.HistoryPage = await self.parts.ask("history", asked)
            events += codec.decode(codec.encode(found.events), list[e.HistoryEvent])
            if len(events) >= found.last_seq:
                break
        asked_result = m.Result(workflow_id=workflow_id, wait_s=0)
        return [
            events,
            codec.encode(await self.parts.ask("result", asked_result)),
            codec.encode(await self.parts.ask("describe", m.Describe(workflow_id=workflow_id))),
            codec.encode(await self.parts.ask("list", m.List())),
        ]

    def forget_outcomes(self) -> None:
        """As a process that did not see the runs close."""
        self.parts.engine.outcomes = type(self.parts.engine.outcomes)(self.parts.engine.pool)

    async def owned(self, run_id: str) -> int:
        """How many rows the run has beside its own."""
        counts = [
            await self.parts.look.one(f"SELECT count(*) FROM {table} WHERE run_id = $1", run_id)
            for table in OWNED
        ]
        return sum(counts)

    async def archived(self) -> list[str]:
        """The workflow ids of archived runs, in the order in which that was told."""
        entries = await self.parts.look("SELECT entry FROM journal ORDER BY id")
        found = [codec.decode(entry, dict) for entry in entries]
        return [entry["key"] for entry in found if entry["fact"] == "WorkflowArchived"]

    def bundles(self) -> list[Path]:
        """The files of the archive."""
        return sorted(self.folder.rglob("*.hfb"))


class Damage:
    """Cuts the file of one workflow off, as soon as it is there."""

    def __init__(self, here: Archiving, workflow_id: str) -> None:
        self._here = here
        self._workflow_id = workflow_id
        self.file: Path | None = None

    async def __call__(self) -> None:
        for file in self._here.bundles():
            data = file.read_bytes()
            if self.file is None and bundle.unpack(data).record.id == self._workflow_id:
                file.write_bytes(data[:-1])
                self.file = file


async def stop() -> None:
    """The process ends here."""
    raise asyncio.CancelledError
