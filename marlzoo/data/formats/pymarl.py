"""Episode batches of the PyMARL family in one HDF5 file: ICQ-MA's, CFCQL's and the parts of offpymarl.

Root arrays, E episodes, horizon H, T = H + 1 rows each, N agents, A actions:

=================== ==================================================================================
``obs``             ``[E, T, N, O]``
``state``           ``[E, T, S]``
``actions``         ``[E, T, N, 1]`` integers
``avail_actions``   ``[E, T, N, A]`` 1 where an action is legal
``reward``          ``[E, T, 1]`` of the team
``terminated``      ``[E, T, 1]`` 1 on the last step of an episode that really ended
``filled``          ``[E, T, 1]`` 1 on recorded rows, 0 on padding
=================== ==================================================================================

Row t holds what was seen before step t and what the step gave; the row after the last step holds the final
observation only. ICQ-MA adds ``actions_onehot``; CFCQL adds ``probs`` of the behavior policy; offpymarl splits
a dataset into ``part_<k>.h5`` and puts the true terminal flags into ``corrected_terminated``. PyMARL leaves the flag
at the time limit out only for environments that report it (``episode_limit``); for others, read with
``limit_is_terminal=False``.

Assumed: the final row of an episode is among the filled ones, unless ``terminated`` on the last filled row
shows that it is not; then it is the row below, or the last one again where the array ends there. An episode of
exactly ``horizon`` steps without a terminal flag was ended by the time limit, a shorter one was cut.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Bools, Episodes, Ints
from marlzoo.data.formats._steps import (
    as_flags,
    as_indices,
    converted_rows,
    make_spec,
    places,
    read_ends,
    reading,
    require,
    require_horizon,
    row_pieces,
    visible_entries,
)
from marlzoo.data.hdf5 import allocate, column, is_hdf5, keys, open_hdf5
from marlzoo.envs._smac_maps import FLAVORS, MAPS
from marlzoo.errors import DataError
from marlzoo.spec import Spec

KEYS = ("obs", "state", "actions", "avail_actions", "reward", "terminated", "filled")
_PART = re.compile(r"part_(\d+)\.h5")
_CFCQL_NAME = re.compile(r"(?P<map>.+?)_(?P<quality>medium_replay|medium|expert|mixed)")
_SMAC = "StarCraft II behind SMAC"


@dataclass(frozen=True)
class _RecordedEpisodes:
    """Episode boundaries among canonical rows, terminal flags ``[E]``, and whether final rows were recorded."""

    spans: Episodes
    terminal: Bools
    final_filled: bool


@dataclass(frozen=True)
class FileEpisodes:
    """Episodes of one file: spec, arrays, steps of each episode ``[E]``, key of the terminal flags, notes."""

    spec: Spec
    arrays: dict[str, NDArray[Any]]
    lengths: Ints
    flag: str
    notes: tuple[str, ...]


def sniff_icq(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds PyMARL episodes without probabilities of the behavior (ICQ-MA's)."""
    return "filled" in _keys(path) and "probs" not in _keys(path) and not Path(path).is_dir()


