"""OMIGA's HDF5 layout, read and written; with a few additions it is also marlzoo's native file.

Root arrays, T rows, N agents:

========== ================= ====================================================================
``o``      ``[T, N, O]``     observations
``s``      ``[T, N, S / N]`` states per agent; a hard link to ``o`` where both are equal; ``[T, S]`` where
                             the state's size is no multiple of N
``a``      ``[T, N, A]``     actions (native files of discrete tasks: ``[T, N, 1]`` integers)
``r``      ``[T, 1]``        team reward (native files with one reward per agent: ``[T, N]``)
``d``      ``[T, 1]``        1 on an episode's last row, which carries only the final observation
========== ================= ====================================================================

Native files add ``terminal`` and ``truncated [T]``, ``starts [E]``, ``action_mask [T, N, A]`` (discrete tasks) and
``marlzoo_header``, the bytes of a JSON text with format version, spec and card. (Not attributes: the HDF5
library crashes on damaged texts of variable length, while bytes are harmless.) OMIGA's own loader ignores the
additions: it takes row k as a transition iff ``d[k] = 0`` and ``k < T - 1``, with next row k + 1 and the
bootstrap masked by ``1 - d[k + 1]``.

Arrays are stored contiguous, aligned and uncompressed unless asked otherwise: they load at the speed of a copy, and
can be mapped: a dataset larger than memory is used from the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats._native_episodes import (
    Recorded,
    final_rows,
    foreign_episodes,
    native_episodes,
    observations,
)
from marlzoo.data.formats._native_layout import (
    FORMAT_VERSION,
    HEADER,
    KEYS,
    columns_of,
    foreign_header,
    header_of,
)
from marlzoo.data.formats._steps import read_ends, require_horizon
from marlzoo.data.hdf5 import (
    create_hdf5,
    is_hdf5,
    keys,
    map_array,
    open_hdf5,
    read_array,
)
from marlzoo.data.home import read_verified, write_verified
from marlzoo.errors import DataError
from marlzoo.spec import Spec
from marlzoo.system.files import atomic_write, sealed
from marlzoo.system.machine import memory_limit

DEFAULT_HORIZON = 1000  # OMIGA's tasks


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like this format (most of its keys are there); never raises."""
    if not is_hdf5(path):
        return False
    try:
        with open_hdf5(path) as file:
            found = set(keys(file))
            return HEADER in found or len(found.intersection(KEYS)) >= 3
    except DataError:
        return False


def read_header(path: str | os.PathLike[str]) -> tuple[Spec, Card] | None:
    """Spec and card of a native file without reading its arrays; None for a file of the authors.

    Raises:
        DataError: the file is missing, damaged, or of a newer format.
    """
    with open_hdf5(path) as file:
        return header_of(file)


