"""``marlzoo new-method``: a skeleton that works and passes the battery, in the checkout or as a package."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import secrets
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse
from marlzoo.cli._skeleton import method_file, package_files, package_name
from marlzoo.errors import ConfigError
from marlzoo.registry import list_methods
from marlzoo.system.files import output_error, write_text_atomic

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass
class Options:
    """Write a small method that works, to be rewritten: one file in the checkout, or a package of its own."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """of the method and of its file: lower-case letters, digits and single underscores"""
    baseline: bool = False
    """in the checkout: into baselines/ instead of algorithms/"""
    package: Path | None = None
    """write an installable package into this new folder instead"""


def run(arguments: Sequence[str]) -> int:
    """Write the files and say what to do next."""
    options = parse(Options, "new-method", arguments)
    check_name(options.name)
    if options.package is not None:
        if options.baseline:
            raise ConfigError("--baseline chooses a folder of the checkout; it has no meaning with --package")
        _write_package(options.name, options.package)
    else:
        _write_in_checkout(options.name, "baselines" if options.baseline else "algorithms")
    return 0


def check_name(name: str) -> None:
    """Refuse a name that a method cannot have.

    Raises:
        ConfigError: it is no such name, or in use.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot be a method's name: it names a Python file, so use lower-case letters, digits and "
            "single underscores, a letter first, and no word of the language"
        )
    taken = list_methods().modules.get(name)
    if taken:
        raise ConfigError(
            f"the method name {name!r} is in use by {' and '.join(taken)}; choose another (marlzoo list methods)"
        )


def checkout(start: Path) -> Path | None:
    """The root of the checkout of marlzoo that holds ``start``, if there is one."""
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if not file.is_file() or not all((folder / part).is_dir() for part in ("algorithms", "baselines")):
            continue
        try:
            project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        except (OSError, ValueError):  # somebody else's project, whatever is wrong with it
            continue
        if project.get("name") == "marlzoo":
            return folder
    return None


def _write_in_checkout(name: str, folder: str) -> None:
    root = checkout(Path.cwd())
    if root is None:
        raise ConfigError(
            f"{Path.cwd()} is not inside a checkout of marlzoo; go into one, or write a package of its own: "
            f"marlzoo new-method {name} --package FOLDER"
        )
    file = root / folder / f"{name}.py"
    if os.path.lexists(file):
        raise ConfigError(f"{file} exists already and is left as it is; choose another name, or move it")
    write_text_atomic(file, method_file(name))
    print(file)
    if name in list_methods().modules:
        print(f"It works as it is: pytest tests/test_battery.py -k {name}; marlzoo train {name} --help")
    else:
        print(
            "The marlzoo that runs here is not this checkout's; there: make install, then .venv/bin/marlzoo"
        )


def _write_package(name: str, folder: Path) -> None:
    package = package_name(name)
    if importlib.util.find_spec(package) is not None:
        raise ConfigError(f"a package {package} is installed already; choose another name for the method")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} exists already and is not an empty folder; it is left as it is")
    _write_folder(folder, package_files(name))
    print(folder)
    print(
        f"Next: {sys.executable} -m pip install --no-build-isolation -e {folder}; then pytest {folder}; "
        f"marlzoo train {name} --help"
    )


def _write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """All files or none: they are written beside ``folder`` and moved there when they are complete."""
    target = folder.absolute()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        for path, text in files.items():
            write_text_atomic(temporary / path, text)
        if target.exists():  # empty, and perhaps where the user stands: it stays the same folder
            for entry in temporary.iterdir():
                os.replace(entry, target / entry.name)
        else:
            os.replace(temporary, target)
    except OSError as error:
        raise output_error(folder, error.__cause__ or error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
