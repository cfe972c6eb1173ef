"""The cutting of the byte stream into messages, however the network cuts it, and the seam to nats-py."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from holdfast.bus.link import Link
from holdfast.bus.message import decode_headers, encode_headers, publish_command

Arrived = tuple[bytes, bytes, bytes, bytes | None]

words = st.from_regex(rb"[a-z0-9.]{1,12}", fullmatch=True)
messages = st.tuples(words, words | st.just(b""), st.binary(max_size=300), st.booleans())
HEADERS = encode_headers({"Name": "value"})


def wire_form(subject: bytes, reply: bytes, data: bytes, has_headers: bool) -> bytes:
    """A message as a server sends it."""
    target = b" ".join(part for part in (subject, b"7", reply) if part)
    if not has_headers:
        return b"MSG %b %d\r\n%b\r\n" % (target, len(data), data)
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (target, len(HEADERS), len(HEADERS) + len(data), HEADERS, data)


@given(st.lists(messages, max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=30), st.booleans())
def test_messages_and_control_lines_survive_any_cutting_of_the_stream(
    sent: list[tuple[bytes, bytes, bytes, bool]], cuts: list[int], has_ping: bool
) -> None:
    ping = b"PING\r\n" if has_ping else b""
    stream = ping + b"".join(wire_form(*message) + ping for message in sent)

    async def receive() -> tuple[list[Arrived], bytes]:
        arrived: list[Arrived] = []
        link = Link({b"7": lambda *message: arrived.append(message)})
        link._is_handshake = False
        at, turn = 0, 0
        while at < len(stream):
            size = cuts[turn % len(cuts)]
            link.data_received(stream[at : at + size])
            at, turn = at + size, turn + 1
        return arrived, bytes(link._control)

    arrived, control = run(receive())

    assert arrived == [(subject, reply, data, HEADERS if has else None) for subject, reply, data, has in sent]
    assert control == ping * (len(sent) + 1)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z-]{1,20}", fullmatch=True), st.text().map(lambda text: "".join(text.split()))
    )
)
def test_headers_arrive_as_they_were_sent(headers: dict[str, str]) -> None:
    sent = {name: value.encode("utf-8", "replace").decode() for name, value in headers.items()}
    assert decode_headers(encode_headers(sent)) == sent


def test_a_message_with_headers_tells_both_sizes() -> None:
    assert (
        publish_command(b"a", b"r", b"xy", {"K": "v"}) == b"HPUB a r 18 20\r\nNATS/1.0\r\nK: v\r\n\r\nxy\r\n"
    )
    assert publish_command(b"a", b"", b"xy") == b"PUB a  2\r\nxy\r\n"


def test_nats_py_still_has_the_one_private_name_that_the_link_uses() -> None:
    assert vars(Client())["_transport"] is None


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)
