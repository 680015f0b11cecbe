"""What the references of IQL, MAIQL, SQL and EQL share: values and likelihoods of the data's own actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import Layers, best_legal, linear, log_softmax, mlp, tanh_gaussian_log_density
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

    def outputs(self, net: Callable[..., Tensor], module: str, *member: int, x: Tensor) -> Tensor:
        """``[B, N, in] -> [B, N, out]``, every agent through the network that it has."""
        name = self.prefix + module
        if self.shared:
            return net(self.own.layers(name, *member), x)
        return torch.stack([net(self.own.layers(name, *member, i), x[:, i]) for i in self.agents], dim=1)

    def q(self, module: str, twin: int, obs: Tensor, action: Tensor) -> Tensor:
        """Values ``[B, N]`` of ``action [B, N(, A)]``."""
        seen = torch.cat((obs, numbers(obs)), dim=-1)
        if not self.own.spec.discrete:
            return self.outputs(mlp, module, twin, x=torch.cat((seen, action), dim=-1))[..., 0]
        every = self.outputs(mlp, module, twin, x=seen)
        rows = [torch.stack([every[b, i, action[b, i]] for i in self.agents]) for b in range(len(obs))]
        return torch.stack(rows)

    def least_target_q(self, obs: Tensor, action: Tensor) -> Tensor:
        """The smaller of the twins' targets, ``[B, N]``, without gradient."""
        return torch.minimum(*(self.q("target_q", twin, obs, action) for twin in (0, 1))).detach()

    def v(self, obs: Tensor) -> Tensor:
        """Values ``[B, N]`` of observations."""
        return self.outputs(mlp, "v", x=torch.cat((obs, numbers(obs)), dim=-1))[..., 0]

    def heads(self, obs: Tensor) -> Tensor:
        """The policy's logits, or its mean and log standard deviation beside each other, ``[B, N, ...]``."""
        net = mlp if self.own.spec.discrete else self.gaussian
        return self.outputs(net, "actor", x=torch.cat((obs, numbers(obs)), dim=-1))

    def gaussian(self, layers: Layers, x: Tensor) -> Tensor:
        """Two hidden ReLU layers, and two heads beside each other."""
        first, second, mean_head, log_std_head = layers
        hidden = torch.relu(mlp((first, second), x))
        log_std = linear(log_std_head, hidden).clamp(*self.log_std)
        return torch.cat((linear(mean_head, hidden), log_std), dim=-1)

    def log_probs(self, batch: Any) -> dict[Pair, Tensor]:
        """Log probabilities (densities) of the data's actions, by sample and agent."""
        found, heads = {}, self.heads(batch.obs)
        for b in range(len(batch.obs)):
            for i in self.agents:
                action = batch.action[b, i]
                if self.own.spec.discrete:
                    found[b, i] = log_softmax(heads[b, i], batch.action_mask[b, i])[action]
                    continue
                mu, log_std = heads[b, i].chunk(2)
                size, margin = self.own.spec.action_sizes[i], self.own.config.bound_margin
                found[b, i] = tanh_gaussian_log_density(mu, log_std, action, size, margin)
        return found

    def act(self, past: Sequence[Seen]) -> list[Any]:
        """Every agent's mode in the last step."""
        now = past[-1]
        heads = self.heads(now.obs.unsqueeze(0))[0]
        if now.action_mask is not None:
            return [best_legal(heads[i], now.action_mask[i]) for i in self.agents]
        return [torch.tanh(heads[i].chunk(2)[0].clamp(-9.0, 9.0)) for i in self.agents]


def expectile_loss(u: Tensor, expectile: float) -> Tensor:
    """``|expectile - 1(u < 0)| u^2``."""
    return (1.0 - expectile if u.item() < 0.0 else expectile) * u**2
