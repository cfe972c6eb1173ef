"""Schedules through the contract: kept, listed, patched, paused and deleted; none of it ever fires anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.exceptions import AlreadyExists, Invalid, NotFound
from holdfast.store import Store
from holdfast.wire.records import SchedulePatch, WorkflowSchedule
from tests.contract.journal import entries, facts
from tests.store.rows import Sql

NOON = 1_700_000_000.5
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


def nightly(name: str = "nightly", **fields: Any) -> WorkflowSchedule:
    given: dict[str, Any] = {"workflow_type": "report", "cron_expr": "0 3 * * *", "created_at": NOON}
    return WorkflowSchedule(name=name, **{**given, **fields})


async def made(store: Store, name: str = "nightly", **fields: Any) -> WorkflowSchedule:
    """A schedule that was kept, read back."""
    await store.create_schedule(nightly(name, **fields))
    found = await store.get_schedule(fields.get("namespace", "main"), name)
    assert found is not None
    return found


# -- create ----------------------------------------------------------------------------------------


async def test_a_schedule_reads_as_it_was_written(store: Store) -> None:
    given = nightly(
        timezone="Europe/Berlin",
        input='{"n": 1,  "s": "\\u00fc"}',
        task_queue="reports",
        overlap_policy="cancel_old",
        paused=True,
        catchup_window_secs=12.5,
        jitter_secs=0.25,
        last_run_at=1000.000001,
        next_run_at=9_999_999_999.123456,
        last_workflow_id="report-7",
    )

    await store.create_schedule(given)

    assert await store.get_schedule("main", "nightly") == given


async def test_what_is_not_given_has_the_defaults(store: Store) -> None:
    found = await made(store)

    assert (found.timezone, found.task_queue, found.overlap_policy) == ("UTC", "main", "skip")
    assert (found.paused, found.catchup_window_secs, found.jitter_secs, found.input) == (False, 60, 0, None)
    assert (found.last_run_at, found.last_workflow_id, found.created_at) == (None, None, NOON)


async def test_the_next_run_is_computed_from_the_databases_clock(store: Store, sql: Sql) -> None:
    """Not from `created_at`, which is the caller's."""
    found = await made(store, cron_expr="0 3 * * *", created_at=1000.0)

    now = await sql.one(NOW)
    assert found.next_run_at is not None
    assert now < found.next_run_at <= now + 86_400
    assert found.next_run_at % 86_400 == 3 * 3600


async def test_the_next_run_is_in_the_schedules_zone(store: Store) -> None:
    found = await made(store, cron_expr="0 3 * * *", timezone="Asia/Kolkata")

    assert found.next_run_at is not None
    assert found.next_run_at % 86_400 == 21.5 * 3600


async def test_registering_fires_nothing(store: Store, sql: Sql) -> None:
    await made(store, cron_expr="* * * * * *", next_run_at=1000.0)

    assert await sql.one("SELECT count(*) FROM run") == 0
    assert await sql.one("SELECT count(*) FROM schedule_fire") == 0


async def test_a_name_is_taken_once_in_its_namespace(store: Store, sql: Sql) -> None:
    await store.create_namespace("other")
    await made(store)
    await made(store, namespace="other")

    with pytest.raises(AlreadyExists, match="schedule 'nightly' exists already"):
        await store.create_schedule(nightly(cron_expr="0 4 * * *"))

    kept = await store.get_schedule("main", "nightly")
    assert kept is not None
    assert kept.cron_expr == "0 3 * * *"
    assert [fact for fact, _ in await facts(sql)].count("ScheduleCreated") == 2


async def test_of_racing_creators_one_wins(store: Store, other: Store) -> None:
    outcomes = await asyncio.gather(
        *((store, other)[n % 2].create_schedule(nightly()) for n in range(8)), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes if outcome] == [AlreadyExists] * 7


