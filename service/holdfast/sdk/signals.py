"""Signals inside a run: kept until there is a handler, then handled in the order they came.

Handlers run before the workflow's own code sees anything else that it learns in the same
turn. A signal that does not decode is logged and left out, so that one bad sender cannot
stop a run for good; it stays in the history.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from holdfast.common import RawValue
from holdfast.exceptions import Invalid
from holdfast.sdk.activities import Converter
from holdfast.sdk.definitions import HandlerUnfinishedPolicy, SignalDefinition
from holdfast.sdk.loop import NOT_OF_USERS, WorkflowLoop
from holdfast.wire import events as e
from holdfast.wire import payloads

logger = logging.getLogger("holdfast.workflow")


class UnfinishedSignalHandlersWarning(RuntimeWarning):
    """The workflow exited before all signal handlers had finished executing."""


class Receiver(Protocol):
    """The run that signals come to."""

    loop: WorkflowLoop
    converter: Converter
    instance: Any
    signals: Inbox
    is_replaying: bool

    def raised(self, error: BaseException) -> None:
        """A handler ended with *error*."""


class Inbox:
    """The handlers of a run, the signals that wait for one, and the handlers that are running."""

    def __init__(self, handlers: Mapping[str | None, SignalDefinition]) -> None:
        self.handlers = dict(handlers)
        self.waiting: list[e.SignalReceived] = []
        self.running: dict[int, tuple[str, SignalDefinition]] = {}
        self.received = 0

    def warn_if_unfinished(self) -> None:
        """Warn about handlers that the end of the run cuts off, unless they said not to."""
        names = sorted(
            name
            for name, handler in self.running.values()
            if handler.unfinished_policy is HandlerUnfinishedPolicy.WARN_AND_ABANDON
        )
        if names:
            warnings.warn(
                UnfinishedSignalHandlersWarning(
                    f"workflow finished while signal handlers were still running: {', '.join(names)}; they are "
                    "abandoned. Wait for them with `await workflow.wait_condition(workflow.all_handlers_finished)`, "
                    "or set unfinished_policy=HandlerUnfinishedPolicy.ABANDON on the handler"
                ),
                stacklevel=2,
            )


def receive(run: Receiver, event: e.SignalReceived) -> None:
    """Hand *event* to its handler, or keep it until there is one."""
    handlers = run.signals.handlers
    handler = handlers.get(event.name) or handlers.get(None)
    if handler is None:
        run.signals.waiting.append(event)
    else:
        _deliver(run, handler, event)


def set_handler(run: Receiver, name: str | None, fn: Callable[..., Any] | None) -> None:
    """Make *fn* the handler of *name* (None: of all others); None as *fn* removes it."""
    inbox = run.signals
    if fn is None:
        inbox.handlers.pop(name, None)
        return
    handler = SignalDefinition(name=name, fn=fn, is_method=False)
    inbox.handlers[name] = handler
    # In the order they came, whatever their names.
    waiting, inbox.waiting = inbox.waiting, []
    for event in waiting:
        if name is None or event.name == name:
            _deliver(run, handler, event)
        else:
            inbox.waiting.append(event)


def get_handler(run: Receiver, name: str | None) -> Callable[..., Any] | None:
    """The handler of exactly *name*, bound to the instance."""
    handler = run.signals.handlers.get(name)
    return _bound(run, handler) if handler is not None else None


def _deliver(run: Receiver, handler: SignalDefinition, event: e.SignalReceived) -> None:
    try:
        args = _arguments(run, handler, event)
    except Invalid:
        if not run.is_replaying:
            logger.exception("signal %r does not decode for its handler and is left out", event.name)
        return
    if not handler.is_async:
        run.loop.call_soon(_call, run, handler, args, context=run.loop.context.copy())
        return
    inbox = run.signals
    inbox.received = number = inbox.received + 1
    inbox.running[number] = event.name, handler
    run.loop.create_task(
        _run(run, handler, args, number), name=f"signal: {event.name}", context=run.loop.context.copy()
    )


def _call(run: Receiver, handler: SignalDefinition, args: list[Any]) -> None:
    try:
        _bound(run, handler)(*args)
    except NOT_OF_USERS:
        raise
    except BaseException as error:  # noqa: BLE001 - the handler is the user's
        run.raised(error)


async def _run(run: Receiver, handler: SignalDefinition, args: list[Any], number: int) -> None:
    try:
        await _bound(run, handler)(*args)
    except NOT_OF_USERS:
        raise
    except BaseException as error:  # noqa: BLE001 - the handler is the user's
        run.raised(error)
    finally:
        run.signals.running.pop(number, None)


def _bound(run: Receiver, handler: SignalDefinition) -> Callable[..., Any]:
    if not handler.is_method:
        return handler.fn
    bound: Callable[..., Any] = handler.fn.__get__(run.instance)
    return bound


def _arguments(run: Receiver, handler: SignalDefinition, event: e.SignalReceived) -> list[Any]:
    if handler.name is not None:
        return run.converter.decode_args(event.input, handler.types)
    count = len(payloads.split(event.input))
    return [event.name, run.converter.decode_args(event.input, [RawValue] * count)]
