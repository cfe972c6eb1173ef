"""JSON arguments and durations, as people type them."""

import io
from datetime import timedelta
from pathlib import Path

import click
import pytest

from holdfast.cli.arguments import Duration, Json


def value(text: str) -> object:
    return Json().convert(text, None, None)


def span(text: str) -> timedelta:
    return Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id": 1}', {"id": 1}),
        ('"hello"', "hello"),
        ("-4", -4),
        ("null", None),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ('"\\u00e9 🎈"', "é 🎈"),
    ],
)
def test_a_literal_is_its_json_value(text: str, expected: object) -> None:
    assert value(text) == expected


def test_an_at_sign_reads_a_file(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"id": 7}', encoding="utf-8")

    assert value(f"@{tmp_path / 'order.json'}") == {"id": 7}


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("[1, 2]"))

    assert value("-") == [1, 2]


def test_a_string_without_quotes_is_told_how_to_be_one() -> None:
    with pytest.raises(
        click.BadParameter, match=r"""'hello' is not JSON.*a string needs its quotes: '"hello"'"""
    ):
        value("hello")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "[1, -Infinity]"])
def test_numbers_that_json_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a JSON number"):
        value(text)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match=r"cannot read .*missing\.json.*No such file"):
        value(f"@{tmp_path / 'missing.json'}")


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")

    with pytest.raises(click.BadParameter, match=r"bad.json is not JSON"):
        value(f"@{tmp_path / 'bad.json'}")


def test_json_nested_too_deep_is_refused_in_words() -> None:
    with pytest.raises(click.BadParameter, match="is not JSON"):
        value("[" * 100_000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("1.5s", 1.5), ("200ms", 0.2), ("5m", 300), ("2h", 7_200), ("1d", 86_400)],
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "-1s", "1 week", "s", "1e3", "99999999999d", "\u0663s"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        span(text)
