"""Namespaces: made once, listed by name, deleted but for main."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.exceptions import AlreadyExists, Invalid
from holdfast.store import Store
from tests.contract.journal import facts
from tests.store.rows import Sql


async def test_a_new_namespace_is_listed_beside_main_by_name(store: Store) -> None:
    await store.create_namespace("zeta")
    await store.create_namespace("Alpha-1_x")

    listed = await store.list_namespaces()

    assert {record.name for record in listed} == {"main", "zeta", "Alpha-1_x"}
    assert [record.name for record in listed] == sorted(record.name for record in listed)
    assert all(record.created_at > 1_600_000_000 for record in listed)


async def test_a_namespace_is_made_once(store: Store, sql: Sql) -> None:
    await store.create_namespace("billing")

    with pytest.raises(AlreadyExists, match="'billing' exists already"):
        await store.create_namespace("billing")

    assert await facts(sql) == [("NamespaceCreated", "billing")]


async def test_of_ten_racing_creators_one_wins(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(store.create_namespace("raced") for _ in range(10)), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes if outcome] == [AlreadyExists] * 9


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a.b", "ü", "a\n", "\x00", "*", ">"])
async def test_a_name_that_is_none_is_refused(store: Store, name: str) -> None:
    with pytest.raises(Invalid, match="expected 1 to 64 of"):
        await store.create_namespace(name)


async def test_the_longest_name_is_taken(store: Store) -> None:
    await store.create_namespace("n" * 64)

    assert await store.delete_namespace("n" * 64)


async def test_a_deleted_namespace_is_gone_once(store: Store, sql: Sql) -> None:
    await store.create_namespace("brief")

    assert await store.delete_namespace("brief") is True
    assert await store.delete_namespace("brief") is False
    assert [record.name for record in await store.list_namespaces()] == ["main"]
    assert await facts(sql) == [("NamespaceCreated", "brief"), ("NamespaceDeleted", "brief")]


@pytest.mark.parametrize("name", ["main", "unknown", "", "no such\x00name"])
async def test_main_and_the_unknown_are_not_deleted(store: Store, name: str) -> None:
    assert await store.delete_namespace(name) is False

    assert [record.name for record in await store.list_namespaces()] == ["main"]
