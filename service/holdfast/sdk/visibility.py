"""Memo and search attributes of the running workflow: as it was started, and as its code changed them since."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from holdfast.common import Priority
from holdfast.sdk import memo as memos
from holdfast.sdk import search_attributes as attributes
from holdfast.sdk.runtime import WorkflowRun
from holdfast.sdk.search_attributes import TypedSearchAttributes
from holdfast.wire import commands as c
from holdfast.wire import events as e

UNSET: Any = object()


class Shown:
    """What lists show of the run. The first look reads it from the start event."""

    def __init__(self, run: WorkflowRun) -> None:
        event = started(run)
        self.memo = event.memo
        self.attributes = attributes.decoded(event.search_attributes, event.search_types)


def started(run: WorkflowRun) -> e.WorkflowStarted:
    """The first event of the run."""
    event = run.started.event if run.started is not None else None
    if isinstance(event, e.WorkflowStarted):
        return event
    raise RuntimeError("the workflow has not begun")


def of(run: WorkflowRun) -> Shown:
    """What lists show of *run*."""
    if run.shown is None:
        run.shown = Shown(run)
    found: Shown = run.shown
    return found


def upsert_search_attributes(run: WorkflowRun, updates: Any) -> None:
    """Set or remove search attributes of the run."""
    text, types = attributes.encoded(updates)
    if not text:
        return
    run.ask(c.UpsertSearchAttributes(search_attributes=text, search_types=types))
    shown = of(run)
    changed = attributes.decoded(text, types)
    names = set(attributes.names(text))
    kept = [pair for pair in shown.attributes if pair.key.name not in names]
    shown.attributes = TypedSearchAttributes([*kept, *changed])


def upsert_memo(run: WorkflowRun, updates: Mapping[str, Any]) -> None:
    """Set or, with None, remove values of the run's memo."""
    text = memos.encoded(run.converter, updates, may_remove=True)
    if not text:
        return
    run.ask(c.UpsertMemo(memo=text))
    shown = of(run)
    shown.memo = memos.merged(shown.memo, text)


def memo(run: WorkflowRun) -> dict[str, Any]:
    """The memo as it is now."""
    return memos.decoded(run.converter, of(run).memo)


def memo_value(run: WorkflowRun, key: str, default: Any, type_hint: Any) -> Any:
    """One value of the memo; KeyError without it unless there is a default."""
    found = memos.split(of(run).memo)
    if key in found:
        return run.converter.decode_value(found[key], type_hint)
    if default is UNSET:
        raise KeyError(f"Memo does not have a value for key {key}")
    return default


def info_fields(run: WorkflowRun) -> dict[str, Any]:
    """The start options, as `workflow.Info` has them."""
    event = started(run)
    typed = of(run).attributes
    return {
        "execution_timeout": _delta(event.execution_timeout_s),
        "run_timeout": _delta(event.run_timeout_s),
        "task_timeout": _delta(event.task_timeout_s) or timedelta(seconds=10),
        "priority": Priority(priority_key=event.priority or None),
        "search_attributes": attributes.untyped(typed),
        "typed_search_attributes": typed,
    }


def _delta(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
