"""What clients and workers may ask: one function per verb, from a decoded request to its response.

The functions raise the service's errors; `api.rpc` turns them into answers.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.core.requests import Ask
from holdfast.core.why import why_not
from holdfast.engine import answers
from holdfast.engine.dispatch import Credit
from holdfast.engine.engine import Engine
from holdfast.engine.fitting import REST_BYTES, fit
from holdfast.engine.transact import Change, Outcome
from holdfast.engine.views import counted, description, history_page, list_page
from holdfast.exceptions import HoldfastError, Invalid, NotFound, Refused
from holdfast.store import tasks as task_store
from holdfast.store import views
from holdfast.store.journal import Address
from holdfast.wire import codec
from holdfast.wire import messages as m
from holdfast.wire import visibility as vis

WAIT_MAX_S = 10.0
CLAIM_MAX = 200
HEARTBEAT_S = 3.0


async def start(engine: Engine, namespace: str, request: m.Start) -> m.Started:
    """Start a run, or answer with the one that the id policies or a repeated request id point to."""
    address = Address(namespace, request.workflow_id, None, request.request_id)
    change = Change(namespace, request, address=address, hash=request_hash(request))
    outcome = await engine.change(change)
    answer: m.Started = outcome.answer
    return answer


async def ask(engine: Engine, namespace: str, request: m.Signal | m.Cancel | m.Terminate) -> m.Done:
    """Signal, cancel or terminate a run."""
    if request.run_id is not None:
        codec.check_run_id(request.run_id)
    address = Address(namespace, request.workflow_id, request.run_id)
    outcome = await engine.change(Change(namespace, Ask(request, request_hash(request)), address=address))
    answer: m.Done = outcome.answer
    return answer


async def describe(engine: Engine, namespace: str, request: m.Describe) -> m.Description:
    """Everything known about a run without its history."""
    if request.run_id is not None:
        codec.check_run_id(request.run_id)
    found = await views.find_run_and_work(engine.pool, namespace, request.workflow_id, request.run_id)
    if found is None:
        raise _no_run(namespace, request.workflow_id, request.run_id)
    return description(found)


async def history(engine: Engine, namespace: str, request: m.History) -> m.HistoryPage:
    """A page of a run's history."""
    if not (1 <= request.limit <= 1000 and 0 <= request.after <= codec.SEQ_MAX):
        raise Invalid(
            f"limit is {request.limit} and after is {request.after}: "
            f"expected 1 to 1000, and 0 to {codec.SEQ_MAX}"
        )
    run = await _run(engine, namespace, request.workflow_id, request.run_id)
    return await history_page(engine.pool, engine.histories, run, request)


async def list_(engine: Engine, namespace: str, request: m.List) -> m.ListPage:
    """A page of the namespace's runs."""
    return await list_page(engine.pool, namespace, request)


async def count(engine: Engine, namespace: str, request: vis.Count) -> vis.Counted:
    """How many of the namespace's runs match."""
    return await counted(engine.pool, namespace, request)


async def why(engine: Engine, namespace: str, request: vis.Why) -> vis.Because:
    """Why a run does not move on."""
    if request.run_id is not None:
        codec.check_run_id(request.run_id)
    found = await views.find_run_and_work(engine.pool, namespace, request.workflow_id, request.run_id)
    if found is None:
        raise _no_run(namespace, request.workflow_id, request.run_id)
    described = description(found)

    def is_served(queue: str) -> bool:
        return engine.credits.has_worker(namespace, queue, time.monotonic())

    sentence = why_not(described, found.run.now, is_served)
    return vis.Because(run_id=found.run.run_id, sentence=sentence)


async def result(engine: Engine, namespace: str, request: m.Result) -> m.Outcome:
    """Wait for a run to close."""
    if not 0 <= request.wait_s <= WAIT_MAX_S:
        raise Invalid(f"wait_s is {request.wait_s}: expected 0 to {WAIT_MAX_S:g}; ask again to wait longer")
    run_id = request.run_id
    if run_id is None or not engine.outcomes.knows(namespace, request.workflow_id, run_id):
        run_id = (await _run(engine, namespace, request.workflow_id, run_id)).run_id
    return await engine.outcomes.wait(run_id, request.wait_s)


