"""List filters as users write them, turned into the fields of a list request. Pure."""

from __future__ import annotations

import re
from typing import Any

from holdfast.exceptions import Invalid

_STATUSES = {
    "running": "RUNNING",
    "pending": "PENDING",
    "completed": "COMPLETED",
    "failed": "FAILED",
    "canceled": "CANCELLED",
    "cancelled": "CANCELLED",
    "terminated": "TERMINATED",
    "timedout": "TIMED_OUT",
}
_TEXT_FIELDS = {"workflowtype": "workflow_type", "workflowid": "workflow_id"}
_QUOTED = r"'(?:[^']|'')*'|\"[^\"]*\""
_TERM = re.compile(
    rf"\s*(?P<name>\w+)\s*(?:=\s*(?P<value>{_QUOTED}|\w+)|IN\s*\((?P<values>[^)]*)\))\s*(?P<more>AND\b|$)",
    re.IGNORECASE,
)
_VALUE = re.compile(_QUOTED)
_SUPPORTED = "WorkflowType = '…', WorkflowId = '…', ExecutionStatus = '…' or IN ('…', …), TaskFailing = true, joined by AND"


def parse_query(query: str | None) -> dict[str, Any]:
    """The filter fields of `wire.messages.List` that *query* means. Raises `Invalid` for what cannot be filtered by."""
    fields: dict[str, Any] = {}
    text = (query or "").strip()
    position, is_more = 0, bool(text)
    while is_more:
        term = _TERM.match(text, position)
        if term is None:
            raise Invalid(f"cannot read the filter at {text[position:]!r}: expected {_SUPPORTED}")
        field, value = _field(term)
        if field in fields:
            raise Invalid(f"the filter names {term['name']} twice: expected each term once")
        fields[field] = value
        position, is_more = term.end(), bool(term["more"])
    return fields


def _field(term: re.Match[str]) -> tuple[str, Any]:
    name = term["name"].lower()
    if name == "executionstatus":
        given = [term["value"]] if term["value"] else _VALUE.findall(term["values"])
        return "statuses", [_status(_unquoted(value)) for value in given]
    if term["value"] is not None:
        if name in _TEXT_FIELDS:
            return _TEXT_FIELDS[name], _unquoted(term["value"])
        if name == "taskfailing" and term["value"].lower() in ("true", "false"):
            return "task_failing", term["value"].lower() == "true"
    raise Invalid(f"cannot filter by {term[0].strip()!r}: expected {_SUPPORTED}")


def _status(name: str) -> str:
    found = _STATUSES.get(name.replace("_", "").lower())
    if found is None:
        raise Invalid(f"there is no status {name!r}: expected one of {', '.join(sorted(set(_STATUSES)))}")
    return found


def _unquoted(value: str) -> str:
    if value[0] == "'":
        return value[1:-1].replace("''", "'")
    return value[1:-1] if value[0] == '"' else value
