"""The model's workflows, their dispatch, events and snapshots."""

from __future__ import annotations

import json
import math

from holdfast.exceptions import AlreadyExists, Invalid, NotFound, Refused
from holdfast.store.contract.door import (
    check_json,
    check_moment,
    check_moment_if_any,
    check_number,
    check_unicode,
)
from holdfast.wire import codec
from holdfast.wire.records import (
    TERMINAL_STATUSES,
    WORKFLOW_STATUSES,
    WorkflowEvent,
    WorkflowRecord,
    WorkflowSnapshot,
)
from tests.contract.model_state import Merged, Run, State, contains, json_object, replace

SNAPSHOTS_KEPT = 3

# -- workflows -------------------------------------------------------------------------------------


def _check_record(record: WorkflowRecord) -> None:
    for field in ("namespace", "id", "workflow_type", "task_queue"):
        codec.check_text(field, getattr(record, field))
    for field in ("parent_id", "claimed_by"):
        if getattr(record, field) is not None:
            codec.check_text(field, getattr(record, field))
    for field in ("input", "result", "memo"):
        check_json(field, getattr(record, field))
    for field in ("error", "archive_uri"):
        check_unicode(field, getattr(record, field))
    if record.search_attributes is not None:
        json_object(record.search_attributes)
    if record.status not in WORKFLOW_STATUSES:
        raise Invalid(record.status)
    if record.run_id is not None:
        codec.check_run_id(record.run_id)
    for field in ("created_at", "updated_at", "completed_at", "archived_at"):
        check_moment_if_any(field, getattr(record, field))


async def create_workflow(self: State, workflow: WorkflowRecord) -> None:
    _check_record(workflow)
    if workflow.namespace not in self.namespaces:
        raise NotFound(workflow.namespace)
    is_open = any(
        (run.record.namespace, run.record.id) == (workflow.namespace, workflow.id) and not run.is_closed
        for run in self.runs.values()
    )
    if is_open or workflow.run_id in self.runs:
        raise AlreadyExists(workflow.id)
    record = replace(workflow, run_id=workflow.run_id or self.run_id())
    closed_at = record.updated_at if record.completed_at is None else record.completed_at
    self.runs[record.run_id or ""] = Run(record, closed_at=closed_at)
    self.changed()


async def get_workflow(
    self: State, id: str, *, namespace: str = "main", run_id: str | None = None
) -> WorkflowRecord | None:
    run = self.find(namespace, id, run_id)
    return None if run is None else run.record


async def list_workflows(
    self: State,
    namespace: str,
    status: str | None,
    workflow_type: str | None,
    search_attrs_filter: str | None,
    limit: int,
    offset: int,
) -> list[WorkflowRecord]:
    codec.check_text("namespace", namespace)
    check_unicode("workflow_type", workflow_type)
    wanted = None if search_attrs_filter is None else json_object(search_attrs_filter)
    check_number("limit", limit, 1, 1000)
    check_number("offset", offset, 0, 2**63 - 1)
    if status is not None and status not in WORKFLOW_STATUSES:
        raise Invalid(status)
    matching = [
        run.record
        for run in self.runs.values()
        if run.record.namespace == namespace
        and status in (None, run.record.status)
        and workflow_type in (None, run.record.workflow_type)
        and (wanted is None or _has(run.record, wanted))
    ]
    matching.sort(key=lambda record: (-record.created_at, record.id, record.run_id))
    return matching[offset : offset + limit]


def _has(record: WorkflowRecord, wanted: object) -> bool:
    return record.search_attributes is not None and contains(json.loads(record.search_attributes), wanted)


async def list_archivable_workflows(self: State, cutoff: float, limit: int) -> list[WorkflowRecord]:
    check_moment("cutoff", cutoff)
    check_number("limit", limit, 1, 1000)
    due = []
    for run in self.runs.values():
        waits_for = [run, *_elders(self, run)]
        last_at = max(one.closed_at for one in waits_for)
        if run.record.archived_at is None and last_at < cutoff and all(one.is_closed for one in waits_for):
            due.append((last_at, len(waits_for), run.record.run_id or "", run.record))
    return [record for *_, record in sorted(due, key=lambda item: item[:3])][:limit]


