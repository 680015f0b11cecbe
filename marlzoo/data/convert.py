"""Writers of dataset formats, and the conversion of one format into another."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marlzoo.data.dataset import Dataset
from marlzoo.data.formats import minari, native, npz
from marlzoo.data.hdf5 import spill
from marlzoo.data.load import find_dataset, load_dataset, named, taken
from marlzoo.data.names import SUFFIX, dataset_path, is_name
from marlzoo.data.readers import find_reader
from marlzoo.errors import ConfigError, DataError, UnknownNameError


@dataclass(frozen=True)
class Writer:
    """A format to write: ``takes(name)`` tells whether a target's name asks for it, ``write`` writes it."""

    takes: Callable[[str], bool]
    write: Callable[[Dataset, Path], Dataset]


def _is_hdf5_name(name: str) -> bool:
    return name.endswith((SUFFIX, ".h5"))


# The first that takes a name is meant by it.
WRITERS: dict[str, Writer] = {
    "native": Writer(_is_hdf5_name, native.write_omiga),
    "omiga": Writer(_is_hdf5_name, native.write_authors),  # refuses what OMIGA's own code cannot use
    "npz": Writer(lambda name: name.endswith(".npz"), npz.write_npz),
    "minari": Writer(lambda name: re.search(r"-v\d+$", name) is not None, minari.write_minari),
}


def find_writer(target: str, form: str = "") -> Writer:
    """The writer named ``form``, or else the one that a target's name asks for.

    Raises:
        UnknownNameError: no such format.
        ConfigError: the name asks for none, or for another one than ``form``.
    """
    meant = [name for name, writer in WRITERS.items() if writer.takes(target)]
    if form:
        if form not in WRITERS:
            raise UnknownNameError("format to write", form, WRITERS)
        if meant and form not in meant:
            raise ConfigError(
                f"{target}: its name asks for {meant[0]}, not {form}; change the name or the format"
            )
        return WRITERS[form]
    if meant:
        return WRITERS[meant[0]]
    raise ConfigError(
        f"{target}: end the file's name in {SUFFIX} (native) or .npz, a Minari folder's in -v0, or "
        "give a dataset's name (family/task/source/quality)"
    )


def save_dataset(
    dataset: Dataset,
    target: str | os.PathLike[str],
    *,
    format: str = "",  # noqa: A002 - the option's name
    force: bool = False,
) -> Path:
    """Write a dataset, in the format that the target's name asks for.

    Args:
        dataset: to write.
        target: a file ending in .hdf5 or .npz, a Minari folder ending in ``-v0``, or a dataset's name
            (``family/task/source/quality``), by which every command then finds it.
        format: ``native``, ``omiga``, ``npz`` or ``minari``; default: as the target's name says.
        force: replace a file that exists; a folder is never replaced.

    Returns:
        The file or folder written.

    Raises:
        ConfigError: the target's name asks for no known format, or it exists; or what is to be written is no dataset.
        DataError: the format cannot hold such data, or the name is of another task.
        OutputError: the target cannot be written.
    """
    if not isinstance(dataset, Dataset):
        raise ConfigError(
            f"save_dataset: the first argument is a {type(dataset).__name__}; the dataset comes first, then the "
            'file: marlzoo.save_dataset(data, "mine.hdf5")'
        )
    path, writer = _target(target, format, force)
    writer.write(named(dataset, os.fspath(target)), path)
    return path


def _target(target: str | os.PathLike[str], form: str, force: bool) -> tuple[Path, Writer]:
    """Where and by what a dataset is written."""
    name = os.fspath(target)
    path = dataset_path(name) if is_name(name) and not form else Path(name).expanduser()
    writer = find_writer(path.name, form)
    if path.exists() and not force:
        raise taken(path)
    return path, writer


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    form: str = "",
    force: bool = False,
    log: Callable[[str], None] | None = None,
    require: Callable[[Dataset], None] | None = None,
    **options: Any,
) -> Path:
    """Read a dataset of any known format and write it in another; numbers are kept as they are.

    Large arrays are kept in unnamed temporary files beside the target, so that a dataset larger than memory can be
    converted (this needs twice its float32 size on the disk).

    Args:
        source: name, file or folder.
        target: file ending in ``.hdf5``, ``.h5`` (native) or ``.npz``, folder for Minari ending in ``-v0``, or a
            dataset's name, whose native file is then written.
        form: format to write, one of :data:`WRITERS`; default: as the target's name says.
        force: replace a file that exists; a folder is never replaced.
        log: called with one line for the source's format and one for each note of its card, such as
            what the reader had to assume.
        require: called with the dataset before anything is written; raises an error to refuse it.
        options: of the source's reader; actions are not clipped unless ``action_clip=True``.

    Returns:
        The file or folder written.

    Raises:
        DataError: the source cannot be read.
        ConfigError: the target's name asks for no known format, or it exists.
        OutputError: the target cannot be written.
    """
    target_path, writer = _target(target, form, force)
    if _present(source) and "action_clip" in find_reader(find_dataset(source)).options:
        options.setdefault("action_clip", False)
    folder = target_path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    with spill(folder):
        dataset = load_dataset(source, **options)
        if require is not None:
            require(dataset)
        written = writer.write(named(dataset, os.fspath(target)), target_path)
    if log is not None:
        if _present(source):
            log(f"read as {find_reader(find_dataset(source)).name}")
        for note in written.card.notes:
            log(f"note: {note}")
    return target_path


def _present(name_or_path: str | os.PathLike[str]) -> bool:
    try:
        return find_dataset(name_or_path).exists()
    except DataError:
        return False
