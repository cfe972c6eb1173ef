"""Values and failures survive the way through payloads, or say why they cannot."""

from __future__ import annotations

import collections
import enum
import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NewType, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.common import RawValue
from holdfast.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    EncodingPayloadConverter,
    JSONPlainPayloadConverter,
    Payload,
    PayloadCodec,
    PayloadConverter,
)
from holdfast.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    Invalid,
    RetryState,
    ServerError,
    TerminatedError,
    TimeoutError,
    TimeoutType,
)
from holdfast.sdk import failures
from holdfast.wire.messages import PAYLOAD_BYTES_MAX

convert = DataConverter.default


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    pass


class Point(NamedTuple):
    x: int
    y: int


class Movie(TypedDict):
    title: str


class Book(msgspec.Struct):
    title: str


@dataclass
class Item:
    sku: str
    count: int = 1


@dataclass
class Order:
    items: list[Item]
    due: datetime | None = None
    total: float = field(default=0.0)


@dataclass
class Card:
    number: str


@dataclass
class Cash:
    cents: int


UserId = NewType("UserId", str)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, None),
        (True, bool),
        (0, int),
        (2**80, int),
        (1, float),
        (1.5, float),
        ("", str),
        ("nul \x00 and snowman ☃", str),
        (b"\x00\xff", bytes),
        ([1, "a", None], list[Any]),
        ({"a": [1]}, dict[str, list[int]]),
        ({1: "a"}, dict[int, str]),
        ((1, "a"), tuple[int, str]),
        ({1, 2}, set[int]),
        (collections.deque([1, 2]), collections.deque[int]),
        ([1, 2], Sequence[int]),
        (Colour.RED, Colour),
        (Level.LOW, Level),
        (Text("a"), Text),
        (Point(1, 2), Point),
        ({"title": "M"}, Movie),
        (Book("Moby"), Book),
        (Order([Item("a", 2)], datetime(2026, 1, 2, tzinfo=UTC), 1.0), Order),
        (Cash(5), Card | Cash),
        (Card("4"), Card | Cash),
        (None, Card | Cash | None),
        ([Cash(5), Card("4")], list[Card | Cash]),
        ({"a": Cash(5)}, dict[str, Card | Cash]),
        (uuid.UUID(int=5), uuid.UUID),
        (UserId("u"), UserId),
        (timedelta(seconds=5), timedelta),
        (math.inf, float),
        ({"a": [-math.inf]}, dict[str, list[float]]),
        ({"$payload": {"metadata": {}, "data": ""}}, dict[str, Any]),
    ],
    ids=repr,
)
def test_a_value_comes_back_as_what_it_was(value: Any, hint: Any) -> None:
    args = convert.encode_args([value, "next"])

    assert convert.decode_args(args, [hint, str]) == [value, "next"]
    assert convert.decode_value(convert.encode_value(value), hint) == value
    json.loads(args)  # whatever the value, what is stored is JSON


def test_nan_is_not_turned_into_null() -> None:
    back = convert.decode_value(convert.encode_value([math.nan, None]))

    assert math.isnan(back[0])
    assert back[1] is None


def test_keys_that_json_spells_as_words_are_kept() -> None:
    assert convert.decode_value(convert.encode_value({True: 1, None: 2})) == {"true": 1, "null": 2}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_value_comes_back_untyped(value: Any) -> None:
    assert convert.decode_value(convert.encode_value(value)) == value


def test_none_and_text_are_readable_json_in_the_store() -> None:
    assert (
        convert.encode_args([None, "a", 1, {"b": Item("x")}]) == b'[null,"a",1,{"b":{"sku":"x","count":1}}]'
    )


def test_arguments_without_a_type_are_decoded_plainly() -> None:
    assert convert.decode_args(b'[1,{"a":2},3]', [int]) == [1, {"a": 2}, 3]
    assert convert.decode_args(b"") == []


def test_a_raw_value_passes_through_unconverted() -> None:
    (raw,) = convert.decode_args(b'[{"a":1}]', [RawValue])

    assert raw.payload.data == b'{"a":1}'
    assert convert.encode_args([raw]) == b'[{"a":1}]'


def test_fields_that_the_type_does_not_know_are_ignored() -> None:
    assert convert.decode_value(b'{"sku":"a","colour":"red"}', Item) == Item("a")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "argument 2 of 2: .*type object has no JSON form"),
        ("\ud800", "argument 2 of 2: .*lone surrogate"),
        ({(1, 2): 3}, "argument 2 of 2: cannot encode a value of type dict"),
    ],
)
def test_a_value_without_encoding_is_refused_by_position_and_type(value: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        convert.encode_args([1, value])


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(Invalid, match="contains itself"):
        convert.encode_value(loop)


@pytest.mark.parametrize(
    ("array", "types", "says"),
    [
        (b'[1,{"count":2}]', [int, Item], "argument 2 of 2: .*Item.*missing required field `sku`"),
        (b'[{"$payload":{"metadata":{"encoding":"eHg="},"data":""}}]', [str], "Unknown payload encoding xx"),
        (b'["a"]', [int], "decode as int: Expected `int`, got `str`"),
        (b'[{"x":1}]', [Card | Cash], "fits no member"),
        (b"{", [int], "is not a JSON array"),
    ],
)
def test_a_payload_that_does_not_decode_is_refused_by_position_and_type(
    array: bytes, types: list[Any], says: str
) -> None:
    with pytest.raises(Invalid, match=says):
        convert.decode_args(array, types)


def test_a_payload_over_the_limit_is_refused_before_it_is_sent() -> None:
    fits = "x" * (PAYLOAD_BYTES_MAX - 2)

    assert len(convert.encode_value(fits)) == PAYLOAD_BYTES_MAX
    with pytest.raises(Invalid, match="limit is 2097152"):
        convert.encode_value(fits + "x")
    with pytest.raises(Invalid, match="limit is 2097152"):
        convert.encode_args([fits])


class _Reverse(PayloadCodec):
    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload({"encoding": b"reverse"}, p.data[::-1]) for p in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload({"encoding": b"json/plain"}, p.data[::-1]) for p in payloads]


