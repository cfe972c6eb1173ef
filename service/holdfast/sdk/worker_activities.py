"""Activity tasks: the function is called, cancelled when asked, and what became of it is reported.

A report is repeated until it is taken, refused, or somebody else has the lease. Nothing is ever lost by ending an
attempt without a report: its lease runs out and the service sees to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.activity import ActivityDefinition
from holdfast.common import RawValue
from holdfast.exceptions import (
    CancelledError,
    HoldfastError,
    Invalid,
    Refused,
)
from holdfast.sdk import worker_outcomes as outcomes
from holdfast.sdk.activity_context import (
    ActivityCancellationDetails,
    ActivityContext,
    Flag,
    ThreadCanceller,
    current,
)
from holdfast.sdk.worker_leases import Leases
from holdfast.sdk.worker_progress import Progress
from holdfast.sdk.worker_settings import Crew, WorkerSettings, log
from holdfast.sdk.worker_workflows import WorkflowTasks
from holdfast.wire import messages as m
from holdfast.wire import payloads

WAIT_S = 1.0
"""How long an activity may wait for a slot here; then another worker may have one."""
STUBBORN_S = 5.0
"""How long a cancelled activity may take to end when the worker stops; then it is left behind."""


class Attempt(msgspec.Struct, eq=False):
    """An activity that runs. `runner` is cancelled to stop a coroutine; a thread is stopped by its canceller."""

    task: m.ActivityTask
    definition: ActivityDefinition
    context: ActivityContext
    progress: Progress
    runner: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    is_in_code: bool = False


class ActivityTasks:
    """The activity side of a worker."""

    def __init__(
        self,
        settings: WorkerSettings,
        leases: Leases,
        crew: Crew,
        workflows: WorkflowTasks,
        accept: Callable[[m.Reported], None],
    ) -> None:
        self._settings = settings
        self._leases = leases
        self._crew = crew
        self._workflows = workflows
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._running: dict[tuple[str, int], Attempt] = {}
        self._waiting: deque[m.ActivityTask] = deque()
        self._stopping = Flag()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """How many activities run or wait to run."""
        return len(self._running) + len(self._waiting)

    def take(self, task: m.ActivityTask) -> None:
        """Work on a task whose lease is noted: now, or when a slot is free."""
        older = self._running.get((task.run_id, task.seq))
        if older is not None:
            self._cancel(older, ActivityCancellationDetails(not_found=True))
        self._leases.occupy()
        if len(self._running) >= self._settings.max_activities:
            self._waiting.append(task)
            self._loop.call_later(WAIT_S, self._give_up, task)
        else:
            self._start(task)

    def _give_up(self, task: m.ActivityTask) -> None:
        if task in self._waiting:
            self._waiting.remove(task)
            self._leases.vacate()
            self._crew.spawn(self._settle(outcomes.given_back(self._settings, task)))

    def request_cancel(self, lease: m.Lease) -> None:
        """The service wants this activity to stop."""
        attempt = self._attempt_of(lease)
        if attempt is not None:
            self._cancel(attempt, ActivityCancellationDetails(cancel_requested=True))

    def lose(self, lease: m.Lease) -> None:
        """The lease is no longer ours: stop, and report nothing."""
        attempt = self._attempt_of(lease)
        if attempt is not None:
            self._cancel(attempt, ActivityCancellationDetails(not_found=True))

    async def stop(self, grace_s: float) -> None:
        """Give running activities *grace_s* seconds, then cancel them; what never began is given back."""
        self._stopping.set()
        while self._waiting:
            task = self._waiting.popleft()
            self._leases.vacate()
            self._crew.spawn(self._settle(outcomes.given_back(self._settings, task)))
        await self._until_idle(grace_s)
        for attempt in list(self._running.values()):
            self._cancel(attempt, ActivityCancellationDetails(worker_shutdown=True))
        await self._until_idle(STUBBORN_S)
        for attempt in list(self._running.values()):
            log.warning(
                "activity %s of workflow %s did not stop; it is left behind, its task is given back",
                attempt.task.name,
                attempt.task.workflow_id,
            )
            self._crew.spawn(self._settle(outcomes.given_back(self._settings, attempt.task)))

    async def _until_idle(self, timeout_s: float) -> None:
        if timeout_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()

    # -- one attempt -------------------------------------------------------------------

    def _start(self, task: m.ActivityTask) -> None:
        settings = self._settings
        definition = settings.activities.get(task.name) or settings.activities.get(None)
        if definition is None:
            self._leases.vacate()
            error = outcomes.unknown(settings, task)
            self._crew.spawn(self._settle(outcomes.failed(settings, self._leases, task, error)))
            return
        progress = Progress(settings, task, self._loop, lambda: self._heard_of(attempt))
        canceller = None
        if not definition.is_async and not definition.no_thread_cancel_exception:
            canceller = ThreadCanceller()
        context = ActivityContext(
            task,
            namespace=settings.namespace,
            converter=settings.converter,
            heartbeat=progress.note if definition.is_async else progress.note_from_thread,
            worker_stopping=self._stopping,
            client=settings.client if definition.is_async else None,
            thread_canceller=canceller,
        )
        attempt = Attempt(task, definition, context, progress)
        self._running[task.run_id, task.seq] = attempt
        self._idle.clear()
        if task.start_to_close_s is not None:
            attempt.timer = self._loop.call_later(task.start_to_close_s, self._expire, attempt)
        attempt.runner = self._crew.spawn(self._run(attempt))

    async def _run(self, attempt: Attempt) -> None:
        report: outcomes.ActivityReport | None = None
        result: bytes | None = None
        try:
            result = await self._call(attempt)
        except (asyncio.CancelledError, CancelledError) as error:
            why = attempt.context.cancellation_details
            report = outcomes.cancelled(self._settings, self._leases, attempt.task, error, why)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - user code runs here; should it exit, that ends this attempt only
            if _is_ours(attempt):
                report = outcomes.failed(self._settings, self._leases, attempt.task, error)
        self._end(attempt)
        # Cancellation was for the user's code alone; what follows must not notice it.
        while (this := asyncio.current_task()) is not None and this.cancelling():
            this.uncancel()
        if isinstance(report, m.FailActivity):
            await attempt.progress.flush()
        if result is not None and _is_ours(attempt):
            await self._complete(attempt.task, result)
        elif report is not None:
            await self._report(report)
        else:
            self._leases.drop(attempt.task.run_id, attempt.task.seq, attempt.task.fence)

    async def _call(self, attempt: Attempt) -> bytes:
        task, definition, context = attempt.task, attempt.definition, attempt.context
        converter = self._settings.converter
        current.set(context)
        if context.cancelled.is_set:
            raise CancelledError
        args = self._arguments(task, definition)
        if definition.is_async:
            attempt.is_in_code = True
            try:
                result = await definition.fn(*args)
            finally:
                attempt.is_in_code = False
        else:
            inherited = contextvars.copy_context()
            call = (_call_in_thread, context.thread_canceller, definition.fn, args)
            result = await self._loop.run_in_executor(self._settings.executor, inherited.run, *call)
        return converter.encode_value(result)

    def _arguments(self, task: m.ActivityTask, definition: ActivityDefinition) -> list[Any]:
        converter = self._settings.converter
        if definition.name is None:
            return [[RawValue(payloads.from_text(text)) for text in payloads.split(task.input)]]
        if task.input == payloads.EMPTY:
            return []
        return converter.decode_args(task.input, definition.types[0])

    def _end(self, attempt: Attempt) -> None:
        attempt.progress.close()
        if attempt.timer is not None:
            attempt.timer.cancel()
        key = attempt.task.run_id, attempt.task.seq
        if self._running.get(key) is attempt:
            del self._running[key]
            if not self._running:
                self._idle.set()
        self._leases.vacate()
        while self._waiting and len(self._running) < self._settings.max_activities:
            # Spawned tasks run apart from this attempt's context.
            self._start(self._waiting.popleft())

    # -- reports -----------------------------------------------------------------------

    async def _complete(self, task: m.ActivityTask, result: bytes) -> None:
        settings, leases, crew = self._settings, self._leases, self._crew
        turn = crew.apart().run(self._workflows.turn_for, task, result)
        answer = await self._report(outcomes.completed(settings, leases, task, result, turn))
        if turn is not None:
            taken = answer if isinstance(answer, m.Reported) else None
            crew.apart().run(self._workflows.settle_turn, task.run_id, taken)
            if isinstance(answer, Invalid):
                # It may be the turn that cannot be taken; the activity did what it did all the same.
                answer = await self._report(outcomes.completed(settings, leases, task, result, None))
        if isinstance(answer, Invalid):
            await self._report(outcomes.failed(settings, leases, task, answer))

    async def _settle(self, report: outcomes.ActivityReport) -> None:
        await self._report(report)

    async def _report(self, report: outcomes.ActivityReport) -> m.Reported | HoldfastError:
        """The answer to a report, whose tasks are accepted already; or why it was refused."""
        try:
            answer: m.Reported = await self._settings.rpc.call("report", report, None)
        except HoldfastError as error:
            # A lost lease is the ordinary course of things; anything else is worth knowing.
            level = logging.DEBUG if isinstance(error, Refused) else logging.WARNING
            log.log(
                level, "report of activity %d of run %s was refused: %s", report.seq, report.run_id, error
            )
            self._leases.drop(report.run_id, report.seq, report.fence)
            return error
        self._leases.drop(report.run_id, report.seq, report.fence)
        self._crew.apart().run(self._accept, answer)
        return answer

    # -- cancellation ------------------------------------------------------------------

    def _heard_of(self, attempt: Attempt) -> None:
        """A heartbeat was answered: cancellation, or the end of the lease."""
        lost = attempt.progress.is_lost
        self._cancel(attempt, ActivityCancellationDetails(not_found=lost, cancel_requested=not lost))

    def _expire(self, attempt: Attempt) -> None:
        # The service counts the attempt as timed out by its own clock; here it is only stopped.
        self._cancel(attempt, ActivityCancellationDetails(timed_out=True))

    def _cancel(self, attempt: Attempt, why: ActivityCancellationDetails) -> None:
        context = attempt.context
        if context.cancelled.is_set:
            if why.not_found or why.timed_out:
                # Whatever it was asked before: there is nobody to report to any more.
                context.cancellation_details = why
            return
        context.cancellation_details = why
        context.cancelled.set()
        if context.thread_canceller is not None:
            context.thread_canceller.cancel()
        elif attempt.is_in_code and attempt.runner is not None:
            attempt.runner.cancel()

    def _attempt_of(self, lease: m.Lease) -> Attempt | None:
        attempt = self._running.get((lease.run_id, lease.seq))
        return attempt if attempt is not None and attempt.task.fence == lease.fence else None


def _is_ours(attempt: Attempt) -> bool:
    why = attempt.context.cancellation_details
    return why is None or not (why.not_found or why.timed_out)


def _call_in_thread(canceller: ThreadCanceller | None, fn: Callable[..., Any], args: list[Any]) -> Any:
    if canceller is None:
        return fn(*args)
    with canceller.running():
        return fn(*args)