def read_omiga(
    path: str | os.PathLike[str],
    *,
    task: str | None = None,
    horizon: int | None = None,
    timeout_is_terminal: bool = False,
    limit_is_terminal: bool = True,
    action_clip: bool = True,
    verify: bool | None = None,
    mapped: bool | None = None,
) -> Dataset:
    """Read an HDF5 file in OMIGA's layout, the authors' or a native one, into one float32 copy.

    A native file may be mapped instead: its pages come into memory when their rows are drawn, and the numbers are the
    same. The first time the whole file is read and its content compared with its hash; this is noted in
    ``$MARLZOO_HOME/verified`` and not repeated until the file's size, time or place changes. A change that keeps all
    of them (a failing disk) then goes unnoticed; ``verify=True`` reads and compares a mapped file every time.

    A file of the authors does not tell terminal ends from time limits: an episode of exactly ``horizon``
    steps is read as ended by the limit, any other as terminal, and rows after the last ``d = 1`` as a
    recording that was cut, whose last row is the final observation. Rows with ``d = 1`` that no step leads to (the
    first row, or one after another such row) are left out, as the authors' loader skips them. The card's notes say
    so.

    Args:
        path: the file.
        task: full task name; default: the file's card, or what an author's file name says.
        horizon: time limit in steps; default: the file's spec, or 1000.
        timeout_is_terminal: count time-limit ends as terminal (OMIGA's reading).
        limit_is_terminal: believe a native file's terminal flags at exactly the time limit; false reads them as time
            limits.
        action_clip: clip continuous actions to [-1, 1]; a warning tells how many lay outside.
        verify: compare a native file's content with the hash in its card; default: of a mapped file where that has
            not been done, of any other always.
        mapped: map the file, which must be a native uncompressed one; default: if its arrays need more than half of
            this machine's memory, where the system tells it.

    Raises:
        DataError: the file is missing, damaged, lacks a key, has a wrong shape or value, or is of another
            task or horizon than asked for. One line names the file, the place in it and the remedy.
    """
    with open_hdf5(path) as file:
        require_horizon(horizon)
        header = header_of(file)
        columns = columns_of(file, native=header is not None)
        if header is None:
            spec, card = foreign_header(Path(path), columns, horizon or DEFAULT_HORIZON)
        else:
            spec, card = header
        if horizon not in (None, spec.horizon):
            raise DataError(f"its horizon is {spec.horizon}, not {horizon}; leave the option horizon out")
        if task is not None and card.task not in ("", task):
            raise DataError(f"it is of the task {card.task}, not of {task}; choose the task's own file")
        card = replace(card, task=task or card.task)
        native = header is not None
        if mapped and not (native and card.content_hash):
            raise DataError(
                "only native files can be mapped into memory; write one with: marlzoo data convert FILE NEW.hdf5"
            )
        if mapped is None:
            mapped = bool(native and card.content_hash) and _nbytes(columns) > memory_limit() / 2
        known = read_verified(Path(path)) if mapped else None
        if known is not None and not verify and known.get("content_hash") == card.content_hash:
            dataset = _verified(columns, spec, card, known, action_clip)
        else:
            done = final_rows(columns["d"])
            episodes = native_episodes(columns, done) if native else foreign_episodes(done, spec.horizon)
            whole = _mapped if mapped else read_array
            dataset = _dataset(
                columns, spec, episodes, card, action_clip, verify is not False or bool(mapped), whole
            )
            if mapped:
                outside = dataset.card.clipped > card.clipped
                hashes = {"clipped_hash": dataset.content_hash} if outside else {}
                write_verified(Path(path), content_hash=card.content_hash, **hashes)
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


def write_omiga(dataset: Dataset, path: str | os.PathLike[str], *, compression: str | None = None) -> Dataset:
    """Write a native file, which OMIGA's own loader reads too. The same dataset gives the same bytes.

    Args:
        dataset: what to write.
        path: the file; an older one is replaced in one step.
        compression: None, ``gzip`` or ``lzf`` (smaller, slower to load).

    Returns:
        The dataset with the card as written, its content hash filled in.

    Raises:
        OutputError: the file cannot be written; nothing is left of it.
    """
    dataset = dataset.with_card(replace(dataset.card, content_hash=dataset.content_hash))
    with atomic_write(path) as temporary, create_hdf5(temporary) as file:
        _fill(file, dataset, compression)
    return dataset


def write_authors(dataset: Dataset, path: str | os.PathLike[str]) -> Dataset:
    """:func:`write_omiga` for a dataset that the authors' own loader and networks can use.

    That loader takes every end of an episode for a terminal one.

    Raises:
        DataError: the layout cannot carry the dataset as the authors understand it; nothing is written.
        OutputError: the file cannot be written; nothing is left of it.
    """
    spec = dataset.spec
    faults = {
        "discrete actions": spec.discrete,
        "one reward per agent": spec.reward_per_agent,
        "agents of different sizes": len({*spec.obs_sizes}) > 1 or len({*spec.action_sizes}) > 1,
        f"a state of {spec.state_size} entries, which do not divide among {spec.n_agents} agents": bool(
            spec.state_size % spec.n_agents
        ),
    }
    wrong = [what for what, found in faults.items() if found]
    if wrong:
        raise DataError(
            f"{dataset.card.title}: OMIGA's HDF5 layout cannot carry {' nor '.join(wrong)}; write a native file with "
            "--format native, which only marlzoo reads"
        )
    return write_omiga(dataset, path)


# ---- reading ---------------------------------------------------------------------------------------------


def _nbytes(columns: dict[str, h5py.Dataset]) -> int:
    linked = columns["s"] == columns["o"]
    return sum(column.nbytes for name, column in columns.items() if not (linked and name == "s"))


def _mapped(array: h5py.Dataset, dtype: type[np.generic]) -> NDArray[Any]:
    """A native array as it lies in the file."""
    if array.dtype != dtype:
        raise DataError(f"{array.name.lstrip('/')} is {array.dtype}, a native file has {dtype.__name__}")
    return map_array(array)


