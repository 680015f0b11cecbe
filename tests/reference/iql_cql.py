"""IQL+CQL: specification ``iql_cql_qmix_cql``, sections 2 to 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import mean
from tests.reference.decomposition import (
    double_q,
    episodes,
    greedy_team,
    lambda_returns,
    outputs,
    push_down,
    taken,
    update_target,
)
from tests.reference.harness import Case, Replica, Seen

COMMON = {"cql_weight": [3.0, 0.5], "target_period": 2, "sequence_length": 4, "batch_size": 4}

CASES = [
    Case("discrete", COMMON),
    Case("discrete", COMMON, agent_rewards=False),
    Case("discrete", {**COMMON, "history": "mlp", "half_td": False, "penalize_illegal": True}),
    Case("discrete", {**COMMON, "td_lambda": [0.7, 0.3], "last_action": True, "target_period": 0}),
    Case(
        "discrete",
        {
            **COMMON,
            "penalize_illegal": True,
            "sequence_length": 0,
            "target_period": 200,
            "memory_relu": False,
        },
    ),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update: every agent learns from its own reward with a network that all share."""
    c, every = own.config, torch.ones(own.spec.action_size, dtype=torch.bool)
    team, target = own.layers("team"), own.layers("target")
    errors, penalties, values = [], [], []
    for episode in episodes(batch):
        q = outputs(own, team, episode.obs, episode.action)
        with torch.no_grad():
            frozen = outputs(own, target, episode.obs, episode.action)
            value = [
                torch.stack(double_q(q[t + 1], frozen[t + 1], episode.action_mask[t + 1]))
                for t in episode.steps
            ]
        y = lambda_returns(episode.reward, episode.goes_on, value, c.gamma, c.td_lambda)
        for t in episode.steps:
            for i, chosen in enumerate(taken(q[t], episode.action[t])):
                values.append(chosen)
                errors.append((chosen - y[t][i]) ** 2)
                allowed = every if c.penalize_illegal else episode.action_mask[t][i]
                penalties.append(push_down(q[t][i], episode.action[t][i], allowed))
    td_loss = (0.5 if c.half_td else 1.0) * mean(errors)
    penalty = mean(penalties)
    norms = own.step(q=(td_loss + c.cql_weight * penalty, "team"))
    update_target(own, own.optimizers["q"].count)
    return {"q/loss": td_loss, "q/penalty": penalty, "q/mean": mean(values), **norms}


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Every agent's best legal action."""
    return greedy_team(own, own.layers("team"), past)
