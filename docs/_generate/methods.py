"""One page per method: its docstring, settings, presets and metrics."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from marlzoo.commands.methods import MethodFile
from marlzoo.config import Config
from marlzoo.registry import find_method, find_methods, unread_settings

from .metrics import metrics_table
from .text import code, from_docstring, prose, table

PRESETS = (
    "Columns between default and meaning are presets. The preset of the task's family is used unless another one is "
    "named (`--preset`, `preset` of a suite's learner or of `marlzoo.make`); its values replace the defaults."
)


@dataclass(frozen=True)
class Method:
    """What pages and tables say about a method."""

    name: str
    module: str

    @cached_property
    def source(self) -> MethodFile:
        """What its file tells without being imported."""
        return MethodFile(self.module)

    @cached_property
    def cls(self) -> Any:
        """Its class."""
        return find_method(self.name)

    @property
    def docstring(self) -> str:
        """The text of its module."""
        return inspect.cleandoc(sys.modules[self.cls.__module__].__doc__ or "")

    @property
    def title(self) -> str:
        """The name that papers use: what stands before the docstring's first colon."""
        title, colon, _ = self.source.summary.partition(":")
        return title if colon else self.name.upper()

    @property
    def about(self) -> str:
        """The docstring's first line, without the title."""
        return self.source.summary.removeprefix(f"{self.title}:").strip()

    @property
    def paper(self) -> str:
        """A link to its paper; empty where it has none of its own."""
        number = self.source.paper
        return f"[{number}](https://arxiv.org/abs/{number})" if number else ""

    @property
    def file(self) -> str:
        """Path of its file in the repository."""
        return f"{self.module.removeprefix('marlzoo.').replace('.', '/')}.py"

    @property
    def data(self) -> str:
        """What it learns from."""
        return "online" if self.source.online else "offline"


def methods() -> list[Method]:
    """All methods, by name."""
    return [Method(name, modules[0]) for name, modules in find_methods().modules.items()]


def pages() -> dict[str, str]:
    """The overview and a page per method."""
    known = methods()
    return {
        "methods/index.md": overview(known),
        **{f"methods/{method.name}.md": page(method) for method in known},
    }


def overview(known: list[Method]) -> str:
    """The table of all methods."""
    rows = [
        [
            f"[{m.name}]({m.name}.md)",
            prose(m.about),
            ", ".join(m.source.actions),
            m.data,
            m.source.execution,
            m.paper,
        ]
        for m in known
    ]
    listed = "\n".join(m.name for m in known)
    return "\n\n".join(
        [
            "# Methods",
            "Every method is one file. Its settings are flags of `marlzoo train METHOD`. "
            "[Concepts](../../concepts.md#execution-classes) explains the execution classes.",
            table(["name", "about", "actions", "data", "execution", "paper"], rows),
            f"```{{toctree}}\n:hidden:\n\n{listed}\n```\n",
        ]
    )


def page(method: Method) -> str:
    """One method's page."""
    _, _, body = method.docstring.partition("\n")
    facts = [
        f"**Actions:** {' and '.join(method.source.actions)}",
        f"**Learns** {'by acting in a simulator' if method.source.online else 'from logged data'}",
        f"**Execution:** {method.source.execution}",
        f"**File:** `{method.file}`",
    ]
    return "\n\n".join(
        [
            f"# {method.name}",
            f"{method.title}: {prose(method.about)}",
            " · ".join(facts),
            from_docstring(body),
            "## Settings",
            PRESETS,
            settings(method),
            "## Metrics",
            "Each is logged per replica.",
            metrics_table(method.name),
        ]
    )


def settings(method: Method) -> str:
    """Its settings, those that all methods share last, with the presets beside the defaults."""
    cls = method.cls.config_class
    presets = {name: preset for name, preset in method.cls.presets.items() if preset}
    comments = {setting.name: setting.about for setting in method.source.settings()}
    shared = {entry.name for entry in fields(Config)}
    read = [entry for entry in fields(cls) if entry.name not in unread_settings(method.cls)]
    ordered = sorted(read, key=lambda entry: entry.name in shared)
    rows = [
        [
            code(entry.name),
            code(entry.default),
            *(code(preset[entry.name]) if entry.name in preset else "" for preset in presets.values()),
            prose(comments[entry.name]),
        ]
        for entry in ordered
    ]
    return table(["setting", "default", *presets, "meaning"], rows)