def _elders(self: State, run: Run) -> list[Run]:
    """The parent, its parent and so on, as far as they are not archived."""
    found: list[Run] = []
    parent = _parent(self, run)
    while parent is not None and parent not in found:
        found.append(parent)
        parent = _parent(self, parent)
    return [elder for elder in found if elder.record.archived_at is None and elder is not run]


def _parent(self: State, run: Run) -> Run | None:
    """Of the runs of the parent's id, the newest that is not younger than the child, else the newest."""
    child = run.record
    named = [
        other
        for other in self.runs.values()
        if (other.record.namespace, other.record.id) == (child.namespace, child.parent_id)
    ]
    return max(
        named,
        key=lambda other: (other.record.created_at <= child.created_at, other.record.run_id),
        default=None,
    )


async def mark_archived_and_purge(
    self: State,
    workflow_id: str,
    archive_uri: str,
    archived_at: float,
    *,
    namespace: str = "main",
    run_id: str | None = None,
) -> None:
    check_unicode("archive_uri", archive_uri)
    check_moment("archived_at", archived_at)
    run = self.find(namespace, workflow_id, run_id)
    if run is None:
        return
    if not run.is_closed:
        raise Refused(workflow_id)
    if run.record.archived_at is not None:
        return
    run.set(archived_at=archived_at, archive_uri=archive_uri)
    for children in (run.events, run.activities, run.timers, run.timer_states, run.signals, run.snapshots):
        children.clear()
    self.changed()


async def upsert_search_attributes(
    self: State, workflow_id: str, patch_json: str, *, namespace: str = "main", run_id: str | None = None
) -> None:
    patch = json_object(patch_json)
    run = self.find(namespace, workflow_id, run_id)
    if run is None:
        return
    known = run.record.search_attributes
    merged = {**({} if known is None else json.loads(known)), **patch}
    kept = {key: value for key, value in merged.items() if not (key in patch and patch[key] is None)}
    if known is not None and json.loads(known) == kept:
        return
    run.set(search_attributes=Merged(json.dumps(kept)), updated_at=self.now())
    self.changed()


async def update_workflow_status(
    self: State,
    id: str,
    status: str,
    result: str | None,
    error: str | None,
    *,
    namespace: str = "main",
    run_id: str | None = None,
) -> None:
    if status not in WORKFLOW_STATUSES:
        raise Invalid(status)
    check_json("result", result)
    check_unicode("error", error)
    run = self.find(namespace, id, run_id)
    if run is None:
        return
    if run.is_closed:
        if status != run.record.status:
            raise Refused(id)
        return
    now = self.now()
    before = run.record
    run.set(
        status=status,
        result=before.result if result is None else result,
        error=before.error if error is None else error,
    )
    if run.record == before:
        return
    run.set(updated_at=now)
    if status in TERMINAL_STATUSES:
        run.set(completed_at=now)
        run.closed_at = now
        run.ready_at = run.worker = run.beat_at = None
    self.changed()


async def list_child_workflows(
    self: State, parent_id: str, *, namespace: str = "main"
) -> list[WorkflowRecord]:
    self.find(namespace, parent_id, None)
    children = [
        run.record
        for run in self.runs.values()
        if run.record.namespace == namespace and run.record.parent_id == parent_id
    ]
    return sorted(children, key=lambda record: (record.created_at, record.run_id))


# -- dispatch --------------------------------------------------------------------------------------


async def claim_workflow(
    self: State, id: str, worker_id: str, *, namespace: str = "main", run_id: str | None = None
) -> bool:
    codec.check_text("worker_id", worker_id)
    run = self.find(namespace, id, run_id)
    if run is None or run.is_closed or run.record.claimed_by is not None:
        return False
    run.set(claimed_by=worker_id, status="RUNNING", updated_at=self.now())
    self.changed()
    return True


