"""OMIGA's and MADT's SMAC data: a folder with one file of ``torch.save`` per episode.

A file holds a list over N agents of lists over L steps of ``[g, o, a, r, d, ava]``: the agent's own global state
``[S]``, its observation ``[O]``, action ``[1]``, reward ``[1]``, whether it is dead or the episode over, and the
mask of legal actions ``[A]``; online recordings have a seventh entry, which is ignored. The files are read by
:mod:`marlzoo.system.unpickle`, which executes nothing.

Assumed: files in the order of their names (the authors' order is that of the file system); files whose agents
differ in length are skipped, as the authors do; the canonical state is the agents' states one after another
``[N * S]``; the observation after the last step was not recorded and is that of the last step again, which no
terminal end uses. An episode of exactly ``horizon`` steps was ended by the time limit, any other is terminal.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Episodes
from marlzoo.data.formats._steps import (
    as_flags,
    as_indices,
    make_spec,
    places,
    read_ends,
    reading,
    require,
    require_horizon,
    team_reward,
    visible_entries,
)
from marlzoo.data.hdf5 import allocate
from marlzoo.errors import DataError
from marlzoo.system.unpickle import is_torch, load_torch

FIELDS = ("g", "o", "a", "r", "d", "ava")
# Sizes of observation and per-agent state by which the authors' maps are known, with the maps' time limits.
MAPS = {
    (2, 478, 675): ("2c_vs_64zg", 400),
    (5, 124, 156): ("5m_vs_6m", 70),
    (6, 172, 213): ("6h_vs_8z", 150),
    (6, 346, 435): ("corridor", 400),
}
_LOOKED_AT = 8  # files of a folder, in order to find out what it is
_QUALITIES = ("good", "medium", "poor")
# Agents may share one recorded array; a file cannot make more than this of every byte it has.
_MOST_EXPANSION = 64


@dataclass(frozen=True)
class _Episode:
    """One file: obs ``[L, N, O]``, state ``[L, N, S]``, action, reward ``[L, N]``, legal ``[L, N, A]``."""

    obs: NDArray[Any]
    state: NDArray[Any]
    action: NDArray[Any]
    reward: NDArray[Any]
    action_mask: NDArray[Any]


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file of ``torch.save``, or a folder with one among its first; never raises."""
    try:
        return any(map(is_torch, _files(Path(path))[:_LOOKED_AT]))
    except DataError:
        return False


def read_smac_episodes(
    path: str | os.PathLike[str],
    *,
    task: str = "",
    horizon: int | None = None,
    reward_mode: Literal["reward", "rtg"] = "reward",
    timeout_is_terminal: bool = False,
    limit_is_terminal: bool = True,
) -> Dataset:
    """Read a folder of episode files, or one of them.

    Args:
        path: for instance ``6h_vs_8z/good``.
        task: full task name; default: ``smac/<map>`` for sizes of the authors' maps.
        horizon: time limit in steps; default: the map's where it is known, else the longest episode, all of
            which are then terminal.
        reward_mode: ``rtg`` puts the sum of all rewards from a step on in place of its reward, as OMIGA's
            loader does.
        timeout_is_terminal: count time-limit ends as terminal, as OMIGA does.
        limit_is_terminal: believe terminal flags at exactly the time limit; false reads them as time limits.

    Raises:
        DataError: no episode, a damaged file, or one that does not fit the others. Nothing is executed.
    """
    folder = Path(path)
    require(reward_mode in ("reward", "rtg"), f"reward_mode must be reward or rtg, not {reward_mode!r}")
    with reading(folder):
        require_horizon(horizon)
        episodes: list[_Episode | None] = []
        names: list[str] = []
        skipped = 0
        first = None
        for file in _files(folder):
            with reading(file):
                require(
                    is_torch(file),
                    "is no episode file of torch.save; move it out of the folder, or fetch it again",
                )
                episode = _episode(load_torch(file), file.stat().st_size)
                if episode is None:
                    skipped += 1
                    continue
                sizes = tuple(array.shape[1:] for array in vars(episode).values())
                first = first or sizes
                require(sizes == first, f"its sizes {sizes} differ from the first file's {first}")
                episodes.append(episode)
                names.append(file.name)
        require(bool(episodes), f"no episode file that could be used ({skipped} skipped)")
        dataset = _join(episodes, names, folder, task, horizon, reward_mode, skipped)
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    require(path.is_dir(), "no such folder; check the path")
    return [file for file in visible_entries(path) if file.is_file()]


def _episode(loaded: Any, size: int) -> _Episode | None:
    """The arrays of one file; None where the agents differ in length."""
    require(isinstance(loaded, list | tuple) and len(loaded) > 0, "does not hold a list of agents")
    lengths = [len(agent) if isinstance(agent, list | tuple) else -1 for agent in loaded]
    require(min(lengths) >= 0, "an agent's entry is not a list of steps")
    if len(set(lengths)) > 1:
        return None
    require(lengths[0] > 0, "has no step")
    budget = _MOST_EXPANSION * size + (1 << 20)
    arrays = [_field(loaded, number, budget) for number in range(len(FIELDS)) if FIELDS[number] != "d"]
    state, obs, action, reward, action_mask = arrays
    require(action.shape[2] == reward.shape[2] == 1, "an action or a reward is not a list of one number")
    return _Episode(
        obs=obs,
        state=state,
        action=as_indices(action[..., 0], "a"),
        reward=reward[..., 0],
        action_mask=as_flags(action_mask, "ava"),
    )


