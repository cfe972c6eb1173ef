"""Arbitrary wire structs: a hypothesis strategy for any type that the wire is made of."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from holdfast.wire import codec
from holdfast.wire import messages as m
from holdfast.wire.commands import AnyCommand
from holdfast.wire.events import AnyEvent, HistoryEvent
from holdfast.wire.failures import Failure

JSON_TEXTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
).map(msgspec.json.encode)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Any text that has a UTF-8 form."""

_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    # NaN is not equal to itself.
    float: st.floats(allow_nan=False),
    bytes: JSON_TEXTS | st.just(b""),
    NoneType: st.none(),
}

KINDS: dict[str, Any] = {
    **{kind.__name__: kind for kind in get_args(AnyEvent)},
    **{kind.__name__: kind for kind in get_args(AnyCommand)},
    **{f"request {verb}": kind for verb, kind in codec.REQUESTS.items()},
    **{f"response {verb}": kind for verb, kind in codec.RESPONSES.items()},
    "HistoryEvent": HistoryEvent,
    "Failure": Failure,
    "Push": m.Push,
    "Hint": m.Hint,
}
"""Everything that is encoded, by a name to show."""


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of *kind*, every field set or left to its default."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return st.one_of([values(arg) for arg in args])
    if origin is list:
        return st.lists(values(args[0]), max_size=2)
    if origin is tuple:
        return st.lists(values(args[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=2)
    if kind is Failure:
        return st.recursive(
            _struct(Failure, {"cause": st.none()}),
            lambda inner: _struct(Failure, {"cause": inner}),
            max_leaves=3,
        )
    return _struct(kind, {})


def _struct(kind: Any, given: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    fields = {
        field.name: given[field.name] if field.name in given else st.deferred(lambda t=field.type: values(t))
        for field in msgspec.structs.fields(kind)
    }
    required = {
        field.name
        for field in msgspec.structs.fields(kind)
        if field.required or (kind.__struct_config__.array_like and field.name in fields)
    }
    return st.fixed_dictionaries(
        {name: value for name, value in fields.items() if name in required},
        optional={name: value for name, value in fields.items() if name not in required},
    ).map(lambda chosen: kind(**chosen))
