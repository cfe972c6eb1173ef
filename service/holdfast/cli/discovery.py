"""What a worker of `MODULE[:OBJ]` runs: found by importing the module and looking at what it has."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from holdfast import activity
from holdfast.exceptions import Invalid
from holdfast.sdk import definitions

QUEUE_NAME = "TASK_QUEUE"
"""The module's variable that names its task queue, for when the command line does not."""


class Found(msgspec.Struct, frozen=True):
    """What to run: workflows, activities, options for the worker; or `make`, which builds the worker from a client."""

    workflows: tuple[Any, ...] = ()
    activities: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    make: Callable[..., Any] | None = None


def discover(target: str) -> Found:
    """What *target*, `MODULE` or `MODULE:OBJ`, gives a worker to run.

    A module gives every workflow and activity it has, imported ones too. OBJ is a list of them,
    a dict of `Worker`'s arguments, or a function that takes the client and returns a `Worker`.
    Raises `Invalid` if there is nothing, saying what was there.
    """
    name, _, attribute = target.partition(":")
    module = _imported(name)
    if not attribute:
        found = _sorted(vars(module).values(), f"module {name}")
        queue = getattr(module, QUEUE_NAME, None)
        options = {"task_queue": queue} if isinstance(queue, str) else {}
        return Found(found.workflows, found.activities, options)
    try:
        thing = getattr(module, attribute)
    except AttributeError:
        raise Invalid(f"module {name} has no {attribute!r}: expected {_EXPECTED}") from None
    match thing:
        case Mapping():
            return _from_options(dict(thing), target)
        case list() | tuple() | set():
            return _sorted(thing, target, strict=True)
        case _ if is_definition(thing):
            return _sorted([thing], target)
        case _ if callable(thing):
            return Found(make=thing)
        case _:
            raise Invalid(f"{target} is a {type(thing).__name__}: expected {_EXPECTED}")


_EXPECTED = "a list of workflows and activities, a dict of Worker's arguments, or a function from a client to a Worker"


def is_definition(thing: Any) -> bool:
    """Whether *thing* is a workflow or an activity."""
    return definitions.definition_of(thing) is not None or activity.definition_of(thing) is not None


def _imported(name: str) -> ModuleType:
    """The module, found from the working directory too, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        hint = f"; a module is named with dots, not as a file: {_dotted(name)}" if "/" in name else ""
        raise Invalid(f"there is no module {name!r} in {here} or among the installed ones{hint}") from error
    except (ValueError, TypeError) as error:
        raise Invalid(f"{name!r} is not a module's name: expected something like shop.workflows") from error


def _sorted(things: Iterable[Any], where: str, *, strict: bool = False) -> Found:
    """The workflows and activities among *things*, each once. *strict* allows nothing else among them."""
    workflows: dict[int, Any] = {}
    activities: dict[int, Any] = {}
    for thing in things:
        if definitions.definition_of(thing) is not None:
            workflows[id(thing)] = thing
        elif activity.definition_of(thing) is not None:
            activities[id(thing)] = thing
        elif strict:
            raise Invalid(f"{where} holds {thing!r}, which is neither a workflow nor an activity")
    if not workflows and not activities:
        raise Invalid(
            f"{where} has no workflows and no activities: expected @workflow.defn or @activity.defn there"
        )
    return Found(tuple(workflows.values()), tuple(activities.values()))


def _from_options(options: dict[str, Any], where: str) -> Found:
    things = [*options.pop("workflows", ()), *options.pop("activities", ())]
    found = _sorted(things, where, strict=True)
    return Found(found.workflows, found.activities, options)


def _dotted(name: str) -> str:
    return name.removesuffix(".py").strip("./").replace("/", ".")
