"""Workflow definitions: what the decorators of `holdfast.workflow` found out about user code.

A definition is read once, when a class or function is decorated; runs only look things up
in it. Nothing here runs user code.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from holdfast.common import RawValue
from holdfast.sdk.hints import is_async_callable, keyword_only, types_of

DEFINITION = "__holdfast_workflow__"
RUN = "__holdfast_workflow_run__"
INIT = "__holdfast_workflow_init__"
SIGNAL = "__holdfast_workflow_signal__"


class HandlerUnfinishedPolicy(Enum):
    """What happens when a workflow ends while a handler is still running."""

    WARN_AND_ABANDON = 1
    ABANDON = 2


@dataclass(frozen=True)
class SignalDefinition:
    """A signal handler. `name` None means dynamic: it takes every signal without a handler of its own."""

    name: str | None
    fn: Callable[..., Any]
    is_method: bool
    unfinished_policy: HandlerUnfinishedPolicy = HandlerUnfinishedPolicy.WARN_AND_ABANDON
    description: str | None = None

    def __post_init__(self) -> None:
        if self.name is None:
            takes = len(_positional(self.fn)) - self.is_method
            if takes != 2:
                raise RuntimeError(
                    f"dynamic signal handler {self.fn.__qualname__} takes {takes} arguments: "
                    "expected two, the signal's name and a Sequence[RawValue]"
                )

    @functools.cached_property
    def types(self) -> list[Any]:
        """Types of the arguments."""
        return types_of(self.fn)[0]

    @functools.cached_property
    def is_async(self) -> bool:
        """Whether the handler is a coroutine function."""
        return is_async_callable(self.fn)


@dataclass(frozen=True)
class WorkflowDefinition:
    """A workflow type. `name` None means dynamic: it runs every type without a definition of its own.

    `cls` is None for a workflow that is a plain function. `takes_input` tells whether `__init__`
    wants the same arguments as the run function.
    """

    name: str | None
    run_fn: Callable[..., Any]
    cls: type | None = None
    takes_input: bool = False
    signals: Mapping[str | None, SignalDefinition] = field(default_factory=dict)
    failure_exception_types: Sequence[type[BaseException]] = ()

    @functools.cached_property
    def types(self) -> tuple[list[Any], Any]:
        """Types of the arguments and of the result. Read late: annotations may name what is defined below."""
        return types_of(self.run_fn)


def definition_of(thing: Any) -> WorkflowDefinition | None:
    """The definition of a workflow class, of its run method, or of a workflow function; None if it is none."""
    found = getattr(thing, DEFINITION, None)
    if not isinstance(found, WorkflowDefinition):
        return None
    # A subclass inherits the attribute, but is no workflow until it is decorated itself.
    return found if not inspect.isclass(thing) or found.cls is thing else None


def must_define(thing: Any) -> WorkflowDefinition:
    """As `definition_of`. Raises ValueError if there is none."""
    if (found := definition_of(thing)) is not None:
        return found
    name = getattr(thing, "__qualname__", thing)
    kind = "Workflow" if inspect.isclass(thing) else "Function"
    raise ValueError(f"{kind} {name} missing attributes, was it decorated with @workflow.defn?")


def name_and_result_type(thing: str | Callable[..., Any]) -> tuple[str, Any]:
    """The workflow type that *thing* (a name, a run method or function, a class) means, and its result's type."""
    if isinstance(thing, str):
        return thing, None
    if not callable(thing):
        raise TypeError("Workflow must be a string or callable")
    definition = must_define(thing)
    if definition.name is None:
        raise ValueError("Cannot invoke dynamic workflow explicitly")
    return definition.name, definition.types[1]


def define_function(
    fn: Callable[..., Any], name: str | None, failures: Sequence[type[BaseException]]
) -> WorkflowDefinition:
    """Define a workflow that is a coroutine function. Raises ValueError if *fn* cannot be one."""
    if not inspect.iscoroutinefunction(fn):
        raise ValueError(f"workflow {fn!r} must be a class or an async function")
    if DEFINITION in vars(fn):
        raise ValueError(f"{fn.__qualname__} already is a workflow")
    if names := keyword_only(fn):
        raise ValueError(f"workflow {fn.__qualname__} cannot have keyword-only arguments: {', '.join(names)}")
    definition = WorkflowDefinition(name=name, run_fn=fn, failure_exception_types=tuple(failures))
    _check_dynamic(definition)
    setattr(fn, DEFINITION, definition)
    return definition