def sniff_cfcql(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds PyMARL episodes with them (CFCQL's), or a folder parts of such a file."""
    folder = Path(path)
    if folder.is_dir():
        return any(_PART.fullmatch(place.name) for place in folder.glob("part_*.h5"))
    found = _keys(path)
    return "filled" in found and bool({"probs", "corrected_terminated"} & found)


def read_icq(
    path: str | os.PathLike[str],
    *,
    task: str = "",
    horizon: int | None = None,
    final_filled: bool | None = None,
    timeout_is_terminal: bool = False,
    limit_is_terminal: bool = True,
) -> Dataset:
    """Read ICQ-MA's ``<map>.h5``.

    Args:
        path: the file.
        task: full task name; default: ``smac/<map>`` where the file's name is that of a map with these sizes.
        horizon: time limit in steps; default: one less than the rows of an episode.
        final_filled: whether filled rows include the final observation; default: what the terminal flags show,
            else yes.
        timeout_is_terminal: count time-limit ends as terminal.
        limit_is_terminal: believe terminal flags at exactly the time limit; false reads them as time limits.

    Raises:
        DataError: the file is missing, damaged, lacks a key or has a wrong shape or value.
    """
    path = Path(path)
    dataset = _read([path], Card(task=task, source="icq"), path.stem, horizon, final_filled)
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


def read_cfcql(
    path: str | os.PathLike[str],
    *,
    task: str = "",
    horizon: int | None = None,
    final_filled: bool | None = None,
    timeout_is_terminal: bool = False,
    limit_is_terminal: bool = True,
) -> Dataset:
    """Read CFCQL's ``<map>_<quality>.h5``, or a folder of offpymarl's ``part_<k>.h5``.

    The recorded probabilities of the behavior policy have no place in a canonical dataset and are left out.

    Args:
        path: the file or folder.
        task: full task name; default: ``smac/<map>`` where the file's name is that of a map with these sizes.
        horizon: see :func:`read_icq`.
        final_filled: see :func:`read_icq`.
        timeout_is_terminal: see :func:`read_icq`.
        limit_is_terminal: see :func:`read_icq`.

    Raises:
        DataError: a file is missing, damaged, lacks a key or has a wrong shape or value.
    """
    path = Path(path)
    name = _CFCQL_NAME.fullmatch(path.stem)
    quality = name["quality"].replace("_", "-") if name else ""
    card = Card(task=task, source="cfcql", quality=quality)
    dataset = _read(_files(path), card, name["map"] if name else "", horizon, final_filled)
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


def _keys(path: str | os.PathLike[str]) -> set[str]:
    if not is_hdf5(path):
        return set()
    try:
        with open_hdf5(path) as file:
            found = set(keys(file))
    except DataError:
        return set()
    return found if len(found.intersection(KEYS)) >= 5 else set()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    with reading(path):
        parts = {int(m[1]): place for place in visible_entries(path) if (m := _PART.fullmatch(place.name))}
        require(bool(parts), "holds no part_<k>.h5; give the folder that does")
    return [parts[k] for k in sorted(parts)]


def _read(
    files: list[Path], card: Card, scenario: str, horizon: int | None, final_filled: bool | None
) -> Dataset:
    where = files[0] if len(files) == 1 else files[0].parent
    with reading(where):
        require_horizon(horizon)
    parts = []
    for place in files:
        with open_hdf5(place) as file:
            parts.append(read_part(_columns(file), horizon, final_filled))
    with reading(where):
        return join_parts(parts, [place.name for place in files], card, scenario)


def join_parts(parts: list[FileEpisodes], names: list[str], card: Card, scenario: str) -> Dataset:
    """The dataset of the parts, in their order.

    Args:
        parts: what :func:`read_part` made of each file.
        names: of the files.
        card: what is known besides.
        scenario: the map of SMAC that the source's name suggests; believed where the sizes are that map's.

    Raises:
        DataError: the parts differ, or hold wrong values.
    """
    spec = parts[0].spec
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    require(all(part.spec == spec for part in parts), "its parts differ in their sizes")
    flags = [part.flag for part in parts]
    other = next((k for k, flag in enumerate(flags) if flag != flags[0]), 0)
    require(
        not other,
        f"{names[0]} marks ends by {flags[0]}, {names[other]} by {flags[other]}; fetch the parts again",
    )
    arrays: dict[str, Any] = {
        name: np.concatenate([part.arrays[name] for part in parts])
        if len(parts) > 1
        else parts[0].arrays[name]
        for name in parts[0].arrays
    }
    episodes = Episodes.from_lengths(np.concatenate([part.lengths for part in parts]))
    firsts = np.cumsum([0, *(len(part.lengths) for part in parts)])  # first episode of each part

    def place(row: int) -> str:
        episode, step = episodes.of_row(row)
        part = int(np.searchsorted(firsts, episode, side="right")) - 1
        file = f"{names[part]}, " if len(names) > 1 else ""
        return f"{file}episode {episode - int(firsts[part])}, step {step}"

    if _is_map(scenario, spec):
        card = replace(card, task=card.task or f"smac/{scenario}", engine=_SMAC)
        notes.append(f"the map is taken from the name {scenario}, whose sizes these are")
    with places(place):
        return Dataset.create(spec, **arrays, starts=episodes.starts, card=replace(card, notes=tuple(notes)))


def _is_map(scenario: str, spec: Spec) -> bool:
    """Whether a name is that of a map of SMAC, and the sizes are those of its observations."""
    found = MAPS.get(scenario)
    if found is None or (found.allies, found.actions) != (spec.n_agents, spec.action_size):
        return False
    return spec.obs_size in {
        found.obs_size(flavor) + extra for flavor in FLAVORS for extra in (0, found.allies)
    }


def read_part(columns: dict[str, Any], horizon: int | None, final_filled: bool | None) -> FileEpisodes:
    """The episodes of one file.

    Args:
        columns: its arrays by key, in memory or in an HDF5 file, as :func:`check_shapes` lets them pass.
        horizon: see :func:`read_icq`.
        final_filled: see :func:`read_icq`.
    """
    limit = horizon or columns["obs"].shape[1] - 1
    filled = as_flags(_whole(columns["filled"])[..., 0], "filled")
    flag = "corrected_terminated" if "corrected_terminated" in columns else "terminated"
    terminated = as_flags(_whole(columns[flag])[..., 0], flag)
    episodes = _episodes(filled, terminated, final_filled)
    _, _, agents, obs_size = columns["obs"].shape
    spec = make_spec(
        n_agents=agents,
        obs_size=obs_size,
        state_size=columns["state"].shape[2],
        action_kind="discrete",
        action_size=columns["avail_actions"].shape[3],
        horizon=limit,
    )
    arrays = {
        "obs": _rows(columns, "obs", episodes, np.float32),
        "state": _rows(columns, "state", episodes, np.float32),
        "action": _rows(columns, "actions", episodes, np.int64, as_indices)[..., 0],
        "reward": _rows(columns, "reward", episodes, np.float32)[..., 0],
        "action_mask": _rows(columns, "avail_actions", episodes, np.bool_, as_flags),
    }
    spans = episodes.spans
    arrays["terminal"] = spans.at_last_step(episodes.terminal)
    arrays["truncated"] = spans.at_last_step(~episodes.terminal & (spans.lengths == limit))
    notes = [
        f"{flag} marks real ends; episodes of exactly {limit} steps without it are read as ended by the time "
        "limit, shorter ones as cut"
    ]
    if not episodes.final_filled:
        notes.append("filled rows do not include the final observation, which is the row below them")
    _open_masks(arrays["action_mask"], spans.ends, notes)
    return FileEpisodes(spec, arrays, spans.lengths, flag, tuple(notes))


def _open_masks(action_mask: Bools, finals: Ints, notes: list[str]) -> None:
    """Every action legal in final rows whose mask was not recorded; no action is taken there."""
    empty: NDArray[Any] = np.logical_not(action_mask[finals].any(axis=2))
    if empty.any():
        action_mask[finals] |= empty[..., None]
        notes.append(f"{int(empty.any(axis=1).sum())} final rows had no mask; every action is legal there")


def _columns(file: h5py.File) -> dict[str, Any]:
    found = keys(file)
    missing = [key for key in KEYS if key not in found]
    require(not missing, f"missing key {', '.join(missing)}; the file has {', '.join(found) or 'no keys'}")
    names = [*KEYS, *(["corrected_terminated"] if "corrected_terminated" in found else [])]
    columns: dict[str, Any] = {name: column(file, name, "fiub") for name in names}
    check_shapes(columns)
    return columns


def check_shapes(columns: dict[str, Any]) -> None:
    """Refuse arrays that are not those of one batch of episodes.

    Raises:
        DataError: with the first array that does not fit.
    """
    require(columns["obs"].ndim == 4, f"obs has shape {columns['obs'].shape}, expected (E, T, N, O)")
    episodes, rows, agents, _ = columns["obs"].shape
    require(episodes > 0 and rows > 1, "the dataset is empty (no episodes); make or fetch it again")
    tails: dict[str, tuple[int | None, ...]] = {
        "state": (None,),
        "actions": (agents, 1),
        "avail_actions": (agents, None),
    }
    for name, array in columns.items():
        if name == "obs":
            continue
        wanted = (episodes, rows, *tails.get(name, (1,)))
        fits = array.ndim == len(wanted) and all(
            w in (None, n) for w, n in zip(wanted, array.shape, strict=True)
        )
        require(fits, f"{name} has shape {array.shape}, which does not fit obs {columns['obs'].shape}")


def _episodes(filled: Bools, terminated: Bools, final_filled: bool | None) -> _RecordedEpisodes:
    """Lengths from the filled rows ``[E, T]``, which begin with the episode and have no gaps."""
    count = filled.sum(axis=1)
    gap = (filled != (np.arange(filled.shape[1]) < count[:, None])).any(axis=1)
    require(not gap.any(), f"filled has a gap in episode {int(np.argmax(gap))}")
    terminated = terminated & filled
    last = np.where(terminated.any(axis=1), np.argmax(terminated, axis=1), -1)
    if final_filled is None:
        on_last = (last >= 0) & (last == count - 1)
        before = (last >= 0) & (last == count - 2)
        mixed = on_last.any() and before.any()
        require(not mixed, "terminated contradicts filled; say with the option final_filled which rows count")
        final_filled = not on_last.any()
    lengths = count - final_filled
    wrong = (last >= 0) & (last != lengths - 1)
    require(not wrong.any(), f"terminated is not on the last step of episode {int(np.argmax(wrong))}")
    require(bool((lengths > 0).all()), f"episode {int(np.argmin(lengths))} has no step; leave it out")
    return _RecordedEpisodes(Episodes.from_lengths(lengths), last >= 0, final_filled)


def _whole(array: Any) -> NDArray[Any]:
    return np.concatenate([converted_rows(array, part, np.float64) for part in row_pieces(array)])


def _rows(
    columns: dict[str, Any],
    name: str,
    episodes: _RecordedEpisodes,
    dtype: type[np.generic],
    convert: Callable[[NDArray[Any], str, int], NDArray[Any]] | None = None,
) -> NDArray[Any]:
    """The recorded rows ``[T, ...]`` of an array ``[E, rows, ...]``, read and converted in pieces."""
    array = columns[name]
    out = allocate((episodes.spans.rows, *array.shape[2:]), dtype)
    place = 0
    rows = np.arange(array.shape[1] + 1)
    for part in row_pieces(array):
        values = converted_rows(array, part, np.float64 if convert else dtype)
        if not episodes.final_filled:  # an episode may fill the array; its last row stands for the final one
            values = np.concatenate([values, values[:, -1:]], axis=1)
        kept = rows[: values.shape[1]] <= episodes.spans.lengths[part, None]
        if convert:
            values[~kept] = 0  # whatever the padding holds
            values = convert(values, f"{name} [episode, step, ...]", part.start)
        taken = values[kept]
        out[place : place + len(taken)] = taken
        place += len(taken)
    return out
