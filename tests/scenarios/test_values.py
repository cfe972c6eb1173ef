"""Values of many kinds go into workflows and activities, and come out as what they were."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import Enum, IntEnum, StrEnum
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest

from holdfast import activity, workflow
from holdfast.exceptions import ApplicationError
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import QUEUE, outcome, worker

T = TypeVar("T")


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Plain(Enum):
    ONE = "one"


@dataclass
class Line:
    item: str
    size: Size
    colour: Colour | None = None


@dataclass
class Cart:
    lines: list[Line]
    placed: datetime
    by_colour: dict[str, Line] = field(default_factory=dict)
    pair: tuple[int, str] = (0, "")
    note: str | None = None


@dataclass
class Box(Generic[T]):
    inside: T


class Point(msgspec.Struct):
    x: int
    y: int = 0
    label: str | None = None


class Pair(NamedTuple):
    left: int
    right: str


class Loose(TypedDict, total=False):
    name: str
    at: datetime


CART = Cart(
    lines=[Line("tea", Size.SMALL, Colour.RED), Line("pot", Size.LARGE)],
    placed=datetime(2024, 2, 29, 23, 59, 59, 123456, UTC),
    by_colour={"red": Line("tea", Size.SMALL, Colour.RED)},
    pair=(7, "seven"),
)

VALUES: dict[str, list[tuple[Any, Any]]] = {
    "plain": [
        (type(None), None),
        (bool, True),
        (int, 2**63 - 1),
        (int, -(2**63)),
        (float, 0.1),
        (float, 3.0),
        (str, ""),
        (str, "ünï🙂\u2028\x7f\"'\\"),
        (bytes, b"\x00\xff raw"),
        (Any, {"deep": [1, {"er": None}]}),
    ],
    "collections": [
        (list[int], [3, 1, 2]),
        (list[list[str | None]], [["a", None], []]),
        (dict[str, list[int]], {"a": [1], "": []}),
        (dict[int, str], {1: "one", -2: "two"}),
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2, 3)),
        (set[str], {"a", "b"}),
    ],
    "enums": [
        (Size, Size.LARGE),
        (Colour, Colour.BLUE),
        (Plain, Plain.ONE),
        (list[Size], [Size.SMALL, Size.LARGE]),
        (Literal["yes", "no"], "yes"),
    ],
    "structures": [
        (Line | None, Line("tea", Size.SMALL)),
        (Line | None, None),
        (Cart, CART),
        (Box[Line], Box(Line("x", Size.SMALL))),
        (Point, Point(1, 2, "here")),
        (list[Point], [Point(1), Point(2)]),
        (Pair, Pair(1, "r")),
        (Loose, {"name": "n", "at": datetime(2020, 1, 1, tzinfo=UTC)}),
    ],
    "times": [
        (datetime, datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
        (datetime, datetime(2024, 5, 6, 7, 8, 9)),  # noqa: DTZ001 - users have such
        (date, date(2024, 2, 29)),
        (timedelta, timedelta(days=2, microseconds=5)),
        (UUID, UUID("12345678-1234-5678-1234-567812345678")),
    ],
}


@pytest.mark.parametrize("group", VALUES)
async def test_a_value_survives_client_workflow_and_activity(env: WorkflowEnvironment, group: str) -> None:
    seen: list[list[Any]] = [[] for _ in VALUES[group]]

    def carriers(number: int, kind: Any) -> tuple[Any, Any]:
        async def work(given: Any) -> Any:
            seen[number].append(given)
            return given

        async def flow(given: Any) -> Any:
            seen[number].append(given)
            return await defined(given)

        for fn in (work, flow):
            fn.__annotations__.update({"given": kind, "return": kind})
        defined = activity.defn(name=f"work-{number}")(work)
        return workflow.defn(name=f"flow-{number}")(flow), defined

    made = [carriers(number, kind) for number, (kind, _) in enumerate(VALUES[group])]
    async with worker(env.client, *(flow for flow, _ in made), activities=[work for _, work in made]):
        for number, (_, value) in enumerate(VALUES[group]):
            flow = made[number][0]
            result = await env.client.execute_workflow(flow, value, id=f"{number}", task_queue=QUEUE)
            seen[number].append(result)

    for (_, value), found in zip(VALUES[group], seen, strict=True):
        assert found == [value] * 3
        assert {type(each) for each in found} == {type(value)}


async def test_a_struct_reaches_code_of_today_although_an_older_sender_left_a_field_out(
    env: WorkflowEnvironment,
) -> None:
    @workflow.defn
    async def newer(point: Point, line: Line) -> list[Any]:
        return [point.y, point.label, line.colour]

    given = [{"x": 1, "unknown": True}, {"item": "tea", "size": 1}]

    assert await outcome(env, newer, *given) == [0, None, None]


async def test_twenty_arguments_keep_their_places(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def last(*numbers: int) -> list[int]:
        return list(reversed(numbers))

    @workflow.defn
    async def many(*numbers: int) -> list[int]:
        return await last(*numbers)

    assert await outcome(env, many, *range(20), activities=[last]) == list(reversed(range(20)))


async def test_missing_arguments_take_their_defaults(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def padded(text: str, width: int = 5, fill: str = ".") -> str:
        return text.ljust(width, fill)

    @workflow.defn
    async def some(text: str, fill: str = "-") -> list[str]:
        return [await padded(text), await padded(text, 4), await padded(text, fill=fill)]

    assert await outcome(env, some, "ab", activities=[padded]) == ["ab...", "ab..", "ab---"]


async def test_details_of_an_error_come_back_as_values(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def detailed() -> None:
        raise ApplicationError("with details", {"a": [1]}, None, 2.5, type="T", non_retryable=True)

    @workflow.defn
    async def reads() -> Any:
        try:
            await detailed()
        except Exception as error:
            assert isinstance(error.__cause__, ApplicationError)
            return list(error.__cause__.details)

    assert await outcome(env, reads, activities=[detailed]) == [{"a": [1]}, None, 2.5]
