"""Names become subject tokens and come back; no name can be a wildcard, another name, or another namespace."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.exceptions import Invalid
from holdfast.wire import subjects
from holdfast.wire.subjects import decode_token, encode_token

names = st.text(max_size=100) | st.text(alphabet="aA0_-=.*> \u00e9\ud800", max_size=90)


@given(names)
@example("")
@example(">")
@example("*")
@example("a.b")
@example("=h" + "0" * 48)
@example("=e")
@example("\ud800")
@example("x" * 64)
@example("x" * 65)
def test_a_token_is_short_plain_and_never_empty(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_=-]{1,64}", encode_token(name))


@given(names)
@example("")
@example("=e")
@example("\ud800")
def test_a_name_comes_back_from_its_token_unless_that_is_a_hash(name: str) -> None:
    token = encode_token(name)
    if token.startswith("=h"):
        assert len(token) == 50
        assert decode_token(token) is None
    else:
        assert decode_token(token) == name


@given(names, names)
@example("", "=e")
@example("", "=65")
@example("=", "=3D")
@example("a" * 65, encode_token("a" * 65))
@example("\u00e9" * 22, "\u00e9" * 23)
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    assert (encode_token(one) == encode_token(other)) == (one == other)


@given(st.text(alphabet="=h0123456789abcdefABCDEF_.*> ", max_size=70))
@example("=41")
@example("=C3")
@example("=c3=a9")
@example("a" * 65)
def test_no_second_spelling_of_a_name_is_accepted(token: str) -> None:
    name = decode_token(token)
    assert name is None or encode_token(name) == token


@pytest.mark.parametrize("queue", [">", "*", "a.b", "a b", "", "ü", "a\r\nPUB x 0"])
def test_a_strange_queue_stays_one_token_of_its_namespace(queue: str) -> None:
    subject = subjects.hint("default", "activity", queue)
    assert subject.count(".") == 4
    assert subject.startswith("hf.hint.default.activity.")
    assert not set(subject) & set("*> \r\n")


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (subjects.hint("n", "workflow", "q"), "hf.hint.n.workflow.q"),
        (subjects.hints("n"), "hf.hint.n.*.*"),
        (subjects.hints("n", "activity"), "hf.hint.n.activity.*"),
        (subjects.hints("n", None, "q.1"), "hf.hint.n.*.q=2E1"),
        (subjects.event("n", "Order", "o/1"), "hf.event.n.Order.o=2F1"),
        (subjects.journal("n", "schedule"), "hf.journal.n.schedule"),
        (subjects.rpc("n", "start"), "hf.rpc.n.start"),
        (subjects.rpc_all("start"), "hf.rpc.*.start"),
        (subjects.worker("n", "host@1"), "hf.worker.n.host=401"),
        (subjects.closed("n", "r"), "hf.closed.n.r"),
        (subjects.closed_all(), "hf.closed.*.*"),
    ],
)
def test_subjects_are_spelled_as_promised(subject: str, expected: str) -> None:
    assert subject == expected


@given(st.text(min_size=1, max_size=5))
def test_every_subject_tells_its_namespace(namespace: str) -> None:
    for subject in (subjects.hint(namespace, "workflow", "q"), subjects.rpc(namespace, "start")):
        assert subjects.namespace_of(subject) == namespace


@pytest.mark.parametrize(
    "subject",
    ["", "hf", "hf.rpc", "hf.rpc.n", "xx.rpc.n.start", "hf.rpc..start", "hf.rpc.*.start", "hf.rpc.=h00.s"],
)
def test_a_foreign_subject_tells_no_namespace(subject: str) -> None:
    with pytest.raises(Invalid, match="names no namespace"):
        subjects.namespace_of(subject)
