"""What the machine calls the store with: few names, so that calls meet, mostly such as exist; one argument in eight
calls is one that cannot be.

Times are long past or far ahead, so that no answer depends on the second in which the test runs.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from holdfast.wire.records import (
    ACTIVITY_STATUSES,
    OPEN_STATUSES,
    OVERLAP_POLICIES,
    TERMINAL_STATUSES,
    WORKFLOW_STATUSES,
    SchedulePatch,
    WorkflowActivity,
    WorkflowEvent,
    WorkflowRecord,
    WorkflowSchedule,
    WorkflowSignal,
    WorkflowTimer,
    WorkflowWorker,
)

Values = st.SearchStrategy[Any]


class Known(msgspec.Struct, frozen=True):
    """The *n*th of the things of a kind that exist so far, counted in a circle."""

    kind: str
    n: int


class Address(msgspec.Struct, frozen=True):
    """A workflow: what is given, or else as the known run has it; with or without its run id."""

    run: Known | None = None
    has_run_id: bool = False
    workflow_id: str = ""
    namespace: str = "main"
    run_id: str | None = None


NUL, LONE, LONG = "a\x00b", "\ud800", "x" * 1001
NAME = ("", NUL, LONE, LONG)
TEXT = (NUL, LONE)
PAST = (1000.0, 1.4e9 + 0.25, 1.4e9 + 0.25, 1.5e9 + 0.000001)
AHEAD = (4.1e9, 9_999_999_999.123456)
NO_TIME = (float("nan"), 1e300, -1e12)
NO_OBJECT = ("[]", "1", "", "{", "null", '{"a": "\\u0000"}', '{"\\ud800": 1}', '{"a": NaN}', '{"a": 1}\x00')
NO_COUNT = (-1, 2**31)

ODD: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("id", "name", "task_queue", "worker_id", "workflow_type", "event_type"), NAME),
    **dict.fromkeys(("workflow_id", "parent_id", "key_hash", "prefix", "namespace"), ("", NUL, LONG)),
    **dict.fromkeys(("error", "label", "archive_uri", "last_workflow_id", "claimed_by", "identity"), (NUL,)),
    **dict.fromkeys(
        ("input", "result", "payload", "details", "state_json", "memo", "heartbeat_details"), TEXT
    ),
    **dict.fromkeys(("search_attributes", "patch_json", "search_attrs_filter"), NO_OBJECT),
    **dict.fromkeys(("now", "cutoff", "archived_at", "created_at", "last_run_at", "next_run_at"), NO_TIME),
    **dict.fromkeys(("updated_at", "completed_at", "timestamp", "fire_at", "received_at"), NO_TIME),
    **dict.fromkeys(("scheduled_at", "next_scheduled_at", "last_heartbeat", "registered_at"), NO_TIME),
    **dict.fromkeys(
        ("seq", "event_seq", "next_attempt", "active_tasks", "max_attempts", "attempt"), NO_COUNT
    ),
    **dict.fromkeys(("max_concurrent_workflows", "max_concurrent_activities"), NO_COUNT),
    **dict.fromkeys(("start_to_close_secs", "jitter_secs", "catchup_window_secs"), (-1.0, float("inf"))),
    "timeout_secs": (-1.0, float("nan")),
    "status": ("DONE", "pending"),
    "run_id": ("nope", "01900000-0000-7000-8000-00000000000G"),
    "request_id": ("", NUL),
    "cron_expr": ("* * *", "0 0 30 2 *", ""),
    "timezone": ("Moon/Crater", ""),
    "overlap_policy": ("never", ""),
    "limit": (0, -1),
    "offset": (-1,),
    "workflows": ([""],),
}
"""What each argument or field, by its name, cannot be."""


def one_of(*values: Any) -> Values:
    return st.sampled_from(values)


NAMESPACES = one_of("main", "main", "main", "a", "a", "b")
WORKFLOWS = one_of("w1", "w2", "w3")
QUEUES = one_of("main", "main", "q2")
WORKERS = one_of("x1", "x1", "x2", "x3")
NAMES = one_of("go", "go", "go", "stop")
TIMES = one_of(*PAST, *AHEAD)
MAYBE_TIMES = one_of(None, *PAST, *AHEAD)
TEXTS = one_of(None, '{"n":  1}', '"ü 😀"', "[]", "not JSON")
ERRORS = one_of(None, "boom")
SEQS = st.integers(1, 3)
ATTRIBUTES = one_of(
    *(
        '{"n": 5}',
        '{"n": "5", "k": null}',
        '{"o": {"a": 1, "b": [1, "x"]}}',
        "{}",
        '{"n": null}',
        '{"k":true}',
    ),
    *('{"o": {"b": ["x"]}}', '{"n": 5.0}', '{"o": {}}'),
)
FILTERS = one_of(
    *[None] * 5, "{}", '{"n": 5}', '{"n": null}', '{"k": null}', '{"o": {"b": ["x"]}}', '{"o": {}}'
)
RUNS = [Address(Known("run", n), has_run_id) for n in range(6) for has_run_id in (False, False, True)]
AT = one_of(
    *RUNS * 4,
    *(Address(workflow_id=workflow_id) for workflow_id in ("nobody", *NAME)),
    *(Address(workflow_id="w1", namespace=namespace) for namespace in ("gone", NUL, "")),
    *(
        Address(workflow_id="w1", run_id=run_id)
        for run_id in ("nope", "01900000-0000-7000-8000-000000000000")
    ),
)
NUMBERS = one_of(*[Known("activity", n) for n in range(6)] * 6, 0, -1, 10**9, 2**63)


def record(kind: type[msgspec.Struct], **fields: Values) -> Values:
    """Records of that kind; one field of one in eight cannot be."""
    return st.builds(
        lambda fault, **given: kind(**given if fault is None else {**given, fault[0]: fault[1]}),
        odd_of(fields),
        **fields,
    )


def odd_of(arguments: dict[str, Values]) -> Values:
    """None, or an argument's name with what it cannot be."""
    faults = [
        (name, value)
        for name, values in arguments.items()
        if values is not NUMBERS
        for value in ODD.get(name, ())
    ]
    return st.sampled_from([*[None] * (7 * len(faults) or 1), *faults])


