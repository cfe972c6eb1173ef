"""What was measured as figures: medians over the rounds, per workflow. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from statistics import median
from typing import Any

from holdfast.bench.measure import Burst, Idle, Measured, Round

Record = dict[str, Any]

ROLES = ("service", "worker", "client", "postgres", "nats")


def record_of(measured: Measured, conditions: Mapping[str, object]) -> Record:
    """The whole measurement as one JSON object; every list has one entry per scenario and number in flight."""
    return {
        "conditions": dict(conditions),
        "plan": {
            "scenarios": list(measured.plan.scenarios),
            "in_flight": list(measured.plan.in_flight),
            "workflows": measured.plan.workflows,
            "rounds": measured.plan.rounds,
        },
        "throughput": [
            _throughput(name, in_flight, rounds) for (name, in_flight), rounds in measured.throughput.items()
        ],
        "idle": _idle(measured.idle) if measured.idle else [],
    }


def speed_rows(record: Record) -> list[Record]:
    """The throughput of *record* as a table: one row per scenario and number in flight."""
    return [
        {
            "activities": line["scenario"],
            "in flight": line["in_flight"],
            "per s": f"{line['per_s']:,.0f}",
            "lowest": f"{min(line['per_s_of_rounds']):,.0f}",
            "highest": f"{max(line['per_s_of_rounds']):,.0f}",
            **_cost(line),
        }
        for line in record["throughput"]
    ]


def latency_rows(record: Record) -> list[Record]:
    """The latencies of *record* as a table."""
    return [
        {
            "one at a time": line["what"],
            "p50 ms": f"{line['p50_ms']:.2f}",
            "p99 ms": f"{line['p99_ms']:.2f}",
            **(_cost(line) if "cpu_ms" in line else {}),
        }
        for line in record["idle"]
    ]


def cpu_rows(record: Record) -> list[Record]:
    """CPU milliseconds per workflow of *record* as a table: one row per line of the others, one column per role."""
    named = [(f"{line['scenario']}, {line['in_flight']} in flight", line) for line in record["throughput"]]
    named += [(line["what"], line) for line in record["idle"]]
    return [
        {"CPU ms per workflow": name} | {role: f"{spent:.2f}" for role, spent in line["cpu_ms"].items()}
        for name, line in named
        if line.get("cpu_ms")
    ]


def _throughput(name: str, in_flight: int, rounds: Sequence[Round]) -> Record:
    per_s = [one.large.workflows / one.large.seconds for one in rounds]
    return {
        "scenario": name,
        "in_flight": in_flight,
        "workflows": rounds[0].large.workflows,
        "per_s": round(median(per_s), 1),
        "per_s_of_rounds": [round(figure, 1) for figure in per_s],
        "cpu_ms": _cpu_ms([_slope(one) for one in rounds]),
        **_counters([one.large for one in rounds]),
    }


def _idle(rounds: Sequence[Idle]) -> list[Record]:
    lines = [
        _latency("start acknowledged", [taken for one in rounds for taken in one.acknowledged_s]),
        _latency("start to first task", [taken for one in rounds for taken in one.first_task_s]),
    ]
    for name in rounds[0].result_s:
        bursts = [one.used[name] for one in rounds]
        lines.append(
            _latency(f"start to result, {name}", [taken for one in rounds for taken in one.result_s[name]])
            | {"cpu_ms": _cpu_ms([_mean(one) for one in bursts]), **_counters(bursts)}
        )
    return lines


def _latency(what: str, taken_s: list[float]) -> Record:
    ordered = sorted(taken_s)
    return {
        "what": what,
        "samples": len(ordered),
        "p50_ms": round(1_000 * quantile(ordered, 0.5), 3),
        "p99_ms": round(1_000 * quantile(ordered, 0.99), 3),
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the *ordered* values that *share* of them do not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def _slope(one: Round) -> dict[str, float]:
    """CPU ms of one more workflow, by role: constant costs of a burst, and what runs besides, cancel out."""
    more = one.large.workflows - one.small.workflows
    return {
        role: 1_000 * (spent - one.small.used.cpu_s.get(role, 0.0)) / more
        for role, spent in one.large.used.cpu_s.items()
    }


def _mean(burst: Burst) -> dict[str, float]:
    return {role: 1_000 * spent / burst.workflows for role, spent in burst.used.cpu_s.items()}


def _cpu_ms(rounds: Sequence[Mapping[str, float]]) -> Record:
    """The median of each role, and of the sum; empty where the system does not tell CPU times."""
    roles = [role for role in ROLES if all(role in one for one in rounds)]
    if not roles:
        return {}
    by_role = {role: round(median(one[role] for one in rounds), 3) for role in roles}
    return by_role | {"total": round(median(sum(one[role] for role in roles) for one in rounds), 3)}


def _counters(bursts: Sequence[Burst]) -> Record:
    def per_workflow(name: str) -> float:
        return round(median(one.used.counters[name] / one.workflows for one in bursts), 3)

    return {name: per_workflow(name) for name in bursts[0].used.counters}


def _cost(line: Record) -> Record:
    total = line["cpu_ms"].get("total")
    return {
        "cpu ms": "-" if total is None else f"{total:.2f}",
        "commits": f"{line['commits']:.2f}",
        "stmts": f"{line['statements']:.2f}",
        "msgs": f"{line['messages']:.2f}",
    }
