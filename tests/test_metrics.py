"""What Prometheus reads from a process, and that reading it stays bounded."""

import timeit
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from holdfast.exceptions import Invalid
from holdfast.metrics import OTHER, PREFIX, SERIES_MAX, VALUES_MAX, Histogram, Metrics, exposition, replace


def scraped(metrics: Metrics) -> dict[tuple[Any, ...], float]:
    """Sample values by name and labels, as a Prometheus parser reads them."""
    families = text_string_to_metric_families(exposition(metrics.families).decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_was_counted_is_what_prometheus_reads() -> None:
    metrics = Metrics()
    metrics.commits.inc()
    metrics.statements.inc(4)
    metrics.workflows_closed.labels("main", "order", "COMPLETED").inc()
    metrics.batch.observe(3)
    metrics.outbox_lag.set(1.5)

    read = scraped(metrics)

    closed = (("namespace", "main"), ("status", "COMPLETED"), ("type", "order"))
    assert read["holdfast_commits_total",] == 1
    assert read["holdfast_statements_total",] == 4
    assert read["holdfast_workflows_closed_total", *closed] == 1
    assert read["holdfast_outbox_lag_seconds",] == 1.5
    assert read["holdfast_batch_size_bucket", ("le", "2.0")] == 0
    assert read["holdfast_batch_size_bucket", ("le", "4.0")] == 1
    assert read["holdfast_batch_size_bucket", ("le", "+Inf")] == 1
    assert read["holdfast_batch_size_sum",] == 3
    assert read["holdfast_batch_size_count",] == 1


def test_every_metric_has_our_prefix_a_help_text_and_a_unique_name() -> None:
    families = Metrics().families

    names = [family.name for family in families]
    assert all(name.startswith(PREFIX) for name in names)
    assert all(family.text.endswith(".") for family in families)
    assert len(names) == len(set(names))


def test_no_label_is_an_id() -> None:
    labels = {name for family in Metrics().families for name in family.names}

    assert labels == {
        "namespace",
        "queue",
        "type",
        "kind",
        "status",
        "verb",
        "code",
        "cause",
        "part",
        "what",
        "version",
    }


def test_a_label_with_endless_values_ends_as_other() -> None:
    started = Metrics().workflows_started
    for number in range(VALUES_MAX + 50):
        started.labels("main", f"type-{number}").inc()

    assert len(started.series) == VALUES_MAX + 1
    assert started.labels("main", OTHER).value == 50


def test_many_values_of_many_labels_together_stay_bounded() -> None:
    metrics = Metrics()
    for namespace in range(100):
        for queue in range(100):
            metrics.schedule_to_start.labels(f"n{namespace}", f"q{queue}", "activity").observe(1)

    series = metrics.schedule_to_start.series
    assert len(series) <= SERIES_MAX + 1
    assert sum(sum(one.counts) for one in series.values()) == 10_000


def test_a_very_long_label_value_is_not_kept() -> None:
    started = Metrics().workflows_started
    started.labels("main", "x" * 1_000).inc()

    assert list(started.series) == [("main", OTHER)]


def test_odd_label_values_arrive_as_they_were() -> None:
    metrics = Metrics()
    odd = 'a "quoted"\nline \\ é 🎈'
    metrics.workflows_started.labels("main", odd).inc()

    assert scraped(metrics)["holdfast_workflows_started_total", ("namespace", "main"), ("type", odd)] == 1


def test_a_queue_that_emptied_is_gone_from_the_backlog() -> None:
    metrics = Metrics()
    replace(metrics.backlog, {("main", "a", "workflow"): 2, ("main", "b", "workflow"): 1})
    replace(metrics.backlog, {("main", "b", "workflow"): 5})

    assert {labels: gauge.value for labels, gauge in metrics.backlog.series.items()} == {
        ("main", "b", "workflow"): 5
    }


def test_queues_beyond_the_cap_add_up_in_the_backlog() -> None:
    metrics = Metrics()
    replace(metrics.backlog, {("main", f"q{number}", "workflow"): 1 for number in range(VALUES_MAX + 10)})

    assert metrics.backlog.labels("main", OTHER, "workflow").value == 10


def test_a_latency_that_two_clocks_make_negative_counts_as_zero() -> None:
    spread = Histogram((1.0, 2.0))
    spread.observe(-0.5)

    assert spread.counts == [1, 0, 0]
    assert spread.sum == 0


def test_the_wrong_number_of_labels_is_an_error_that_names_them() -> None:
    with pytest.raises(
        Invalid, match=r"holdfast_workflows_started has 2 labels \('namespace', 'type'\), got 1"
    ):
        Metrics().workflows_started.labels("main")


def test_counting_costs_the_hot_path_less_than_a_microsecond() -> None:
    metrics = Metrics()

    def hot() -> None:
        metrics.commits.inc()
        metrics.workflows_closed.labels("main", "order", "COMPLETED").inc()
        metrics.dispatch_latency.labels("workflow").observe(0.002)

    hot()
    assert min(timeit.repeat(hot, number=10_000, repeat=5)) / 10_000 / 3 < 1e-6
