"""What broken workers report over the real wire, and pages that nobody can ask for: a clear error each, no harm."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from holdfast.exceptions import Invalid, LeaseLost, Refused
from holdfast.wire import codec
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.e2e.test_bad_input import MIB_2, Wire, bystanders, completes, text_of, wire

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("whole-system")]

__all__ = ["bystanders", "wire"]  # Fixtures of the tests below.


# -- reports


def schedule(seq: int, **options: Any) -> c.ScheduleActivity:
    return c.ScheduleActivity(seq=seq, name="a", **options)


BAD_BATCHES: dict[str, list[Any]] = {
    "seq zero": [schedule(0)],
    "seq negative": [schedule(-1)],
    "seq too large": [schedule(2**31)],
    "seq beyond 64 bits": [schedule(2**63)],
    "seq twice": [schedule(1), c.StartTimer(seq=1, delay_s=1)],
    "good before bad": [schedule(1), schedule(2), schedule(2)],
    "timer without delay": [c.StartTimer(seq=1, delay_s=0)],
    "timer of the past": [c.StartTimer(seq=1, delay_s=-1)],
    "timer at no time": [c.StartTimer(seq=1, delay_s=math.nan)],
    "timer never": [c.StartTimer(seq=1, delay_s=math.inf)],
    "timer beyond time": [c.StartTimer(seq=1, delay_s=1e18)],
    "no such timer": [c.CancelTimer(seq=9)],
    "no such activity": [c.RequestCancelActivity(seq=9)],
    "nobody asked to cancel": [c.CancelWorkflow()],
    "close is not the last": [c.CompleteWorkflow(), schedule(1)],
    "two closes": [c.CompleteWorkflow(), c.CompleteWorkflow()],
    "too many": [schedule(number) for number in range(1, 2002)],
    "no name": [c.ScheduleActivity(seq=1, name="")],
    "NUL in a queue": [schedule(1, task_queue="q\x00")],
    "input is no array": [schedule(1, input=b"{}")],
    "input too large": [schedule(1, input=text_of(MIB_2 + 1))],
    "result too large": [c.CompleteWorkflow(result=text_of(MIB_2 + 1))],
    "timeout negative": [schedule(1, start_to_close_s=-1.0)],
    "timeout at no time": [schedule(1, heartbeat_s=math.nan)],
}


@pytest.mark.parametrize("batch", BAD_BATCHES.values(), ids=list(BAD_BATCHES))
async def test_a_bad_batch_is_refused_whole_and_the_task_is_still_held(wire: Wire, batch: list[Any]) -> None:
    await wire.start()
    task = await wire.claimed()
    before: m.HistoryPage = await wire.call("history", m.History(workflow_id="w"))

    with pytest.raises((Invalid, Refused)) as caught:
        await wire.call("report", completes(task, batch))

    assert not isinstance(caught.value, LeaseLost)
    assert await wire.call("history", m.History(workflow_id="w")) == before
    answer: m.Reported = await wire.call("report", completes(task, [c.CompleteWorkflow()]))
    assert answer.is_closed


@pytest.mark.parametrize(
    "changes",
    [
        {"seen_seq": 2},
        {"seen_seq": 0},
        {"seen_seq": -1},
        {"seen_seq": 2**40},
        {"fence": 99},
        {"fence": -1},
        {"now": math.nan},
    ],
    ids=str,
)
async def test_a_report_about_what_never_was_is_refused(wire: Wire, changes: dict[str, Any]) -> None:
    await wire.start()
    task = await wire.claimed()

    with pytest.raises((Invalid, Refused)):
        await wire.call("report", completes(task, [], **changes))

    answer: m.Reported = await wire.call("report", completes(task, [c.CompleteWorkflow()]))
    assert answer.is_closed


@pytest.mark.parametrize(
    "command",
    [
        {"type": "Explode", "seq": 1},
        {"type": "ScheduleActivity", "seq": 1},
        {"type": "ScheduleActivity", "seq": "1", "name": "a"},
        {"type": "StartTimer", "seq": 1, "delay_s": 1.0, "added_later": 1},
        {"seq": 1},
        [],
    ],
    ids=["unknown", "field missing", "wrong type", "field unknown", "no type", "no command"],
)
async def test_an_unknown_command_is_refused_with_its_batch(wire: Wire, command: object) -> None:
    """A command that is not understood must not be passed over: the code relies on its effect."""
    await wire.start()
    task = await wire.claimed()
    report = msgspec.msgpack.decode(codec.encode(completes(task, [schedule(1)])))
    report["commands"].append(command)

    (answer,) = await wire.bytes("report", msgspec.msgpack.encode([report]))

    assert answer.code == "invalid"
    good: m.Reported = await wire.call("report", completes(task, [c.CompleteWorkflow()]))
    assert good.is_closed


async def test_a_command_cannot_use_the_number_of_an_earlier_one(wire: Wire) -> None:
    await wire.start()
    await wire.call("report", completes(await wire.claimed(), [schedule(5), c.StartTimer(seq=6, delay_s=60)]))
    await wire.call("signal", m.Signal(request_id="s", workflow_id="w", name="s"))
    task = await wire.claimed()

    for seq in (5, 6, 3):
        with pytest.raises(Refused, match=rf"seq {seq} was used before.*newest: 6"):
            await wire.call("report", completes(task, [schedule(seq)]))
    await wire.call("report", completes(task, [schedule(7)]))


@pytest.mark.parametrize("limit", [0, -1, 1001, 2**40])
async def test_a_page_has_a_size(wire: Wire, limit: int) -> None:
    await wire.start()
    with pytest.raises(Invalid, match="limit"):
        await wire.call("history", m.History(workflow_id="w", limit=limit))
    with pytest.raises(Invalid, match="limit"):
        await wire.call("list", m.List(limit=limit))


@pytest.mark.parametrize("cursor", ["", "x", "0" * 200, "🙂", "x\x00"])
async def test_a_cursor_that_nobody_gave_is_refused(wire: Wire, cursor: str) -> None:
    with pytest.raises(Invalid, match="cursor"):
        await wire.call("list", m.List(cursor=cursor))
