"""Write what changed in the search attributes and memos of runs: the same columns that the store contract writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast.core import state as s
from holdfast.store.session import Session, Statement

# Keys that go are named beside what is set: null is a value that a memo may hold, deep inside.
KEEP = Statement(
    """
    INSERT INTO record AS c (
        run_id, namespace, workflow_id, task_queue, created_at, updated_at, search_attributes, search, memo
    )
    SELECT
        n.run_id,
        r.namespace,
        r.workflow_id,
        r.task_queue,
        extract(epoch FROM r.created_at)::float8,
        extract(epoch FROM clock_timestamp())::float8,
        n.search,
        n.search::jsonb,
        n.memo
    FROM unnest($1::uuid[], $2::text[], $4::text[]) AS n (run_id, search, memo)
    CROSS JOIN LATERAL (
        SELECT run.namespace, run.workflow_id, run.task_queue, run.created_at
        FROM run
        WHERE run.run_id = n.run_id
        OFFSET 0
    ) AS r
    ON CONFLICT (run_id) DO UPDATE
    SET
        updated_at = excluded.updated_at,
        search_attributes = CASE
            WHEN excluded.search IS NULL THEN c.search_attributes
            ELSE ((coalesce(c.search, '{}') || excluded.search) - ARRAY(
                SELECT gone.key
                FROM unnest($1::uuid[], $3::text[]) AS g (run_id, gone)
                CROSS JOIN LATERAL jsonb_array_elements_text(g.gone::jsonb) AS gone (key)
                WHERE g.run_id = c.run_id
            ))::text
        END,
        search = CASE
            WHEN excluded.search IS NULL THEN c.search
            ELSE (coalesce(c.search, '{}') || excluded.search) - ARRAY(
                SELECT gone.key
                FROM unnest($1::uuid[], $3::text[]) AS g (run_id, gone)
                CROSS JOIN LATERAL jsonb_array_elements_text(g.gone::jsonb) AS gone (key)
                WHERE g.run_id = c.run_id
            )
        END,
        memo = CASE
            WHEN excluded.memo IS NULL THEN c.memo
            ELSE ((coalesce(c.memo, '{}')::jsonb || excluded.memo::jsonb) - ARRAY(
                SELECT gone.key
                FROM unnest($1::uuid[], $5::text[]) AS g (run_id, gone)
                CROSS JOIN LATERAL jsonb_array_elements_text(g.gone::jsonb) AS gone (key)
                WHERE g.run_id = c.run_id
            ))::text
        END
    """
)

OPEN_LIMITS = Statement(
    """
    INSERT INTO timer (run_id, seq, fire_at, state)
    SELECT n.run_id, n.seq, to_timestamp(n.fire_at), n.state
    FROM unnest($1::timer_row[]) AS n
    """
)


def has_extras(state: s.RunState) -> bool:
    """Whether something is to be written of the run that most runs do not have."""
    return bool(state.search_patch or state.memo_patch or (state.is_new and state.opened_timers))


async def write_extras(session: Session, states: Sequence[s.RunState]) -> None:
    """Write the search attributes, memos and time limits of these runs, whose rows are written already."""
    limits = [
        (timer.run_id, timer.seq, timer.fire_at, timer.state if state.run.is_open else s.TIMER_CANCELLED)
        for state in states
        if state.is_new
        for timer in state.timers.values()
    ]
    if limits:
        await session.run(OPEN_LIMITS, limits)
    kept = [state for state in states if state.search_patch or state.memo_patch]
    if kept:
        search, memo = [_split(st.search_patch) for st in kept], [_split(st.memo_patch) for st in kept]
        ids = [state.run.run_id for state in kept]
        await session.run(
            KEEP,
            ids,
            [a for a, _ in search],
            [b for _, b in search],
            [a for a, _ in memo],
            [b for _, b in memo],
        )


def _split(patch: dict[str, Any]) -> tuple[str | None, str]:
    """What is set, None for nothing at all, and the keys that go, as JSON text."""
    kept = {name: value for name, value in patch.items() if value is not None}
    gone = [name for name, value in patch.items() if value is None]
    return msgspec.json.encode(kept).decode() if patch else None, msgspec.json.encode(gone).decode()
