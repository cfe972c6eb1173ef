"""What `holdfast worker MODULE[:OBJ]` finds to run."""

from pathlib import Path

import pytest

from holdfast.cli.discovery import discover
from holdfast.dev import demo
from holdfast.exceptions import Invalid

SHOP = """
from holdfast import activity, workflow
from holdfast.dev.demo import charge

TASK_QUEUE = "shop"

@activity.defn
async def pack(order: str) -> str:
    return order

packing = pack

@workflow.defn
async def deliver(order: str) -> str:
    return await pack(order)

def not_for_workers() -> None: ...

PARTS = [deliver, pack]
WRONG = [deliver, not_for_workers]
OPTIONS = {"task_queue": "other", "workflows": [deliver], "max_concurrent_activities": 3}
NUMBER = 5

def make(client):
    return client
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working directory."""
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SHOP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def names(things: tuple[object, ...]) -> set[str]:
    return {getattr(thing, "__name__", "") for thing in things}


def test_a_module_gives_all_its_workflows_and_activities_once_imported_ones_too(shop: str) -> None:
    found = discover(shop)

    assert names(found.workflows) == {"deliver"}
    assert names(found.activities) == {"pack", "charge"}
    assert len(found.activities) == 2
    assert found.options == {"task_queue": "shop"}


def test_the_demo_is_complete() -> None:
    found = discover("holdfast.dev.demo")

    assert set(found.workflows) == {demo.OrderWorkflow}
    assert names(found.activities) == {"reserve", "charge", "ship", "refund"}


def test_the_examples_demo_is_the_same_as_the_installed_one() -> None:
    assert set(discover("examples.demo").activities) == set(discover("holdfast.dev.demo").activities)


def test_a_list_gives_what_it_holds(shop: str) -> None:
    found = discover(f"{shop}:PARTS")

    assert names(found.workflows) == {"deliver"}
    assert names(found.activities) == {"pack"}
    assert found.options == {}


def test_a_dict_gives_the_workers_arguments(shop: str) -> None:
    found = discover(f"{shop}:OPTIONS")

    assert names(found.workflows) == {"deliver"}
    assert found.options == {"task_queue": "other", "max_concurrent_activities": 3}


def test_one_workflow_is_enough(shop: str) -> None:
    assert names(discover(f"{shop}:deliver").workflows) == {"deliver"}


def test_a_function_makes_the_worker(shop: str) -> None:
    assert discover(f"{shop}:make").make is not None


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("{shop}:missing", "has no 'missing': expected a list of workflows"),
        ("{shop}:NUMBER", "is a int: expected a list of workflows"),
        ("{shop}:WRONG", "which is neither a workflow nor an activity"),
        ("no_such_module", "there is no module 'no_such_module' in"),
        ("examples/demo.py", "a module is named with dots, not as a file: examples.demo"),
        ("", "'' is not a module's name"),
        ("json", "module json has no workflows and no activities"),
    ],
)
def test_anything_else_is_an_error_that_says_what_was_expected(shop: str, target: str, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        discover(target.format(shop=shop))

    assert told in str(caught.value)


def test_a_module_that_cannot_import_something_fails_with_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_broken.py").write_text("import not_installed_anywhere\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        discover("shop_broken")