async def test_an_unknown_namespace_takes_no_schedule(store: Store) -> None:
    with pytest.raises(NotFound, match="no namespace 'nowhere'"):
        await store.create_schedule(nightly(namespace="nowhere"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cron_expr": "every day"}, "cron"),
        ({"cron_expr": ""}, "cron"),
        ({"cron_expr": "61 * * * *"}, "minute"),
        ({"cron_expr": "* * * *"}, "field"),
        ({"cron_expr": "0 0 30 2 *"}, "cron"),
        ({"timezone": "Europe/Atlantis"}, "zone"),
        ({"timezone": ""}, "zone"),
        ({"timezone": "../../etc/passwd"}, "zone"),
        ({"overlap_policy": "sometimes"}, "overlap_policy is 'sometimes'"),
        ({"catchup_window_secs": -1}, "catchup_window_secs is -1"),
        ({"catchup_window_secs": float("nan")}, "catchup_window_secs is nan"),
        ({"jitter_secs": float("inf")}, "jitter_secs is inf"),
        ({"jitter_secs": -0.5}, "jitter_secs is -0.5"),
        ({"name": ""}, "name is empty"),
        ({"name": "a\x00b"}, "NUL"),
        ({"name": "\ud800"}, "surrogate"),
        ({"workflow_type": ""}, "workflow_type is empty"),
        ({"task_queue": "q" * 1001}, "task_queue has 1001 characters"),
        ({"input": "a\x00b"}, "NUL"),
        ({"next_run_at": float("nan")}, "next_run_at is nan"),
        ({"created_at": 1e300}, "created_at is 1e"),
    ],
)
async def test_what_could_never_fire_or_be_kept_is_refused(
    store: Store, sql: Sql, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid, match=f"(?i){message}"):
        await store.create_schedule(nightly(**{"name": "odd", **fields}))

    assert await store.list_schedules("main") == []
    assert await facts(sql) == []


@pytest.mark.parametrize(
    "expr", ["*/5 * * * * *", "0 0 12 1 1 * 2030-2099", "@hourly", "0 9 * * MON-FRI", "0 0 L * *"]
)
async def test_every_spelling_of_cron_is_taken(store: Store, expr: str) -> None:
    assert (await made(store, cron_expr=expr)).next_run_at is not None


@pytest.mark.parametrize("policy", ["skip", "queue", "cancel_old", "terminate_old", "allow_all"])
async def test_every_overlap_policy_is_taken(store: Store, policy: str) -> None:
    assert (await made(store, overlap_policy=policy)).overlap_policy == policy


# -- read ------------------------------------------------------------------------------------------


async def test_schedules_are_listed_by_name(store: Store) -> None:
    await store.create_namespace("other")
    for name in ("b", "a", "Z"):
        await made(store, name)
    await made(store, "c", namespace="other")

    assert [schedule.name for schedule in await store.list_schedules("main")] == ["Z", "a", "b"]
    assert [schedule.name for schedule in await store.list_schedules("other")] == ["c"]


@pytest.mark.parametrize("name", ["unknown", "", "a\x00b", "\ud800"])
async def test_an_unknown_schedule_is_none(store: Store, name: str) -> None:
    assert await store.get_schedule("main", name) is None
    assert await store.get_schedule(name, "nightly") is None
    assert await store.list_schedules(name) == []
    assert await store.delete_schedule("main", name) is False
    assert await store.update_schedule("main", name, SchedulePatch(task_queue="q")) is None
    assert await store.set_schedule_paused("main", name, True) is None
    await store.update_schedule_last_run("main", name, NOON, NOON, "w")


async def test_schedules_of_a_namespace_that_is_gone_can_still_be_read(store: Store) -> None:
    await store.create_namespace("brief")
    await made(store, namespace="brief")

    await store.delete_namespace("brief")

    assert await store.get_schedule("brief", "nightly") is not None


# -- last run --------------------------------------------------------------------------------------


async def test_the_last_run_is_kept_as_it_was_given(store: Store, sql: Sql) -> None:
    before = await made(store)

    await store.update_schedule_last_run("main", "nightly", 1000.000001, 10_000_000_000.0, "report-9")

    after = await store.get_schedule("main", "nightly")
    assert after is not None
    assert (after.last_run_at, after.next_run_at, after.last_workflow_id) == (
        1000.000001,
        10_000_000_000.0,
        "report-9",
    )
    assert after.cron_expr == before.cron_expr
    assert (await facts(sql))[1:] == [("ScheduleLastRunUpdated", "nightly")]


