"""Recorded steps laid out as canonical rows, and what the readers share."""

from __future__ import annotations

import contextlib
import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import pieces
from marlzoo.data.dataset import Bools, Ints
from marlzoo.data.hdf5 import allocate
from marlzoo.errors import DataError, SpecError
from marlzoo.spec import Spec

# What numpy raises on damaged npy files and headers.
NPY_FAULTS = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError),
    *(EOFError, SyntaxError, RecursionError, tokenize.TokenError),
)
# What zipfile raises on damaged zip files.
ZIP_FAULTS = (*NPY_FAULTS, RuntimeError, zipfile.BadZipFile, zlib.error)
Pieces = Iterable[tuple[int, NDArray[Any]]]
MAX_JSON = 16 << 20


@dataclass(frozen=True)
class Layout:
    """Places of N recorded steps in the canonical rows, where an episode of L steps takes L + 1.

    Attributes:
        lasts: last step of each episode ``[E]``, increasing; the last of them is N - 1.
    """

    lasts: Ints

    @classmethod
    def from_ends(cls, ends: Bools) -> Layout:
        """Episodes that end with the marked steps ``[N]``; the last step ends one in any case.

        Raises:
            DataError: there is no step.
        """
        if not len(ends):
            raise DataError("the dataset is empty (no steps); make or fetch it again")
        marked = ends.copy()
        marked[-1] = True
        return cls(np.flatnonzero(marked).astype(np.int64))

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return int(self.lasts[-1]) + 1

    @property
    def rows(self) -> int:
        """Number of canonical rows T = N + E."""
        return self.steps + len(self.lasts)

    @cached_property
    def lengths(self) -> Ints:
        """Steps of each episode ``[E]``."""
        return np.diff(self.lasts, prepend=-1)

    @cached_property
    def starts(self) -> Ints:
        """First row of each episode ``[E]``."""
        return np.append(0, np.cumsum(self.lengths + 1)[:-1]).astype(np.int64)

    @cached_property
    def finals(self) -> Ints:
        """Row of each episode's final observation ``[E]``."""
        return self.starts + self.lengths

    @cached_property
    def row_of(self) -> Ints:
        """Row of each step ``[N]``."""
        episode = np.zeros(self.steps, np.int64)
        episode[self.lasts[:-1] + 1] = 1
        return np.arange(self.steps) + np.cumsum(episode)

    def place(
        self, steps: Pieces, shape: tuple[int, ...], dtype: type[np.generic], final: Any = 0
    ) -> NDArray[Any]:
        """Numbers of the steps, given in pieces, as rows ``[T, *shape]``.

        Args:
            steps: pieces ``(number of the first step, values [k, ...])``; what lies beyond N is left out.
            shape: shape of one row; pieces are brought into it.
            dtype: type of the result.
            final: what the final rows get, ``[E, *shape]`` or one number.
        """
        out = allocate((self.rows, *shape), dtype)
        for begin, values in steps:
            rows = self.row_of[begin : begin + len(values)]
            with np.errstate(over="ignore", invalid="ignore"):  # infinity is named by the dataset's checks
                out[rows] = values[: len(rows)].reshape(len(rows), *shape)
        out[self.finals] = final
        return out

    def place_array(self, steps: NDArray[Any], dtype: type[np.generic], final: Any = 0) -> NDArray[Any]:
        """:meth:`place` for an array ``[N, ...]``."""
        return self.place(pieces(steps), steps.shape[1:], dtype, final)

    def flags(self, episodes: Bools) -> Bools:
        """Rows ``[T]`` in which the last step of the marked episodes ``[E]`` begins."""
        out = np.zeros(self.rows, np.bool_)
        out[self.finals[episodes] - 1] = True
        return out


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give errors of the block the path of what is read."""
    try:
        yield
    except DataError as error:
        text = str(error)
        raise DataError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except SpecError as error:
        raise DataError(f"{path}: its arrays fit no task ({error})") from error


def require(condition: bool, text: str) -> None:
    """Raise a :class:`DataError` with this text unless the condition holds."""
    if not condition:
        raise DataError(text)


def make_spec(**values: Any) -> Spec:
    """A spec from the sizes that a file shows.

    Raises:
        DataError: no task has such sizes.
    """
    try:
        plain: dict[str, Any] = {k: int(v) if isinstance(v, np.integer) else v for k, v in values.items()}
        return Spec(**plain)
    except SpecError as error:
        raise DataError(f"its arrays fit no task ({error})") from error


def read_json(path: Path) -> Any:
    """The values of a JSON file.

    Raises:
        DataError: missing, larger than any such file, or no JSON.
    """
    try:
        require(path.stat().st_size <= MAX_JSON, f"{path.name} has more than {MAX_JSON >> 20} MB")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror}); fetch the data again") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is no valid JSON; fetch the data again") from error


def as_flags(values: NDArray[Any], name: str) -> Bools:
    """An array of 0 and 1 as booleans.

    Raises:
        DataError: with the first other number.
    """
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(f"{name} is {values[place]} at {list(place)}, expected 0 or 1")
    return np.asarray(values == 1)


def as_indices(values: NDArray[Any], name: str) -> Ints:
    """An array of whole numbers as int64.

    Raises:
        DataError: with the first other number.
    """
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    wrong = whole != values
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(f"{name} is {values[place]} at {list(place)}, expected a whole number")
    return whole


def team_reward(reward: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Rewards ``[T, N]`` as ``[T]`` where all agents have the same, and whether they are per agent."""
    if all((piece == piece[:, :1]).all() for _, piece in pieces(reward)):
        return np.ascontiguousarray(reward[:, 0]), False
    return reward, True


def listed(path: Path) -> list[Path]:
    """Entries of a folder that are not hidden, sorted by name.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); check the path") from error
