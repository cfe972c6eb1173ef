"""schema.sql, which people read, leaves the same behind as the migrations, which are what runs."""

from __future__ import annotations

import re
from typing import Any

import asyncpg
import pytest

from holdfast.store.migrate import migration_files
from tests.store.rows import Sql

SCHEMA = migration_files()[0].with_name("schema.sql")

COLUMNS = """
    SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
        pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'holdfast'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY 1, 2
"""
TABLES = """
    SELECT c.relname, c.relkind::text, c.reloptions
    FROM pg_class AS c
    WHERE c.relnamespace = 'holdfast'::regnamespace
    ORDER BY 1
"""
VIEWS = "SELECT viewname, definition FROM pg_views WHERE schemaname = 'holdfast' ORDER BY 1"
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'holdfast' ORDER BY 1"
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint
    WHERE connamespace = 'holdfast'::regnamespace
    ORDER BY 1, 2
"""
OTHERS = """
    SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'holdfast'::regnamespace
    UNION ALL
    SELECT 'type', typname FROM pg_type WHERE typnamespace = 'holdfast'::regnamespace AND typtype <> 'c' AND typelem = 0
    UNION ALL
    SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal
    ORDER BY 1, 2
"""
ROWS = "SELECT name, feed FROM holdfast.namespace ORDER BY 1"
ALL = {
    "tables": TABLES,
    "views": VIEWS,
    "columns": COLUMNS,
    "indexes": INDEXES,
    "constraints": CONSTRAINTS,
    "others": OTHERS,
    "rows": ROWS,
}


async def leave(url: str, text: str | None) -> dict[str, list[Any]]:
    """The catalogue of a database, after *text* was run in an empty one if given."""
    async with Sql.connected(url) as sql:
        if text is not None:
            await sql.connection.execute("CREATE SCHEMA holdfast")
            await sql.connection.execute(text)
        return {what: await sql(query) for what, query in ALL.items()}


@pytest.fixture
async def empty(database: str) -> str:
    """The URL of an empty database on the same server."""
    name = f"empty_{database.rpartition('/')[2]}"
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return f"{database.rpartition('/')[0]}/{name}"


async def test_schema_sql_is_the_sum_of_the_migrations(database: str, empty: str) -> None:
    migrated = await leave(database, None)
    read = await leave(empty, SCHEMA.read_text(encoding="utf-8"))

    for what in ALL:
        # The migrator's own table is not in the files.
        ours = [row for row in migrated[what] if "migration" not in str(row)]
        assert read[what] == ours, f"{what} differ: bring schemas/postgres/schema.sql up to date"


@pytest.mark.parametrize("path", migration_files(), ids=lambda path: path.name)
def test_a_migration_says_what_kind_it_is(path: Any) -> None:
    """`expand` may run while the older version serves, `contract` only after it is gone."""
    assert re.match(r"-- (expand|contract)\n-- \S", path.read_text(encoding="utf-8"))


def test_migrations_are_numbered_without_gaps() -> None:
    assert [int(path.name[:4]) for path in migration_files()] == list(range(1, len(migration_files()) + 1))