async def test_the_same_last_run_again_changes_nothing(store: Store, sql: Sql) -> None:
    await made(store)

    for _ in range(3):
        await store.update_schedule_last_run("main", "nightly", NOON, NOON + 60, "report-9")

    assert len(await facts(sql)) == 2


async def test_a_last_run_that_is_no_time_is_refused(store: Store) -> None:
    await made(store)

    with pytest.raises(Invalid, match="last_run_at is nan"):
        await store.update_schedule_last_run("main", "nightly", float("nan"), NOON, "w")


# -- delete ----------------------------------------------------------------------------------------


async def test_a_deleted_schedule_is_gone_with_its_slots(store: Store, sql: Sql) -> None:
    await made(store)
    await made(store, "weekly")
    await sql(
        "INSERT INTO schedule_fire (namespace, schedule, slot, status)"
        " VALUES ('main', 'nightly', 1, 'queued'), ('main', 'nightly', 2, 'started'), ('main', 'weekly', 1, 'queued')"
    )

    assert await store.delete_schedule("main", "nightly") is True

    assert await store.delete_schedule("main", "nightly") is False
    assert await store.get_schedule("main", "nightly") is None
    assert await sql("SELECT schedule FROM schedule_fire") == ["weekly"]
    assert (await facts(sql))[2:] == [("ScheduleDeleted", "nightly")]


async def test_a_deleted_name_can_be_used_again(store: Store) -> None:
    await made(store)
    await store.delete_schedule("main", "nightly")

    assert (await made(store, cron_expr="0 5 * * *")).cron_expr == "0 5 * * *"


async def test_of_racing_deletions_one_finds_it(store: Store, other: Store, sql: Sql) -> None:
    await made(store)

    outcomes = await asyncio.gather(
        *((store, other)[n % 2].delete_schedule("main", "nightly") for n in range(6))
    )

    assert sorted(outcomes) == [False] * 5 + [True]
    assert (await facts(sql)).count(("ScheduleDeleted", "nightly")) == 1


# -- update ----------------------------------------------------------------------------------------


async def test_a_patch_changes_what_it_names_and_nothing_else(store: Store) -> None:
    before = await made(store, input='{"a":1}')

    after = await store.update_schedule(
        "main", "nightly", SchedulePatch(task_queue="bulk", overlap_policy="queue", catchup_window_secs=5)
    )

    assert after is not None
    assert (after.task_queue, after.overlap_policy, after.catchup_window_secs) == ("bulk", "queue", 5)
    assert (after.input, after.cron_expr, after.next_run_at) == (
        '{"a":1}',
        before.cron_expr,
        before.next_run_at,
    )
    assert await store.get_schedule("main", "nightly") == after


async def test_none_clears_the_input_and_unset_keeps_it(store: Store) -> None:
    await made(store, input="[1]")

    kept = await store.update_schedule("main", "nightly", SchedulePatch(workflow_type="other"))
    cleared = await store.update_schedule("main", "nightly", SchedulePatch(input=None))

    assert kept is not None
    assert kept.input == "[1]"
    assert cleared is not None
    assert cleared.input is None


async def test_a_new_cron_expression_counts_from_now(store: Store, sql: Sql) -> None:
    await made(store, next_run_at=1000.0)

    after = await store.update_schedule("main", "nightly", SchedulePatch(cron_expr="30 4 * * *"))

    now = await sql.one(NOW)
    assert after is not None
    assert after.next_run_at is not None
    assert now < after.next_run_at <= now + 86_400
    assert after.next_run_at % 86_400 == 4.5 * 3600
    assert now - await sql.one("SELECT considered_at FROM schedule") < 20


async def test_a_new_zone_counts_from_now(store: Store) -> None:
    await made(store)

    after = await store.update_schedule("main", "nightly", SchedulePatch(timezone="Asia/Kolkata"))

    assert after is not None
    assert after.next_run_at is not None
    assert after.next_run_at % 86_400 == 21.5 * 3600


