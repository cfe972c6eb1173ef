"""Search attributes: merged at their first level without a lost update, and refused when a reader would choke on them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from holdfast.exceptions import Invalid
from holdfast.store import Store
from tests.contract.given import NOON, closed, created, workflow
from tests.contract.journal import entries, facts
from tests.store.rows import Sql


async def attributes(store: Store, id: str = "order-1", **address: Any) -> str | None:
    """The search attributes as they are written."""
    found = await store.get_workflow(id, **address)
    assert found is not None
    return found.search_attributes


async def test_what_is_patched_changes_and_the_rest_stays(store: Store, sql: Sql) -> None:
    await created(store, search_attributes='{"a": 1, "b": {"c": 1, "d": 2}, "e": null}')

    await store.upsert_search_attributes("order-1", '{"b": {"c": 3}, "f": [null]}')

    assert json.loads(await attributes(store) or "") == {"a": 1, "b": {"c": 3}, "e": None, "f": [None]}
    entry = (await entries(sql))[-1]
    assert (entry.fact, entry.record, entry.key) == ("SearchAttributesUpserted", "workflow", "order-1")
    assert set(entry.fields) == {"run_id"}


async def test_without_any_the_patch_becomes_the_value_byte_for_byte(store: Store) -> None:
    await created(store)

    await store.upsert_search_attributes("order-1", '{"b":  1.0, "a": "ü\\u00fc"}')

    assert await attributes(store) == '{"b":  1.0, "a": "ü\\u00fc"}'


@pytest.mark.parametrize("known", [None, '{"a": 1, "b": 2}'])
async def test_null_removes_a_key(store: Store, known: str | None) -> None:
    await created(store, search_attributes=known)

    await store.upsert_search_attributes("order-1", '{"a": null, "c": {"d": null}, "b": null, "b": 3}')

    assert json.loads(await attributes(store) or "") == {"b": 3, "c": {"d": None}}


async def test_an_empty_patch_makes_an_empty_value_of_none(store: Store) -> None:
    await created(store)

    await store.upsert_search_attributes("order-1", "{}")

    assert await attributes(store) == "{}"


async def test_a_patch_that_changes_nothing_is_not_told(store: Store, sql: Sql) -> None:
    await created(store, search_attributes='{"a":   1}')

    for patch in ('{"a": 1}', '{"a": 1.0}', "{}", '{"z": null}'):
        await store.upsert_search_attributes("order-1", patch)

    assert await attributes(store) == '{"a":   1}'
    assert len(await facts(sql)) == 1
    found = await store.get_workflow("order-1")
    assert found is not None
    assert found.updated_at == NOON


async def test_of_twenty_racing_patches_none_is_lost(store: Store, other: Store) -> None:
    await created(store)

    await asyncio.gather(
        *(
            (store, other)[n % 2].upsert_search_attributes("order-1", json.dumps({f"k{n}": n}))
            for n in range(20)
        )
    )

    assert json.loads(await attributes(store) or "") == {f"k{n}": n for n in range(20)}


async def test_an_unknown_workflow_is_left_alone_and_a_closed_one_takes_them(store: Store, sql: Sql) -> None:
    await store.upsert_search_attributes("order-2", '{"a": 1}')
    assert await facts(sql) == []
    await closed(store)

    await store.upsert_search_attributes("order-1", '{"a": 1}')

    assert await attributes(store) == '{"a": 1}'


async def test_an_older_run_is_named_by_its_run_id(store: Store) -> None:
    await closed(store, run_id="01900000-0000-7000-8000-000000000001")
    await created(store)

    await store.upsert_search_attributes("order-1", '{"a": 1}', run_id="01900000-0000-7000-8000-000000000001")

    assert await attributes(store) is None
    assert await attributes(store, run_id="01900000-0000-7000-8000-000000000001") == '{"a": 1}'


BAD = [
    "",
    "{",
    "[]",
    "1",
    "null",
    '"x"',
    "{'a': 1}",
    '{"a": 1} x',
    '{"a": "\\u0000"}',
    '{"\\u0000": 1}',
    '{"a": ["\\u0000"]}',
    '{"a": "\x00"}',
    '{"a": 1}\x00',
    '{"a": "\\ud800"}',
    '{"a": "\\udc00\\ud800"}',
    '{"\\ud83d": 1}',
    '{"a": "\ud800"}',
    '{"a": NaN}',
    '{"a": Infinity}',
    '{"a": -Infinity}',
    '{"a": 1e400}',
    '{"a": -1e999999}',
    '{"a": 1e-400}',
    '{"a": 1' + "0" * 400 + "}",
    '{"a": 0.' + "1" * 20_000 + "}",
    '{"a": 01}',
    '{"a": "\n"}',
    '{"a": ' + "[" * 101 + "]" * 101 + "}",
    '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"a": "' + "x" * 1_048_576 + '"}',
]


@pytest.mark.parametrize("text", BAD, ids=[f"bad{n}" for n in range(len(BAD))])
async def test_what_a_reader_would_choke_on_is_refused_everywhere(store: Store, text: str) -> None:
    await created(store, "order-2", search_attributes='{"a": 1}')

    with pytest.raises(Invalid):
        await store.create_workflow(workflow("order-1", search_attributes=text))
    with pytest.raises(Invalid):
        await store.upsert_search_attributes("order-2", text)
    with pytest.raises(Invalid):
        await store.list_workflows("main", None, None, text, 10, 0)

    assert await attributes(store, "order-2") == '{"a": 1}'


GOOD = [
    '{"a": "\\ud83d\\ude00 \\u0001 \\\\u0000"}',
    '{"a": 1e308, "b": -1.7e308, "c": 5e-324, "d": 0e999999, "e": -0, "f": 0.0}',
    '{"a": ' + "9" * 308 + "}",
    '{"a": 0.' + "1" * 900 + "}",
    '{"a": ' + "[" * 98 + "]" * 98 + "}",
    ' \t\n\r{"": {"": ""}} ',
    '{"a": "' + "x" * 1_000_000 + '"}',
]


@pytest.mark.parametrize("text", GOOD, ids=[f"good{n}" for n in range(len(GOOD))])
async def test_odd_but_sound_json_is_kept_and_merged_and_listed(store: Store, text: str) -> None:
    await created(store, search_attributes=text)
    assert await attributes(store) == text

    await store.upsert_search_attributes("order-1", '{"z": 1}')

    merged = json.loads(await attributes(store) or "", parse_int=float)
    assert merged == {**json.loads(text, parse_int=float), "z": 1}
    assert len(await store.list_workflows("main", None, None, text, 10, 0)) == 1


async def test_search_attributes_do_not_grow_without_end(store: Store) -> None:
    await created(store, search_attributes='{"a": "' + "x" * 1_000_000 + '"}')

    with pytest.raises(Invalid, match="would have 1,100,"):
        await store.upsert_search_attributes("order-1", '{"b": "' + "x" * 100_000 + '"}')

    assert '"b"' not in (await attributes(store) or "")
