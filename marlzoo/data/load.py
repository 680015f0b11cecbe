"""Loading of datasets by name or file, and the remedy when one is missing.

A dataset's name is ``family/task/source/quality``, ``mamujoco/hopper-3x1/omiga/medium-replay``. Its file is
``<family>/<task>/<source>/<quality>.hdf5`` under :func:`data_home`; a regenerated one may carry its size and
seed, ``<quality>-n<transitions>-s<seed>.hdf5``, and is found under its plain name where it is the only one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from marlzoo.data.card import Card
from marlzoo.data.catalog import published
from marlzoo.data.computed import computed_qualities, computes, make_dataset
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats import native
from marlzoo.data.home import data_home as data_home
from marlzoo.data.names import SUFFIX, DatasetName, dataset_path, installed, is_name
from marlzoo.data.once import describe_once, identity, load_once
from marlzoo.data.readers import find_reader
from marlzoo.errors import ConfigError, DataError, MissingDataError, UnknownNameError
from marlzoo.spec import Spec

_RECIPES = ("medium-replay", "medium-expert")  # words with a hyphen that are collected, not mixed


def find_dataset(name_or_path: str | os.PathLike[str]) -> Path:
    """The file behind a path or a dataset's name.

    Raises:
        MissingDataError: nothing is there; the text tells where was looked and how to get the dataset.
        DataError: an empty text, no such file, or several datasets of this name.
    """
    text = os.fspath(name_or_path)
    if not text:
        raise DataError("the name of the dataset is empty; give a name family/task/source/quality, or a file")
    path = Path(text).expanduser()
    try:
        path.exists()
    except OSError as error:  # for instance a name longer than the file system allows
        raise DataError(f"{text}: {error.strerror}; check the path") from error
    if path.is_file() or (path.exists() and not (is_name(text) and dataset_path(text).is_file())):
        return path
    if not is_name(text) and (path.suffix or text.startswith((".", "~", "/"))):
        if path.is_symlink():
            raise DataError(f"{text}: is a link that leads to no file; mend the link")
        raise DataError(f"{text}: no such file; check the path")
    file = dataset_path(text)
    if file.is_file():
        return file
    variants = [p for n, p in installed().items() if re.fullmatch(re.escape(text) + r"(-n\d+)?(-s\d+)?", n)]
    if len(variants) > 1:
        task, source, _ = DatasetName.parse(text)
        names = ", ".join(str(DatasetName(task, source, p.name.removesuffix(SUFFIX))) for p in variants)
        raise DataError(f"{text}: several datasets have this name; choose one of {names}")
    if not variants:
        raise MissingDataError(f"{text}: there is no such dataset; looked for {file}. {remedy(text)}")
    return variants[0]


def remedy(name: str) -> str:
    """How to get the dataset ``name``: the command that makes it, or where a fetched file belongs."""
    task, source, quality = DatasetName.parse(name)
    computed = computed_qualities(task)
    if computed:
        if source == "marlzoo" and quality in computed:
            return (
                f"Its data are computed when loaded; write a file with: marlzoo data convert {name} FILE.hdf5"
            )
        names = ", ".join(f"{task}/marlzoo/{each}" for each in computed)
        return f"Data of this task are computed, not stored; their names: {names}"
    mixed = _as_mix(name)
    if mixed:
        return f"Make it with: {mixed}"
    from marlzoo.teachers.offers import how_to_collect, instead  # here: it needs this module, and torch

    collected = how_to_collect(task, quality)
    if source == "marlzoo":
        return f"Make it with: {collected}" if collected else instead(task)
    similar = f"; or make similar data with: {collected}" if collected else ""
    if name not in published():
        return (
            "No published dataset of this name is known (marlzoo data download --list shows all); put a file there, "
            f"or run: marlzoo data convert FILE {name}{similar}"
        )
    return (
        f"It is published data: run: marlzoo data download {name}; or fetch the file by hand from its authors and "
        f"put it there, or run: marlzoo data convert FILE {name}{similar}"
    )


def _as_mix(name: str) -> str:
    """The command that mixes ``name`` in equal shares (good-poor: good and poor), if both parts are known."""
    task, source, quality = DatasetName.parse(name)
    known = set(published()) | set(installed())
    if name in known or re.sub(r"-v\d+$", "", quality) in _RECIPES or "-" not in quality:
        return ""
    if source == "marlzoo":
        from marlzoo.teachers.offers import collectable_qualities  # here: it needs this module, and torch

        known |= {str(DatasetName(task, source, each)) for each in collectable_qualities(task)}
    words = quality.split("-")
    for cut in range(1, len(words)):
        pair = [str(DatasetName(task, source, "-".join(part))) for part in (words[:cut], words[cut:])]
        if all(each in known for each in pair):
            return f"marlzoo data mix {pair[0]}:0.5 {pair[1]}:0.5 --out {name}"
    return ""


def load_dataset(name_or_path: str | os.PathLike[str], **options: Any) -> Dataset:
    """Load a dataset by its name or from a file of any format in :data:`marlzoo.data.readers.READERS`.

    Args:
        name_or_path: ``family/task/source/quality``, or a path. Data of a family that computes its own (see
            :func:`marlzoo.data.computed.make_dataset`) need no file.
        options: of the family's ``dataset``, or of the format's reader, for instance ``timeout_is_terminal`` (see
            :func:`marlzoo.data.formats.native.read_omiga`).

    Raises:
        DataError: missing, damaged, of no known format, or the file under a name is of another task.
        UnknownNameError: an option that the format does not have.
    """
    if is_computed(name_or_path):
        return load_once(
            identity(name_or_path, options, computed=True), lambda: _compute(name_or_path, options)
        )
    path = find_dataset(name_or_path)
    dataset = load_once(identity(path, options, computed=False), lambda: _read(path, options))
    return named(dataset, os.fspath(name_or_path)) if path != Path(name_or_path) else dataset


def is_computed(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether a family computes the dataset of this name, and no file has taken its place."""
    text = os.fspath(name_or_path)
    if not is_name(text) or dataset_path(text).is_file() or Path(text).expanduser().exists():
        return False
    name = DatasetName.parse(text)
    return name.source == "marlzoo" and computes(name.task)