async def claim(engine: Engine, namespace: str, request: m.Claim) -> m.Tasks:
    """Lease ready tasks to a worker; what it could take beyond them is its credit."""
    workflow_slots, activity_slots = (
        min(slots, CLAIM_MAX)
        for slots in engine.credits.roster.capped(
            request.worker, request.workflow_slots, request.activity_slots
        )
    )
    workflows: list[task_store.ClaimedWorkflow] = []
    activities: list[task_store.ClaimedActivity] = []
    if workflow_slots:
        workflows = await task_store.claim_workflows(
            engine.pool, namespace, request.task_queue, request.worker, workflow_slots, engine.lease_s
        )
    try:
        if activity_slots:
            activities = await task_store.claim_activities(
                engine.pool, namespace, request.task_queue, request.worker, activity_slots, engine.lease_s
            )
        for claimed in workflows:
            engine.recent.leased(claimed.run_id, 0, claimed.fence, request.worker, claimed.now)
        for got in activities:
            engine.recent.leased(got.run_id, got.seq, got.fence, request.worker, got.now)
        workflow_tasks = await answers.claimed_workflow_tasks(engine.pool, workflows, engine.lease_s)
    except HoldfastError:
        # Leased, but nobody will hear of them.
        leases = [m.Lease(row.run_id, 0, row.fence) for row in workflows]
        leases += [m.Lease(row.run_id, row.seq, row.fence) for row in activities]
        engine.give_back(namespace, request.worker, leases)
        raise
    for kind, rows in (("workflow", workflows), ("activity", activities)):
        for row in rows:
            engine.metrics.dispatch_latency.labels(kind).observe(row.now - row.ready_at)
            engine.metrics.schedule_to_start.labels(namespace, request.task_queue, kind).observe(
                row.now - row.ready_at
            )
    _hear(
        engine,
        namespace,
        request.worker,
        request.task_queue,
        request.workflow_slots - len(workflows),
        request.activity_slots - len(activities),
    )
    activity_tasks = answers.claimed_activity_tasks(activities, engine.lease_s)
    for task in activity_tasks:
        # Leased by a statement of its own: the clock has not heard of its limits.
        for limit_s in (task.start_to_close_s, task.heartbeat_s):
            if limit_s is not None:
                engine.note_due(limit_s)
    is_full = (workflow_slots and len(workflows) == workflow_slots) or (
        activity_slots and len(activities) == activity_slots
    )
    return m.Tasks(
        workflow_tasks=workflow_tasks,
        activity_tasks=activity_tasks,
        is_more=bool(is_full),
    )


async def report(engine: Engine, namespace: str, request: Any) -> m.Reported:
    """Take a worker's report; the answer may carry its next tasks."""
    codec.check_run_id(request.run_id)
    credit = None
    if request.task_queue:
        credit = _hear(
            engine,
            namespace,
            request.worker,
            request.task_queue,
            request.workflow_slots,
            request.activity_slots,
        )
    change = Change(namespace, request, run_id=request.run_id, reporter=credit)
    outcome = await engine.change(change)
    if isinstance(request, m.FailWorkflowTask):
        engine.metrics.task_failures.labels(namespace, "workflow", request.cause).inc()
    elif isinstance(request, m.FailActivity):
        engine.metrics.task_failures.labels(namespace, "activity", request.failure.kind).inc()
    return await _reported(engine, request, outcome)


async def heartbeat(engine: Engine, namespace: str, request: m.WorkerHeartbeat) -> m.WorkerAnswer:
    """A worker lives: believe its free slots, extend its leases, tell what it lost. Without leases no query runs."""
    if request.is_stopping:
        engine.credits.forget(namespace, request.worker)
        engine.credits.roster.left(request.worker)
    else:
        engine.credits.roster.announced(namespace, request, time.monotonic())
        _hear(
            engine,
            namespace,
            request.worker,
            request.task_queue,
            request.workflow_slots,
            request.activity_slots,
        )
    if not request.leases:
        return m.WorkerAnswer(next_s=HEARTBEAT_S)
    for lease in request.leases:
        codec.check_run_id(lease.run_id)
    fences = {(lease.run_id, lease.seq): lease for lease in request.leases}
    leases = [(lease.run_id, lease.seq, lease.fence) for lease in request.leases]
    rows = await task_store.extend(engine.pool, namespace, request.worker, leases, engine.lease_s)
    return m.WorkerAnswer(
        lost=[fences[row.run_id, row.seq] for row in rows if not row.is_ours],
        cancelled=[fences[row.run_id, row.seq] for row in rows if row.is_ours and row.is_cancel_requested],
        next_s=HEARTBEAT_S,
    )


