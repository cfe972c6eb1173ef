"""What a service process counts, and how Prometheus gets to read it.

The engine touches plain attributes on its hot path (well under a microsecond each); only a
scrape turns them into Prometheus' form, through prometheus-client. One `Metrics` per process,
touched from its event loop's thread alone. Labels are bounded: an id is never a label, and
each label keeps its first `VALUES_MAX` values; later ones count as `other`.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from holdfast.exceptions import Invalid

PREFIX = "holdfast_"
VALUES_MAX = 200
SERIES_MAX = 2_000
OTHER = "other"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SLOW_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0, 86_400.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)

Sample = tuple[str, dict[str, str], float]
"""What is added to the metric's name and labels, and the value."""


class Readable(Protocol):
    """One series as a scrape sees it."""

    type: ClassVar[str]

    def samples(self) -> Iterable[Sample]:
        """The series' lines."""


class Counter:
    """A total that only grows."""

    __slots__ = ("value",)
    type: ClassVar[str] = "counter"

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add *amount*, which is not negative."""
        self.value += amount

    def samples(self) -> Iterable[Sample]:
        """The total."""
        yield "_total", {}, self.value


class Gauge:
    """A value as it is now."""

    __slots__ = ("value",)
    type: ClassVar[str] = "gauge"

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = value

    def samples(self) -> Iterable[Sample]:
        """The value."""
        yield "", {}, self.value


class Histogram:
    """How values spread: a count for each upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")
    type: ClassVar[str] = "histogram"

    def __init__(self, bounds: tuple[float, ...] = FAST_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count *value*; a negative one (two clocks disagree) counts as 0."""
        if value < 0:
            value = 0.0
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @contextmanager
    def time(self) -> Iterator[None]:
        """Observe how many seconds the block takes, however it ends."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - begin)

    def samples(self) -> Iterable[Sample]:
        """The counts up to each bound, the sum and the number of values."""
        for bound, count in zip((*map(str, self.bounds), "+Inf"), accumulate(self.counts), strict=True):
            yield "_bucket", {"le": bound}, count
        yield "_sum", {}, self.sum
        yield "_count", {}, sum(self.counts)


Series = TypeVar("Series", bound=Readable)


class Family(Generic[Series]):
    """One metric: its series by label values. A family without labels has exactly one series."""

    __slots__ = ("admitted", "make", "name", "names", "series", "text")

    def __init__(self, make: Callable[[], Series], name: str, text: str, names: tuple[str, ...] = ()) -> None:
        self.make = make
        self.name = PREFIX + name
        self.text = text
        self.names = names
        self.series: dict[tuple[str, ...], Series] = {}
        self.admitted: list[set[str]] = [set() for _ in names]

    def labels(self, *values: str) -> Series:
        """The series of these label values, in the order of `names`. Callers may keep it."""
        found = self.series.get(values)
        return found if found is not None else self._admit(values)

    def _admit(self, values: tuple[str, ...]) -> Series:
        if len(values) != len(self.names):
            raise Invalid(f"{self.name} has {len(self.names)} labels {self.names}, got {len(values)} values")
        capped = tuple(map(_capped, values, self.admitted))
        if capped not in self.series and len(self.series) >= SERIES_MAX:
            capped = (OTHER,) * len(values)
        if capped not in self.series:
            self.series[capped] = self.make()
        return self.series[capped]


def replace(family: Family[Gauge], now: Mapping[tuple[str, ...], float]) -> None:
    """Make *now* all that the gauges say: other series disappear; those beyond the caps add up as `other`."""
    family.series.clear()
    for values, value in now.items():
        family.labels(*values).value += value


def _capped(value: str, allowed: set[str]) -> str:
    if value not in allowed:
        if len(allowed) >= VALUES_MAX or len(value) > 200:
            return OTHER
        allowed.add(value)
    return value


class Metrics:
    """Every metric of a service process, one attribute each; those without labels are series themselves.

    Labels: `queue` is a task queue, `type` a workflow type, `kind` "workflow" or "activity",
    `cause` an error's code or a task failure's cause.
    """

    def __init__(self) -> None:
        self.families: list[Family[Any]] = []
        count, level, spread = self._counter, self._gauge, self._histogram
        queue = ("namespace", "queue", "kind")

        # The door: what callers asked, and how the store did.
        self.requests = count("requests", "Requests answered.", "verb", "code")
        self.request_latency = spread("request_seconds", "From request to answer.", FAST_S, "verb")
        self.store_calls = count("store_calls", "Calls of the store.", "verb")
        self.store_failures = count("store_failures", "Calls of the store that failed.", "verb", "cause")
        self.store_latency = spread("store_seconds", "Time a call of the store took.", FAST_S, "verb")

        # The write path.
        self.batch = spread("batch_size", "Requests sharing a transaction.", SIZES).labels()
        self.commits = count("commits", "Transactions committed.").labels()
        self.statements = count("statements", "SQL statements sent.").labels()
        self.refused = count("refused", "Requests that the state of their run forbade.", "cause")
        self.failed_inside = count("failed_inside", "Requests that a fault of the service failed on.", "kind")

        # Dispatch.
        self.hints_published = count("hints_published", "Hints given to the bus.").labels()
        self.hints_lost = count("hints_lost", "Hints the bus did not take.").labels()
        self.dispatch_latency = spread("dispatch_seconds", "From ready to claimed.", FAST_S, "kind")
        self.schedule_to_start = spread(
            "schedule_to_start_seconds", "From scheduled to claimed.", SLOW_S, *queue
        )
        self.backlog = level("backlog", "Tasks ready and not claimed, counted up to 1000.", *queue)
        self.backlog_age = level("backlog_oldest_seconds", "Age of the oldest task in the backlog.", *queue)
        self.leases_expired = count("leases_expired", "Leases that ran out.", "kind")
        self.sweep_rescues = count("sweep_rescues", "Ready tasks that no hint had found.", "kind")
        self.task_failures = count("task_failures", "Tasks that failed.", "namespace", "kind", "cause")
        self.workers = level("workers", "Workers this process heard of within a minute.").labels()
        self.timer_lateness = spread("timer_lateness_seconds", "Time fired after due.", FAST_S).labels()

        # Runs.
        self.workflows_started = count("workflows_started", "Runs started.", "namespace", "type")
        self.workflows_closed = count("workflows_closed", "Runs closed.", "namespace", "type", "status")
        self.workflow_latency = spread(
            "workflow_seconds", "From start to close of a run.", SLOW_S, "namespace", "type"
        )

        # The change feed, and what the process stands on.
        self.outbox_rows = level(
            "outbox_rows",
            "Entries of the feed not yet published, as the relay last saw them (at most a page).",
        ).labels()
        self.outbox_lag = level("outbox_lag_seconds", "Age of the oldest such entry.").labels()
        self.events_published = count("events_published", "Entries of the feed published.").labels()

        # The archive.
        self.archived = count("archived", "Runs archived, and purged from Postgres.", "namespace")
        self.archive_failures = count("archive_failures", "Tries to archive a run that failed.", "cause")
        self.archive_lag = level(
            "archive_lag_seconds",
            "By how much the oldest closed run in Postgres is past its retention, as this process last saw it.",
        ).labels()

        self.bus = count("bus", "What this process's connection to the broker did.", "what")
        self.up = level("up", "1 while the part answers, else 0.", "part")
        self.build = level("build_info", "Always 1; the label tells the version.", "version")

    def _counter(self, name: str, text: str, *names: str) -> Family[Counter]:
        return self._added(Family(Counter, name, text, names))

    def _gauge(self, name: str, text: str, *names: str) -> Family[Gauge]:
        return self._added(Family(Gauge, name, text, names))

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...], *names: str) -> Family[Histogram]:
        return self._added(Family(lambda: Histogram(bounds), name, text, names))

    def _added(self, family: Family[Series]) -> Family[Series]:
        self.families.append(family)
        return family


def exposition(families: Iterable[Family[Any]]) -> bytes:
    """The families, and the figures of this process, in Prometheus' text format (`CONTENT_TYPE`)."""
    # Imported here: only a process that is scraped needs it, and it costs 50 ms.
    from prometheus_client import PROCESS_COLLECTOR, CollectorRegistry, Metric, generate_latest

    class Scrape:
        """The collector that prometheus-client asks for this scrape's metrics."""

        def collect(self) -> Iterable[Metric]:
            for family in families:
                # A copy: the process goes on counting, and this may run in another thread.
                series = list(family.series.items())
                metric = Metric(family.name, family.text, family.make().type)
                for values, one in series:
                    for suffix, extra, value in one.samples():
                        labels = dict(zip(family.names, values, strict=True)) | extra
                        metric.add_sample(family.name + suffix, labels, value)
                yield metric

    registry = CollectorRegistry(auto_describe=False)
    registry.register(PROCESS_COLLECTOR)
    registry.register(Scrape())
    return generate_latest(registry)
