"""Workflow tasks: runs are kept between them, fed what they lack, and their commands reported.

A cached run is *busy* from the moment commands left it until the service answered them; what arrives meanwhile
waits. Whenever the service did not take what a run asked for, the run is dropped, and replayed from history when
it is next needed: a run in the cache never knows anything but committed history.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from holdfast.exceptions import ApplicationError, HoldfastError, Invalid, LeaseLost
from holdfast.sdk.replay import HistoryGap, NondeterminismError
from holdfast.sdk.runtime import Identity, WorkflowRun, WorkflowTaskFailure
from holdfast.sdk.worker_leases import Leases
from holdfast.sdk.worker_settings import SDK, Crew, WorkerSettings, log
from holdfast.wire import messages as m
from holdfast.wire.commands import AnyCommand
from holdfast.wire.events import ActivityCompleted, HistoryEvent
from holdfast.wire.failures import Failure

HISTORY_PAGE = 1000


class CachedRun(msgspec.Struct):
    """A run between its tasks."""

    run: WorkflowRun
    is_busy: bool = False
    waiting: m.WorkflowTask | None = None


class WorkflowTasks:
    """The workflow side of a worker."""

    def __init__(
        self, settings: WorkerSettings, leases: Leases, crew: Crew, accept: Callable[[m.Reported], None]
    ) -> None:
        self._settings = settings
        self._leases = leases
        self._crew = crew
        self._accept = accept
        self._cache: OrderedDict[str, CachedRun] = OrderedDict()
        # The service's clock minus this process's: predicted turns take the time from here.
        self._clock_offset_s = 0.0
        # What was last said of a failing run, so that its retries are not logged at full length.
        self._told: dict[str, str] = {}

    def __len__(self) -> int:
        """How many runs are in the cache."""
        return len(self._cache)

    def take(self, task: m.WorkflowTask) -> None:
        """Work on a task whose lease is noted."""
        entry = self._cache.get(task.run_id)
        if entry is not None and entry.is_busy:
            entry.waiting = task
            return
        self._clock_offset_s = task.now - time.monotonic()
        self._work(task, entry, task.events)

    def turn_for(self, task: m.ActivityTask, result: bytes) -> m.Turn | None:
        """What a cached run says to the result of its activity, before anybody recorded it.

        None unless the run waits for nothing else here: then the activity is reported alone. With a turn the run is
        busy until `settle_turn`.
        """
        entry = self._cache.get(task.run_id)
        if entry is None or entry.is_busy or entry.run.is_closed:
            return None
        run = entry.run
        # Were others open too, they would often settle in between, and the turn be refused.
        if len(run.activities) != 1 or task.seq not in run.activities:
            return None
        event = ActivityCompleted(
            seq=task.seq, result=result, attempt=task.attempt, worker=self._settings.worker
        )
        try:
            commands = run.predict(event, now=time.monotonic() + self._clock_offset_s)
        except (NondeterminismError, WorkflowTaskFailure):
            # The ordinary task that follows the activity's completion will say it.
            self._evict(task.run_id)
            return None
        if commands is None:
            return None
        entry.is_busy = True
        return m.Turn(
            assumed_seq=run.seen_seq,
            now=run.loop.now,
            commands=commands,
            build_id=self._settings.build_id,
            sdk=SDK,
        )

    def settle_turn(self, run_id: str, answer: m.Reported | None) -> None:
        """The service has answered the report that carried the turn; None if it did not take it."""
        entry = self._cache.get(run_id)
        if entry is None:
            return
        if answer is None or not answer.is_turn_applied:
            self._evict(run_id)
        else:
            self._committed(run_id, entry, answer)
        self._release(run_id, entry)

    def close(self) -> None:
        """Drop every run."""
        for run_id in list(self._cache):
            self._evict(run_id)

    # -- one task ----------------------------------------------------------------------

    def _work(self, task: m.WorkflowTask, entry: CachedRun | None, events: list[HistoryEvent]) -> None:
        try:
            if entry is None:
                entry = self._new_entry(task)
            self._keep(task.run_id, entry)
            commands = entry.run.activate(events, head_seq=task.head_seq, now=task.now)
        except HistoryGap:
            self._evict(task.run_id)
            self._crew.spawn(self._read_and_work(task))
            return
        except WorkflowTaskFailure as error:
            self._fail(task, error.cause, error.failure, error.__cause__ or error)
            return
        except NondeterminismError as error:
            self._fail(task, "nondeterminism", self._settings.converter.encode_failure(error), error)
            return
        except Exception as error:  # noqa: BLE001 - user code runs here
            self._fail(task, "unhandled_failure", self._settings.converter.encode_failure(error), error)
            return
        entry.is_busy = True
        self._crew.spawn(self._complete(task, entry, commands))

    def _new_entry(self, task: m.WorkflowTask) -> CachedRun:
        settings = self._settings
        definition = settings.workflows.get(task.workflow_type) or settings.workflows.get(None)
        if definition is None:
            known = ", ".join(sorted(name for name in settings.workflows if name)) or "none"
            error = ApplicationError(
                f"Workflow class {task.workflow_type} is not registered on this worker, available workflows: {known}",
                type="NotFoundError",
            )
            raise WorkflowTaskFailure("unknown_workflow_type", settings.converter.encode_failure(error))
        identity = Identity(
            run_id=task.run_id,
            workflow_id=task.workflow_id,
            workflow_type=task.workflow_type,
            task_queue=task.task_queue,
            namespace=settings.namespace,
            build_id=settings.build_id,
        )
        return CachedRun(
            WorkflowRun(
                definition,
                identity,
                settings.converter,
                failure_exception_types=settings.failure_exception_types,
            )
        )

    async def _read_and_work(self, task: m.WorkflowTask) -> None:
        events: list[HistoryEvent] = []
        try:
            while not events or events[-1].seq < task.head_seq:
                after = events[-1].seq if events else 0
                request = m.History(
                    workflow_id=task.workflow_id, run_id=task.run_id, after=after, limit=HISTORY_PAGE
                )
                page: m.HistoryPage = await self._settings.rpc.call("history", request, None)
                if not page.events:
                    raise Invalid(
                        f"the history of run {task.run_id} ends at event {after}, before {task.head_seq}"
                    )
                events.extend(page.events)
        except HoldfastError as error:
            # The run is gone, or not ours to read; the lease runs out and somebody else may try.
            log.warning(
                "cannot read the history of workflow %s (run %s): %s", task.workflow_id, task.run_id, error
            )
            self._leases.drop(task.run_id, 0, task.fence)
            return
        if not self._leases.holds(m.Lease(task.run_id, 0, task.fence)):
            # Lost meanwhile; the run may be here again under a newer lease.
            return
        # What came after the task was made belongs to the next one.
        self._work(task, None, [event for event in events if event.seq <= task.head_seq])

    async def _complete(self, task: m.WorkflowTask, entry: CachedRun, commands: list[AnyCommand]) -> None:
        settings, leases = self._settings, self._leases
        report = m.CompleteWorkflowTask(
            run_id=task.run_id,
            worker=settings.worker,
            task_queue=settings.task_queue,
            workflow_slots=leases.workflow_slots + 1,
            activity_slots=leases.activity_slots,
            fence=task.fence,
            seen_seq=entry.run.seen_seq,
            now=entry.run.loop.now,
            commands=commands,
            build_id=settings.build_id,
            sdk=SDK,
        )
        try:
            answer: m.Reported = await settings.rpc.call("report", report, None)
        except HoldfastError as error:
            self._evict(task.run_id)
            if isinstance(error, LeaseLost) or error.details.get("cause") == m.UNHANDLED_EVENTS:
                # Lost, or overtaken by something the code must see first: the service sends it again.
                log.debug("workflow task of %s was not taken: %s", task.workflow_id, error)
                leases.drop(task.run_id, 0, task.fence)
            else:
                self._fail(task, "bad_commands", settings.converter.encode_failure(error), error)
            self._release(task.run_id, entry)
            return
        leases.drop(task.run_id, 0, task.fence)
        self._told.pop(task.run_id, None)
        self._committed(task.run_id, entry, answer)
        self._accept(answer)
        self._release(task.run_id, entry)

    def _fail(self, task: m.WorkflowTask, cause: str, failure: Failure, error: BaseException) -> None:
        self._evict(task.run_id)
        text = f"{cause}: {failure.message}"
        is_new = self._told.get(task.run_id) != text
        if len(self._told) > 10_000:
            self._told.clear()
        self._told[task.run_id] = text
        log.warning(
            "workflow task of %s (%s, run %s) failed in attempt %d, it will be tried again: %s",
            task.workflow_id,
            task.workflow_type,
            task.run_id,
            task.attempt,
            text,
            exc_info=error if is_new and cause != "unknown_workflow_type" else None,
        )
        self._crew.spawn(self._report_failure(task, cause, failure))

    async def _report_failure(self, task: m.WorkflowTask, cause: str, failure: Failure) -> None:
        settings = self._settings
        report = m.FailWorkflowTask(
            run_id=task.run_id,
            worker=settings.worker,
            task_queue=settings.task_queue,
            workflow_slots=self._leases.workflow_slots + 1,
            activity_slots=self._leases.activity_slots,
            fence=task.fence,
            cause=cause,
            failure=failure,
            build_id=settings.build_id,
        )
        try:
            await settings.rpc.call("report", report, None)
        except LeaseLost:
            pass
        except HoldfastError as error:
            log.warning("the failed workflow task of %s could not be reported: %s", task.workflow_id, error)
        self._leases.drop(task.run_id, 0, task.fence)

    # -- the cache ---------------------------------------------------------------------

    def _keep(self, run_id: str, entry: CachedRun) -> None:
        self._cache[run_id] = entry
        self._cache.move_to_end(run_id)
        if len(self._cache) <= self._settings.max_cached_workflows:
            return
        for old_id, old in self._cache.items():
            if not old.is_busy and old_id != run_id:
                self._evict(old_id)
                return

    def _committed(self, run_id: str, entry: CachedRun, answer: m.Reported) -> None:
        if entry.run.is_closed or answer.is_closed or not self._settings.max_cached_workflows:
            self._evict(run_id)
        else:
            entry.run.committed(head_seq=answer.head_seq, marker_seq=answer.marker_seq)

    def _release(self, run_id: str, entry: CachedRun) -> None:
        """The run is no longer busy: work on what waited."""
        entry.is_busy = False
        waiting, entry.waiting = entry.waiting, None
        if waiting is not None and self._leases.holds(m.Lease(waiting.run_id, 0, waiting.fence)):
            self._work(waiting, self._cache.get(run_id), waiting.events)

    def _evict(self, run_id: str) -> None:
        entry = self._cache.pop(run_id, None)
        if entry is not None:
            entry.run.close()
