"""``marlzoo new-method`` from Python: a skeleton that works and passes the battery."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import secrets
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

from marlzoo.commands.skeleton import method_file, package_files, package_name
from marlzoo.errors import ConfigError
from marlzoo.registry import find_methods
from marlzoo.system.files import output_error, write_text_atomic

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def new_method(name: str, *, baseline: bool = False, package: str | os.PathLike[str] | None = None) -> Path:
    """Write a small method that works, to be rewritten: one file in the checkout, or a package of its own.

    Args:
        name: of the method and of its file: lower-case letters, digits and single underscores.
        baseline: in the checkout: into ``baselines/`` instead of ``algorithms/``.
        package: write an installable package into this new folder instead.

    Returns:
        The file, or the folder of the package.

    Raises:
        ConfigError: it is no such name, it is in use, or there is no checkout to write into.
        OutputError: a file cannot be written.
    """
    check_name(name)
    if package is None:
        return _write_in_checkout(name, "baselines" if baseline else "algorithms")
    if baseline:
        raise ConfigError("--baseline chooses a folder of the checkout; it has no meaning with --package")
    return _write_package(name, Path(package))


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
    taken = find_methods().modules.get(name)
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


def _write_in_checkout(name: str, folder: str) -> Path:
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
    return file


def _write_package(name: str, folder: Path) -> Path:
    package = package_name(name)
    if importlib.util.find_spec(package) is not None:
        raise ConfigError(f"a package {package} is installed already; choose another name for the method")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} exists already and is not an empty folder; it is left as it is")
    _write_folder(folder, package_files(name))
    return folder


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
