"""Dataset names, their parts, and their files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from marlzoo.data.home import data_home as data_home
from marlzoo.errors import DataError

SUFFIX = ".hdf5"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class DatasetName(NamedTuple):
    """A dataset's name, ``family/task/source/quality``, in its parts; ``str`` puts them together again.

    Args:
        task: full name of the task, ``family/name``.
        source: who made the data, for instance ``omiga``.
        quality: for instance ``medium-replay``.
    """

    task: str
    source: str
    quality: str

    @classmethod
    def parse(cls, text: str) -> DatasetName:
        """The parts of a dataset's name.

        Raises:
            DataError: no such form of a name.
        """
        if not is_name(text):
            raise DataError(
                f"{text!r} is neither a file nor a dataset's name; names look like family/task/source/quality, "
                "for instance mamujoco/hopper-3x1/marlzoo/expert"
            )
        return cls(*text.rsplit("/", 2))

    def __str__(self) -> str:
        return "/".join(self)


def is_name(text: str) -> bool:
    """Whether a text has the form of a dataset's name."""
    parts = text.split("/")
    return (
        len(parts) == 4
        and all(_PART.fullmatch(p) for p in parts)
        and not text.endswith((SUFFIX, ".h5", ".npz"))
    )


def dataset_path(name: str, *, transitions: int | None = None, seed: int | None = None) -> Path:
    """The file of the dataset ``name``, whether it exists or not.

    Args:
        name: ``family/task/source/quality``.
        transitions: number of transitions, where the file's name tells it.
        seed: seed of the collection, where the file's name tells it.

    Raises:
        DataError: no such form of a name.
    """
    parts = DatasetName.parse(name)
    size = "" if transitions is None else f"-n{transitions}"
    start = "" if seed is None else f"-s{seed}"
    return data_home() / parts.task / parts.source / f"{parts.quality}{size}{start}{SUFFIX}"


def installed() -> dict[str, Path]:
    """Datasets that are there: ``name -> file``, sorted by name; the files are not opened."""
    home = data_home()
    files = (file for file in home.glob(f"*/*/*/*{SUFFIX}") if not file.name.startswith("."))
    return dict(sorted((file.relative_to(home).as_posix().removesuffix(SUFFIX), file) for file in files))
