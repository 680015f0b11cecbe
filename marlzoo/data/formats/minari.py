"""Minari datasets of teams, read and written with h5py alone (Minari itself is not needed).

A dataset is a folder with ``data/main_data.hdf5`` and ``data/metadata.json``. Minari has no schema for teams; this
is the mapping used here, both ways:

========================= ===========================================================================
Minari                    team
========================= ===========================================================================
``observations``          ``Dict`` (or ``Tuple``) with one entry per agent, ``Box [L + 1, O_i]`` as a rule
``actions``               ``Dict`` (or ``Tuple``) of one ``Box [L, A_i]`` or ``Discrete [L]`` per agent
``rewards``               ``[L]`` of the team, the mean over agents where they differ
``infos/agent_rewards``   ``[L, N]`` where rewards are per agent (``[L + 1, N]``: the first is of the reset)
``infos/state``           ``[L + 1, S]``, unless the state is the observations one after another
``infos/legals``          ``[L + 1, N, A]`` masks of discrete actions
``terminations``          ``[L]``, set on the last step where the task ended
``truncations``           ``[L]``, set on the last step where the time limit ended it
========================= ===========================================================================

Observations and actions have the same keys, one per agent. Agents are in natural order of their names
(``adversary_0``, ``adversary_1``, ``agent_0``), which the card keeps. What an agent sees may be of any space that
:mod:`marlzoo.envs._spaces` reads, for instance ``Dict(observation, action_mask)``. Where actions are one space,
there is one agent, and a ``Dict`` of observations holds its parts.

Files written here carry spec and card under ``marlzoo`` in the metadata. Assumed of others: the time limit is the
longest episode; continuous actions fill their finite box, which is brought to [-1, 1]; discrete ones count from
their space's ``start``; an episode without any flag was cut.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import CHUNK_BYTES
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Episodes
from marlzoo.data.formats._minari_team import Acts, RecordedAgents, in_file, recorded_agents
from marlzoo.data.formats._minari_write import DATA, FILE, METADATA, OWN, write_minari
from marlzoo.data.formats._steps import (
    as_flags,
    as_indices,
    episode_place,
    full_masks,
    make_spec,
    places,
    read_ends,
    read_json,
    reading,
    require,
    require_choice,
    require_discrete,
    require_horizon,
)
from marlzoo.data.hdf5 import allocate, column, group, is_hdf5, keys, open_hdf5, read_array
from marlzoo.envs._spaces import FlatSpace, UnfitSpaceError, natural
from marlzoo.envs._spaces import Path as Keys
from marlzoo.errors import DataError, SpecError
from marlzoo.spec import Spec
from marlzoo.system.files import unsealed

__all__ = ["read_minari", "sniff", "write_minari"]

_EPISODE = re.compile(r"episode_(\d+)")
_MOST_COMPRESSION = 1100
INFOS = ("agent_rewards", "state", "legals")


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
    limit_is_terminal: bool = True,
    action_clip: bool = True,
    verify: bool = True,
    agents: str = "",
    action_mask: Literal["", "all"] = "",
) -> Dataset:
    """Read a dataset stored as HDF5.

    Args:
        path: folder of the dataset, its ``data`` folder, or ``main_data.hdf5``.
        task: full task name; default: the card's of files written here.
        horizon: time limit in steps; default: the card's, or the longest episode.
        timeout_is_terminal: count time-limit ends as terminal.
        limit_is_terminal: believe terminal flags at exactly the time limit; false reads them as time limits.
        action_clip: clip continuous actions to [-1, 1]; a warning tells how many lay outside.
        verify: compare the content with the hash in the card of files written here.
        agents: names of the agents in the order wanted, separated by commas; default: as they were written here,
            else in natural order.
        action_mask: ``all`` where the dataset has no masks and every discrete action is always legal.

    Raises:
        DataError: missing, damaged, stored as Arrow, with spaces that no team has, or wrong shapes or values.
    """
    path = Path(path)
    with reading(path):
        require_horizon(horizon)
        require_choice("action_mask", action_mask, ("", "all"))
        place = _place(path)
        if place is None:
            raise DataError("holds no data/main_data.hdf5 with data/metadata.json; give the dataset's folder")
        metadata = read_json(place / METADATA)
        require(isinstance(metadata, dict), f"{METADATA} is not a JSON object; fetch the data again")
        form = metadata.get("data_format", "hdf5")
        require(form == "hdf5", f"it is stored as {form}; save it as hdf5 with Minari first")
        header = _header(metadata)
        written = header[1].options.get("agents", []) if header else []
        team = recorded_agents(metadata, agents.split(",") if agents else (), written)
        with open_hdf5(place / FILE) as file:
            arrays, lengths = _arrays(file, team, (place / FILE).stat().st_size)
        spec, card = header or _guess(metadata, team, arrays, lengths, horizon)
        if header and agents:
            card = replace(card, content_hash="", options={**card.options, "agents": list(team.names)})
        require(horizon in (None, spec.horizon), f"its horizon is {spec.horizon}, not {horizon}")
        require_discrete(spec, action_mask=action_mask)
        if action_mask:
            require("action_mask" not in arrays, "it has masks of its own; leave the option action_mask out")
            arrays["action_mask"] = full_masks(spec, len(arrays["obs"]))
            note = "every action is always legal (action_mask=all)"
            card = replace(card, content_hash="", notes=(*card.notes, note))
        episodes = Episodes.from_lengths(lengths)
        with places(lambda row: episode_place(episodes, row)):
            dataset = Dataset.create(
                spec,
                **arrays,
                starts=episodes.starts,
                card=replace(card, task=task or card.task),
                action_clip=action_clip,
                verify=verify,
            )
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


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


# ---- arrays ----------------------------------------------------------------------------------------------


def _arrays(file: h5py.File, team: RecordedAgents, size: int) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Canonical arrays and the steps of each episode ``[E]``."""
    names = sorted((name for name in keys(file) if _EPISODE.fullmatch(name)), key=natural)
    require(bool(names), "it has no episodes; make or fetch it again")
    lengths = np.array([len(column(group(file, name), "rewards", "fiu")) for name in names], np.int64)
    require(bool((lengths > 0).all()), f"{names[int(np.argmin(lengths))]} has no step; leave it out")
    shapes = _shapes(team, file, names)
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


