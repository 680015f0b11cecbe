"""What the references of IQL, MAIQL, SQL and EQL share: values and likelihoods of the data's own actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference import policies
from tests.reference.blocks import mlp
from tests.reference.harness import Replica, Seen
from tests.reference.networks import numbers

Pair = tuple[int, int]  # sample and agent


class Team:
    """The agents' networks on batches of observations.

    Args:
        own: the replica.
        prefix: of the modules' names.
        log_std: bounds of the policy's log standard deviation.
    """

    def __init__(self, own: Replica, prefix: str = "", log_std: tuple[float, float] = (-5.0, 2.0)) -> None:
        self.own, self.prefix, self.log_std = own, prefix, log_std
        self.shared = getattr(own.config, "share_agents", True)
        self.agents = range(own.spec.n_agents)

    def outputs(self, module: str, *member: int, x: Tensor) -> Tensor:
        """``[B, N, in] -> [B, N, out]``, every agent through the network that it has."""
        name = self.prefix + module
        if self.shared:
            return mlp(self.own.layers(name, *member), x)
        return torch.stack([mlp(self.own.layers(name, *member, i), x[:, i]) for i in self.agents], dim=1)

    def q(self, module: str, twin: int, obs: Tensor, action: Tensor) -> Tensor:
        """Values ``[B, N]`` of ``action [B, N(, A)]``."""
        seen = torch.cat((obs, numbers(obs)), dim=-1)
        if not self.own.spec.discrete:
            return self.outputs(module, twin, x=torch.cat((seen, action), dim=-1))[..., 0]
        every = self.outputs(module, twin, x=seen)
        rows = [torch.stack([every[b, i, action[b, i]] for i in self.agents]) for b in range(len(obs))]
        return torch.stack(rows)

    def least_target_q(self, obs: Tensor, action: Tensor) -> Tensor:
        """The smaller of the twins' targets, ``[B, N]``, without gradient."""
        return torch.minimum(*(self.q("target_q", twin, obs, action) for twin in (0, 1))).detach()

    def v(self, obs: Tensor) -> Tensor:
        """Values ``[B, N]`` of observations."""
        return self.outputs("v", x=torch.cat((obs, numbers(obs)), dim=-1))[..., 0]

    def log_probs(self, batch: Any) -> Tensor:
        """Log probabilities (densities) of the data's actions, ``[B, N]``."""
        outputs = policies.heads(self.own, self.prefix + "actor", batch, not self.shared)
        return policies.data_log_probs(self.own, outputs, batch, bounds=self.log_std)

    def act(self, past: Sequence[Seen]) -> list[Any]:
        """Every agent's mode in the last step."""
        return policies.act(self.own, self.prefix + "actor", past, not self.shared)


def steps_within(own: Replica, batch: Any) -> Any:
    """A batch of transitions whose continuous actions keep ``action_margin`` to the bounds."""
    batch = policies.steps(batch)
    if not own.spec.discrete:
        most = 1.0 - own.config.action_margin
        batch.action = batch.action.clamp(-most, most)
    return batch


def expectile_loss(u: Tensor, expectile: float) -> Tensor:
    """``|expectile - 1(u < 0)| u^2``."""
    return (1.0 - expectile if u.item() < 0.0 else expectile) * u**2
