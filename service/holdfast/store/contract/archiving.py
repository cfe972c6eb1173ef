"""Closed runs whose rows may go: which they are, what they own, that it goes, and that it comes back."""

from __future__ import annotations

import msgspec

from holdfast.core import records as rules
from holdfast.exceptions import NotFound, Refused
from holdfast.store.contract import run_contents, workflow_views
from holdfast.store.contract.addressing import FIND_ADDRESSED, Addressed, lock, lock_known
from holdfast.store.contract.door import (
    check_address,
    check_given,
    check_moment,
    check_number,
    check_unicode,
    moment,
)
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Query, Statement
from holdfast.wire.bundle import Bundle
from holdfast.wire.records import WorkflowRecord

LIMIT_MAX = 1000


class Purgeable(msgspec.Struct, kw_only=True):
    """Whether a run was archived before."""

    is_archived: bool


# A run's elders are its parent, the parent's parent and so on; of several runs of the parent's id, the one that was the
# newest when the child was made. Elders that were archived count no more. A run waits for its elders: while one is
# open or closed too late, it is left out, else it comes behind them. `last_at` is when the last of them closed.
# Found are first those that closed after all their elders, along the index; then those for which these made room.
# The index is by namespace, so that the runs of one are found without reading the others'; it tells all of them, too.
LIST_ARCHIVABLE = Query(
    """
    WITH RECURSIVE owner AS (
        SELECT coalesce($3::text, (
            SELECT r.namespace
            FROM run AS r
            WHERE r.closed_at IS NOT NULL AND r.archived_at IS NULL
            ORDER BY r.namespace
            LIMIT 1
        )) AS namespace
        UNION ALL
        SELECT n.namespace
        FROM owner AS o
        CROSS JOIN LATERAL (
            SELECT r.namespace
            FROM run AS r
            WHERE r.closed_at IS NOT NULL AND r.archived_at IS NULL AND r.namespace > o.namespace
            ORDER BY r.namespace
            LIMIT 1
        ) AS n
        WHERE $3 IS NULL
    ), head AS MATERIALIZED (
        SELECT h.run_id, h.namespace, h.workflow_id, h.closed_at, h.depth
        FROM owner
        CROSS JOIN LATERAL (
            SELECT r.run_id, r.namespace, r.workflow_id, r.closed_at, elders.count AS depth
            FROM run AS r
            LEFT JOIN LATERAL (
                SELECT record.parent_id
                FROM record
                WHERE record.run_id = r.run_id
                OFFSET 0
            ) AS c ON true
            CROSS JOIN LATERAL (
                WITH RECURSIVE elder AS (
                    SELECT p.run_id, p.closed_at, p.archived_at
                    FROM run AS p
                    WHERE p.run_id = coalesce(
                        (
                            SELECT o.run_id
                            FROM run AS o
                            WHERE o.namespace = r.namespace AND o.workflow_id = c.parent_id AND o.created_at <= r.created_at
                            ORDER BY o.run_id DESC
                            LIMIT 1
                        ),
                        (
                            SELECT o.run_id
                            FROM run AS o
                            WHERE o.namespace = r.namespace AND o.workflow_id = c.parent_id
                            ORDER BY o.run_id DESC
                            LIMIT 1
                        )
                    )
                    UNION
                    SELECT p.run_id, p.closed_at, p.archived_at
                    FROM elder AS e
                    CROSS JOIN LATERAL (
                        SELECT run.created_at
                        FROM run
                        WHERE run.run_id = e.run_id
                        OFFSET 0
                    ) AS younger
                    CROSS JOIN LATERAL (
                        SELECT record.parent_id
                        FROM record
                        WHERE record.run_id = e.run_id
                        OFFSET 0
                    ) AS k
                    CROSS JOIN LATERAL (
                        SELECT run.run_id, run.closed_at, run.archived_at
                        FROM run
                        WHERE run.run_id = coalesce(
                            (
                                SELECT o.run_id
                                FROM run AS o
                                WHERE o.namespace = r.namespace
                                    AND o.workflow_id = k.parent_id
                                    AND o.created_at <= younger.created_at
                                ORDER BY o.run_id DESC
                                LIMIT 1
                            ),
                            (
                                SELECT o.run_id
                                FROM run AS o
                                WHERE o.namespace = r.namespace AND o.workflow_id = k.parent_id
                                ORDER BY o.run_id DESC
                                LIMIT 1
                            )
                        )
                        OFFSET 0
                    ) AS p
                )
                SELECT
                    count(*) AS count,
                    coalesce(bool_or(e.closed_at IS NULL OR e.closed_at > r.closed_at), false) AS is_waited_for
                FROM elder AS e
                WHERE e.archived_at IS NULL AND e.run_id <> r.run_id
            ) AS elders
            WHERE r.namespace = owner.namespace
                AND r.closed_at IS NOT NULL
                AND r.archived_at IS NULL
                AND r.closed_at < $1
                AND NOT elders.is_waited_for
            ORDER BY r.closed_at, elders.count, r.run_id
            LIMIT $2
        ) AS h
        ORDER BY h.closed_at, h.depth, h.run_id
        LIMIT $2
    ), due AS (
        SELECT h.run_id, h.namespace, h.workflow_id, h.run_id AS head_id, h.closed_at AS last_at, h.depth,
            NULL::timestamptz AS archived_at
        FROM head AS h
        UNION ALL
        SELECT r.run_id, r.namespace, r.workflow_id, d.head_id, d.last_at, d.depth + (r.archived_at IS NULL)::int,
            r.archived_at
        FROM due AS d
        CROSS JOIN LATERAL (
            SELECT record.run_id, record.parent_id
            FROM record
            WHERE record.namespace = d.namespace AND record.parent_id IS NOT NULL AND record.parent_id = d.workflow_id
            OFFSET 0
        ) AS c
        CROSS JOIN LATERAL (
            SELECT run.run_id, run.namespace, run.workflow_id, run.created_at, run.closed_at, run.archived_at
            FROM run
            WHERE run.run_id = c.run_id
            OFFSET 0
        ) AS r
        WHERE r.closed_at < d.last_at
            AND r.run_id <> d.head_id
            AND d.run_id = coalesce(
                (
                    SELECT o.run_id
                    FROM run AS o
                    WHERE o.namespace = r.namespace AND o.workflow_id = c.parent_id AND o.created_at <= r.created_at
                    ORDER BY o.run_id DESC
                    LIMIT 1
                ),
                (
                    SELECT o.run_id
                    FROM run AS o
                    WHERE o.namespace = r.namespace AND o.workflow_id = c.parent_id
                    ORDER BY o.run_id DESC
                    LIMIT 1
                )
            )
    )
    SELECT d.run_id::text AS run_id
    FROM due AS d
    WHERE d.archived_at IS NULL
    ORDER BY d.last_at, d.depth, d.run_id
    LIMIT $2
    """,
    workflow_views.RunId,
)


