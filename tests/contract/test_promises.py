"""docs/store.md promises something of every method, and each promise has a test."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from holdfast.store import Store
from holdfast.store.contract.opening import Opened

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "store.md"
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| `(test_\w+\.py)::(test_\w+)` \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, str]]:
    """The method, the file and the test of every row."""
    return ROW.findall(PAGE.read_text(encoding="utf-8"))


def test_every_method_is_promised_something_in_the_order_of_the_store() -> None:
    methods = [name for name in vars(Store) if not name.startswith("_")]

    assert [method for method, _, _ in rows()] == methods
    assert len(methods) == 54
    assert all(inspect.iscoroutinefunction(getattr(Store, name)) for name in methods)
    assert not set(methods) & set(vars(Opened))


def test_every_promise_names_a_test_that_there_is() -> None:
    for method, file, test in rows():
        tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
        found = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name == test]

        assert len(found) == 1, f"{method}: no test {test} in {file}"
