"""Settings, action kinds and paper of a method, parsed from its source file without importing it.

Importing a method imports torch, which takes longer than a person waits for a list or for ``--help``.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import importlib.util
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from marlzoo.config import ONLY_OFFLINE

PAPER = re.compile(r"arXiv[: ]?\s?(\d{4}\.\d{4,5})|(\d{4}\.\d{5})")


@dataclass(frozen=True)
class Setting:
    """One hyperparameter: its name, the text of its type and default, and its comment."""

    name: str
    kind: str
    default: str
    about: str


class MethodFile:
    """A method's module, by its dotted name.

    Attributes:
        text: of the file; empty where it is broken.
        tree: its syntax tree.
        broken: why the file cannot be read, in one line; empty where it can.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.path = _file(module)
        self.broken = ""
        try:
            self.text = self.path.read_text(encoding="utf-8") if self.path else ""
            self.tree = ast.parse(self.text)
        except (OSError, SyntaxError, ValueError, RecursionError) as error:
            self.text = ""
            self.tree = ast.Module([], [])
            self.broken = " ".join(str(error).split())

    @property
    def summary(self) -> str:
        """First line of the module's docstring."""
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]

    @property
    def reconstructed(self) -> bool:
        """Whether the docstring's first line says that the method is a reconstruction, without official code."""
        return "reconstruction" in self.summary

    @property
    def paper(self) -> str:
        """The arXiv number of the first paper that the docstring names, or empty."""
        found = PAPER.search(ast.get_docstring(self.tree) or "")
        return (found[1] or found[2]) if found else ""

    @property
    def actions(self) -> tuple[str, ...]:
        """Kinds of actions that the method handles."""
        value = self._attribute("actions")
        return tuple(ast.literal_eval(value)) if value is not None else ()

    @property
    def online(self) -> bool:
        """Whether the method learns by acting."""
        value = self._attribute("sampling")
        return isinstance(value, ast.Constant) and value.value == "online"

    @property
    def unread(self) -> tuple[str, ...]:
        """As :func:`marlzoo.registry.unread_settings`."""
        value = self._attribute("unread")
        own: tuple[str, ...] = ()
        with contextlib.suppress(ValueError):  # written as something else than a tuple of texts
            own = tuple(ast.literal_eval(value)) if value is not None else ()
        return (*own, *(ONLY_OFFLINE if self.online else ()))

    @property
    def execution(self) -> str:
        """Execution class of the policy: ``decentralized`` unless the class states another."""
        value = self._attribute("execution")
        return str(value.value) if isinstance(value, ast.Constant) else "decentralized"

    @property
    def presets(self) -> dict[str, dict[str, str]]:
        """Settings of each preset that the class lists itself, as they are written."""
        return {
            name: {
                setting: place._written(value) for setting, (place, value) in source._entries(node).items()
            }
            for name, (source, node) in self._entries(self._attribute("presets")).items()
        }

    def settings(self) -> list[Setting]:
        """The settings of the method's configuration, its own ones first."""
        return self._distinct(self._settings_of(self._attribute("config_class")))

    def settings_of(self, config_class: str) -> list[Setting]:
        """The settings of a configuration of this module."""
        return self._distinct(self._settings_of(ast.Name(config_class)))

    def _distinct(self, settings: Iterable[Setting]) -> list[Setting]:
        found: dict[str, Setting] = {}
        for setting in settings:
            found.setdefault(setting.name, setting)  # a class's own default goes before that of its base
        return list(found.values())

    def _settings_of(self, named: ast.expr | None) -> Iterator[Setting]:
        """Settings of a configuration class, given as it is written in this module."""
        source, name = self._place(named)
        if source is None:
            return
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                yield from source._own(node)
                for base in node.bases:
                    yield from source._settings_of(base)

    def _place(self, named: ast.expr | None) -> tuple[MethodFile | None, str]:
        """The source that defines a name (``X``, or ``module.X``), and the name there."""
        if isinstance(named, ast.Attribute) and isinstance(named.value, ast.Name):
            module = self._imported(named.value.id)
            return (MethodFile(f"{module[0]}.{module[1]}") if module else None), named.attr
        if not isinstance(named, ast.Name):
            return None, ""
        place = self._imported(named.id)
        return (MethodFile(place[0]), place[1]) if place else (self, named.id)

    def _own(self, node: ast.ClassDef) -> Iterator[Setting]:
        for setting in settings_in(node, self.text.splitlines()):
            default = setting.default
            if default.isidentifier():
                default = self._written(ast.Name(default))
            yield Setting(setting.name, setting.kind, default, setting.about)

    def _entries(self, node: ast.expr | None) -> dict[str, tuple[MethodFile, ast.expr]]:
        """A dictionary's values, each with the source that it is written in; parts of it may have names."""
        if not isinstance(node, ast.Dict):
            source, name = self._place(node)
            value = source._assigned(name) if source else None
            return source._entries(value) if source and value is not None else {}
        found: dict[str, tuple[MethodFile, ast.expr]] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:  # **part
                found |= self._entries(value)
            elif isinstance(key, ast.Constant) and isinstance(key.value, str):
                found[key.value] = self, value
        return found

    def _written(self, value: ast.expr) -> str:
        """A value as written in the source; a name of a constant is resolved."""
        named = self._assigned(value.id) if isinstance(value, ast.Name) else None
        return self._number(named or value)

    def _assigned(self, name: str) -> ast.expr | None:
        """The value of a constant of this module, or of its class; None where there is none."""
        for node in self.tree.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(target, ast.Name) and target.id == name:
                assert isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
                return node.value
        return self._attribute(name)

    def _number(self, node: ast.expr) -> str:
        """The value of an expression such as ``math.exp(10)``, otherwise its text."""
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("math.") and len(node.args) == 1:
            given = self._written(node.args[0])
            with contextlib.suppress(ValueError):
                return f"{getattr(math, ast.unparse(node.func).removeprefix('math.'))(float(given)):g}"
        return ast.unparse(node)

    def _attribute(self, name: str) -> ast.expr | None:
        """The value of a class attribute of the module's (last) class that has it."""
        found = None
        for node in self.tree.body:
            for item in node.body if isinstance(node, ast.ClassDef) else ():
                targets = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    found = getattr(item, "value", None)
        return found

    def _imported(self, name: str) -> tuple[str, str] | None:
        """The module that a name is imported from, and its name there; None where it is not imported."""
        package = self.module.rpartition(".")[0]
        for node in self.tree.body:
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                if (alias.asname or alias.name) == name:
                    assert isinstance(node, ast.ImportFrom)
                    parts = (package if node.level else "", node.module or "")
                    return ".".join(filter(None, parts)), alias.name
        return None


