"""What Postgres did for a statement: which indexes it went along, how many rows and pages it looked at. Exact, not timed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from holdfast.store.session import Query, Statement


@dataclass
class Case:
    """A statement with its arguments. `index`: one that it goes along. `rows`: how many it gives.

    `work` is how many rows it may look at beside those: of what it counts, or decides about.
    """

    statement: Query[Any] | Statement
    args: Sequence[Any]
    index: str
    rows: int
    work: int = 0


@dataclass
class Look:
    """What was done for one statement."""

    rows: float
    touched: int
    pages: int
    scanned: set[str]
    indexes: set[str]


def literal(value: Any) -> str:
    """A parameter as SQL text."""
    if value is None:
        return "NULL"
    if isinstance(value, list | tuple):
        return "'{" + ",".join(map(_element, value)) + "}'"
    return f"'{value}'"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, tuple):
        # A row. Its texts and bytes are in quotes, which the array's quotes make escaped ones.
        fields = ("" if v is None else f'\\"{v}\\"' if isinstance(v, str) else str(v) for v in value)
        return '"(' + ",".join('\\"\\"' if field == "b''" else field for field in fields) + ')"'
    return f'"{value}"'


def places(statement: Query[Any] | Statement) -> int:
    """How many values the statement takes."""
    return max([0, *map(int, re.findall(r"\$(\d+)", statement.text))])


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Every step of a plan, the whole of it first."""
    return [plan, *(node for part in plan.get("Plans", ()) for node in nodes(part))]


async def look(connection: Any, name: str, args: Sequence[Any]) -> Look | str:
    """What a prepared statement does with these arguments, or what was wrong. It changes nothing in the end."""
    called = f"{name}({', '.join(map(literal, args))})" if args else name
    transaction = connection.transaction()
    await transaction.start()
    try:
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {called}")
    except asyncpg.PostgresError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        await transaction.rollback()
    return seen(json.loads(text)[0]["Plan"])


def seen(plan: dict[str, Any]) -> Look:
    """The figures of a plan that was run."""
    steps = nodes(plan)
    return Look(
        rows=plan["Actual Rows"],
        touched=round(sum(_touched(step) for step in steps)),
        pages=plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
        scanned={step["Relation Name"] for step in steps if step["Node Type"] == "Seq Scan"},
        indexes={step["Index Name"] for step in steps if "Index Name" in step},
    )


def _touched(step: dict[str, Any]) -> float:
    """Rows of a table or index that the step looked at, whether or not it was of use."""
    if "Index Name" not in step and step["Node Type"] not in ("Seq Scan", "Bitmap Heap Scan", "Tid Scan"):
        return 0.0
    in_vain = step.get("Rows Removed by Filter", 0) + step.get("Rows Removed by Index Recheck", 0)
    return float((step["Actual Rows"] + in_vain) * step["Actual Loops"])
