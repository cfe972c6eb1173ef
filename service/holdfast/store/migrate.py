"""Brings the schema up to date: forward only, one file after the other, under an advisory lock.

A file that was applied never changes: its digest is kept and compared. The files live in
`schemas/postgres/` of a checkout and are shipped inside the installed package.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import asyncpg
import msgspec

from holdfast.exceptions import Invalid, Refused, Unavailable
from holdfast.store.session import Pool, Query

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('holdfast migrate'))"
_PREPARE = "CREATE SCHEMA IF NOT EXISTS holdfast"
_TABLE = """
CREATE TABLE IF NOT EXISTS holdfast.migration (
    version integer PRIMARY KEY,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
_APPLIED = "SELECT version, digest FROM holdfast.migration ORDER BY version"
_EXISTS = "SELECT to_regclass('holdfast.migration') IS NOT NULL"
_KEEP = "INSERT INTO holdfast.migration (version, name, digest) VALUES ($1, $2, $3)"
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class Applied(msgspec.Struct, kw_only=True):
    """A migration that the database has."""

    version: int
    digest: str


READ_APPLIED = Query(
    """
    SELECT m.version, m.digest
    FROM migration AS m
    ORDER BY m.version
    """,
    Applied,
)

OLDEST_SERVER = 150000

# TimeoutError is an OSError.
_GONE = (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)


def migration_files() -> list[Path]:
    """The migrations this version brings, in order."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "_schemas" / "postgres", here.parents[3] / "schemas" / "postgres"):
        if folder.is_dir():
            return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    raise Invalid(f"no migrations beside {here}: the installation is incomplete, install holdfast again")


async def migrate(url: str) -> list[str]:
    """Apply what is missing and return the names of the files applied.

    Safe to run from many processes at once: one works, the others wait and find it done.
    Raises `Unavailable` when Postgres does not answer, `Refused` when the database was
    migrated by a newer version or with other files or does not let us, `Invalid` for a
    server too old. Then nothing was changed.
    """
    connection = await _connect(url)
    try:
        version = _number(connection)
        if version < OLDEST_SERVER:
            raise Invalid(f"Postgres {version // 10000} is too old: expected 15 or newer")
        async with connection.transaction():
            return await _apply(connection)
    except _GONE as error:
        raise Unavailable(f"lost Postgres during the migration ({error}): run it again") from error
    except asyncpg.PostgresError as error:
        raise Refused(
            f"the database refused the migration: {error}; nothing was changed, put that right and run it again"
        ) from error
    finally:
        await _hang_up(connection)


async def _apply(connection: asyncpg.Connection) -> list[str]:
    await connection.execute(_LOCK)
    await connection.execute(_PREPARE)
    await connection.execute(_TABLE)
    applied = {row["version"]: row["digest"] for row in await connection.fetch(_APPLIED)}
    done = []
    for path in _pending(applied):
        text = path.read_text()
        await connection.execute("SET LOCAL search_path = holdfast")
        await connection.execute(text)
        await connection.execute(_KEEP, int(path.name[:4]), path.name, _digest(text))
        done.append(path.name)
    return done


async def pending(url: str) -> list[str]:
    """The names of migrations that `migrate` would apply. Raises as `migrate` does."""
    connection = await _connect(url)
    try:
        applied = {}
        if await connection.fetchval(_EXISTS):
            applied = {row["version"]: row["digest"] for row in await connection.fetch(_APPLIED)}
        return [path.name for path in _pending(applied)]
    except (*_GONE, asyncpg.PostgresError) as error:
        raise Unavailable(f"lost Postgres ({error}): ask again") from error
    finally:
        await _hang_up(connection)


async def pending_on(pool: Pool) -> list[str]:
    """As `pending`, with one statement on a connection that is there already; `Unavailable` if nothing was ever applied."""
    return [
        path.name for path in _pending({row.version: row.digest for row in await pool.rows(READ_APPLIED)})
    ]


def _pending(applied: dict[int, str]) -> list[Path]:
    files = {int(path.name[:4]): path for path in migration_files()}
    for version, digest in applied.items():
        if version not in files:
            raise Refused(
                f"the database has migration {version:04d}, which this version of holdfast does not know: "
                "install the version that applied it, or a newer one"
            )
        if _digest(files[version].read_text()) != digest:
            raise Refused(
                f"migration {files[version].name} was applied with another content: "
                "migrations never change after they were applied; restore the file"
            )
    return [path for version, path in sorted(files.items()) if version not in applied]


async def _connect(url: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(url, timeout=5.0, command_timeout=120.0)
    except ValueError as error:
        # Before the others: asyncpg's own error about a URL is of both kinds.
        raise Invalid(
            f"not a Postgres URL: {error}; expected postgresql://user:password@host:port/database"
        ) from error
    except (*_GONE, asyncpg.PostgresError) as error:
        raise Unavailable(f"Postgres does not answer: {str(error) or type(error).__name__}") from error


async def _hang_up(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=2.0)
    except (*_GONE, asyncpg.PostgresError):
        # Whatever there was to say has been said.
        connection.terminate()


def _number(connection: asyncpg.Connection) -> int:
    version = connection.get_server_version()
    return int(version.major) * 10000 + int(version.minor)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
