"""What a worker holds: its leases, their ages, and how many more tasks it could take. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from holdfast.wire.messages import Lease

Key = tuple[str, int]
"""A run and a command's number; 0 is the run's workflow task."""


ENDED_MAX = 10_000


class Held(msgspec.Struct):
    """A lease. `renewed_at` is when it was taken or last extended, on the loop's clock."""

    fence: int
    lease_s: float
    renewed_at: float


class Leases:
    """The leases of one worker, and its free slots.

    An activity occupies its slot while it runs or waits to run; a workflow task while its lease is
    held. `on_free` is called when a slot has become free.
    """

    def __init__(self, workflow_slots: int, activity_slots: int, on_free: Callable[[], None]) -> None:
        self._held: dict[Key, Held] = {}
        # The fences of what was settled lately: a message that comes twice, or late, must not begin it anew.
        self._ended: OrderedDict[Key, int] = OrderedDict()
        self._workflow_slots = workflow_slots
        self._activity_slots = activity_slots
        self._on_free = on_free
        self._workflow_tasks = 0
        self._activities = 0
        self.is_closed = False

    @property
    def workflow_slots(self) -> int:
        """How many more workflow tasks the worker would take now."""
        return 0 if self.is_closed else max(self._workflow_slots - self._workflow_tasks, 0)

    @property
    def activity_slots(self) -> int:
        """How many more activities the worker would take now."""
        return 0 if self.is_closed else max(self._activity_slots - self._activities, 0)

    def take(self, run_id: str, seq: int, fence: int, lease_s: float, now: float) -> bool:
        """Note a lease; False if it, or a newer one of the task, is held or settled already: there is nothing to do."""
        key = run_id, seq
        held = self._held.get(key)
        if (held is not None and held.fence >= fence) or self._ended.get(key, -1) >= fence:
            return False
        if held is None and seq == 0:
            self._workflow_tasks += 1
        self._held[key] = Held(fence, lease_s, now)
        return True

    def drop(self, run_id: str, seq: int, fence: int) -> None:
        """The lease is settled, given back or lost; a newer one of the same task stays."""
        key = run_id, seq
        held = self._held.get(key)
        if held is None or held.fence != fence:
            return
        del self._held[key]
        self._ended[key] = fence
        self._ended.move_to_end(key)
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
        if seq == 0:
            self._workflow_tasks -= 1
            self._on_free()

    def occupy(self) -> None:
        """An activity takes a slot."""
        self._activities += 1

    def vacate(self) -> None:
        """An activity leaves its slot."""
        self._activities -= 1
        self._on_free()

    def holds(self, lease: Lease) -> bool:
        """Whether this very lease is held."""
        held = self._held.get((lease.run_id, lease.seq))
        return held is not None and held.fence == lease.fence

    def due(self, now: float) -> list[Lease]:
        """The leases older than a third of their length: time to extend them."""
        return [
            Lease(run_id, seq, held.fence)
            for (run_id, seq), held in self._held.items()
            if now - held.renewed_at > held.lease_s / 3
        ]

    def renew(self, leases: Iterable[Lease], now: float) -> None:
        """These leases were extended."""
        for lease in leases:
            held = self._held.get((lease.run_id, lease.seq))
            if held is not None and held.fence == lease.fence:
                held.renewed_at = now

    def all(self) -> list[Lease]:
        """Everything that is held."""
        return [Lease(run_id, seq, held.fence) for (run_id, seq), held in self._held.items()]
