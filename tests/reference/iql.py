"""Independent IQL: specification ``iql_independent_and_maiql``, "Independent IQL" and "Common"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.reference.blocks import mean
from tests.reference.harness import Case, Replica, Seen
from tests.reference.in_sample import Team, expectile_loss, steps_within

SETTINGS: dict[str, Any] = {"expectile": [0.7, 0.9], "beta": [3.0, 1.5], "weight_cap": [100.0, 2.0]}
WIDE = {"actor": 2.0, "target_q": 2.0}
RELU = {"history": "rnn", "memory_relu": True, "sequence_length": 2, "batch_size": 3}

CASES = [
    Case(kind, SETTINGS | settings, WIDE)
    for kind in ("continuous", "discrete")
    for settings in ({}, {"share_agents": False}, {"beta": [0.0, 30.0], "expectile": [0.5, 0.2]})
] + [
    Case("continuous", SETTINGS | {"bound_margin": [0.1, 0.0], "action_margin": [0.0, 0.2]}, WIDE),
    Case("continuous", SETTINGS | {"history": "rnn", "sequence_length": 3}, WIDE),
    Case("discrete", SETTINGS | {"history": "rnn", "memory_relu": True}, WIDE),
    Case("continuous", SETTINGS | RELU, WIDE),
]


def team_of(own: Replica) -> Team:
    """The agents' networks; the log standard deviation lies in [-6, 0]."""
    return Team(own, log_std=(-6.0, 0.0))


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """V steps first; policy and Q see the new V."""
    c, team, batch = own.config, team_of(own), steps_within(own, batch)
    pairs = [(b, i) for b in range(len(batch.obs)) for i in team.agents]
    judged = team.least_target_q(batch.obs, batch.action)

    u = judged - team.v(batch.obs)
    v_loss = mean(expectile_loss(u[pair], c.expectile) for pair in pairs)
    norms = own.step(v=(v_loss, "v"))

    u = judged - team.v(batch.obs)
    weights = {pair: min(math.exp(c.beta * u[pair].item()), c.weight_cap) for pair in pairs}
    log_probs = team.log_probs(batch)
    policy_loss = mean(-weights[pair] * log_probs[pair] for pair in pairs)

    after, q = team.v(batch.next_obs), [team.q("q", twin, batch.obs, batch.action) for twin in (0, 1)]
    targets = {
        (b, i): (batch.agent_reward[b, i] + c.gamma * batch.mask[b] * after[b, i]).detach() for b, i in pairs
    }
    q_loss = mean((targets[pair] - q[0][pair]) ** 2 + (targets[pair] - q[1][pair]) ** 2 for pair in pairs)
    norms |= own.step(policy=(policy_loss, "actor"), q=(q_loss, "q"))

    own.soft_update("target_q", "q", c.tau)
    return {
        "v/loss": v_loss,
        "policy/loss": policy_loss,
        "q/loss": q_loss,
        "q/target": mean(targets.values()),
        "weight/mean": sum(weights.values()) / len(weights),
        **norms,
    }


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's mode."""
    return team_of(own).act(past)