async def test_a_codec_hides_the_values_and_is_undone() -> None:
    secret = DataConverter(payload_codec=_Reverse())
    plain = secret.encode_args(["attack", {"at": "dawn"}])

    sealed = await secret.seal(plain)

    assert b"dawn" not in sealed
    assert await secret.unseal(sealed) == plain
    assert await secret.decode(await secret.encode([5, "a"]), [int, str]) == [5, "a"]


class _Upper(EncodingPayloadConverter):
    encoding = "text/upper"

    def to_payload(self, value: Any) -> Payload | None:
        return (
            Payload({"encoding": b"text/upper"}, value.upper().encode()) if isinstance(value, Text) else None
        )

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        return Text(payload.data.decode())


class _Custom(DefaultPayloadConverter):
    default_encoding_payload_converters = (_Upper(), JSONPlainPayloadConverter())


def test_a_users_payload_converter_is_asked_in_its_order() -> None:
    custom = DataConverter(payload_converter_class=_Custom)

    array = custom.encode_args([Text("loud"), "quiet"])

    assert custom.decode_args(array, [Text, str]) == [Text("LOUD"), "quiet"]
    with pytest.raises(Invalid, match="Unknown payload encoding text/upper"):
        convert.decode_args(array)


def test_the_default_converters_are_shared() -> None:
    assert PayloadConverter.default is DataConverter.default.payload_converter


# -- failures


def _raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def _round_trip(error: BaseException) -> Any:
    return convert.decode_failure(convert.encode_failure(error))


def test_an_ordinary_exception_becomes_an_application_error_named_after_its_class() -> None:
    back = _round_trip(_raised(ValueError("bad"), KeyError("k")))

    assert isinstance(back, ApplicationError)
    assert (back.message, back.type, back.non_retryable) == ("bad", "ValueError", False)
    assert isinstance(back.cause, ApplicationError)
    assert back.cause.type == "KeyError"
    assert "_raised" in back.failure.stack


def test_an_application_error_keeps_all_it_says() -> None:
    back = _round_trip(
        ApplicationError(
            "no",
            {"a": 1},
            5,
            type="Denied",
            non_retryable=True,
            next_retry_delay=timedelta(seconds=3),
            category=ApplicationErrorCategory.BENIGN,
        )
    )

    assert str(back) == "Denied: no"
    assert list(back.details) == [{"a": 1}, 5]
    assert (back.type, back.non_retryable, back.next_retry_delay) == ("Denied", True, timedelta(seconds=3))
    assert back.category == ApplicationErrorCategory.BENIGN


def test_our_own_failures_keep_their_kind() -> None:
    activity_error = ActivityError(
        "Activity task failed",
        scheduled_event_id=5,
        started_event_id=0,
        identity="w",
        activity_type="charge",
        activity_id="1",
        retry_state=RetryState.MAXIMUM_ATTEMPTS_REACHED,
    )

    back = _round_trip(
        _raised(activity_error, TimeoutError("late", type=TimeoutType.HEARTBEAT, last_heartbeat_details=[7]))
    )

    assert isinstance(back, ActivityError)
    assert (back.activity_type, back.activity_id, back.scheduled_event_id) == ("charge", "1", 5)
    assert back.retry_state == RetryState.MAXIMUM_ATTEMPTS_REACHED
    assert isinstance(back.cause, TimeoutError)
    assert back.cause.type == TimeoutType.HEARTBEAT
    assert list(back.cause.last_heartbeat_details) == [7]
    assert isinstance(_round_trip(CancelledError("stop", 1)), CancelledError)
    assert isinstance(_round_trip(TerminatedError("end")), TerminatedError)
    assert _round_trip(ServerError("full", non_retryable=True)).non_retryable


def test_a_failure_passed_on_keeps_the_stack_of_where_it_arose() -> None:
    first = convert.encode_failure(_raised(ValueError("deep")))

    again = convert.encode_failure(_raised(convert.decode_failure(first)))

    assert again == first


def test_a_failure_is_bounded_whatever_was_raised() -> None:
    """A failure too large to report would be retried for ever."""
    error: BaseException = ApplicationError("m" * 10_000_000, "d" * 5_000_000)
    for _ in range(100):
        error = _raised(RuntimeError("\ud800 again"), error)

    failure = convert.encode_failure(error)

    assert len(msgspec.msgpack.encode(failure)) < 300_000
    assert failure.message == "\\ud800 again"
    depth, link = 0, failure
    while link.cause is not None:
        depth, link = depth + 1, link.cause
    assert depth == failures.CAUSES_MAX


def test_details_without_an_encoding_are_left_out_and_said() -> None:
    back = _round_trip(ApplicationError("no", object()))

    assert "details left out" in back.details[0]


def test_an_exception_that_cannot_say_what_it_is_is_still_reported() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("never")

    assert _round_trip(Broken()).type == "Broken"


def test_message_and_stack_can_be_hidden_from_the_service() -> None:
    secret = DataConverter(failure_converter_class=DefaultFailureConverterWithEncodedAttributes)

    failure = secret.encode_failure(_raised(ApplicationError("attack at dawn", 5)))
    back = secret.decode_failure(failure)

    assert (failure.message, failure.stack) == ("Encoded failure", "")
    assert isinstance(back, ApplicationError)
    assert back.message == "attack at dawn"
    assert list(back.details) == [5]
