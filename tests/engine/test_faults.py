"""A request that our own code raises on fails alone: the others are carried out, and the process goes on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from holdfast.api.rpc import failed
from holdfast.engine import transact
from holdfast.exceptions import Internal, error_of_code
from holdfast.wire import events as e
from tests.engine.parts import Parts, asking, signal_of, start_of, starting
from tests.engine.scheduling import NOON, Scheduling, from_noon


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the core: it folds a signal called "poison", and a start of type "poison", and then raises."""
    evolve = transact.evolve

    def evolve_with_a_bug(state: Any, fact: Any, now: float) -> None:
        evolve(state, fact, now)
        event = getattr(fact, "event", None)
        if "poison" in (getattr(event, "name", ""), getattr(event, "workflow_type", "")):
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(transact, "evolve", evolve_with_a_bug)


@pytest.mark.usefixtures("faulty")
async def test_the_others_of_its_batch_are_carried_out(parts: Parts) -> None:
    run_id = await parts.start()
    names = ["a", "poison", "b", "poison", "c"]
    changes = [asking(parts.namespace, signal_of(name=name)) for name in names]
    changes.append(starting(parts.namespace, start_of("bad", workflow_type="poison")))
    changes.append(starting(parts.namespace, start_of("good")))

    outcomes = await parts.engine._carry_out(changes)

    assert [isinstance(outcome, Internal) for outcome in outcomes] == [
        name == "poison" for name in [*names, "poison", "good"]
    ]
    assert await parts.history() == ["WorkflowStarted"] + ["SignalReceived"] * 3
    seqs = await parts.look("SELECT seq FROM event WHERE run_id = $1 ORDER BY seq", run_id)
    assert seqs == [1, 2, 3, 4], "what was folded before it raised was not recorded"
    assert await parts.history("bad") == []
    assert await parts.history("good") == ["WorkflowStarted"]


@pytest.mark.usefixtures("faulty")
async def test_the_caller_hears_that_it_is_not_at_fault_and_the_log_says_why(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await parts.start()

    with caplog.at_level(logging.ERROR, "holdfast.engine"), pytest.raises(Internal) as caught:
        await parts.signal(name="poison", run_id=run_id, request_id="r-1")

    assert caught.value.message.startswith("Signal failed inside the service (ZeroDivisionError)")
    answer = failed(caught.value)
    assert isinstance(error_of_code(answer.code, answer.message, answer.details), Internal)
    (record,) = caplog.records
    assert f"run_id='{run_id}', request_id='r-1'" in record.getMessage()
    assert record.exc_info is not None
    assert "ZeroDivisionError: a bug" in caplog.text
    counted = parts.engine.metrics.failed_inside
    assert counted.labels("Ask").value == 1


@pytest.mark.usefixtures("faulty")
async def test_the_process_goes_on_whatever_is_repeated(parts: Parts) -> None:
    """A client that repeated such a request took one process after the other down."""
    await parts.start()
    poison = signal_of(name="poison")

    for _ in range(3):
        asked = [parts.ask("signal", message) for message in (poison, signal_of(), poison, signal_of())]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(answer, Internal) for answer in answers] == [True, False, True, False]

    assert await parts.history() == ["WorkflowStarted"] + ["SignalReceived"] * 6


async def test_what_fails_only_together_is_told_in_the_log(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    await parts.start()
    journal = parts.engine.journal

    async def record_one(session: Any, states: list[Any], *args: Any, **rest: Any) -> Any:
        for state in states:
            if sum(isinstance(event, e.SignalReceived) for _, event in state.events) > 1:
                raise ZeroDivisionError("a bug")
        return await journal.record(session, states, *args, **rest)

    parts.engine.journal = msgspec.structs.replace(journal, record=record_one)
    changes = [asking(parts.namespace, signal_of()) for _ in range(3)]

    outcomes = await parts.engine._carry_out(changes)

    assert not any(isinstance(outcome, Exception) for outcome in outcomes)
    assert "3 requests failed inside together" in caplog.text
    assert await parts.history() == ["WorkflowStarted"] + ["SignalReceived"] * 3


@pytest.mark.usefixtures("faulty")
async def test_a_slot_that_the_engine_fails_on_stays_queued_and_holds_up_nobody(planned: Scheduling) -> None:
    await from_noon(planned, "bad", workflow_type="poison")
    await from_noon(planned, "good")

    done = await planned.step(NOON + 1)

    assert (done.started, done.skipped) == (1, 0)
    assert await planned.statuses("bad") == ["queued"]
    assert await planned.statuses("good") == ["started"]
