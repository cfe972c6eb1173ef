"""What is refused at the door, with a message that says which field and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.exceptions import Invalid
from holdfast.wire import codec
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire import schedules as sch
from holdfast.wire.failures import Failure

START = {"request_id": "r1", "workflow_id": "order-1", "workflow_type": "order", "task_queue": "main"}
ODD_IDS = [
    "with space",
    "dots.and.more",
    "*",
    ">",
    "🦆",
    "x" * 1_000,
    "ü" * 1_000,
    "'; DROP TABLE run;--",
    "a\nb",
    "=2A",
]
TWO_MIB = 2 * 1024 * 1024


def start(**fields: Any) -> m.Start:
    return m.Start(**{**START, **fields})


@pytest.mark.parametrize("odd", ODD_IDS)
@pytest.mark.parametrize("field", START)
def test_odd_but_valid_names_are_taken(field: str, odd: str) -> None:
    codec.check_request(start(**{field: odd}))


@pytest.mark.parametrize("field", START)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("x" * 1_001, "1001 characters"),
        ("🦆" * 501, "2004 bytes"),
        ("a\x00b", "NUL character at position 1"),
        ("ab\udc00", "lone surrogate at position 2"),
        ("🦆" * 300 + "\ud800", "lone surrogate at position 300"),
    ],
)
def test_a_name_that_cannot_be_kept_is_refused_by_field(field: str, text: str, why: str) -> None:
    with pytest.raises(Invalid, match=f"^{field} .*{why}"):
        codec.check_request(start(**{field: text}))


def test_a_name_of_500_four_byte_characters_just_fits() -> None:
    codec.check_request(start(workflow_id="🦆" * 500))


@pytest.mark.parametrize("reuse", ["allow", "allow_if_failed", "reject"])
@pytest.mark.parametrize("conflict", ["fail", "use_existing", "terminate_existing"])
def test_every_id_policy_is_known(reuse: str, conflict: str) -> None:
    codec.check_request(start(id_reuse=reuse, id_conflict=conflict))


@pytest.mark.parametrize("field", ["id_reuse", "id_conflict"])
def test_an_unknown_id_policy_is_refused_with_the_known_ones(field: str) -> None:
    with pytest.raises(Invalid, match=f"{field} is 'perhaps': expected one of .*,"):
        codec.check_request(start(**{field: "perhaps"}))


# -- payloads ---------------------------------------------------------------------------


def test_a_payload_of_exactly_2_mib_is_taken() -> None:
    codec.check_payload("input", b'["' + b"x" * (TWO_MIB - 4) + b'"]', is_array=True)


def test_a_payload_over_2_mib_is_refused_with_its_size() -> None:
    with pytest.raises(Invalid, match=r"input has 2,097,153 bytes.*store large values elsewhere"):
        codec.check_payload("input", b'["' + b"x" * (TWO_MIB - 3) + b'"]', is_array=True)


@pytest.mark.parametrize(
    "text", [b"[]", b"[1]", b'[ "a" , {"b": null} ]', '["🦆"]'.encode(), b'["\\u0000"]', b"[1e999]"]
)
def test_json_arrays_are_arguments(text: bytes) -> None:
    codec.check_payload("input", text, is_array=True)


@pytest.mark.parametrize("text", [b"null", b"1", b'"a"', b"[]", b' {"a": 1} ', b"-0", b'"\\ud83e\\udd86"'])
def test_any_json_is_a_result(text: bytes) -> None:
    codec.check_payload("result", text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nul",
        b"NaN",
        b"[1,]",
        b"[1] 2",
        b"{'a': 1}",
        b'"\x00"',
        b'["\xff"]',
        b'["\xed\xa0\x80"]',
        b'["\\ud800 alone"]',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
@pytest.mark.parametrize("is_array", [True, False])
def test_what_is_not_json_is_refused(text: bytes, is_array: bool) -> None:
    """Whoever reads the history later must be able to: no broken text gets in."""
    with pytest.raises(Invalid, match=r"^input \(\d+ bytes\) is not"):
        codec.check_payload("input", text, is_array=is_array)


@pytest.mark.parametrize("text", [b"null", b"1", b'{"0": 1}', b'"[]"'])
def test_arguments_must_be_an_array(text: bytes) -> None:
    with pytest.raises(Invalid, match="is not a JSON array"):
        codec.check_payload("input", text, is_array=True)


BAD = b'["\xff"]'
REPORT = {"run_id": "r", "worker": "w", "fence": 1}
DAILY = sch.ScheduleSpec(specs=(sch.CronSpec(expr="@daily"),))
BROKEN_INPUT = sch.Schedule(workflow_type="t", task_queue="q", spec=DAILY, input=b"{}")
BELOW_ZERO = sch.Schedule(workflow_type="t", task_queue="q", spec=DAILY, remaining_actions=-1)
BAD_FAILURE = Failure(message="outer", cause=Failure(message="inner", details=BAD))


@pytest.mark.parametrize(
    "request_",
    [
        start(input=BAD),
        m.Signal(request_id="r", workflow_id="w", name="n", input=BAD),
        m.Terminate(request_id="r", workflow_id="w", details=BAD),
        m.CompleteActivity(seq=1, result=BAD, **REPORT),
        m.CancelActivity(seq=1, details=BAD, **REPORT),
        m.FailActivity(seq=1, failure=BAD_FAILURE, **REPORT),
        m.FailActivity(seq=1, failure=Failure(message="late", last_heartbeat=BAD), **REPORT),
        m.FailWorkflowTask(cause="payload", failure=BAD_FAILURE, **REPORT),
    ],
    ids=repr,
)
def test_no_request_brings_a_broken_payload_in(request_: Any) -> None:
    with pytest.raises(Invalid, match=r"is not (a JSON array|JSON)"):
        codec.check_request(request_)


@pytest.mark.parametrize(
    "command",
    [
        c.ScheduleActivity(seq=1, name="a", input=BAD),
        c.ScheduleActivity(seq=1, name="a", input=b"1"),
        c.ScheduleActivity(seq=1, name=""),
        c.ScheduleActivity(seq=1, name="a", task_queue=""),
        c.ScheduleActivity(seq=1, name="a", activity_id="a\x00"),
        c.RecordMarker(kind="patch", name="", value=b"1"),
        c.RecordMarker(kind="patch", name="p", value=BAD),
        c.CompleteWorkflow(result=BAD),
        c.FailWorkflow(failure=BAD_FAILURE),
        c.CancelWorkflow(details=BAD),
    ],
    ids=repr,
)
def test_no_command_brings_a_broken_value_in(command: c.AnyCommand) -> None:
    with pytest.raises(Invalid):
        codec.check_commands([command])


@pytest.mark.parametrize(
    "request_",
    [
        m.Cancel(request_id="r", workflow_id="w", reason=""),
        m.Terminate(request_id="r", workflow_id="w"),
        m.Describe(workflow_id="w"),
        m.Claim(worker="w", task_queue="q"),
        m.WorkerHeartbeat(worker="w", task_queue="q"),
        m.CompleteWorkflowTask(seen_seq=1, **REPORT),
        m.FailWorkflowTask(cause="nondeterminism", failure=Failure(message=""), **REPORT),
        m.FailActivity(seq=1, failure=Failure(message="", details=b"[1]"), **REPORT),
        m.CancelActivity(seq=1, **REPORT),
        m.ReleaseTask(**REPORT),
    ],
    ids=repr,
)
def test_plain_requests_pass(request_: Any) -> None:
    codec.check_request(request_)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (m.Signal(request_id="r", workflow_id="w", name=""), "name"),
        (m.Signal(request_id="", workflow_id="w", name="n"), "request_id"),
        (m.Cancel(request_id="r", workflow_id="w", reason="\x00"), "reason"),
        (m.Result(workflow_id=""), "workflow_id"),
        (m.Claim(worker="", task_queue="q"), "worker"),
        (m.WorkerHeartbeat(worker="w", task_queue=""), "task_queue"),
        (m.ReleaseTask(run_id="r", worker="", fence=1), "worker"),
        (m.FailWorkflowTask(cause="mood", failure=Failure(message=""), **REPORT), "cause"),
        (sch.ListSchedules(cursor="\x00"), "cursor"),
        (sch.DescribeSchedule(schedule_id=""), "schedule_id"),
        (sch.PauseSchedule(request_id="r", schedule_id=""), "schedule_id"),
        (sch.DeleteSchedule(request_id="", schedule_id="s"), "request_id"),
        (sch.CreateSchedule(request_id="r", schedule_id="s", schedule=BROKEN_INPUT), "input"),
        (sch.UpdateSchedule(request_id="r", schedule_id="s", schedule=BELOW_ZERO), "remaining_actions"),
    ],
)
def test_every_request_names_its_broken_field(request_: Any, field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field} "):
        codec.check_request(request_)


def test_every_verb_has_a_request_and_a_response() -> None:
    assert tuple(codec.REQUESTS) == tuple(codec.RESPONSES) == codec.VERBS
