"""The command carries out what it was asked and tells it in the promised shape. No figure is judged here."""

import json
from pathlib import Path

from holdfast.bench.report import quantile
from holdfast.bench.usage import cpu_seconds
from tests.bench.conftest import Bench

COST = {"commits", "statements", "messages"}
PROCESSES = {"service", "worker", "client", "postgres", "nats", "total"}


def test_every_scenario_is_measured_and_told_as_json(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    record = bench(
        "--workflows", "16", "--in-flight", "1", "--in-flight", "16", "--rounds", "2", "--json", str(file)
    )

    assert json.loads(file.read_text(encoding="utf-8")) == record
    cells = [(line["scenario"], line["in_flight"], line["workflows"]) for line in record["throughput"]]
    assert cells == [("one", 1, 4), ("one", 16, 16), ("five", 1, 4), ("five", 16, 8)]
    for line in record["throughput"]:
        assert len(line["per_s_of_rounds"]) == 2
        assert line["per_s"] > 0
        assert line.keys() >= COST
        assert line["cpu_ms"].keys() == PROCESSES
    whats = [line["what"] for line in record["idle"]]
    assert whats == [
        "start acknowledged",
        "start to first task",
        "start to result, one",
        "start to result, five",
    ]
    assert all(0 < line["p50_ms"] <= line["p99_ms"] for line in record["idle"])
    assert record["conditions"]["postgres"].endswith("durable")


def test_only_what_was_asked_is_measured(bench: Bench) -> None:
    record = bench("--scenario", "one", "--in-flight", "4", "--workflows", "8", "--rounds", "1")

    assert [(line["scenario"], line["in_flight"]) for line in record["throughput"]] == [("one", 4)]
    assert record["idle"] == []


def test_a_quantile_is_a_value_that_was_measured() -> None:
    measured = [float(number) for number in range(1, 101)]

    assert (quantile(measured, 0.5), quantile(measured, 0.99), quantile([7.0], 0.99)) == (50.0, 99.0, 7.0)


def test_a_process_that_is_gone_has_no_cpu_time() -> None:
    # Process ids end at 2**22; no process has this one.
    assert cpu_seconds({"service": 2**30}) == {}
