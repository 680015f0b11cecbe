"""Minari datasets of teams, read and written with h5py alone (Minari itself is not needed).

A dataset is a folder with ``data/main_data.hdf5`` and ``data/metadata.json``. Minari has no schema for teams; this
is the mapping used here, both ways:

========================= ===========================================================================
Minari                    team
========================= ===========================================================================
``observations``          ``Dict`` (or ``Tuple``) of one ``Box`` per agent, ``[L + 1, O_i]``
``actions``               ``Dict`` (or ``Tuple``) of one ``Box [L, A_i]`` or ``Discrete [L]`` per agent
``rewards``               ``[L]`` of the team, the mean over agents where they differ
``infos/agent_rewards``   ``[L, N]`` where rewards are per agent (``[L + 1, N]``: the first is of the reset)
``infos/state``           ``[L + 1, S]``, unless the state is the observations one after another
``infos/legals``          ``[L + 1, N, A]`` masks of discrete actions
``terminations``          ``[L]``, set on the last step where the task ended
``truncations``           ``[L]``, set on the last step where the time limit ended it
========================= ===========================================================================

Agents are in the order of the numbers in their names (``agent_0``, ``agent_1``, ...), else of the names. A dataset of
one ``Box`` is a team of one. Files written here carry spec and card under ``marlzoo`` in the metadata. Assumed of
others: the time limit is the longest episode; continuous actions fill their finite box, which is brought to
[-1, 1]; discrete ones count from their space's ``start``; an episode without any flag was cut.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import CHUNK_BYTES
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats._minari_write import DATA, FILE, METADATA, OWN, write_minari
from marlzoo.data.formats._steps import as_flags, as_indices, make_spec, read_json, reading, require
from marlzoo.data.hdf5 import allocate, column, group, is_hdf5, keys, open_hdf5, read_array
from marlzoo.errors import DataError, SpecError
from marlzoo.spec import Spec

__all__ = ["read_minari", "sniff", "write_minari"]

_EPISODE = re.compile(r"episode_(\d+)")
_MOST_COMPRESSION = 1100


@dataclass(frozen=True)
class _Space:
    """One agent's space: ``size`` entries or choices; bounds of a box, or the first choice."""

    discrete: bool
    size: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    start: int = 0


@dataclass(frozen=True)
class _Team:
    """Keys and spaces of the agents; keys are empty for a dataset of a single box."""

    obs_keys: tuple[str, ...]
    action_keys: tuple[str, ...]
    obs: tuple[_Space, ...]
    action: tuple[_Space, ...]


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a Minari dataset's folder, its ``data`` folder or its file; never raises."""
    try:
        return _place(Path(path)) is not None
    except OSError:
        return False


def read_minari(
    path: str | os.PathLike[str],
    *,
    task: str = "",
    horizon: int | None = None,
    timeout_is_terminal: bool = False,
    action_clip: bool = True,
    verify: bool = True,
) -> Dataset:
    """Read a dataset stored as HDF5.

    Args:
        path: folder of the dataset, its ``data`` folder, or ``main_data.hdf5``.
        task: full task name; default: the card's of files written here.
        horizon: time limit in steps; default: the card's, or the longest episode.
        timeout_is_terminal: count time-limit ends as terminal.
        action_clip: clip continuous actions to [-1, 1]; a warning tells how many lay outside.
        verify: compare the content with the hash in the card of files written here.

    Raises:
        DataError: missing, damaged, stored as Arrow, with spaces that no team has, or wrong shapes or values.
    """
    path = Path(path)
    with reading(path):
        place = _place(path)
        if place is None:
            raise DataError("holds no data/main_data.hdf5 with data/metadata.json; give the dataset's folder")
        metadata = read_json(place / METADATA)
        require(isinstance(metadata, dict), f"{METADATA} is not a JSON object; fetch the data again")
        form = metadata.get("data_format", "hdf5")
        require(form == "hdf5", f"it is stored as {form}; save it as hdf5 with Minari first")
        team = _team(metadata)
        with open_hdf5(place / FILE) as file:
            arrays, lengths = _arrays(file, team, (place / FILE).stat().st_size)
        spec, card = _header(metadata) or _guess(metadata, team, arrays, lengths, horizon)
        require(horizon in (None, spec.horizon), f"its horizon is {spec.horizon}, not {horizon}")
        dataset = Dataset.create(
            spec,
            **arrays,
            starts=np.append(0, np.cumsum(lengths + 1)[:-1]),
            card=replace(card, task=task or card.task),
            action_clip=action_clip,
            verify=verify,
        )
    return dataset.timeouts_as_terminals() if timeout_is_terminal else dataset


