"""Recorded steps as canonical rows, and helpers shared by the readers."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import pieces
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Bools, Episodes, Ints
from marlzoo.data.hdf5 import allocate, read_rows, row_slices
from marlzoo.data.validation import places as places
from marlzoo.errors import DataError, SpecError
from marlzoo.spec import Spec

Pieces = Iterable[tuple[int, NDArray[Any]]]
MAX_JSON = 16 << 20
# From this share of episodes on, terminal ends at exactly the time limit are spoken of.
VISIBLE_SHARE = 0.01


class Layout(Episodes):
    """Episodes whose recorded steps are placed in rows."""

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
            rows = self.step_rows[begin : begin + len(values)]
            with np.errstate(over="ignore", invalid="ignore"):  # infinity is named by the dataset's checks
                out[rows] = values[: len(rows)].reshape(len(rows), *shape)
        out[self.ends] = final
        return out

    def place_array(self, steps: NDArray[Any], dtype: type[np.generic], final: Any = 0) -> NDArray[Any]:
        """:meth:`place` for an array ``[N, ...]``."""
        return self.place(pieces(steps), steps.shape[1:], dtype, final)


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


def step_place(episodes: Episodes, row: int, steps: Ints | None = None) -> str:
    """A canonical row as the row of a source with one row per step.

    Args:
        episodes: of the canonical rows.
        row: the row.
        steps: the source's row of each step, where some are left out.
    """
    episode, _ = episodes.of_row(row)
    final = row == int(episodes.ends[episode])
    step = row - episode - final
    step = step if steps is None else int(steps[step])
    return f"row {step}" + (" (the observation after it)" if final else "")


def episode_place(episodes: Episodes, row: int, episode: str = "episode {}") -> str:
    """A canonical row as its episode, counted from 0 and named by a pattern, and step."""
    number, step = episodes.of_row(row)
    return f"{episode.format(number)}, step {step}"


def row_pieces(array: Any) -> Iterator[slice]:
    """Consecutive rows of an array in memory or in an HDF5 file, a few mebibytes at a time."""
    if not isinstance(array, np.ndarray):
        yield from row_slices(array)
        return
    for begin, piece in pieces(array):
        yield slice(begin, begin + len(piece))


def converted_rows(array: Any, rows: slice, dtype: type[np.generic]) -> NDArray[Any]:
    """Some rows of such an array as ``dtype``; numbers too large become infinite, which the checks then name."""
    if not isinstance(array, np.ndarray):
        return read_rows(array, rows, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array[rows]).astype(dtype, copy=False)


def require(condition: bool, text: str) -> None:
    """Raise a :class:`DataError` with this text unless the condition holds."""
    if not condition:
        raise DataError(text)


def require_horizon(horizon: int | None) -> None:
    """Refuse a time limit that is no positive number of steps; None stands for the reader's default."""
    require(
        horizon is None or horizon >= 1,
        f"the option horizon is {horizon}; it must be a positive number of steps",
    )


def read_ends(dataset: Dataset, *, timeout_is_terminal: bool, limit_is_terminal: bool = True) -> Dataset:
    """A dataset with the ends of its episodes read as asked for.

    Args:
        dataset: as its source flags the ends.
        timeout_is_terminal: count time-limit ends as terminal.
        limit_is_terminal: believe terminal flags at exactly the time limit; else they are time limits. Where many
            episodes have them, a note of the card says so.
    """
    count = int(dataset.terminal_at_limit.sum())
    horizon = dataset.spec.horizon
    foreign = not dataset.card.content_hash  # what was written here has been spoken of
    if not limit_is_terminal:
        dataset = dataset.limits_as_truncations()
    elif foreign and horizon > 1 and count > 1 and count >= VISIBLE_SHARE * dataset.episodes:
        note = (
            f"{count} of {dataset.episodes} episodes end with a terminal flag after exactly {horizon} "
            "steps; where these are time limits, read them with the option limit_is_terminal=false"
        )
        dataset = dataset.with_notes(note)
    return dataset.timeouts_as_terminals() if timeout_is_terminal else dataset


def count_actions(action: NDArray[Any], action_mask: NDArray[Any] | None, given: int | None) -> int:
    """The number of discrete actions: as given, else the mask's, else as many as the largest one taken shows."""
    shown = action_mask.shape[-1] if action_mask is not None else int(action.max(initial=0)) + 1
    if given is None:
        return shown
    fine = given == shown or (action_mask is None and given > shown)
    require(fine, f"the option actions is {given}, but the data show {shown}")
    return given


def full_masks(spec: Spec, rows: int) -> Bools:
    """Masks ``[T, N, A]`` of a task in which every agent may always take all its actions."""
    return np.broadcast_to(spec.own_actions, (rows, *spec.own_actions.shape)).copy()


def require_discrete(spec: Spec, *, actions: int | None = None, action_mask: str = "") -> None:
    """Refuse options about discrete actions where actions are continuous, for which they mean nothing."""
    for option, given in (("actions", actions is not None), ("action_mask", bool(action_mask))):
        require(
            spec.discrete or not given,
            f"the option {option} is about discrete actions, but the actions are continuous numbers; leave it out, "
            "or save the actions as integers",
        )


def require_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that an option does not have."""
    known = " or ".join(choice or "empty" for choice in choices)
    require(value in choices, f"the option {option} is {value!r}; it must be {known}")


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
        require(path.is_file() or not path.exists(), f"{path.name} is not a file; fetch the data again")
        require(path.stat().st_size <= MAX_JSON, f"{path.name} has more than {MAX_JSON >> 20} MB")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror}); fetch the data again") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is no valid JSON; fetch the data again") from error


def as_flags(values: NDArray[Any], name: str, first: int = 0) -> Bools:
    """An array of 0 and 1 as booleans; ``first`` is the number of its first row in the source.

    Raises:
        DataError: with the first other number.
    """
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(f"{name} is {values[place]} at {[place[0] + first, *place[1:]]}, expected 0 or 1")
    return np.asarray(values == 1)


def as_indices(values: NDArray[Any], name: str, first: int = 0) -> Ints:
    """An array of whole numbers as int64; ``first`` is the number of its first row in the source.

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
        raise DataError(
            f"{name} is {values[place]} at {[place[0] + first, *place[1:]]}, expected a whole number"
        )
    return whole


def team_reward(reward: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Rewards ``[T, N]`` as ``[T]`` where all agents have the same, and whether they are per agent."""
    if all((piece == piece[:, :1]).all() for _, piece in pieces(reward)):
        return np.ascontiguousarray(reward[:, 0]), False
    return reward, True


def is_litter(name: str) -> bool:
    """Whether a path is one of the metadata files that macOS adds to archives."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith("._") for part in parts)


def visible_entries(path: Path) -> list[Path]:
    """Entries of a folder that are not hidden and no litter, sorted by name.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return sorted(
            entry for entry in path.iterdir() if not (entry.name.startswith(".") or is_litter(entry.name))
        )
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); check the path") from error