def _infos(file: h5py.File, names: list[str]) -> dict[str, h5py.Group]:
    """What is understood of the infos, each with the group of the first episode.

    Raises:
        DataError: some episodes have it and others do not.
    """
    found: dict[str, h5py.Group] = {}
    inside = [set(keys(episode)) for episode in (group(file, name) for name in names)]
    extra = [
        set(keys(group(group(file, name), "infos"))) if "infos" in there else set()
        for name, there in zip(names, inside, strict=True)
    ]
    for key in INFOS:
        has = [key in there for there in extra]
        if any(has) and not all(has):
            raise DataError(
                f"infos/{key} is there in {sum(has)} of {len(names)} episodes, missing first in "
                f"{names[has.index(False)]}; record it in all of them, or in none"
            )
        if all(has):
            found[key] = group(group(file, names[0]), "infos")
    return found


def _shapes(
    team: RecordedAgents, file: h5py.File, names: list[str]
) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    agents = len(team.obs)
    discrete = team.discrete
    infos = _infos(file, names)
    actions = max(acts.size for acts in team.action)
    shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "obs": ((agents, max(seen.size for seen in team.obs)), np.float32),
        "action": ((agents,), np.int64) if discrete else ((agents, actions), np.float32),
        "reward": ((agents,) if "agent_rewards" in infos else (), np.float32),
        "terminal": ((), np.bool_),
        "truncated": ((), np.bool_),
    }
    if "state" in infos:
        state = column(infos["state"], "state", "fiu")
        require(state.ndim == 2, f"infos/state has shape {state.shape}, expected (L + 1, S)")
        shapes["state"] = ((state.shape[1],), np.float32)
    if discrete and ("legals" in infos or team.masked):
        shapes["action_mask"] = ((agents, actions), np.bool_)
    return shapes


def _fill(
    episode: h5py.Group, team: RecordedAgents, out: dict[str, NDArray[Any]], length: int, name: str
) -> None:
    """One episode's rows ``[L + 1, ...]``."""
    agents = len(team.obs)
    for i, seen in enumerate(team.obs):
        _fill_obs(episode, team, seen, i, out["obs"][:, i], name)
    for i, acts in enumerate(team.action):
        values = _leaf(episode, "actions", team.action_keys, i, (), (length, *acts.shape), name)
        if acts.discrete:
            out["action"][:-1, i] = as_indices(values, f"actions of {name}") - acts.start
        else:
            out["action"][:-1, i, : acts.size] = _to_unit_box(values.reshape(length, acts.size), acts)
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
        out["state"][:] = _info(episode, "state", (length + 1, out["state"].shape[1]), name)
    if "action_mask" in out:
        _fill_legal(episode, team, out["action_mask"], name)
    out["truncated"][:-1] &= ~out["terminal"][:-1]


