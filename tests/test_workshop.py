"""The workshop: what a fresh clone promises to the person who runs it, and to the one who works on it."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-test.lock")


@pytest.fixture
def run(tmp_path: Path) -> ModuleType:
    """run.py as a module, on a tree of its own that holds only what setup reads."""
    for name in (*LOCKS, "pyproject.toml", "run.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    spec = importlib.util.spec_from_file_location("run", tmp_path / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def given_finished_setup(run: ModuleType, goal: str) -> None:
    """What setup leaves behind, without the packages."""
    Path(run.PYTHON).parent.mkdir(parents=True)
    Path(run.PYTHON).symlink_to(sys.executable)
    run.write_stamp(goal, run.fingerprint())


def locked(name: str) -> dict[str, Requirement]:
    """The pinned requirements of a lock file, by name."""
    text = (ROOT / name).read_text(encoding="utf-8")
    pins = [Requirement(line.rstrip(" \\")) for line in text.splitlines() if line and line[0] not in " #"]
    return {pin.name: pin for pin in pins}


def project() -> dict[str, Any]:
    """The [project] table."""
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def declared(*extras: str) -> set[str]:
    """The names that the project itself asks for, with the extras given."""
    asked = [
        *project()["dependencies"],
        *(r for extra in extras for r in project()["optional-dependencies"][extra]),
    ]
    return {canonical(Requirement(text).name) for text in asked}


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


# --- run.py -------------------------------------------------------------------------------------------------------


def test_an_old_python_is_told_which_one_is_needed(run: ModuleType) -> None:
    fault = run.machine_fault((3, 10, 13), "linux")

    assert "needs Python 3.11 or newer" in fault
    assert "3.10" in fault
    assert sys.executable in fault


def test_windows_is_told_about_wsl(run: ModuleType) -> None:
    assert "WSL" in run.machine_fault((3, 12, 0), "win32")


def test_every_supported_python_may_run(run: ModuleType) -> None:
    assert [
        run.machine_fault(version, "linux") for version in ((3, 11, 0), (3, 12, 1), (3, 13, 0), (3, 14, 0))
    ] == [""] * 4


def test_run_py_needs_nothing_but_the_standard_library(run: ModuleType) -> None:
    """-S -I: no site-packages, no user site, no PYTHONPATH."""
    source = f"import runpy, sys; runpy.run_path({str(ROOT / 'run.py')!r}); print(sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, check=True
    ).stdout

    for slow in ("'asyncio'", "'venv'", "'pathlib'", "'urllib'"):
        assert slow not in loaded, f"{slow} makes every start slower"


def test_without_a_stamp_nothing_is_ready(run: ModuleType) -> None:
    assert not run.is_ready("dev", run.fingerprint())


def test_a_finished_setup_is_remembered(run: ModuleType) -> None:
    given_finished_setup(run, "dev")

    assert run.is_ready("dev", run.fingerprint())


def test_the_tests_setup_covers_the_system_but_not_the_other_way_round(run: ModuleType) -> None:
    given_finished_setup(run, "dev")
    assert not run.is_ready("test", run.fingerprint())

    run.write_stamp("test", run.fingerprint())
    assert run.is_ready("test", run.fingerprint())
    assert run.is_ready("dev", run.fingerprint())


@pytest.mark.parametrize("name", [*LOCKS, "pyproject.toml"])
def test_a_change_of_what_is_needed_asks_for_setup(run: ModuleType, name: str) -> None:
    given_finished_setup(run, "test")

    with (Path(run.ROOT) / name).open("a") as file:
        file.write("# changed\n")

    assert not run.is_ready("dev", run.fingerprint())


def test_a_tree_that_moved_asks_for_setup(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts in a virtual environment hold its path."""
    given_finished_setup(run, "dev")
    before = run.fingerprint()

    monkeypatch.setattr(run, "ROOT", str(Path(run.ROOT) / ".." / Path(run.ROOT).name))

    assert run.fingerprint() != before


def test_an_interpreter_that_is_gone_asks_for_setup(run: ModuleType) -> None:
    given_finished_setup(run, "dev")

    Path(run.PYTHON).unlink()
    Path(run.PYTHON).symlink_to("/nonexistent/python3")

    assert not run.is_ready("dev", run.fingerprint())


@pytest.mark.parametrize("content", ["", "half", "\x00\x00", "a b c"])
def test_a_damaged_stamp_asks_for_setup(run: ModuleType, content: str) -> None:
    given_finished_setup(run, "dev")

    Path(run.STAMP).write_text(content)

    assert not run.is_ready("dev", run.fingerprint())