WORKFLOW = record(
    WorkflowRecord,
    id=WORKFLOWS,
    namespace=NAMESPACES,
    run_id=one_of(*[None] * 9, *(Known("run", n) for n in range(2))),
    workflow_type=one_of("order", "pay"),
    task_queue=QUEUES,
    status=one_of(*["PENDING"] * 4, "RUNNING", "WAITING", "COMPLETED", "FAILED"),
    input=TEXTS,
    result=TEXTS,
    error=ERRORS,
    parent_id=one_of(None, None, "w1", "w2"),
    claimed_by=one_of(None, None, None, "x1"),
    search_attributes=st.none() | ATTRIBUTES,
    memo=TEXTS,
    archive_uri=st.none(),
    created_at=TIMES,
    updated_at=TIMES,
    completed_at=MAYBE_TIMES,
)
ACTIVITY = record(
    WorkflowActivity,
    workflow_id=WORKFLOWS,
    seq=SEQS,
    name=NAMES,
    task_queue=QUEUES,
    input=TEXTS,
    status=one_of(*["PENDING"] * 9, *ACTIVITY_STATUSES),
    attempt=st.integers(0, 2),
    max_attempts=st.integers(0, 3),
    max_interval_secs=one_of(None, 10.0),
    start_to_close_secs=one_of(10.0, 1e6),
    heartbeat_timeout_secs=one_of(None, 10.0, 1e6),
    heartbeat_details=TEXTS,
    claimed_by=one_of(None, None, "x1"),
    scheduled_at=one_of(*PAST, *PAST, *AHEAD),
    started_at=MAYBE_TIMES,
    last_heartbeat=MAYBE_TIMES,
)
EVENT = record(
    WorkflowEvent,
    workflow_id=WORKFLOWS,
    seq=st.integers(1, 9),
    event_type=NAMES,
    payload=TEXTS,
    timestamp=TIMES,
)
TIMER = record(
    WorkflowTimer, workflow_id=WORKFLOWS, seq=SEQS, fire_at=TIMES, fired=one_of(*[False] * 5, True)
)
SIGNAL = record(
    WorkflowSignal,
    workflow_id=WORKFLOWS,
    name=NAMES,
    payload=TEXTS,
    consumed=one_of(*[False] * 5, True),
    received_at=TIMES,
    request_id=one_of(None, "r1", "r2"),
)
SCHEDULE = record(
    WorkflowSchedule,
    name=one_of("s1", "s2", "s3"),
    namespace=NAMESPACES,
    workflow_type=st.just("order"),
    cron_expr=one_of("0 0 1 1 *", "30 0 0 29 2 *", "@yearly"),
    timezone=one_of("UTC", "Europe/Berlin"),
    input=TEXTS,
    task_queue=QUEUES,
    overlap_policy=one_of(*OVERLAP_POLICIES),
    paused=st.booleans(),
    catchup_window_secs=one_of(60.0, 0.0),
    jitter_secs=one_of(0.0, 30.0),
    last_run_at=MAYBE_TIMES,
    next_run_at=st.none() | MAYBE_TIMES,
    last_workflow_id=one_of(None, "w1"),
    created_at=TIMES,
)
UNSET = st.just(msgspec.UNSET)
PATCH = record(
    SchedulePatch,
    workflow_type=UNSET | st.just("pay"),
    cron_expr=UNSET | one_of("0 0 1 1 *", "@monthly"),
    timezone=UNSET | one_of("UTC", "Asia/Tokyo"),
    input=UNSET | TEXTS,
    task_queue=UNSET | QUEUES,
    overlap_policy=UNSET | one_of(*OVERLAP_POLICIES),
    catchup_window_secs=UNSET | st.just(5.0),
    jitter_secs=UNSET | one_of(0.0, 7.0),
)
WORKER = record(
    WorkflowWorker,
    id=WORKERS,
    namespace=NAMESPACES,
    identity=one_of("", "host-1"),
    task_queue=QUEUES,
    workflows=one_of(None, [], ["order", "pay"]),
    activities=one_of(None, ["go"]),
    max_concurrent_workflows=st.integers(0, 3),
    max_concurrent_activities=st.integers(0, 3),
    active_tasks=st.integers(0, 2),
    last_heartbeat=TIMES,
    registered_at=TIMES,
)
SCHEDULED = {"schedule": one_of(*[Known("schedule", n) for n in range(4)] * 3, ("main", "s3"), ("gone", NUL))}
WORK = one_of(
    *[Known("work", n) for n in range(4)] * 3, ("q2", "main"), ("main", "a"), ("main", "gone"), ("", "main")
)
CLAIM = {"work": WORK, "worker_id": WORKERS}
HOLDERS = one_of(*[Known("holder", 0)] * 3, "x1", "x2")
RUN = {"at": AT}

