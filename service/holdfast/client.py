"""The client: start workflows, wait for them, look at them, signal, cancel and terminate them.

Every call is retried until it has a definite answer or its time is up; those that change something
carry a request id, so that a repetition never does a thing twice. Calls that do not succeed raise
`RPCError`, whose status and message say why.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from holdfast.bus import Bus
from holdfast.common import Priority, TypedSearchAttributes, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from holdfast.converter import DataConverter
from holdfast.exceptions import (
    AlreadyExists,
    HoldfastError,
    RPCError,
    RPCStatusCode,
    WorkflowAlreadyStartedError,
)
from holdfast.sdk import definitions
from holdfast.sdk.address import find_servers
from holdfast.sdk.caller import UNSET, Caller, arguments, request_id, rpc_error, seconds_of
from holdfast.sdk.executions import (
    HistoryEvent,
    PendingActivity,
    WorkflowExecution,
    WorkflowExecutionCount,
    WorkflowExecutionCountAggregationGroup,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHistory,
    execution_of,
    status_name,
)
from holdfast.sdk.handle import WorkflowContinuedAsNewError, WorkflowFailureError, WorkflowHandle
from holdfast.sdk.rpc import Rpc
from holdfast.sdk.sealing import unsealed
from holdfast.sdk.search_attributes import encoded as encoded_attributes
from holdfast.wire import messages as m
from holdfast.wire import visibility as vis

__all__ = [
    "Client",
    "HistoryEvent",
    "PendingActivity",
    "RPCError",
    "RPCStatusCode",
    "WorkflowContinuedAsNewError",
    "WorkflowExecution",
    "WorkflowExecutionCount",
    "WorkflowExecutionCountAggregationGroup",
    "WorkflowExecutionDescription",
    "WorkflowExecutionStatus",
    "WorkflowFailureError",
    "WorkflowHandle",
    "WorkflowHistory",
]

W = TypeVar("W")
R = TypeVar("R")

_CONNECT_TIMEOUT_S = 10.0

_REUSE = {
    WorkflowIDReusePolicy.ALLOW_DUPLICATE: "allow",
    WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY: "allow_if_failed",
    WorkflowIDReusePolicy.REJECT_DUPLICATE: "reject",
    # An older way to say terminate_existing.
    WorkflowIDReusePolicy.TERMINATE_IF_RUNNING: "allow",
}
_CONFLICT = {
    WorkflowIDConflictPolicy.UNSPECIFIED: "fail",
    WorkflowIDConflictPolicy.FAIL: "fail",
    WorkflowIDConflictPolicy.USE_EXISTING: "use_existing",
    WorkflowIDConflictPolicy.TERMINATE_EXISTING: "terminate_existing",
}
_WITHOUT_EFFECT = frozenset(
    {
        "api_key",
        "dns_load_balancing_config",
        "grpc_compression",
        "header_codec_behavior",
        "http_connect_proxy_config",
        "keep_alive_config",
        "lazy",
        "payload_limits",
        "retry_config",
        "rpc_metadata",
        "runtime",
        "tls",
    }
)


class Client:
    """A connection to Holdfast, in one namespace. Made by `connect`; close it, or use it as a context manager."""

    def __init__(self, rpc: Rpc, *, data_converter: DataConverter, identity: str) -> None:
        self.caller = Caller(rpc, data_converter, identity)

    @staticmethod
    async def connect(
        target_host: str | Sequence[str] | None = None,
        *,
        namespace: str = "main",
        data_converter: DataConverter = DataConverter.default,
        identity: str | None = None,
        connect_timeout: timedelta | None = None,
        **without_effect: Any,
    ) -> Client:
        """A client of the bus at *target_host*: `nats://host:port`, `host:port`, or a list of the servers of a cluster.

        Without one it is `HOLDFAST_ADDRESS`, else the stack that `holdfast dev` runs in this directory. Raises
        `RPCError` (UNAVAILABLE) if no server answers within *connect_timeout* (10 s); later outages are waited out.
        """
        _tell_without_effect(without_effect)
        servers = find_servers(target_host)
        timeout_s = connect_timeout.total_seconds() if connect_timeout else _CONNECT_TIMEOUT_S
        identity = identity or f"{os.getpid()}@{socket.gethostname()}"
        bus = Bus(servers, name=f"holdfast client {identity}")
        await bus.start()
        try:
            await bus.connected(timeout_s)
        except HoldfastError as error:
            await bus.close(0)
            raise rpc_error(error) from error
        namespace = "main" if namespace == "default" else namespace
        return Client(Rpc(bus, namespace), data_converter=data_converter, identity=identity)

    async def close(self) -> None:
        """Give up the connection; calls that are under way fail."""
        await self.caller.rpc.bus.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def identity(self) -> str:
        """What this client calls itself in histories."""
        return self.caller.identity

    @property
    def namespace(self) -> str:
        """Where this client's workflows live."""
        return self.caller.namespace

    @property
    def data_converter(self) -> DataConverter:
        """What turns values into payloads."""
        return self.caller.converter

    @overload
    async def start_workflow(
        self,
        workflow: Callable[..., Awaitable[R]],
        arg: Any = ...,
        *more: Any,
        args: Sequence[Any] = ...,
        id: str,
        task_queue: str,
        result_type: type | None = ...,
        execution_timeout: timedelta | None = ...,
        run_timeout: timedelta | None = ...,
        task_timeout: timedelta | None = ...,
        id_reuse_policy: WorkflowIDReusePolicy = ...,
        id_conflict_policy: WorkflowIDConflictPolicy = ...,
        memo: Mapping[str, Any] | None = ...,
        search_attributes: TypedSearchAttributes | Mapping[str, Sequence[Any]] | None = ...,
        static_summary: str | None = ...,
        static_details: str | None = ...,
        start_delay: timedelta | None = ...,
        priority: Priority = ...,
        rpc_timeout: timedelta | None = ...,
    ) -> WorkflowHandle[Any, R]: ...

    @overload
    async def start_workflow(
        self,
        workflow: str | type,
        arg: Any = ...,
        *more: Any,
        args: Sequence[Any] = ...,
        id: str,
        task_queue: str,
        result_type: type | None = ...,
        execution_timeout: timedelta | None = ...,
        run_timeout: timedelta | None = ...,
        task_timeout: timedelta | None = ...,
        id_reuse_policy: WorkflowIDReusePolicy = ...,
        id_conflict_policy: WorkflowIDConflictPolicy = ...,
        memo: Mapping[str, Any] | None = ...,
        search_attributes: TypedSearchAttributes | Mapping[str, Sequence[Any]] | None = ...,
        static_summary: str | None = ...,
        static_details: str | None = ...,
        start_delay: timedelta | None = ...,
        priority: Priority = ...,
        rpc_timeout: timedelta | None = ...,
    ) -> WorkflowHandle[Any, Any]: ...

    async def start_workflow(
        self,
        workflow: str | Callable[..., Any],
        arg: Any = UNSET,
        *more: Any,
        args: Sequence[Any] = (),
        id: str,
        task_queue: str,
        result_type: type | None = None,
        execution_timeout: timedelta | None = None,
        run_timeout: timedelta | None = None,
        task_timeout: timedelta | None = None,
        id_reuse_policy: WorkflowIDReusePolicy = WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy: WorkflowIDConflictPolicy = WorkflowIDConflictPolicy.UNSPECIFIED,
        memo: Mapping[str, Any] | None = None,
        search_attributes: TypedSearchAttributes | Mapping[str, Sequence[Any]] | None = None,
        static_summary: str | None = None,
        static_details: str | None = None,
        start_delay: timedelta | None = None,
        priority: Priority = Priority.default,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowHandle[Any, Any]:
        """Start a workflow: it is durable when this returns.

        Raises `WorkflowAlreadyStartedError` if the policies forbid a new run of this id, `Invalid` for arguments
        that have no encoding or take more than 2 MiB.
        """
        name, returns = definitions.name_and_result_type(workflow)
        attributes, types = encoded_attributes(search_attributes)
        request = m.Start(
            request_id=request_id(),
            workflow_id=id,
            workflow_type=name,
            task_queue=task_queue,
            input=await self.caller.encode(arguments(arg, more, args)),
            id_reuse=_REUSE[id_reuse_policy],
            id_conflict=_conflict(id_reuse_policy, id_conflict_policy),
            identity=self.caller.identity,
            execution_timeout_s=seconds_of(execution_timeout),
            run_timeout_s=seconds_of(run_timeout),
            task_timeout_s=seconds_of(task_timeout),
            start_delay_s=seconds_of(start_delay) or 0.0,
            memo=await self.caller.encode_memo(memo),
            search_attributes=attributes,
            search_types=types,
            summary=static_summary or "",
            details=static_details or "",
            priority=priority.priority_key or 0,
        )
        started = await _start(self.caller, request, rpc_timeout)
        return WorkflowHandle(
            self.caller,
            id,
            result_run_id=started.run_id,
            first_execution_run_id=started.run_id,
            result_type=result_type or returns,
        )

    @overload
    async def execute_workflow(
        self,
        workflow: Callable[..., Awaitable[R]],
        arg: Any = ...,
        *more: Any,
        id: str,
        task_queue: str,
        **options: Any,
    ) -> R: ...

    @overload
    async def execute_workflow(
        self, workflow: str | type, arg: Any = ..., *more: Any, id: str, task_queue: str, **options: Any
    ) -> Any: ...

    async def execute_workflow(
        self,
        workflow: str | Callable[..., Any],
        arg: Any = UNSET,
        *more: Any,
        id: str,
        task_queue: str,
        **options: Any,
    ) -> Any:
        """Start a workflow and wait for its result: `start_workflow` with its options, then `WorkflowHandle.result`."""
        handle: WorkflowHandle[Any, Any] = await self.start_workflow(
            workflow, arg, *more, id=id, task_queue=task_queue, **options
        )
        return await handle.result()

    def get_workflow_handle(
        self,
        workflow_id: str,
        *,
        run_id: str | None = None,
        first_execution_run_id: str | None = None,
        result_type: type | None = None,
    ) -> WorkflowHandle[Any, Any]:
        """A handle of an existing workflow: of its newest run, or of *run_id*. Nothing is asked yet."""
        return WorkflowHandle(
            self.caller,
            workflow_id,
            run_id=run_id,
            result_run_id=run_id,
            first_execution_run_id=first_execution_run_id,
            result_type=result_type,
        )

    def get_workflow_handle_for(
        self,
        workflow: Callable[..., Awaitable[R]],
        workflow_id: str,
        *,
        run_id: str | None = None,
        first_execution_run_id: str | None = None,
    ) -> WorkflowHandle[Any, R]:
        """As `get_workflow_handle`, with the result type of *workflow*."""
        returns = definitions.must_define(workflow).types[1]
        return self.get_workflow_handle(
            workflow_id, run_id=run_id, first_execution_run_id=first_execution_run_id, result_type=returns
        )

    async def list_workflows(
        self,
        query: str | None = None,
        *,
        limit: int | None = None,
        page_size: int = 1000,
        rpc_timeout: timedelta | None = None,
    ) -> AsyncIterator[WorkflowExecution]:
        """Runs of this namespace, newest first, read page by page as they are consumed.

        *query* is a filter as `docs/search.md` has it. Raises `RPCError` (INVALID_ARGUMENT) for one that cannot be read.
        """
        left, cursor = limit, None
        while left is None or left > 0:
            size = page_size if left is None else min(page_size, left)
            page: m.ListPage = await self.caller.call(
                "list", m.List(query=query or "", limit=size, cursor=cursor), rpc_timeout
            )
            page = await unsealed(self.data_converter, page)
            for run in page.runs:
                yield execution_of(run, self.namespace, self.data_converter)
            left = None if left is None else left - len(page.runs)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def count_workflows(
        self, query: str | None = None, *, rpc_timeout: timedelta | None = None
    ) -> WorkflowExecutionCount:
        """How many runs match; a query that ends in `GROUP BY ExecutionStatus` counts each status."""
        found: vis.Counted = await self.caller.call("count", vis.Count(query=query or ""), rpc_timeout)
        groups = [
            WorkflowExecutionCountAggregationGroup(runs, [status_name(status)])
            for status, runs in sorted(found.groups.items())
        ]
        return WorkflowExecutionCount(found.count, groups)


def _conflict(reuse: WorkflowIDReusePolicy, conflict: WorkflowIDConflictPolicy) -> str:
    if reuse is not WorkflowIDReusePolicy.TERMINATE_IF_RUNNING:
        return _CONFLICT[conflict]
    if conflict is not WorkflowIDConflictPolicy.UNSPECIFIED:
        raise ValueError("id_reuse_policy TERMINATE_IF_RUNNING cannot be combined with an id_conflict_policy")
    return "terminate_existing"


async def _start(caller: Caller, request: m.Start, timeout: timedelta | None) -> m.Started:
    try:
        started: m.Started = await caller.call("start", request, timeout)
    except RPCError as error:
        if isinstance(error.cause, AlreadyExists):
            known = error.details.get("run_id")
            raise WorkflowAlreadyStartedError(
                request.workflow_id, request.workflow_type, run_id=known, first_run_id=known
            ) from error
        raise
    return started


def _tell_without_effect(given: Mapping[str, Any]) -> None:
    if unknown := sorted(set(given) - _WITHOUT_EFFECT):
        raise TypeError(f"Client.connect() got an unexpected keyword argument {unknown[0]!r}")
    if names := sorted(name for name, value in given.items() if value):
        warnings.warn(
            f"Client.connect: {', '.join(names)} have no meaning for Holdfast and are ignored", stacklevel=3
        )