def test_two_setups_wait_for_each_other_even_when_one_is_killed(run: ModuleType) -> None:
    """The second gets the lock only once the first and the pip it started are both gone."""
    holder = (
        "import subprocess, sys, runpy\n"
        f"run = runpy.run_path({run.__file__!r})\n"
        "with run['only_one']():\n"
        "    pip = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL)\n"
        "    print(pid := pip.pid, flush=True)\n"
        "    pip.wait()\n"
    )
    waiter = (
        f"import runpy\nwith runpy.run_path({run.__file__!r})['only_one']():\n    print('mine', flush=True)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    pip = int(first.stdout.readline())
    second = subprocess.Popen(
        [sys.executable, "-c", waiter], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()

    first.kill()
    first.wait()
    assert second.poll() is None, "its pip still works on .venv"

    os.kill(pip, 9)
    assert second.communicate(timeout=30)[0] == "mine\n"
    first.stdout.close()


def test_a_setup_that_fails_says_what_to_do(run: ModuleType) -> None:
    denied = PermissionError(13, "Permission denied", run.LOCK)
    ended = subprocess.CalledProcessError(2, ["pip", "install"])

    assert "Run as the owner of" in run.setup_fault(denied)
    assert "`pip install` ended with 2" in run.setup_fault(ended)


# --- lock files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_names_no_server(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")

    assert "://" not in text
    assert not re.search(
        r"^\s*-",
        re.sub(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$", "", text, flags=re.MULTILINE),
        re.MULTILINE,
    )


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_one_version_and_hashes(name: str) -> None:
    blocks = re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8").strip())

    for block in blocks:
        assert re.match(r"[a-z0-9-]+==[^ ;]+( ; .+)? \\\n", block), block
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.lock", ("server", "embedded", "build")),
        ("requirements-test.lock", ("server", "embedded", "build", "test", "dev")),
    ],
)
def test_a_lock_file_holds_what_the_project_asks_for(name: str, extras: tuple[str, ...]) -> None:
    """After a change in pyproject.toml: `make lock`."""
    missing = declared(*extras) - set(locked(name))

    assert not missing


def test_locked_versions_satisfy_the_project() -> None:
    pins = locked("requirements-test.lock")
    extras = project()["optional-dependencies"]
    for text in [*project()["dependencies"], *(r for e in extras if e != "compare" for r in extras[e])]:
        asked = Requirement(text)
        (pinned,) = pins[canonical(asked.name)].specifier
        assert asked.specifier.contains(pinned.version), f"{text}, locked at {pinned.version}"


def test_the_tests_run_against_the_versions_that_users_get() -> None:
    users, tests = locked("requirements.lock"), locked("requirements-test.lock")

    assert {name: str(tests.get(name)) for name in users} == {name: str(pin) for name, pin in users.items()}


def test_every_dependency_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]")[0].splitlines()
    asked = [line for line in lines if re.match(r'    "[a-z]', line) and re.search(r"[<>=]=", line)]

    assert len(asked) > 15
    assert [line for line in asked if not re.search(r"  # .+\.$", line)] == []


def test_the_sdk_alone_needs_only_nats_and_msgspec() -> None:
    assert declared() == {"nats-py", "msgspec"}


# --- pages and lists ------------------------------------------------------------------------------------------------


def test_the_readme_has_exactly_the_two_commands() -> None:
    blocks = re.findall(
        r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    commands = [
        line for language, block in blocks if language != "python" for line in block.splitlines() if line
    ]

    assert [re.sub(r"\s*#.*", "", line) for line in commands] == ["python3 run.py", "python3 run.py test"]


def test_the_readmes_example_defines_a_workflow(tmp_path: Path) -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "example.py").write_text(example)

    names = runpy.run_path(str(tmp_path / "example.py"))

    assert {"charge", "checkout"} <= set(names)
    assert len(example.splitlines()) <= 20


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))

    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_changelog_opens_with_what_is_unreleased() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert headings[0] == "Unreleased"


def test_the_procfile_starts_every_process() -> None:
    assert (ROOT / "Procfile").read_text(encoding="utf-8").splitlines() == [
        "release: holdfast migrate",
        "api: holdfast serve api",
        "engine: holdfast serve engine",
        "worker: holdfast worker examples.demo",
    ]


def test_the_gate_runs_everything() -> None:
    gate = ROOT / ".ci" / "run"
    text = gate.read_text(encoding="utf-8")

    assert os.access(gate, os.X_OK)
    for part in ("set -euo pipefail", "ruff format --check", "ruff check", "mypy", "python3 run.py test\n"):
        assert part in text


def test_every_lint_exception_is_explained() -> None:
    """A code that is ignored, here or on a line, says why."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ignored = re.search(r"^ignore = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert ignored is not None

    assert [line for line in ignored[1].splitlines() if not re.search(r"  # .+\.$", line)] == []


def test_what_is_shipped_is_what_runs(tmp_path: Path) -> None:
    """The wheel holds the package and the migrations, and nothing of the workshop."""
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist()

    assert "holdfast/py.typed" in names
    assert {
        f"holdfast/_schemas/postgres/{file.name}" for file in (ROOT / "schemas/postgres").glob("*.sql")
    } <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"holdfast"}
