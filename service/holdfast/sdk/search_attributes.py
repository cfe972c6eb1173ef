"""Search attributes: typed values by which runs are listed. Keys, pairs, updates, and how they travel. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from itertools import pairwise
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast, get_origin, overload

import msgspec

SearchAttributeValue = str | int | float | bool | datetime | Sequence[str]
V = TypeVar("V", str, int, float, bool, datetime, Sequence[str])
D = TypeVar("D")


class SearchAttributeIndexedValueType(IntEnum):
    """The type of a search attribute."""

    TEXT = 1
    KEYWORD = 2
    INT = 3
    DOUBLE = 4
    BOOL = 5
    DATETIME = 6
    KEYWORD_LIST = 7


_NAMES = {
    SearchAttributeIndexedValueType.TEXT: "Text",
    SearchAttributeIndexedValueType.KEYWORD: "Keyword",
    SearchAttributeIndexedValueType.INT: "Int",
    SearchAttributeIndexedValueType.DOUBLE: "Double",
    SearchAttributeIndexedValueType.BOOL: "Bool",
    SearchAttributeIndexedValueType.DATETIME: "Datetime",
    SearchAttributeIndexedValueType.KEYWORD_LIST: "KeywordList",
}


@dataclass(frozen=True)
class SearchAttributeKey(Generic[V]):
    """Name and type of a search attribute. Made by one of the `for_…` functions."""

    name: str
    indexed_value_type: SearchAttributeIndexedValueType
    value_type: type[V]

    @property
    def origin_value_type(self) -> type:
        """`value_type` without its parameters, for `isinstance`."""
        return get_origin(self.value_type) or self.value_type

    def value_set(self, value: V) -> SearchAttributeUpdate[V]:
        """An update that sets the attribute."""
        return SearchAttributeUpdate(self, value)

    def value_unset(self) -> SearchAttributeUpdate[V]:
        """An update that removes the attribute."""
        return SearchAttributeUpdate(self, None)

    @staticmethod
    def for_text(name: str) -> SearchAttributeKey[str]:
        """A key of text."""
        return SearchAttributeKey(name, SearchAttributeIndexedValueType.TEXT, str)

    @staticmethod
    def for_keyword(name: str) -> SearchAttributeKey[str]:
        """A key of short text that is compared whole."""
        return SearchAttributeKey(name, SearchAttributeIndexedValueType.KEYWORD, str)

    @staticmethod
    def for_int(name: str) -> SearchAttributeKey[int]:
        """A key of whole numbers."""
        return SearchAttributeKey(name, SearchAttributeIndexedValueType.INT, int)

    @staticmethod
    def for_float(name: str) -> SearchAttributeKey[float]:
        """A key of numbers."""
        return SearchAttributeKey(name, SearchAttributeIndexedValueType.DOUBLE, float)

    @staticmethod
    def for_bool(name: str) -> SearchAttributeKey[bool]:
        """A key of true and false."""
        return SearchAttributeKey(name, SearchAttributeIndexedValueType.BOOL, bool)

    @staticmethod
    def for_datetime(name: str) -> SearchAttributeKey[datetime]:
        """A key of moments."""
        return SearchAttributeKey(name, SearchAttributeIndexedValueType.DATETIME, datetime)

    @staticmethod
    def for_keyword_list(name: str) -> SearchAttributeKey[Sequence[str]]:
        """A key of lists of keywords."""
        kind: Any = Sequence[str]
        return SearchAttributeKey(name, SearchAttributeIndexedValueType.KEYWORD_LIST, kind)


@dataclass(frozen=True)
class SearchAttributeUpdate(Generic[V]):
    """A change of one attribute; `value` None removes it."""

    key: SearchAttributeKey[V]
    value: V | None


class SearchAttributePair(NamedTuple, Generic[V]):
    """A key and its value."""

    key: SearchAttributeKey[V]
    value: V


@dataclass(frozen=True)
class TypedSearchAttributes(Collection[SearchAttributePair[Any]]):
    """Pairs of keys and values, each name once, sorted by name.

    What the service tells has its type from the value: text is a keyword. A key of another type that fits the value
    (text, or a moment) finds it too.
    """

    search_attributes: Sequence[SearchAttributePair[Any]]

    empty: ClassVar[TypedSearchAttributes]

    def __post_init__(self) -> None:
        ordered = sorted(self.search_attributes, key=lambda pair: pair.key.name)
        object.__setattr__(self, "search_attributes", ordered)
        for before, pair in pairwise(ordered):
            if before.key.name == pair.key.name:
                raise ValueError(f"Duplicate search attribute entries found for key {pair.key.name}")

    def __len__(self) -> int:
        return len(self.search_attributes)

    def __iter__(self) -> Iterator[SearchAttributePair[Any]]:
        return iter(self.search_attributes)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, SearchAttributeKey) and self.get(key) is not None

    def __getitem__(self, key: SearchAttributeKey[V]) -> V:
        for found in self.search_attributes:
            if found.key == key:
                value: V = found.value
                return value
            if found.key.name == key.name:
                fitting = _fitting(key, found)
                if fitting is not None:
                    return cast(V, fitting)
        raise KeyError(key.name)

    @overload
    def get(self, key: SearchAttributeKey[V]) -> V | None: ...

    @overload
    def get(self, key: SearchAttributeKey[V], default: D) -> V | D: ...

    def get(self, key: SearchAttributeKey[Any], default: Any = None) -> Any:
        """The value of the key, or *default*."""
        try:
            return self[key]
        except KeyError:
            return default

    def updated(self, *search_attributes: SearchAttributePair[Any]) -> TypedSearchAttributes:
        """A copy in which these replace what has their names, or are added."""
        pairs = {pair.key.name: pair for pair in (*self.search_attributes, *search_attributes)}
        return TypedSearchAttributes(list(pairs.values()))


TypedSearchAttributes.empty = TypedSearchAttributes([])


def encoded(given: Any) -> tuple[bytes, dict[str, str]]:
    """Attributes or updates as they travel: JSON object text and the types. None is nothing; plain mappings of names
    to lists of values, an older form, go too.
    """
    if not given:
        return b"", {}
    if isinstance(given, Mapping):
        given = _of_mapping(given)
    values: dict[str, Any] = {}
    types: dict[str, str] = {}
    for item in given:
        key, value = item.key, item.value
        if value is None:
            values[key.name] = None
            continue
        _check(key, value)
        values[key.name] = _wire_value(value)
        types[key.name] = _NAMES[key.indexed_value_type]
    return msgspec.json.encode(values), types


def decoded(text: bytes, types: Mapping[str, str] | None = None) -> TypedSearchAttributes:
    """What `encoded` made; without *types* they follow from the values."""
    found: dict[str, Any] = msgspec.json.decode(text) if text else {}
    pairs = []
    for name, value in found.items():
        key = _key_of(name, value, (types or {}).get(name))
        if key is not None:
            is_moment = key.indexed_value_type is SearchAttributeIndexedValueType.DATETIME
            pairs.append(SearchAttributePair(key, datetime.fromisoformat(value) if is_moment else value))
    return TypedSearchAttributes(pairs)


def names(text: bytes) -> list[str]:
    """The names that a change speaks of."""
    return list(msgspec.json.decode(text, type=dict[str, Any]))


def untyped(attributes: TypedSearchAttributes) -> dict[str, list[Any]]:
    """The older form: a list of values for each name."""
    return {
        pair.key.name: list(pair.value) if isinstance(pair.value, list | tuple) else [pair.value]
        for pair in attributes
    }


def _fitting(key: SearchAttributeKey[Any], found: SearchAttributePair[Any]) -> Any:
    value = found.value
    match key.indexed_value_type:
        case SearchAttributeIndexedValueType.DATETIME if isinstance(value, str):
            try:
                return datetime.fromisoformat(value)
            except ValueError:
                return None
        case SearchAttributeIndexedValueType.TEXT | SearchAttributeIndexedValueType.KEYWORD:
            return value if isinstance(value, str) else None
        case SearchAttributeIndexedValueType.DOUBLE if isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    return None


def _of_mapping(given: Mapping[str, Any]) -> list[SearchAttributeUpdate[Any]]:
    updates: list[SearchAttributeUpdate[Any]] = []
    for name, values in given.items():
        items = list(values)
        value = None if not items else items[0] if len(items) == 1 else items
        key = _key_of(name, value, None) or SearchAttributeKey.for_keyword(name)
        updates.append(SearchAttributeUpdate(key, value))
    return updates


def _check(key: SearchAttributeKey[Any], value: Any) -> None:
    kind = key.origin_value_type
    is_right = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if isinstance(value, bool) and kind is not bool:
        is_right = False
    if kind is Sequence:
        is_right = not isinstance(value, str) and all(isinstance(part, str) for part in value)
    if not is_right:
        wanted = "a list of texts" if kind is Sequence else kind.__name__
        raise TypeError(f"search attribute {key.name!r} is {value!r}: expected {wanted}")


def _wire_value(value: Any) -> Any:
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value if isinstance(value, str | int | float) else list(value)


def _key_of(name: str, value: Any, kind: str | None) -> SearchAttributeKey[Any] | None:
    makers: dict[str | None, Any] = {
        "Text": SearchAttributeKey.for_text,
        "Keyword": SearchAttributeKey.for_keyword,
        "Int": SearchAttributeKey.for_int,
        "Double": SearchAttributeKey.for_float,
        "Bool": SearchAttributeKey.for_bool,
        "Datetime": SearchAttributeKey.for_datetime,
        "KeywordList": SearchAttributeKey.for_keyword_list,
    }
    if kind is None:
        match value:
            case bool():
                kind = "Bool"
            case int():
                kind = "Int"
            case float():
                kind = "Double"
            case str():
                kind = "Keyword"
            case datetime():
                kind = "Datetime"
            case list():
                kind = "KeywordList"
    return makers[kind](name) if kind in makers else None
