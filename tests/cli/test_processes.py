"""The long-lived commands: `serve`, `worker`, `migrate`, `dev`."""

import json
import re
import signal
import socket
import urllib.request
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from holdfast.cli import errors
from tests.cli.conftest import DevStack
from tests.cli.processes import command, running


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        text: str = answer.read().decode()
        return text


def urls(stack: DevStack) -> dict[str, str]:
    return {"HOLDFAST_POSTGRES_URL": stack.postgres_url, "HOLDFAST_NATS_URL": stack.address}


def test_the_screen_tells_what_runs_where_and_what_to_try_and_no_password(stack: DevStack) -> None:
    screen = "".join(stack.process.lines)
    password = re.search(r":([^:@/]+)@", stack.postgres_url)

    assert stack.http_url in screen
    assert f"{stack.ops_url}/readyz" in screen
    assert "charge" in screen
    assert "completed" in screen
    assert "holdfast workflow show order-" in screen
    assert password is not None
    assert password[1] not in screen


def test_the_service_is_ready_and_counts(stack: DevStack) -> None:
    assert json.loads(fetched(f"{stack.ops_url}/readyz"))["ready"] is True
    metrics = fetched(f"{stack.ops_url}/metrics")

    closed = 'holdfast_workflows_closed_total{namespace="main",status="COMPLETED",type="order"}'
    assert closed in metrics
    assert re.search(r"^holdfast_commits_total [1-9]", metrics, re.MULTILINE)


def test_two_dev_on_one_folder_are_refused_with_the_process_that_holds_it(stack: DevStack) -> None:
    done = command("dev", "--data", str(stack.data), "--no-demo")

    assert done.returncode == errors.FAILED
    assert f"in use by process {stack.process.process.pid}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told_before_anything_starts(open_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("dev", "--data", str(open_folder / "other"), "--port", str(port))

    assert done.returncode == errors.FAILED
    assert f"port {port} is taken by another process" in done.stderr


def test_a_reset_without_a_terminal_needs_yes(open_folder: Path) -> None:
    done = command("dev", "--data", str(open_folder / "other"), "--reset")

    assert done.returncode == errors.USAGE
    assert "add --yes" in done.stderr


def test_the_demo_runs_to_its_end_without_a_terminal_and_leaves_no_process_behind(open_folder: Path) -> None:
    data = open_folder / "once"
    with running(["dev", "--data", str(data), "--port", "0", "--exit-after-demo"]) as process:
        process.line("processes")
        children = psutil.Process(process.process.pid).children(recursive=True)
        assert process.process.wait(60) == 0

    process.line("completed")
    assert len(children) >= 4
    assert [
        child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    ] == []


def test_the_state_survives_a_restart_and_reset_removes_it(open_folder: Path) -> None:
    data, new_id = str(open_folder / "kept"), f"order-{uuid4().hex[:8]}"
    with running(["dev", "--data", data, "--port", "0", "--no-demo"]) as process:
        process.line("Ctrl-C stops")
        address = json.loads((Path(data) / "state.json").read_text(encoding="utf-8"))["nats_url"]
        command("workflow", "start", "order", "--id", new_id, "-q", "q", HOLDFAST_ADDRESS=address)
        assert process.stop(signal.SIGINT) == 0

    def listed(*options: str) -> list[str]:
        with running(["dev", "--data", data, "--port", "0", "--no-demo", *options]) as process:
            process.line("Ctrl-C stops")
            address = json.loads((Path(data) / "state.json").read_text(encoding="utf-8"))["nats_url"]
            done = command("workflow", "list", HOLDFAST_ADDRESS=address)
            return [row["workflow_id"] for row in json.loads(done.stdout)]

    assert listed() == [new_id]
    assert listed("--reset", "--yes") == []


def test_serve_tells_its_addresses_and_drains_on_sigterm(stack: DevStack) -> None:
    with running(["serve", "all", "--http", "0", "--ops", "127.0.0.1:0"], **urls(stack)) as process:
        ops = process.line(r"^ready .*ops (http://\S+)")[1]
        assert json.loads(fetched(f"{ops}/readyz"))["checks"]["postgres"]["ok"] is True

        assert process.stop() == 0


def test_serve_on_a_taken_port_says_so(stack: DevStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("serve", "engine", "--ops", str(port), **urls(stack))

    assert done.returncode == errors.USAGE
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr


def test_migrating_again_applies_nothing(stack: DevStack) -> None:
    done = command("migrate", HOLDFAST_POSTGRES_URL=stack.postgres_url)
    check = command("migrate", "--check", HOLDFAST_POSTGRES_URL=stack.postgres_url)

    assert (done.returncode, json.loads(done.stdout)) == (0, {"applied": []})
    assert (check.returncode, json.loads(check.stdout)) == (0, {"pending": []})


SHOP = """
from holdfast import activity, workflow

TASK_QUEUE = "shop"

@activity.defn
def greet(name: str) -> str:
    return f"Hello, {name}"

@workflow.defn
async def welcome(name: str) -> str:
    return await greet(name)
"""


def test_a_worker_runs_the_module_of_the_current_directory(stack: DevStack, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    address = {"HOLDFAST_ADDRESS": stack.address}
    with running(["worker", "shop", "--ops", "127.0.0.1:0"], cwd=tmp_path, **address) as process:
        ops = process.line(r"^ready .*queue shop .*ops (http://\S+)")[1]
        done = command("workflow", "execute", "welcome", '"you"', "-q", "shop", "--timeout", "30s", **address)

        assert json.loads(done.stdout) == "Hello, you"
        assert json.loads(fetched(f"{ops}/readyz"))["ready"] is True
        assert "holdfast_worker_" in fetched(f"{ops}/metrics")
        assert process.stop() == 0


def test_a_worker_without_a_queue_is_told_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP.replace("TASK_QUEUE", "QUEUE"), encoding="utf-8")
    done = command("worker", "shop", cwd=tmp_path)

    assert done.returncode == errors.USAGE
    assert "no task queue: give --queue, or set TASK_QUEUE in shop" in done.stderr


def test_a_worker_waits_for_a_bus_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    args = ["worker", "shop", "--address", "nats://127.0.0.1:1", "--connect-timeout", "100ms"]
    with running(args, cwd=tmp_path) as process:
        process.line("waiting for the bus")
        assert process.process.poll() is None
        assert process.stop() == 0


@pytest.mark.parametrize("args", [["--no-demo", "--exit-after-demo"], ["--port", "99999"]])
def test_options_that_make_no_sense_are_usage_errors(args: list[str], tmp_path: Path) -> None:
    assert command("dev", "--data", str(tmp_path), *args).returncode == errors.USAGE
