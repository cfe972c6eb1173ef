"""Which workflow run the current code belongs to."""

from __future__ import annotations

from asyncio.events import _get_running_loop

from holdfast.sdk.loop import WorkflowLoop
from holdfast.sdk.runtime import WorkflowRun


class NotInWorkflow(RuntimeError):
    """Something that only workflow code can do was called elsewhere."""


def current_run() -> WorkflowRun | None:
    """The run whose code is calling, None if the caller is no workflow code."""
    loop = _get_running_loop()
    if type(loop) is not WorkflowLoop:
        return None
    owner = loop.owner
    return owner if type(owner) is WorkflowRun else None


def must_run() -> WorkflowRun:
    """As `current_run`. Raises `NotInWorkflow` if there is none."""
    run = current_run()
    if run is None:
        raise NotInWorkflow("Not in workflow event loop")
    return run


def in_workflow() -> bool:
    """Whether the caller is workflow code."""
    return type(_get_running_loop()) is WorkflowLoop
