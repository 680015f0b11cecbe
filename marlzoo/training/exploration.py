"""Exploration during fine-tuning: by all agents at once, or by about one at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.modules.policies import Policy, mask_logits
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.finetune_settings import Deviation


def deviating(kind: Deviation, epsilon: float, drawn: Tensor, free: Tensor) -> Tensor:
    """Which agents leave the policy's action, ``[..., N]`` bool.

    Args:
        kind: see :data:`Deviation`.
        epsilon: probability.
        drawn: uniform on [0, 1), ``[..., N + 1]``.
        free: ``[..., N]``, agents that have a choice; others (dead ones) never deviate.
    """
    agents = drawn[..., 1:]
    team = drawn[..., :1]
    if kind == "single":
        picked = torch.where(free, agents, -1.0).argmax(-1, keepdim=True)
        index = torch.arange(free.shape[-1], device=free.device)
        return free & (index == picked) & (team < epsilon)
    return free & (agents < (epsilon / free.shape[-1] if kind == "sequential" else epsilon))


class TeamExplorer:
    """Acts with a learner's policy, from which some agents deviate in each step.

    Discrete actions: a deviating agent takes any legal action. Continuous ones: normal noise is added.

    Args:
        algorithm: the learner.
        kind: who deviates.
        partner: policy that acts in place of the learner's in the replicas that ``trusted`` leaves out; None: none.

    Attributes:
        epsilon: probability of a deviation.
        sigma: standard deviation of a continuous one.
        trusted: ``[R]`` bool, replicas whose own policy acts.
    """

    def __init__(self, algorithm: Algorithm, kind: Deviation, partner: Policy | None = None) -> None:
        self.kind: Deviation = kind
        self.epsilon = self.sigma = 0.0
        self._policies = [algorithm.policy()] if partner is None else [algorithm.policy(), partner]
        self._used = algorithm.action_dimensions
        self._discrete = algorithm.spec.discrete
        self.trusted = torch.full((algorithm.replicas,), partner is None, device=algorithm.device)

    def explore(
        self, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom, fresh: Tensor
    ) -> Tensor:
        """Actions to collect with, see :class:`marlzoo.training.collector.Explorer`."""
        proposed = [self._act(policy, obs, action_mask, random, fresh) for policy in self._policies]
        action = proposed[0]
        lead = obs.shape[1:3]
        if len(proposed) > 1:
            own = self.trusted.view(-1, *(1,) * (action.ndim - 1))
            action = torch.where(own, action, proposed[1])
        free = torch.ones(obs.shape[:3], dtype=torch.bool, device=obs.device)
        if action_mask is not None:
            free = action_mask.sum(-1) > 1
        leaves = deviating(self.kind, self.epsilon, random.uniform(lead[0], lead[1] + 1), free)
        noise = random.draw("uniform" if self._discrete else "normal", *lead, self._used.shape[-1])
        if self._discrete:
            allowed = self._used > 0 if action_mask is None else action_mask
            action = torch.where(leaves, mask_logits(noise, allowed).argmax(-1), action)
        else:
            noisy = (action + self.sigma * noise * self._used).clamp(-1.0, 1.0)
            action = torch.where(leaves.unsqueeze(-1), noisy, action)
        for policy in self._policies:
            policy.took(action)
        return action

    @staticmethod
    def _act(
        policy: Policy, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom, fresh: Tensor
    ) -> Tensor:
        policy.reset(obs.shape[1], fresh)
        return policy.act(obs, action_mask, random if policy.stochastic else None)
