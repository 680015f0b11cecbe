"""Collecting: R learners step E copies each of one environment, all in lockstep, and keep what happened."""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Rollout
from marlzoo.config import ReplayConfig
from marlzoo.envs.base import BatchedEnv, Observation, Step
from marlzoo.envs.episodes import Play
from marlzoo.errors import ConfigError, SpecError
from marlzoo.replicas import ReplicaRandom, derive
from marlzoo.spec import ArrayLayout


class OnlineSettings(Protocol):
    """Settings that the configuration of an online method has."""

    @property
    def num_envs(self) -> int:
        """Copies E of the environment per replica."""

    @property
    def rollout(self) -> int:
        """Steps T of each copy between two updates."""

    @property
    def restart(self) -> int:
        """Updates after which all environments are reset."""


class Explorer(Protocol):
    """Methods that an online learner provides besides ``update`` and ``policy``."""

    def explore(
        self, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom, fresh: Tensor
    ) -> Tensor:
        """Actions to collect with; continuous ones may leave [-1, 1] and are executed clipped.

        ``fresh [R, E]`` marks the copies whose episode begins with this observation.
        """


def online_settings(algorithm: Algorithm) -> OnlineSettings:
    """The online settings of a learner.

    Raises:
        ConfigError: the method does not learn online.
    """
    if algorithm.sampling != "online":
        raise ConfigError(f"{algorithm.name} learns from a dataset, not online; use marlzoo.train")
    return cast(OnlineSettings, algorithm.config)


