"""A handle of one workflow, and how a workflow's end is told to its caller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar

from holdfast.exceptions import (
    CancelledError,
    HoldfastError,
    Invalid,
    TerminatedError,
    TimeoutError,
    TimeoutType,
)
from holdfast.sdk import definitions
from holdfast.sdk.caller import UNSET, Caller, arguments, request_id, rpc_error
from holdfast.sdk.executions import (
    HistoryEvent,
    WorkflowExecutionDescription,
    WorkflowHistory,
    description_of,
    event_of,
)
from holdfast.sdk.sealing import unsealed
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire import visibility as vis

W = TypeVar("W")
R = TypeVar("R")

POLL_S = 5.0


class WorkflowFailureError(Exception):
    """The workflow ended without a result; `cause` says how."""

    def __init__(self, *, cause: BaseException) -> None:
        super().__init__("Workflow execution failed")
        self.__cause__ = cause

    @property
    def cause(self) -> BaseException:
        """An `ApplicationError`, `ActivityError`, `CancelledError`, `TerminatedError` or `TimeoutError`."""
        return self.__cause__ or self


class WorkflowContinuedAsNewError(Exception):
    """The run went on as another one, and the caller did not want to follow."""

    def __init__(self, new_execution_run_id: str) -> None:
        super().__init__("Workflow continued as new")
        self.new_execution_run_id = new_execution_run_id


class WorkflowHandle(Generic[W, R]):
    """A workflow to talk to. With a `run_id` it means that run, without one the newest of the id.

    `result` follows `result_run_id`: the run that `start_workflow` started.
    """

    def __init__(
        self,
        caller: Caller,
        id: str,
        *,
        run_id: str | None = None,
        result_run_id: str | None = None,
        first_execution_run_id: str | None = None,
        result_type: type | None = None,
    ) -> None:
        self._caller = caller
        self._id = id
        self._run_id = run_id
        self._result_run_id = result_run_id
        self._first_execution_run_id = first_execution_run_id
        self._result_type = result_type

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self._id!r} run {self._result_run_id or self._run_id}>"

    @property
    def id(self) -> str:
        """The workflow id."""
        return self._id

    @property
    def run_id(self) -> str | None:
        """The run that calls go to; None for the newest."""
        return self._run_id

    @property
    def result_run_id(self) -> str | None:
        """The run that `result` waits for; None for the newest."""
        return self._result_run_id

    @property
    def first_execution_run_id(self) -> str | None:
        """The first run of the chain; calls that change something use it to be sure."""
        return self._first_execution_run_id

    async def result(self, *, follow_runs: bool = True, rpc_timeout: timedelta | None = None) -> R:
        """The workflow's result, waited for as long as it takes, or *rpc_timeout*.

        Raises `WorkflowFailureError` if it ended in another way. *follow_runs* goes on to the run that continued it.
        """
        del follow_runs  # A run continues as another one only by ContinueAsNew, which closes nothing yet.
        timeout_s = rpc_timeout.total_seconds() if rpc_timeout else None
        try:
            outcome = await self._caller.rpc.poll(
                "result",
                m.Result(workflow_id=self._id, run_id=self._result_run_id, wait_s=POLL_S),
                lambda found: found.event is not None,
                timeout_s,
            )
        except HoldfastError as error:
            raise rpc_error(error) from error
        result: R = await self._outcome(outcome.event.event)
        return result

    async def describe(self, *, rpc_timeout: timedelta | None = None) -> WorkflowExecutionDescription:
        """Everything known about the run but its history."""
        found = await self._caller.call(
            "describe", m.Describe(workflow_id=self._id, run_id=self._run_id), rpc_timeout
        )
        found = await unsealed(self._caller.converter, found)
        return description_of(found, self._caller.namespace, self._caller.converter)

    async def why(self, *, rpc_timeout: timedelta | None = None) -> str:
        """One sentence that says why the workflow does not move on."""
        request = vis.Why(workflow_id=self._id, run_id=self._run_id)
        found: vis.Because = await self._caller.call("why", request, rpc_timeout)
        return found.sentence

    async def signal(
        self,
        signal: str | Callable[..., Any],
        arg: Any = UNSET,
        *more: Any,
        args: Sequence[Any] = (),
        rpc_timeout: timedelta | None = None,
    ) -> None:
        """Send a signal: it is in the workflow's history when this returns. *signal* is a name or a handler method."""
        request = m.Signal(
            request_id=request_id(),
            workflow_id=self._id,
            run_id=self._run_id,
            name=_signal_name(signal),
            input=await self._caller.encode(arguments(arg, more, args)),
            identity=self._caller.identity,
        )
        await self._caller.call("signal", request, rpc_timeout)

    async def cancel(self, *, reason: str = "", rpc_timeout: timedelta | None = None) -> None:
        """Ask the workflow to cancel itself; a second time changes nothing."""
        request = m.Cancel(
            request_id=request_id(),
            workflow_id=self._id,
            run_id=self._run_id,
            reason=reason,
            identity=self._caller.identity,
        )
        await self._caller.call("cancel", request, rpc_timeout)

    async def terminate(
        self, *args: Any, reason: str | None = None, rpc_timeout: timedelta | None = None
    ) -> None:
        """End the workflow at once, without asking it; *args* are kept as details."""
        request = m.Terminate(
            request_id=request_id(),
            workflow_id=self._id,
            run_id=self._run_id,
            reason=reason or "",
            details=await self._caller.encode(args) if args else b"",
            identity=self._caller.identity,
        )
        await self._caller.call("terminate", request, rpc_timeout)

    async def fetch_history(self, *, rpc_timeout: timedelta | None = None) -> WorkflowHistory:
        """The whole history so far."""
        events: list[HistoryEvent] = []
        run_id = ""
        async for page in self._history_pages(1000, rpc_timeout):
            run_id = page.run_id
            events.extend(event_of(event) for event in page.events)
        return WorkflowHistory(self._id, events, run_id)

    async def fetch_history_events(
        self, *, page_size: int | None = None, rpc_timeout: timedelta | None = None
    ) -> AsyncIterator[HistoryEvent]:
        """The events so far, read page by page as they are consumed."""
        async for page in self._history_pages(page_size or 1000, rpc_timeout):
            for event in page.events:
                yield event_of(event)

    async def _history_pages(self, page_size: int, timeout: timedelta | None) -> AsyncIterator[m.HistoryPage]:
        after, run_id = 0, self._run_id or self._result_run_id
        while True:
            request = m.History(workflow_id=self._id, run_id=run_id, after=after, limit=page_size)
            page: m.HistoryPage = await self._caller.call("history", request, timeout)
            yield page
            if not page.events or page.events[-1].seq >= page.last_seq:
                return
            # The same run to the end, whatever starts meanwhile.
            after, run_id = page.events[-1].seq, page.run_id

    async def _outcome(self, event: e.AnyEvent) -> Any:
        converter = self._caller.converter
        if not isinstance(event, e.WorkflowCompleted):
            event = await unsealed(converter, event)
        match event:
            case e.WorkflowCompleted():
                return converter.decode_value(await converter.unseal_value(event.result), self._result_type)
            case e.WorkflowFailed():
                cause = converter.decode_failure(event.failure)
            case e.WorkflowCancelled():
                cause = CancelledError("Workflow cancelled", *converter.decode_args(event.details))
            case e.WorkflowTerminated():
                details = converter.decode_args(event.details)
                cause = TerminatedError(event.reason or "Workflow terminated", *details)
            case e.WorkflowTimedOut():
                cause = TimeoutError(
                    "Workflow timed out", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[]
                )
            case _:
                raise Invalid(
                    f"workflow {self._id!r} closed with {type(event).__name__}, which this version does not know"
                )
        raise WorkflowFailureError(cause=cause)


def _signal_name(signal: str | Callable[..., Any]) -> str:
    if isinstance(signal, str):
        return signal
    found = getattr(signal, definitions.SIGNAL, None)
    if not isinstance(found, definitions.SignalDefinition):
        raise TypeError(
            f"{getattr(signal, '__qualname__', signal)} is no signal handler: decorate it with @workflow.signal"
        )
    if found.name is None:
        raise RuntimeError("Cannot invoke dynamic signal definition")
    return found.name
