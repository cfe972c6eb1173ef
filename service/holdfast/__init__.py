"""Durable workflows in plain Python. The few names that most programs need; the rest is in the modules.

Names are loaded when they are first used: whoever imports one module of Holdfast does not pay for all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast import activity as activity
    from holdfast import workflow as workflow
    from holdfast.client import Client as Client
    from holdfast.common import RetryPolicy as RetryPolicy
    from holdfast.exceptions import ApplicationError as ApplicationError
    from holdfast.worker import Worker as Worker

_HOMES = {
    "ApplicationError": "holdfast.exceptions",
    "Client": "holdfast.client",
    "RetryPolicy": "holdfast.common",
    "Worker": "holdfast.worker",
}
_MODULES = frozenset({"activity", "client", "common", "converter", "exceptions", "worker", "workflow"})

__all__ = ["ApplicationError", "Client", "RetryPolicy", "Worker", "activity", "workflow"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"holdfast.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
