"""The filter language of lists: text to a `Filter`, which says the same to Postgres and to Python. Pure.

Postgres gets one jsonpath predicate over a document made of a run's row (`document` fields and search attributes), as
a bound parameter: no SQL is ever made of a filter. Every test is two-valued: what a run does not have, or has in
another type, equals nothing, is less than nothing and differs from nothing; `IS NULL` asks for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import msgspec

from holdfast.exceptions import Invalid

OPEN: Final = ("PENDING", "RUNNING", "WAITING")
STATUSES: Final = (*OPEN, "COMPLETED", "FAILED", "CANCELLED", "TERMINATED", "TIMED_OUT", "CONTINUED_AS_NEW")
FIELDS: Final = {
    "workflowid": "WorkflowId",
    "runid": "RunId",
    "workflowtype": "WorkflowType",
    "taskqueue": "TaskQueue",
    "status": "Status",
    "executionstatus": "Status",
    "starttime": "StartTime",
    "closetime": "CloseTime",
    "updatetime": "UpdateTime",
    "parentid": "ParentId",
    "historylength": "HistoryLength",
    "taskfailing": "TaskFailing",
}
"""System fields, whose names are read in any case; every other name is a search attribute."""

_TIMES = ("StartTime", "CloseTime", "UpdateTime")
_SPELLED = {"CANCELED": "CANCELLED", "TIMEDOUT": "TIMED_OUT", "CONTINUEDASNEW": "CONTINUED_AS_NEW"}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_CHARS_MAX, _DEPTH_MAX = 10_000, 50
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    r"|(?P<mark><=|>=|!=|<>|=|<|>|\(|\)|,|-|\+)|`(?P<quoted>[^`]+)`|(?P<word>[A-Za-z_][\w.]*))"
)
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")


class Moment(msgspec.Struct, frozen=True):
    """So many seconds after the moment at which the filter is asked."""

    offset_s: float


Value = str | float | bool | Moment


class Test(msgspec.Struct, frozen=True):
    """A field against values: `op` is =, <, <=, >, >=, IN, STARTS_WITH or EXISTS."""

    path: tuple[str, ...]
    op: str
    values: tuple[Value, ...] = ()


class Not(msgspec.Struct, frozen=True):
    """Whatever *part* does not match."""

    part: Node


class All(msgspec.Struct, frozen=True):
    """What every part matches."""

    parts: tuple[Node, ...]


class Either(msgspec.Struct, frozen=True):
    """What some part matches."""

    parts: tuple[Node, ...]


Node = Test | Not | All | Either


class Predicate(str):
    """A filter as jsonpath, with what it was made of, so that who has no Postgres can ask Python."""

    node: Node

    @classmethod
    def of(cls, node: Node) -> Predicate:
        """The predicate that says *node*."""
        made = cls(_path(node))
        made.node = node
        return made


class Filter(msgspec.Struct, frozen=True):
    """What a filter means. `statuses`, `workflow_type`, `workflow_id` and `search_path` follow from `node`, each None
    if nothing does: they narrow what must be looked at. `path` is the whole as jsonpath, in which `$now` is the time.
    """

    node: Node | None = None
    path: Predicate | None = None
    statuses: tuple[str, ...] | None = None
    workflow_type: str | None = None
    workflow_id: str | None = None
    search_path: str | None = None
    is_grouped: bool = False


def parse(text: str) -> Filter:
    """The filter that *text* spells; an empty one matches every run. Raises `Invalid` with the place that is wrong."""
    if len(text) > _CHARS_MAX:
        raise Invalid(f"the filter has {len(text):,} characters: expected at most {_CHARS_MAX:,}")
    parser = _Parser(text)
    node = None if parser.is_at(None, "ORDER", "GROUP") else parser.any_of(0)
    is_grouped = parser.ending()
    if node is None:
        return Filter(is_grouped=is_grouped)
    hints: dict[str, Any] = {}
    for part in node.parts if isinstance(node, All) else (node,):
        if isinstance(part, Test):
            _hint(part, hints)
    return Filter(node=node, path=Predicate.of(node), is_grouped=is_grouped, **hints)


def matches(node: Node | None, document: Mapping[str, Any], now: float) -> bool:
    """Whether a run with this document matches at *now*: what Postgres says of `Filter.path`."""
    match node:
        case None:
            return True
        case All(parts):
            return all(matches(part, document, now) for part in parts)
        case Either(parts):
            return any(matches(part, document, now) for part in parts)
        case Not(part):
            return not matches(part, document, now)
        case Test(path, op, values):
            found: Any = document
            for step in path:
                found = found.get(step) if isinstance(found, Mapping) else None
            have = [item for item in (found if isinstance(found, list) else [found]) if item is not None]
            wanted = [now + value.offset_s if isinstance(value, Moment) else value for value in values]
            return (
                bool(have)
                if op == "EXISTS"
                else any(_holds(item, op, value) for item in have for value in wanted)
            )


def _holds(item: Any, op: str, value: Any) -> bool:
    if _kind(item) is not _kind(value):
        return False
    match op:
        case "=" | "IN":
            return bool(item == value)
        case "<":
            return bool(item < value)
        case "<=":
            return bool(item <= value)
        case ">":
            return bool(item > value)
        case ">=":
            return bool(item >= value)
    return isinstance(item, str) and item.startswith(value)


def _kind(value: object) -> type:
    return bool if isinstance(value, bool) else float if isinstance(value, int | float) else str


def _hint(test: Test, hints: dict[str, Any]) -> None:
    texts = tuple(value for value in test.values if isinstance(value, str))
    is_equal = test.op == "=" and len(test.values) == 1
    match test.path:
        case ("Status",) if test.op in ("=", "IN"):
            hints.setdefault("statuses", texts)
        case ("WorkflowType",) if is_equal and texts:
            hints.setdefault("workflow_type", texts[0])
        case ("WorkflowId",) if is_equal and texts:
            hints.setdefault("workflow_id", texts[0])
        case ("a", name) if is_equal and not isinstance(test.values[0], Moment):
            hints.setdefault("search_path", f"$.{json.dumps(name)} == {json.dumps(test.values[0])}")


def _path(node: Node) -> str:
    match node:
        case All(parts):
            return "(" + " && ".join(map(_path, parts)) + ")"
        case Either(parts):
            return "(" + " || ".join(map(_path, parts)) + ")"
        case Not(part):
            return f"!({_path(part)})"
        case Test(path, op, values):
            steps = "$" + "".join(f".{json.dumps(step)}" for step in path)
            if op == "EXISTS":
                return f"exists({steps} ? (@ != null))"
            sign = {"=": "==", "IN": "==", "STARTS_WITH": "starts with"}.get(op, op)
            tests = " || ".join(f"@ {sign} {_literal(value)}" for value in values)
            return f"exists({steps} ? ({tests}))"


def _literal(value: Value) -> str:
    return f"($now + {value.offset_s!r})" if isinstance(value, Moment) else json.dumps(value)


class _Parser:
    """Reads a filter from left to right. `place` is where the next token begins."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self.place = 0
        self._kind: str | None = None
        self._token = ""
        self._next()

    def is_at(self, *words: str | None) -> bool:
        """Whether the next token is one of these words or marks; None stands for the end."""
        if self._kind is None:
            return None in words
        return self._kind in ("word", "mark") and self._token.upper() in words

    def any_of(self, depth: int) -> Node:
        """A chain of OR."""
        if depth > _DEPTH_MAX:
            raise Invalid(
                f"the filter is nested deeper than {_DEPTH_MAX} levels at character {self.place + 1}"
            )
        parts = [self._all_of(depth)]
        while self._skipped("OR"):
            parts.append(self._all_of(depth))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def ending(self) -> bool:
        """What may follow the conditions; whether it is GROUP BY ExecutionStatus."""
        is_grouped = False
        if self._skipped("GROUP"):
            self._must("BY")
            is_grouped = self._field() == ("Status",) or self._wrong(
                "ExecutionStatus, the one field to group by"
            )
        elif self._skipped("ORDER"):
            self._must("BY")
            if self._field() != ("StartTime",) or self._skipped("ASC"):
                self._wrong("StartTime DESC, the one order of lists")
            self._skipped("DESC")
        if not self.is_at(None):
            self._wrong("AND, OR or the end")
        return is_grouped

    def _all_of(self, depth: int) -> Node:
        parts: list[Node] = []
        while True:
            part = self._one(depth)
            parts.extend(part.parts if isinstance(part, All) else (part,))
            if not self._skipped("AND"):
                return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self, depth: int) -> Node:
        if self._skipped("NOT"):
            return Not(self._one(depth + 1)) if depth < _DEPTH_MAX else self._wrong("less nesting")
        if self._skipped("("):
            inner = self.any_of(depth + 1)
            self._must(")")
            return inner
        return self._test(self._field())

    def _test(self, path: tuple[str, ...]) -> Node:
        if self._skipped("IS"):
            is_not = self._skipped("NOT")
            self._must("NULL")
            there = Test(path, "EXISTS")
            return there if is_not else Not(there)
        is_not = self._skipped("NOT")
        if self._skipped("IN"):
            self._must("(")
            values = [*self._value(path)]
            while self._skipped(","):
                values += self._value(path)
            self._must(")")
            return self._unless(is_not, Test(path, "IN", tuple(values)))
        if self._skipped("BETWEEN"):
            low = Test(path, ">=", self._value(path))
            self._must("AND")
            return self._unless(is_not, All((low, Test(path, "<=", self._value(path)))))
        if self._skipped("STARTS_WITH"):
            return self._unless(is_not, Test(path, "STARTS_WITH", self._value(path)))
        op = self._token
        if is_not or self._kind != "mark" or op not in ("=", "!=", "<>", "<", "<=", ">", ">="):
            self._wrong("=, !=, <, <=, >, >=, IN, BETWEEN, STARTS_WITH or IS NULL")
        self._next()
        values_ = self._value(path)
        if op in ("!=", "<>"):
            return self._unless(True, Test(path, "IN", values_))
        return Test(path, "IN" if len(values_) > 1 else op, values_)

    def _unless(self, is_not: bool, test: Test | All) -> Node:
        """*test*, or that the field is there and does not pass it."""
        if not is_not:
            return test
        path = test.path if isinstance(test, Test) else test.parts[0].path  # type: ignore[union-attr]
        return All((Test(path, "EXISTS"), Not(test)))

    def _field(self) -> tuple[str, ...]:
        if self._kind not in ("word", "quoted"):
            self._wrong("the name of a field or search attribute")
        name = self._token
        system = FIELDS.get(name.lower()) if self._kind == "word" else None
        self._next()
        return (system,) if system else ("a", name)

    def _value(self, path: tuple[str, ...]) -> tuple[Value, ...]:
        """The values that the next token stands for: several for a status that means several."""
        kind, token = self._kind, self._token
        if self.is_at("NOW"):
            self._next()
            self._must("(")
            self._must(")")
            return (Moment(self._offset_s()),)
        if kind == "word" and token.lower() in ("true", "false"):
            self._next()
            return (token.lower() == "true",)
        if kind == "number":
            self._next()
            return (float(token) if "." in token or "e" in token.lower() else int(token),)
        if kind != "text":
            self._wrong("a value: quoted text, a number, true, false or now()")
        text = token[1:-1].replace(token[0] * 2, token[0])
        value = self._of_field(path, text)
        self._next()
        return value

    def _of_field(self, path: tuple[str, ...], text: str) -> tuple[Value, ...]:
        if path == ("Status",):
            name = text.upper().replace(" ", "_")
            name = _SPELLED.get(name, name)
            if name not in STATUSES:
                self._wrong(f"a status: {', '.join(STATUSES)}")
            return OPEN if name == "RUNNING" else (name,)
        if path[0] in _TIMES or (path[0] == "a" and "T" in text and _ISO.fullmatch(text)):
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                self._wrong("a time like '2026-01-31T12:00:00Z'")
            moment = moment.replace(tzinfo=moment.tzinfo or UTC)
            return (moment.timestamp() if path[0] in _TIMES else time_text(moment),)
        return (text,)

    def _offset_s(self) -> float:
        sign = -1 if self.is_at("-") else 1
        if not (self._skipped("-") or self._skipped("+")):
            return 0.0
        found = re.fullmatch(r"['\"](\d+(?:\.\d+)?)([smhdw])['\"]", self._token)
        if self._kind != "text" or found is None:
            raise self._fault("a duration like '5m' (s, m, h, d, w)")
        self._next()
        return float(sign * float(found[1]) * _UNITS[found[2]])

    def _skipped(self, word: str) -> bool:
        if self.is_at(word):
            self._next()
            return True
        return False

    def _must(self, word: str) -> None:
        if not self._skipped(word):
            self._wrong(word)

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._end)
        if found is None:
            rest = self._text[self._end :]
            self.place, self._kind, self._token = self._end + len(rest) - len(rest.lstrip()), None, ""
            if rest.strip():
                self._kind, self._token = "odd", rest.strip()[:20]
            return
        self._kind = found.lastgroup
        self._token = found[found.lastgroup or 0]
        self.place, self._end = found.start(found.lastgroup or 0), found.end()

    def _wrong(self, expected: str) -> NoReturn:
        raise self._fault(expected)

    def _fault(self, expected: str) -> Invalid:
        found = repr(self._token) if self._kind else "the end"
        return Invalid(
            f"the filter cannot be read at character {self.place + 1}: found {found}, expected {expected}"
        )


def time_text(moment: datetime) -> str:
    """A moment as search attributes hold it: in UTC, to the microsecond, so that texts sort as moments do."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def document(run: Any, search: Mapping[str, Any] | None, parent_id: str | None = None) -> dict[str, Any]:
    """What a filter looks at, of a `core.state.Run`."""
    return {
        "WorkflowId": run.workflow_id,
        "RunId": run.run_id,
        "WorkflowType": run.workflow_type,
        "TaskQueue": run.task_queue,
        "Status": run.status,
        "StartTime": run.created_at,
        "CloseTime": run.closed_at,
        "UpdateTime": run.last_at,
        "ParentId": parent_id,
        "HistoryLength": run.last_seq,
        "TaskFailing": run.task_failure_cause is not None,
        "a": search,
    }
