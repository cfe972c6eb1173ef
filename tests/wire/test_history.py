"""History as JSON: nothing is lost on the way out and in, and people can read it."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.exceptions import Invalid
from holdfast.wire import events as e
from holdfast.wire.failures import Failure, RetryPolicy
from holdfast.wire.history import from_rows, to_rows
from tests.wire.structs import values


@pytest.mark.parametrize("kind", get_args(e.AnyEvent), ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_every_event_survives_json(kind: Any, data: st.DataObject) -> None:
    history = [e.HistoryEvent(1, 1_700_000_000.123456, data.draw(values(kind)))]

    rows = json.loads(json.dumps(to_rows(history)))

    assert from_rows(rows) == history


def test_payloads_are_shown_as_the_json_they_are() -> None:
    (row,) = to_rows([e.HistoryEvent(3, 12.5, e.SignalReceived(name="ship", input=b'[{"to": "Graz"}]'))])

    assert row == {
        "event_id": 3,
        "event_type": "SignalReceived",
        "event_time": 12.5,
        "attributes": {"name": "ship", "input": '[{"to": "Graz"}]'},
    }


def test_a_failure_keeps_its_whole_chain() -> None:
    failure = Failure(message="outer", details=b"[1]", cause=Failure(message="inner", last_heartbeat=b"[2]"))
    history = [e.HistoryEvent(9, 1.0, e.WorkflowFailed(failure=failure))]

    assert from_rows(to_rows(history)) == history


def test_a_retry_policy_keeps_its_error_names() -> None:
    retry = RetryPolicy(max_attempts=3, non_retryable=("NotFound", "Ünïcode"))
    history = [
        e.HistoryEvent(
            5, 1.0, e.ActivityScheduled(seq=1, activity_id="1", name="a", task_queue="q", retry=retry)
        )
    ]

    assert from_rows(json.loads(json.dumps(to_rows(history)))) == history


GOOD: dict[str, Any] = {
    "event_id": 1,
    "event_type": "TimerFired",
    "event_time": 1.0,
    "attributes": {"seq": 1},
}


@pytest.mark.parametrize(
    "damage",
    [
        {"event_type": "TimeTravelled"},
        {"event_type": None},
        {"event_id": "first"},
        {"event_id": float("inf")},
        {"event_time": None},
        {"attributes": {}},
        {"attributes": {"seq": "one"}},
        {"attributes": []},
        {"attributes": None},
    ],
)
def test_a_broken_row_is_refused_by_its_number(damage: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=r"^row 1 is not a history event"):
        from_rows([GOOD, {**GOOD, **damage}])


@pytest.mark.parametrize("missing", GOOD)
def test_a_row_with_a_missing_key_is_refused(missing: str) -> None:
    with pytest.raises(Invalid, match=r"^row 0 is not a history event"):
        from_rows([{key: value for key, value in GOOD.items() if key != missing}])


@pytest.mark.parametrize("row", [None, 1, "TimerFired", []])
def test_what_is_no_row_is_refused(row: Any) -> None:
    with pytest.raises(Invalid, match=r"^row 0 is not a history event"):
        from_rows([row])


@pytest.mark.parametrize("attributes", [{"name": "s", "input": 5}, {"name": "s", "input": ["not", "text"]}])
def test_a_payload_that_is_no_text_is_refused(attributes: dict[str, Any]) -> None:
    row = {"event_id": 1, "event_type": "SignalReceived", "event_time": 1.0, "attributes": attributes}

    with pytest.raises(Invalid, match=r"^row 0 is not a history event"):
        from_rows([row])
