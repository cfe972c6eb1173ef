"""Starting a run: what the id policies and a repeated request make of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from holdfast.core import facts as f
from holdfast.core import state as s
from holdfast.core.decide import first_facts, open_run
from holdfast.core.requests import OpenRun
from holdfast.exceptions import AlreadyExists, Refused
from holdfast.wire import events as e
from holdfast.wire import messages as m
from tests.core.story import NOON, start_request, started

REUSE = ("allow", "allow_if_failed", "reject")
CONFLICT = ("fail", "use_existing", "terminate_existing")
CLOSED = tuple(e.CLOSING.values())


def earlier(status: str = s.RUNNING, **fields: Any) -> s.Run:
    """The newest run of the workflow id, open unless its status is a closed one."""
    return s.Run(
        run_id="run-0",
        namespace="main",
        workflow_id="order-1",
        workflow_type="order",
        task_queue="main",
        status=status,
        closed_at=NOON if status in CLOSED else None,
        **fields,
    )


def opened(newest: s.Run | None, reuse: str, conflict: str, repeat: s.Run | None = None) -> Any:
    start = start_request(id_reuse=reuse, id_conflict=conflict)
    return open_run(OpenRun(start, b"h", "run-1", newest, repeat), NOON)


@pytest.mark.parametrize(("reuse", "conflict"), list(itertools.product(REUSE, CONFLICT)))
def test_an_unused_id_starts_whatever_the_policies(reuse: str, conflict: str) -> None:
    state = opened(None, reuse, conflict)

    assert isinstance(state, s.RunState)
    assert state.is_new
    assert (state.run.run_id, state.run.status, state.run.created_at) == ("run-1", s.PENDING, NOON)


@pytest.mark.parametrize("status", [s.PENDING, s.RUNNING])
@pytest.mark.parametrize("reuse", REUSE)
class TestWhileAnotherRunIsOpen:
    def test_fail_says_which_run(self, reuse: str, status: str) -> None:
        with pytest.raises(AlreadyExists, match=r"'order-1' already started: run run-0 is open") as refused:
            opened(earlier(status), reuse, "fail")

        assert refused.value.details == {"workflow_id": "order-1", "run_id": "run-0"}

    def test_use_existing_answers_with_it(self, reuse: str, status: str) -> None:
        answer = opened(earlier(status), reuse, "use_existing")

        assert answer == m.Started(workflow_id="order-1", run_id="run-0", is_new=False)

    def test_terminate_existing_starts_the_new_one(self, reuse: str, status: str) -> None:
        assert isinstance(opened(earlier(status), reuse, "terminate_existing"), s.RunState)


@pytest.mark.parametrize("conflict", CONFLICT)
class TestAfterAnotherRunClosed:
    @pytest.mark.parametrize("status", CLOSED)
    def test_allow_starts_again(self, conflict: str, status: str) -> None:
        assert isinstance(opened(earlier(status), "allow", conflict), s.RunState)

    @pytest.mark.parametrize("status", CLOSED)
    def test_reject_never_starts_again(self, conflict: str, status: str) -> None:
        with pytest.raises(AlreadyExists, match=f"run run-0 ended as {status}, .* 'reject'"):
            opened(earlier(status), "reject", conflict)

    @pytest.mark.parametrize("status", [status for status in CLOSED if status != "COMPLETED"])
    def test_allow_if_failed_starts_again_unless_it_completed(self, conflict: str, status: str) -> None:
        assert isinstance(opened(earlier(status), "allow_if_failed", conflict), s.RunState)

    def test_allow_if_failed_does_not_repeat_a_success(self, conflict: str) -> None:
        with pytest.raises(AlreadyExists, match="ended as COMPLETED"):
            opened(earlier("COMPLETED"), "allow_if_failed", conflict)


@pytest.mark.parametrize(("reuse", "conflict"), list(itertools.product(REUSE, CONFLICT)))
@pytest.mark.parametrize("status", [s.RUNNING, "COMPLETED", "FAILED"])
def test_a_repeated_request_gets_its_first_run_whatever_the_policies(
    reuse: str, conflict: str, status: str
) -> None:
    """The caller did not hear the first answer; meanwhile the run may even have closed."""
    mine = earlier(status, request_hash=b"h")

    assert opened(mine, reuse, conflict, repeat=mine) == m.Started(
        workflow_id="order-1", run_id="run-0", is_new=False
    )


def test_a_repeated_request_finds_its_run_behind_a_newer_one() -> None:
    first = earlier("COMPLETED", request_hash=b"h")
    newer = s.Run(**{**{n: getattr(first, n) for n in first.__struct_fields__}, "run_id": "run-9"})

    assert opened(newer, "reject", "fail", repeat=first).run_id == "run-0"


def test_the_same_request_id_with_another_body_is_refused() -> None:
    other = earlier(request_hash=b"another body")

    with pytest.raises(Refused, match="request 'r1' already started run run-0 with another body"):
        opened(other, "allow", "fail", repeat=other)


def test_a_new_run_has_one_start_event_and_one_ready_task() -> None:
    run = started(input=b'["x"]', identity="me")

    assert run.events == [
        e.WorkflowStarted(
            workflow_id="order-1",
            workflow_type="order",
            task_queue="main",
            input=b'["x"]',
            request_id="r1",
            identity="me",
        )
    ]
    assert run.run.last_seq == 1
    assert run.task is not None
    assert (run.task.worker, run.task.ready_at, run.task.task_queue) == (None, NOON, "main")


def test_a_new_run_belongs_to_nobody_yet() -> None:
    run = started()

    assert run.task is not None
    assert run.task.sticky_worker is None
    assert run.run.status == s.PENDING


def test_a_run_is_pending_until_its_first_claim_and_running_ever_after() -> None:
    run = started()
    assert run.run.status == s.PENDING

    fence = run.claim()
    assert run.run.status == s.RUNNING

    run.ask(run.release(0, fence))
    assert run.run.status == s.RUNNING


def test_starting_is_recorded_before_the_task_that_reacts_to_it() -> None:
    recorded, task = first_facts(start_request())

    assert isinstance(recorded, f.Recorded)
    assert isinstance(task, f.TaskOpened)
