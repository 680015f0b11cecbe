"""BC: specification sections 2, 3 and 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import (
    best_legal,
    gaussian_actor,
    log_softmax,
    mean,
    tanh_gaussian_log_density,
)
from tests.reference.harness import Case, Replica, Seen
from tests.reference.networks import numbers, over_time, sequences

WIDE = {"actor": 1.5}
NLL: dict[str, Any] = {"loss": "nll", "bound_margin": [0.0, 0.1]}
MSE: dict[str, Any] = {"loss": "mse"}
RNN: dict[str, Any] = {"history": "rnn"}

CASES = [
    Case("continuous", {}, WIDE),
    Case("continuous", NLL, WIDE),
    Case("continuous", NLL | RNN, WIDE),
    Case("continuous", RNN | {"sequence_length": 3}, WIDE),
    Case("continuous", MSE, WIDE),
    Case("continuous", MSE | {"bc_tanh": False}, WIDE),
    Case("continuous", MSE | RNN | {"memory_relu": True}, WIDE),
    Case("continuous", MSE | RNN | {"bc_tanh": False}, WIDE),
    Case("discrete"),
    Case("discrete", {"mask_train_logits": False}),
    Case("discrete", RNN),
    Case("discrete", RNN | {"mask_train_logits": False, "memory_relu": True}),
]
NEVER_VARIED = {"eval_mode": "only how the policy acts when it is given random numbers"}


def outputs(own: Replica, obs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits, actions, or mean and log standard deviation of all rows ``[B, T, N, O]``, ``[B, T, N, A]`` each."""
    c, layers = own.config, own.layers("actor")
    squared = own.spec.discrete or c.loss == "mse"
    if not squared and c.history == "mlp":
        return gaussian_actor(layers, obs, numbers(obs))
    found = over_time(own, layers, obs)
    if not squared:
        mu, log_std = found.chunk(2, dim=-1)
        return mu, log_std.clamp(-5.0, 2.0)
    return (torch.tanh(found) if not own.spec.discrete and c.bc_tanh else found), None


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One step down the mean loss of all agents in all real steps."""
    c, rows, terms = own.config, sequences(batch), []
    found, log_std = outputs(own, rows.obs)
    for b, t in rows.steps:
        for i in range(own.spec.n_agents):
            here, action, size = found[b, t, i], rows.action[b, t, i], own.spec.action_sizes[i]
            if own.spec.discrete:
                action_mask = rows.action_mask[b, t, i] if c.mask_train_logits else None
                terms.append(-log_softmax(here, action_mask)[int(action)])
            elif log_std is None:
                terms.append(mean((here[d] - action[d]) ** 2 for d in range(size)))
            else:
                density = tanh_gaussian_log_density(here, log_std[b, t, i], action, size, c.bound_margin)
                terms.append(-density)
    loss = mean(terms)
    return {"policy/loss": loss, **own.step(policy=(loss, "actor"))}


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """The mode: best legal action, squashed mean, or the regression's output within the box."""
    action_mask = past[-1].action_mask
    found, log_std = outputs(own, torch.stack([seen.obs for seen in past]).unsqueeze(0))
    if action_mask is not None:
        return [best_legal(found[0, -1, i], action_mask[i]) for i in range(own.spec.n_agents)]
    if log_std is None:
        return list(found[0, -1].clamp(-1.0, 1.0))
    return list(torch.tanh(found[0, -1].clamp(-9.0, 9.0)))
