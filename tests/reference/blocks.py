"""Networks and densities that several references share, written out for single samples.

Inputs are vectors ``[in]`` (or rows ``[K, in]``) of one sample; nothing here is imported from the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.harness import DOUBLE, Replica

Layers = Sequence[tuple[Tensor, Tensor]]


def one_hot(index: int, size: int) -> Tensor:
    """``[size]`` with a one at ``index``."""
    vector = torch.zeros(size, dtype=DOUBLE)
    vector[index] = 1.0
    return vector


def with_id(obs: Tensor, agent: int, n_agents: int) -> Tensor:
    """An observation ``[O]`` followed by the agent's one-hot number."""
    return torch.cat((obs, one_hot(agent, n_agents)))


def with_ids(obs: Tensor) -> Tensor:
    """Observations ``[B, N, O]``, each followed by its agent's one-hot number."""
    n = obs.shape[1]
    return torch.stack([torch.stack([with_id(row[i], i, n) for i in range(n)]) for row in obs])


def linear(layer: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """``x W + b``."""
    weight, bias = layer
    return x @ weight + bias


def mlp(layers: Layers, *parts: Tensor) -> Tensor:
    """Linear layers with ReLU between them, on the joined parts."""
    x = torch.cat(parts, dim=-1)
    for layer in layers[:-1]:
        x = torch.relu(linear(layer, x))
    return linear(layers[-1], x)


def mean(values: Iterable[Tensor]) -> Tensor:
    """Of scalars."""
    collected = list(values)
    return sum(collected, torch.zeros((), dtype=DOUBLE)) / len(collected)


def gaussian_heads(layers: Layers, *parts: Tensor) -> Tensor:
    """Two hidden ReLU layers and two heads beside each other: mean and log standard deviation."""
    first, second, mean_head, log_std_head = layers
    h = torch.relu(mlp((first, second), *parts))
    return torch.cat((linear(mean_head, h), linear(log_std_head, h)), dim=-1)


def gaussian_actor(layers: Layers, *parts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and log standard deviation clipped to [-5, 2]."""
    mu, log_std = gaussian_heads(layers, *parts).chunk(2, dim=-1)
    return mu, log_std.clamp(-5.0, 2.0)


def tanh_gaussian_log_density(
    mu: Tensor, log_std: Tensor, action: Tensor, size: int, margin: float = 0.0
) -> Tensor:
    """Log density of ``tanh(N(mu, exp(log_std)))`` at an action, over an agent's own ``size`` dimensions.

    With a margin, an action within it of a bound has the probability of all samples beyond in place of a density.
    """
    mu, log_std, action = mu[:size].clamp(-9.0, 9.0), log_std[:size], action[:size]
    edge = min(1.0 - margin, 1.0 - 1e-7)
    u = torch.atanh(action.clamp(-edge, edge))
    normal = -0.5 * ((u - mu) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2.0 * math.pi)
    density = normal - torch.log(1.0 - torch.tanh(u) ** 2)
    if margin > 0.0:
        side = torch.sign(action)
        beyond = torch.special.log_ndtr((side * mu - math.atanh(edge)) / log_std.exp())
        density = torch.where(action.abs() >= edge, beyond, density)
    return density.sum()


def log_softmax(logits: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """Log probabilities ``[..., A]``; illegal actions have none (-inf)."""
    if action_mask is not None:
        logits = torch.where(action_mask, logits, torch.tensor(-math.inf, dtype=DOUBLE))
    return logits - torch.logsumexp(logits, dim=-1, keepdim=True)


def linear_mixer(layers: Layers, state: Tensor) -> tuple[Tensor, Tensor]:
    """Non-negative weights ``[..., N]`` and biases ``[...]`` of ``state [..., S]``, by one hidden ReLU layer."""
    hidden, weight_head, bias_head = layers
    h = torch.relu(linear(hidden, state))
    return linear(weight_head, h).abs(), linear(bias_head, h)[..., 0]


def best_legal(values: Tensor, action_mask: Tensor) -> int:
    """Index of the largest value ``[A]`` among the legal actions."""
    return max((a for a in range(len(values)) if action_mask[a]), key=lambda a: values[a].item())


def action_values(own: Replica, layers: Layers, batch: Any) -> Tensor:
    """Values ``[B, N]`` of the data's actions: of inputs (o_i, number, a_i), or one output per action."""
    seen = with_ids(batch.obs)
    if not own.spec.discrete:
        return mlp(layers, seen, batch.action)[..., 0]
    return taken(mlp(layers, seen), batch.action)


def taken(values: Tensor, action: Tensor) -> Tensor:
    """``values [..., N, A]`` at the actions ``[..., N]``."""
    flat = zip(values.reshape(-1, values.shape[-1]), action.flatten(), strict=True)
    return torch.stack([row[int(a)] for row, a in flat]).reshape(action.shape)


def mixed(mixer: Layers, values: Tensor, state: Tensor) -> Tensor:
    """``sum_i w_i(s) X_i + b(s)``, ``values [..., N]``."""
    w, bias = linear_mixer(mixer, state)
    return (w * values).sum(-1) + bias
