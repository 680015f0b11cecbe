"""OMAR's folders of npy files: ``<env_id>/<data_type>/seed_<k>_data/`` with five files per agent.

Agent i has ``obs_i.npy [N, O]``, ``acs_i.npy [N, A]``, ``rews_i.npy [N]``, ``next_obs_i.npy [N, O]`` and
``dones_i.npy [N]``; HalfCheetah also ``states_i.npy`` and ``next_states_i.npy [N, S]``.

Assumed: rows are in the order of recording, so that an episode continues as long as every agent's next
observation is the observation of the row below (a recorder that interleaves episodes yields episodes of one
step, which are right but short); every end after exactly ``horizon`` steps is the time limit, which is the longest
episode where the path names no known environment; ``done`` on an earlier row is terminal; any other break is a
recording that was cut. Rewards stay per agent where they differ.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import pieces
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Bools
from marlzoo.data.formats._steps import (
    Layout,
    as_flags,
    make_spec,
    places,
    read_ends,
    reading,
    require,
    require_horizon,
    step_place,
    team_reward,
    visible_entries,
)
from marlzoo.errors import DataError
from marlzoo.system.zipped import NPY_FAULTS

_SEED = re.compile(r"seed_(\d+)_data")
_QUALITIES = ("random", "medium-replay", "medium", "expert")
# Environments whose last agent is the prey, which the methods do not control, with the number of their predators.
_WITH_PREY = {"simple_tag": 3, "simple_world": 3}
# Steps until the time limit.
_HORIZONS = {"HalfCheetah-v2": 1000, "simple_spread": 25, "simple_tag": 25, "simple_world": 25}


@dataclass(frozen=True)
class _Agent:
    """One agent's files, mapped into memory."""

    obs: NDArray[Any]
    action: NDArray[Any]
    reward: NDArray[Any]
    next_obs: NDArray[Any]
    done: NDArray[Any]
    state: NDArray[Any] | None
    next_state: NDArray[Any] | None


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is one seed's data, or holds those of several seeds."""
    folder = Path(path)
    return (folder / "obs_0.npy").is_file() or any(folder.glob("seed_*_data/obs_0.npy"))


def read_omar(
    path: str | os.PathLike[str],
    *,
    task: str = "",
    seed: int | None = None,
    agents: int | None = None,
    horizon: int | None = None,
    timeout_is_terminal: bool = False,
    limit_is_terminal: bool = True,
    action_clip: bool = True,
) -> Dataset:
    """Read one seed's folder, or all seeds' one after another.

    Args:
        path: ``seed_<k>_data``, or the folder above it.
        task: full task name; default: unknown.
        seed: which of several seeds to read, as the paper's runs do; default: all of them.
        agents: use the first so many agents; default: all, but without the prey of tag and world where the
            path names them and the files are of one agent more than the predators, or of one that sees less or more.
        horizon: time limit in steps; default: 1000 for HalfCheetah and 25 for the particle world, as the path
            tells, else the longest episode.
        timeout_is_terminal: count time-limit ends as terminal.
        limit_is_terminal: believe terminal flags at exactly the time limit; false reads them as time limits.
        action_clip: clip actions to [-1, 1]; a warning tells how many lay outside.

    Raises:
        DataError: a file is missing, damaged, or does not fit the others.
    """
    folder = Path(path)
    with reading(folder):
        require_horizon(horizon)
        named = folder.absolute().parts
        environment = next((part for part in named if part in _HORIZONS), "")
        known = horizon or _HORIZONS.get(environment)
        seeds = [_Seed.read(place, environment, agents) for place in _folders(folder, seed)]
        longest = max(int(found.joined.lengths.max()) for found in seeds)
        require(
            horizon is not None or known is None or longest <= known,
            f"{environment} ends after {known} steps, but here {longest} rows follow one another without a break; "
            "give the time limit of these data with the option horizon",
        )
        limit = known or longest
        dataset = _join(
            [found.arrays(limit) for found in seeds], limit, environment, task, named, action_clip
        )
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


def _folders(folder: Path, seed: int | None) -> list[Path]:
    require(folder.is_dir(), "is not a folder; give the folder that holds obs_0.npy")
    if (folder / "obs_0.npy").is_file():
        require(seed is None, "is the folder of one seed; leave the option seed out")
        return [folder]
    seeds = {
        int(match[1]): place for place in visible_entries(folder) if (match := _SEED.fullmatch(place.name))
    }
    require(bool(seeds), "holds neither obs_0.npy nor seed_<k>_data folders; give the folder that does")
    require(seed is None or seed in seeds, f"has no seed {seed}; it has {', '.join(map(str, sorted(seeds)))}")
    return [seeds[k] for k in sorted(seeds) if seed in (None, k)]


