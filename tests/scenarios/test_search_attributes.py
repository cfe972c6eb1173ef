"""Search attributes and memos: given at the start, changed by the code, read back, searched by."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast import workflow
from holdfast.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from holdfast.store import Store
from holdfast.testing import WorkflowEnvironment
from tests.scenarios.stage import QUEUE, event_types, outcome, worker

TENANT = SearchAttributeKey.for_keyword("tenant")
TEXT = SearchAttributeKey.for_text("text")
NUMBER = SearchAttributeKey.for_int("number")
SHARE = SearchAttributeKey.for_float("share")
IS_NEW = SearchAttributeKey.for_bool("is_new")
DUE = SearchAttributeKey.for_datetime("due")
TAGS = SearchAttributeKey.for_keyword_list("tags")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ALL = TypedSearchAttributes(
    [
        SearchAttributePair(TENANT, "acme"),
        SearchAttributePair(TEXT, "a b"),
        SearchAttributePair(NUMBER, 5),
        SearchAttributePair(SHARE, 0.5),
        SearchAttributePair(IS_NEW, True),
        SearchAttributePair(DUE, NOON),
        SearchAttributePair(TAGS, ["x", "y"]),
    ]
)


@workflow.defn
async def changes_itself() -> list[Any]:
    workflow.upsert_search_attributes([TENANT.value_set("beta"), NUMBER.value_unset(), TAGS.value_set(["z"])])
    workflow.upsert_memo({"step": 2, "gone": None})
    await asyncio.sleep(0.01)
    typed = workflow.info().typed_search_attributes
    return [typed.get(TENANT), typed.get(NUMBER), typed.get(TAGS), dict(workflow.memo())]


@workflow.defn
async def shows_its_attributes() -> bool:
    return workflow.info().typed_search_attributes == ALL


async def test_every_type_comes_back_as_it_was_given(env: WorkflowEnvironment) -> None:
    async with worker(env.client, shows_its_attributes):
        handle = await env.client.start_workflow(
            shows_its_attributes, id="run", task_queue=QUEUE, search_attributes=ALL
        )
        assert await handle.result()

    shown = (await handle.describe()).typed_search_attributes

    assert [shown[pair.key] for pair in ALL] == [pair.value for pair in ALL]


async def test_code_changes_what_lists_show_and_sees_it_itself(env: WorkflowEnvironment) -> None:
    async with worker(env.client, changes_itself):
        handle = await env.client.start_workflow(
            changes_itself, id="run", task_queue=QUEUE, search_attributes=ALL, memo={"gone": 1, "kept": "k"}
        )
        seen = await handle.result()

    described = await handle.describe()

    assert seen == ["beta", None, ["z"], {"step": 2, "kept": "k"}]
    assert await described.memo() == {"step": 2, "kept": "k"}
    shown = described.typed_search_attributes
    assert (shown.get(TENANT), shown.get(NUMBER), shown.get(TAGS), shown.get(SHARE)) == (
        "beta",
        None,
        ["z"],
        0.5,
    )
    assert (await event_types(handle))[2:4] == ["SearchAttributesUpserted", "MemoUpserted"]


async def test_a_run_that_had_none_gets_its_first_ones(env: WorkflowEnvironment) -> None:
    seen = await outcome(env, changes_itself)

    assert seen == ["beta", None, ["z"], {"step": 2}]
    assert [run.id async for run in env.client.list_workflows("tenant = 'beta' AND tags = 'z'")] == ["run"]


async def test_the_store_contract_and_the_engine_see_the_same_attributes(env: WorkflowEnvironment) -> None:
    assert env.postgres_url is not None
    await env.client.start_workflow("any", id="run", task_queue=QUEUE, search_attributes=ALL)
    async with await Store.connect(env.postgres_url) as store:
        listed = await store.list_workflows("main", search_attrs_filter='{"tenant":"acme","number":5}')
        await store.upsert_search_attributes("run", '{"tenant":"beta"}')

    assert [run.id for run in listed] == ["run"]
    assert [run.id async for run in env.client.list_workflows("tenant = 'beta'")] == ["run"]
    assert [run.id async for run in env.client.list_workflows("tenant = 'acme'")] == []


def test_a_value_of_another_type_is_refused_before_anything_is_sent() -> None:
    from holdfast.sdk.search_attributes import encoded

    with pytest.raises(TypeError, match="search attribute 'number' is 'five': expected int"):
        encoded([NUMBER.value_set("five")])  # type: ignore[arg-type]


def test_one_name_stands_for_one_value() -> None:
    with pytest.raises(ValueError, match="Duplicate search attribute entries found for key tenant"):
        TypedSearchAttributes([SearchAttributePair(TENANT, "a"), SearchAttributePair(TENANT, "b")])


def test_attributes_are_found_by_key_and_replaced_by_name() -> None:
    changed = ALL.updated(SearchAttributePair(TENANT, "beta"))

    assert (changed[TENANT], ALL[TENANT], len(changed)) == ("beta", "acme", len(ALL))
    assert TENANT in ALL
    assert ALL.get(SearchAttributeKey.for_int("none"), 3) == 3
