"""The subjects of the bus: how they are spelled, and how a name becomes one token of them.

Every subject is `hf.<family>.<namespace>.…`, so that a broker permission on the third token walls a namespace
off. Names come from users and may be anything; each passes through one injective codec, because a queue called
`>` must not be a wildcard. This module is pure spelling: it connects to nothing and knows no payloads.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal

from holdfast.exceptions import Invalid

TOKEN_CHARACTERS_MAX: Final = 64

HINT_STREAM: Final = "HF_HINT"
EVENT_STREAM: Final = "HF_EVENT"
HINT_STREAM_SUBJECTS: Final = ("hf.hint.>",)
EVENT_STREAM_SUBJECTS: Final = ("hf.event.>", "hf.journal.>")

TaskKind = Literal["workflow", "activity"]

# An equals sign is followed by two upper-case hex digits in a spelled-out token. The two other forms start with
# an equals sign and a lower-case letter, so neither can be mistaken for a spelled-out name, nor for one another.
_EMPTY: Final = "=e"
_HASH: Final = "=h"
_HASH_BYTES: Final = 24

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_SPELLING: Final = tuple(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in range(256))
_IS_PLAIN = re.compile(rf"[A-Za-z0-9_-]{{1,{TOKEN_CHARACTERS_MAX}}}").fullmatch
_IS_SPELLED = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+").fullmatch
_ESCAPE = re.compile(rb"=([0-9A-F]{2})")


@lru_cache(maxsize=65_536)
def encode_token(text: str) -> str:
    """The one subject token for *text*: never empty, at most 64 characters, no two texts alike.

    `[A-Za-z0-9_-]` stay, every other UTF-8 byte becomes `=XX`; the empty text is `=e`. What would be longer than
    64 characters becomes `=h` and 48 hex digits of BLAKE2b-192, which `decode_token` cannot turn back.
    """
    if _IS_PLAIN(text):
        return text
    # "surrogatepass" keeps lone surrogates apart: JSON can carry them, and a name must not fail here.
    encoded = text.encode("utf-8", "surrogatepass")
    token = "".join([_SPELLING[byte] for byte in encoded])
    if len(token) > TOKEN_CHARACTERS_MAX:
        return _HASH + blake2b(encoded, digest_size=_HASH_BYTES).hexdigest()
    return token or _EMPTY


@lru_cache(maxsize=65_536)
def decode_token(token: str) -> str | None:
    """The text that `encode_token` made *token* of; None for a hash and for what `encode_token` never makes.

    Strict on purpose: tokens arrive from strangers, and two spellings of one name would be two names.
    """
    if _IS_PLAIN(token):
        return token
    if token == _EMPTY:
        return ""
    if len(token) > TOKEN_CHARACTERS_MAX or not _IS_SPELLED(token):
        return None
    raw = _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), token.encode())
    try:
        text = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return text if encode_token(text) == token else None


@lru_cache(maxsize=16_384)
def hint(namespace: str, kind: TaskKind, queue: str) -> str:
    """Where "this task queue has ready tasks of this kind" is said."""
    return f"hf.hint.{encode_token(namespace)}.{kind}.{encode_token(queue)}"


def hints(namespace: str, kind: TaskKind | None = None, queue: str | None = None) -> str:
    """The filter for the hints of a namespace; None stands for both kinds, and for all task queues."""
    return f"hf.hint.{encode_token(namespace)}.{kind or '*'}.{'*' if queue is None else encode_token(queue)}"


def event(namespace: str, workflow_type: str, workflow_id: str) -> str:
    """Where the change feed of one workflow goes."""
    return f"hf.event.{encode_token(namespace)}.{encode_token(workflow_type)}.{encode_token(workflow_id)}"


def journal(namespace: str, record: str) -> str:
    """Where changes go that are not history; *record* is the kind of thing: `schedule`, `worker`."""
    return f"hf.journal.{encode_token(namespace)}.{encode_token(record)}"


@lru_cache(maxsize=4_096)
def rpc(namespace: str, verb: str) -> str:
    """Where a request of *verb* in this namespace is sent."""
    return f"hf.rpc.{encode_token(namespace)}.{encode_token(verb)}"


def rpc_all(verb: str) -> str:
    """The filter a service process answers *verb* under, for every namespace."""
    return f"hf.rpc.*.{encode_token(verb)}"


@lru_cache(maxsize=16_384)
def worker(namespace: str, worker_id: str) -> str:
    """Where one worker is spoken to."""
    return f"hf.worker.{encode_token(namespace)}.{encode_token(worker_id)}"


def closed(namespace: str, run_id: str) -> str:
    """Where "this run closed" is said."""
    return f"hf.closed.{encode_token(namespace)}.{encode_token(run_id)}"


def closed_all() -> str:
    """The filter for every run of every namespace that closes."""
    return "hf.closed.*.*"


@lru_cache(maxsize=16_384)
def namespace_of(subject: str) -> str:
    """The namespace a subject of ours belongs to.

    Raises Invalid when it names none that can be read back: a foreign subject, or a hashed token.
    """
    tokens = subject.split(".", 3)
    namespace = decode_token(tokens[2]) if len(tokens) == 4 and tokens[0] == "hf" else None
    if not namespace:
        raise Invalid(f"subject {subject!r} names no namespace: expected hf.<family>.<namespace>.<…>")
    return namespace