async def test_a_patch_that_says_what_is_already_so_changes_nothing(store: Store, sql: Sql) -> None:
    before = await made(store, next_run_at=1000.0)

    after = await store.update_schedule(
        "main", "nightly", SchedulePatch(cron_expr=before.cron_expr, timezone="UTC", input=None)
    )

    assert after == before
    assert await facts(sql) == [("ScheduleCreated", "nightly")]


@pytest.mark.parametrize(
    "patch",
    [
        SchedulePatch(cron_expr="nonsense"),
        SchedulePatch(timezone="Moon/Base"),
        SchedulePatch(overlap_policy="often"),
        SchedulePatch(jitter_secs=-1),
        SchedulePatch(workflow_type=""),
        SchedulePatch(task_queue="a\x00"),
    ],
)
async def test_a_patch_that_is_invalid_changes_nothing(store: Store, sql: Sql, patch: SchedulePatch) -> None:
    before = await made(store)

    with pytest.raises(Invalid):
        await store.update_schedule("main", "nightly", patch)

    assert await store.get_schedule("main", "nightly") == before
    assert len(await facts(sql)) == 1


async def test_racing_patches_of_different_fields_all_count(store: Store, other: Store) -> None:
    await made(store)

    await asyncio.gather(
        store.update_schedule("main", "nightly", SchedulePatch(task_queue="bulk")),
        other.update_schedule("main", "nightly", SchedulePatch(workflow_type="other")),
        store.update_schedule("main", "nightly", SchedulePatch(input="[2]")),
        other.update_schedule("main", "nightly", SchedulePatch(jitter_secs=7)),
    )

    after = await store.get_schedule("main", "nightly")
    assert after is not None
    assert (after.task_queue, after.workflow_type, after.input, after.jitter_secs) == (
        "bulk",
        "other",
        "[2]",
        7,
    )


async def test_an_update_is_told_without_its_input(store: Store, sql: Sql) -> None:
    await made(store)

    await store.update_schedule("main", "nightly", SchedulePatch(input='"secret"', task_queue="bulk"))

    told = (await entries(sql))[-1]
    assert (told.fact, told.record, told.key) == ("ScheduleUpdated", "schedule", "nightly")
    assert told.fields == {"task_queue": "bulk"}


# -- pause -----------------------------------------------------------------------------------------


async def test_a_paused_schedule_keeps_everything_else(store: Store) -> None:
    before = await made(store)

    paused = await store.set_schedule_paused("main", "nightly", True)

    assert paused is not None
    assert paused.paused
    assert (paused.next_run_at, paused.cron_expr) == (before.next_run_at, before.cron_expr)


async def test_going_on_counts_from_now_and_makes_nothing_good(store: Store, sql: Sql) -> None:
    await made(store, next_run_at=1000.0, paused=True)
    await sql("UPDATE schedule SET considered_at = 1000")

    resumed = await store.set_schedule_paused("main", "nightly", False)

    now = await sql.one(NOW)
    assert resumed is not None
    assert not resumed.paused
    assert resumed.next_run_at is not None
    assert now < resumed.next_run_at <= now + 86_400
    assert now - await sql.one("SELECT considered_at FROM schedule") < 20
    assert await sql.one("SELECT count(*) FROM schedule_fire") == 0


async def test_pausing_what_is_paused_changes_nothing(store: Store, sql: Sql) -> None:
    await made(store)

    for paused in (True, True, False, False):
        await store.set_schedule_paused("main", "nightly", paused)

    assert [fact for fact, _ in await facts(sql)] == ["ScheduleCreated", "SchedulePaused", "ScheduleResumed"]


async def test_the_note_says_why_and_goes_when_the_schedule_goes_on(store: Store, sql: Sql) -> None:
    await made(store)

    await store.set_schedule_paused("main", "nightly", True, note="month end")
    assert await sql("SELECT note FROM schedule") == ["month end"]

    await store.set_schedule_paused("main", "nightly", False)
    assert await sql("SELECT note FROM schedule") == [None]
