"""API keys: kept by their hash, valid until revoked or expired, listed without secrets."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.exceptions import AlreadyExists, Invalid
from holdfast.store import Store
from tests.contract.journal import entries, facts
from tests.store.rows import Sql

HASH = "a" * 64
OTHER_HASH = "b" * 64


async def test_a_new_key_is_valid(store: Store) -> None:
    await store.create_api_key(HASH, "hf_1", "ci", 1000.0)

    assert await store.validate_api_key(HASH) is True


@pytest.mark.parametrize("unknown", ["", OTHER_HASH, "hf_1", HASH.upper(), HASH[:-1], "\x00", "ü", "\ud800"])
async def test_what_is_not_the_very_hash_is_not_valid(store: Store, unknown: str) -> None:
    await store.create_api_key(HASH, "hf_1", None, 1000.0)

    assert await store.validate_api_key(unknown) is False


async def test_keys_are_listed_the_newest_first_and_never_with_their_hash(store: Store) -> None:
    await store.create_api_key(HASH, "hf_old", "old", 1000.0)
    await store.create_api_key(OTHER_HASH, "hf_new", None, 9_999_999_999.25)

    listed = await store.list_api_keys()

    assert [(key.prefix, key.label, key.created_at) for key in listed] == [
        ("hf_new", None, 9_999_999_999.25),
        ("hf_old", "old", 1000.0),
    ]
    assert HASH not in repr(listed)
    assert OTHER_HASH not in repr(listed)


async def test_without_keys_the_list_is_empty(store: Store) -> None:
    assert await store.list_api_keys() == []


@pytest.mark.parametrize(
    ("key_hash", "prefix"), [(HASH, "hf_2"), (OTHER_HASH, "hf_1")], ids=["hash", "prefix"]
)
async def test_neither_a_hash_nor_a_prefix_is_taken_twice(
    store: Store, sql: Sql, key_hash: str, prefix: str
) -> None:
    await store.create_api_key(HASH, "hf_1", None, 1000.0)

    with pytest.raises(AlreadyExists, match="exists already"):
        await store.create_api_key(key_hash, prefix, None, 2000.0)

    assert [key.created_at for key in await store.list_api_keys()] == [1000.0]
    assert await facts(sql) == [("ApiKeyCreated", "hf_1")]


async def test_of_racing_creators_of_one_key_one_wins(store: Store, other: Store) -> None:
    outcomes = await asyncio.gather(
        *(which.create_api_key(HASH, "hf_1", None, 1.0) for which in (store, other) * 4),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes if outcome] == [AlreadyExists] * 7


@pytest.mark.parametrize(
    ("key_hash", "prefix", "label", "created_at"),
    [
        ("", "hf_1", None, 1.0),
        (HASH, "", None, 1.0),
        ("a\x00", "hf_1", None, 1.0),
        (HASH, "hf\x00", None, 1.0),
        (HASH, "hf_1", "l\x00", 1.0),
        (HASH, "hf_1", "\ud800", 1.0),
        (HASH, "hf_1", None, float("nan")),
        (HASH, "hf_1", None, float("inf")),
    ],
)
async def test_what_postgres_cannot_keep_is_refused(
    store: Store, key_hash: str, prefix: str, label: str | None, created_at: float
) -> None:
    with pytest.raises(Invalid):
        await store.create_api_key(key_hash, prefix, label, created_at)

    assert await store.list_api_keys() == []


async def test_a_revoked_key_is_not_valid_and_stays_listed(store: Store) -> None:
    await store.create_api_key(HASH, "hf_1", None, 1000.0)

    assert await store.revoke_api_key("hf_1") is True

    assert await store.validate_api_key(HASH) is False
    (key,) = await store.list_api_keys()
    assert key.revoked_at is not None
    assert key.revoked_at > 1_600_000_000


async def test_a_key_is_revoked_once(store: Store, other: Store, sql: Sql) -> None:
    await store.create_api_key(HASH, "hf_1", None, 1000.0)

    revoked = await asyncio.gather(*(which.revoke_api_key("hf_1") for which in (store, other) * 4))

    assert revoked.count(True) == 1
    assert await facts(sql) == [("ApiKeyCreated", "hf_1"), ("ApiKeyRevoked", "hf_1")]


@pytest.mark.parametrize("unknown", ["", "hf_2", HASH, "\x00"])
async def test_an_unknown_prefix_revokes_nothing(store: Store, unknown: str) -> None:
    await store.create_api_key(HASH, "hf_1", None, 1000.0)

    assert await store.revoke_api_key(unknown) is False

    assert await store.validate_api_key(HASH) is True


@pytest.mark.parametrize(("in_s", "is_valid"), [(3600.0, True), (-1.0, False)], ids=["later", "by now"])
async def test_a_key_is_valid_until_it_expires(store: Store, sql: Sql, in_s: float, is_valid: bool) -> None:
    await store.create_api_key(HASH, "hf_1", None, 1000.0)
    await sql("UPDATE api_key SET expires_at = extract(epoch FROM now()) + $1", in_s)

    assert await store.validate_api_key(HASH) is is_valid


async def test_a_key_works_for_every_store_at_once(store: Store, other: Store) -> None:
    await store.create_api_key(HASH, "hf_1", None, 1000.0)
    assert await other.validate_api_key(HASH) is True

    await other.revoke_api_key("hf_1")

    assert await store.validate_api_key(HASH) is False


async def test_the_journal_never_holds_a_hash(store: Store, sql: Sql) -> None:
    await store.create_api_key(HASH, "hf_1", "ci", 1000.0)

    (told,) = await entries(sql)

    assert told.fields == {"label": "ci", "created_at": 1000.0}
    assert HASH not in repr(told)


async def test_a_key_whose_hash_is_not_ascii_is_as_good_as_any(store: Store) -> None:
    await store.create_api_key("hash-ü", "hf_ü", None, 1_700_000_000.0)

    assert await store.validate_api_key("hash-ü") is True
    assert await store.validate_api_key("hash-\ud800") is False
    assert await store.revoke_api_key("hf_\ud800") is False
