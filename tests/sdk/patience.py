"""Waiting for what the service tells only to those who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

PATIENCE_S = 20.0


async def until(handle: Any, is_so: Callable[[Any], Any]) -> Any:
    """The description of the run once *is_so* holds of it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await handle.describe()
            if is_so(found):
                return found
