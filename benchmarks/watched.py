"""A policy that a study looks over the shoulder of: what it saw last stays readable after an evaluation."""

from __future__ import annotations

from torch import Tensor

from marlzoo.modules.policies import Policy
from marlzoo.replicas import ReplicaRandom


class Watched(Policy):
    """A policy whose last observations are kept.

    Args:
        policy: acts.

    Attributes:
        seen: what it acted on last, ``[R, E, N, O]``: the observations before an episode's last action.
    """

    seen: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.stochastic = policy.stochastic

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:  # noqa: D102
        self.policy.reset(num_envs, ids)

    def receive(self, reward: Tensor) -> None:  # noqa: D102
        self.policy.receive(reward)

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        """Acts as the policy does."""
        self.seen = obs.clone()  # the environment writes the next ones into the same memory
        action: Tensor = self.policy.act(obs, action_mask, random)
        return action