@dataclass(frozen=True)
class _Seed:
    """One folder: its agents, ``done`` of any of them ``[N]``, rows joined as far as nothing breaks them."""

    name: str
    team: list[_Agent]
    done: Bools
    joined: Layout
    notes: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, environment: str, agents: int | None) -> _Seed:
        """Open a folder's files and compare them with each other."""
        count = sum(1 for entry in visible_entries(folder) if re.fullmatch(r"obs_\d+\.npy", entry.name))
        require(count > 0, f"{folder.name} holds no obs_<i>.npy; fetch it again")
        used, notes = (agents, ()) if agents is not None else _without_prey(folder, environment, count)
        require(
            1 <= used <= count, f"has the files of {count} agents, not of {used}; change the option agents"
        )
        team = [_agent(folder, i) for i in range(used)]
        steps = len(team[0].obs)
        for i, agent in enumerate(team):
            for name, array in vars(agent).items():
                if array is not None and len(array) != steps:
                    raise DataError(
                        f"lengths differ: obs_0 has {steps} rows, {name} of agent {i} has {len(array)}"
                    )
            require(agent.action.shape == team[0].action.shape, f"actions of agent {i} have another size")
        done = np.zeros(steps, np.bool_)
        for i, agent in enumerate(team):
            done |= as_flags(np.asarray(agent.done), f"dones_{i}")
        return cls(folder.name, team, done, Layout.from_ends(_breaks(team, done)), notes)

    def arrays(self, horizon: int) -> dict[str, Any]:
        """Canonical arrays, where an episode has ``horizon`` steps at most."""
        layout = _cut(self.joined, horizon)
        done = self.done
        at_limit = layout.lengths == horizon
        return _arrays(self.team, layout) | {
            "name": self.name,
            "episodes": layout,
            "truncated": layout.at_last_step(at_limit),
            "terminal": layout.at_last_step(done[layout.lasts] & ~at_limit),
            "sizes": tuple(agent.obs.shape[1] for agent in self.team),
            "notes": self.notes,
        }


def _without_prey(folder: Path, environment: str, count: int) -> tuple[int, tuple[str, ...]]:
    """Number of controlled agents, and a note on the others."""
    predators = _WITH_PREY.get(environment)
    if predators is None or count == 1:
        return count, ()
    first, last = (_open(folder / f"obs_{i}.npy", 2) for i in (0, count - 1))
    if count == predators + 1 or first.shape[1] != last.shape[1]:
        return count - 1, (f"the first {count - 1} agents (predators); the prey is part of the environment",)
    return count, (f"all {count} agents are taken for predators: no file shows the prey of {environment}",)


def _arrays(team: list[_Agent], layout: Layout) -> dict[str, Any]:
    size = max(agent.obs.shape[1] for agent in team)
    obs = np.zeros((layout.rows, len(team), size), np.float32)
    for i, agent in enumerate(team):
        width = agent.obs.shape[1]
        obs[:, i, :width] = layout.place_array(agent.obs, np.float32, agent.next_obs[layout.lasts])
    first = team[0]
    state = None
    require(
        (first.state is None) == (first.next_state is None),
        "only one of states_0.npy and next_states_0.npy is there",
    )
    if first.state is not None and first.next_state is not None:
        state = layout.place_array(first.state, np.float32, first.next_state[layout.lasts])
    rewards = np.stack([np.asarray(agent.reward) for agent in team], axis=1)
    actions = [layout.place_array(agent.action, np.float32) for agent in team]
    return {
        "obs": obs,
        "state": state,
        "action": np.stack(actions, axis=1),
        "reward": layout.place_array(rewards, np.float32),
    }


def _breaks(team: list[_Agent], done: Bools) -> Bools:
    """Steps ``[N]`` after which the row below is no next step: ``done``, or another observation."""
    ends = done.copy()
    for agent in team:
        for begin, piece in pieces(agent.next_obs[:-1]):
            below = agent.obs[begin + 1 : begin + 1 + len(piece)]
            ends[begin : begin + len(piece)] |= (piece != below).any(axis=1)
    return ends


def _cut(joined: Layout, horizon: int) -> Layout:
    """Episodes that go on beyond the limit, cut there."""
    ends = np.zeros(joined.steps, np.bool_)
    ends[joined.lasts] = True
    for start, length in zip(joined.lasts - joined.lengths + 1, joined.lengths, strict=True):
        ends[start + horizon - 1 : start + length : horizon] = True
    return Layout.from_ends(ends)


