"""A client finds the bus by what it is told, by the environment, or by the dev stack of the directory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from holdfast.exceptions import Invalid
from holdfast.sdk import address
from holdfast.sdk.address import find_servers


def _run_dev_stack(directory: Path, text: str) -> None:
    folder = directory / ".holdfast"
    folder.mkdir()
    (folder / "state.json").write_text(text)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("HOLDFAST_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(address, "SYSTEM_STATE", tmp_path / "var")
    return tmp_path


def test_what_the_caller_says_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_ADDRESS", "env:4222")

    assert find_servers("nats://a:1") == ["nats://a:1"]
    assert find_servers(["a:1", "b:2"]) == ["a:1", "b:2"]
    assert find_servers("a:1, b:2") == ["a:1", "b:2"]


def test_the_environment_comes_second(monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    _run_dev_stack(nowhere, '{"address": "nats://dev:1"}')
    monkeypatch.setenv("HOLDFAST_ADDRESS", "env:4222")

    assert find_servers(None) == ["env:4222"]


def test_a_dev_stack_is_found_from_any_folder_below_it(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    _run_dev_stack(nowhere, f'{{"address": "nats://dev:1", "pid": {os.getpid()}}}')
    below = nowhere / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    assert find_servers(None) == ["nats://dev:1"]


def test_a_system_wide_stack_serves_its_project_only(monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    project, other = nowhere / "project", nowhere / "other"
    for folder in (project, other, nowhere / "var" / "x"):
        folder.mkdir(parents=True)
    (nowhere / "var" / "x" / "state.json").write_text(
        f'{{"address": "nats://root:1", "project": "{project}"}}'
    )

    monkeypatch.chdir(project)
    assert find_servers(None) == ["nats://root:1"]
    monkeypatch.chdir(other)
    with pytest.raises(Invalid, match="HOLDFAST_ADDRESS"):
        find_servers(None)


def test_a_state_file_that_cannot_be_read_is_no_stack(nowhere: Path) -> None:
    _run_dev_stack(nowhere, '{"addr')

    with pytest.raises(Invalid, match="holdfast dev"):
        find_servers(None)


def test_a_stack_whose_process_is_gone_is_none(nowhere: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    _run_dev_stack(nowhere, f'{{"address": "nats://dev:1", "pid": {gone.pid}}}')

    with pytest.raises(Invalid, match="holdfast dev"):
        find_servers(None)


def test_an_empty_address_is_refused() -> None:
    with pytest.raises(Invalid, match="is empty"):
        find_servers(" , ")
