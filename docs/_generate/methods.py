"""One page per method: its docstring, settings, presets and metrics."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import Field, dataclass, fields
from typing import Any

from marlzoo.config import Config
from marlzoo.registry import find_method, list_methods

from .text import code, from_docstring, prose, table

_COMMENT = re.compile(r"#\s*(.*)$")


@dataclass(frozen=True)
class Method:
    """What pages and tables say about a method."""

    name: str
    cls: Any
    docstring: str

    @property
    def title(self) -> str:
        """The name that papers use: what stands before the docstring's first colon."""
        return self.docstring.partition(":")[0]

    @property
    def summary(self) -> str:
        """The docstring's first line, without the title."""
        return self.docstring.partition("\n")[0].partition(":")[2].strip()

    @property
    def paper(self) -> str:
        """The arXiv number of its paper; empty where it has none."""
        found = re.search(r"arXiv\s+(\d{4}\.\d{5})", self.docstring)
        return found[1] if found else ""

    @property
    def file(self) -> str:
        """Path of its file in the repository."""
        folder, _, name = self.cls.__module__.removeprefix("marlzoo.").rpartition(".")
        return f"{folder}/{name}.py"

    @property
    def online(self) -> bool:
        """Whether it learns by acting."""
        return bool(self.cls.sampling == "online")


def methods() -> list[Method]:
    """All methods, by name."""
    found = []
    for name in list_methods().modules:
        cls = find_method(name)
        found.append(Method(name, cls, inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")))
    return found


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
            prose(m.summary),
            ", ".join(m.cls.actions),
            "online" if m.online else "offline",
            f"[{m.paper}](https://arxiv.org/abs/{m.paper})" if m.paper else "",
        ]
        for m in known
    ]
    listed = "\n".join(m.name for m in known)
    return "\n\n".join(
        [
            "# Methods",
            "Every method is one file. Its settings are flags of `marlzoo train METHOD`.",
            table(["name", "about", "actions", "data", "paper"], rows),
            f"```{{toctree}}\n:hidden:\n\n{listed}\n```\n",
        ]
    )


def page(method: Method) -> str:
    """One method's page."""
    _, _, body = method.docstring.partition("\n")
    facts = [
        f"**Actions:** {' and '.join(method.cls.actions)}",
        f"**Learns** {'by acting in a simulator' if method.online else 'from logged data'}",
        f"**File:** `{method.file}`",
    ]
    return "\n\n".join(
        [
            f"# {method.name}",
            f"{method.title}: {prose(method.summary)}",
            " · ".join(facts),
            from_docstring(body),
            "## Settings",
            settings(method),
        ]
    )


def settings(method: Method) -> str:
    """Its settings, those that all methods share last, with the presets beside the defaults."""
    cls = method.cls.config_class
    presets = {family: preset for family, preset in method.cls.presets.items() if preset}
    comments = setting_comments(cls)
    shared = {entry.name for entry in fields(Config)}
    ordered = sorted(fields(cls), key=lambda entry: entry.name in shared)
    header = ["setting", "default", *presets, "meaning"]
    rows = [
        [
            code(entry.name),
            code(_default(entry)),
            *(code(preset[entry.name]) if entry.name in preset else "" for preset in presets.values()),
            prose(comments.get(entry.name, "")),
        ]
        for entry in ordered
    ]
    return table(header, rows)


def _default(entry: Field[Any]) -> object:
    value = entry.default
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value


def setting_comments(cls: type[Config]) -> dict[str, str]:
    """The comment of every setting, read from the classes' source; a subclass's wins."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, Config):
            continue
        above = ""
        for line in inspect.getsource(base).splitlines():
            text = line.strip()
            comment = _COMMENT.search(text)
            named = re.match(r"(\w+):\s", text)
            if named and (comment or above):
                found[named[1]] = comment[1] if comment else above
            above = f"{above} {comment[1]}".strip() if comment and text.startswith("#") else ""
    return found
