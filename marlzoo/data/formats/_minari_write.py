"""Writing Minari's folder; :mod:`marlzoo.data.formats.minari` has the mapping."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from marlzoo.data.arrays import pieces
from marlzoo.data.dataset import Dataset
from marlzoo.data.hdf5 import create_hdf5
from marlzoo.errors import DataError, OutputError
from marlzoo.spec import Spec
from marlzoo.system.files import (
    flush,
    output_error,
    remove_stale,
    sealed,
    temporary_beside,
    write_text_atomic,
)

DATA = "data"
FILE = "main_data.hdf5"
METADATA = "metadata.json"
OWN = "marlzoo"
_ID = re.compile(r"[\w-]+-v\d+")
_NAME = re.compile(r"[A-Za-z][\w-]*")
_MINARI = "0.5.0"  # the version of the layout; Minari refuses those that it does not know


def write_minari(dataset: Dataset, path: str | os.PathLike[str]) -> Dataset:
    """Write a dataset as a new folder in Minari's layout, which Minari opens under the folder's name.

    Args:
        dataset: what to write.
        path: the folder, which must not exist, unless it holds this very dataset already; Minari finds names of the
            form ``team-expert-v0``.

    Returns:
        The dataset with the card as written, its content hash filled in.

    Raises:
        DataError: numbers behind a smaller agent's own entries, for which its space has no room.
        OutputError: the folder exists or cannot be written; nothing is left of it.
    """
    target = Path(path)
    _require_empty_padding(dataset)
    dataset = dataset.with_card(replace(dataset.card, content_hash=dataset.content_hash))
    if target.exists():
        if _written(target, dataset):
            return dataset
        raise OutputError(f"cannot write {target}: it exists; remove it or choose another folder")
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        (temporary / DATA).mkdir(parents=True)
        with create_hdf5(temporary / DATA / FILE) as file:
            for episode in range(dataset.episodes):
                _episode(file, dataset, episode)
        size = (temporary / DATA / FILE).stat().st_size
        write_text_atomic(
            temporary / DATA / METADATA, json.dumps(_metadata(dataset, target.name, size), indent=1)
        )
        flush(temporary / DATA / FILE)
        os.replace(temporary, target)
    except OSError as error:
        _discard(temporary)
        if isinstance(error, OutputError):
            raise
        raise output_error(target, error) from error
    except BaseException:
        _discard(temporary)
        raise
    return dataset


def _written(folder: Path, dataset: Dataset) -> bool:
    """Whether a folder is this dataset, written before."""
    try:
        metadata = json.loads((folder / DATA / METADATA).read_text(encoding="utf-8"))
        size = (folder / DATA / FILE).stat().st_size
    except (OSError, ValueError, RecursionError):
        return False
    return bool(metadata == json.loads(json.dumps(_metadata(dataset, folder.name, size))))


def _require_empty_padding(dataset: Dataset) -> None:
    """Refuse what the agents' spaces would silently leave out."""
    spec = dataset.spec
    places = [("obs", dataset.obs, spec.obs_sizes)]
    if not spec.discrete:
        places.append(("action", dataset.action, spec.action_sizes))
    for name, array, sizes in places:
        for agent, size in enumerate(sizes):
            if any(piece[:, agent, size:].any() for _, piece in pieces(array)):
                raise DataError(
                    f"{dataset.card.title}: {name} of agent {agent} holds numbers behind its {size} entries, for "
                    "which Minari's space of that agent has no room; set them to zero, or write hdf5 or npz"
                )


def _discard(folder: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)


def _episode(file: h5py.File, dataset: Dataset, number: int) -> None:
    spec = dataset.spec
    rows = slice(int(dataset.starts[number]), int(dataset.ends[number]) + 1)
    steps = slice(rows.start, rows.stop - 1)
    group = file.create_group(f"episode_{number}")
    group.attrs["id"] = number
    group.attrs["total_steps"] = steps.stop - steps.start
    for i, agent in enumerate(agent_names(dataset)):
        size = spec.obs_sizes[i]
        actions = spec.action_sizes[i]
        group[f"observations/{agent}"] = dataset.obs[rows, i, :size]
        own = dataset.action[steps, i]
        group[f"actions/{agent}"] = own if spec.discrete else own[:, :actions]
    reward = dataset.reward[steps]
    group["rewards"] = (reward.mean(axis=1) if reward.ndim == 2 else reward).astype(np.float64)
    group["terminations"] = dataset.terminal[steps]
    group["truncations"] = dataset.truncated[steps]
    if reward.ndim == 2:
        group["infos/agent_rewards"] = reward
    if not dataset.state_is_obs:
        group["infos/state"] = dataset.state[rows]
    if dataset.action_mask is not None:
        group["infos/legals"] = dataset.action_mask[rows]


def agent_names(dataset: Dataset) -> list[str]:
    """Names of the agents: the card's, where they can be keys of a file, else ``agent_0`` and so on."""
    names = dataset.card.options.get("agents")
    count = dataset.spec.n_agents
    known = isinstance(names, list) and len(names) == count == len({*map(str, names)})
    if known and all(isinstance(name, str) and _NAME.fullmatch(name) for name in names or ()):
        return list(names or ())
    return [f"agent_{i}" for i in range(count)]


def _metadata(dataset: Dataset, name: str, size: int) -> dict[str, Any]:
    spec = dataset.spec
    names = agent_names(dataset)
    own = {"spec": spec.to_dict(), "card": dataset.card.to_dict()}
    return {
        "dataset_id": name if _ID.fullmatch(name) else f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)}-v0",
        "total_episodes": dataset.episodes,
        "total_steps": dataset.transitions,
        "data_format": "hdf5",
        "observation_space": json.dumps(_spaces(names, [_box(n, np.inf) for n in spec.obs_sizes])),
        "action_space": json.dumps(_spaces(names, [_action(spec, n) for n in spec.action_sizes])),
        "dataset_size": round(size / 1e6, 1),
        "minari_version": _MINARI,
        "description": f"Team dataset {dataset.card.name}, written by marlzoo.",
        OWN: json.dumps(sealed(own), sort_keys=True, allow_nan=False),
    }


def _spaces(names: list[str], spaces: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Dict", "subspaces": dict(zip(names, spaces, strict=True))}


def _action(spec: Spec, size: int) -> dict[str, Any]:
    if spec.discrete:
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": size}
    return _box(size, 1.0)


def _box(size: int, bound: float) -> dict[str, Any]:
    limits = {"low": [-bound] * size, "high": [bound] * size}
    return {"type": "Box", "dtype": "float32", "shape": [size], **limits}