def settings_in(node: ast.ClassDef, lines: Sequence[str]) -> Iterator[Setting]:
    """The fields of a class with their texts: a comment behind or above, or a string below."""
    for item, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
            continue
        own = lines[item.lineno - 1 : item.end_lineno]
        about = next(filter(None, (line.partition("  # ")[2] for line in own)), "")
        above = lines[item.lineno - 2].strip()
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            about = " ".join(str(following.value.value).split())
        elif not about and above.startswith("# "):  # a comment too long for the line stands above it
            about = above.removeprefix("# ")
        default = ast.unparse(item.value) if item.value is not None else ""
        if default.startswith("field("):
            keyword = re.search(r"default=([^,)]+)", default)
            default = keyword[1] if keyword else ""
        yield Setting(item.target.id, ast.unparse(item.annotation), default, about)


def _file(module: str) -> Path | None:
    """The source file of a module, found without importing it; its parent package alone is looked up."""
    parent, _, name = module.rpartition(".")
    package = importlib.util.find_spec(parent) if parent else None
    # A single file has no parent and lies in a folder of the search path.
    for folder in (package.submodule_search_locations or ()) if package else sys.path:
        found = importlib.machinery.PathFinder.find_spec(name, [folder])
        if found and found.origin and found.origin.endswith(".py"):
            return Path(found.origin)
    return None
