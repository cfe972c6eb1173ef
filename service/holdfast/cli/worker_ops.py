"""What a worker process tells on its ops address. The SDK knows no Prometheus; its figures are read here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from holdfast.api.ops import Probe
from holdfast.metrics import Family, Gauge, exposition

if TYPE_CHECKING:
    from holdfast.worker import Worker


def probes_of(worker: Worker) -> Sequence[Probe]:
    """Ready while the worker works; the bus away is a note."""

    async def working() -> str | None:
        return None if worker.is_running else "the worker is stopping"

    async def bus() -> str | None:
        return (
            None if worker.client.caller.rpc.bus.is_connected else "the bus is away; the worker waits for it"
        )

    return (Probe("worker", working), Probe("bus", bus, is_required=False))


def exposition_of(worker: Worker) -> Callable[[], bytes]:
    """A function that reads the worker's figures for one scrape."""
    up = Family(Gauge, "worker_up", "1 while the worker reaches the part, else 0.", ("part",))
    running = Family(Gauge, "worker_running", "1 while the worker takes tasks, else 0.", ("queue",))

    def read() -> bytes:
        up.labels("bus").set(worker.client.caller.rpc.bus.is_connected)
        running.labels(worker.task_queue).set(worker.is_running)
        return exposition((up, running))

    return read
