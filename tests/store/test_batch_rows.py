"""The row types of the database are the core's structs, field by field: rows travel by position."""

from __future__ import annotations

import msgspec
import pytest

from holdfast.core import state as s
from tests.store.rows import Sql

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS = """
    SELECT a.attname
    FROM pg_type AS t
    JOIN pg_attribute AS a ON a.attrelid = t.typrelid
    WHERE t.typname = $1 AND t.typnamespace = 'holdfast'::regnamespace AND a.attnum > 0
    ORDER BY a.attnum
"""


@pytest.mark.parametrize(
    ("row", "struct"),
    [
        ("run_row", s.Run),
        ("task_row", s.Task),
        ("activity_row", s.Activity),
        ("timer_row", s.Timer),
        ("request_row", s.KeptRequest),
    ],
)
async def test_a_row_has_the_fields_of_its_struct_in_their_order(
    shared_sql: Sql, row: str, struct: type[msgspec.Struct]
) -> None:
    assert await shared_sql(FIELDS, row) == list(struct.__struct_fields__)