async def mark_workflow_dispatchable(
    self: State, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> None:
    run = self.find(namespace, workflow_id, run_id)
    if run is not None and not run.is_closed and run.ready_at is None:
        run.ready_at = self.now()
        self.changed()


async def claim_workflow_task(
    self: State, task_queue: str, worker_id: str, *, namespace: str = "main"
) -> WorkflowRecord | None:
    for field, text in (("task_queue", task_queue), ("worker_id", worker_id), ("namespace", namespace)):
        codec.check_text(field, text)
    wall = self.wall(worker_id, namespace)
    types, slots = self.slots(worker_id, "workflows")
    if sum(run.worker == worker_id for run in self.runs.values()) >= slots:
        return None
    ready = [
        (run.ready_at, run.record.id, run)
        for run in self.runs.values()
        if run.record.namespace == wall
        and run.record.task_queue == task_queue
        and run.ready_at is not None
        and (types is None or run.record.workflow_type in types)
        and run.worker is None
        and not run.is_closed
    ]
    if not ready:
        return None
    _, _, run = min(ready, key=lambda item: item[:2])
    run.worker, run.beat_at, run.ready_at = worker_id, self.now(), None
    self.changed()
    return run.record


async def release_workflow_task(
    self: State, workflow_id: str, worker_id: str, *, namespace: str = "main", run_id: str | None = None
) -> None:
    codec.check_text("worker_id", worker_id)
    run = self.find(namespace, workflow_id, run_id)
    if run is not None and run.worker == worker_id:
        run.worker = run.beat_at = None
        self.changed()


async def release_stale_dispatch_leases(self: State, now: float, timeout_secs: float) -> int:
    check_moment("now", now)
    if not (math.isfinite(timeout_secs) and timeout_secs >= 0):
        raise Invalid("timeout_secs")
    stale = [
        run
        for run in self.runs.values()
        if run.worker is not None
        and max(run.beat_at or 0, self.heard_at(run.worker)) < now - timeout_secs
        and not run.is_closed
    ]
    for run in stale:
        run.worker = run.beat_at = None
        run.ready_at = now if run.ready_at is None else run.ready_at
    self.changed(len(stale))
    return len(stale)


# -- events and snapshots --------------------------------------------------------------------------


async def append_event(
    self: State, event: WorkflowEvent, *, namespace: str = "main", run_id: str | None = None
) -> int:
    check_number("seq", event.seq, 1, codec.SEQ_MAX)
    codec.check_text("event_type", event.event_type)
    check_json("payload", event.payload)
    check_moment("timestamp", event.timestamp)
    run = self.known(namespace, event.workflow_id, run_id)
    if event.seq in run.events:
        raise AlreadyExists(event.workflow_id)
    made = replace(event, id=self.number())
    run.events[event.seq] = made
    self.changed()
    return made.id or 0


async def list_events(
    self: State,
    workflow_id: str,
    *,
    after: int = 0,
    limit: int | None = None,
    namespace: str = "main",
    run_id: str | None = None,
) -> list[WorkflowEvent]:
    run = self.find(namespace, workflow_id, run_id)
    if run is None:
        return []
    return [event for seq, event in sorted(run.events.items()) if seq > after][:limit]


async def get_event_count(
    self: State, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> int:
    run = self.find(namespace, workflow_id, run_id)
    return len(run.events) if run else 0


async def create_snapshot(
    self: State,
    workflow_id: str,
    event_seq: int,
    state_json: str,
    *,
    namespace: str = "main",
    run_id: str | None = None,
) -> None:
    check_number("event_seq", event_seq, 0, codec.SEQ_MAX)
    check_json("state_json", state_json)
    run = self.known(namespace, workflow_id, run_id)
    run.snapshots[event_seq] = WorkflowSnapshot(
        workflow_id=workflow_id, event_seq=event_seq, state_json=state_json, created_at=self.now()
    )
    for seq in sorted(run.snapshots)[:-SNAPSHOTS_KEPT]:
        del run.snapshots[seq]
    self.changed()


async def get_latest_snapshot(
    self: State, workflow_id: str, *, namespace: str = "main", run_id: str | None = None
) -> WorkflowSnapshot | None:
    run = self.find(namespace, workflow_id, run_id)
    return run.snapshots[max(run.snapshots)] if run and run.snapshots else None
