"""Ad hoc teams: members of several teams play together, all compositions in lockstep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.modules.policies import Policy
from marlzoo.replicas import Kind, PrefetchedRandom, ReplicaRandom


class AdHocTeams(Policy):
    """C compositions of the replicas of some learners; acts like C policies.

    Every team acts in the compositions that it has a member in, so agents with a history keep one per composition.
    Policies that act by sampling draw the same noise in every composition: a team composed of equal teams returns
    exactly what these do.

    Args:
        learners: their replicas are the teams, numbered in order.
        compositions: ``[C, N]``, the team that supplies each agent.
        seed: of the noise of policies that act by sampling.
    """

    def __init__(self, learners: Sequence[Algorithm], compositions: NDArray[np.int64], seed: int = 0) -> None:
        super().__init__()
        first = np.cumsum([0, *(learner.replicas for learner in learners)])
        self._parts = [
            _Part(learner, compositions - int(start), seed)
            for learner, start in zip(learners, first, strict=False)
        ]

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        """Forget the past of all copies.

        Raises:
            NotImplementedError: some copies only.
        """
        if ids is not None:
            raise NotImplementedError("compositions start their episodes together")
        for part in self._parts:
            part.reset(num_envs)

    def receive(self, reward: Tensor) -> None:  # noqa: D102
        for part in self._parts:
            part.receive(reward)

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        """``obs [C, E, N, O]`` to actions; each agent's come from its own team."""
        del random  # each learner has its own
        action: Tensor | None = None
        for part in self._parts:
            action = part.act(obs, action_mask, action)
        assert action is not None
        return action


class _Part:
    """One learner's replicas in the compositions that they take part in."""

    def __init__(self, learner: Algorithm, compositions: NDArray[np.int64], seed: int) -> None:
        self._policy = learner.policy()
        self._dtype = learner.dtype
        self._device = learner.device
        self._seeds = [seed] * learner.replicas
        self._random: _Common | None = None
        taking = [np.flatnonzero((compositions == r).any(1)) for r in range(learner.replicas)]
        self._width = max(1, max(map(len, taking)))
        rows = np.zeros((learner.replicas, self._width), np.int64)  # [R, K]; what is too short is filled up
        for r, own in enumerate(taking):
            rows[r, : len(own)] = own
        self._rows = torch.from_numpy(rows).to(self._device)
        where, agent = np.nonzero((compositions >= 0) & (compositions < learner.replicas))
        replica = compositions[where, agent]
        place = np.array(
            [np.searchsorted(taking[r], c) for r, c in zip(replica, where, strict=True)], np.int64
        )
        found = (torch.from_numpy(index).to(self._device) for index in (replica, place, where, agent))
        self._replica, self._place, self._composition, self._agent = found

    def reset(self, num_envs: int) -> None:
        if self._policy.stochastic:
            self._random = _Common(self._seeds, self._width, num_envs, self._device, self._dtype)
        self._policy.reset(self._width * num_envs)

    def receive(self, reward: Tensor) -> None:
        self._policy.receive(reward[self._rows].flatten(1, 2).to(self._dtype))

    def act(self, obs: Tensor, action_mask: Tensor | None, action: Tensor | None) -> Tensor:
        """Fill in what this learner's agents do."""
        own = obs[self._rows].flatten(1, 2).to(self._dtype)
        mask = None if action_mask is None else action_mask[self._rows].flatten(1, 2)
        acted = self._policy.act(own, mask, self._random)
        acted = acted.reshape(len(acted), self._width, -1, *acted.shape[2:])
        if action is None:
            action = acted.new_zeros(*obs.shape[:3], *acted.shape[4:])
        chosen = acted[self._replica, self._place, :, self._agent]
        action[self._composition, :, self._agent] = chosen.to(action.dtype)
        return action


class _Common(PrefetchedRandom):
    """The same numbers for all compositions of a team.

    Policies ask for ``[..., E, N, n]``; the axes in front of the environments are those of samples to choose from.
    """

    def __init__(
        self, seeds: Sequence[int], width: int, num_envs: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(seeds, "act", device, dtype)
        self._width = width
        self._num_envs = num_envs

    def draw(self, kind: Kind, *shape: int) -> Tensor:
        place = max(0, len(shape) - 3)
        if not shape or shape[place] != self._width * self._num_envs:
            return super().draw(kind, *shape)
        drawn = super().draw(kind, *shape[:place], self._num_envs, *shape[place + 1 :])
        times = [1] * drawn.ndim
        times[1 + place] = self._width  # after the axis of replicas
        return drawn.repeat(times)
