"""What users hand in for a dataset, as arrays: numbers, flags and masks, each checked for what it must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marlzoo.data.arrays import pieces
from marlzoo.errors import DataError

ALONE = " (one agent: N = 1)"
OBS = f"[M, N, O]: steps, agents, entries{ALONE}"
STATE = "[M, S]: steps, entries"
MASK = f"[M, N, A]: steps, agents, actions{ALONE}"
LARGEST = float(np.finfo(np.float32).max)


def numbers(name: str, value: ArrayLike, single: bool = False) -> NDArray[Any]:
    """An array of numbers, or where ``single`` one alone.

    Raises:
        DataError: texts, lists of uneven lengths, entries that are masked or larger than float32 holds, or a tensor
            that PyTorch does not hand out.
    """
    try:
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            raise ValueError("it has masked entries, whose values are not known")
        array = np.asarray(value)
        if array.dtype.kind == "O":
            array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name} is no array of numbers ({error}); give numbers of one shape in every step"
        ) from error
    if array.dtype.kind not in "biufO":
        example = f", such as {array.flat[0]!s:.20}" if array.size else ""
        raise DataError(f"{name} has type {array.dtype}{example}; give numbers")
    if not (array.ndim or single):
        raise DataError(f"{name} is a single number; give one entry per step")
    if array.size and array.dtype.kind == "f" and array.dtype.itemsize > 4:
        _require_float32(name, array)
    return array


def _require_float32(name: str, array: NDArray[Any]) -> None:
    for begin, piece in pieces(array.reshape(len(array) if array.ndim else 1, -1)):
        large = np.isfinite(piece) & (np.abs(piece) > LARGEST)
        if large.any():
            row, column = (int(i) for i in np.argwhere(large)[0])
            raise DataError(
                f"{name} holds {piece[row, column]:g} in step {begin + row}; numbers are kept as float32, which ends "
                f"at {LARGEST:.3g}: scale them"
            )


def with_axes(name: str, value: ArrayLike, axes: str) -> NDArray[Any]:
    """Numbers with as many axes as ``axes`` names, one of :data:`OBS`, :data:`STATE` and :data:`MASK`.

    Raises:
        DataError: another number of axes.
    """
    array = numbers(name, value)
    if array.ndim != axes.partition("]")[0].count(",") + 1:
        raise DataError(f"{name} has shape {array.shape}; for a team it is {axes}")
    return array


def team_or_own(value: ArrayLike) -> NDArray[Any]:
    """Rewards ``[M]``, or per agent ``[M, N]``; a team's may be a column ``[M, 1]``."""
    array = numbers("reward", value)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def zeros_and_ones(name: str, value: ArrayLike, single: bool = False) -> NDArray[np.bool_]:
    """Booleans, or numbers 0 and 1.

    Raises:
        DataError: names the first entry that is neither.
    """
    array = numbers(name, value, single)
    wrong = np.asarray((array != 0) & (array != 1))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f" at {list(place)}" if place else ""
        raise DataError(f"{name} is {array[place]}{where}; give True or False, or 1 or 0")
    return np.asarray(array == 1)


def flags(name: str, value: ArrayLike, steps: int, agents: int) -> NDArray[np.bool_]:
    """One flag per step ``[M]``; of one per agent ``[M, N]`` all must be set: an episode is over when it is for all.

    Raises:
        DataError: another shape, or entries other than 0 and 1.
    """
    if value is None:
        raise DataError(f"{name} is None; give one flag per step, for instance np.zeros({steps}, bool)")
    array = zeros_and_ones(name, value)
    if array.shape == (steps, agents):
        array = np.asarray(array.all(axis=1))
    if array.shape not in ((steps,), (steps, 1)):
        raise DataError(f"{name} has shape {array.shape}; it needs one flag per step, ({steps},)")
    return array.reshape(steps)


def legal(name: str, value: ArrayLike, agents: int | None = None) -> NDArray[np.bool_]:
    """Masks of legal actions ``[M, N, A]``, True where an agent may.

    Raises:
        DataError: another shape, another number of agents, or entries other than 0 and 1.
    """
    array = with_axes(name, value, MASK)
    if agents is not None and array.shape[1] != agents:
        raise DataError(
            f"{name} has shape {array.shape}, which is of {array.shape[1]} agents; obs has {agents}"
        )
    return zeros_and_ones(name, array)


def one_hot_note(actions: Sequence[NDArray[Any]]) -> tuple[str, ...]:
    """What to say where floats look like discrete actions: every agent's have a single 1 and zeros beside it.

    Args:
        actions: of the steps, ``[M, N, A]`` or in parts.
    """
    for part in actions:
        if part.dtype.kind != "f" or part.ndim != 3 or part.shape[2] < 2:
            return ()
        if not (((part == 0) | (part == 1)).all() and (part.sum(axis=2) == 1).all()):
            return ()
    return (
        "actions are floats that look one-hot, and are read as continuous; for discrete ones give integers, "
        "action.argmax(axis=2)",
    )
