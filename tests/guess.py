"""A small game that online methods must learn: every agent names a number that it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.spec import ActionKind, Spec


class Guess(BatchedEnv):
    """Two agents name a number (or a bit) that they see; best return 1 per step.

    Both must be right at once where actions are discrete, and action 2 is never legal.
    """

    def __init__(self, num_envs: int, kind: ActionKind, horizon: int = 5) -> None:
        self.task, self.num_envs, self.metadata = f"toy/guess-{kind}", num_envs, {}
        self.spec = Spec(2, 3, 6, kind, 1 if kind == "continuous" else 3, horizon)
        self.seed(range(num_envs))

    def seed(self, seeds: Sequence[int]) -> None:
        self._rng = [np.random.default_rng(s) for s in seeds]
        self._hidden, self._t = np.zeros((self.num_envs, 2)), np.zeros(self.num_envs, int)

    def _show(self) -> Observation:
        if self.spec.discrete:
            obs = np.stack([self._hidden == 0, self._hidden == 1, 0 * self._hidden], -1)
            action_mask = np.ones((self.num_envs, 2, 3), bool)
            action_mask[..., 2] = False
        else:
            obs, action_mask = np.stack([self._hidden, 0 * self._hidden, 0 * self._hidden + 1], -1), None
        obs = obs.astype(np.float32)
        return Observation(obs, obs.reshape(self.num_envs, -1), action_mask)

    def _draw(self, ids: Ids) -> None:
        for k in ids:
            draw = self._rng[k]
            self._hidden[k] = draw.integers(2, size=2) if self.spec.discrete else draw.uniform(-0.8, 0.8, 2)

    def reset(self, ids: Ids | None = None) -> Observation:
        rows = np.arange(self.num_envs) if ids is None else ids
        self._draw(rows)
        self._t[rows] = 0
        return self._show()

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        if self.spec.discrete:
            assert (action < 2).all()
            reward = (action == self._hidden).all(-1).astype(np.float32)
        else:
            assert np.abs(action).max() <= 1.0
            reward = (1 - np.square(action[..., 0] - self._hidden).mean(-1)).astype(np.float32)
        self._t += 1
        self._draw(np.arange(self.num_envs))
        seen = self._show()
        done = self._t >= self.spec.horizon
        return Step(
            seen.obs,
            seen.state,
            seen.action_mask,
            reward=reward,
            terminal=np.zeros_like(done),
            truncated=done,
        )
