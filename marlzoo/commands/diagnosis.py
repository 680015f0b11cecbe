"""What is installed, what is missing, and the command that fixes it. Needs the standard library only."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from marlzoo.errors import MarlzooError, pip_install, requirements
from marlzoo.system.machine import home

State = Literal["ok", "missing", "note"]

DEVELOPERS = ("dev", "docs")  # extras that only work on marlzoo itself needs; "make install-dev" brings them
AGAIN = "install marlzoo again, as docs/install.md says"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``missing`` is a fault, ``note`` something that only some uses need."""

    state: State
    what: str
    found: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Look at the interpreter, the packages, the accelerator, the simulators, the plugins and the folders."""
    packages = list(_packages())
    if any(finding.state == "missing" for finding in packages):
        later = "not looked at: they need the packages that are missing above"
        running = [Finding("note", "methods, tasks", later)]
    else:
        running = [*_accelerator(), *_plugins(), *_behavior_policies()]
    return [
        _python(),
        *packages,
        *running,
        _folder("datasets", home() / "datasets"),
        _folder("results", Path("results").absolute()),
    ]


def findings_text(findings: list[Finding]) -> str:
    """Findings as lines of text, remedies below what they remedy."""
    signs = {"ok": "ok     ", "missing": "MISSING", "note": "note   "}
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{signs[finding.state]} {finding.what:<{width}}  {finding.found}")
        if finding.remedy:
            lines.append(f"{'':7} {'':<{width}}  -> {finding.remedy}")
    faults = sum(finding.state == "missing" for finding in findings)
    lines.append("everything needed is there" if not faults else f"{faults} missing")
    return "\n".join(lines)


def _python() -> Finding:
    return Finding("ok", "python", f"{platform.python_version()} at {sys.executable}")


def _packages() -> Iterator[Finding]:
    """marlzoo itself, what it requires, and what its extras for users require."""
    try:
        own = metadata.version("marlzoo")
    except metadata.PackageNotFoundError:
        remedy = f"in the checkout: {sys.executable} -m pip install -e ."
        yield Finding("missing", "marlzoo", "imported, but not installed", remedy)
        return
    yield Finding("ok", "marlzoo", f"{own} at {Path(__file__).parents[1]}")
    for required in requirements():
        if required.extra in DEVELOPERS:
            continue
        state: State = "note" if required.extra else "missing"
        what = f"{required.name} ({required.extra})" if required.extra else required.name
        try:
            version = metadata.version(required.name)
        except metadata.PackageNotFoundError:
            yield Finding(state, what, "not installed", pip_install(required.name))
            continue
        if fits(version, required.versions):
            yield Finding("ok", what, version)
        else:
            found = f"{version}, but {required.versions} is asked for"
            yield Finding(state, what, found, pip_install(required.name))


def fits(version: str, wanted: str) -> bool:
    """Whether a version lies in a range such as ``>=1.2,<2`` (only ``>=`` and ``<`` count)."""
    mine = _numbers(version)
    for bound in filter(None, (part.strip() for part in wanted.split(","))):
        if bound.startswith(">=") and mine < _numbers(bound[2:]):
            return False
        if bound.startswith("<") and not bound.startswith("<=") and mine >= _numbers(bound[1:]):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    digits = re.match(r"\s*(\d+(?:\.\d+)*)", version)
    return tuple(map(int, digits[1].split("."))) if digits else ()


def _accelerator() -> Iterator[Finding]:
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken native library fails in any way
        yield Finding("missing", "torch", f"cannot be imported: {_line(error)}", pip_install("torch"))
        return
    yield Finding("ok", "processor", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        yield Finding("ok", "GPU", f"{torch.cuda.get_device_name(0)} (--device cuda)")
    else:
        remedy = (
            "on a machine with one: make clean install TORCH_INDEX=the address on PyTorch's installation page"
        )
        yield Finding("note", "GPU", f"none that torch {torch.__version__} can use", remedy)


def _plugins() -> Iterator[Finding]:
    try:
        from marlzoo import families, registry
    except Exception as error:  # reported, whatever it is
        yield Finding("missing", "registry", f"cannot be imported: {_line(error)}", AGAIN)
        return
    listing = registry.find_methods()
    twice = {name: modules for name, modules in listing.modules.items() if len(modules) > 1}
    yield Finding("ok", "methods", ", ".join(listing.modules) or "none")
    for name, modules in twice.items():
        yield Finding(
            "missing", f"method {name}", f"taken by {' and '.join(modules)}", "rename one of the files"
        )
    for name in listing.modules.keys() - twice.keys():
        try:
            registry.find_method(name)
        except Exception as error:  # a foreign module fails in any way
            remedy = "correct it, or remove the package that brings it"
            yield Finding("missing", f"method {name}", _line(error), remedy)
    for plugin, why in listing.broken.items():
        remedy = "install or remove the package that declares it"
        yield Finding("missing", f"plugin {plugin}", why, remedy)
    for family in families.task_families():
        yield _environment(family)


def _environment(family: str) -> Finding:
    """Make one copy of the family's first task, which starts its simulator."""
    from marlzoo.families import family_tasks, make_env

    what = f"tasks {family}"
    try:
        names = family_tasks(family)
        if not names:
            return Finding("note", what, "no task; its TASKS is empty")
        make_env(names[0], 1).close()
    except Exception as error:  # reported, whatever it is
        if type(error).__name__ in ("MissingExtraError", "MissingSimulatorError"):
            return Finding("note", what, _line(error))  # the text has the remedy
        # So has that of every error that is meant for the user.
        return Finding("missing", what, _line(error), "" if isinstance(error, MarlzooError) else AGAIN)
    return Finding("ok", what, f"{len(names)} tasks; {names[0]} starts")


def _behavior_policies() -> Iterator[Finding]:
    try:
        from marlzoo.teachers.store import behavior_policy_names

        names = behavior_policy_names()
    except Exception as error:  # reported, whatever it is
        yield Finding("missing", "behavior policies", _line(error), AGAIN)
        return
    if names:
        yield Finding("ok", "behavior policies", f"{', '.join(names)} (marlzoo data collect)")
    else:
        yield Finding("missing", "behavior policies", "none in the package", AGAIN)


def _folder(what: str, path: Path) -> Finding:
    """Whether a folder, or the nearest one above it that exists, can be written, and the space left there."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    if not os.access(there, os.W_OK):
        return Finding("missing", what, f"{path} cannot be written", f"chmod u+w {there}")
    if free < 2:
        return Finding(
            "note", what, f"{path}, {free:.1f} GiB free", "free some space; datasets can take gigabytes"
        )
    return Finding("ok", what, f"{path}, {free:.0f} GiB free")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