def _place(path: Path) -> Path | None:
    """The folder with both files."""
    for folder in (path, path / DATA, path.parent if path.name == FILE else path):
        if is_hdf5(folder / FILE) and (folder / METADATA).is_file():
            return folder
    for folder in (path, path / DATA):
        metadata = folder / METADATA
        if folder.name == DATA and metadata.is_file():
            return folder
    return None


# ---- spaces ----------------------------------------------------------------------------------------------


def _team(metadata: dict[str, Any]) -> _Team:
    obs_keys, obs = _spaces(metadata, "observation_space")
    action_keys, action = _spaces(metadata, "action_space")
    require(len(obs) == len(action), f"it has observations of {len(obs)} agents and actions of {len(action)}")
    require(not any(space.discrete for space in obs), "its observations are not boxes")
    kinds = {space.discrete for space in action}
    require(len(kinds) == 1, "some agents have continuous actions, others discrete ones")
    return _Team(obs_keys, action_keys, obs, action)


def _spaces(metadata: dict[str, Any], name: str) -> tuple[tuple[str, ...], tuple[_Space, ...]]:
    """Keys in the file and spaces of the agents, in the agents' order."""
    text = metadata.get(name)
    require(isinstance(text, str), f"{METADATA} has no {name}; save the dataset with Minari again")
    try:
        space = json.loads(str(text))
        kind, inside = space["type"], space.get("subspaces")
        if kind == "Dict":
            names = sorted(inside, key=_order)
            return tuple(names), tuple(_space(inside[key]) for key in names)
        if kind == "Tuple":
            return tuple(f"_index_{i}" for i in range(len(inside))), tuple(map(_space, inside))
        return (), (_space(space),)
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{name} in {METADATA} is damaged; fetch the data again") from error


def _space(values: dict[str, Any]) -> _Space:
    if values["type"] == "Discrete":
        none = np.zeros(0)
        return _Space(True, int(values["n"]), none, none, int(values.get("start", 0)))
    shape = values.get("shape")
    if values["type"] != "Box" or not isinstance(shape, list) or len(shape) != 1:
        raise DataError(f"it has a space of type {str(values['type'])[:40]}; teams have vectors and choices")
    low, high = (np.asarray(values[bound], np.float64) for bound in ("low", "high"))
    require(low.shape == high.shape == (shape[0],), "a box has bounds of another shape")
    return _Space(False, int(shape[0]), low, high)


def _order(name: str) -> tuple[int, str]:
    number = re.search(r"(\d+)$", name)
    return (int(number[1]) if number and len(number[1]) < 10 else -1, name)


# ---- arrays ----------------------------------------------------------------------------------------------


def _arrays(file: h5py.File, team: _Team, size: int) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Canonical arrays and the steps of each episode ``[E]``."""
    names = sorted((name for name in keys(file) if _EPISODE.fullmatch(name)), key=_order)
    require(bool(names), "it has no episodes; make or fetch it again")
    lengths = np.array([len(column(group(file, name), "rewards", "fiu")) for name in names], np.int64)
    require(bool((lengths > 0).all()), f"{names[int(np.argmin(lengths))]} has no step; leave it out")
    first = group(file, names[0])
    infos = group(first, "infos") if "infos" in keys(first) else None
    extra = set(keys(infos)) if infos is not None else set()
    shapes = _shapes(team, infos, extra)
    rows = int((lengths + 1).sum())
    need = sum(
        rows * int(np.prod(tail, dtype=object)) * np.dtype(kind).itemsize for tail, kind in shapes.values()
    )
    require(
        need <= max(CHUNK_BYTES, _MOST_COMPRESSION * size), f"it declares {need} bytes, more than it stores"
    )
    out = {name: allocate((rows, *tail), kind) for name, (tail, kind) in shapes.items()}
    for array in out.values():
        array[...] = 0
    begin = 0
    for name, length in zip(names, lengths, strict=True):
        part = {key: array[begin : begin + length + 1] for key, array in out.items()}
        _fill(group(file, name), team, part, int(length), name)
        begin += int(length) + 1
    return out, lengths


def _shapes(
    team: _Team, infos: h5py.Group | None, extra: set[str]
) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    agents, discrete = len(team.obs), team.action[0].discrete
    actions = max(space.size for space in team.action)
    shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "obs": ((agents, max(space.size for space in team.obs)), np.float32),
        "action": ((agents,), np.int64) if discrete else ((agents, actions), np.float32),
        "reward": ((agents,) if "agent_rewards" in extra else (), np.float32),
        "terminal": ((), np.bool_),
        "truncated": ((), np.bool_),
    }
    if infos is not None and "state" in extra:
        state = column(infos, "state", "fiu")
        require(state.ndim == 2, f"infos/state has shape {state.shape}, expected (L + 1, S)")
        shapes["state"] = ((state.shape[1],), np.float32)
    if discrete and "legals" in extra:
        shapes["action_mask"] = ((agents, actions), np.bool_)
    return shapes


def _fill(episode: h5py.Group, team: _Team, out: dict[str, NDArray[Any]], length: int, name: str) -> None:
    """One episode's rows ``[L + 1, ...]``."""
    agents = len(team.obs)
    for i, space in enumerate(team.obs):
        out["obs"][:, i, : space.size] = _leaf(
            episode, "observations", team.obs_keys, i, (length + 1, space.size), name
        )
    for i, space in enumerate(team.action):
        shape = (length,) if space.discrete else (length, space.size)
        values = _leaf(episode, "actions", team.action_keys, i, shape, name)
        if space.discrete:
            out["action"][:-1, i] = as_indices(values, f"actions of {name}") - space.start
        else:
            out["action"][:-1, i, : space.size] = _to_unit_box(values, space)
    if out["reward"].ndim == 2:
        found = _numbers(group(episode, "infos"), "agent_rewards", None, name)
        known = ((length, agents), (length + 1, agents))
        require(found.shape in known, f"{name}: infos/agent_rewards has shape {found.shape}")
        out["reward"][:-1] = found[-length:]
    else:
        out["reward"][:-1] = _numbers(episode, "rewards", (length,), name)
    for key, source in (("terminal", "terminations"), ("truncated", "truncations")):
        out[key][:-1] = as_flags(_numbers(episode, source, (length,), name), f"{source} of {name}")
    if "state" in out:
        shape = (length + 1, out["state"].shape[1])
        out["state"][:] = _numbers(group(episode, "infos"), "state", shape, name)
    if "action_mask" in out:
        masks = _numbers(group(episode, "infos"), "legals", out["action_mask"].shape, name)
        out["action_mask"][:] = as_flags(masks, f"infos/legals of {name}")
    out["truncated"][:-1] &= ~out["terminal"][:-1]


