"""Without the broker, or without its hints, work is late and never lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.exceptions import HoldfastError, Unavailable
from holdfast.wire import codec
from holdfast.wire import events as e
from holdfast.wire.messages import Describe
from tests.e2e.feed import read_feed
from tests.e2e.load import Load
from tests.e2e.programs import BACKOFF_S, TASK_QUEUE
from tests.e2e.system import System, client_of, system

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("whole-system")]

OUTAGE_S = 30.0
BEFORE, DURING = 120, 20
WORKERS = 3
BUSY_WITHIN_S = 2.0
ON_TIME_S = 1.5
P99_S = 1.5
# So few slots that no worker can take everything.
FEW_SLOTS = [
    "--queue",
    TASK_QUEUE,
    "--max-concurrent-activities",
    "4",
    "--max-concurrent-workflow-tasks",
    "4",
]


async def test_thirty_seconds_without_a_broker_lose_nothing(tmp_path: Path) -> None:
    """It is killed under load, its store is wiped, timers fall due meanwhile, and calls are made all the time."""
    async with (
        system(tmp_path, engines=2, workers=WORKERS, worker_options=FEW_SLOTS) as whole,
        client_of(whole) as client,
    ):
        load = Load(client)
        for number in range(BEFORE):
            # They fall due from shortly before the outage to shortly after its end.
            await load.start("paused", f"before {number}", number, 1.0 + number * (OUTAGE_S + 2) / BEFORE)
        assert load.unanswered == []
        await whole.until(lambda: timers_are_set(whole), "all wait for their timers")
        racing = [
            asyncio.create_task(load.start("paused", f"racing {n}", n, 0.1, timeout_s=60))
            for n in range(DURING)
        ]
        await racing[0]
        await whole.stack.nats.kill()
        whole.stack.nats.wipe()
        away_since = await whole.now()

        patient = [
            asyncio.create_task(load.start("paused", f"during {n}", n, 0.1, timeout_s=60))
            for n in range(DURING)
        ]
        impatient = [load.start("paused", f"hurried {n}", n, 0.1, timeout_s=2.0) for n in range(DURING)]
        assert await asyncio.gather(*impatient) == [None] * DURING, (
            "a call without an answer has an unknown outcome"
        )
        assert not any(task.done() for task in patient), "calls with time left wait"
        await whole.until(
            lambda: has_passed(whole, away_since + OUTAGE_S), "the outage has lasted", OUTAGE_S * 2
        )

        await whole.stack.nats.start()
        back_at = await whole.now()
        assert None not in await asyncio.gather(*racing, *patient)
        results = await asyncio.gather(*(load.result(f"before {number}") for number in range(BEFORE)))
        during = await asyncio.gather(
            *(load.result(f"{when} {n}") for when in ("racing", "during") for n in range(DURING))
        )

        assert results == [2 * number for number in range(BEFORE)]
        assert during == [2 * number for number in range(DURING)] * 2
        assert await lateness(whole, away_since, back_at) <= ON_TIME_S
        await every_worker_was_busy_soon(whole, away_since, back_at)
        assert whole.ended == []
        assert await whole.violations(load.log) == []
        await whole.until(lambda: nothing_is_owed(whole), "the outbox is empty")
        await feed_has_all_since(whole, away_since)


async def timers_are_set(whole: System) -> bool:
    rows = await whole.fetch("SELECT count(*) AS n FROM holdfast.timer")
    return rows[0]["n"] == BEFORE


async def has_passed(whole: System, moment: float) -> bool:
    return await whole.now() >= moment


async def nothing_is_owed(whole: System) -> bool:
    return not await whole.fetch("SELECT FROM holdfast.outbox LIMIT 1")


async def lateness(whole: System, since: float, until: float) -> float:
    """How late the latest timer was recorded of those that fell due in between."""
    rows = await whole.fetch(
        """
        SELECT extract(epoch FROM f.recorded_at - t.fire_at)::float8 AS late_s
        FROM holdfast.timer AS t JOIN holdfast.event AS f USING (run_id)
        WHERE f.type = 'TimerFired' AND t.fire_at BETWEEN to_timestamp($1) AND to_timestamp($2)
        """,
        since,
        until,
    )
    assert len(rows) > BEFORE / 2
    return float(max(row["late_s"] for row in rows))


async def every_worker_was_busy_soon(whole: System, since: float, back_at: float) -> None:
    """Ready tasks waited for the broker; each worker was at work on one soon after its return."""
    waiting = await whole.fetch(
        "SELECT count(*) AS n FROM holdfast.event WHERE type = 'TimerFired' AND recorded_at BETWEEN to_timestamp($1) AND to_timestamp($2)",
        since,
        back_at,
    )
    assert waiting[0]["n"] > WORKERS * 10
    markers = await whole.fetch(
        "SELECT body FROM holdfast.event WHERE type = 'WorkflowTaskCompleted' AND recorded_at > to_timestamp($1)",
        back_at,
    )
    claimed: dict[str, float] = {}
    for row in markers:
        event = codec.decode_event(row["body"])
        assert isinstance(event, e.WorkflowTaskCompleted)
        # The time that the code was told is the time of its lease.
        claimed[event.worker] = min(event.now, claimed.get(event.worker, event.now))
    assert len(claimed) == WORKERS
    late = {worker: at - back_at for worker, at in claimed.items()}
    assert max(late.values()) <= BUSY_WITHIN_S, late


async def feed_has_all_since(whole: System, since: float) -> None:
    """What was recorded while the feed had nowhere to go is in the new stream."""
    feed = await read_feed(whole.stack.nats_url)
    recorded = await whole.fetch(
        "SELECT run_id::text AS run_id, seq FROM holdfast.event WHERE recorded_at >= to_timestamp($1)", since
    )
    assert [
        (row["run_id"], row["seq"]) for row in recorded if row["seq"] not in feed.get(row["run_id"], ())
    ] == []


async def test_without_any_hint_tasks_are_claimed_soon(tmp_path: Path) -> None:
    """`HOLDFAST_DROP_HINTS` publishes none; what one engine makes ready must still reach idle workers."""
    async with (
        system(
            tmp_path, engines=2, workers=2, worker_options=["--queue", TASK_QUEUE], HOLDFAST_DROP_HINTS="1"
        ) as whole,
        client_of(whole) as client,
    ):
        load = Load(client)
        running = []
        for number in range(100):
            running.append(
                asyncio.create_task(started_and_ended(load, "retried" if number % 2 else "paused", number))
            )
            await asyncio.sleep(0.05)
        await asyncio.gather(*running)

        waited = sorted(await waits(whole))
        assert len(waited) >= 300
        p99 = waited[int(len(waited) * 0.99)]
        print(
            f"{len(waited)} tasks: p50 {waited[len(waited) // 2]:.3f} s, p99 {p99:.3f} s, longest {waited[-1]:.3f} s"
        )
        assert p99 <= P99_S
        assert await whole.violations(load.log) == []


async def started_and_ended(load: Load, workflow_type: str, number: int) -> None:
    args = [number] if workflow_type == "retried" else [number, 0.3]
    await load.start(workflow_type, f"{workflow_type} {number}", *args)
    await load.result(f"{workflow_type} {number}")


async def waits(whole: System) -> list[float]:
    """Seconds from ready to claimed, or rather longer, of every workflow task and every attempt of an activity."""
    rows = await whole.fetch(
        "SELECT run_id, seq, extract(epoch FROM recorded_at)::float8 AS at, body FROM holdfast.event ORDER BY run_id, seq"
    )
    found, ready_at = [], 0.0
    before: e.AnyEvent | None = None
    for row in rows:
        event = codec.decode_event(row["body"])
        if isinstance(event, e.WorkflowTaskCompleted) and not isinstance(before, e.ActivityCompleted):
            # Not coalesced: a task was claimed, at the time that the code was told.
            found.append(max(event.now - ready_at, 0.0))
        elif not isinstance(event, e.WorkflowTaskCompleted):
            ready_at = row["at"]
        before = event
    first = await whole.fetch(
        """
        SELECT extract(epoch FROM f.at - a.scheduled_at)::float8 AS waited
        FROM e2e.effect AS f JOIN holdfast.activity AS a USING (run_id, seq) WHERE f.name = 'double'
        """
    )
    later = await whole.fetch(
        """
        SELECT extract(epoch FROM s.at - f.at)::float8 - $1::float8 AS waited
        FROM e2e.effect AS f JOIN e2e.effect AS s USING (run_id, seq) WHERE f.name = 'failed' AND s.name = 'unreliable'
        """,
        BACKOFF_S,
    )
    return [*found, *(row["waited"] for row in [*first, *later])]


async def test_calls_fail_as_retryable_while_the_broker_is_away(tmp_path: Path) -> None:
    async with system(tmp_path) as whole, client_of(whole) as client:
        await whole.stack.nats.kill()

        with pytest.raises(Unavailable) as caught:
            await client.caller.rpc.call("describe", describe("nobody"), 1.0)
        assert "no definite answer within 1 s" in caught.value.message

        await whole.stack.nats.start()
        with pytest.raises(HoldfastError) as after:
            await client.caller.rpc.call("describe", describe("nobody"), 20.0)
        assert after.value.code == "not_found"


def describe(workflow_id: str) -> Describe:
    return Describe(workflow_id=workflow_id)
