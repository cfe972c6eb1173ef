"""Find the run that a workflow id names, and lock it.

`driven` runs are the engine's: they have a history, and only the engine changes them.
"""

from __future__ import annotations

import msgspec

from holdfast.exceptions import NotFound, Refused
from holdfast.store.contract.door import check_address
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Query


class Addressed(msgspec.Struct, kw_only=True):
    """The run that an id names."""

    run_id: str
    namespace: str
    workflow_id: str
    task_queue: str
    status: str
    is_closed: bool
    is_driven: bool


LOCK_ADDRESSED = Query(
    """
    SELECT
        r.run_id::text AS run_id,
        r.namespace,
        r.workflow_id,
        r.task_queue,
        r.status,
        r.closed_at IS NOT NULL AS is_closed,
        r.last_seq > 0 AS is_driven
    FROM run AS r
    WHERE r.namespace = $1 AND r.workflow_id = $2 AND ($3::uuid IS NULL OR r.run_id = $3)
    ORDER BY r.run_id DESC
    LIMIT 1
    FOR UPDATE
    """,
    Addressed,
)

FIND_ADDRESSED = Query(
    """
    SELECT
        r.run_id::text AS run_id,
        r.namespace,
        r.workflow_id,
        r.task_queue,
        r.status,
        r.closed_at IS NOT NULL AS is_closed,
        r.last_seq > 0 AS is_driven
    FROM run AS r
    WHERE r.namespace = $1 AND r.workflow_id = $2 AND ($3::uuid IS NULL OR r.run_id = $3)
    ORDER BY r.run_id DESC
    LIMIT 1
    """,
    Addressed,
)


async def lock(writing: Writing, namespace: str, workflow_id: str, run_id: str | None) -> Addressed | None:
    """The newest run of the id, or *run_id* if it belongs to it, locked until the transaction ends."""
    check_address(namespace, workflow_id, run_id)
    return await writing.one(LOCK_ADDRESSED, namespace, workflow_id, run_id)


async def find(store: Opened, namespace: str, workflow_id: str, run_id: str | None) -> Addressed | None:
    """As `lock`, without a lock."""
    check_address(namespace, workflow_id, run_id)
    return await store.one(FIND_ADDRESSED, namespace, workflow_id, run_id)


async def lock_known(writing: Writing, namespace: str, workflow_id: str, run_id: str | None) -> Addressed:
    """As `lock`. Raises `NotFound` for an unknown one: nothing can be added to it."""
    found = await lock(writing, namespace, workflow_id, run_id)
    if found is None:
        of_run = f", run {run_id}" if run_id else ""
        raise NotFound(f"no workflow {workflow_id!r}{of_run} in namespace {namespace!r}: create it first")
    return found


def not_driven(run: Addressed, what: str) -> None:
    """Raise `Refused` for a run of the engine's; *what* is what was asked for, as in "set its status"."""
    if run.is_driven:
        raise Refused(
            f"workflow {run.workflow_id!r} (run {run.run_id}) is driven by the engine, which alone may {what}: "
            "use the client (signal, cancel, terminate) instead"
        )
