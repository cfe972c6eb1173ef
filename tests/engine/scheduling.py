"""Schedules for tests of the scheduler, and what became of their slots. Claims nothing."""

from __future__ import annotations

from typing import Any

from holdfast.engine.scheduler import ROLE, Lead, Pass, run_pass
from holdfast.store import Store, outbox
from holdfast.wire.records import WorkflowSchedule
from tests.engine.parts import QUEUE, Parts

EVERY_SECOND = "* * * * * *"
NOON = 1_800_000_000.0
LAST_OPEN = "the last run is still open"


class Scheduling:
    """A namespace's schedules on an engine that a test holds in its hands."""

    def __init__(self, parts: Parts, store: Store) -> None:
        self.parts = parts
        self.store = store
        self.engine = parts.engine
        self.namespace = parts.namespace

    async def schedule(
        self, name: str = "tick", *, extra: dict[str, Any] | None = None, **fields: Any
    ) -> None:
        """A schedule of every second, unless *fields* say otherwise; *extra* is what the contract's record lacks."""
        given: dict[str, Any] = {
            "workflow_type": "order",
            "task_queue": QUEUE,
            "cron_expr": EVERY_SECOND,
            "created_at": 0.0,
        }
        record = WorkflowSchedule(name=name, namespace=self.namespace, **{**given, **fields})
        await self.store.create_schedule(record, **(extra or {}))

    async def look_from(self, considered_at: float, name: str = "tick") -> None:
        """Have the scheduler look at the slots after *considered_at*, at once."""
        await self.parts.look(
            "UPDATE schedule SET considered_at = $3, next_run_at = $3 WHERE namespace = $1 AND name = $2",
            self.namespace,
            name,
            considered_at,
        )

    async def step(self, now: float) -> Pass:
        """One pass at *now*, as the leader."""
        lead = await lead_of(self.parts)
        return await run_pass(self.engine, lead, now=now)

    async def until_calm(self, now: float) -> None:
        """Passes at *now* until there is nothing left to do."""
        while (await self.step(now)).handled:
            pass

    async def fires(self, name: str = "tick") -> list[tuple[float, str, str]]:
        """Slot, status and reason of each, in order."""
        return await self.parts.look(
            "SELECT slot, status, reason FROM schedule_fire WHERE namespace = $1 AND schedule = $2 ORDER BY slot",
            self.namespace,
            name,
        )

    async def statuses(self, name: str = "tick") -> list[str]:
        return [status for _, status, _ in await self.fires(name)]

    async def runs(self) -> list[tuple[str, str]]:
        """Workflow id and status of every run of the namespace, in order of their ids."""
        return await self.parts.look(
            "SELECT workflow_id, status FROM run WHERE namespace = $1 ORDER BY workflow_id, run_id",
            self.namespace,
        )

    async def row(self, columns: str, name: str = "tick") -> Any:
        (row,) = await self.parts.look(
            f"SELECT {columns} FROM schedule WHERE namespace = $1 AND name = $2", self.namespace, name
        )
        return row

    async def close(self, status: str = "COMPLETED") -> None:
        """End every open run, as its worker would."""
        await self.parts.look(
            "UPDATE run SET status = $2, closed_at = clock_timestamp() WHERE namespace = $1 AND closed_at IS NULL",
            self.namespace,
            status,
        )
        await self.parts.look("DELETE FROM task WHERE namespace = $1", self.namespace)


async def from_noon(given: Scheduling, name: str = "tick", **fields: Any) -> None:
    """A schedule whose slots were looked at until noon."""
    await given.schedule(name, **fields)
    await given.look_from(NOON, name)


async def lead_of(parts: Parts, holder: str = "") -> Lead:
    """The lead, taken from whoever has it."""
    await parts.look("UPDATE leader SET until = clock_timestamp() - interval '1 s' WHERE role = $1", ROLE)
    name = holder or parts.engine.name
    epoch = await outbox.take_role(parts.engine.pool, ROLE, name, 60.0)
    assert epoch is not None
    return Lead(name, epoch)
