"""The pytest plugin, used as docs/testing.md shows it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.source import ROOT

BLOCKS = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(encoding="utf-8"), re.DOTALL
)
TEST, CONFTEST, BY_HAND, ACTIVITY, EXPLORED = BLOCKS

ASKS = """
async def test_where(holdfast_env, holdfast_client):
    assert holdfast_env.client is holdfast_client
    assert holdfast_env.supports_time_skipping is {skips}
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", *arguments, timeout=120
    )


def test_the_documented_tests_pass(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_trial=TEST, test_copy=ACTIVITY)

    run(pytester).assert_outcomes(passed=2)


def test_the_documented_exploration_fails_as_it_says(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_pays=EXPLORED)

    ran = run(pytester)

    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*WentWrong: charged twice*", "*activity charge runs, and its worker dies*"])


async def test_the_documented_program_runs() -> None:
    names: dict[str, Any] = {}
    code = compile(BY_HAND, "docs/testing.md", "exec")
    exec(code, names)  # noqa: S102 - the documentation's own text

    await asyncio.create_task(names["main"]())


def test_an_option_takes_the_same_tests_to_real_servers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ASKS.format(skips=False))

    run(pytester, "-p", "holdfast.testing.plugin", "--holdfast-env=local").assert_outcomes(passed=1)
    run(pytester, "-p", "holdfast.testing.plugin").assert_outcomes(failed=1)