async def list_archivable_workflows(
    store: Opened, cutoff: float, limit: int = 100, *, namespace: str | None = None
) -> list[WorkflowRecord]:
    """Closed runs that completed before *cutoff*, strictly, and were not archived yet: oldest first.

    A child comes behind its parent, also where it completed earlier; it is left out while its parent, or the parent's
    parent and so on, is open or completed too late. Archived and unknown parents do not count. Without *namespace*,
    those of all. Raises `Invalid` for a limit that is not 1-1000.
    """
    check_moment("cutoff", cutoff)
    check_number("limit", limit, 1, LIMIT_MAX)
    check_unicode("namespace", namespace)
    async with store.pool.snapshot() as session:
        found = await session.rows(LIST_ARCHIVABLE, moment(cutoff), limit, namespace)
        return await workflow_views.show(session, [row.run_id for row in found])


IS_ARCHIVED = Query(
    """
    SELECT r.archived_at IS NOT NULL AS is_archived
    FROM run AS r
    WHERE r.run_id = $1::uuid
    """,
    Purgeable,
)

# What the engine's history told of the run stands in its record from now on. The contract's own stays as it is.
KEEP_RECORD = Statement(
    """
    INSERT INTO record AS c (
        run_id, namespace, workflow_id, task_queue, created_at, updated_at, completed_at, input, result, error,
        archived_at, archive_uri, closing
    )
    SELECT $1::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, v.body
    FROM run AS r
    LEFT JOIN LATERAL (
        SELECT event.body
        FROM event
        WHERE r.last_seq > 0 AND event.run_id = $1 AND event.seq = r.last_seq
        OFFSET 0
    ) AS v ON true
    WHERE r.run_id = $1
    ON CONFLICT (run_id) DO UPDATE
    SET
        input = excluded.input,
        result = excluded.result,
        error = excluded.error,
        archived_at = excluded.archived_at,
        archive_uri = excluded.archive_uri,
        closing = excluded.closing,
        event_count = 0
    """
)

PURGE = Statement(
    """
    WITH gone_event AS (
        DELETE FROM event AS v
        WHERE v.run_id = $1::uuid
    ), gone_activity AS (
        DELETE FROM activity AS a
        WHERE a.run_id = $1
    ), gone_timer AS (
        DELETE FROM timer AS t
        WHERE t.run_id = $1
    ), gone_record_event AS (
        DELETE FROM record_event AS v
        WHERE v.run_id = $1
    ), gone_record_activity AS (
        DELETE FROM record_activity AS a
        WHERE a.run_id = $1
    ), gone_record_timer AS (
        DELETE FROM record_timer AS t
        WHERE t.run_id = $1
    ), gone_record_signal AS (
        DELETE FROM record_signal AS s
        WHERE s.run_id = $1
    ), gone_snapshot AS (
        DELETE FROM snapshot AS s
        WHERE s.run_id = $1
    )
    UPDATE run AS r
    SET archived_at = $2
    WHERE r.run_id = $1
    """
)


