"""Any environment with PettingZoo's parallel API as a task: :func:`from_parallel_env`.

Copies are separate objects stepped in turn, so this is as fast as the environment itself. What an environment may
have, and what becomes of it:

- observations: ``Box`` of any shape (flattened), ``Discrete`` (one-hot), or a ``Dict`` with ``observation`` and
  ``action_mask``; shorter ones are padded with zeros;
- actions: all ``Discrete``, or all ``Box`` with finite bounds, onto which [-1, 1] is mapped;
- legal actions: from ``observation["action_mask"]``, else ``info["action_mask"]``, else all;
- state: from ``state()`` where the environment has it, else all observations end to end;
- agents that are gone: see zeros, earn 0 and, where actions are discrete, may only take action 0, which is not
  passed on.

An episode is over when no agent is left. It ended by the time limit if the last agents were truncated, otherwise
it is terminal. The parallel API needs no package: any object with its methods will do.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs.base import BatchedEnv, Bools, Floats, Ids, Observation, Step
from marlzoo.errors import ConfigError, PluginError, SpecError
from marlzoo.spec import Spec

Reward = Literal["per_agent", "mean", "sum"]
_REWARDS: tuple[Reward, ...] = ("per_agent", "mean", "sum")


class ParallelEnv(Protocol):
    """The part of PettingZoo's parallel API that is used."""

    possible_agents: list[Any]
    agents: list[Any]

    def observation_space(self, agent: Any) -> Any:
        """A gymnasium space."""

    def action_space(self, agent: Any) -> Any:
        """A gymnasium space."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Observations and infos by agent."""

    def step(self, actions: dict[Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """Observations, rewards, terminations, truncations and infos by agent."""

    def close(self) -> None:
        """Free what it holds."""


def from_parallel_env(
    factory: Callable[[], Any],
    num_envs: int,
    *,
    task: str,
    horizon: int,
    reward: Reward = "per_agent",
    win_key: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> PettingZooEnv:
    """E copies of an environment with PettingZoo's parallel API.

    Args:
        factory: makes one environment.
        num_envs: number of copies E.
        task: full task name, ``family/name``.
        horizon: time limit in steps; give the environment's own, which is not part of the API. An episode that
            goes on longer is cut there.
        reward: ``per_agent``: each agent its own; ``mean`` or ``sum`` over agents: one team reward.
        win_key: entry of any agent's last info that says whether the episode was won; None: there is no winning.
        metadata: further properties that data and environment must share (plain values).

    Raises:
        ConfigError: an argument out of its range.
        SpecError: a space that is not covered.
        PluginError: a package that the environment needs is missing.
    """
    for name, value in (("copies", num_envs), ("horizon", horizon)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ConfigError(f"{task}: {name} must be a positive integer, got {value!r}")
    if reward not in _REWARDS:
        raise ConfigError(f"{task}: reward must be one of {', '.join(_REWARDS)}, got {reward!r}")
    try:
        envs = [factory() for _ in range(int(num_envs))]
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        remedy = f"install it: pip install {package}" if package else "install what it needs"
        raise PluginError(f"{task}: the environment cannot be imported ({error}); {remedy}") from error
    return PettingZooEnv(envs, task, int(horizon), reward, win_key, dict(metadata or {}))


class PettingZooEnv(BatchedEnv):
    """E copies; made by :func:`from_parallel_env`.

    Copies start with the random streams of ``seed([0, 1, ...])``. The k-th episode of a stream is reset with a seed
    made from the stream's and k.
    """

    def __init__(
        self,
        envs: Sequence[ParallelEnv],
        task: str,
        horizon: int,
        reward: Reward,
        win_key: str | None,
        metadata: dict[str, Any],
    ) -> None:
        self.task, self.num_envs, self.envs = task, len(envs), list(envs)
        self.can_win, self._win_key, self._reward = win_key is not None, win_key, reward
        self.agents = list(envs[0].possible_agents)
        self._views = [_View(task, envs[0].observation_space(agent)) for agent in self.agents]
        self._acts = [_Act(task, envs[0].action_space(agent)) for agent in self.agents]
        self.spec = self._make_spec(horizon)
        self.metadata = {"engine": "pettingzoo", "reward": reward, **_version("pettingzoo"), **metadata}
        self._obs = np.zeros((self.num_envs, len(self.agents), self.spec.obs_size), np.float32)
        self._state = np.zeros((self.num_envs, self.spec.state_size), np.float32)
        self._legal = np.zeros((self.num_envs, len(self.agents), self.spec.action_size), np.bool_)
        self._time = np.zeros(self.num_envs, np.int64)
        self.seed(range(self.num_envs))
        self.reset()
        self.seed(range(self.num_envs))

    def _make_spec(self, horizon: int) -> Spec:
        kinds = {act.discrete for act in self._acts}
        if len(kinds) != 1:
            raise SpecError(f"{self.task}: some agents have discrete actions and some continuous ones")
        obs_sizes = tuple(view.size for view in self._views)
        action_sizes = tuple(act.size for act in self._acts)
        self.envs[0].reset(seed=0)
        state = _state(self.envs[0])
        n = len(self.agents)
        return Spec(
            n_agents=n,
            obs_size=max(obs_sizes),
            state_size=n * max(obs_sizes) if state is None else max(state.size, 1),
            action_kind="discrete" if kinds.pop() else "continuous",
            action_size=max(action_sizes),
            horizon=horizon,
            obs_sizes=obs_sizes,
            action_sizes=action_sizes,
            reward_per_agent=self._reward == "per_agent",
        )

    def seed(self, seeds: Sequence[int]) -> None:  # noqa: D102
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{self.task}: {self.num_envs} copies need as many seeds, got {len(seeds)}")
        self._seeds = [int(seed) for seed in seeds]
        self._episode = [0] * self.num_envs

    def reset(self, ids: Ids | None = None) -> Observation:  # noqa: D102
        for copy in range(self.num_envs) if ids is None else np.unique(np.asarray(ids, np.intp)):
            mixed = np.random.SeedSequence([self._seeds[copy], self._episode[copy]]).generate_state(1)[0]
            seen, infos = self.envs[copy].reset(seed=int(mixed) >> 1)
            self._episode[copy] += 1
            self._time[copy] = 0
            self._show(copy, seen, infos)
        return self._shown(Observation)

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        """Advance the copies ``ids`` by one step.

        Raises:
            SpecError: wrong shape, or an action that is not legal or not finite; nothing has been stepped then.
        """
        spec, rows = (
            self.spec,
            np.arange(self.num_envs) if ids is None else np.unique(np.asarray(ids, np.intp)),
        )
        shape = (self.num_envs, spec.n_agents, *(() if spec.discrete else (spec.action_size,)))
        if action.shape != shape:
            raise SpecError(f"{self.task}: actions must have shape {shape}, got {action.shape}")
        self._refuse(action, rows)
        step = self._shown(Step)
        assert isinstance(step, Step)
        per_agent = (spec.n_agents,) if spec.reward_per_agent else ()
        step.reward = np.zeros((self.num_envs, *per_agent), np.float32)
        step.terminal, step.truncated = np.zeros((2, self.num_envs), np.bool_)
        if self.can_win:
            step.info["win"] = np.zeros(self.num_envs, np.bool_)
        for copy in rows:
            self._step_one(int(copy), action[copy], step)
        fresh = self._shown(Observation)
        step.obs, step.state, step.action_mask = fresh.obs, fresh.state, fresh.action_mask
        return step

    def _step_one(self, copy: int, action: NDArray[Any], step: Step) -> None:
        env = self.envs[copy]
        present = set(env.agents)
        chosen = {
            agent: act.native(action[i])
            for i, (agent, act) in enumerate(zip(self.agents, self._acts, strict=True))
            if agent in present
        }
        seen, rewards, _, truncations, infos = env.step(chosen)
        self._time[copy] += 1
        self._show(copy, seen, infos)
        earned = np.array([float(rewards.get(agent, 0.0)) for agent in self.agents])
        step.reward[copy] = {"per_agent": earned, "mean": earned.mean(), "sum": earned.sum()}[self._reward]
        over, late = not env.agents, self._time[copy] >= self.spec.horizon
        cut = any(truncations.get(agent, False) for agent in present)
        step.terminal[copy] = over and not cut
        step.truncated[copy] = (over and cut) or (late and not step.terminal[copy])
        if self._win_key is not None and (over or late):
            step.info["win"][copy] = any(bool(info.get(self._win_key, False)) for info in infos.values())

    def _show(self, copy: int, seen: Mapping[Any, Any], infos: Mapping[Any, Any]) -> None:
        """Take what one copy shows."""
        present = set(self.envs[copy].agents)
        self._obs[copy] = 0.0
        for i, (agent, view) in enumerate(zip(self.agents, self._views, strict=True)):
            # An agent that has just gone is shown for the last time: its value may follow.
            if agent in seen:
                self._obs[copy, i, : view.size] = view.flat(seen[agent])
            if self.spec.discrete:
                action_mask = _mask(seen.get(agent), infos.get(agent, {})) if agent in present else 0
                self._legal[copy, i] = self._acts[i].table(self.task, action_mask, self.spec.action_size)
        state = _state(self.envs[copy])
        self._state[copy] = self._obs[copy].ravel() if state is None else state

    def _shown(self, kind: type[Observation]) -> Observation:
        action_mask = self._legal.copy() if self.spec.discrete else None
        return kind(self._obs.copy(), self._state.copy(), action_mask)

    def _refuse(self, action: NDArray[Any], rows: Ids) -> None:
        taken = action[rows]
        if not self.spec.discrete:
            bad = ~np.isfinite(taken).all(axis=2)
            what = "is not finite"
        else:
            inside = (taken >= 0) & (taken < self.spec.action_size)
            action_mask: Bools = np.take_along_axis(
                self._legal[rows], np.where(inside, taken, 0)[..., None], -1
            )
            bad = ~(action_mask[..., 0] & inside)
            what = "is not legal there"
        if bad.any():
            k, agent = np.argwhere(bad)[0]
            raise SpecError(
                f"{self.task}: the action {taken[k, agent].tolist()} of agent {agent} in copy {rows[k]} {what}"
            )

    def close(self) -> None:
        """Close all copies."""
        for env in self.envs:
            env.close()


class _View:
    """How one agent's observations become a vector of ``size`` entries."""

    def __init__(self, task: str, space: Any) -> None:
        from gymnasium import spaces

        inner = space
        if isinstance(space, spaces.Dict) and "observation" in space.spaces:
            inner = space["observation"]
        if not isinstance(inner, spaces.Box | spaces.Discrete | spaces.MultiBinary):
            raise SpecError(
                f"{task}: observations in {inner} are not covered; wrap the environment so that they are a Box, a "
                "Discrete, or a Dict with 'observation' and 'action_mask'"
            )
        self._first = int(inner.start) if isinstance(inner, spaces.Discrete) else None
        self.size = int(inner.n) if isinstance(inner, spaces.Discrete) else int(np.prod(inner.shape))

    def flat(self, seen: Any) -> Floats:
        """A vector ``[size]``."""
        value = seen["observation"] if isinstance(seen, Mapping) else seen
        if self._first is not None:
            return np.asarray(np.arange(self.size) == int(value) - self._first, np.float32)
        return np.asarray(value, np.float32).ravel()


class _Act:
    """How one agent's actions are handed to the environment."""

    def __init__(self, task: str, space: Any) -> None:
        from gymnasium import spaces

        self.discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self.size, self._first = int(space.n), int(space.start)
            return
        if not isinstance(space, spaces.Box) or not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            raise SpecError(
                f"{task}: actions in {space} are not covered; wrap the environment so that they are Discrete or a "
                "Box with finite bounds"
            )
        self.size, self._space = int(np.prod(space.shape)), space

    def native(self, action: NDArray[Any]) -> Any:
        """The environment's action of an entry of ours."""
        if self.discrete:
            return int(action) + self._first
        low, high = self._space.low, self._space.high
        share = (np.clip(action[: self.size].astype(np.float64), -1.0, 1.0).reshape(low.shape) + 1.0) / 2.0
        return np.clip(low + share * (high.astype(np.float64) - low), low, high).astype(self._space.dtype)

    def table(self, task: str, mask: Any, width: int) -> Bools:
        """Legal actions ``[width]``: all for None, the first alone for 0, otherwise those of the mask."""
        action_mask = np.zeros(width, np.bool_)
        if mask is None:
            action_mask[: self.size] = True
        elif isinstance(mask, int):
            action_mask[mask] = True
        elif np.shape(mask) != (self.size,):
            raise SpecError(f"{task}: an action mask has shape {np.shape(mask)}, expected ({self.size},)")
        else:
            action_mask[: self.size] = np.asarray(mask) != 0
        return action_mask


def _mask(seen: Any, info: Mapping[str, Any]) -> Any:
    """An agent's mask of legal actions, or None."""
    if isinstance(seen, Mapping) and "action_mask" in seen:
        return seen["action_mask"]
    return info.get("action_mask")


def _state(env: Any) -> Floats | None:
    """The global state as a vector, or None where the environment has none."""
    if not hasattr(env, "state"):
        return None
    try:
        return np.asarray(env.state(), np.float32).ravel()
    except (NotImplementedError, AttributeError):  # the API's way, and some wrappers', of saying so
        return None


def _version(package: str) -> dict[str, str]:
    try:
        return {"engine_version": importlib.metadata.version(package)}
    except importlib.metadata.PackageNotFoundError:
        return {}
