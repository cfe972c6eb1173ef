"""What a worker reports of an activity: made of how the attempt ended. Sends nothing."""

from __future__ import annotations

import logging
from typing import Any

from holdfast.exceptions import ApplicationError, ApplicationErrorCategory, CancelledError
from holdfast.sdk.activity_context import ActivityCancellationDetails
from holdfast.sdk.worker_leases import Leases
from holdfast.sdk.worker_settings import WorkerSettings, log
from holdfast.wire import messages as m

ActivityReport = m.CompleteActivity | m.FailActivity | m.CancelActivity | m.ReleaseTask


def completed(
    settings: WorkerSettings, leases: Leases, task: m.ActivityTask, result: bytes, turn: m.Turn | None
) -> m.CompleteActivity:
    """The activity returned, and with *turn* what its run makes of that."""
    return m.CompleteActivity(**_about(settings, leases, task), result=result, turn=turn)


def failed(
    settings: WorkerSettings, leases: Leases, task: m.ActivityTask, error: BaseException
) -> m.FailActivity:
    """The activity raised *error*. Logged here, once, with its stack."""
    is_benign = isinstance(error, ApplicationError) and error.category == ApplicationErrorCategory.BENIGN
    log.log(
        logging.DEBUG if is_benign else logging.WARNING,
        "activity %s of workflow %s failed in attempt %d",
        task.name,
        task.workflow_id,
        task.attempt,
        exc_info=error,
    )
    return m.FailActivity(**_about(settings, leases, task), failure=settings.converter.encode_failure(error))


def cancelled(
    settings: WorkerSettings,
    leases: Leases,
    task: m.ActivityTask,
    error: BaseException,
    why: ActivityCancellationDetails | None,
) -> ActivityReport | None:
    """The activity stopped with a cancellation, for the reason *why*; None if nobody is there to hear of it."""
    if why is None:
        return failed(settings, leases, task, error)
    if why.not_found or why.timed_out:
        return None
    if why.worker_shutdown:
        return given_back(settings, task)
    details = b""
    if isinstance(error, CancelledError) and error.details:
        details = settings.converter.encode_failure(error).details
    return m.CancelActivity(**_about(settings, leases, task), details=details)


def given_back(settings: WorkerSettings, task: m.ActivityTask) -> m.ReleaseTask:
    """Somebody else should do it."""
    return m.ReleaseTask(run_id=task.run_id, worker=settings.worker, fence=task.fence, seq=task.seq)


def unknown(settings: WorkerSettings, task: m.ActivityTask) -> ApplicationError:
    """What is wrong with a task for an activity that this worker has not."""
    known = ", ".join(sorted(name for name in settings.activities if name)) or "none"
    return ApplicationError(
        f"Activity function {task.name} for workflow {task.workflow_id} is not registered on this worker, "
        f"available activities: {known}",
        type="NotFoundError",
    )


def _about(settings: WorkerSettings, leases: Leases, task: m.ActivityTask) -> dict[str, Any]:
    return {
        "run_id": task.run_id,
        "worker": settings.worker,
        "task_queue": settings.task_queue,
        "workflow_slots": leases.workflow_slots,
        "activity_slots": leases.activity_slots,
        "seq": task.seq,
        "fence": task.fence,
    }
