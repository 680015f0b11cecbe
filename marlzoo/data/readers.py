"""Readers of dataset formats, and the choice of the one that fits a file."""

from __future__ import annotations

import contextlib
import inspect
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from marlzoo.data.dataset import Dataset
from marlzoo.data.formats import d4rl, minari, native, npz, omar, pymarl, pymarl_npy, smac_episodes, vault
from marlzoo.data.formats._steps import visible_entries
from marlzoo.data.hdf5 import is_hdf5, keys, open_hdf5, user_block
from marlzoo.data.names import SUFFIX
from marlzoo.errors import DataError, PluginError
from marlzoo.plugins import FORMATS, entries
from marlzoo.system.zipped import ZIP_FAULTS


@dataclass(frozen=True)
class Reader:
    """A format: ``sniff(path)`` tells cheaply whether a file is of it, ``read(path, **options)`` reads."""

    name: str
    sniff: Callable[[str | os.PathLike[str]], bool]
    read: Callable[..., Dataset]

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """What ``read`` takes behind the path, by name."""
        return dict(list(inspect.signature(self.read).parameters.items())[1:])


# marlzoo's own, asked in this order; those of other packages are asked behind them, see readers().
READERS: list[Reader] = [
    Reader("OMIGA or native HDF5", native.sniff, native.read_omiga),
    Reader("OG-MARL Vault", vault.sniff, vault.read_vault),
    Reader("Minari", minari.sniff, minari.read_minari),
    Reader("OMAR npy folder", omar.sniff, omar.read_omar),
    Reader("CFCQL or offpymarl HDF5", pymarl.sniff_cfcql, pymarl.read_cfcql),
    Reader("ICQ-MA HDF5", pymarl.sniff_icq, pymarl.read_icq),
    Reader("AlberDICE npy folder or PyMARL npz", pymarl_npy.sniff, pymarl_npy.read_pymarl_npy),
    Reader("D4RL or MOMA-PPO", d4rl.sniff, d4rl.read_d4rl),
    Reader("npz", npz.sniff, npz.read_npz),
    Reader("OMIGA or MADT SMAC episodes", smac_episodes.sniff, smac_episodes.read_smac_episodes),
]


def readers() -> Iterator[Reader]:
    """All formats that are read: marlzoo's own, then those of other packages.

    An entry point ``name = "module"`` of the group ``marlzoo.formats`` names a module with ``sniff`` and ``read``. It
    is imported when no reader before it takes a file.

    Raises:
        PluginError: the module cannot be imported, or lacks one of the two.
    """
    yield from READERS
    for entry in entries(FORMATS):
        try:
            module = entry.load()
            found = Reader(entry.name, module.sniff, module.read)
        except (Exception, SystemExit) as error:  # a foreign module may fail in any way
            raise PluginError(
                f"format {entry.name!r}: loading {entry.value} failed ({type(error).__name__}: {error}); mend its "
                "package or uninstall it"
            ) from error
        yield found


def find_reader(path: str | os.PathLike[str]) -> Reader:
    """The first reader that takes a file.

    Raises:
        DataError: none does.
        PluginError: a format of another package cannot be used.
    """
    place = Path(path)
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise DataError(f"{path}: is neither a file nor a folder (a pipe or a device); copy it into a file")
    for reader in readers():
        if reader.sniff(path):
            return reader
    formats = ", ".join(reader.name for reader in readers())
    raise DataError(
        f"{path}: {_contents(Path(path))}, which is no format known here; known: {formats}. Arrays of your own: save "
        f"them as npz with {', '.join(npz.REQUIRED)}"
    )


def _contents(path: Path, most: int = 8) -> str:
    """What an unknown file or folder holds, in words."""
    if is_hdf5(path) or path.suffix in (SUFFIX, ".h5") or user_block(path):
        with open_hdf5(path) as file:  # a damaged file is named as such
            kind = "HDF5"
            found = keys(file)
    elif path.is_dir():
        kind = "a folder"
        found = [entry.name for entry in visible_entries(path)]
    else:
        kind = "an empty file" if path.is_file() and not path.stat().st_size else "a file"
        found = []
        with contextlib.suppress(*ZIP_FAULTS), zipfile.ZipFile(path) as archive:
            kind = "a zip file"
            found = sorted(archive.namelist())
        if not found:
            return kind
    more = ", ..." if len(found) > most else ""
    return f"{kind} with {', '.join(found[:most]) or 'nothing in it'}{more}"
