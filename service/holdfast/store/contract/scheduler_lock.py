"""The scheduler lock as the contract asks for it."""

from __future__ import annotations

from holdfast.store.contract.opening import Opened


async def try_acquire_scheduler_lock(store: Opened) -> bool:
    """Whether this store holds the scheduler lock now: one holder among all processes.

    The holder asking again gets True. It is kept, on a connection of its own, until the store is closed or the
    connection is lost; a frozen or unreachable holder loses it within 8 seconds. Nothing's safety may rest on it.
    """
    return await store.leadership.acquire()
