"""Every statement in the code is one that Postgres takes, and its columns are the fields of its struct."""

from __future__ import annotations

import importlib
import pkgutil
import types
import typing
from typing import Any

import msgspec
import pytest

import holdfast.store
from holdfast.store.session import Query, Statement
from tests.store.rows import Sql

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLAUSIBLE: dict[Any, set[str]] = {
    int: {"int2", "int4", "int8", "xid"},
    float: {"float8", "float4"},
    str: {"text", "varchar", "name"},
    bool: {"bool"},
    bytes: {"bytea"},
    list[str]: {"text[]"},
}


def statements() -> dict[str, Query[Any] | Statement]:
    """Every constant of every module of the store, by module and name."""
    found: dict[str, Query[Any] | Statement] = {}
    for module in pkgutil.walk_packages(holdfast.store.__path__, "holdfast.store."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Query | Statement) and value not in found.values():
                found[f"{module.name.rpartition('.')[2]}.{name}"] = value
    return found


QUERIES = {name: value for name, value in statements().items() if isinstance(value, Query)}


def python_types(annotation: Any) -> set[Any]:
    """The types a field may hold, None aside."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {t for arg in typing.get_args(annotation) for t in python_types(arg)}
    return set() if annotation is type(None) else {annotation}


async def test_there_are_statements_to_look_at() -> None:
    assert len(statements()) > 20


@pytest.mark.parametrize("name", statements())
async def test_postgres_takes_the_statement(shared_sql: Sql, name: str) -> None:
    await shared_sql.connection.prepare(statements()[name].text)


@pytest.mark.parametrize("name", QUERIES)
async def test_the_columns_are_the_fields_of_the_struct(shared_sql: Sql, name: str) -> None:
    query = QUERIES[name]
    columns = [column.name for column in (await shared_sql.connection.prepare(query.text)).get_attributes()]
    fields = msgspec.structs.fields(query.row)

    assert len(columns) == len(set(columns)), "a column comes twice: the row would hold one of them"
    assert set(columns) <= {field.name for field in fields}
    assert {field.name for field in fields if field.required} <= set(columns)


@pytest.mark.parametrize("name", QUERIES)
async def test_the_columns_have_the_types_of_the_fields(shared_sql: Sql, name: str) -> None:
    query = QUERIES[name]
    types_of = {field.name: python_types(field.type) for field in msgspec.structs.fields(query.row)}
    prepared = await shared_sql.connection.prepare(query.text)

    for column in prepared.get_attributes():
        fitting = {pg for kind in types_of[column.name] for pg in PLAUSIBLE[kind]}
        assert column.type.name in fitting, f"{column.name} is {column.type.name}"
