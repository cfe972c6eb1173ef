"""Payload codecs (encryption, compression) at the SDK's edge: messages are sealed as they leave and unsealed as they come.

So all that lies inside (workflow code, its replay, activities, the cache) knows plain payloads only, nothing of it
waits for a codec, and a codec whose output is never twice the same disturbs no replay. What the service must read
stays as it is: names, ids, times, a failure's type. A failure's message and stack trace are text too, unless the
failure converter is `DefaultFailureConverterWithEncodedAttributes`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from holdfast.converter import DataConverter
from holdfast.exceptions import HoldfastError, Invalid
from holdfast.sdk import memo
from holdfast.sdk.markers import SIDE_EFFECT, SIDE_EFFECT_FAILED
from holdfast.sdk.rpc import CALL_TIMEOUT_S, Rpc
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure

log = logging.getLogger("holdfast.codec")

Change = Callable[[bytes], Awaitable[bytes]]
"""Seals, or unseals, the elements of JSON array text."""


def sealing(rpc: Rpc, converter: DataConverter) -> Rpc:
    """*rpc* itself if there is no codec, or one that seals and unseals."""
    return rpc if converter.payload_codec is None else SealedRpc(rpc, converter)


class SealedRpc(Rpc):
    """Calls whose payloads are sealed on their way out and unsealed on their way in.

    Raises `Invalid` for a request that the codec cannot seal. What it cannot unseal stays sealed: whoever decodes it
    will say so, for its own task alone.
    """

    def __init__(self, rpc: Rpc, converter: DataConverter) -> None:
        super().__init__(rpc.bus, rpc.namespace)
        self._converter = converter

    async def once(self, verb: str, request: Any) -> Any:
        """As `Rpc.once`."""
        request = await sealed(self._converter, request)
        return await unsealed(self._converter, await super().once(verb, request))

    async def call(self, verb: str, request: Any, timeout_s: float | None = CALL_TIMEOUT_S) -> Any:
        """As `Rpc.call`; the request is sealed once, however often it is repeated."""
        request = await sealed(self._converter, request)
        return await unsealed(self._converter, await super().call(verb, request, timeout_s))


async def sealed(converter: DataConverter, message: Any) -> Any:
    """*message* with every payload sealed."""
    if converter.payload_codec is None:
        return message

    async def seal(array: bytes) -> bytes:
        try:
            return await converter.seal(array)
        except HoldfastError:
            raise
        except Exception as error:
            # A user's codec runs here.
            raise Invalid(
                f"the payload codec {type(converter.payload_codec).__name__} cannot encode: {error!r}"
            ) from error

    return await _changed(message, seal)


async def unsealed(converter: DataConverter, message: Any) -> Any:
    """*message* with every payload unsealed that can be; why the others cannot is logged."""
    if converter.payload_codec is None:
        return message

    async def unseal(array: bytes) -> bytes:
        try:
            return await converter.unseal(array)
        except Exception as error:
            log.warning(
                "the payload codec %s cannot decode a payload, it stays as it is: %r",
                type(converter.payload_codec).__name__,
                error,
                exc_info=error,
            )
            return array

    return await _changed(message, unseal)


async def _changed(part: Any, change: Change) -> Any:
    changes = {}
    for name, how in PAYLOADS.get(type(part), {}).items():
        before = getattr(part, name)
        after = await how(before, change)
        if after is not before:
            changes[name] = after
    if isinstance(part, c.RecordMarker | e.MarkerRecorded):
        changes["value"] = await _marker_value(part, change)
    return msgspec.structs.replace(part, **changes) if changes else part


async def _array(array: bytes, change: Change) -> bytes:
    return await change(array)


async def _value(text: bytes, change: Change) -> bytes:
    return (await change(b"[" + text + b"]"))[1:-1]


async def _object(text: bytes, change: Change) -> bytes:
    return await memo.changed(text, change)


async def _part(part: Any, change: Change) -> Any:
    return None if part is None else await _changed(part, change)


async def _parts(parts: list[Any], change: Change) -> list[Any]:
    return [await _changed(part, change) for part in parts]


async def _marker_value(marker: c.RecordMarker | e.MarkerRecorded, change: Change) -> bytes:
    """What a step returned or raised. Other markers are the SDK's own words."""
    if marker.kind == SIDE_EFFECT:
        return await _value(marker.value, change)
    if marker.kind == SIDE_EFFECT_FAILED:
        return msgspec.json.encode(await _changed(msgspec.json.decode(marker.value, type=Failure), change))
    return marker.value


PAYLOADS: Final[Mapping[type, Mapping[str, Callable[[Any, Change], Awaitable[Any]]]]] = {
    Failure: {"details": _array, "last_heartbeat": _array, "cause": _part},
    # What a worker says.
    m.CompleteWorkflowTask: {"commands": _parts},
    m.FailWorkflowTask: {"failure": _part},
    m.CompleteActivity: {"result": _value, "turn": _part},
    m.Turn: {"commands": _parts},
    m.FailActivity: {"failure": _part},
    m.CancelActivity: {"details": _array},
    m.ActivityHeartbeat: {"details": _array},
    c.ScheduleActivity: {"input": _array},
    c.CompleteWorkflow: {"result": _value},
    c.FailWorkflow: {"failure": _part},
    c.CancelWorkflow: {"details": _array},
    c.UpsertMemo: {"memo": _object},
    # What it is told.
    m.Tasks: {"workflow_tasks": _parts, "activity_tasks": _parts},
    m.Push: {"workflow_tasks": _parts, "activity_tasks": _parts},
    m.Reported: {"workflow_task": _part, "activity_tasks": _parts},
    m.WorkflowTask: {"events": _parts},
    m.ActivityTask: {"input": _array, "heartbeat_details": _array},
    m.HistoryPage: {"events": _parts},
    e.HistoryEvent: {"event": _part},
    e.WorkflowStarted: {"input": _array, "memo": _object},
    e.MemoUpserted: {"memo": _object},
    e.WorkflowTaskFailed: {"failure": _part},
    e.ActivityScheduled: {"input": _array},
    e.ActivityCompleted: {"result": _value},
    e.ActivityFailed: {"failure": _part},
    e.ActivityTimedOut: {"failure": _part, "last_heartbeat": _array},
    e.ActivityCancelled: {"details": _array},
    e.SignalReceived: {"input": _array},
    e.WorkflowCompleted: {"result": _value},
    e.WorkflowFailed: {"failure": _part},
    e.WorkflowCancelled: {"details": _array},
    e.WorkflowTerminated: {"details": _array},
    # What a client is told; it seals the arguments that it is given.
    m.Outcome: {"event": _part},
    m.RunSummary: {"memo": _object},
    m.ListPage: {"runs": _parts},
    m.Description: {"summary": _part, "task_failure": _part, "activities": _parts},
    m.PendingActivity: {"heartbeat_details": _array, "last_failure": _part},
}
"""The fields of each kind of message and event that hold payloads, or parts that do."""
