"""Namespaces. The one called "main" is always there."""

from __future__ import annotations

import math
import re

import msgspec

from holdfast.exceptions import AlreadyExists, Invalid, NotFound
from holdfast.store.contract.opening import Opened
from holdfast.store.session import Query
from holdfast.wire.records import NamespaceRecord

MAIN = "main"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Name(msgspec.Struct, kw_only=True):
    """The name of a namespace."""

    name: str


INSERT_NAMESPACE = Query(
    """
    INSERT INTO namespace (name)
    VALUES ($1)
    ON CONFLICT (name) DO NOTHING
    RETURNING name
    """,
    Name,
)

LIST_NAMESPACES = Query(
    """
    SELECT n.name, extract(epoch FROM n.created_at)::float8 AS created_at
    FROM namespace AS n
    ORDER BY n.name
    """,
    NamespaceRecord,
)

DELETE_NAMESPACE = Query(
    """
    DELETE FROM namespace AS n
    WHERE n.name = $1 AND n.name <> 'main'
    RETURNING n.name
    """,
    Name,
)


SET_RETENTION = Query(
    """
    UPDATE namespace AS n
    SET retention_s = $2
    WHERE n.name = $1
    RETURNING n.name
    """,
    Name,
)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_name(name: object) -> None:
    """1-64 of letters, digits, `_` and `-`."""
    if not _is_name(name):
        raise Invalid(f"namespace {str(name)[:80]!r} has no valid name: expected 1 to 64 of a-z A-Z 0-9 _ -")


async def create_namespace(store: Opened, name: str) -> None:
    """Make a namespace. Raises `AlreadyExists`, or `Invalid` unless the name is 1-64 of `a-z A-Z 0-9 _ -`."""
    check_name(name)
    async with store.writing() as writing:
        if await writing.one(INSERT_NAMESPACE, name) is None:
            raise AlreadyExists(f"namespace {name!r} exists already")
        writing.tell(name, "NamespaceCreated", "namespace", name)


async def list_namespaces(store: Opened) -> list[NamespaceRecord]:
    """All namespaces, by name."""
    return await store.pool.rows(LIST_NAMESPACES)


async def delete_namespace(store: Opened, name: str) -> bool:
    """Whether the namespace was there and is gone now; "main" stays.

    Its workflows stay readable and are never dispatched again; its schedules do nothing.
    """
    async with store.writing() as writing:
        # A name that cannot be is one that is not there.
        if not _is_name(name) or await writing.one(DELETE_NAMESPACE, name) is None:
            return False
        writing.tell(name, "NamespaceDeleted", "namespace", name)
        return True


async def set_retention(store: Opened, name: str, retention_s: float | None) -> None:
    """Keep the histories of the namespace's closed runs in Postgres for *retention_s* seconds: then they are archived.

    `math.inf` keeps them for ever, None as long as the service's setting says. A function beside the contract's 54
    methods, whose records and arguments are given. Raises `Invalid` for what is no length of time, `NotFound`.
    """
    if retention_s is not None and (math.isnan(retention_s) or retention_s < 0):
        raise Invalid(
            f"retention_s is {retention_s}: expected seconds, 0 or more, or None for the service's setting"
        )
    async with store.writing() as writing:
        if not _NAME.fullmatch(name) or await writing.one(SET_RETENTION, name, retention_s) is None:
            raise NotFound(f"no namespace {name[:80]!r}: create it first")
        shown = None if retention_s is None or math.isinf(retention_s) else retention_s
        writing.tell(
            name,
            "NamespaceRetentionSet",
            "namespace",
            name,
            retention_s=shown,
            is_for_ever=retention_s == math.inf,
        )
