"""`holdfast` as real processes: run to the end, or kept running while a test looks at what it says."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from holdfast.bus import Bus  # noqa: F401 - fails here, not in each process, if the package cannot be imported

PATIENCE_S = 60.0


def environment(**given: str) -> dict[str, str]:
    """Our environment without settings of Holdfast but *given*, and with the package on the path."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return {**clean, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **given}


def command(
    *args: str, cwd: Path | None = None, stdin: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """`holdfast` run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *args],
        cwd=cwd,
        env=environment(**env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class Running:
    """A `holdfast` process whose standard output is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def line(self, pattern: str) -> re.Match[str]:
        """The first line, said already or to come, in which *pattern* is found."""
        for line in self.lines:
            if found := re.search(pattern, line):
                return found
        while (news := self._news.get(timeout=PATIENCE_S)) is not None:
            self.lines.append(news)
            if found := re.search(pattern, news):
                return found
        raise AssertionError(f"it ended without saying {pattern!r}:\n" + "".join(self.lines))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def _read(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                self._news.put(line)
        self._news.put(None)


@contextmanager
def running(args: Sequence[str], *, cwd: Path | None = None, **env: str) -> Iterator[Running]:
    """`holdfast` with *args*, ended with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "holdfast", *args],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
