"""`holdfast workflow …` against a running system: what it prints, and how it ends."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from holdfast.cli import errors
from holdfast.client import WorkflowHistory
from tests.cli.conftest import DevStack
from tests.cli.processes import command


@pytest.fixture
def new_id() -> str:
    return f"order-{uuid4().hex[:8]}"


@pytest.fixture
def holdfast(stack: DevStack) -> Any:
    """`holdfast workflow` with an address; what it printed, as JSON, after checking how it ended."""

    def run(*args: str, code: int = errors.OK, stdin: str = "") -> Any:
        done = command("workflow", *args, stdin=stdin, HOLDFAST_ADDRESS=stack.address)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if code == errors.OK else done.stderr

    return run


def order(**fields: Any) -> str:
    return json.dumps({"id": "7", "item": "hat", "cents": 1200, **fields})


def test_an_order_runs_from_start_to_result_through_commands_alone(holdfast: Any, new_id: str) -> None:
    started = holdfast("start", "order", order(), "--id", new_id, "--queue", "demo")
    holdfast("signal", new_id, "approve", '"the boss"')
    result = holdfast("result", new_id, "--timeout", "30s")

    assert started["workflow_id"] == new_id
    assert result["approved_by"] == "the boss"
    described = holdfast("describe", new_id)
    assert (described["status"], described["run_id"]) == ("COMPLETED", started["run_id"])


def test_execute_waits_and_prints_the_result(holdfast: Any, new_id: str) -> None:
    failed = holdfast(
        "execute", "order", order(approval_s=0.1), "--id", new_id, "-q", "demo", code=errors.FAILED
    )

    assert "NotApproved: nobody approved order 7 in time" in failed
    assert failed.endswith(f"Try: holdfast workflow show {new_id}\n")


def test_arguments_come_from_files_and_standard_input_too(holdfast: Any, new_id: str, tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text(order(), encoding="utf-8")
    holdfast("start", "order", f"@{tmp_path / 'order.json'}", "--id", new_id, "-q", "demo")
    holdfast("signal", new_id, "approve", "-", stdin='"me"')

    assert holdfast("result", new_id, "--timeout", "30s")["approved_by"] == "me"


def test_a_history_is_what_a_replay_reads(holdfast: Any, new_id: str) -> None:
    holdfast("start", "order", order(), "--id", new_id, "-q", "demo")
    holdfast("signal", new_id, "approve", '"me"')
    holdfast("result", new_id, "--timeout", "30s")

    told = holdfast("history", new_id, "-o", "json")

    read = WorkflowHistory.from_json(new_id, told)
    assert [event.event_id for event in read.events] == list(range(1, len(read.events) + 1))
    assert read.events[-1].event_type == "WorkflowCompleted"


def test_show_tells_a_person_what_a_workflow_did(stack: DevStack, holdfast: Any, new_id: str) -> None:
    holdfast("start", "order", order(), "--id", new_id, "-q", "demo")
    holdfast("signal", new_id, "approve", '"me"')
    holdfast("result", new_id, "--timeout", "30s")

    done = command("workflow", "show", new_id, "-o", "table", "--utc", HOLDFAST_ADDRESS=stack.address)

    assert "COMPLETED" in done.stdout
    assert "ActivityScheduled" in done.stdout
    assert "(attempt 2)" in done.stdout


def test_a_list_can_be_narrowed_by_status_type_and_id(holdfast: Any, new_id: str) -> None:
    holdfast("start", "waits-for-nobody", "--id", new_id, "-q", "no-workers")

    mine = holdfast("list", "--id", new_id)
    assert [row["workflow_id"] for row in mine] == [new_id]
    assert holdfast("list", "--id", new_id, "--status", "completed") == []
    assert [row["type"] for row in holdfast("list", "--type", "waits-for-nobody", "--limit", "1")] == [
        "waits-for-nobody"
    ]
    open_ids = {row["workflow_id"] for row in holdfast("list", "--status", "RUNNING", "--limit", "1000")}
    assert new_id in open_ids


def test_a_filter_lists_and_counts_what_matches(holdfast: Any, new_id: str) -> None:
    holdfast("start", "waits-for-nobody", "--id", new_id, "-q", "no-workers")
    mine = f"WorkflowId = '{new_id}'"

    assert [row["workflow_id"] for row in holdfast("list", "--query", mine)] == [new_id]
    assert holdfast("list", "--query", f"{mine} AND ExecutionStatus = 'Completed'") == []
    assert holdfast("count", "--query", mine) == {"count": 1}
    assert holdfast("count", "--query", f"{mine} GROUP BY ExecutionStatus") == {"count": 1, "PENDING": 1}
    assert "no-workers" in holdfast("why", new_id)["why"]


@pytest.mark.parametrize(
    ("filter", "fault"),
    [
        ("WorkflowType", "at character 13: found the end"),
        ("WorkflowId = 'a') OR (WorkflowId = 'b'", "at character 17: found ')'"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused_with_the_place(
    holdfast: Any, filter: str, fault: str
) -> None:
    for verb in ("list", "count"):
        assert fault in holdfast(verb, "--query", filter, code=errors.USAGE)


def test_a_filter_stands_alone(holdfast: Any) -> None:
    told = holdfast("list", "--query", "WorkflowId = 'a'", "--status", "RUNNING", code=errors.USAGE)

    assert "add AND ExecutionStatus IN" in told


def test_a_second_start_of_an_open_id_fails_and_points_to_the_first(holdfast: Any, new_id: str) -> None:
    first = holdfast("start", "order", order(), "--id", new_id, "-q", "no-workers")
    told = holdfast("start", "order", order(), "--id", new_id, "-q", "no-workers", code=errors.FAILED)
    same = holdfast(
        "start", "order", order(), "--id", new_id, "-q", "no-workers", "--id-conflict", "use-existing"
    )

    assert first["run_id"] in told
    assert f"Try: holdfast workflow show {new_id}" in told
    assert same["run_id"] == first["run_id"]


def test_waiting_for_a_result_ends_when_the_time_is_up(holdfast: Any, new_id: str) -> None:
    holdfast("start", "order", order(), "--id", new_id, "-q", "no-workers")
    told = holdfast("result", new_id, "--timeout", "300ms", code=errors.TIMED_OUT)

    assert f"{new_id} did not close within 0.3 s" in told


def test_a_cancelled_workflow_has_no_result(holdfast: Any, new_id: str) -> None:
    holdfast("start", "order", order(), "--id", new_id, "-q", "demo")
    holdfast("cancel", new_id, "--reason", "changed my mind")

    assert "CancelledError" in holdfast("result", new_id, "--timeout", "30s", code=errors.FAILED)


def test_a_terminated_workflow_has_no_result_and_takes_no_signals(holdfast: Any, new_id: str) -> None:
    holdfast("start", "order", order(), "--id", new_id, "-q", "no-workers")
    holdfast("terminate", new_id, "--reason", "enough")

    assert "enough" in holdfast("result", new_id, code=errors.FAILED)
    assert "TERMINATED" in holdfast("signal", new_id, "approve", '"me"', code=errors.FAILED)


@pytest.mark.parametrize("verb", ["show", "describe", "history", "result", "cancel", "terminate"])
def test_an_unknown_workflow_is_not_found(holdfast: Any, verb: str) -> None:
    assert "Try: holdfast workflow list" in holdfast(verb, "nobody-knows-this-id", code=errors.NOT_FOUND)


def test_an_unknown_namespace_is_told(holdfast: Any) -> None:
    told = holdfast("describe", "x", "--namespace", "elsewhere", code=errors.NOT_FOUND)

    assert "elsewhere" in told


@pytest.mark.parametrize("odd", ["a b", "a.b.c", "*", ">", "🎈", "x" * 1_000, "-", "--", "a'b\"c"])
def test_odd_ids_work_like_any_other(holdfast: Any, odd: str) -> None:
    unique = f"{odd[:960]}{uuid4().hex[:8]}"
    holdfast("start", "order", order(), f"--id={unique}", "-q", "no-workers")

    assert holdfast("describe", "--", unique)["workflow_id"] == unique
    holdfast("terminate", "--", unique)


def test_a_stack_that_runs_in_the_current_directory_is_found_without_an_address(
    stack: DevStack, open_folder: Path
) -> None:
    done = command("workflow", "list", "--limit", "1", cwd=open_folder)

    assert done.returncode == errors.OK, done.stderr
    assert stack.data.is_relative_to(open_folder)


def test_without_a_stack_or_an_address_the_ways_to_give_one_are_told(tmp_path: Path) -> None:
    done = command("workflow", "list", cwd=tmp_path)

    assert done.returncode == errors.USAGE
    assert "HOLDFAST_ADDRESS" in done.stderr
    assert done.stderr.endswith("Try: holdfast dev\n")
