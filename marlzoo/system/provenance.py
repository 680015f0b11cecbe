"""Which code made a number, when and on what machine: hashes of source files, commit, date, processor."""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import io
import os
import platform
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import resolve_name
from pathlib import Path

from marlzoo.system.machine import processor

CORE = "marlzoo"
GIT_SECONDS = 10.0  # a repository that answers later counts as none


def source_hash(modules: Iterable[str]) -> str:
    """Hash of modules and of all that they import, directly or not, from their own packages and from marlzoo.

    Comments, docstrings and blank lines do not count. A module without source text counts with the version of the
    distribution that it is of.

    Returns:
        12 hexadecimal digits.
    """
    texts: dict[str, str] = {}
    waiting = list(modules)
    tops = {CORE, *(name.partition(".")[0] for name in waiting)}
    while waiting:
        name = waiting.pop()
        if name not in texts:
            texts[name], imported = _module(name)
            waiting += [found for found in imported if found.partition(".")[0] in tops]
    whole = "\0".join(f"{name}\0{texts[name]}" for name in sorted(texts))
    return hashlib.sha256(whole.encode()).hexdigest()[:12]


def code_only(source: str) -> str:
    """Source text without comments, docstrings, blank lines and trailing space.

    Positions decide what is cut, not the tokens themselves, so that all versions of Python give the same text.
    """
    lines = source.splitlines()
    for first, last in _docstrings(ast.parse(source)):
        lines[first - 1 : last] = [""] * (last - first + 1)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def commit_of(file: Path) -> str:
    """The commit of the git repository that tracks a file, with ``+`` where files were changed since.

    Empty where there is none, or no git.
    """
    return (
        _commit(file.resolve().parent) if _git(file.parent, "ls-files", "--error-unmatch", file.name) else ""
    )


def now() -> str:
    """Date and time in UTC to the second, ``2026-01-31T12:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def machine() -> str:
    """The machine without its name: processor, cores that this process may use, system."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{processor()}, {count} cores, {platform.system()} {platform.machine()}"


@cache
def _commit(folder: Path) -> str:
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@cache
def _module(name: str) -> tuple[str, tuple[str, ...]]:
    """What counts of a module, and the modules that it imports."""
    source = _source(name)
    if source is None:
        return _version(name), ()
    return code_only(source), tuple(_imports(name, source))


def _source(name: str) -> str | None:
    """Source text of a module; None where there is none."""
    spec = _spec(name)
    get = getattr(spec.loader, "get_source", None) if spec else None
    try:
        text: str | None = get(name) if get else None
    except (ImportError, OSError):
        return None
    return text


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None


def _version(name: str) -> str:
    try:
        return version(name.partition(".")[0])
    except PackageNotFoundError:
        return "unknown"


def _docstrings(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """First and last line of every docstring."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        match node.body:
            case [ast.Expr(ast.Constant(str())) as text, *_] if text.end_lineno is not None:
                yield text.lineno, text.end_lineno


def _imports(module: str, source: str) -> Iterator[str]:
    """Modules that a module imports, except for types only."""
    spec = _spec(module)
    package = module if spec and spec.submodule_search_locations is not None else module.rpartition(".")[0]
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield _place(base, alias.name)


def _place(base: str, name: str) -> str:
    """The module that ``from base import name`` reads: a module of that name, or the one that defines it."""
    spec = _spec(base)
    if spec is None or spec.submodule_search_locations is None:
        return base
    if _spec(f"{base}.{name}") is not None:
        return f"{base}.{name}"
    value = getattr(sys.modules.get(base), name, None)  # a package may hand on what its modules define
    return getattr(value, "__module__", None) or base