def _leaf(
    episode: h5py.Group,
    kind: str,
    names: tuple[str, ...],
    agent: int,
    shape: tuple[int, ...],
    episode_name: str,
) -> NDArray[Any]:
    if not names:
        return _numbers(episode, kind, shape, episode_name)
    return _numbers(group(episode, kind), names[agent], shape, episode_name)


def _numbers(parent: h5py.Group, key: str, shape: tuple[int, ...] | None, episode: str) -> NDArray[Any]:
    found = column(parent, key, "fiub")
    require(shape in (None, found.shape), f"{episode}: {key} has shape {found.shape}, expected {shape}")
    return read_array(found, np.int64 if found.dtype.kind in "iub" else np.float64)


def _to_unit_box(values: NDArray[Any], space: _Space) -> NDArray[Any]:
    """Actions brought from the finite box of their space to [-1, 1]; others are left as they are."""
    bounded = np.isfinite(space.low) & np.isfinite(space.high) & (space.high > space.low)
    low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
    if (low == -1).all() and (high == 1).all():
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(2 * (values - low) / (high - low) - 1)


def _header(metadata: dict[str, Any]) -> tuple[Spec, Card] | None:
    if OWN not in metadata:
        return None
    try:
        values = json.loads(metadata[OWN])
        return Spec.from_dict(values["spec"]), Card.from_dict(values["card"])
    except DataError:
        raise
    except (SpecError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"its card in {METADATA} is damaged; make the dataset again") from error


def _guess(
    metadata: dict[str, Any],
    team: _Team,
    arrays: dict[str, Any],
    lengths: NDArray[np.int64],
    horizon: int | None,
) -> tuple[Spec, Card]:
    obs, state = arrays["obs"], arrays.get("state")
    discrete = team.action[0].discrete
    spec = make_spec(
        n_agents=len(team.obs),
        obs_size=obs.shape[2],
        state_size=int(np.prod(obs.shape[1:])) if state is None else state.shape[1],
        action_kind="discrete" if discrete else "continuous",
        action_size=max(space.size for space in team.action),
        horizon=horizon or int(lengths.max()),
        obs_sizes=tuple(space.size for space in team.obs),
        action_sizes=tuple(space.size for space in team.action),
        reward_per_agent=arrays["reward"].ndim == 2,
    )
    notes = ["one entry of observations and actions per agent; episodes without a flag are read as cut"]
    if horizon is None:
        notes.append("the time limit is the longest episode")
    if not discrete and any((space.low != -1).any() or (space.high != 1).any() for space in team.action):
        notes.append("continuous actions are brought from their finite boxes to [-1, 1]")
    return spec, Card(
        source="minari", notes=(*notes, f"dataset {str(metadata.get('dataset_id', '?'))[:200]}")
    )
