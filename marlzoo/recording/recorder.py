"""Recording of episodes that your own program plays in an environment with PettingZoo's parallel API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.dataset import Dataset
from marlzoo.envs.base import Observation
from marlzoo.envs.pettingzoo import PettingZooEnv, Reward, from_parallel_env
from marlzoo.errors import DataError


class Recorder:
    """Wraps an environment with the parallel API, and keeps every episode played through it.

    Use it in the environment's place: ``reset`` and ``step`` return what the environment returns. Observations,
    masks and states are kept as :func:`marlzoo.envs.pettingzoo.from_parallel_env` shows them to learners, so that
    the data fit the environment.

    Args:
        env: the environment.
        task: full task name, ``family/name``, under which it is registered.
        horizon: time limit in steps.
        reward: ``per_agent``, or one team reward: the ``mean`` or ``sum`` over agents.

    Raises:
        SpecError: a space that is not covered.
    """

    def __init__(self, env: Any, task: str, horizon: int, reward: Reward = "per_agent") -> None:
        self.env = env
        self._played = _Played(env)
        self._adapter: PettingZooEnv = from_parallel_env(
            lambda: self._played, 1, task=task, horizon=horizon, reward=reward
        )
        self.spec = self._adapter.spec
        self._episodes: list[dict[str, Any]] = []
        self._open: dict[str, list[Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Start an episode; one that was not over is kept as a cut one."""
        self._close(terminal=False, truncated=False)
        answer: tuple[Any, Any] = self.env.reset(seed=seed, options=options)
        self._played.answer = answer
        self._open = {name: [] for name in ("obs", "state", "action_mask", "action", "reward")}
        self._see(self._adapter.reset())
        return answer

    def step(self, actions: Mapping[Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """Advance the episode by one step.

        Raises:
            DataError: there is no episode; call ``reset`` first.
        """
        if self._open is None:
            raise DataError("there is no episode to record; call reset first")
        action = self._adapter.canonical(actions)
        self._played.acting = list(self.env.agents)
        answer: tuple[Any, Any, Any, Any, Any] = self.env.step(actions)
        self._played.answer = answer
        step = self._adapter.step(action[None])
        self._open["action"].append(action)
        self._open["reward"].append(step.reward[0].copy())
        self._see(step)
        if step.terminal[0] or step.truncated[0]:
            self._close(bool(step.terminal[0]), bool(step.truncated[0]))
        return answer

    def dataset(self, quality: str = "", source: str = "own") -> Dataset:
        """Everything recorded so far, the open episode as a cut one.

        Raises:
            DataError: no step was recorded.
        """
        self._close(terminal=False, truncated=False)
        return Dataset.from_episodes(
            self._episodes, spec=self.spec, task=self._adapter.task, quality=quality, source=source
        )

    def _see(self, seen: Observation) -> None:
        assert self._open is not None
        self._open["obs"].append(seen.obs[0].copy())
        self._open["state"].append(seen.state[0].copy())
        if seen.action_mask is not None:
            self._open["action_mask"].append(seen.action_mask[0].copy())

    def _close(self, terminal: bool, truncated: bool) -> None:
        if self._open is not None and self._open["action"]:
            arrays: dict[str, NDArray[Any]] = {k: np.stack(v) for k, v in self._open.items() if v}
            self._episodes.append({**arrays, "terminal": terminal, "truncated": truncated})
        self._open = None


class _Played:
    """The environment as the adapter sees it: what ``reset`` and ``step`` return has been played already."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.answer: Any = None
        self.acting: list[Any] | None = None  # the agents before a step that the adapter has not seen yet

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    @property
    def agents(self) -> list[Any]:
        """The agents that the adapter shall find now."""
        return list(self.env.agents) if self.acting is None else self.acting

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """The answer that was played; the environment's own while the adapter looks at its spaces."""
        return self.env.reset(seed=seed, options=options) if self.answer is None else self.answer

    def step(self, actions: dict[Any, Any]) -> Any:
        """The answer that was played."""
        self.acting = None
        return self.answer
