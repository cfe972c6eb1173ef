"""Counts of closed runs. Whoever closes runs adds a row for them in its own transaction; now and then they are added up."""

from __future__ import annotations

from holdfast.store.session import Pool, Statement

# What somebody else adds up at the same time is not seen twice: a row belongs to the one that deletes it.
ADD_UP = Statement(
    """
    WITH split AS (
        SELECT n.id
        FROM (SELECT t.id, count(*) OVER (PARTITION BY t.namespace, t.status) AS parts FROM tally AS t) AS n
        WHERE n.parts > 1
    ), gone AS (
        DELETE FROM tally AS t
        USING split AS s
        WHERE t.id = s.id
        RETURNING t.namespace, t.status, t.closed
    )
    INSERT INTO tally (namespace, status, closed)
    SELECT g.namespace, g.status, sum(g.closed)::bigint
    FROM gone AS g
    GROUP BY g.namespace, g.status
    """
)


async def add_up(pool: Pool) -> int:
    """Leave one row per namespace and status behind; how many were written. What is counted stays the same."""
    async with pool.session() as session:
        return await session.run(ADD_UP)