def define_class(cls: type, name: str | None, failures: Sequence[type[BaseException]]) -> WorkflowDefinition:
    """Define a workflow class. Raises ValueError that lists everything wrong with it."""
    if (own := cls.__dict__.get(DEFINITION)) is not None and own.cls is cls:
        raise ValueError("Class already contains workflow definition")
    issues: list[str] = []
    run_fn = _find_run(cls, issues)
    signals = _find_signals(cls, issues)
    init = cls.__dict__.get("__init__")
    takes_input = hasattr(init, INIT)
    if takes_input and run_fn is not None and _shape(init) != _shape(run_fn):
        issues.append("@workflow.init and @workflow.run method parameters do not match")
    _check_overrides(cls, run_fn, signals, issues)
    if issues or run_fn is None:
        reasons = f"{issues[0]}" if len(issues) == 1 else ", ".join(issues)
        count = "" if len(issues) == 1 else f" for {len(issues)} reasons"
        raise ValueError(f"Invalid workflow class{count}: {reasons}")
    definition = WorkflowDefinition(
        name=name,
        run_fn=run_fn,
        cls=cls,
        takes_input=takes_input,
        signals=signals,
        failure_exception_types=tuple(failures),
    )
    _check_dynamic(definition)
    setattr(cls, DEFINITION, definition)
    setattr(run_fn, DEFINITION, definition)
    return definition


def _find_run(cls: type, issues: list[str]) -> Callable[..., Any] | None:
    found: Callable[..., Any] | None = None
    seen = False
    for name, member in inspect.getmembers(cls):
        if not hasattr(member, RUN):
            continue
        seen = True
        if cls.__dict__.get(name) is not member:
            issues.append(f"@workflow.run method {name} must be defined on {cls.__qualname__}")
        elif found is not None:
            issues.append(f"Multiple @workflow.run methods found (at least on {name} and {found.__name__})")
        else:
            found = member
    seen = seen or any(hasattr(m, RUN) for base in cls.__mro__[1:] for m in vars(base).values())
    if not seen:
        issues.append("Missing @workflow.run method")
    return found


def _find_signals(cls: type, issues: list[str]) -> dict[str | None, SignalDefinition]:
    signals: dict[str | None, SignalDefinition] = {}
    for name, member in inspect.getmembers(cls):
        definition = getattr(member, SIGNAL, None)
        if not isinstance(definition, SignalDefinition):
            continue
        other = signals.setdefault(definition.name, definition)
        if other is not definition:
            issues.append(
                f"Multiple signal methods found for {definition.name or '<dynamic>'} "
                f"(at least on {name} and {other.fn.__name__})"
            )
    return signals


def _check_overrides(
    cls: type,
    run_fn: Callable[..., Any] | None,
    signals: Mapping[str | None, SignalDefinition],
    issues: list[str],
) -> None:
    for base in cls.__mro__[1:]:
        for member in vars(base).values():
            signal = getattr(member, SIGNAL, None)
            if hasattr(member, RUN) and (run_fn is None or member.__name__ != run_fn.__name__):
                issues.append(f"@workflow.run defined on {member.__qualname__} but not on the override")
            elif isinstance(signal, SignalDefinition) and signal.name not in signals:
                issues.append(f"@workflow.signal defined on {member.__qualname__} but not on the override")


def _check_dynamic(definition: WorkflowDefinition) -> None:
    if definition.name is None and definition.types[0] != [Sequence[RawValue]]:
        raise TypeError("Dynamic workflow must accept a single Sequence[holdfast.common.RawValue]")


def _shape(fn: Any) -> list[inspect.Parameter]:
    return [p.replace(name="x") for p in inspect.signature(fn).parameters.values()]


def _positional(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in inspect.signature(fn).parameters.values() if p.kind in kinds]
