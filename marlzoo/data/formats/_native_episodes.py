"""Episodes and observations of an HDF5 file in OMIGA's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from marlzoo.data.episodes import Bools, Floats, Ints
from marlzoo.data.hdf5 import allocate, read_array, row_reader, row_slices
from marlzoo.errors import DataError


@dataclass(frozen=True)
class Recorded:
    """Where episodes begin ``[E]`` and how they end: flags ``[T]`` of the step taken from a row."""

    starts: Ints
    terminal: Bools
    truncated: Bools
    notes: tuple[str, ...] = ()
    kept: Bools | None = None  # which of the file's rows these are; None: the first ones


def final_rows(column_d: h5py.Dataset) -> Bools:
    """The flag ``d [T]``: which rows carry only a final observation."""
    flag = read_array(column_d, np.float64).reshape(len(column_d))
    wrong = (flag != 0) & (flag != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"d is {flag[row]:g} at row {row}, expected 0 or 1")
    return np.asarray(flag == 1)


def foreign_episodes(done: Bools, horizon: int) -> Recorded:
    """Episodes from the flag alone; see :func:`marlzoo.data.formats.native.read_omiga` for what is assumed."""
    if done.all():
        raise DataError(
            "d is 1 in every row, so that no transition is left; it marks final observations only"
        )
    notes = list[str]()
    kept = None
    lone = done & np.append(True, done[:-1])  # no step leads to it, so that the authors' loader never uses it
    if lone.any():
        row = int(np.argmax(lone))
        kept = ~lone
        notes.append(
            f"{int(lone.sum())} rows with d = 1 that follow no step (the first is row {row}) are left out"
        )
        done = done[kept]
    rows = len(done)
    ends = np.flatnonzero(done)
    if not done[-1]:
        begin = int(ends[-1]) + 1 if len(ends) else 0
        if rows - begin == 1 and len(ends):
            rows = begin
            notes.append(f"the last row ({begin}) begins an episode without a transition and is left out")
        else:
            ends = np.append(ends, rows - 1)
            notes.append(f"the recording was cut in its last episode (from row {begin})")
    starts = np.append(0, ends[:-1] + 1).astype(np.int64)
    recorded = done[ends]
    limit = recorded & (ends - starts == horizon)
    terminal = np.zeros(rows, np.bool_)
    truncated = np.zeros(rows, np.bool_)
    terminal[ends[recorded & ~limit] - 1] = True
    truncated[ends[limit] - 1] = True
    return Recorded(starts, terminal, truncated, tuple(notes), kept)


def native_episodes(columns: dict[str, h5py.Dataset], done: Bools) -> Recorded:
    for name in ("terminal", "truncated"):
        if columns[name].shape != done.shape:
            raise DataError(f"{name} has shape {columns[name].shape}, expected {done.shape}")
    if columns["starts"].ndim != 1:
        raise DataError(f"starts has shape {columns['starts'].shape}, expected one dimension")
    starts = read_array(columns["starts"], np.int64)
    expected = np.append(0, np.flatnonzero(done)[:-1] + 1)
    if not done[-1] or not np.array_equal(starts, expected):
        raise DataError("starts and d disagree about where episodes end; make the file again")
    return Recorded(
        starts, read_array(columns["terminal"], np.bool_), read_array(columns["truncated"], np.bool_)
    )


def observations(o: h5py.Dataset, s: h5py.Dataset) -> tuple[Floats, Floats | None]:
    """Observations ``[T, N, O]`` and states ``[T, S]``; None for states that equal the observations.

    One pass, one copy: states get memory of their own only from the first piece on that differs.
    """
    obs: Floats = allocate(o.shape, np.float32)
    state: Floats | None = None
    linked = s == o
    comparable = s.shape == o.shape
    read_o = row_reader(o)
    read_s = row_reader(s)
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # too large numbers become infinite; checks then name them
        for rows in row_slices(o):
            mine = read_o(rows)
            obs[rows] = mine
            if linked:
                continue
            other = read_s(rows)
            if state is None and not (comparable and _agree(mine, other, obs[rows])):
                state = allocate((len(obs), int(np.prod(s.shape[1:]))), np.float32)
                if comparable:
                    state[: rows.start] = obs[: rows.start].reshape(rows.start, state.shape[1])
            if state is not None:
                state[rows] = other.reshape(len(other), -1)
    return obs, state


def _agree(mine: NDArray[Any], other: NDArray[Any], obs: Floats) -> bool:
    """Whether two pieces hold the same numbers, as they are or as float32."""
    return np.array_equal(mine, other) or np.array_equal(obs, other.astype(np.float32))
