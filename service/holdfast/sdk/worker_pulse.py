"""The heartbeat of a worker: it lives, it has so many free slots, and these leases are to go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.exceptions import HoldfastError
from holdfast.sdk.worker_leases import Leases
from holdfast.sdk.worker_settings import SDK, WorkerSettings, log
from holdfast.wire import messages as m

FIRST_S = 0.5
"""Soon, so that whoever looks finds the worker; not at once, since many end before anybody does."""
RETRY_S = 1.0
ANSWER_S = 2.0
"""How long an answer is waited for: an unheard heartbeat must be repeated before the leases run out."""


async def beat(
    settings: WorkerSettings,
    leases: Leases,
    lose: Callable[[m.Lease], None],
    cancel: Callable[[m.Lease], None],
) -> None:
    """Tell the service for ever; *lose* and *cancel* hear of activities that are lost or should stop."""
    loop = asyncio.get_running_loop()
    next_s = FIRST_S
    while True:
        await asyncio.sleep(next_s)
        due = leases.due(loop.time())
        try:
            async with asyncio.timeout(ANSWER_S):
                answer: m.WorkerAnswer = await settings.rpc.once(
                    "heartbeat", heartbeat(settings, leases, due, is_stopping=leases.is_closed)
                )
        except (HoldfastError, TimeoutError) as error:
            log.debug("the worker's heartbeat could not be delivered: %s", str(error) or "no answer")
            next_s = RETRY_S
            continue
        next_s = answer.next_s
        lost = set(answer.lost)
        leases.renew((lease for lease in due if lease not in lost), loop.time())
        for lease in answer.lost:
            lose(lease)
        for lease in answer.cancelled:
            cancel(lease)


def heartbeat(
    settings: WorkerSettings, leases: Leases, due: list[m.Lease], *, is_stopping: bool = False
) -> m.WorkerHeartbeat:
    """What a worker says of itself."""
    max_workflow_tasks, max_activities = settings.slots
    return m.WorkerHeartbeat(
        worker=settings.worker,
        task_queue=settings.task_queue,
        workflow_slots=leases.workflow_slots,
        activity_slots=leases.activity_slots,
        leases=due,
        build_id=settings.build_id,
        sdk=SDK,
        is_stopping=is_stopping,
        identity=settings.identity,
        workflows=_types(settings.workflows),
        activities=_types(settings.activities),
        max_workflow_tasks=max_workflow_tasks,
        max_activities=max_activities,
    )


def _types(known: Mapping[str | None, Any]) -> list[str] | None:
    """The names, or None if one definition takes every name."""
    return None if None in known else sorted(name for name in known if name is not None)