async def mark_archived_and_purge(
    store: Opened,
    workflow_id: str,
    archive_uri: str,
    archived_at: float,
    *,
    namespace: str = "main",
    run_id: str | None = None,
    as_read: Bundle | None = None,
) -> None:
    """Note where a closed run was archived, and delete its events, activities, timers, signals and snapshots.

    Its record stays as it was, input, result and error included. *as_read* is what `read_for_archive` told: if the run
    owns anything else by now, nothing is deleted and `Refused` raised. Raises `Refused` for an open run, too. Does
    nothing for an unknown run, nor for one that was archived before.
    """
    check_given("archive_uri", archive_uri)
    check_unicode("archive_uri", archive_uri)
    check_moment("archived_at", archived_at)
    async with store.writing() as writing:
        run = await lock(writing, namespace, workflow_id, run_id)
        if run is None:
            return
        _check_closed(run)
        if await _is_archived(writing, run):
            return
        (record,) = await workflow_views.show(writing, [run.run_id])
        if as_read is not None:
            await _check_unchanged(writing, record, as_read)
        await writing.run(
            KEEP_RECORD,
            run.run_id,
            run.namespace,
            run.workflow_id,
            run.task_queue,
            record.created_at,
            record.updated_at,
            record.completed_at,
            record.input,
            record.result,
            record.error,
            archived_at,
            archive_uri,
        )
        await writing.run(PURGE, run.run_id, moment(archived_at))
        writing.tell(
            namespace, "WorkflowArchived", "workflow", workflow_id, run_id=run.run_id, archive_uri=archive_uri
        )


async def _is_archived(writing: Writing, run: Addressed) -> bool:
    (found,) = await writing.rows(IS_ARCHIVED, run.run_id)
    return found.is_archived


def _check_closed(run: Addressed) -> None:
    if not rules.is_terminal(run.status):
        raise Refused(
            f"workflow {run.workflow_id!r} (run {run.run_id}) is {run.status}: only a closed run is archived"
        )


async def _check_unchanged(writing: Writing, record: WorkflowRecord, as_read: Bundle) -> None:
    now = await run_contents.read(writing.session, record)
    if msgspec.structs.replace(now, record=as_read.record) != as_read:
        raise Refused(
            f"workflow {record.id!r} (run {record.run_id}) has changed since it was read for the archive: archive it anew"
        )


async def read_for_archive(store: Opened, namespace: str, workflow_id: str, run_id: str | None) -> Bundle:
    """A closed run with everything it owns, all as of one moment.

    Raises `NotFound` for an unknown run, `Refused` for an open one and for one that was archived before.
    """
    check_address(namespace, workflow_id, run_id)
    async with store.pool.snapshot() as session:
        found = await session.rows(FIND_ADDRESSED, namespace, workflow_id, run_id)
        if not found:
            raise NotFound(f"no workflow {workflow_id!r} (run {run_id}) in namespace {namespace!r}")
        run = found[0]
        _check_closed(run)
        (record,) = await workflow_views.show(session, [run.run_id])
        if (await session.rows(IS_ARCHIVED, run.run_id))[0].is_archived:
            raise Refused(
                f"workflow {workflow_id!r} (run {run.run_id}) was archived already, to {record.archive_uri!r}: "
                "what it owned is there"
            )
        return await run_contents.read(session, record)


async def restore(store: Opened, bundle: Bundle) -> bool:
    """Whether the rows of an archived run were written back, from what `read_for_archive` told.

    The run is as it was before then, but for search attributes that it got since. False for one that is not archived.
    Raises `NotFound` when the run itself is unknown, `Refused` when it got rows of its own since it was archived.
    """
    record = bundle.record
    async with store.writing() as writing:
        run = await lock_known(writing, record.namespace, record.id, record.run_id)
        if not await _is_archived(writing, run):
            return False
        if await run_contents.owns_anything(writing.session, run.run_id):
            raise Refused(
                f"workflow {run.workflow_id!r} (run {run.run_id}) got rows since it was archived: restoring would mix them "
                "with the old ones"
            )
        await run_contents.put_back(writing.session, run.run_id, bundle)
        writing.tell(record.namespace, "WorkflowRestored", "workflow", record.id, run_id=run.run_id)
        return True
