"""Imports point down: every module stands on a floor and imports only from its own room or from floors below."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the top floor down. Rooms that share a floor do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("marlzoo.__main__",),
    ("marlzoo.cli",),
    ("marlzoo.commands",),
    ("benchmarks",),
    ("marlzoo.testing",),
    ("marlzoo.sharing",),
    ("marlzoo.recording", "marlzoo.deployment", "marlzoo.offpolicy"),
    ("marlzoo.training", "algorithms", "baselines"),
    ("marlzoo.models",),
    ("marlzoo.data",),
    ("marlzoo.teachers",),
    ("marlzoo.registry",),
    ("marlzoo.families",),
    ("marlzoo.method_faults",),
    ("marlzoo.algorithm", "marlzoo.objectives"),
    ("marlzoo.envs", "marlzoo.modules"),
    ("marlzoo.batch", "marlzoo.replicas"),
    ("marlzoo.system",),
    ("marlzoo.spec", "marlzoo.config"),
    (
        "marlzoo.task",
        "marlzoo.errors",
        "marlzoo.plugins",
        "marlzoo.version",
        "marlzoo.console",
        "marlzoo.defaults",
    ),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
INSTALLED = ("algorithms", "baselines", "benchmarks")
FRONT = "marlzoo"  # re-exports public names of the rooms below, lazily

# Modules of the package that a reader may have to open beside a method's own file; objectives is one module for this.
LARGEST_CLOSURE = 12


def modules() -> dict[str, Path]:
    """Every module of the package by the name it has in the checkout."""
    found = {}
    for top in (FRONT, *INSTALLED):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(module: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The package's modules that ``path`` imports, also inside functions and for types."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(path)):
        for name in _names(node, package):
            for top in INSTALLED:
                name = name.removeprefix("marlzoo.") if name.startswith(f"marlzoo.{top}") else name
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name and name != FRONT:
                yield name


def _names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, *filter(None, [node.module])])
    return [f"{base}.{alias.name}" for alias in node.names]


def in_strings(path: Path) -> set[str]:
    """The package's modules that are named in strings, which importlib may import."""
    nodes = ast.walk(tree(path))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {name for text in texts for name in (text, text.removeprefix("marlzoo.")) if name in KNOWN} - {
        FRONT
    }


def room(module: str) -> str:
    """The longest entry of FLOORS that holds a module."""
    fitting = [name for name in LEVEL if module == name or module.startswith(f"{name}.")]
    assert fitting, f"{module} stands on no floor; add its room to FLOORS"
    return max(fitting, key=len)


@cache
def graph() -> dict[str, list[str]]:
    """What every module but the front imports of the package."""
    return {
        name: sorted(set(imported(name, path, KNOWN)) - {name})
        for name, path in KNOWN.items()
        if name != FRONT
    }


KNOWN = modules()
# Modules that are named in a string by one that stands below them or beside them, and why.
NAMED = {
    (
        "marlzoo.registry",
        "marlzoo.models.dyna",
    ): "the registry builds a method's Dyna form, which is a method itself",
    ("marlzoo.registry", "marlzoo.data.sampler"): "part of a method's code hash; not imported",
    ("marlzoo.registry", "marlzoo.training.evaluation"): "part of a method's code hash; not imported",
    ("marlzoo.envs.games", "marlzoo.data.games"): "a family names the module that computes its data",
}
METHODS = [
    name
    for name in KNOWN
    if name.startswith(("algorithms.", "baselines.")) and ".__" not in name and "._" not in name
]


def test_imports_point_down() -> None:
    upward = [
        f"{name} -> {other}"
        for name, others in graph().items()
        for other in others
        if room(name) != room(other) and LEVEL[room(other)] <= LEVEL[room(name)]
    ]
    assert upward == []


def test_modules_above_are_named_in_strings_for_a_reason_only() -> None:
    named = {
        (name, other)
        for name, path in KNOWN.items()
        if name != FRONT
        for other in in_strings(path)
        if room(name) != room(other) and LEVEL[room(other)] <= LEVEL[room(name)]
    }
    assert named == NAMED.keys()


def test_no_import_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in graph()[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph():
        visit(name, ())


# Where names are cut at their slashes: a task's and a dataset's, each in one place, and names that are neither.
CUTS = {
    "marlzoo.task",
    "marlzoo.data.names",
    "marlzoo.sharing.cards",  # repositories of a hub
    "marlzoo.sharing.pull",
    "benchmarks.progress",  # kinds of work
    "benchmarks.storage",  # addresses of a store
    "benchmarks.studies.ope",  # a study's own groups
}


def test_names_are_cut_in_one_place() -> None:
    cut = re.compile(r"""(partition|split)\(["']/["']""")
    assert {name for name, path in KNOWN.items() if cut.search(path.read_text())} == CUTS


@pytest.mark.parametrize("method", METHODS)
def test_a_method_stands_on_few_modules(method: str) -> None:
    seen: set[str] = set()
    waiting = [*graph()[method]]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph()[module]
    assert len(seen) <= LARGEST_CLOSURE, sorted(seen)


LONGEST_FUNCTION = 50  # lines of a function, its docstring left out


def test_code_reads_line_by_line() -> None:
    """No line assigns several things, no conditional holds another, no function is longer than a screen."""
    found = []
    for name, path in KNOWN.items():
        for node in ast.walk(tree(path)):
            if _assigns_several(node) or _nests_a_conditional(node):
                found.append(f"{name}:{node.lineno}")  # type: ignore[attr-defined]
            elif isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                long = body and node.body[-1].end_lineno - body[0].lineno >= LONGEST_FUNCTION  # type: ignore[operator]
                found += [f"{name}: {node.name}"] * bool(long)
    assert found == []


def _assigns_several(node: ast.AST) -> bool:
    """Whether it is ``a, b = x, y``."""
    if not isinstance(node, ast.Assign):
        return False
    return isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple)


def _nests_a_conditional(node: ast.AST) -> bool:
    """Whether it is ``x if a else y if b else z``."""
    return isinstance(node, ast.IfExp) and any(
        isinstance(part, ast.IfExp) for part in ast.walk(node) if part is not node
    )
