"""The filter language: what it takes, what it means, and what it says of text that it cannot read."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.core.filters import matches, parse
from holdfast.exceptions import Invalid

NOW = 1_800_000_000.0
RUN: dict[str, Any] = {
    "WorkflowId": "o-17",
    "WorkflowType": "order",
    "TaskQueue": "shop",
    "Status": "PENDING",
    "StartTime": NOW - 60,
    "CloseTime": None,
    "HistoryLength": 7,
    "TaskFailing": False,
    "a": {
        "tenant": "acme",
        "n": 5,
        "ok": True,
        "tags": ["new", "hot"],
        "due": "2026-01-31T12:00:00.000000Z",
        "o'clock": "it's",
    },
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "WorkflowType = 'order'",
        'workflowtype = "order" and tenant = "acme"',
        "Status = 'running'",
        "ExecutionStatus IN ('Running', 'failed')",
        "Status != 'COMPLETED'",
        "StartTime > now() - '5m'",
        "StartTime > '2026-01-01T00:00:00Z' AND StartTime < now()",
        "CloseTime IS NULL AND tenant IS NOT NULL",
        "nobody = 'x' OR n BETWEEN 1 AND 5",
        "NOT (n > 5)",
        "n NOT IN (1, 2)",
        "n NOT BETWEEN 6 AND 9",
        "tags = 'hot'",
        "tags != 'cold'",
        "tenant STARTS_WITH 'ac'",
        "ok = true",
        "due = '2026-01-31T13:00:00+01:00'",
        "due > '2026-01-31T11:59:59Z'",
        "`o'clock` = 'it''s'",
        "TaskFailing = false",
        "n = 5.0 ORDER BY StartTime DESC",
        "(((n = 5)))",
        "HistoryLength >= 7 and (tenant = 'x' or tenant = 'acme')",
    ],
)
def test_a_filter_takes_the_run(text: str) -> None:
    assert matches(parse(text).node, RUN, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "WorkflowType = 'Order'",
        "Status = 'completed'",
        "Status != 'RUNNING'",
        "nobody = 'x'",
        "nobody != 'x'",
        "nobody NOT IN ('x')",
        "n = '5'",
        "ok = 1",
        "n = true",
        "tags != 'hot'",
        "CloseTime > 0",
        "CloseTime IS NOT NULL",
        "tenant < 5",
        "StartTime > now() - '30s'",
        "n = 5 AND NOT ok = true",
    ],
)
def test_a_filter_leaves_the_run_out(text: str) -> None:
    assert not matches(parse(text).node, RUN, NOW)


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("WorkflowType", 13, "=, !="),
        ("WorkflowType = order", 16, "a value"),
        ("n = 5 n = 6", 7, "AND, OR or the end"),
        ("(n = 5", 7, r"\)"),
        ("Status = 'gone'", 10, "a status"),
        ("StartTime > 'tomorrow'", 13, "a time like"),
        ("StartTime > now() - '5 years'", 21, "a duration"),
        ("n = 'open", 5, "a value"),
        ("n = 5 ORDER BY n", 17, "StartTime DESC"),
        ("n = 5 GROUP BY n", 17, "ExecutionStatus"),
        ("n = 5; DROP TABLE run", 6, "AND, OR or the end"),
        ("= 5", 1, "the name of a field"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, place: int, expected: str) -> None:
    with pytest.raises(Invalid, match=rf"at character {place}: found .*expected {expected}"):
        parse(text)


def test_what_must_hold_of_every_match_narrows_the_search() -> None:
    found = parse("WorkflowType = 'order' AND Status = 'FAILED' AND tenant = 'acme'")

    assert (found.workflow_type, found.statuses, found.search_path) == (
        "order",
        ("FAILED",),
        '$."tenant" == "acme"',
    )


def test_what_need_not_hold_narrows_nothing() -> None:
    found = parse("WorkflowType = 'order' OR (NOT Status = 'FAILED') OR tenant = 'acme'")

    assert (found.workflow_type, found.statuses, found.search_path) == (None, None, None)


def test_deep_nesting_is_refused_and_not_recursed_into() -> None:
    with pytest.raises(Invalid, match="nest"):
        parse("(" * 5_000 + "n = 1")
    with pytest.raises(Invalid, match="nest"):
        parse("NOT " * 2_000 + "n = 1")


def test_groups_are_asked_for_at_the_end() -> None:
    assert parse("n = 5 GROUP BY ExecutionStatus").is_grouped
    assert parse("GROUP BY ExecutionStatus").is_grouped
    assert not parse("n = 5").is_grouped