def _verified(
    columns: dict[str, h5py.Dataset], spec: Spec, card: Card, known: dict[str, Any], clip: bool
) -> Dataset:
    """A mapped dataset whose content was verified before: nothing but its episode starts is read."""
    obs = _mapped(columns["o"], np.float32)
    layout = spec.layout()
    rows = len(obs)
    linked = columns["s"] == columns["o"]
    dataset = Dataset(
        spec=spec,
        obs=obs,
        state=(obs if linked else _mapped(columns["s"], np.float32)).reshape(rows, -1),
        action=_mapped(columns["a"], layout["action"].dtype).reshape(rows, *layout["action"].shape),
        reward=_mapped(columns["r"], np.float32).reshape(rows, *layout["reward"].shape),
        terminal=_mapped(columns["terminal"], np.bool_),
        truncated=_mapped(columns["truncated"], np.bool_),
        starts=read_array(columns["starts"], np.int64),
        action_mask=_mapped(columns["action_mask"], np.bool_) if "action_mask" in columns else None,
        card=card,
    )
    if clip and "clipped_hash" in known:
        return dataset.clipped().with_hash(str(known["clipped_hash"]))
    return dataset.with_hash(card.content_hash)


def _dataset(
    columns: dict[str, h5py.Dataset],
    spec: Spec,
    episodes: Recorded,
    card: Card,
    clip: bool,
    verify: bool,
    whole: Callable[[h5py.Dataset, type[np.generic]], NDArray[Any]],
) -> Dataset:
    if whole is read_array:
        obs, state = observations(columns["o"], columns["s"])
    else:
        obs = whole(columns["o"], np.float32)
        state = (
            None if columns["s"] == columns["o"] else whole(columns["s"], np.float32).reshape(len(obs), -1)
        )
    action = whole(columns["a"], spec.layout()["action"].dtype)
    reward = whole(columns["r"], np.float32)
    if spec.discrete and action.shape[2] != 1:
        raise DataError(f"a has shape {action.shape}, discrete actions need (T, N, 1)")
    rows = len(episodes.terminal)  # without a lone last row, which is no episode

    def own(array: NDArray[Any]) -> NDArray[Any]:
        return (array if episodes.kept is None else array[episodes.kept])[:rows]

    return Dataset.create(
        spec,
        obs=own(obs),
        state=None if state is None else own(state),
        action=own(action)[:, :, 0] if spec.discrete else own(action),
        reward=own(reward if spec.reward_per_agent else reward.reshape(len(reward), -1)[:, 0]),
        terminal=episodes.terminal,
        truncated=episodes.truncated,
        starts=episodes.starts,
        action_mask=whole(columns["action_mask"], np.bool_) if "action_mask" in columns else None,
        card=replace(card, notes=(*card.notes, *episodes.notes)),
        action_clip=clip,
        verify=verify,
    )


# ---- writing ---------------------------------------------------------------------------------------------


def _fill(file: h5py.File, dataset: Dataset, compression: str | None) -> None:
    spec = dataset.spec
    rows = dataset.rows
    agents = dataset.spec.n_agents
    done = np.zeros((rows, 1), np.float32)
    done[dataset.ends] = 1
    header = {"version": FORMAT_VERSION, "spec": spec.to_dict(), "card": dataset.card.to_dict()}
    text = json.dumps(sealed(header), sort_keys=True, indent=1, allow_nan=False)
    arrays: dict[str, NDArray[Any]] = {
        "o": dataset.obs,
        "a": dataset.action[..., None] if spec.discrete else dataset.action,
        "r": dataset.reward.reshape(rows, -1),
        "d": done,
        "terminal": dataset.terminal,
        "truncated": dataset.truncated,
        "starts": dataset.starts,
        HEADER: np.frombuffer(text.encode(), np.uint8),
    }
    if not dataset.state_is_obs:
        whole = spec.state_size % agents == 0
        arrays["s"] = dataset.state.reshape(rows, agents, -1) if whole else dataset.state
    if dataset.action_mask is not None:
        arrays["action_mask"] = dataset.action_mask
    for name, array in arrays.items():
        file.create_dataset(
            name,
            data=array,
            compression=compression,
            shuffle=True if compression else None,
            track_times=False,
        )
    if dataset.state_is_obs:
        file["s"] = file["o"]