def _compute(name: str | os.PathLike[str], options: dict[str, Any]) -> Dataset:
    task, _, quality = DatasetName.parse(os.fspath(name))
    made = make_dataset(task, quality, **options)
    assert made is not None  # its family computes data
    return made


def _read(path: Path, options: dict[str, Any]) -> Dataset:
    reader = find_reader(path)
    known = reader.options
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option for reading {reader.name}", option, known)
    return reader.read(path, **options)


def named(dataset: Dataset, name: str) -> Dataset:
    """The dataset with what its card leaves open taken from its name."""
    if not is_name(name):
        return dataset
    task, source, quality = DatasetName.parse(name)
    card = dataset.card
    if card.task not in ("", task):
        raise DataError(
            f"{name}: the file is of the task {card.task}; give it the place and name of that task"
        )
    return dataset.with_card(
        replace(card, task=task, source=card.source or source, quality=card.quality or quality)
    )


def read_card(name_or_path: str | os.PathLike[str], **options: Any) -> Card:
    """A dataset's card; see :func:`read_description`."""
    return read_description(name_or_path, **options)[1]


def read_description(name_or_path: str | os.PathLike[str], **options: Any) -> tuple[Spec, Card]:
    """A dataset's spec and card, without its arrays where the file is a native one.

    Args:
        name_or_path: as in :func:`load_dataset`.
        options: of data that are computed.

    Raises:
        DataError: missing, damaged, or of no known format.
        UnknownNameError: an option that does not exist.
    """
    if is_computed(name_or_path):
        key = identity(name_or_path, options, computed=True)
        return describe_once(key, lambda: None, lambda: _compute(name_or_path, options))
    path = find_dataset(name_or_path)

    def header() -> tuple[Spec, Card] | None:
        has_header = not options and find_reader(path).read is native.read_omiga
        return native.read_header(path) if has_header else None

    return describe_once(identity(path, options, computed=False), header, lambda: _read(path, options))


def require_free(path: Path, recipe: Mapping[str, Any], force: bool) -> None:
    """Refuse to write over anything but a dataset that the same recipe made, which then is made again.

    Args:
        path: that is about to be written.
        recipe: that is to go into its card.
        force: write over anything.

    Raises:
        ConfigError: something else is there.
    """
    if force or not path.exists():
        return
    there: Mapping[str, Any] | None = None
    with contextlib.suppress(DataError):  # of no use as a dataset, and yet perhaps of use
        there = read_card(path).recipe
    if there != json.loads(json.dumps(recipe)):  # cards keep lists, no tuples
        raise taken(path)


def taken(path: Path) -> ConfigError:
    """The error that something is there that is not to be lost."""
    # What else lies in a folder is not known, so that none is replaced.
    remedy = "remove it" if path.is_dir() else "replace it with --force (force=True in Python)"
    return ConfigError(f"{path}: exists already and is left as it is; choose another name, or {remedy}")


def typed_options(source: str | os.PathLike[str], texts: Sequence[str]) -> dict[str, Any]:
    """Options ``KEY=VALUE`` of the source's reader with values of the types that it declares.

    Raises:
        ConfigError: not of this form, a value of another type, or the source is computed.
        DataError: the source is missing or of no known format.
        UnknownNameError: an option that the format does not have.
    """
    if not texts:
        return {}
    if is_computed(source):
        raise ConfigError(
            f"{os.fspath(source)}: computed data are not read and have no reading options; leave out --option"
        )
    reader = find_reader(find_dataset(source))
    known = reader.options
    options: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"option {text!r}: write it as NAME=VALUE")
        if name not in known:
            raise UnknownNameError(f"option for reading {reader.name}", name, known)
        options[name] = _typed(name, value, str(known[name].annotation))
    return options


def _typed(name: str, value: str, kind: str) -> Any:
    if "bool" in kind:
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"option {name} must be true or false, not {value!r}")
        return value.lower() == "true"
    if "Sequence[int]" in kind:
        try:
            return tuple(int(each) for each in value.split(","))
        except ValueError as error:
            raise ConfigError(
                f"option {name} must be whole numbers separated by commas, not {value!r}"
            ) from error
    if "int" in kind:
        try:
            return int(value)
        except ValueError as error:
            raise ConfigError(f"option {name} must be a whole number, not {value!r}") from error
    return value
