"""A small random task with logged data, for both action kinds, that methods are tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.spec import ActionKind, Spec

HORIZON = 12


def toy_spec(kind: ActionKind = "continuous", n_agents: int = 3) -> Spec:
    """Three agents (or fewer), observation 5, state 7; continuous agents differ in size."""
    sizes = (2, 1, 2)[:n_agents] if kind == "continuous" else (4,) * n_agents
    return Spec(n_agents, 5, 7, kind, max(sizes), HORIZON, action_sizes=sizes)


def toy_dataset(
    kind: ActionKind = "continuous", episodes: int = 30, seed: int = 0, nan_row: int | None = None
) -> Dataset:
    """Random episodes of 4 to 12 steps: some end, some reach the time limit, one is cut.

    Args:
        kind: of the actions.
        episodes: how many.
        seed: of everything.
        nan_row: observations from this row on are NaN.
    """
    rng = np.random.default_rng(seed)
    spec = toy_spec(kind)
    lengths = rng.integers(4, HORIZON + 1, episodes)
    starts = np.concatenate(([0], np.cumsum(lengths + 1)[:-1]))
    rows = int((lengths + 1).sum())
    terminal = np.zeros(rows, bool)
    truncated = np.zeros(rows, bool)
    for k, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        if k:  # the first episode is cut: neither flag
            (truncated if length == HORIZON else terminal)[start + length - 1] = True
    action_mask = None
    if kind == "discrete":
        action_mask = rng.random((rows, 3, 4)) < 0.7
        action_mask[..., 0] |= ~action_mask.any(-1)
        action: NDArray[Any] = np.where(action_mask, rng.random(action_mask.shape), -1.0).argmax(-1)
    else:
        used = spec.own_actions
        action = (rng.uniform(-1, 1, (rows, 3, 2)) * used).astype(np.float32)
    dataset = Dataset.create(
        spec,
        obs=rng.normal(size=(rows, 3, 5)).astype(np.float32),
        state=rng.normal(size=(rows, 7)).astype(np.float32),
        action=action,
        reward=rng.normal(size=rows).astype(np.float32),
        terminal=terminal,
        truncated=truncated,
        starts=starts,
        action_mask=action_mask,
        card=Card(task="toy/walk", source="test", quality=f"seed{seed}"),
    )
    if nan_row is not None:
        dataset.obs[nan_row:] = np.nan  # after the checks, which would refuse it
    return dataset


class ToyEnv(BatchedEnv):
    """A random walk whose reward is how close the team's actions are to the first observation entries.

    Continuous actions outside the box and illegal discrete ones are an ``AssertionError``.
    """

    def __init__(self, num_envs: int, kind: ActionKind = "continuous") -> None:
        self.task = "toy/walk"
        self.spec = toy_spec(kind)
        self.num_envs = num_envs
        self.metadata = {}
        self.can_win = kind == "discrete"
        self.seed(range(num_envs))
        self._obs = np.zeros((num_envs, 3, 5), np.float32)
        self._t = np.zeros(num_envs, int)

    def seed(self, seeds: Sequence[int]) -> None:  # noqa: D102
        self._rng = [np.random.default_rng(s) for s in seeds]

    def reset(self, ids: Ids | None = None) -> Observation:  # noqa: D102
        for k in range(self.num_envs) if ids is None else ids:
            self._obs[k] = self._rng[k].normal(size=(3, 5))
            self._t[k] = 0
        return Observation(self._obs.copy(), self._state(), self._legal())

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:  # noqa: D102
        live = np.zeros(self.num_envs, bool)
        live[slice(None) if ids is None else ids] = True
        if self.spec.discrete:
            action_mask = self._legal()
            assert action_mask is not None
            taken = np.take_along_axis(action_mask, action[..., None], -1)[..., 0]
            assert taken[live].all(), "an illegal action was taken"
            reward = -np.abs(action - 1.0).mean(-1)
        else:
            assert np.abs(action).max() <= 1.0
            reward = -np.square(action - self._obs[..., :2]).mean((1, 2))
        self._t[live] += 1
        self._obs[live] = np.roll(self._obs[live], 1, axis=-1)
        done = live & (self._t >= HORIZON)
        info = {"win": done & (reward > -1)} if self.can_win else {}
        return Step(
            self._obs.copy(),
            self._state(),
            self._legal(),
            reward=np.where(live, reward, 0).astype(np.float32),
            terminal=np.zeros(self.num_envs, bool),
            truncated=done,
            info=info,
        )

    def _state(self) -> NDArray[np.float32]:
        return self._obs.reshape(self.num_envs, -1)[:, :7].copy()

    def _legal(self) -> NDArray[np.bool_] | None:
        if not self.spec.discrete:
            return None
        action_mask: NDArray[np.bool_] = np.abs(self._obs[..., :4]) < 1.0
        action_mask[..., 0] |= ~action_mask.any(-1)
        return action_mask


@dataclass(frozen=True)
class Toys:
    """Task and data for the tests of methods; replace it for a method that needs others.

    Attributes:
        spec: ``spec(kind)``, the task's shape.
        dataset: ``dataset(kind, episodes=..., seed=..., nan_row=...)``, logged data; all arguments but the
            first may be left out.
        env: ``env(num_envs, kind)``, with episodes of at most ``spec(kind).horizon`` steps.
    """

    spec: Callable[[ActionKind], Spec] = toy_spec
    dataset: Callable[..., Dataset] = toy_dataset
    env: Callable[[int, ActionKind], BatchedEnv] = ToyEnv


TOYS = Toys()