class Collector:
    """Steps R * E copies with R learners and keeps account of their episodes.

    All environments are reset every ``restart`` updates, from random streams named after the number of that
    restart: nothing of the simulator has to be saved for an exact resume from there. In the first episode
    after a restart, copy e is cut after about ``(e + 1) / E`` of the horizon, so that rollouts hold all
    phases of long episodes; such a cut counts as a time limit, and its return is left out of the curve.

    Args:
        algorithm: the learner.
        env: with ``R * num_envs`` copies of its task.
        settings: copies and steps; default: the learner's own, which an online method has.
        explorer: chooses the actions; default: the learner.

    Raises:
        SpecError: the environment's shape or number of copies does not fit the learner.
        ConfigError: no settings are given and the method does not learn online.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        env: BatchedEnv,
        settings: OnlineSettings | None = None,
        explorer: Explorer | None = None,
    ) -> None:
        settings = settings or online_settings(algorithm)
        spec = algorithm.spec
        self.algorithm = algorithm
        self.env = env
        self._explorer = explorer or cast(Explorer, algorithm)
        self.replicas = algorithm.replicas
        self.num_envs = settings.num_envs
        self.length = settings.rollout
        differences = spec.differences(env.spec)
        if differences:
            raise SpecError(f"{env.task} does not fit the learner: {'; '.join(differences)}")
        total = self.replicas * self.num_envs
        if env.num_envs != total:
            raise SpecError(
                f"{env.task}: {self.replicas} replicas with {self.num_envs} copies each need an environment of "
                f"{total} copies, got {env.num_envs}"
            )
        self._first = np.tile(
            (np.arange(self.num_envs) + 1) * spec.horizon // self.num_envs, self.replicas
        ).clip(1)
        self._arrays = self._buffers(total)

    def _buffers(self, total: int) -> dict[str, NDArray[Any]]:
        spec = self.algorithm.spec
        layout = spec.layout()
        number = ArrayLayout((), np.float32)
        seen: dict[str, ArrayLayout] = {
            name: layout[name] for name in ("obs", "state", "action_mask") if name in layout
        }
        arrays: dict[str, ArrayLayout] = {
            **seen,
            **{f"next_{name}": array for name, array in seen.items()},
            "action": layout["action"],
            **dict.fromkeys(("reward", "mask", "ends"), number),
        }
        if "agent_reward" in self.algorithm.fields:
            arrays["agent_reward"] = ArrayLayout((spec.n_agents,), np.float32)
        return {name: array.new(total, self.length) for name, array in arrays.items()}

    def restart(self, number: int) -> None:
        """Reset all environments, for the ``number``-th time (from 0)."""
        seeds = self.algorithm.seeds
        self.env.seed([derive(s, "online", number, e) for s in seeds for e in range(self.num_envs)])
        self._play = Play(self.env)
        self._random = ReplicaRandom(
            [derive(s, "online", number) for s in seeds],
            "explore",
            self.algorithm.device,
            self.algorithm.dtype,
        )
        self.learning = ReplicaRandom(
            [derive(s, "online", number) for s in seeds], "noise", self.algorithm.device, self.algorithm.dtype
        )
        self._limit = self._first.copy()
        self.finished: list[tuple[int, float, int]] = []  # (replica, return, length)

    @torch.no_grad()
    def collect(self, progress: float) -> Rollout:
        """The next T steps of every copy."""
        for t in range(self.length):
            self._keep(t, "", self._play.seen)
            step = self._play.step(self._act(t))
            self._keep(t, "next_", step)
            self._account(t, step)
        return self._rollout(progress)

    def _keep(self, t: int, prefix: str, seen: Observation) -> None:
        self._arrays[prefix + "obs"][:, t] = seen.obs
        self._arrays[prefix + "state"][:, t] = seen.state
        if "action_mask" in self._arrays:
            self._arrays[prefix + "action_mask"][:, t] = (
                True if seen.action_mask is None else seen.action_mask
            )

    def _act(self, t: int) -> NDArray[Any]:
        """Choose the team's actions ``[R * E, ...]``; what is executed is finite and in the box."""
        action_mask = None
        if "action_mask" in self._arrays:
            action_mask = self._tensor(self._arrays["action_mask"][:, t])
        obs = self._tensor(self._arrays["obs"][:, t])
        fresh = torch.from_numpy(self._play.lengths == 0).view(self.replicas, -1).to(self.algorithm.device)
        chosen = self._explorer.explore(obs, action_mask, self._random, fresh)
        action: NDArray[Any] = chosen.flatten(0, 1).cpu().numpy()
        self._arrays["action"][:, t] = action
        if self.algorithm.spec.discrete:
            return action
        finite: NDArray[Any] = np.nan_to_num(action, posinf=1.0, neginf=-1.0)  # a replica may diverge
        return finite.clip(-1.0, 1.0)

    def _account(self, t: int, step: Step) -> None:
        play = self._play
        over = step.terminal | step.truncated
        cut = ~over & (play.lengths >= self._limit)
        ends = over | cut
        ended = over if self.algorithm.config.timeout_is_terminal else step.terminal
        self._arrays["reward"][:, t] = play.reward
        self._arrays["mask"][:, t] = ~ended
        if "agent_reward" in self._arrays:  # the team's where there is one for all
            self._arrays["agent_reward"][:, t] = step.reward.reshape(len(over), -1)
        self._arrays["ends"][:, t] = ends
        if ends.any():
            ids = np.flatnonzero(ends)
            for k in np.flatnonzero(over):
                self.finished.append((int(k) // self.num_envs, float(play.returns[k]), int(play.lengths[k])))
            self._limit[ids] = self.algorithm.spec.horizon + 1  # from now on the environment's own limit
            play.restart(ids)

    def _rollout(self, progress: float) -> Rollout:
        fields = {name: self._tensor(array) for name, array in self._arrays.items()}
        fields["progress"] = torch.tensor(progress, dtype=self.algorithm.dtype, device=self.algorithm.device)
        # A method with a replay needs random numbers per batch, which the replay draws.
        replayed = isinstance(self.algorithm.config, ReplayConfig) or self.algorithm.sampling != "online"
        wanted = {} if replayed else self.algorithm.noise()
        noise = {name: self.learning.draw(kind, *shape) for name, (kind, shape) in wanted.items()}
        return cast(Rollout, Rollout.of(noise, **fields))

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """``[R * E, ...]`` on the host as ``[R, E, ...]`` on the device."""
        tensor = torch.from_numpy(array)
        dtype = self.algorithm.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.view(self.replicas, self.num_envs, *array.shape[1:]).to(self.algorithm.device, dtype)
