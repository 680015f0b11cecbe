"""MAIQL: specification ``iql_independent_and_maiql``, "MAIQL" and "Common"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import mean, mlp, one_hot
from tests.reference.harness import Case, Replica, Seen
from tests.reference.in_sample import expectile_loss, steps_within
from tests.reference.iql import team_of

SETTINGS: dict[str, Any] = {"expectile": [0.7, 0.9], "beta": [3.0, 1.5], "weight_cap": [100.0, 2.0]}
WIDE = {"actor": 2.0, "target_q": 2.0}
RELU = {"history": "rnn", "memory_relu": True, "sequence_length": 2, "batch_size": 3}

CASES = [
    Case(kind, SETTINGS | settings, WIDE)
    for kind in ("continuous", "discrete")
    for settings in (
        {},
        {"weights": "agent", "beta": [0.0, 1.5]},
        {"abs_weights": True, "share_agents": False},
        {"abs_weights": True, "weights": "agent"},
    )
] + [
    Case("continuous", SETTINGS | {"bound_margin": [0.1, 0.0], "action_margin": [0.0, 0.2]}, WIDE),
    Case("continuous", SETTINGS | {"history": "rnn", "sequence_length": 3}, WIDE),
    Case("discrete", SETTINGS | {"history": "rnn", "memory_relu": True}, WIDE),
    Case("continuous", SETTINGS | RELU, WIDE),
]


def mixing(own: Replica, module: str, *parts: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[B, N]`` and biases ``[B]`` of a mixing network."""
    found = mlp(own.layers(module), *parts)
    weights, bias = found[:, :-1], found[:, -1]
    return (weights.abs() if own.config.abs_weights else weights), bias


def joint(own: Replica, action: Tensor) -> Tensor:
    """All agents' actions beside each other, one-hot where discrete, ``[B, N A]``."""
    if not own.spec.discrete:
        return action.flatten(1)
    rows = [torch.cat([one_hot(int(a), own.spec.action_size) for a in row]) for row in action]
    return torch.stack(rows)


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """V and its mixer step first; policy and Q see the new ones."""
    c, team, batch = own.config, team_of(own), steps_within(own, batch)
    rows, agents = range(len(batch.obs)), team.agents
    everything = batch.obs.flatten(1), joint(own, batch.action)
    judged = team.least_target_q(batch.obs, batch.action)
    w, bias = (found.detach() for found in mixing(own, "target_q_mixer", *everything))

    def share_of_q(b: int, i: int) -> Tensor:
        return w[b, i] * judged[b, i]

    def v_shares(obs: Tensor) -> tuple[Tensor, Tensor]:
        weights, offset = mixing(own, "v_mixer", obs.flatten(1))
        return weights * team.v(obs), offset

    def advantage(b: int) -> Tensor:
        return sum(share_of_q(b, i) for i in agents) + bias[b] - (sum(v[b]) + offset[b])

    v, offset = v_shares(batch.obs)
    v_loss = mean(expectile_loss(advantage(b), c.expectile) for b in rows)
    norms = own.step(v=(v_loss, "v", "v_mixer"))

    v, offset = v_shares(batch.obs)
    log_probs = team.log_probs(batch)
    terms, weights = [], []
    for b in rows:
        advantages = [advantage(b).item()] * len(agents)
        if c.weights == "agent":
            advantages = [(share_of_q(b, i) + bias[b] - (v[b, i] + offset[b])).item() for i in agents]
        weights.append([min(math.exp(c.beta * u), c.weight_cap) for u in advantages])
        terms.append(-sum(weights[b][i] * log_probs[b, i] for i in agents))
    policy_loss = mean(terms)

    after, after_offset = v_shares(batch.next_obs)
    w_q, b_q = mixing(own, "q_mixer", *everything)
    q = [team.q("q", twin, batch.obs, batch.action) for twin in (0, 1)]
    targets, terms = [], []
    for b in rows:
        following = sum(after[b]) + after_offset[b]
        targets.append((batch.reward[b] + c.gamma * batch.mask[b] * following).detach())
        totals = [sum(w_q[b, i] * values[b, i] for i in agents) + b_q[b] for values in q]
        terms.append(sum((targets[b] - total) ** 2 for total in totals))
    q_loss = mean(terms)
    norms |= own.step(policy=(policy_loss, "actor"), q=(q_loss, "q", "q_mixer"))

    for name in ("q", "q_mixer"):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "v/loss": v_loss,
        "policy/loss": policy_loss,
        "q/loss": q_loss,
        "q/target_total": mean(targets),
        "weight/mean": sum(map(sum, weights)) / (len(rows) * len(agents)),
        **norms,
    }


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's mode."""
    return team_of(own).act(past)
