"""What clients ask of schedules: each change once, and what is shown is what was asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.api.rpc import serve_rpc
from holdfast.bus import Bus
from holdfast.exceptions import AlreadyExists, Invalid, NotFound, Refused
from holdfast.sdk.rpc import Rpc
from holdfast.wire import schedules as sch
from tests.contract.journal import facts
from tests.engine.parts import QUEUE
from tests.engine.scheduling import LAST_OPEN, NOON, Scheduling

CALENDAR = sch.CalendarSpec(hour=(sch.Range(3),), day_of_week=(sch.Range(1, 5),), comment="office")
SPECS = {
    "cron": sch.ScheduleSpec(specs=(sch.CronSpec(expr="0 3 * * *"),), timezone="Europe/Berlin", jitter_s=5),
    "interval": sch.ScheduleSpec(specs=(sch.IntervalSpec(every_s=3600, offset_s=60),)),
    "calendar": sch.ScheduleSpec(specs=(CALENDAR,), timezone="America/New_York"),
    "bounded cron": sch.ScheduleSpec(specs=(sch.CronSpec(expr="0 3 * * *"),), start_at=NOON, end_at=2 * NOON),
    "all": sch.ScheduleSpec(
        specs=(sch.CronSpec(expr="@daily"), sch.IntervalSpec(every_s=7200), CALENDAR), exclusions=(CALENDAR,)
    ),
}
CHANGES = {
    "create": sch.CreateSchedule,
    "update": sch.UpdateSchedule,
    "pause": sch.PauseSchedule,
    "trigger": sch.TriggerSchedule,
    "backfill": sch.BackfillSchedule,
    "delete": sch.DeleteSchedule,
}


def schedule(**fields: Any) -> sch.Schedule:
    given: dict[str, Any] = {"workflow_type": "order", "task_queue": QUEUE, "spec": SPECS["cron"]}
    return sch.Schedule(**{**given, **fields})


def request_of(change: str, request_id: str = "r1", **fields: Any) -> Any:
    return CHANGES[change](request_id=request_id, schedule_id="tick", **fields)


async def asked(planned: Scheduling, change: str, request_id: str = "r1", **fields: Any) -> None:
    answer = await planned.parts.ask(f"{change}_schedule", request_of(change, request_id, **fields))
    assert answer == sch.ScheduleDone()


async def described(planned: Scheduling) -> sch.ScheduleDescription:
    found: sch.ScheduleDescription = await planned.parts.ask(
        "describe_schedule", sch.DescribeSchedule(schedule_id="tick")
    )
    return found


@pytest.fixture
async def made(planned: Scheduling) -> Scheduling:
    """A schedule "tick"."""
    await asked(planned, "create", "made", schedule=schedule())
    return planned


@pytest.mark.parametrize("name", SPECS)
async def test_a_schedule_is_described_as_it_was_created(planned: Scheduling, name: str) -> None:
    given = schedule(
        spec=SPECS[name],
        input=b'[1, "a"]',
        overlap_policy="queue",
        catchup_window_s=5.0,
        is_paused=True,
        note="not yet",
        remaining_actions=3,
        is_pausing_on_failure=True,
    )

    await asked(planned, "create", schedule=given)

    assert (await described(planned)).schedule == given


async def test_an_update_makes_of_it_all_that_is_given(made: Scheduling) -> None:
    given = schedule(spec=SPECS["all"], input=b"[2]", overlap_policy="allow_all", is_paused=True, note="off")

    await asked(made, "update", schedule=given)

    assert (await described(made)).schedule == given


async def test_an_update_that_lets_it_go_on_makes_nothing_good(made: Scheduling) -> None:
    await asked(made, "update", "r1", schedule=schedule(is_paused=True))
    await made.look_from(1000.0)

    await asked(made, "update", "r2", schedule=schedule())

    considered_at, next_run_at = await made.row("considered_at, next_run_at")
    assert 1.7e9 < considered_at < next_run_at


async def test_a_pause_and_its_end_are_shown_with_their_notes(made: Scheduling) -> None:
    await asked(made, "pause", "r1", note="holidays")
    paused = await described(made)
    await asked(made, "pause", "r2", is_paused=False)
    running = await described(made)

    assert (paused.schedule.is_paused, paused.schedule.note, paused.next_at) == (True, "holidays", ())
    assert (running.schedule.is_paused, running.schedule.note, len(running.next_at)) == (False, None, 20)


async def test_a_trigger_starts_a_run_and_asked_again_no_other(made: Scheduling) -> None:
    await asked(made, "trigger", "r1")
    await asked(made, "trigger", "r1")
    await asked(made, "trigger", "r2")

    newest, oldest = (await described(made)).last
    assert (newest.status, newest.reason, oldest.status) == ("skipped", LAST_OPEN, "started")
    assert oldest.run_id is not None
    assert [workflow_id for workflow_id, _ in await made.runs()] == [oldest.workflow_id]


async def test_a_request_that_comes_twice_at_once_is_carried_out_once(made: Scheduling) -> None:
    await asyncio.gather(*(asked(made, "trigger", "r1", overlap_policy="allow_all") for _ in range(5)))

    assert len(await made.runs()) == 1


async def test_a_backfill_starts_the_slots_of_the_range(made: Scheduling) -> None:
    day = 1_700_000_000.0

    await asked(made, "backfill", from_at=day, to_at=day + 3 * 86_400, overlap_policy="allow_all")

    assert [slot.status for slot in (await described(made)).last] == ["started"] * 3


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ("create", {"schedule": schedule()}),
        ("update", {"schedule": schedule(note="once")}),
        ("pause", {}),
        ("trigger", {}),
        ("backfill", {"from_at": 1.7e9, "to_at": 1.7e9 + 86_400}),
        ("delete", {}),
    ],
)
async def test_every_change_asked_again_is_answered_and_changes_nothing(
    planned: Scheduling, change: str, fields: dict[str, Any]
) -> None:
    if change != "create":
        await asked(planned, "create", "made", schedule=schedule())
    await asked(planned, change, **fields)
    told = await facts(planned.parts.look)

    await asked(planned, change, **fields)

    assert await facts(planned.parts.look) == told


async def test_a_request_id_with_another_body_is_refused(made: Scheduling) -> None:
    await asked(made, "pause", "r1")

    with pytest.raises(Refused, match="request 'r1' was already carried out with another body"):
        await asked(made, "pause", "r1", is_paused=False)

    assert (await described(made)).schedule.is_paused


async def test_a_request_that_failed_may_come_again(planned: Scheduling) -> None:
    with pytest.raises(NotFound, match="no schedule 'tick'"):
        await asked(planned, "pause", "r1")
    await asked(planned, "create", "made", schedule=schedule())

    await asked(planned, "pause", "r1")

    assert (await described(planned)).schedule.is_paused


@pytest.mark.parametrize("change", ["update", "pause", "trigger", "backfill", "delete"])
async def test_nothing_is_changed_of_a_schedule_that_is_not_there(planned: Scheduling, change: str) -> None:
    fields: dict[str, Any] = {
        "update": {"schedule": schedule()},
        "backfill": {"from_at": 1.7e9, "to_at": 1.7e9},
    }.get(change, {})

    with pytest.raises(NotFound, match="no schedule 'tick'"):
        await asked(planned, change, **fields)
    with pytest.raises(NotFound, match="no schedule 'tick'"):
        await described(planned)


async def test_a_schedule_is_created_once(made: Scheduling) -> None:
    with pytest.raises(AlreadyExists, match="schedule 'tick' exists already"):
        await asked(made, "create", "another", schedule=schedule())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spec": sch.ScheduleSpec(specs=(sch.CronSpec(expr="never"),))}, "never"),
        ({"spec": sch.ScheduleSpec(specs=())}, "found 0 specs"),
        ({"spec": sch.ScheduleSpec(specs=(sch.IntervalSpec(every_s=float("nan")),))}, "every_s"),
        ({"overlap_policy": "maybe"}, "overlap_policy is 'maybe'"),
        ({"catchup_window_s": -1.0}, "catchup_window_secs is -1"),
        ({"workflow_type": ""}, "workflow_type is empty"),
    ],
)
async def test_what_could_never_fire_is_refused(
    planned: Scheduling, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        await asked(planned, "create", schedule=schedule(**fields))


async def test_schedules_are_listed_page_by_page(planned: Scheduling) -> None:
    for number in range(5):
        request = sch.CreateSchedule(
            request_id=f"r{number}", schedule_id=f"s{number}", schedule=schedule(is_paused=number == 3)
        )
        await planned.parts.ask("create_schedule", request)

    pages, cursor = [], None
    while True:
        page = await planned.parts.ask("list_schedules", sch.ListSchedules(limit=2, cursor=cursor))
        pages.append([(s.schedule_id, s.is_paused, s.next_at is None) for s in page.schedules])
        cursor = page.next_cursor
        if cursor is None:
            break

    assert pages == [
        [("s0", False, False), ("s1", False, False)],
        [("s2", False, False), ("s3", True, True)],
        [("s4", False, False)],
    ]


@pytest.mark.parametrize(
    ("verb", "request_"),
    [
        ("list_schedules", sch.ListSchedules(limit=0)),
        ("describe_schedule", sch.DescribeSchedule(schedule_id="tick", fires=101)),
    ],
)
async def test_a_page_of_no_size_is_refused(planned: Scheduling, verb: str, request_: Any) -> None:
    with pytest.raises(Invalid, match=r"expected [01] to 100"):
        await planned.parts.ask(verb, request_)


async def test_schedules_are_asked_for_over_the_bus(planned: Scheduling, bus: Bus) -> None:
    await serve_rpc(planned.engine, planned.engine.bus)
    rpc = Rpc(bus, planned.namespace)

    await rpc.call("create_schedule", request_of("create", schedule=schedule(spec=SPECS["all"])))
    await rpc.call("trigger_schedule", request_of("trigger", "r2"))
    found = await rpc.call("describe_schedule", sch.DescribeSchedule(schedule_id="tick"))

    assert found.schedule.spec == SPECS["all"]
    assert [slot.status for slot in found.last] == ["started"]
    with pytest.raises(Invalid, match="remaining_actions is -1"):
        await rpc.call("update_schedule", request_of("update", "r3", schedule=schedule(remaining_actions=-1)))
