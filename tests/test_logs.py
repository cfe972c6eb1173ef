"""Log lines: one per event, with the ids that belong to it, and nothing that must not be shown."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast import logs

Lines = Callable[[], list[dict[str, Any]]]
Text = Callable[[], str]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """A function that returns what was logged since: parsed from JSON, or text in the other form."""
    root, stream = logging.getLogger(), io.StringIO()
    before = (root.handlers[:], root.level)
    logs.configure("info", "json", stream=stream)

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield read
    root.handlers[:], root.level = before


@pytest.fixture
def text(lines: Lines) -> Text:
    """A function that returns what was logged, in the form for terminals."""
    stream = io.StringIO()
    logs.configure("info", "text", stream=stream)
    return stream.getvalue


log = logging.getLogger("holdfast.test")


async def test_bound_ids_reach_every_line_inside_also_from_tasks_and_none_outside(lines: Lines) -> None:
    async def inside() -> None:
        log.info("working")

    with logs.bind(run_id="r-1", request_id="q-1"):
        await asyncio.gather(inside(), inside())
    log.info("after")

    first, second, last = lines()
    assert (first["run_id"], first["request_id"]) == ("r-1", "q-1")
    assert second["run_id"] == "r-1"
    assert "run_id" not in last
    assert last["message"] == "after"


def test_fields_given_to_one_line_win_over_bound_ones(lines: Lines) -> None:
    with logs.bind(run_id="r-1"):
        log.info("moved", extra={"run_id": "r-2", "count": 3})

    (line,) = lines()
    assert line["run_id"] == "r-2"
    assert line["count"] == 3
    assert line["level"] == "info"
    assert line["logger"] == "holdfast.test"
    assert line["time"].endswith("Z")


def test_passwords_in_urls_never_reach_a_log(lines: Lines) -> None:
    log.error("cannot reach %s", "postgresql://app:s3cret@db/x", extra={"url": "nats://u:s3cret@h:1"})
    log.error("down", exc_info=OSError("postgresql://app:s3cret@db/x refused"))

    assert "s3cret" not in json.dumps(lines())
    assert "OSError" in lines()[1]["error"]


def test_hostile_text_stays_one_line_and_cannot_move_a_terminals_cursor(text: Text) -> None:
    log.info("id %s", "a\nb\x1b[2J\x9b\u202eevil\ud800")

    written = text()
    assert written.count("\n") == 1
    assert "a\\nb\\x1b[2J\\x9b\\u202eevil\\ud800" in written


def test_hostile_text_survives_json(lines: Lines) -> None:
    hostile = "a\nb\x1b[2J\u2028\ud800"
    log.info("id %s", hostile)

    assert lines()[0]["message"] == f"id {hostile}"


def test_a_traceback_on_a_terminal_stands_indented_below_its_line(text: Text) -> None:
    try:
        int("broken\x07")
    except ValueError:
        log.exception("step failed", extra={"run_id": "r-9"})

    head, *trace = text().splitlines()
    assert "ERROR" in head
    assert "run_id=r-9" in head
    assert all(line.startswith("  ") for line in trace)
    assert trace[-1].startswith("  ValueError: invalid literal")


def test_lines_below_the_level_are_not_written(lines: Lines) -> None:
    log.debug("details")

    assert lines() == []
