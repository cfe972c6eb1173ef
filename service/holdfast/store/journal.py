"""Find runs, lock them, and read what their requests speak of. `record` writes what was decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from holdfast.core import state as s
from holdfast.store import owned_rows as own
from holdfast.store import run_rows as runs
from holdfast.store.session import Pool, Session


class Address(msgspec.Struct, frozen=True):
    """How a client names a run: by workflow id, and by run id if it wants an older one than the newest."""

    namespace: str
    workflow_id: str
    run_id: str | None = None
    request_id: str = ""


class Resolved(msgspec.Struct, frozen=True):
    """The newest run of a workflow id, and the run that this request id started, if there are."""

    newest: s.Run | None
    repeat: s.Run | None
    now: float


async def resolve(session: Session, addresses: Sequence[Address]) -> list[Resolved]:
    """What is known under each of *addresses*, in order. Nothing is locked."""
    found = await session.rows(
        runs.RESOLVE,
        [address.namespace for address in addresses],
        [address.workflow_id for address in addresses],
        [address.request_id for address in addresses],
    )
    result: list[Resolved] = [Resolved(None, None, found[0].now)] * len(addresses)
    for row in found:
        seen = result[row.position - 1]
        run = row.run()
        if run is not None:
            is_newest = row.is_newest
            result[row.position - 1] = Resolved(
                run if is_newest else seen.newest, seen.repeat if is_newest else run, row.now
            )
    return result


async def lock(
    session: Session,
    run_ids: Iterable[str],
    named: Iterable[tuple[str, int]],
    named_timers: Iterable[tuple[str, int]],
    requests: Sequence[tuple[str, str]],
) -> tuple[dict[str, s.RunState], float]:
    """The states of these runs, locked until the transaction ends, and the time after the lock.

    *named* are the (run, seq) of activities, *named_timers* of timers, *requests* the
    (namespace, request id) that the batch's requests speak of. Unknown runs are missing from
    the answer. Runs are locked in id order, then their tasks, so that overlapping batches
    cannot deadlock.
    """
    ids = set(run_ids)
    asked = _pairs(sorted({*(pair for pair in named if pair[0] in ids), *((run_id, 0) for run_id in ids)}))
    found = await session.rows(own.LOCK, *asked)
    while any(row.is_stale for row in found):
        # The lock was waited for. Now that it is held, what the runs own can be read as it is.
        found = await session.rows(own.LOCK, *asked)
    now = max(row.now for row in found)
    states: dict[str, s.RunState] = {}
    for row in found:
        run = row.run() if row.run_id not in states else states[row.run_id].run
        if run is None:
            continue
        if run.run_id not in states:
            states[run.run_id] = s.RunState(run=run, first_new_seq=run.last_seq + 1)
        state = states[run.run_id]
        task, activity = row.task(), row.activity()
        if task is not None:
            state.tasks[row.seq] = task
        if activity is not None:
            state.activities[row.seq] = activity
    if not states:
        return states, now
    timers = sorted({pair for pair in named_timers if pair[0] in states})
    if timers:
        for timer in await session.rows(own.READ_TIMERS, *_pairs(timers)):
            states[timer.run_id].timers[timer.seq] = timer
    if requests:
        kept = await session.rows(own.READ_REQUESTS, [n for n, _ in requests], [r for _, r in requests])
        for request in kept:
            for state in states.values():
                if state.run.namespace == request.namespace:
                    state.requests[request.request_id] = request
    return states, now


def _pairs(pairs: Sequence[tuple[str, int]]) -> list[list[Any]]:
    return [[run_id for run_id, _ in pairs], [seq for _, seq in pairs]]


async def forget_requests(pool: Pool, older_than_s: float, limit: int) -> int:
    """Forget up to *limit* request ids that are older than that; how many it were."""
    async with pool.session() as session:
        return await session.run(own.FORGET_REQUESTS, older_than_s, limit)
