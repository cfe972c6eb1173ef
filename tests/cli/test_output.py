"""The same values as a table, JSON, lines of JSON, or YAML."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from holdfast.cli.output import Format, as_json, emit, emit_value, say

ROWS = [
    {"status": "RUNNING", "workflow_id": "order-1", "start_time": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)},
    {"status": "FAILED", "workflow_id": "a\nb\x1b[2J", "start_time": None},
]


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_json_is_one_document_with_times_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format("json"))

    first, second = json.loads(printed(capsys))
    assert first["start_time"] == "2030-01-02T03:04:05Z"
    assert second["workflow_id"] == "a\nb\x1b[2J"


def test_json_lines_are_one_record_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format("jsonl"))

    lines = printed(capsys).splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["RUNNING", "FAILED"]


def test_yaml_says_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format("yaml"))
    found = yaml.safe_load(printed(capsys))
    emit(ROWS, Format("json"))

    assert found == json.loads(printed(capsys))


def test_a_table_has_a_line_for_each_record_and_steers_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit(ROWS, Format("table", utc=True), columns=("status", "workflow_id", "start_time"))

    table = printed(capsys)
    assert "STATUS" in table
    assert "2030-01-02 03:04:05Z" in table
    assert "a\\nb\\x1b[2J" in table
    assert "\x1b" not in table


def test_an_empty_list_is_empty_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], Format("json"))
    assert json.loads(printed(capsys)) == []
    emit([], Format("jsonl"))
    assert printed(capsys) == ""


@pytest.mark.parametrize("text", ["\x9b2J", "\x7f", "\u202eevil", "\ud800", "\u2028"])
def test_json_keeps_odd_text_and_shows_none_of_it_raw(text: str) -> None:
    shown = as_json({"id": text})

    assert text not in shown
    assert json.loads(shown) == {"id": text}


def test_a_result_that_is_text_is_shown_as_it_is_to_a_person_and_as_json_to_a_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit_value("two\nlines", Format("table"))
    assert printed(capsys) == "two\nlines\n"
    emit_value("two\nlines", Format("json"))
    assert printed(capsys) == '"two\\nlines"\n'


def test_a_person_gets_a_sentence_and_a_program_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    say("Done.", {"run_id": "r"}, Format("table"))
    assert printed(capsys) == "Done.\n"
    say("Done.", {"run_id": "r"}, Format("json"))
    assert json.loads(printed(capsys)) == {"run_id": "r"}


def test_spans_are_seconds_and_bytes_are_text() -> None:
    assert json.loads(as_json({"a": timedelta(minutes=1), "b": b"x\xff"})) == {"a": 60, "b": "x\\xff"}
