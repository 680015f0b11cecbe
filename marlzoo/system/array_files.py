"""Arrays and a JSON text in one ``.npz``; written atomically, read without unpickling.

Not safetensors: npz keeps every bit in one file as well, and finds damage by a checksum of every array.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.errors import CheckpointError, DataError
from marlzoo.system.files import atomic_write, sealed, unsealed
from marlzoo.system.zipped import ZIP_FAULTS, read_member

FORMAT = "marlzoo-checkpoint-3"


def save_arrays(path: str | Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write arrays and plain metadata to ``path``; a kill at any moment leaves the old file or the new one.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    described = sealed({"format": FORMAT, "arrays": sorted(arrays), **meta})
    text = np.frombuffer(json.dumps(described, sort_keys=True).encode(), dtype=np.uint8)
    with atomic_write(Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **{"meta": text, **arrays})


def load_arrays(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Inverse of :func:`save_arrays`.

    Raises:
        CheckpointError: the file is missing, truncated, or no checkpoint.
    """
    return _load(Path(path), whole=True)


def load_description(path: str | Path) -> dict[str, Any]:
    """The plain values of a file alone; its arrays are not read.

    Raises:
        CheckpointError: as for :func:`load_arrays`.
    """
    return _load(Path(path), whole=False)[1]


def _load(path: Path, *, whole: bool) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint; check the path (a run's folder, results/NAME, will do)"
        )
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as stored:
            listed = [name.removesuffix(".npy") for name in stored.namelist()]
            names = listed if whole else ["meta"]
            arrays = {name: read_member(stored, name, size, kinds="fiub", any_order=True) for name in names}
        meta = json.loads(arrays.pop("meta").tobytes())
        meta = unsealed(meta, "its description") if isinstance(meta, dict) else None
    except (DataError, *ZIP_FAULTS) as error:
        # Another file, such as a dataset, must not be deleted.
        remedy = "delete it or give another" if path.suffix == ".npz" else "name a file ending in .npz"
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({error or type(error).__name__}); {remedy}"
        ) from error
    told = meta.get("arrays") if meta else None
    if whole and told is not None and told != sorted(arrays):
        lacking = sorted({*map(str, told)} ^ set(arrays))[:3] if isinstance(told, list) else []
        raise CheckpointError(
            f"{path}: not a readable checkpoint (its description and its arrays differ in {', '.join(lacking)}); "
            "delete it or give another"
        )
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format", "none") if isinstance(meta, dict) else "none"
        raise CheckpointError(
            f"{path}: its format is {found}, this version's is {FORMAT}; delete it, or go on with the version "
            "that wrote it"
        )
    return arrays, meta
