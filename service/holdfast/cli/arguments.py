"""What people type, turned into values: JSON arguments and durations."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Json(click.ParamType[Any]):
    """One JSON value: written out, `@FILE`, or `-` for standard input."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; fails with what is wrong with the text."""
        source, text = _source(value)
        try:
            return json.loads(text, parse_constant=_not_json)
        except (ValueError, RecursionError) as error:
            hint = "" if source else f""" (a string needs its quotes: '"{value}"')"""
            self.fail(f"{source or repr(value)} is not JSON: {error}{hint}", param, ctx)


class Duration(click.ParamType[timedelta]):
    """A time span: seconds, or a number with ms, s, m, h or d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The span; fails with what is wrong with the text."""
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)(ms|s|m|h|d)?", value)
        if match is None:
            self.fail(
                f"{value!r} is not a duration, expected something like 1.5s, 200ms, 5m, 2h or 1d", param, ctx
            )
        try:
            return timedelta(seconds=float(match[1]) * _UNITS[match[2] or "s"])
        except OverflowError:
            self.fail(f"{value!r} is too long", param, ctx)


def once_from_stdin(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> Sequence[Any]:
    """Convert the arguments of a command; `-` may stand there once, because it reads to the end."""
    if list(values).count("-") > 1:
        raise click.BadParameter("standard input (-) can be read once only", ctx=ctx, param=param)
    kind = Json()
    return [kind.convert(value, param, ctx) for value in values]


arguments = click.argument("args", nargs=-1, metavar="[JSON]...", callback=once_from_stdin)
"""Gives a command `args`: the JSON values it was given, in order."""


def _source(value: str) -> tuple[str, str]:
    """What to call the text's source ("" if it was written out), and the text."""
    if value == "-":
        return "standard input", sys.stdin.read()
    if not value.startswith("@"):
        return "", value
    try:
        return value[1:], Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.BadParameter(f"cannot read {value[1:]!r}: {reason}") from error


def _not_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")