async def activity_heartbeat(
    engine: Engine, namespace: str, request: m.ActivityHeartbeat
) -> m.HeartbeatAnswer:
    """An activity's progress; the answer tells whether it should stop."""
    codec.check_run_id(request.run_id)
    change = Change(namespace, request, run_id=request.run_id)
    answer: m.HeartbeatAnswer = (await engine.change(change)).answer
    return answer


VERBS: dict[str, Callable[[Engine, str, Any], Awaitable[Any]]] = {
    "start": start,
    "signal": ask,
    "cancel": ask,
    "terminate": ask,
    "describe": describe,
    "history": history,
    "list": list_,
    "count": count,
    "why": why,
    "result": result,
    "claim": claim,
    "report": report,
    "heartbeat": heartbeat,
    "activity_heartbeat": activity_heartbeat,
}
"""The function of each verb."""


def fitted(engine: Engine, namespace: str, request: Any, response: Any) -> Any:
    """*response*, which is too large for a message, with as many tasks as fit; the others become ready again."""
    room_bytes = engine.bus.max_payload_bytes - REST_BYTES
    match response:
        case m.Tasks() | m.Reported():
            found, left = fit(response, room_bytes)
            leases = [m.Lease(task.run_id, task.seq, task.fence) for task in left]
            engine.give_back(namespace, request.worker, leases)
            return found
    raise Refused(
        f"the answer to {type(request).__name__} is larger than a message of the broker can be "
        f"({engine.bus.max_payload_bytes:,} bytes): ask for less at a time, or raise its max_payload"
    )


def request_hash(request: m.Message) -> bytes:
    """What stands for a request's whole body when the same request id comes again."""
    return hashlib.blake2b(codec.encode(request), digest_size=16).digest()


async def _reported(engine: Engine, request: Any, outcome: Outcome) -> m.Reported:
    answer: m.Reported = outcome.answer
    state = outcome.state
    if state is None:
        return answer
    run_id = request.run_id
    if outcome.is_repeat:
        # The first answer may have been lost, with the tasks that it brought.
        held = await task_store.held_activities(engine.pool, [run_id], request.worker)
        own = await task_store.held_workflows(engine.pool, [run_id], request.worker)
        found = await answers.claimed_workflow_tasks(engine.pool, own, engine.lease_s)
        return m.Reported(
            head_seq=answer.head_seq,
            marker_seq=answer.marker_seq,
            is_turn_applied=answer.is_turn_applied,
            is_closed=answer.is_closed,
            workflow_task=found[0] if found else None,
            activity_tasks=answers.claimed_activity_tasks(held, engine.lease_s),
        )
    workflow_tasks, activity_tasks = await answers.assigned_tasks(
        engine.pool, outcome.assigned, outcome.at, engine.lease_s
    )
    return m.Reported(
        head_seq=outcome.head_seq,
        marker_seq=outcome.marker_seq,
        is_turn_applied=answer.is_turn_applied,
        is_closed=not state.run.is_open,
        workflow_task=workflow_tasks[0] if workflow_tasks else None,
        activity_tasks=activity_tasks,
    )


def _hear(
    engine: Engine, namespace: str, worker: str, queue: str, workflow_slots: int, activity_slots: int
) -> Credit:
    credit = Credit(
        worker, namespace, queue, max(workflow_slots, 0), max(activity_slots, 0), time.monotonic()
    )
    return engine.credits.hear(credit)


async def _run(engine: Engine, namespace: str, workflow_id: str, run_id: str | None) -> views.RunRow:
    if run_id is not None:
        codec.check_run_id(run_id)
    found = await views.find_run(engine.pool, namespace, workflow_id, run_id)
    if found is None:
        raise _no_run(namespace, workflow_id, run_id)
    return found


def _no_run(namespace: str, workflow_id: str, run_id: str | None) -> NotFound:
    which = f"run {run_id} of workflow {workflow_id!r}" if run_id else f"workflow {workflow_id!r}"
    return NotFound(f"no {which} in namespace {namespace!r}")
