"""What a system has used so far: CPU time of its processes and the service's own counters.

Reads only; CPU time is known where the kernel tells it in `/proc`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

COUNTERS = {
    "commits": re.compile(rb"^holdfast_commits_total ([0-9.e+]+)$", re.MULTILINE),
    "statements": re.compile(rb"^holdfast_statements_total ([0-9.e+]+)$", re.MULTILINE),
    "messages": re.compile(rb'^holdfast_bus_total\{what="published"\} ([0-9.e+]+)$', re.MULTILINE),
}
"""What is read from the service's metrics. Messages are those that the service sent, answers included."""

ANSWER_S = 10.0


class Usage(msgspec.Struct, frozen=True):
    """Totals since the processes began: CPU seconds by role, and the service's counters by name."""

    cpu_s: dict[str, float]
    counters: dict[str, float]


async def read(pids: Mapping[str, int], ops_url: str) -> Usage:
    """The totals of the processes *pids* (by role, each with its descendants) and of the service at *ops_url*."""
    page = await _page(ops_url)
    counters = {}
    for name, line in COUNTERS.items():
        found = line.search(page)
        counters[name] = float(found[1]) if found else 0.0
    return Usage(cpu_seconds(pids), counters)


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds, user and system, by role: of the process, its descendants, and those that ended and were awaited.

    Our own descendants are not counted as ours: they have roles of their own. Empty where there is no `/proc`.
    """
    stats = dict(_stats())
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    return {
        role: sum(_spent(stats[pid], pid) for pid in _family(root, children) if pid in stats)
        for role, root in pids.items()
        if root in stats
    }


Stat = tuple[int, float, float]
"""A process's parent, its own CPU seconds, and those of its children that ended."""


def _spent(stat: Stat, pid: int) -> float:
    return stat[1] if pid == os.getpid() else stat[1] + stat[2]


def _family(root: int, children: Mapping[int, Iterable[int]]) -> list[int]:
    found = [root]
    if root != os.getpid():
        for pid in found:
            found.extend(children.get(pid, ()))
    return found


def _stats() -> Iterable[tuple[int, Stat]]:
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # It ended meanwhile.
        user, system, ended_user, ended_system = map(int, fields[11:15])
        yield (
            int(folder.name),
            (int(fields[1]), (user + system) * tick_s, (ended_user + ended_system) * tick_s),
        )


async def _page(ops_url: str) -> bytes:
    """The metrics page. HTTP by hand: a client library would be a dependency for one request."""
    host, _, port = ops_url.removeprefix("http://").rpartition(":")
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return await reader.read()
        finally:
            writer.close()
