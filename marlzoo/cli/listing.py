"""``marlzoo list``: methods, tasks, datasets, formats and suites, without importing a method or a simulator."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import first_argument, parse
from marlzoo.commands.listing import (
    Entries,
    list_datasets,
    list_formats,
    list_methods,
    list_suites,
    list_tasks,
)
from marlzoo.console import visible
from marlzoo.errors import ConfigError


@dataclass
class Options:
    """List methods, tasks, datasets, formats or suites."""

    kind: Annotated[str, tyro.conf.Positional]
    """methods, tasks, datasets, formats or suites"""
    name: Annotated[str, tyro.conf.Positional] = ""
    """a method, whose settings and presets are shown; else only entries that have this text in their name"""
    json: bool = False
    """print JSON instead of a table"""


def run(arguments: Sequence[str]) -> int:
    """List what the first argument names."""
    kinds = [f"  {kind:<8}  {about}" for kind, about in ABOUT.items()]
    option = "  --json    print JSON instead of a table"
    some = "With a kind other than methods, TEXT: only entries whose name contains it."
    about = "\n".join(["Kinds:", *kinds, some, "", "options:", option])
    ordered = sorted(arguments, key=lambda text: text.startswith("-"))  # the kind may follow the option
    if first_argument("kind", "list", ordered, KINDS, about) is None:
        return 0
    options = parse(Options, "list", arguments)
    entries = list_methods(options.name) if options.kind == "methods" else KINDS[options.kind]()
    if options.name and options.kind != "methods":
        entries = [entry for entry in entries if options.name.lower() in entry["name"].lower()]
        if not entries:
            more = "; marlzoo data download --list names the published ones"
            raise ConfigError(
                f"marlzoo list {options.kind}: no name contains {options.name!r}; without it all are listed"
                f"{more if options.kind == 'datasets' else ''}"
            )
    if options.json:
        print(json.dumps(entries, indent=2))
    else:
        _print(entries)
    return 0


KINDS: dict[str, Callable[[], Entries]] = {
    "methods": list_methods,
    "tasks": list_tasks,
    "datasets": list_datasets,
    "formats": list_formats,
    "suites": list_suites,
}
ABOUT = {
    "methods": "action kinds, offline or online, execution, paper; NAME: settings",
    "tasks": "numbers of agents and sizes",
    "datasets": "those on this machine, and those that a command makes",
    "formats": "files that are read, and the options of their readers",
    "suites": "built-in benchmarks",
}


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
        table.add_column(name, overflow="fold", no_wrap=name in ("name", "setting", "place"))
    for entry in entries:
        table.add_row(*(_text(entry[name]) for name in shown))
    screen = console()
    if (
        not screen.is_terminal or "place" in shown
    ):  # paths and commands are copied: only the terminal may break them
        longest = [max(len(name), *(len(_text(entry[name])) for entry in entries)) for name in shown]
        screen = console(width=max(80, sum(longest) + 2 * len(shown)))
    screen.print(table, highlight=False, soft_wrap="place" in shown)


def _text(value: Any) -> str:
    return visible(" ".join(map(str, value)) if isinstance(value, list) else value)
