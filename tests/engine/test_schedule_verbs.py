"""What people ask of schedules: start now, make a range good, show the fires."""

from __future__ import annotations

import pytest

from holdfast.engine import schedule_verbs
from holdfast.exceptions import Invalid, NotFound
from tests.engine.scheduling import LAST_OPEN, Scheduling


async def test_a_trigger_starts_a_run_now_even_when_paused(planned: Scheduling) -> None:
    await planned.schedule(paused=True, cron_expr="0 0 1 1 *")

    fire = await schedule_verbs.trigger(planned.engine, planned.namespace, "tick")

    assert (fire.status, len(await planned.runs())) == ("started", 1)
    assert fire.run_id is not None
    assert await planned.row("last_workflow_id") == fire.workflow_id


async def test_a_trigger_follows_the_overlap_policy_unless_told_otherwise(planned: Scheduling) -> None:
    await planned.schedule(cron_expr="0 0 1 1 *")
    await schedule_verbs.trigger(planned.engine, planned.namespace, "tick")

    skipped = await schedule_verbs.trigger(planned.engine, planned.namespace, "tick")
    queued = await schedule_verbs.trigger(planned.engine, planned.namespace, "tick", overlap_policy="queue")
    started = await schedule_verbs.trigger(
        planned.engine, planned.namespace, "tick", overlap_policy="allow_all"
    )

    assert (skipped.status, skipped.reason) == ("skipped", LAST_OPEN)
    assert (queued.status, started.status) == ("queued", "started")


async def test_a_backfill_starts_the_slots_of_a_range_once(planned: Scheduling) -> None:
    await planned.schedule(cron_expr="0 * * * *")
    day = 1_700_006_400.0

    first = await schedule_verbs.backfill(
        planned.engine, planned.namespace, "tick", day, day + 7200, overlap_policy="allow_all"
    )
    again = await schedule_verbs.backfill(
        planned.engine, planned.namespace, "tick", day - 3600, day + 7200, overlap_policy="allow_all"
    )

    assert first == [day, day + 3600, day + 7200]
    assert again == [day - 3600]
    assert len(await planned.runs()) == 4


async def test_a_backfill_gives_slots_that_were_missed_their_chance(planned: Scheduling) -> None:
    await planned.schedule(overlap_policy="allow_all", catchup_window_secs=1)
    past = 1_700_000_000.0
    await planned.look_from(past)
    await planned.until_calm(past + 4)
    assert await planned.statuses() == ["skipped"] * 2 + ["started"] * 2

    made_good = await schedule_verbs.backfill(planned.engine, planned.namespace, "tick", past + 1, past + 4)

    assert made_good == [past + 1, past + 2]
    assert await planned.statuses() == ["started"] * 4


async def test_a_backfill_that_queues_holds_more_than_a_hundred(planned: Scheduling) -> None:
    await planned.schedule()
    past = 1_700_000_000.0

    await schedule_verbs.backfill(
        planned.engine, planned.namespace, "tick", past, past + 119, overlap_policy="queue"
    )

    assert await planned.statuses() == ["started"] + ["queued"] * 119


@pytest.mark.parametrize(
    ("from_at", "to_at", "message"),
    [
        (2000.0, 1000.0, "not after the end"),
        (1000.0, 9e9, "has passed"),
        (1000.0, 20_000.0, "more than 10,000 slots"),
    ],
)
async def test_a_range_that_cannot_be_made_good_is_refused(
    planned: Scheduling, from_at: float, to_at: float, message: str
) -> None:
    await planned.schedule()

    with pytest.raises(Invalid, match=message):
        await schedule_verbs.backfill(planned.engine, planned.namespace, "tick", from_at, to_at)

    assert await planned.fires() == []


async def test_an_unknown_schedule_is_not_found(planned: Scheduling) -> None:
    with pytest.raises(NotFound, match="no schedule 'nothing'"):
        await schedule_verbs.trigger(planned.engine, planned.namespace, "nothing")
    with pytest.raises(NotFound, match="no schedule 'nothing'"):
        await schedule_verbs.backfill(planned.engine, planned.namespace, "nothing", 0, 1)
    with pytest.raises(NotFound, match="no schedule 'nothing'"):
        await schedule_verbs.fires(planned.engine, planned.namespace, "nothing")


async def test_the_next_fires_that_are_shown_are_those_that_happen(planned: Scheduling) -> None:
    await planned.schedule(
        cron_expr="*/7 * * * * *", overlap_policy="allow_all", extra={"remaining_actions": 5}
    )

    shown = (await schedule_verbs.fires(planned.engine, planned.namespace, "tick")).next_at
    await planned.until_calm(shown[-1] + 30)

    fired = [slot for slot, status, _ in await planned.fires() if status == "started"]
    assert fired == shown
    assert len(shown) == 5
