"""QMIX+CQL and VDN+CQL: specification ``iql_cql_qmix_cql``, sections 2 to 5."""

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
    next_actions,
    outputs,
    partly,
    push_down,
    random_team_actions,
    taken,
    team_value,
    update_target,
    with_target,
)
from tests.reference.harness import Case, Replica, Seen

COMMON = {"cql_weight": [3.0, 0.5], "target_period": 2, "sequence_length": 4, "batch_size": 4, "samples": 3}

CASES = [
    Case("discrete", COMMON),
    Case("discrete", {**COMMON, "data_action": False, "half_td": False}, agent_rewards=False),
    Case(
        "discrete",
        {**COMMON, "memory_relu": False, "mixer": "vdn", "td_lambda": [0.7, 0.3], "last_action": True},
    ),
    Case("discrete", {**COMMON, "penalty": "individual", "target_period": 0, "sequence_length": 0}),
    Case("discrete", {**COMMON, "history": "mlp", "target_period": 200, "samples": 5}),
    Case("discrete", {**COMMON, "value_normalization": True}),
    Case("discrete", {**COMMON, "backup": "partial", "history": "mlp"}),
    Case("discrete", {**COMMON, "backup": "partial", "replaced": 2, "td_lambda": [0.7, 0.3]}),
    Case("discrete", {**COMMON, "backup": "partial", "replaced": 3}),
    Case("discrete", {**COMMON, "backup": "partial", "value_normalization": True, "mixer": "vdn"}),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update of agents' values and mixer together."""
    c = own.config
    team, target = own.layers("team.agents"), own.layers("target.agents")
    errors, penalties, totals, fitted = [], [], [], []
    keeping = c.backup == "partial" and c.replaced < own.spec.n_agents
    following = next_actions(batch) if keeping else None
    for b, episode in enumerate(episodes(batch)):
        q = outputs(own, team, episode.obs, episode.action)
        with torch.no_grad():
            frozen = outputs(own, target, episode.obs, episode.action)
            best = [double_q(q[t + 1], frozen[t + 1], episode.action_mask[t + 1]) for t in episode.steps]
            count = len(episode.action)
            if following is not None:
                count = with_target(episode, following[b])
                for t, logged in enumerate(following[b]):
                    if logged is not None:
                        uniform = batch.noise["subset"][b, 0]
                        best[t] = partly(best[t], frozen[t + 1], logged, uniform, c.replaced)
            value = [team_value(own, "target", episode.state[t + 1])(best[t]) for t in episode.steps]
        y = []
        if count:
            parts = episode.reward[:count], episode.goes_on[:count], value[:count]
            y = lambda_returns(*parts, c.gamma, c.td_lambda)
        for t in episode.steps:
            value_of = team_value(own, "team", episode.state[t])
            total = value_of(taken(q[t], episode.action[t]))
            totals.append(total)
            if t < count:
                fitted.append(float(total.detach()))
                errors.append((total - y[t]) ** 2)
            if c.penalty == "individual":
                for i in range(own.spec.n_agents):
                    penalties.append(push_down(q[t][i], episode.action[t][i], episode.action_mask[t][i]))
            else:
                random = random_team_actions(episode.action_mask[t], batch.noise["actions"][b], t)
                pushed = [value_of(taken(q[t], action)) for action in random]
                pushed += [total] if c.data_action else []
                penalties.append(torch.stack(pushed).exp().sum().log() - total)
    td_loss = (0.5 if c.half_td else 1.0) * mean(errors)
    if c.value_normalization:
        center = sum(fitted) / len(fitted)
        spread = sum(abs(total - center) for total in fitted) / len(fitted) + 1e-6
        td_loss = td_loss / spread**2
    penalty = mean(penalties)
    norms = own.step(q=(td_loss + c.cql_weight * penalty, "team"))
    update_target(own, own.optimizers["q"].count)
    return {"q/loss": td_loss, "q/penalty": penalty, "q/total": mean(totals), **norms}


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Every agent's best legal action."""
    return greedy_team(own, own.layers("team.agents"), past)
