"""Small datasets, files and environments that the tests of the data layer share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.envs.base import BatchedEnv, Floats, Ids, Observation, Resimulation, Step
from marlzoo.spec import Spec

SPEC = Spec(n_agents=2, obs_size=3, state_size=6, action_kind="continuous", action_size=2, horizon=50)
DISCRETE = Spec(n_agents=2, obs_size=3, state_size=5, action_kind="discrete", action_size=4, horizon=50)
CARD = Card("toy/point", "tests", "random", engine="toy 1", options={"gain": 0.5})


def author_arrays(d: Sequence[float] = (0, 0, 1, 0, 0, 0, 1), seed: int = 0) -> dict[str, NDArray[Any]]:
    """Arrays as OMIGA's authors store them, float64, states equal to observations."""
    rng, rows = np.random.default_rng(seed), len(d)
    o = rng.standard_normal((rows, 2, 3))
    return {
        "o": o,
        "s": o.copy(),
        "a": rng.uniform(-1, 1, (rows, 2, 2)),
        "r": rng.standard_normal((rows, 1)),
        "d": np.asarray(d, np.float64)[:, None],
    }


def write_h5(path: Path, arrays: dict[str, NDArray[Any]], **settings: Any) -> Path:
    """An HDF5 file with these root arrays."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **settings)
    return path


def parts(lengths: Sequence[int] = (2, 3, 4), seed: int = 0, spec: Spec = SPEC) -> dict[str, Any]:
    """Arguments of ``Dataset.create``: episodes of these lengths ending terminal, by the limit, or cut in turn."""
    rng = np.random.default_rng(seed)
    steps = np.asarray(lengths)
    rows = int(steps.sum()) + len(steps)
    starts = np.append(0, np.cumsum(steps + 1)[:-1])
    last = starts + steps - 1
    n, size = spec.n_agents, spec.action_size
    values: dict[str, Any] = {
        "obs": rng.standard_normal((rows, n, spec.obs_size)).astype(np.float32),
        "reward": rng.standard_normal(rows).astype(np.float32),
        "terminal": np.isin(np.arange(rows), last[0::3]),
        "truncated": np.isin(np.arange(rows), last[1::3]),
        "starts": starts,
    }
    if spec.discrete:
        values["action"] = rng.integers(0, size, (rows, n))
        action_mask = rng.random((rows, n, size)) < 0.5
        np.put_along_axis(action_mask, values["action"][..., None], True, axis=2)
        values |= {
            "action_mask": action_mask,
            "state": rng.standard_normal((rows, spec.state_size)).astype(np.float32),
        }
    else:
        real = np.arange(size) < np.asarray(spec.action_sizes)[:, None]
        values["action"] = (rng.uniform(-1, 1, (rows, n, size)) * real).astype(np.float32)
    return values


def sample(lengths: Sequence[int] = (2, 3, 4), seed: int = 0, spec: Spec = SPEC, **changes: Any) -> Dataset:
    """A dataset of :func:`parts`, some of them replaced."""
    return Dataset.create(spec, **{"card": CARD} | parts(lengths, seed, spec) | changes)


class Point(BatchedEnv):
    """Two agents push a point: next x = x + gain * (mean action, 0); replayable, ends where x[0] > 2."""

    def __init__(
        self, num_envs: int = 1, gain: float = 0.5, task: str = "toy/point", spec: Spec = SPEC
    ) -> None:
        self.task, self.spec, self.num_envs = task, spec, num_envs
        self.gain, self.replayable = gain, True
        self.metadata = {"gain": gain, "engine_version": "1.2.0"}
        self._rng = np.random.default_rng(0)
        self._obs: Floats = np.zeros((num_envs, 2, 3), np.float32)
        self._time = np.zeros(num_envs, np.int64)

    def seed(self, seeds: Sequence[int]) -> None:
        self._rng = np.random.default_rng(list(seeds))

    def reset(self, ids: Ids | None = None) -> Observation:
        rows = np.arange(self.num_envs) if ids is None else ids
        self._obs[rows] = self._rng.standard_normal((len(rows), 1, 3)).astype(np.float32)
        self._time[rows] = 0
        return Observation(self._obs, self._obs.reshape(self.num_envs, -1))

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        result = self.replay(self._obs, action)
        self._obs = result.next_obs
        self._time += 1
        limit = (self._time >= self.spec.horizon) & ~result.terminal
        return Step(
            self._obs, self._obs.reshape(self.num_envs, -1), None, result.reward, result.terminal, limit
        )

    def replay(self, obs: Floats, action: NDArray[Any]) -> Resimulation:
        push = np.zeros((len(obs), 1, 3), np.float32)
        push[:, 0, :2] = self.gain * action.mean(axis=1)
        after = (obs + push).astype(np.float32)
        reward = (push[:, 0, 0] - 0.1 * np.square(action).sum(axis=(1, 2))).astype(np.float32)
        return Resimulation(after, reward, after[:, 0, 0] > 2, np.abs(obs).max(axis=(1, 2)) < 9)


def record(env: BatchedEnv, episodes: int = 40, seed: int = 0, card: Card = CARD) -> Dataset:
    """Episodes of a one-copy environment under uniform random actions."""
    rng, columns = np.random.default_rng(seed), [[], [], [], [], []]  # type: ignore[var-annotated]
    starts = []
    env.seed([seed])
    blank = np.zeros((env.spec.n_agents, env.spec.action_size), np.float32)
    for _ in range(episodes):
        starts.append(len(columns[0]))
        obs, over = env.reset().obs[0].copy(), False
        while not over:
            action = rng.uniform(-1, 1, blank.shape).astype(np.float32)
            step = env.step(action[None])
            over = bool(step.terminal[0] | step.truncated[0])
            row = (obs, action, step.reward[0], step.terminal[0], step.truncated[0])
            for column, value in zip(columns, row, strict=True):
                column.append(value)
            obs = step.obs[0].copy()
        for column, value in zip(columns, (obs, blank, 0.0, False, False), strict=True):
            column.append(value)
    names = ("obs", "action", "reward", "terminal", "truncated")
    arrays = {name: np.array(column) for name, column in zip(names, columns, strict=True)}
    return Dataset.create(env.spec, **arrays, starts=starts, card=card)
