"""API keys. Only hashes are kept, and none is ever read back."""

from __future__ import annotations

import msgspec

from holdfast.exceptions import AlreadyExists
from holdfast.store.contract.door import can_be_stored, check_moment, check_unicode
from holdfast.store.contract.opening import Opened
from holdfast.store.session import Query
from holdfast.wire import codec
from holdfast.wire.records import ApiKeyRecord


class Prefix(msgspec.Struct, kw_only=True):
    """What a key is called."""

    prefix: str
    namespace: str | None


class Validity(msgspec.Struct, kw_only=True):
    """Whether a key may be used."""

    is_valid: bool


INSERT_API_KEY = Query(
    """
    INSERT INTO api_key (key_hash, prefix, label, created_at)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING
    RETURNING prefix, namespace
    """,
    Prefix,
)

# One probe and one row whatever the answer is: how long it takes tells nothing about the key.
IS_KEY_VALID = Query(
    """
    SELECT EXISTS (
        SELECT 1
        FROM api_key AS k
        WHERE k.key_hash = $1
            AND k.revoked_at IS NULL
            AND (k.expires_at IS NULL OR k.expires_at > extract(epoch FROM clock_timestamp())::float8)
    ) AS is_valid
    """,
    Validity,
)

LIST_API_KEYS = Query(
    """
    SELECT k.prefix, k.label, k.created_at, k.namespace, k.scopes, k.expires_at, k.last_used_at, k.revoked_at
    FROM api_key AS k
    ORDER BY k.created_at DESC, k.prefix
    """,
    ApiKeyRecord,
)

REVOKE_API_KEY = Query(
    """
    UPDATE api_key AS k
    SET revoked_at = extract(epoch FROM clock_timestamp())::float8
    WHERE k.prefix = $1 AND k.revoked_at IS NULL
    RETURNING k.prefix, k.namespace
    """,
    Prefix,
)


async def create_api_key(
    store: Opened, key_hash: str, prefix: str, label: str | None, created_at: float
) -> None:
    """Keep a key by its hash. *prefix* is what people call it by. Raises `AlreadyExists` if either is known."""
    codec.check_text("key_hash", key_hash)
    codec.check_text("prefix", prefix)
    check_unicode("label", label)
    check_moment("created_at", created_at)
    async with store.writing() as writing:
        if await writing.one(INSERT_API_KEY, key_hash, prefix, label, created_at) is None:
            raise AlreadyExists(f"an API key with prefix {prefix!r} or with this hash exists already")
        writing.tell("main", "ApiKeyCreated", "api_key", prefix, label=label, created_at=created_at)


async def validate_api_key(store: Opened, key_hash: str) -> bool:
    """Whether the key may be used: known, neither revoked nor expired."""
    if not can_be_stored(key_hash):
        return False
    found = await store.one(IS_KEY_VALID, key_hash)
    return found is not None and found.is_valid


async def list_api_keys(store: Opened) -> list[ApiKeyRecord]:
    """All keys, the newest first, revoked ones too; never a hash."""
    return await store.pool.rows(LIST_API_KEYS)


async def revoke_api_key(store: Opened, prefix: str) -> bool:
    """Whether the key was in force until now."""
    if not can_be_stored(prefix):
        return False
    async with store.writing() as writing:
        if await writing.one(REVOKE_API_KEY, prefix) is None:
            return False
        writing.tell("main", "ApiKeyRevoked", "api_key", prefix)
        return True
