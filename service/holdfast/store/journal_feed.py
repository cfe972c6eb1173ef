"""What the journal owes to the bus: changes that are not history, in commit order per record."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.store.session import Pool, Query, Statement


class OwedEntry(msgspec.Struct, kw_only=True):
    """An encoded `JournalEntry`, not yet published."""

    id: int
    namespace: str
    record: str
    entry: bytes
    feed: str
    at: float


READ_JOURNAL = Query(
    """
    SELECT
        j.id,
        j.namespace,
        j.record,
        j.entry,
        coalesce(n.feed, 'full') AS feed,
        extract(epoch FROM j.created_at)::float8 AS at
    FROM (
        SELECT o.id, o.namespace, o.record, o.entry, o.created_at
        FROM journal AS o
        ORDER BY o.id
        LIMIT $1
    ) AS j
    LEFT JOIN namespace AS n ON n.name = j.namespace
    ORDER BY j.id
    """,
    OwedEntry,
)

# As with the outbox: a relay that was deposed while it published changes nothing.
DELETE_JOURNAL = Statement(
    """
    DELETE FROM journal AS j
    USING leader AS l
    WHERE j.id = ANY($1::bigint[]) AND l.role = $2 AND l.holder = $3 AND l.epoch = $4
    """
)


async def read_journal(pool: Pool, limit: int) -> list[OwedEntry]:
    """What is owed, oldest first."""
    return await pool.rows(READ_JOURNAL, limit)


async def delete_journal(pool: Pool, ids: Sequence[int], role: str, holder: str, epoch: int) -> int:
    """Forget what was delivered; 0 if another relay has taken over."""
    async with pool.session() as session:
        return await session.run(DELETE_JOURNAL, list(ids), role, holder, epoch)
