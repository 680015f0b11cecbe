"""``marlzoo list``: what is there, without importing a method or a simulator."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any

import tyro

from marlzoo.cli._parse import choose, parse
from marlzoo.console import visible
from marlzoo.errors import MarlzooError

Entries = list[dict[str, Any]]


@dataclass
class Options:
    """List what is there."""

    kind: Annotated[str, tyro.conf.Positional]
    """methods, tasks, datasets, formats or suites"""
    json: bool = False
    """print JSON instead of a table"""


def run(arguments: Sequence[str]) -> int:
    """List what the first argument names."""
    about = "Lists " + ", ".join(KINDS) + ". Option: --json."
    ordered = sorted(arguments, key=lambda text: text.startswith("-"))  # the kind may follow the option
    if choose("kind", "list", ordered, KINDS, about) is None:
        return 0
    options = parse(Options, "list", arguments)
    entries = KINDS[options.kind]()
    if options.json:
        print(json.dumps(entries, indent=2))
    else:
        _print(entries)
    return 0


def methods() -> Entries:
    """Methods: ``name``, ``module``, ``summary`` (first line of the module's text, which is not run)."""
    from marlzoo.registry import list_methods

    found = list_methods()
    for plugin, why in found.broken.items():
        print(f"marlzoo: warning: plugin {plugin} cannot be found: {why}", file=sys.stderr)
    for name, modules in found.modules.items():
        if len(modules) > 1:
            taken = f"method name {name!r} is taken by {' and '.join(modules)}"
            print(f"marlzoo: warning: {taken}; rename one of the files", file=sys.stderr)
    return [
        {"name": name, "module": module, "summary": _summary(module)}
        for name, modules in found.modules.items()
        for module in modules
    ]


def tasks() -> Entries:
    """Tasks: ``name`` and shape."""
    from marlzoo.registry import family_tasks, task_families, task_spec

    entries = []
    names: list[str] = []
    for family in task_families():
        try:
            names += family_tasks(family)
        except MarlzooError as error:  # one that cannot be imported hides no other
            print(f"marlzoo: warning: {visible(error)}", file=sys.stderr)
    for name in names:
        spec = task_spec(name)
        shape = {"agents": spec.n_agents, "observation": spec.obs_size, "state": spec.state_size}
        entries.append({"name": name, **shape, "actions": spec.action_kind, "action": spec.action_size})
    return entries


def datasets() -> Entries:
    """Datasets that are on this machine, and those that a recipe can make."""
    from marlzoo.data.names import installed

    there = installed()
    entries = [{"name": name, "state": "installed", "place": str(path)} for name, path in there.items()]
    for task, quality in _recipes():
        if f"{task}/marlzoo/{quality}" not in there:
            command = f"marlzoo data collect {task} --quality {quality}"
            entries.append({"name": f"{task}/marlzoo/{quality}", "state": "recipe", "place": command})
    return entries


def formats() -> Entries:
    """Formats of datasets that are read, the module whose text tells layout, mapping and what is assumed (``python -m
    pydoc MODULE``), and the options that restore a paper's reading (``--option NAME=VALUE``).
    """
    from marlzoo.data.load import READERS

    return [
        {"name": reader.name, "module": reader.read.__module__, "options": ", ".join(reader.options)}
        for reader in READERS
    ]


def suites() -> Entries:
    """Built-in benchmark suites."""
    from marlzoo.benchmarks.suites import SUITES

    return [{"name": suite.name, "about": suite.about} for suite in SUITES.values()]


KINDS: dict[str, Callable[[], Entries]] = {
    "methods": methods, "tasks": tasks, "datasets": datasets, "formats": formats, "suites": suites,
}  # fmt: skip


def _recipes() -> list[tuple[str, str]]:
    """Task and quality of everything that a shipped teacher can make; read from the teachers' descriptions."""
    files = sorted(file.name for file in resources.files("marlzoo.teachers").iterdir())
    texts = [
        resources.files("marlzoo.teachers").joinpath(name).read_text(encoding="utf-8")
        for name in files
        if name.endswith(".json")
    ]
    return [(found["task"], quality) for found in map(json.loads, texts) for quality in found["qualities"]]


def _summary(module: str) -> str:
    parent, _, _ = module.rpartition(".")
    package = importlib.util.find_spec(parent)
    for folder in (package.submodule_search_locations or ()) if package else ():
        found = importlib.machinery.PathFinder.find_spec(module, [folder])
        if found and found.origin and found.origin.endswith(".py"):
            try:
                with open(found.origin, encoding="utf-8") as file:
                    text = ast.get_docstring(ast.parse(file.read())) or ""
            except (OSError, SyntaxError, ValueError, RecursionError) as error:
                cause = " ".join(str(error).split())
                print(
                    f"marlzoo: warning: {visible(found.origin)}: cannot be read ({visible(cause)})",
                    file=sys.stderr,
                )
                return "(broken)"
            return text.partition("\n")[0]
    return ""


def _print(entries: Entries) -> None:
    if not entries:
        print("none")
        return
    from rich.table import Table

    from marlzoo.console import console

    table = Table(*entries[0], box=None, pad_edge=False)
    for entry in entries:
        table.add_row(*map(visible, entry.values()))
    screen = console()
    if not screen.is_terminal:
        screen = console(width=200)
    screen.print(table, highlight=False, soft_wrap=True)
