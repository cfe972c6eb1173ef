"""A plan is made when its connection first meets a statement, and kept: made on empty tables it must do for full ones."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from holdfast.store import owned_rows, record_statements, run_rows, slot_rows
from holdfast.store.session import Pool, Query, Statement

STATEMENTS: dict[str, Query[Any] | Statement] = {
    "resolve": run_rows.RESOLVE,
    "lock": owned_rows.LOCK,
    "timers": owned_rows.READ_TIMERS,
    "requests": owned_rows.READ_REQUESTS,
    "change runs": record_statements.CHANGE_RUNS,
    "open runs": record_statements.OPEN_RUNS,
    "close activities": record_statements.CLOSE_ACTIVITIES,
    "lock slots": slot_rows.LOCK_SLOTS,
    "fire slots": slot_rows.FIRE_SLOTS,
    "skip slots": slot_rows.SKIP_SLOTS,
}
KEY = re.compile(r"\b(run_id|workflow_id|request_id|slot|name) = ")


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_plan_made_while_the_tables_were_empty_goes_by_their_keys(pool: Pool, name: str) -> None:
    text = STATEMENTS[name].text
    nothing = ", ".join(["NULL"] * max(map(int, re.findall(r"\$(\d+)", text))))

    async with pool.session() as session:
        connection = session._connection
        await connection.execute(f"PREPARE looked_at AS {text}")
        (found,) = json.loads(
            await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE looked_at({nothing})")
        )

    entered = [
        node for node in nodes(found["Plan"]) if "Index Name" in node or node["Node Type"] == "Seq Scan"
    ]
    assert entered
    assert [node for node in entered if not KEY.search(node.get("Index Cond", ""))] == []


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", ()) for node in nodes(part))]
