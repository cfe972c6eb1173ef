"""What commands print: the same values as a table, JSON, lines of JSON, or YAML.

Tables are for people and may change; the other forms are for programs. Text that came from
workflows is escaped, so that it cannot steer the terminal it is shown on.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

import click
import msgspec

from holdfast.logs import escaped

FORMATS = ("table", "json", "jsonl", "yaml")
Value = Mapping[str, Any] | Sequence[Mapping[str, Any]]

# What JSON may carry raw but a terminal should not: C1, DEL, separators, bidirectional controls, surrogates.
_RISKY = re.compile("[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Format(msgspec.Struct, frozen=True):
    """How to print: one of `FORMATS`, and whether tables show times in UTC instead of local time."""

    name: str
    utc: bool = False


Command = TypeVar("Command", bound=Callable[..., Any])


def format_option(command: Command) -> Command:
    """Give *command* `-o` and `--utc` as one argument, `output: Format`."""

    def chosen(ctx: click.Context, _: click.Parameter, name: str | None) -> Format:
        return Format(name or ("table" if sys.stdout.isatty() else "json"), bool(ctx.meta.get("utc")))

    def remember(ctx: click.Context, _: click.Parameter, utc: bool) -> None:
        ctx.meta["utc"] = utc

    output = click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(FORMATS),
        envvar="HOLDFAST_OUTPUT",
        callback=chosen,
        help="How to print [default: table on a terminal, JSON elsewhere].",
    )
    utc = click.option(
        "--utc",
        is_flag=True,
        envvar="HOLDFAST_UTC",
        is_eager=True,
        expose_value=False,
        callback=remember,
        help="Show times in UTC.",
    )
    return output(utc(command))


def emit(value: Value, output: Format, *, columns: Sequence[str] = ()) -> None:
    """Print one record or a list of records. *columns* chooses and orders what tables show of a list."""
    match output.name:
        case "json":
            text = as_json(value, indent=2)
        case "jsonl":
            text = "\n".join(map(as_json, [value] if isinstance(value, Mapping) else value))
        case "yaml":
            text = as_yaml(value)
        case _:
            print_table(value, output, columns)
            return
    if text:
        click.echo(text)


def emit_value(value: Any, output: Format) -> None:
    """Print any value: a string as it is on a terminal, everything else as JSON (or YAML, if asked)."""
    match output.name:
        case "table" if isinstance(value, str):
            click.echo("\n".join(map(escaped, value.splitlines())))
        case "yaml":
            click.echo(as_yaml(value))
        case "jsonl":
            click.echo(as_json(value))
        case _:
            click.echo(as_json(value, indent=2))


def say(sentence: str, record: Mapping[str, Any], output: Format) -> None:
    """Print *sentence* to a person, *record* to a program."""
    if output.name == "table":
        click.echo("\n".join(map(escaped, sentence.splitlines())))
    else:
        emit(record, output)


def as_json(value: Any, *, indent: int | None = None) -> str:
    """*value* as JSON that is safe on a terminal; times as RFC 3339 in UTC."""
    text = json.dumps(value, default=_plain, ensure_ascii=False, indent=indent)
    return _RISKY.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def as_yaml(value: Any) -> str:
    """*value* as YAML, keys in their order."""
    import yaml  # only this format needs it

    plain = json.loads(json.dumps(value, default=_plain))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=False)).rstrip("\n")


def print_table(value: Value, output: Format, columns: Sequence[str] = ()) -> None:
    """Print a record as two columns, or a list of records as a table, in colour where the terminal wants it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if isinstance(value, Mapping):
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, field in value.items():
            table.add_row(name, Text(shown(field, output)))
    else:
        names = columns or list(dict.fromkeys(name for row in value for name in row))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in names:
            table.add_column(name.replace("_", " ").upper(), overflow="fold")
        for row in value:
            table.add_row(*(Text(shown(row.get(name), output)) for name in names))
    console.print(table)


def shown(field: Any, output: Format) -> str:
    """One field as a table shows it."""
    match field:
        case None:
            return ""
        case datetime():
            moment = field.astimezone(UTC if output.utc else None)
            return moment.strftime("%Y-%m-%d %H:%M:%S") + ("Z" if output.utc else "")
        case Enum():
            return field.name
        case str():
            return escaped(field)
        case bool() | int() | float():
            return str(field)
        case _:
            return as_json(field)


def _plain(value: Any) -> Any:
    """What JSON has no word for, in words it has."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return value.total_seconds()
        case Enum():
            return value.name
        case bytes():
            return value.decode(errors="backslashreplace")
        case set() | frozenset():
            return sorted(value)
        case _:
            return str(value)
