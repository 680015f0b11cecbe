"""Reference tables: keys of suites, columns of results, tasks, formats, suites and commands."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from marlzoo.cli import COMMANDS, main
from marlzoo.cli.listing import KINDS

from .text import code, prose, table


def pages() -> dict[str, str]:
    """Pages of their own."""
    return {
        "tasks.md": "# Tasks\n\n" + listing("tasks"),
        "commands.md": commands(),
    }


def keys(cls: Any, defaults: bool = True) -> str:
    """The fields of a dataclass with their types, defaults and the text of its docstring."""
    said = arguments(cls)
    rows = []
    for entry in fields(cls):
        default = [code(_default(entry))] if defaults else []
        # Names as code: a reader of the page in the repository knows no roles of the site's builder.
        about = re.sub(r":\w+:`([^`]+)`", r"`\1`", said[entry.name])
        rows.append([code(entry.name), prose(str(entry.type)), *default, prose(about)])
    return table(["key", "type", *(["default"] if defaults else []), "meaning"], rows) + "\n"


def _default(entry: Field[Any]) -> object:
    if entry.default_factory is not MISSING:
        return entry.default_factory()
    if entry.default is MISSING:
        return "required"
    return list(entry.default) if isinstance(entry.default, tuple) else repr(entry.default)


def arguments(cls: Any) -> dict[str, str]:
    """The section ``Args`` or ``Attributes`` of a docstring by name."""
    lines = inspect.cleandoc(cls.__doc__).splitlines()
    begin = next(k for k, line in enumerate(lines) if line in ("Args:", "Attributes:"))
    found: dict[str, str] = {}
    name = ""
    for line in lines[begin + 1 :]:
        if line and not line.startswith(" "):
            break
        if start := re.match(r" {4}(\w+): (.*)", line):
            name = start[1]
            found[name] = start[2]
        elif line.strip():
            found[name] += f" {line.strip()}"
    return {key: text[0].upper() + text[1:] for key, text in found.items()}


def listing(kind: str) -> str:
    """What ``marlzoo list KIND`` shows, as a table."""
    entries = KINDS[kind]()
    rows = [
        [code(value) if k == 0 else prose(str(value)) for k, value in enumerate(e.values())] for e in entries
    ]
    return table(list(entries[0]), rows) + "\n"


def commands() -> str:
    """The help of every command."""
    parts = ["# Command line", "Every command is shown with its help text, `marlzoo COMMAND --help`."]
    for name in COMMANDS:
        text = help_text([name])
        actions = re.findall(r"^  ([a-z-]+) ", text.partition("Actions:")[2], re.MULTILINE)
        for command in [[name, action] for action in actions] or [[name]]:
            parts.append(f"## marlzoo {' '.join(command)}")
            parts.append(f"```text\n{help_text(command)}\n```")
    return "\n\n".join(parts) + "\n"


def help_text(command: list[str]) -> str:
    """What ``--help`` prints, 80 columns wide and without colors."""
    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue()).replace(str(Path.home()), "~")
    return re.sub(r" +$", "", plain, flags=re.MULTILINE).rstrip()
