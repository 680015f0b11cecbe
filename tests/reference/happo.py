"""HAPPO: specification ``behavior_policies``, section HAPPO, and the departures in its docstring."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from tests.reference import ppo
from tests.reference.harness import Adam, Case, Replica, clipped
from tests.reference.online import rollouts

NEVER_VARIED = ppo.NEVER_VARIED

CASES = [
    Case("continuous", {**ppo.SETTINGS, **ppo.BOUNDS}, agent_rewards=False),
    Case("discrete", ppo.SETTINGS, agent_rewards=False),
    Case("discrete", {**ppo.SETTINGS, "epochs": 1, "lr_decay": False}),
    Case(
        "continuous",
        {**ppo.SETTINGS, "epochs": 1, "lr_decay": False, "std_x": [1.0, 2.0], "std_y": [0.5, 0.9]},
    ),
]


def make_batches(learner: Algorithm, updates: int) -> Iterator[Batch]:
    """Rollouts of random experience."""
    return rollouts(learner, updates)


def step_of_agent(own: Replica, i: int, loss: Tensor, lr: float) -> float:
    """Descend in agent i's own parameters, row i of the stacks; returns the gradient's norm before clipping."""
    names = own.named("nets.actor")
    gradients, norm = clipped([g[i] for g in own.gradients(loss, "nets.actor")], own.config.grad_clip)
    if f"policy {i}" not in own.optimizers:
        own.optimizers[f"policy {i}"] = Adam([own.values[name].detach()[i] for name in names])
    own.optimizers[f"policy {i}"].step(gradients, lr, ppo.ADAM_EPS)
    return norm


def policy_loss(own: Replica, rows: SimpleNamespace, i: int) -> Tensor:
    """Of agent i, with the compound ratio of those before."""
    gain, entropy = ppo.surrogate(own, rows, i)
    excess = own.config.bound_weight * ppo.beyond(own, rows, i)
    return -gain.mean() - own.config.entropy * entropy.mean() + excess


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update from one rollout: the agents one after another, and the critic."""
    x, explained = ppo.experience(own, batch)
    lr, deviation, turns = ppo.step_size(own, batch), ppo.average_deviation(own), batch.noise["turns"]
    for i in sorted(range(own.spec.n_agents), key=lambda agent: float(turns[agent])):
        for rows in ppo.passes(own, batch, x):
            loss = policy_loss(own, rows, i)
            norm = step_of_agent(own, i, loss, lr)
        with torch.no_grad():
            after, _ = ppo.log_prob_and_entropy(own, x, i)
            x.compound = x.compound * (after - x.old_log_prob[:, i]).exp()
    for rows in ppo.passes(own, batch, x):
        value_loss = ppo.value_loss(own, rows)
        critic = own.step({"critic": lr}, ppo.ADAM_EPS, critic=(value_loss, "nets.critic"))
    return {
        "critic/explained_variance": explained,
        "policy/std": deviation,
        "policy/loss": loss,
        "critic/loss": value_loss,
        "policy/compound_ratio": x.compound.mean(),
        "grad_norm/policy": norm,
        **critic,
    }


act = ppo.act
