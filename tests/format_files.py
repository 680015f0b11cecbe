"""What the tests of dataset formats share: damage to files, and what reading them then gives."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from marlzoo.data.dataset import Dataset
from marlzoo.errors import DataError

Files = dict[str, bytes]
# Which file, where it is cut off, and which bytes become what.
DAMAGE = st.tuples(
    st.integers(0, 1 << 10),
    st.none() | st.integers(0, 1 << 20),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=5),
)
Damage = tuple[int, int | None, list[tuple[int, int]]]
# For tests of random damage: some trials at each run of the tests, more where the environment says so.
TRIALS = int(os.environ.get("MARLZOO_TRIALS", "40"))
damaging = settings(max_examples=TRIALS, deadline=None, derandomize=True)


def contents(path: Path) -> Files:
    """The files of a folder by their relative names; a file alone under the empty name."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {
        str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
    }


def write_damaged(path: Path, files: Files, damage: Damage) -> Path:
    """The files under ``path``, one of them damaged."""
    chosen, cut, changes = damage
    name = sorted(files)[chosen % len(files)]
    data = bytearray(files[name])
    data = data if cut is None else data[: cut % (len(data) + 1)]
    for place, value in changes:
        if data:
            data[place % len(data)] = value
    return write_files(path, files | {name: bytes(data)})


def write_files(path: Path, files: Files) -> Path:
    """The files of :func:`contents` under ``path``, in place of what is there."""
    shutil.rmtree(path, ignore_errors=True)
    for name, data in files.items():
        place = path / name if name else path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return path


def outcome(read: Callable[[], Dataset]) -> Dataset | str:
    """What reading gives: a dataset that was checked, or the one line of its DataError; other errors pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # actions outside the box are allowed to warn
        try:
            dataset = read()
        except DataError as error:
            text = str(error)
            assert "\n" not in text
            return text
        return dataset.validate()


def same(a: Dataset, b: Dataset) -> bool:
    """Whether two datasets have the same spec and numbers."""
    return a.content_hash == b.content_hash


def equal(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
