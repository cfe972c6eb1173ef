"""Whatever a program does with asyncio, and whatever happens to it: a replay does the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.sdk import programs as p
from tests.sdk.recorder import Recorder

ROOT = Path(__file__).resolve().parents[2]


def run_randomly(program: p.Program, seed: int) -> Recorder:
    recorder = Recorder(p.program_workflow, [program])
    recorder.run_to_the_end(random.Random(seed).randrange)
    return recorder


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(p.programs, st.integers(0, 1000))
@example(["sequence", ["group", ["sleep", 5], ["sleep", 5], ["sleep", 1], ["raise"], ["sleep", 2]]], 1)
@example(["sequence", ["wait_first", ["activity"], ["activity"], ["sleep", 1], ["activity"]]], 3)
def test_a_replay_from_any_turn_asks_for_the_same_and_goes_the_same_way(
    program: p.Program, seed: int
) -> None:
    """Live, the run was kept in the cache between turns; each replay begins with nothing."""
    recorder = run_randomly(program, seed)
    try:
        lived, last = list(p.latest[0].trace), recorder.turns[-1]
        again = recorder.fresh()
        try:
            again.activate(recorder.history[: last.head_seq], head_seq=last.head_seq, now=last.now)
            assert p.latest[0].trace == lived
        finally:
            again.close()
        recorder.replay_every_turn()
    finally:
        recorder.close()


TELL = """
import sys
from tests.sdk.test_replay_property import *
padding = []
for seed in range(12):
    # Objects come to lie elsewhere in every process.
    padding.append([bytearray(n * 8 % 512) for n in range(int(sys.argv[1]) * 17 + seed)])
    del padding[: -2]
    recorder = run_randomly(PROGRAM, seed)
    for entry in recorder.history:
        print(entry)
    recorder.close()
"""

PROGRAM = [
    "sequence",
    ["group", ["sleep", 5], ["activity"], ["finally", ["sleep", 5], ["activity"]], ["raise"], ["activity"]],
    ["wait_first", *[["finally", ["activity"], ["activity"]] for _ in range(6)]],
    [
        "group",
        *[["finally", ["sleep", 5], ["sleep", 1]] for _ in range(6)],
        ["sequence", ["sleep", 1], ["raise"]],
    ],
    ["activity"],
]


def test_the_order_of_commands_does_not_depend_on_hash_seeds_or_addresses() -> None:
    """TaskGroup and wait keep tasks in sets, whose order follows the tasks' hashes."""
    told = {
        subprocess.run(
            [sys.executable, "-c", TELL, seed],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'service'}"},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(told) == 1
    assert "ActivityScheduled" in told.pop()
