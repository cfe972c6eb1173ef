"""Payloads survive every form they travel in, and no two of them ever look the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.exceptions import Invalid
from holdfast.wire import payloads
from holdfast.wire.payloads import Payload, from_text, join, plain, split, to_text
from tests.wire.structs import JSON_TEXTS, TEXTS

BRIEF = settings(max_examples=150, deadline=None)

LOOKALIKES = st.sampled_from(
    [
        b'{"$payload":{"metadata":{},"data":""}}',
        b'{"$payload":null}',
        b'{"$payload":{}}',
        b' {"$payload":{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"MQ=="}}',
        b'{"\\u0024payload":{"data":"MQ=="}}',
        b'{"a":1,"$payload":{"data":"MQ=="}}',
        b'{"$payload":{"data":"!!"}}',
        b'"$payload"',
        b'["$payload"]',
        b"1",
        b"null",
    ]
)
PLAIN = (JSON_TEXTS | LOOKALIKES).map(plain)
OTHER = st.builds(Payload, st.dictionaries(TEXTS, st.binary(max_size=8), max_size=3), st.binary(max_size=20))


@given(payload=PLAIN | OTHER)
@BRIEF
def test_a_payload_comes_back_from_its_text(payload: Payload) -> None:
    found = from_text(to_text(payload))

    assert dict(found.metadata) == dict(payload.metadata)
    assert found.data == payload.data


@given(payload=PLAIN | OTHER)
@BRIEF
def test_the_text_of_a_payload_is_json(payload: Payload) -> None:
    json.loads(to_text(payload))


@given(one=PLAIN | OTHER, two=PLAIN | OTHER)
@BRIEF
def test_two_payloads_have_the_same_text_only_if_they_are_the_same(one: Payload, two: Payload) -> None:
    same = dict(one.metadata) == dict(two.metadata) and one.data == two.data

    assert (to_text(one) == to_text(two)) is same


@given(given_=st.lists(PLAIN | OTHER, max_size=5))
@BRIEF
def test_what_was_joined_is_what_splits(given_: list[Payload]) -> None:
    texts = [to_text(payload).strip() for payload in given_]

    assert split(join(texts)) == texts


@given(texts=st.lists(JSON_TEXTS, max_size=4))
@BRIEF
def test_joined_arguments_are_a_json_array_of_their_values(texts: list[bytes]) -> None:
    assert json.loads(join(texts)) == [json.loads(text) for text in texts]


@pytest.mark.parametrize("nothing", [b"", b"[]"])
def test_no_arguments_split_into_none(nothing: bytes) -> None:
    assert split(nothing) == []
    assert join([]) == payloads.EMPTY


@pytest.mark.parametrize("text", [b"1", b'{"a": 1}', b"[1", b"[1,]", b"null", b"[" * 100_000, b'["a" 1]'])
def test_what_is_no_array_does_not_split(text: bytes) -> None:
    with pytest.raises(Invalid, match=r"is not a JSON array .*send one array element per argument"):
        split(text)


def test_plain_json_stays_as_it_is_so_that_people_can_read_it() -> None:
    assert to_text(plain(b'{"order": 7}')) == b'{"order": 7}'


def test_json_that_could_be_taken_for_an_envelope_is_put_into_one() -> None:
    text = b'{"$payload": {"data": "MQ=="}}'

    assert to_text(plain(text)) != text
    assert from_text(to_text(plain(text))) == plain(text)


def test_an_envelope_lookalike_that_is_not_json_is_refused() -> None:
    with pytest.raises(Invalid, match="is not JSON"):
        to_text(plain(b'{"$payload": '))


def test_binary_data_comes_back_byte_for_byte() -> None:
    payload = Payload({"encoding": b"binary/plain"}, bytes(range(256)))

    assert from_text(to_text(payload)) == payload
