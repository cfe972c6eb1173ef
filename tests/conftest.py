"""What holds for every test: which of them may not run beside each other.

Fixtures live in the conftest.py of the folder that uses them.
"""

from collections.abc import Generator
from typing import Any

import pytest

# One real Postgres and NATS per test process, a fresh database per test.
# And what tests of a pytest plugin run other tests with.
pytest_plugins = ["tests.stack_fixtures", "pytester"]

# Tests of the whole system start a dozen processes and kill some; two at a time would measure each other.
WHOLE_SYSTEM = ("e2e", "chaos", "bench")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test a group: its file, or the one group of all whole-system tests.

    `--dist loadgroup` keeps a group in one process, so that a file's costly fixtures are made once.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            heavy = any(part in WHOLE_SYSTEM for part in item.path.parts) or item.get_closest_marker("e2e")
            item.add_marker(pytest.mark.xdist_group("whole-system" if heavy else str(item.path)))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Reports travel between test processes as UTF-8; what a test of hostile text has logged may not be any."""
    return sendable((yield))


def sendable(value: Any) -> Any:
    """The same with lone surrogates written out as escapes."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {sendable(key): sendable(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(sendable(item) for item in value)
        case _:
            return value
