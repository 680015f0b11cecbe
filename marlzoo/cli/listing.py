"""``marlzoo list``: what is there, without importing a method or a simulator."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any

import tyro

from marlzoo.cli._methods import Source
from marlzoo.cli._parse import first_argument, parse
from marlzoo.console import visible
from marlzoo.errors import ConfigError, MarlzooError

Entries = list[dict[str, Any]]


@dataclass
class Options:
    """List what is there."""

    kind: Annotated[str, tyro.conf.Positional]
    """methods, tasks, datasets, formats or suites"""
    name: Annotated[str, tyro.conf.Positional] = ""
    """of a method, whose settings and presets are shown"""
    json: bool = False
    """print JSON instead of a table"""


def run(arguments: Sequence[str]) -> int:
    """List what the first argument names."""
    about = "Lists " + ", ".join(KINDS) + ". Option: --json."
    ordered = sorted(arguments, key=lambda text: text.startswith("-"))  # the kind may follow the option
    if first_argument("kind", "list", ordered, KINDS, about) is None:
        return 0
    options = parse(Options, "list", arguments)
    if options.name and options.kind != "methods":
        raise ConfigError(f"marlzoo list {options.kind}: takes no name; only methods have settings to show")
    entries = settings(options.name) if options.name else KINDS[options.kind]()
    if options.json:
        print(json.dumps(entries, indent=2))
    else:
        _print(entries)
    return 0


def methods() -> Entries:
    """Methods: kinds of actions, offline or online, execution class, paper (arXiv), presets; modules are not run."""
    from marlzoo.registry import list_methods

    found = list_methods()
    for plugin, why in found.broken.items():
        print(f"marlzoo: warning: plugin {plugin} cannot be found: {why}", file=sys.stderr)
    for name, modules in found.modules.items():
        if len(modules) > 1:
            taken = f"method name {name!r} is taken by {' and '.join(modules)}"
            print(f"marlzoo: warning: {taken}; rename one of the files", file=sys.stderr)
    return [_entry(name, module) for name, modules in found.modules.items() for module in modules]


def _entry(name: str, module: str) -> dict[str, Any]:
    source = Source(module)
    if source.broken:
        text = f"{source.path}: cannot be read ({source.broken})"
        print(f"marlzoo: warning: {visible(text)}", file=sys.stderr)
    return {
        "name": name,
        "actions": " ".join(source.actions),
        "learns": "online" if source.online else "offline",
        "execution": source.execution,
        "paper": source.paper,
        "note": "reconstruction" if source.reconstructed else "",
        "presets": list(source.presets),
        "module": module,
        "summary": source.summary or ("(broken)" if source.broken else ""),
    }


def settings(method: str) -> Entries:
    """A method's settings: default, value in every preset, and meaning.

    Raises:
        UnknownNameError: no such method.
    """
    import dataclasses

    from marlzoo.registry import find_method, list_methods

    cls = find_method(method)
    (module,) = list_methods().modules[method]
    about = {setting.name: setting.about for setting in Source(module).settings()}
    defaults = cls.config_class()
    return [
        {
            "setting": field.name,
            "default": getattr(defaults, field.name),
            **{preset: values.get(field.name, "") for preset, values in cls.presets.items()},
            "meaning": about.get(field.name, ""),
        }
        for field in dataclasses.fields(cls.config_class)
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
    """Task and quality of everything that shipped behavior policies can make; read from their descriptions."""
    files = sorted(file.name for file in resources.files("marlzoo.teachers").iterdir())
    texts = [
        resources.files("marlzoo.teachers").joinpath(name).read_text(encoding="utf-8")
        for name in files
        if name.endswith(".json")
    ]
    return [(found["task"], quality) for found in map(json.loads, texts) for quality in found["qualities"]]


# What a person is shown of an entry; JSON has everything.
HIDDEN = {"module", "presets", "summary"}


def _print(entries: Entries) -> None:
    if not entries:
        print("none")
        return
    from rich.table import Table

    from marlzoo.console import console

    shown = [name for name in entries[0] if name not in HIDDEN or "learns" not in entries[0]]
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in shown:
        table.add_column(name, overflow="fold", no_wrap=name in ("name", "setting"))
    for entry in entries:
        table.add_row(*(_text(entry[name]) for name in shown))
    screen = console()
    if not screen.is_terminal:
        screen = console(width=max(80, *(sum(len(_text(entry[n])) + 2 for n in shown) for entry in entries)))
    screen.print(table, highlight=False)


def _text(value: Any) -> str:
    return visible(" ".join(map(str, value)) if isinstance(value, list) else value)
