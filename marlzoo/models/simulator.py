"""A simulator in the place of a world model: what a perfect model would give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marlzoo.envs.base import BatchedEnv, Resimulation
from marlzoo.errors import ConfigError
from marlzoo.families import make_env
from marlzoo.models.rollouts import Outcome
from marlzoo.models.world_model import Uncertainty
from marlzoo.spec import Spec


class Simulator:
    """Steps from recorded frames in the task's own simulator; its uncertainty is 0.

    Frames are all agents' observations end to end. The simulator must be able to go on from them: from the
    observations, or from the state where that is the observations.

    Raises:
        ConfigError: the task is not named, or its simulator cannot start from a recorded frame.
    """

    def __init__(self, spec: Spec) -> None:
        if not spec.task:
            raise ConfigError(
                "model=perfect: the learner's spec names no task; give it with --task, or use model=learned"
            )
        self._spec = spec
        self._env = make_env(spec.task, 1)
        if not _replayable(self._env):
            raise ConfigError(
                f"{spec.task}: its simulator cannot start from recorded observations, as a world model must; use "
                "model=learned"
            )

    def step(self, frame: Tensor, action: Tensor, uniform: Tensor) -> Outcome:
        """One step of all copies; see :class:`marlzoo.models.rollouts.Dynamics`. Waits for the device."""
        n = self._spec.n_agents
        size = self._spec.obs_size
        seen = frame.flatten(0, 1).cpu().numpy().astype("float32")
        done: Any = action.flatten(0, 1).cpu().numpy()
        found = self._simulated(seen, done, (n, size))

        def tensor(values: Any) -> Tensor:
            return torch.from_numpy(values).view(*frame.shape[:2], *values.shape[1:]).to(frame)

        reward = tensor(found.reward)
        per_agent = reward if reward.ndim == 3 else reward.unsqueeze(-1).expand(-1, -1, n)
        zero = torch.zeros_like(frame[..., 0])
        after = tensor(found.next_obs).flatten(-2)
        return Outcome(after, per_agent, 1.0 - tensor(found.terminal), Uncertainty(zero, zero, zero))

    def _simulated(self, seen: Any, action: Any, shape: tuple[int, int]) -> Resimulation:
        if _from_states(self._env):
            return self._env.replay_states(seen, action)
        return self._env.replay(seen.reshape(-1, *shape), action)


def _replayable(env: BatchedEnv) -> bool:
    """Whether a simulator can be set to the observations of all agents."""
    return env.replayable or _from_states(env)


def _from_states(env: BatchedEnv) -> bool:
    """Whether its states can be replayed and are the observations end to end, as frames are."""
    spec = env.spec
    return env.state_replayable and spec.state_size == spec.n_agents * spec.obs_size
