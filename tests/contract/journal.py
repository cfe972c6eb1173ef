"""What the journal owes to the bus, read back."""

from __future__ import annotations

from holdfast.wire import codec
from holdfast.wire.records import JournalEntry
from tests.store.rows import Sql


async def entries(sql: Sql) -> list[JournalEntry]:
    """Every entry, in order."""
    rows = await sql("SELECT entry FROM journal ORDER BY id")
    return [codec.decode(row, JournalEntry) for row in rows]


async def facts(sql: Sql) -> list[tuple[str, str]]:
    """The fact and the key of every entry, in order."""
    return [(entry.fact, entry.key) for entry in await entries(sql)]
