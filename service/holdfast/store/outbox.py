"""The change feed's outbox: who relays it, what is owed, what was delivered.

The relay reads whatever is visible in id order and deletes what was acknowledged. It never
asks for "ids greater than the last one": a row may become visible after a higher one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.store.session import Pool, Query, Session, Statement


class Owed(msgspec.Struct, kw_only=True):
    """Events `first_seq` to `last_seq` of a run, not yet published."""

    id: int
    run_id: str
    first_seq: int
    last_seq: int
    namespace: str
    feed: str
    workflow_id: str
    workflow_type: str
    age_s: float


class Leadership(msgspec.Struct, kw_only=True):
    """The holder of a role after an attempt to take it."""

    holder: str
    epoch: int


TAKE_ROLE = Query(
    """
    INSERT INTO leader AS l (role, holder, epoch, until)
    VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
    ON CONFLICT (role) DO UPDATE
    SET
        holder = excluded.holder,
        until = excluded.until,
        epoch = CASE WHEN l.holder = excluded.holder THEN l.epoch ELSE l.epoch + 1 END
    WHERE l.holder = excluded.holder OR l.until < clock_timestamp()
    RETURNING l.holder, l.epoch
    """,
    Leadership,
)

READ_OWED = Query(
    """
    WITH owed AS (
        SELECT o.id, o.run_id, o.first_seq, o.last_seq, o.created_at
        FROM outbox AS o
        ORDER BY o.id
        LIMIT $1
    )
    SELECT
        o.id,
        o.run_id::text AS run_id,
        o.first_seq,
        o.last_seq,
        r.namespace,
        coalesce(n.feed, 'off') AS feed,
        r.workflow_id,
        r.workflow_type,
        extract(epoch FROM clock_timestamp() - o.created_at)::float8 AS age_s
    FROM owed AS o
    JOIN run AS r ON r.run_id = o.run_id
    LEFT JOIN namespace AS n ON n.name = r.namespace
    ORDER BY o.id
    """,
    Owed,
)

# Deleting takes the epoch along, so that a relay that was deposed while it published changes nothing.
DELETE_OWED = Statement(
    """
    DELETE FROM outbox AS o
    USING leader AS l
    WHERE o.id = ANY($1::bigint[]) AND l.role = $2 AND l.holder = $3 AND l.epoch = $4
    """
)


async def take_role(pool: Pool, role: str, holder: str, ttl_s: float) -> int | None:
    """The epoch in which *holder* has *role* for the next *ttl_s* seconds, or None while another has it."""
    rows = await pool.rows(TAKE_ROLE, role, holder, ttl_s)
    return rows[0].epoch if rows else None


async def read_owed(session: Pool | Session, limit: int) -> list[Owed]:
    """What is owed, oldest first."""
    return await session.rows(READ_OWED, limit)


async def delete_owed(pool: Pool, ids: Sequence[int], role: str, holder: str, epoch: int) -> int:
    """Forget what was delivered; 0 if another relay has taken over."""
    async with pool.session() as session:
        return await session.run(DELETE_OWED, list(ids), role, holder, epoch)
