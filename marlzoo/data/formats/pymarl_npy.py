"""PyMARL's episode buffers as npy files: AlberDICE's folders, and the same arrays in one npz file.

The arrays are those of :mod:`marlzoo.data.formats.pymarl`, ``obs.npy``, ``actions.npy`` and so on; ``actions_onehot``
is not needed. ``meta.json`` tells how much of the buffer was filled: of ``episodes_in_buffer`` (of ``buffer_size``)
episodes only so many are read. What is assumed about rows and ends stands there, too.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats._steps import (
    read_ends,
    read_json,
    reading,
    require,
    require_horizon,
)
from marlzoo.data.formats.pymarl import KEYS, check_shapes, join_parts, read_part
from marlzoo.data.hdf5 import allocate
from marlzoo.errors import DataError
from marlzoo.system.zipped import NPY_FAULTS, ZIP_FAULTS, read_member

META = "meta.json"
OPTIONAL = ("corrected_terminated",)
_QUALITIES = ("optimal", "mix", "expert", "medium", "random")


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether a folder or an npz file holds most of the arrays, ``filled`` among them; never raises."""
    found = _names(Path(path))
    return "filled" in found and len(found.intersection(KEYS)) >= 5


def read_pymarl_npy(
    path: str | os.PathLike[str],
    *,
    task: str = "",
    horizon: int | None = None,
    final_filled: bool | None = None,
    timeout_is_terminal: bool = False,
    limit_is_terminal: bool = True,
) -> Dataset:
    """Read a folder of npy files, or one npz file.

    Args:
        path: the folder or file.
        task: full task name; default: ``smac/<map>`` where the name is that of a map with these sizes.
        horizon: time limit in steps; default: one less than the rows of an episode.
        final_filled: see :func:`marlzoo.data.formats.pymarl.read_icq`.
        timeout_is_terminal: count time-limit ends as terminal.
        limit_is_terminal: believe terminal flags at exactly the time limit; false reads them as time limits.

    Raises:
        DataError: an array is missing, damaged or does not fit the others.
    """
    path = Path(path)
    with reading(path):
        require_horizon(horizon)
        columns, notes = _columns(path)
        check_shapes(columns)
        part = read_part(columns, horizon, final_filled)
        words = path.stem.lower().replace("-", "_").split("_")
        quality = next((word for word in reversed(words) if word in _QUALITIES), "")
        card = Card(task=task, source="alberdice" if path.is_dir() else "", quality=quality)
        dataset = join_parts([part], [path.name], card, path.stem)
        if notes:
            dataset = dataset.with_notes(*notes)
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


def _names(path: Path) -> set[str]:
    try:
        if path.is_dir():
            return {file.stem for file in path.glob("*.npy") if file.is_file()}
        if not path.is_file() or not zipfile.is_zipfile(path):
            return set()
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except ZIP_FAULTS:
        return set()


def _columns(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The arrays, cut to the episodes that were recorded."""
    require(path.exists(), "no such file or folder; check the path")
    found = _names(path)
    missing = [key for key in KEYS if key not in found]
    require(not missing, f"missing array {', '.join(missing)}; it has {', '.join(sorted(found)) or 'none'}")
    names = [*KEYS, *(name for name in OPTIONAL if name in found)]
    if not path.is_dir():
        try:
            with zipfile.ZipFile(path) as archive:
                size = path.stat().st_size
                return {name: read_member(archive, name, size, allocate=allocate) for name in names}, []
        except DataError:
            raise
        except ZIP_FAULTS as error:
            raise DataError("is cut off or damaged; fetch or make it again") from error
    columns: dict[str, Any] = {name: _mapped(path / f"{name}.npy") for name in names}
    if not (path / META).is_file():
        return columns, []
    recorded = _recorded(path / META)
    size = len(columns["obs"])
    require(1 <= recorded <= size, f"{META} tells of {recorded} episodes in the buffer, which holds {size}")
    note = f"{recorded} of the buffer's {size} episodes were recorded ({META}); the others are left out"
    return {name: array[:recorded] for name, array in columns.items()}, [note] if recorded < size else []


def _mapped(file: Path) -> Any:
    """An array mapped into memory; it takes none before it is used."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except NPY_FAULTS as error:
        raise DataError(f"{file.name} is cut off, damaged or holds objects; fetch it again") from error
    fine = isinstance(array, np.ndarray) and array.ndim > 0 and array.dtype.kind in "fiub"
    require(fine, f"{file.name} does not hold an array of numbers; fetch it again")
    return array


def _recorded(file: Path) -> int:
    values = read_json(file)
    found = values.get("episodes_in_buffer") if isinstance(values, dict) else None
    require(
        isinstance(found, int) and not isinstance(found, bool),
        f"{META} names no episodes_in_buffer; remove it to read all episodes",
    )
    assert isinstance(found, int)
    return found
