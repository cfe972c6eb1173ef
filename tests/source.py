"""The package's source, parsed once, for the rules in test_tidy.py.

Reads files and answers questions about them; decides no rule.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "service"
PACKAGE = SOURCE / "holdfast"


class Module(msgspec.Struct, frozen=True, eq=False):
    """One file of the package."""

    path: str  # relative to the package, with slashes
    name: str  # as imported
    text: str
    tree: ast.Module

    @property
    def part(self) -> str:
        """The module or folder directly under holdfast/ that the file belongs to."""
        return self.path.split("/", 1)[0].removesuffix(".py")

    def at(self, node: ast.AST, what: str) -> str:
        """One line of a report: where, and what."""
        return f"service/holdfast/{self.path}:{getattr(node, 'lineno', 1)}: {what}"


@cache
def modules() -> tuple[Module, ...]:
    """Every file of the package, parsed once."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        name = ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        found.append(Module(file.relative_to(PACKAGE).as_posix(), name, text, ast.parse(text, str(file))))
    return tuple(found)


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[Module, ast.AST]]:
    """Every node of the given kinds in the package, with its module."""
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, kinds):
                yield module, node


def imports(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """What the file imports, as module names; imports inside functions and for typing count like any other."""
    known = {other.name for other in modules()}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, module.at(node, "relative import: name the module in full")
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node, full if full in known else node.module or ""


def part_of(name: str) -> str:
    """The part that an imported `holdfast…` module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def report(faults: list[str], rule: str) -> None:
    """Fail with the rule and every place that breaks it."""
    if faults:
        pytest.fail("\n".join([f"{rule}:", *sorted(set(faults))]), pytrace=False)


def functions() -> Iterator[tuple[Module, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method of the package."""
    for module, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield module, node


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of attributes, else ""."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


def decorators(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The last names of a function's decorators."""
    return {dotted(d.func if isinstance(d, ast.Call) else d).rsplit(".", 1)[-1] for d in node.decorator_list}


# --- SQL ---

SQL = re.compile(
    r"^\s*(--[^\n]*\n\s*)*("
    r"WITH\s+(RECURSIVE\s+)?\w+(\s*\([^)]*\))?\s+AS\b|SELECT\s|INSERT\s+INTO\s|UPDATE\s+\w+\s|DELETE\s+FROM\s|MERGE\s+INTO\s"
    r"|(CREATE|ALTER|DROP)\s+(OR\s+REPLACE\s+)?(TABLE|INDEX|UNIQUE|SCHEMA|DATABASE|ROLE|USER|FUNCTION|TYPE|VIEW)\s"
    r"|TRUNCATE\s|LISTEN\s|NOTIFY\s|LOCK\s+TABLE|SET\s+(LOCAL\s+|SESSION\s+)?\w+\s*(=|TO\s)|VACUUM\b"
    r"|select\s+.+\s+from\s|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s)",
    re.DOTALL,
)


def is_sql(node: ast.AST | None) -> bool:
    """Whether a node is text that reads like a statement."""
    if isinstance(node, ast.JoinedStr):
        return bool(node.values) and is_sql(node.values[0])
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(SQL.match(node.value))


def statements(module: Module) -> set[str]:
    """The names of a module's SQL constants, bare or wrapped in a call."""
    names = set()
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(is_sql(part) for part in ast.walk(node.value)):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def docstrings(tree: ast.Module) -> set[int]:
    """The identities of the constants that are docstrings: prose may begin like a statement."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr)
    }
