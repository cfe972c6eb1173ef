"""Messages as they cross the wire: what arrives, what is sent, headers, and errors carried in headers. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from holdfast.exceptions import HoldfastError, Invalid, Unavailable, error_of_code

_STATUS_LINE: Final = b"NATS/1.0"
_NO_RESPONDERS: Final = b"NATS/1.0 503"
# How a NATS micro service says that it failed; `nats` tools show both.
_ERROR_CODE: Final = "Nats-Service-Error-Code"
_ERROR_TEXT: Final = "Nats-Service-Error"

_IS_SUBJECT = re.compile(r"[!-~]+").fullmatch
_IS_HEADER_NAME = re.compile(r"[!-9;-~]+").fullmatch
_IS_HEADER_VALUE = re.compile(r"[^\r\n]*").fullmatch


class NoResponders(Unavailable):
    """Nobody listens on the subject that was asked. Known at once; `details["no_responders"]` is "true"."""

    def __init__(self, message: str) -> None:
        super().__init__(message, details={"no_responders": "true"})


class Msg(msgspec.Struct, frozen=True, gc=False):
    """A message as a subscription gets it. `reply` is empty when no answer is wanted."""

    subject: str
    reply: str
    data: bytes
    raw_headers: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers, decoded anew on each use."""
        return decode_headers(self.raw_headers)


@lru_cache(maxsize=32_768)
def subject_bytes(subject: str) -> bytes:
    """*subject* ready to be sent. Raises Invalid for one that would end the command line or be no subject."""
    if not _IS_SUBJECT(subject):
        raise Invalid(
            f"{subject!r} is no subject: expected printable ASCII without blanks; use holdfast.wire.subjects"
        )
    return subject.encode()


def publish_command(
    subject: bytes, reply: bytes, data: bytes, headers: Mapping[str, str] | None = None
) -> bytes:
    """The protocol command that publishes a message."""
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(data), data)
    block = encode_headers(headers)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, len(block), len(block) + len(data), block, data)


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Headers as NATS wants them. Raises Invalid for names or values that would end a line."""
    lines = ["NATS/1.0"]
    for name, value in headers.items():
        if not _IS_HEADER_NAME(name) or not _IS_HEADER_VALUE(value):
            raise Invalid(
                f"header {name!r}: {value!r} cannot be sent: a line break, or a name with blanks or a colon"
            )
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "replace")


def decode_headers(raw: bytes | None) -> dict[str, str]:
    """The headers in *raw*; of a status line, `Status` and `Description`. Whatever cannot be read is left out."""
    if not raw:
        return {}
    first, *lines = raw.split(b"\r\n")
    found = {}
    status, _, description = first.removeprefix(_STATUS_LINE).strip().partition(b" ")
    if status:
        found["Status"] = status.decode("utf-8", "replace")
        found["Description"] = description.decode("utf-8", "replace")
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return found


def is_no_responders(data: bytes, raw_headers: bytes) -> bool:
    """Whether a reply is the server's "nobody listens there"."""
    return not data and raw_headers.startswith(_NO_RESPONDERS)


def error_headers(error: HoldfastError) -> dict[str, str]:
    """An error as the headers of an otherwise empty reply."""
    return {_ERROR_CODE: error.code, _ERROR_TEXT: error.message.replace("\r", " ").replace("\n", " ")}


def error_of(raw_headers: bytes) -> HoldfastError | None:
    """The error that a reply's headers carry, or None."""
    headers = decode_headers(raw_headers)
    code = headers.get(_ERROR_CODE)
    if code is None:
        return None
    return error_of_code(code, headers.get(_ERROR_TEXT, "the responder failed"))
