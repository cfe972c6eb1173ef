"""Whatever is encoded comes back the same, and whatever comes is a value or `Invalid`, never anything else."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.exceptions import Invalid
from holdfast.wire import codec
from holdfast.wire import messages as m
from holdfast.wire.events import AnyEvent, Event
from holdfast.wire.failures import Failure
from tests.wire.structs import KINDS, values

EVENTS = {name: kind for name, kind in KINDS.items() if isinstance(kind, type) and issubclass(kind, Event)}
BRIEF = settings(max_examples=20, deadline=None)


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@BRIEF
def test_what_is_encoded_decodes_to_the_same(name: str, data: st.DataObject) -> None:
    value = data.draw(values(KINDS[name]))

    assert codec.decode(codec.encode(value), KINDS[name]) == value


@pytest.mark.parametrize("name", EVENTS)
@given(data=st.data())
@BRIEF
def test_a_stored_event_is_read_back_the_same_and_as_its_own_type(name: str, data: st.DataObject) -> None:
    event = data.draw(values(EVENTS[name]))

    found = codec.decode_event(codec.encode_event(event))

    assert found == event
    assert type(found) is EVENTS[name]


@given(items=st.lists(values(m.Signal), max_size=4))
@BRIEF
def test_a_frame_holds_its_requests_in_order(items: list[m.Signal]) -> None:
    frame = codec.encode_frame([codec.encode(item) for item in items])

    assert [codec.decode(raw, m.Signal) for raw in codec.decode_frame(frame)] == items


@given(
    answers=st.lists(
        st.builds(
            m.Answer,
            code=st.sampled_from(["ok", "refused"]),
            value=st.integers(0, 9).map(lambda n: msgspec.Raw(bytes([n]))),
            message=st.text("ab"),
            details=st.none() | st.dictionaries(st.text("ab"), st.text("ab"), max_size=2),
        ),
        max_size=4,
    )
)
@BRIEF
def test_answers_come_back_in_order(answers: list[m.Answer]) -> None:
    found = codec.decode_answers(codec.encode(answers))

    assert [(a.code, bytes(a.value), a.message, a.details) for a in found] == [
        (a.code, bytes(a.value), a.message, a.details) for a in answers
    ]


def decoders() -> dict[str, Any]:
    """Every way in, by name."""
    ways: dict[str, Any] = {
        name: lambda data, kind=kind: codec.decode(data, kind) for name, kind in KINDS.items()
    }
    ways["stored event"] = codec.decode_event
    ways["frame"] = codec.decode_frame
    ways["answers"] = codec.decode_answers
    return ways


def value_or_invalid(way: Any, data: bytes) -> None:
    """Anything but a value or `Invalid` is raised, and fails the test."""
    with contextlib.suppress(Invalid):
        way(data)


@pytest.mark.parametrize("name", decoders())
@given(data=st.binary(max_size=200))
@BRIEF
def test_any_bytes_are_a_value_or_invalid(name: str, data: bytes) -> None:
    value_or_invalid(decoders()[name], data)


@pytest.mark.parametrize(
    "name", ["request start", "request report", "response claim", "HistoryEvent", "Failure"]
)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_messages_are_a_value_or_invalid(name: str, data: st.DataObject) -> None:
    """One byte changed, a piece cut out, or the end missing."""
    whole = codec.encode(data.draw(values(KINDS[name])))
    at = data.draw(st.integers(0, len(whole)))
    upto = data.draw(st.integers(at, len(whole)))
    damaged = whole[:at] + data.draw(st.binary(max_size=3)) + whole[upto:]

    value_or_invalid(decoders()[name], damaged)


DEEP = 200_000


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("arrays without end", b"\x91" * DEEP + b"\x90"),
        ("maps without end", b"\x81\xa1a" * DEEP + b"\x80"),
        ("a string longer than the message", b"\xdb\xff\xff\xff\xff"),
        ("an array longer than the message", b"\xdd\xff\xff\xff\xff"),
        ("a map longer than the message", b"\xdf\xff\xff\xff\xff"),
        ("text that is not UTF-8", b"\x81\xa1a\xa2\xff\xfe"),
        ("a surrogate as UTF-8", b"\x81\xa1a\xa3\xed\xa0\x80"),
        ("an unknown extension", b"\xc7\x04\x7fabcd"),
        ("a byte that msgpack does not use", b"\xc1"),
        ("nothing", b""),
        ("two values", b"\x80\x80"),
    ],
)
@pytest.mark.parametrize(
    "name", ["request start", "request report", "Failure", "stored event", "frame", "answers"]
)
def test_hostile_bytes_are_refused_at_once(name: str, what: str, data: bytes) -> None:
    with pytest.raises(Invalid):
        decoders()[name](data)


def nested_failure(links: int) -> bytes:
    """A failure with so many links, as bytes that no encoder of ours would make."""
    link = b"\x81\xa7message\xa1x"
    return (b"\x82\xa7message\xa1x\xa5cause" * (links - 1)) + link


@pytest.mark.parametrize("links", [1, 99, 100])
def test_a_failure_with_up_to_100_links_goes(links: int) -> None:
    codec.check_failure("failure", codec.decode(nested_failure(links), Failure))


def test_a_failure_with_more_links_than_can_be_written_everywhere_is_refused() -> None:
    failure = codec.decode(nested_failure(101), Failure)

    with pytest.raises(Invalid, match="more than 100 causes"):
        codec.check_failure("failure", failure)


def test_a_failure_without_end_is_refused_while_it_is_read() -> None:
    with pytest.raises(Invalid, match="are not a Failure"):
        codec.decode(nested_failure(DEEP), Failure)


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
def test_a_number_beyond_64_signed_bits_is_read_but_never_encoded_beyond_64(number: int) -> None:
    hint = m.Hint(count=number)

    assert codec.decode(codec.encode(hint), m.Hint) == hint
    with pytest.raises(Invalid, match="cannot be encoded"):
        codec.encode(m.Hint(count=2**64))


def test_text_without_utf8_form_is_refused_before_it_is_sent() -> None:
    with pytest.raises(Invalid, match="lone surrogate at position 2"):
        codec.encode(m.Describe(workflow_id="ab\ud800"))


def test_the_tag_decides_the_event_not_its_fields() -> None:
    """Two types with the same fields stay apart."""
    fired = msgspec.msgpack.encode({"type": "TimerFired", "seq": 3})
    cancelled = msgspec.msgpack.encode({"type": "TimerCancelled", "seq": 3})

    assert codec.decode_event(fired) != codec.decode_event(cancelled)


def test_an_event_of_a_newer_version_is_named_in_the_refusal() -> None:
    with pytest.raises(Invalid, match="TimeTravelled"):
        codec.decode_event(msgspec.msgpack.encode({"type": "TimeTravelled", "seq": 3}))


def test_a_field_that_a_newer_version_added_to_an_event_is_passed_over() -> None:
    newer = msgspec.msgpack.encode({"type": "TimerFired", "seq": 3, "colour": "red"})

    assert codec.decode(newer, AnyEvent) == codec.decode_event(
        msgspec.msgpack.encode({"type": "TimerFired", "seq": 3})
    )


def test_a_field_that_this_version_does_not_know_in_a_command_is_refused() -> None:
    """A command that is half understood would do half of what the code asked for."""
    newer = msgspec.msgpack.encode({"type": "StartTimer", "seq": 1, "delay_s": 1.0, "colour": "red"})

    with pytest.raises(Invalid, match="colour"):
        codec.decode(newer, KINDS["StartTimer"])
