"""The one door: everything that must hold of a database, checked; an empty list means that it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import asyncpg

from holdfast.sdk.definitions import WorkflowDefinition
from tests.invariants.checks import LIVENESS, SAFETY
from tests.invariants.fold import differences
from tests.invariants.replaying import departures
from tests.invariants.vocabulary import TABLES, Effect, Op, Snapshot, fill, read

SHOWN_MAX = 5


async def violations(
    url: str,
    *,
    log: Iterable[Op] = (),
    effects: Iterable[Effect] = (),
    definitions: Mapping[str, WorkflowDefinition] | None = None,
    is_calm: bool = True,
) -> list[str]:
    """What does not hold of the database at *url*, one line each, beginning with the invariant's name.

    *log* is what the test's clients saw, *effects* what its activities did (not looked at when empty), *definitions*
    the code to replay histories with. Liveness is looked at when it *is_calm*: nothing is broken, or was lately.
    """
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TABLES)
        # One moment for all, and only temporary tables can be written.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot = await read(connection)
            await fill(connection, snapshot, log, effects)
            return await _all(connection, snapshot, definitions or {}, is_calm)
    finally:
        await connection.close()


async def _all(
    connection: asyncpg.Connection,
    snapshot: Snapshot,
    definitions: Mapping[str, WorkflowDefinition],
    is_calm: bool,
) -> list[str]:
    found = []
    for name, statement in (SAFETY | (LIVENESS if is_calm else {})).items():
        rows = await connection.fetch(statement)
        found += [f"{name}: {dict(row)}" for row in rows[:SHOWN_MAX]]
        if len(rows) > SHOWN_MAX:
            found.append(f"{name}: {len(rows) - SHOWN_MAX} more")
    return [*found, *differences(snapshot), *departures(snapshot, definitions)]