def _field(agents: Any, number: int, budget: int) -> NDArray[Any]:
    """One field of all agents and steps ``[L, N, size]`` float32."""
    name = FIELDS[number]
    out = None
    for i, agent in enumerate(agents):
        for t, step in enumerate(agent):
            if not isinstance(step, list | tuple) or len(step) not in (len(FIELDS), len(FIELDS) + 1):
                raise DataError(f"step {t} of agent {i} is not a list of {len(FIELDS)} entries")
            values = _vector(step[number], f"{name} of agent {i} at step {t}")
            if out is None:
                shape = (len(agent), len(agents), len(values))
                steps = len(agent) * len(agents)
                require(4 * steps * (1 + len(values)) <= budget, f"{name} is larger than the file")
                out = allocate(shape, np.float32)
            require(len(values) == out.shape[2], f"{name} of agent {i} at step {t} has another size")
            with np.errstate(over="ignore"):
                out[t, i] = values
    assert out is not None
    return out


def _vector(values: Any, name: str) -> NDArray[Any]:
    """Numbers of a list, an array or a single number as ``[size]``."""
    if isinstance(values, list | tuple):
        plain = {type(value) for value in values}
        if plain <= {int, float, bool}:
            try:
                return np.array(values, np.float64)
            except OverflowError as error:
                raise DataError(f"{name} holds a number that is too large") from error
        require(plain == {np.ndarray}, f"{name} is not a list of numbers")
        require(all(value.size == 1 for value in values), f"{name} is not a list of numbers")
        return np.concatenate([value.reshape(1) for value in values])
    require(isinstance(values, np.ndarray | int | float), f"{name} is not a list of numbers")
    array = np.asarray(values)
    require(array.dtype.kind in "fiub", f"{name} is not a list of numbers")
    return array.reshape(array.size)


def _join(
    episodes: list[_Episode | None],
    names: list[str],
    folder: Path,
    task: str,
    horizon: int | None,
    reward_mode: str,
    skipped: int,
) -> Dataset:
    lengths = np.array([len(episode.obs) for episode in episodes if episode])
    layout = Episodes.from_lengths(lengths)
    example = next(episode for episode in episodes if episode)
    _, agents, obs_size = example.obs.shape
    state_size = example.state.shape[2]
    name, limit = MAPS.get((agents, obs_size, state_size), ("", int(lengths.max())))
    known = bool(name) or horizon is not None
    limit = horizon or limit
    values = _gather(episodes, layout, reward_mode)
    reward, per_agent = team_reward(values.pop("reward"))
    spec = make_spec(
        n_agents=agents,
        obs_size=obs_size,
        state_size=agents * state_size,
        action_kind="discrete",
        action_size=example.action_mask.shape[2],
        horizon=limit,
        reward_per_agent=per_agent,
    )
    at_limit = (lengths == limit) if known else np.zeros(len(lengths), np.bool_)

    def place(row: int) -> str:
        episode, step = layout.of_row(row)
        step = min(step, int(lengths[episode]) - 1)
        return f"step {step} of {names[episode]}"

    with places(place):
        return Dataset.create(
            spec,
            obs=values["obs"],
            state=values["state"].reshape(layout.rows, -1),
            action=values["action"],
            reward=reward,
            action_mask=values["action_mask"],
            terminal=layout.at_last_step(~at_limit),
            truncated=layout.at_last_step(at_limit),
            starts=layout.starts,
            card=_card(folder, task, name, limit if known else None, reward_mode, skipped),
        )


def _gather(episodes: list[_Episode | None], layout: Episodes, reward_mode: str) -> dict[str, NDArray[Any]]:
    """Canonical rows of all episodes; each episode is freed once it is copied."""
    example = next(episode for episode in episodes if episode)
    out = {
        name: allocate((layout.rows, *array.shape[1:]), array.dtype.type)
        for name, array in vars(example).items()
    }
    for k, start in enumerate(layout.starts):
        episode = episodes[k]
        episodes[k] = None
        assert episode is not None
        for name, array in vars(episode).items():
            out[name][start : start + len(array)] = array
            out[name][start + len(array)] = array[-1] if name in ("obs", "state", "action_mask") else 0
        if reward_mode == "rtg":
            reward = out["reward"][start : start + len(episode.reward)]
            reward[:] = np.cumsum(episode.reward[::-1].astype(np.float64), axis=0)[::-1]
    return out


def _card(folder: Path, task: str, name: str, limit: int | None, reward_mode: str, skipped: int) -> Card:
    notes = [
        "observations and states in the MAPPO flavor, agent number included",
        "files in the order of their names",
        "the state is the agents' own states one after another",
        "the observation after an episode's last step was not recorded: it is that of the last step again",
        f"episodes of exactly {limit} steps are read as ended by the time limit, all others as terminal"
        if limit
        else "the time limit is not known: every end is read as terminal; give the option horizon",
    ]
    if name:
        notes.append("the map is recognized by its sizes")
    if skipped:
        notes.append(f"{skipped} files were skipped because their agents differ in length")
    if reward_mode == "rtg":
        notes.append("each reward is the sum of all rewards from its step on (reward_mode=rtg)")
    quality = next((part for part in reversed(folder.absolute().parts) if part in _QUALITIES), "")
    return Card(
        task=task or (f"smac/{name}" if name else ""),
        source="omiga",
        quality=quality,
        engine="StarCraft II behind SMAC" if name else "",
        notes=tuple(notes),
    )
