"""The committed JSON Schemas say what the code says, and nothing that was promised is taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.wire.schemas import schemas

COMMITTED = Path(__file__).parents[2] / "schemas" / "wire"
PROMISED = Path(__file__).with_name("promised.json")
HOW = "run `python -m holdfast.wire.schemas schemas/wire` and review the difference"


@pytest.mark.parametrize("name", schemas())
def test_the_committed_schema_is_the_generated_one(name: str) -> None:
    assert (COMMITTED / name).read_text(encoding="utf-8") == schemas()[name], HOW


def test_no_schema_is_left_over() -> None:
    assert {path.name for path in COMMITTED.iterdir()} - {"openapi.json"} == set(schemas()), HOW


@pytest.mark.parametrize("name", schemas())
def test_every_reference_leads_somewhere(name: str) -> None:
    whole = json.loads(schemas()[name])

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [ref for value in node.values() for ref in references(value)]
        if isinstance(node, list):
            return [ref for value in node for ref in references(value)]
        return []

    assert {ref.removeprefix("#/$defs/") for ref in references(whole)} <= set(whole["$defs"])


# -- compatibility ----------------------------------------------------------------------

Names = dict[str, dict[str, Any]]


def names(texts: dict[str, str]) -> Names:
    """What a program in another language depends on: by struct, its fields with their types, and which are required."""
    found: Names = {}
    for text in texts.values():
        for struct, schema in json.loads(text)["$defs"].items():
            if "prefixItems" in schema:
                found[struct] = {"items": [shape(item) for item in schema["prefixItems"]]}
            elif "properties" in schema:
                found[struct] = {
                    "fields": {name: shape(field) for name, field in schema["properties"].items()},
                    "required": sorted(schema.get("required", [])),
                }
    return found


def shape(schema: dict[str, Any]) -> Any:
    """The type alone."""
    return {key: value for key, value in schema.items() if key not in ("default", "description")}


def breaks(promised: Names, current: Names) -> list[str]:
    """Every promise that *current* does not keep. Adding structs, and fields with defaults, breaks none."""
    found = []
    for struct, old in promised.items():
        new = current.get(struct)
        if new is None:
            found.append(f"{struct} is gone")
        elif "items" in old:
            pairs = list(zip(old["items"], new.get("items", []), strict=False))
            if len(pairs) < len(old["items"]) or not all(a == b or is_wider(a, b) for a, b in pairs):
                found.append(f"{struct}: items changed")
        else:
            for field, type_ in old["fields"].items():
                if field not in new.get("fields", {}):
                    found.append(f"{struct}.{field} is gone")
                elif new["fields"][field] != type_ and not is_wider(type_, new["fields"][field]):
                    found.append(f"{struct}.{field} changed its type")
            demanded = set(new.get("required", [])) - set(old["required"])
            found += [f"{struct}.{field} is required now" for field in sorted(demanded)]
    return found


def is_wider(old: Any, new: Any) -> bool:
    """Whether *new* is a choice that every old alternative is still among: a union that gained a member."""
    if old.get("type") == new.get("type") == "array":
        return is_wider(old["items"], new["items"])
    kept = old.get("anyOf", [old])
    return "anyOf" in new and all(choice in new["anyOf"] for choice in kept)


def test_what_was_promised_still_stands() -> None:
    """promised.json holds the names of the first version. A release adds its own; nobody removes any."""
    assert breaks(json.loads(PROMISED.read_text(encoding="utf-8")), names(schemas())) == []


OLD: Names = {
    "Ping": {"fields": {"seq": {"type": "integer"}, "name": {"type": "string"}}, "required": ["seq"]},
    "Pair": {"items": [{"type": "string"}, {"type": "integer"}]},
}


def with_ping(**changes: Any) -> Names:
    return {**OLD, "Ping": {**OLD["Ping"], **changes}}


@pytest.mark.parametrize(
    ("new", "found"),
    [
        ({"Pair": OLD["Pair"]}, ["Ping is gone"]),
        (with_ping(fields={"seq": {"type": "integer"}}), ["Ping.name is gone"]),
        (
            with_ping(fields={**OLD["Ping"]["fields"], "seq": {"type": "string"}}),
            ["Ping.seq changed its type"],
        ),
        (with_ping(required=["name", "seq"]), ["Ping.name is required now"]),
        ({**OLD, "Pair": {"items": [{"type": "integer"}, {"type": "string"}]}}, ["Pair: items changed"]),
    ],
)
def test_a_broken_promise_is_found(new: Names, found: list[str]) -> None:
    assert breaks(OLD, new) == found


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        {**OLD, "Pong": {"fields": {}, "required": []}},
        with_ping(fields={**OLD["Ping"]["fields"], "colour": {"type": "string"}}),
        with_ping(required=[]),
        with_ping(
            fields={**OLD["Ping"]["fields"], "seq": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}
        ),
        {**OLD, "Pair": {"items": [*OLD["Pair"]["items"], {"type": "null"}]}},
    ],
)
def test_adding_breaks_no_promise(new: Names) -> None:
    assert breaks(OLD, new) == []


def test_the_schemas_accept_what_the_codec_writes() -> None:
    """The field names of the schema are those that travel, not those of the code."""
    from holdfast.wire.messages import Start

    request = Start(request_id="r", workflow_id="w", workflow_type="t", task_queue="q", identity="me")
    properties = json.loads(schemas()["messages.json"])["$defs"]["Start"]["properties"]

    assert set(msgspec.msgpack.decode(msgspec.msgpack.encode(request))) <= set(properties)
