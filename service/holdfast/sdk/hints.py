"""What a function's annotations say about its arguments and its result. Pure."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any


def types_of(fn: Callable[..., Any]) -> tuple[list[Any], Any]:
    """The types of the positional parameters of *fn* (a leading `self` left out) and of its result.

    A parameter without annotation, and a result without one, is None: "untyped". Raises TypeError
    for an annotation that names something unknown.
    """
    target: Any = fn
    if not inspect.isroutine(fn):
        target = getattr(fn, "__init__", fn) if isinstance(fn, type) else type(fn).__call__
    try:
        hints = typing.get_type_hints(target)
        parameters = list(inspect.signature(target).parameters.values())
    except NameError as error:
        raise TypeError(
            f"{getattr(fn, '__qualname__', fn)}: an annotation names {error.name!r}, which its module does not define; "
            "types of arguments and results must be importable where the function is defined"
        ) from error
    except (TypeError, ValueError):  # some builtins have no signature
        return [], None
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    arguments = [hints.get(p.name) for p in parameters if p.kind in positional]
    return arguments, hints.get("return")


def is_async_callable(fn: Any) -> bool:
    """Whether calling *fn* gives a coroutine."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def keyword_only(fn: Any) -> list[str]:
    """Names of the keyword-only parameters, which calls over the wire cannot fill."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