def _agent(folder: Path, i: int) -> _Agent:
    state = folder / f"states_{i}.npy"
    next_state = folder / f"next_states_{i}.npy"
    agent = _Agent(
        obs=_open(folder / f"obs_{i}.npy", 2),
        action=_open(folder / f"acs_{i}.npy", 2),
        reward=_column(folder / f"rews_{i}.npy"),
        next_obs=_open(folder / f"next_obs_{i}.npy", 2),
        done=_column(folder / f"dones_{i}.npy"),
        state=_open(state, 2) if state.exists() else None,
        next_state=_open(next_state, 2) if next_state.exists() else None,
    )
    require(agent.obs.shape == agent.next_obs.shape, f"obs_{i}.npy and next_obs_{i}.npy differ in shape")
    if agent.state is not None and agent.next_state is not None:
        require(
            agent.state.shape == agent.next_state.shape, f"states_{i} and next_states_{i} differ in shape"
        )
    return agent


def _open(path: Path, *ranks: int) -> NDArray[Any]:
    """A npy file mapped into memory; it takes none before it is used."""
    require(path.is_file() or not path.exists(), f"{path.name} is not a file; fetch it again")
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is missing; fetch the folder again") from error
    except NPY_FAULTS as error:
        raise DataError(f"{path.name} is cut off, damaged or holds objects; fetch it again") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise DataError(f"{path.name} does not hold numbers; fetch it again")
    require(array.ndim in ranks, f"{path.name} has shape {array.shape}, expected {ranks[0]} dimensions")
    return array


def _column(path: Path) -> NDArray[Any]:
    """A file with one number per row, ``[N]`` or ``[N, 1]``."""
    array = _open(path, 1, 2)
    require(array.ndim == 1 or array.shape[1] == 1, f"{path.name} has shape {array.shape}, expected (N,)")
    return array.reshape(len(array))


def _join(
    parts: list[dict[str, Any]],
    horizon: int,
    environment: str,
    task: str,
    named: tuple[str, ...],
    action_clip: bool,
) -> Dataset:
    first = parts[0]
    several = len(parts) > 1
    for part in parts[1:]:
        same = part["sizes"] == first["sizes"] and part["action"].shape[1:] == first["action"].shape[1:]
        require(same, f"{part['name']} and {first['name']} differ in their sizes")
        states = (part["state"] is None) == (first["state"] is None)
        require(
            states,
            f"only one of {part['name']} and {first['name']} has states; use one of them (option seed)",
        )
    offsets = np.cumsum([0] + [len(part["obs"]) for part in parts[:-1]])
    arrays: dict[str, Any] = {
        name: np.concatenate([part[name] for part in parts]) if several else first[name]
        for name in ("obs", "action", "reward", "terminal", "truncated")
    }
    state = None if first["state"] is None else np.concatenate([part["state"] for part in parts])
    arrays["reward"], per_agent = team_reward(arrays["reward"])
    _, agents, size = first["obs"].shape
    spec = make_spec(
        n_agents=agents,
        obs_size=size,
        state_size=agents * size if state is None else state.shape[1],
        action_kind="continuous",
        action_size=first["action"].shape[2],
        horizon=horizon,
        obs_sizes=first["sizes"],
        reward_per_agent=per_agent,
    )
    starts = np.concatenate([part["episodes"].starts + k for part, k in zip(parts, offsets, strict=True)])

    def place(row: int) -> str:
        part = int(np.searchsorted(offsets, row, side="right")) - 1
        own = parts[part]
        return f"{step_place(own['episodes'], row - int(offsets[part]))} of {own['name']}"

    with places(place):
        return Dataset.create(
            spec,
            **arrays,
            state=state,
            starts=starts,
            card=_card(environment, task, named, horizon, parts),
            action_clip=action_clip,
        )


def _card(
    environment: str, task: str, named: tuple[str, ...], horizon: int, parts: list[dict[str, Any]]
) -> Card:
    notes = [
        "rows are taken to be in the order of recording: an episode continues where each agent's next "
        f"observation is that of the row below; ends after exactly {horizon} steps are time limits, earlier "
        "ones with done are terminal, all others are cut recordings"
    ]
    if len(parts) > 1:
        notes.append(f"the datasets of {len(parts)} seeds, one after another")
    notes += parts[0]["notes"]
    if environment:
        notes.append(f"environment {environment} is taken from the path")
    else:
        notes.append(
            "the path names no known environment; the time limit is the option horizon, or the longest episode"
        )
    quality = next((part for part in reversed(named) if part in _QUALITIES), "")
    engine = {"HalfCheetah-v2": "MuJoCo behind Gym -v2"}.get(environment, "multiagent-particle-envs")
    return Card(
        task=task,
        source="omar",
        quality=quality,
        engine=engine if environment else "",
        notes=tuple(notes),
    )
