"""What the workflow commands show: records made of the client's descriptions and histories. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from holdfast.client import (
    PendingActivity,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowHistory,
)

LIST_COLUMNS = ("status", "workflow_id", "type", "start_time", "close_time", "run_id")
STORY_COLUMNS = ("event", "time", "what", "details")

DETAIL_CHARS_MAX = 90


def query(terms: Iterable[tuple[str, str | Sequence[str] | None]], *, failing: bool = False) -> str | None:
    """The list filter that asks for all *terms* (field, value or allowed values); None for nothing."""
    parts = []
    for field, value in terms:
        if isinstance(value, str):
            parts.append(f"{field} = {_quoted(value)}")
        elif value:
            parts.append(f"{field} IN ({', '.join(map(_quoted, value))})")
    if failing:
        parts.append("TaskFailing = true")
    return " AND ".join(parts) or None


def new_id(workflow_type: str) -> str:
    """An id for a workflow that was given none: its type, and something unique."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", workflow_type).strip("-")[:60] or "workflow"
    return f"{name}-{uuid.uuid4().hex[:12]}"


def summary(run: WorkflowExecution) -> dict[str, Any]:
    """A run as a row of a list."""
    return {
        "status": run.status.name if run.status else None,
        "workflow_id": run.id,
        "type": run.workflow_type,
        "task_queue": run.task_queue,
        "start_time": run.start_time,
        "close_time": run.close_time,
        "history_length": run.history_length,
        "task_failure": run.task_failure,
        "run_id": run.run_id,
    }


def description(found: WorkflowExecutionDescription) -> dict[str, Any]:
    """Everything known about a run but its history."""
    return {
        **summary(found),
        "namespace": found.namespace,
        "task_attempt": found.task_attempt,
        "last_task_failure": causes(found.last_task_failure),
        "next_task_time": found.next_task_time,
        "cancel_requested": found.is_cancel_requested,
        "worker": found.sticky_worker,
        "activities": list(map(_activity, found.pending_activities)),
        "timers": list(found.timer_fire_times),
    }


def headline(found: WorkflowExecutionDescription) -> dict[str, Any]:
    """The few facts about a run that come first: what has a value, one line each."""
    record = description(found)
    for number, activity in enumerate(record.pop("activities"), 1):
        record[f"waits for activity {number}"] = _sentence(activity)
    for number, moment in enumerate(record.pop("timers"), 1):
        record[f"waits for timer {number}"] = moment
    return {name: value for name, value in record.items() if value not in (None, False, "", 0)}


def story(history: WorkflowHistory) -> list[dict[str, Any]]:
    """A history as rows for people: number, moment, what happened, and the telling details."""
    names: dict[int, str] = {}
    rows = []
    for event in history.events:
        if event.event_type == "ActivityScheduled":
            names[event.attributes["seq"]] = event.attributes["name"]
        details = _details(event.attributes, names)
        rows.append(
            {"event": event.event_id, "time": event.event_time, "what": event.event_type, "details": details}
        )
    return rows


def causes(error: BaseException | None) -> str | None:
    """*error* and what caused it, a line each, the outermost first; None for no error."""
    lines: list[str] = []
    while error is not None and len(lines) < 20:
        kind = getattr(error, "type", None)
        name = kind if isinstance(kind, str) else type(error).__name__
        text = getattr(error, "message", None) or str(error)
        lines.append(f"{'  caused by ' if lines else ''}{name}: {text}")
        error = error.__cause__
    return "\n".join(lines) or None


def _activity(activity: PendingActivity) -> dict[str, Any]:
    return {
        "activity_id": activity.activity_id,
        "type": activity.activity_type,
        "task_queue": activity.task_queue,
        "state": activity.state,
        "attempt": activity.attempt,
        "maximum_attempts": activity.maximum_attempts,
        "scheduled_time": activity.scheduled_time,
        "started_time": activity.started_time,
        "next_attempt_time": activity.next_attempt_time,
        "last_heartbeat_time": activity.last_heartbeat_time,
        "heartbeat_details": list(activity.heartbeat_details),
        "last_failure": causes(activity.last_failure),
        "cancel_requested": activity.is_cancel_requested,
        "worker": activity.worker,
    }


def _sentence(activity: dict[str, Any]) -> str:
    text = f"{activity['type']} ({activity['state']}, attempt {activity['attempt']})"
    if activity["last_failure"]:
        text += f", last failure {activity['last_failure'].splitlines()[0]}"
    return text


_TELLING = ("workflow_type", "name", "kind", "timeout", "cause", "reason")
"""Attributes that say most about an event, shown without their names, in this order; payloads come behind."""

_PAYLOADS = ("input", "result", "details")


def _details(attributes: dict[str, Any], names: dict[int, str]) -> str:
    """What makes an event this one: names, payloads, failure. *names* tells activities by their `seq`."""
    words = [str(attributes[name]) for name in _TELLING if attributes.get(name)]
    if "name" not in attributes and attributes.get("seq") in names:
        words.append(names[attributes["seq"]])
    if "fire_at" in attributes:
        words.append(f"until {datetime.fromtimestamp(attributes['fire_at'], UTC):%Y-%m-%d %H:%M:%SZ}")
    words += [
        str(attributes[name]) for name in _PAYLOADS if attributes.get(name) not in (None, "", "[]", "null")
    ]
    if attributes.get("attempt", 1) > 1:
        words.append(f"(attempt {attributes['attempt']})")
    failure = attributes.get("failure")
    if isinstance(failure, dict):
        words.append(f"{failure.get('type') or 'failure'}: {failure.get('message', '')}")
    text = " ".join(words)
    return text if len(text) <= DETAIL_CHARS_MAX else text[: DETAIL_CHARS_MAX - 1] + "…"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