CALLS: dict[str, dict[str, Values]] = {
    "create_namespace": {"name": one_of("a", "b", "main", "a b", "n" * 65, "n" * 64)},
    "list_namespaces": {},
    "delete_namespace": {"name": one_of("a", "a", "b", "main", "gone", NUL, "")},
    "get_namespace_stats": {"namespace": NAMESPACES},
    "create_workflow": {"workflow": WORKFLOW},
    "get_workflow": RUN,
    "list_workflows": {
        "namespace": NAMESPACES,
        "status": one_of(None, None, *WORKFLOW_STATUSES),
        "workflow_type": one_of(None, None, None, "order", "pay", "cook"),
        "search_attrs_filter": FILTERS,
        "limit": one_of(1000, 2),
        "offset": one_of(0, 0, 1, 50),
    },
    "list_archivable_workflows": {"cutoff": TIMES, "limit": one_of(1000, 2)},
    "mark_archived_and_purge": {**RUN, "archive_uri": st.just("s3://x"), "archived_at": TIMES},
    "upsert_search_attributes": {**RUN, "patch_json": ATTRIBUTES},
    "update_workflow_status": {
        **RUN,
        "status": one_of(*OPEN_STATUSES * 4, *TERMINAL_STATUSES),
        "result": TEXTS,
        "error": ERRORS,
    },
    "claim_workflow": {**RUN, "worker_id": WORKERS},
    "mark_workflow_dispatchable": RUN,
    "claim_workflow_task": CLAIM,
    "release_workflow_task": {**RUN, "worker_id": HOLDERS},
    "release_stale_dispatch_leases": {"now": TIMES, "timeout_secs": one_of(0.0, 30.0)},
    "append_event": {**RUN, "event": EVENT},
    "list_events": RUN,
    "get_event_count": RUN,
    "create_activity": {**RUN, "activity": ACTIVITY},
    "get_activity": {"id": NUMBERS},
    "get_activity_by_workflow_seq": {**RUN, "seq": SEQS},
    "claim_activity": CLAIM,
    "requeue_activity_for_retry": {
        "id": NUMBERS,
        "next_attempt": st.integers(1, 3),
        "next_scheduled_at": TIMES,
    },
    "complete_activity": {"id": NUMBERS, "result": TEXTS, "error": ERRORS, "failed": st.booleans()},
    "heartbeat_activity": {"id": NUMBERS, "details": TEXTS, "worker_id": one_of(None, None, "x1", "x2")},
    "get_timed_out_activities": {"now": TIMES},
    "cancel_pending_activities": RUN,
    "cancel_pending_timers": RUN,
    "create_timer": {**RUN, "timer": TIMER},
    "get_timer_by_workflow_seq": {**RUN, "seq": SEQS},
    "fire_due_timers": {"now": TIMES, "limit": one_of(1000, 1), "namespace": st.none() | NAMESPACES},
    "send_signal": {**RUN, "signal": SIGNAL},
    "consume_signals": {**RUN, "name": NAMES},
    "create_schedule": {"schedule": SCHEDULE},
    "get_schedule": SCHEDULED,
    "list_schedules": {"namespace": NAMESPACES},
    "update_schedule_last_run": {
        **SCHEDULED,
        "last_run_at": TIMES,
        "next_run_at": MAYBE_TIMES,
        "workflow_id": WORKFLOWS,
    },
    "delete_schedule": SCHEDULED,
    "update_schedule": {**SCHEDULED, "patch": PATCH},
    "set_schedule_paused": {**SCHEDULED, "paused": st.booleans()},
    "register_worker": {"worker": WORKER},
    "heartbeat_worker": {"id": WORKERS, "now": TIMES},
    "list_workers": {"namespace": NAMESPACES},
    "remove_dead_workers": {"cutoff": TIMES},
    "create_api_key": {
        "key_hash": one_of("h1", "h2", "ü"),
        "prefix": one_of("p1", "p2", "p3"),
        "label": one_of(None, "ci"),
        "created_at": TIMES,
    },
    "validate_api_key": {"key_hash": one_of("h1", "h2", "h3", "ü")},
    "list_api_keys": {},
    "revoke_api_key": {"prefix": one_of("p1", "p2", "p3")},
    "list_child_workflows": {"parent_id": one_of("w1", "w2"), "namespace": NAMESPACES},
    "create_snapshot": {**RUN, "event_seq": st.integers(0, 9), "state_json": TEXTS.filter(bool)},
    "get_latest_snapshot": RUN,
    "get_queue_stats": {"namespace": NAMESPACES},
    "try_acquire_scheduler_lock": {},
}
"""The arguments of every method. *at* stands for a workflow id with its namespace and run id, *work* for a queue and a
namespace, a *schedule* that is none for a namespace and a name."""
