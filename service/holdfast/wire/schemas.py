"""The wire structs as JSON Schemas, for review and for programs in other languages. Pure, unless run as a program.

`python -m holdfast.wire.schemas schemas/wire` writes the files that are kept in the repository;
a test compares them with what this module says. Nothing reads them at run time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from holdfast.wire import codec
from holdfast.wire import messages as m
from holdfast.wire.commands import AnyCommand
from holdfast.wire.events import HistoryEvent

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BINARY = "On the wire this is msgpack; what is base64 text here is binary there."


def schemas() -> dict[str, str]:
    """JSON text by file name: what a run's history holds, what workflow code asks for, what is said on the bus."""
    return {
        "events.json": _file("Events", "The entries of a run's history.", [HistoryEvent]),
        "commands.json": _file("Commands", "What workflow code asks for.", [AnyCommand]),
        "messages.json": _messages(),
    }


def _messages() -> str:
    kinds = [*codec.REQUESTS.values(), *codec.RESPONSES.values(), m.Answer, m.Push, m.Hint]
    found, defs = _components(kinds)
    count = len(codec.REQUESTS)
    about = (
        "A body is a frame: an array of requests of one verb, answered by an array of Answer in the same order, "
        "whose `value` is the response. The service says Push and Hint unasked."
    )
    verbs = {
        verb: {"request": found[index], "response": found[index + count]}
        for index, verb in enumerate(codec.REQUESTS)
    }
    return _text("Messages", about, {"x-verbs": verbs}, defs)


def _file(title: str, about: str, kinds: list[Any]) -> str:
    found, defs = _components(kinds)
    return _text(title, about, {"anyOf": found} if len(found) > 1 else found[0], defs)


def _components(kinds: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found, defs = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for schema in defs.values():
        # Newer Pythons strip the indentation of docstrings; the files must not depend on the Python.
        schema["description"] = " ".join(schema.get("description", "").split())
    return list(found), defs


def _text(title: str, about: str, body: dict[str, Any], defs: dict[str, Any]) -> str:
    whole = {
        "$schema": _DIALECT,
        "title": title,
        "description": f"{about} {_BINARY}",
        **body,
        "$defs": {name: defs[name] for name in sorted(defs)},
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        (folder / name).write_text(text, encoding="utf-8")