def _fill_obs(
    episode: h5py.Group, team: RecordedAgents, seen: FlatSpace, agent: int, out: NDArray[Any], name: str
) -> None:
    """One agent's observations ``[L + 1, O]``, its parts end to end."""
    begin = 0
    for leaf in seen.leaves:
        values = _leaf(
            episode, "observations", team.obs_keys, agent, leaf.path, (len(out), *leaf.shape), name
        )
        try:
            out[:, begin : begin + leaf.size] = leaf.rows(values)
        except UnfitSpaceError as error:
            place = "/".join(map(str, ("observations", *team.obs_keys[agent : agent + 1], *leaf.path)))
            raise DataError(f"{name}: {place} {error}") from error
        begin += leaf.size


def _fill_legal(episode: h5py.Group, team: RecordedAgents, out: NDArray[Any], name: str) -> None:
    """Legal actions ``[L + 1, N, A]``: from the infos, else from masks among the observations."""
    if "infos" in keys(episode) and "legals" in keys(group(episode, "infos")):
        out[:] = as_flags(_info(episode, "legals", out.shape, name), f"infos/legals of {name}")
        return
    for i, (seen, acts) in enumerate(zip(team.obs, team.action, strict=True)):
        if seen.mask is None:
            out[:, i, : acts.size] = True
            continue
        shape = (len(out), acts.size)
        masks = _leaf(episode, "observations", team.obs_keys, i, seen.mask, shape, name)
        out[:, i, : acts.size] = as_flags(masks, f"action_mask of agent {i} in {name}")


def _info(episode: h5py.Group, key: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """Infos of all L + 1 rows."""
    found = _numbers(group(episode, "infos"), key, None, name)
    short = (shape[0] - 1, *shape[1:])
    require(
        found.shape != short,
        f"{name}: infos/{key} has {short[0]} rows, one too few: the reset's entry is missing. Record infos at reset, "
        "too, or remove it from all episodes",
    )
    require(found.shape == shape, f"{name}: infos/{key} has shape {found.shape}, expected {shape}")
    return found


def _leaf(
    episode: h5py.Group,
    kind: str,
    names: tuple[str, ...],
    agent: int,
    path: Keys,
    shape: tuple[int, ...],
    episode_name: str,
) -> NDArray[Any]:
    """One array below ``observations`` or ``actions``."""
    keys = [kind, *names[agent : agent + 1], *map(in_file, path)]
    place = episode
    for folder in keys[:-1]:
        place = group(place, folder)
    return _numbers(place, keys[-1], shape, episode_name)


def _numbers(parent: h5py.Group, key: str, shape: tuple[int, ...] | None, episode: str) -> NDArray[Any]:
    found = column(parent, key, "fiub")
    require(shape in (None, found.shape), f"{episode}: {key} has shape {found.shape}, expected {shape}")
    return read_array(found, np.int64 if found.dtype.kind in "iub" else np.float64)


def _to_unit_box(values: NDArray[Any], space: Acts) -> NDArray[Any]:
    """Actions brought from the finite box of their space to [-1, 1]; others are left as they are."""
    bounded = np.isfinite(space.low) & np.isfinite(space.high) & (space.high > space.low)
    low = np.where(bounded, space.low, -1.0)
    high = np.where(bounded, space.high, 1.0)
    if (low == -1).all() and (high == 1).all():
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(2 * (values - low) / (high - low) - 1)


def _header(metadata: dict[str, Any]) -> tuple[Spec, Card] | None:
    if OWN not in metadata:
        return None
    try:
        values = unsealed(json.loads(metadata[OWN]), f"its card in {METADATA}")
        return Spec.from_dict(values["spec"]), Card.from_dict(values["card"])
    except DataError:
        raise
    except (SpecError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"its card in {METADATA} is damaged; make the dataset again") from error


def _guess(
    metadata: dict[str, Any],
    team: RecordedAgents,
    arrays: dict[str, Any],
    lengths: NDArray[np.int64],
    horizon: int | None,
) -> tuple[Spec, Card]:
    obs = arrays["obs"]
    state = arrays.get("state")
    discrete = team.discrete
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
    notes.append(f"dataset {str(metadata.get('dataset_id', '?'))[:200]}")
    options = {"agents": list(team.names)} if team.names else {}
    return spec, Card(source="minari", options=options, notes=(*notes, *team.notes))
