"""MAPPO: specification ``behavior_policies``, section MAPPO, and the departures in its docstring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from tests.reference import ppo
from tests.reference.harness import Case, Replica
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


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update from one rollout."""
    x, explained = ppo.experience(own, batch)
    agents, lr = range(own.spec.n_agents), ppo.step_size(own, batch)
    deviation = ppo.average_deviation(own)
    for rows in ppo.passes(own, batch, x):
        terms = [ppo.surrogate(own, rows, i) for i in agents]
        gain = torch.stack([term for term, _ in terms]).mean()
        entropy = torch.stack([entropy for _, entropy in terms]).mean()
        excess = torch.stack([ppo.beyond(own, rows, i) for i in agents]).mean()
        policy_loss = -gain - own.config.entropy * entropy + own.config.bound_weight * excess
        value_loss = ppo.value_loss(own, rows)
        norms = own.step(
            {"policy": lr, "critic": lr},
            ppo.ADAM_EPS,
            policy=(policy_loss, "nets.actor"),
            critic=(value_loss, "nets.critic"),
        )
        last = {"policy/loss": policy_loss, "critic/loss": value_loss, **norms}
    return {"critic/explained_variance": explained, "policy/std": deviation, **last}


act = ppo.act
