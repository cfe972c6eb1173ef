"""What the verb machine asks with. `Nth` and negative numbers stand for what exists when it is asked. Claims nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire.failures import Failure, RetryPolicy

NAMESPACES = ("main", "a")
WORKERS = ("w1", "w2", "gone")
ANSWERING = ("w1", "w2")
QUEUES = ("q", "r")
WORKFLOWS = ("order-1", "order-2", "order-3")
NOBODY = "00000000-0000-7000-8000-000000000000"

namespace = st.sampled_from(["main"] * 4 + ["a"])
anywhere = st.sampled_from(["main"] * 8 + ["a", "a", "nowhere"])
worker = st.sampled_from(["w1"] * 3 + ["w2", "w2", "gone"])
queue = st.sampled_from(["q", "q", "q", "r"])
workflow_id = st.sampled_from(WORKFLOWS)
nth = st.integers(0, 7)
rarely = st.sampled_from([False] * 7 + [True])
often = st.sampled_from([True, True, False])
# How far a fence is from the one in force.
off = st.sampled_from([0] * 8 + [1, -1, 1_000])
slots = st.sampled_from([0, 0, 1, 1, 2, 5])

behind = st.sampled_from([0] * 6 + [1, -1])
assumed = st.sampled_from([1] * 6 + [0, 2, None, None])
task_end = st.sampled_from([m.CompleteWorkflowTask] * 6 + [m.FailWorkflowTask, m.ReleaseTask])
activity_end = st.sampled_from(
    [m.CompleteActivity] * 4
    + [m.FailActivity] * 3
    + [m.ActivityHeartbeat] * 2
    + [m.CancelActivity, m.ReleaseTask]
)

id_reuse = st.sampled_from(["allow"] * 3 + ["allow_if_failed", "reject"])
id_conflict = st.sampled_from(["fail"] * 3 + ["use_existing", "terminate_existing"])
read = st.sampled_from(["describe", "history", "list", "through the contract"])
listing = st.builds(
    m.List,
    statuses=st.lists(st.sampled_from(["running", "COMPLETED", "FAILED", "TERMINATED", "odd"]), max_size=2),
    workflow_id=st.none() | workflow_id,
    task_failing=rarely,
    limit=st.sampled_from([0, 1, 2, 100]),
)

failure = st.builds(
    Failure,
    message=st.sampled_from(["boom", "bang"]),
    type=st.none() | st.just("Fatal"),
    non_retryable=rarely,
    next_retry_delay_s=st.sampled_from([None, None, None, 0.0, 30.0]),
    details=st.sampled_from([b"", b"[1]"]),
)
policy = st.builds(
    RetryPolicy,
    initial_s=st.sampled_from([0.0, 1.0, 1.0, 4.0]),
    coefficient=st.sampled_from([1.0, 2.0]),
    max_s=st.sampled_from([None, 2.0]),
    max_attempts=st.integers(0, 3),
    non_retryable=st.sampled_from([(), ("Fatal",)]),
)
limit = st.sampled_from([None, None, 5.0, 20.0])
payload = st.sampled_from([b"null", b'"x"', b"[1]"])

activity = st.builds(
    c.ScheduleActivity,
    seq=st.just(0),
    name=st.sampled_from(["charge", "ship"]),
    input=st.sampled_from([b"[]", b'["x"]']),
    task_queue=st.sampled_from([None, None, "q", "r"]),
    schedule_to_close_s=limit,
    schedule_to_start_s=limit,
    start_to_close_s=limit,
    heartbeat_s=limit,
    retry=policy,
    is_eager=often,
)
timer = st.builds(c.StartTimer, seq=st.just(0), delay_s=st.sampled_from([30.0, 1 / 64, 1.0, 4.0]))
marker = st.builds(c.RecordMarker, kind=st.just("side_effect"), name=st.just("n"), value=payload)
# The number stands for one of those that exist, the newest first.
cancel_activity = st.builds(c.RequestCancelActivity, seq=st.integers(1, 4))
cancel_timer = st.builds(c.CancelTimer, seq=st.integers(1, 4))
closing = st.one_of(
    st.builds(c.CompleteWorkflow, result=payload),
    st.builds(c.FailWorkflow, failure=failure),
    st.builds(c.CancelWorkflow),
)
commands = st.tuples(
    st.lists(st.one_of(activity, activity, timer, timer, marker, cancel_activity, cancel_timer), max_size=5),
    st.one_of(st.none(), st.none(), st.none(), st.none(), st.none(), closing),
    # A batch that is wrong somewhere: refused as a whole.
    rarely,
).map(lambda drawn: _batch(*drawn))
seconds = st.sampled_from([0.5, 1.0, 1.0, 5.0, 10.0, 30.0, 120.0, None, None, None, None])


def _batch(opened: list[Any], close: Any, is_wrong: bool) -> list[c.AnyCommand]:
    batch = [*opened, *([] if close is None else [close])]
    if is_wrong:
        batch.append(c.CancelTimer(seq=10_000))
    return batch
