"""Stochastic policies that several references share: they read the observation, or the episode so far.

Losses that look at single steps take a batch of transitions; :func:`steps` makes one of sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, gaussian_heads, log_softmax, mlp, tanh_gaussian_log_density
from tests.reference.harness import Replica, Seen
from tests.reference.networks import numbers, over_time

ROWS = ("obs", "state", "action_mask")  # of which a sequence also holds the row after the last step


def steps(batch: Any) -> Any:
    """A batch of transitions: as given, or the real steps of sequences side by side.

    Those also have ``sequences``, the observations ``[B, L, N, O]``, ``places``, each step's ``(b, t)`` there, and
    ``whole``, the batch that they were taken from.
    """
    given = vars(batch)
    if "filled" not in given:
        return batch
    samples, length = batch.filled.shape
    places = [(b, t) for b in range(samples) for t in range(length) if batch.filled[b, t]]
    found = SimpleNamespace(places=places, sequences=batch.obs[:, :length], noise=batch.noise, whole=batch)
    for name in given.keys() - {"filled", "noise"}:
        setattr(found, name, torch.stack([given[name][b, t] for b, t in places]))
        if name in ROWS:
            setattr(found, f"next_{name}", torch.stack([given[name][b, t + 1] for b, t in places]))
    return found


def heads(own: Replica, module: str, batch: Any, per_agent: bool = False) -> Tensor:
    """Logits, or mean and log standard deviation beside each other, ``[M, N, ...]``.

    Args:
        own: the replica.
        module: the policy.
        batch: see :func:`steps`.
        per_agent: every agent has a network of its own.
    """
    if hasattr(batch, "places"):
        rows = over_time(own, own.layers(module), batch.sequences)
        return torch.stack([rows[place] for place in batch.places])
    net, x = mlp if own.spec.discrete else gaussian_heads, torch.cat((batch.obs, numbers(batch.obs)), dim=-1)
    if not per_agent:
        return net(own.layers(module), x)
    return torch.stack([net(own.layers(module, i), x[:, i]) for i in range(own.spec.n_agents)], dim=1)


def data_log_probs(
    own: Replica, outputs: Tensor, batch: Any, masked: bool = True, bounds: tuple[float, float] = (-5.0, 2.0)
) -> Tensor:
    """Log probabilities (densities) of the data's actions ``[M, N]`` under a policy's ``outputs``.

    Args:
        own: the replica.
        outputs: see :func:`heads`.
        batch: of transitions.
        masked: leave illegal actions out.
        bounds: of the log standard deviation.
    """
    found = []
    for b, action in enumerate(batch.action):
        for i, size in enumerate(own.spec.action_sizes):
            if own.spec.discrete:
                log_pi = log_softmax(outputs[b, i], batch.action_mask[b, i] if masked else None)
                found.append(log_pi[action[i]])
            else:
                mu, log_std = outputs[b, i].chunk(2)
                margin = own.config.bound_margin
                found.append(tanh_gaussian_log_density(mu, log_std.clamp(*bounds), action[i], size, margin))
    return torch.stack(found).reshape(len(batch.action), -1)


def act(own: Replica, module: str, past: Sequence[Seen], per_agent: bool = False) -> list[Any]:
    """What a policy does in the last step."""
    now = SimpleNamespace(obs=past[-1].obs.unsqueeze(0))
    if getattr(own.config, "history", "mlp") == "rnn":
        now.sequences = torch.stack([seen.obs for seen in past]).unsqueeze(0)
        now.places = [(0, len(past) - 1)]
    outputs, action_mask = heads(own, module, now, per_agent)[0], past[-1].action_mask
    if action_mask is not None:
        return [best_legal(row, action_mask[i]) for i, row in enumerate(outputs)]
    return [torch.tanh(row.chunk(2)[0].clamp(-9.0, 9.0)) for row in outputs]
