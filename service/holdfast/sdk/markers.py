"""What code computes once and remembers: results of plain functions, and which version of itself it runs.

Both are read ahead: a replayed turn has the markers that it once recorded in its batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.sdk.hints import types_of
from holdfast.sdk.replay import DEPRECATED, PATCH
from holdfast.sdk.runtime import WorkflowRun
from holdfast.wire import commands as c
from holdfast.wire import events as e
from holdfast.wire.failures import Failure

SIDE_EFFECT = "side_effect"
SIDE_EFFECT_FAILED = "side_effect_failed"


async def step(
    run: WorkflowRun, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What *fn* returned or raised when it was first called here; recorded with this turn's commands.

    The value has been through the payload converter, also the first time, so that code
    sees the same thing on every replay.
    """
    if inspect.iscoroutinefunction(fn):
        raise TypeError(
            f"step {_name(fn)!r} is a coroutine function: expected a plain one; make it an activity"
        )
    seq, name = run.next_seq(), _name(fn)
    recorded = _marker(run, seq)
    if recorded is None and run.is_replaying:
        # The history took another way. Calling *fn* again would repeat its effect, so
        # wait here for the check of this turn, which stops the run.
        run.ask(c.RecordMarker(kind=SIDE_EFFECT, name=name, seq=seq))
        await run.loop.create_future()
    if recorded is not None:
        kind, value = recorded.kind, recorded.value
    else:
        kind, value = _computed(run, fn, args, kwargs)
    run.ask(c.RecordMarker(kind=kind, name=name, seq=seq, value=value))
    if kind == SIDE_EFFECT_FAILED:
        raise run.converter.decode_failure(msgspec.json.decode(value, type=Failure))
    return run.converter.decode_value(value, types_of(fn)[1])


def patched(run: WorkflowRun, patch_id: str, *, is_deprecated: bool) -> bool:
    """Whether the code behind *patch_id* holds for this run: decided at the first call, then for good."""
    known = run.patches.get(patch_id)
    if known is not None:
        return known
    holds = not run.is_replaying or _has_patch(run, patch_id)
    run.patches[patch_id] = holds
    if holds:
        value = DEPRECATED if is_deprecated else b"null"
        run.ask(c.RecordMarker(kind=PATCH, name=patch_id, value=value))
    return holds


def _computed(
    run: WorkflowRun, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, bytes]:
    try:
        value = fn(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the function is the user's
        return SIDE_EFFECT_FAILED, msgspec.json.encode(run.converter.encode_failure(error))
    return SIDE_EFFECT, run.converter.encode_value(value)


def _marker(run: WorkflowRun, seq: int) -> e.MarkerRecorded | None:
    turn = run.turn_in_progress
    for entry in turn.batch if turn is not None else ():
        event = entry.event
        if type(event) is e.MarkerRecorded and event.seq == seq and event.kind != PATCH:
            return event
    return None


def _has_patch(run: WorkflowRun, patch_id: str) -> bool:
    turn = run.turn_in_progress
    return turn is not None and any(
        type(entry.event) is e.MarkerRecorded and entry.event.kind == PATCH and entry.event.name == patch_id
        for entry in turn.batch
    )


def _name(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__qualname__", type(fn).__qualname__))
