"""OMAC: the realisation of its specification, with OMIGA's networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tests.reference.blocks import (
    action_values,
    data_log_prob,
    greedy_team,
    linear_mixer,
    mean,
    mixed,
    mlp,
    with_ids,
)
from tests.reference.harness import Case, Replica, Seen

OPTIONS = {"expectile": [0.8, 0.3], "beta": [5.0, 1.5], "weight_cap": [100.0, 2.0]}

CASES = [
    Case("continuous"),
    Case("continuous", OPTIONS, {"q": 1.5, "target_q": 1.5}),
    Case("discrete"),
    Case("discrete", OPTIONS, {"q": 1.5, "target_q": 1.5}),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update: three losses from the same parameters, three steps, three targets."""
    c, rows, agents = own.config, range(len(batch.reward)), range(own.spec.n_agents)
    seen, following = with_ids(batch.obs), with_ids(batch.next_obs)
    q, target_q = (action_values(own, own.layers(name, 0), batch) for name in ("q", "target_q"))
    v, target_v = mlp(own.layers("v"), seen)[..., 0], mlp(own.layers("target_v"), following)[..., 0]
    mixer, target_mixer = own.layers("mixer"), own.layers("target_mixer")

    # 1. V: local expectiles of the target's values
    terms = []
    for b in rows:
        for i in agents:
            u = target_q[b, i].item() - v[b, i]
            terms.append((1.0 - c.expectile if u.item() < 0.0 else c.expectile) * u**2)
    v_loss = mean(terms)

    # 2. Q
    totals = [mixed(mixer, q[b], batch.state[b]) for b in rows]
    targets = [
        (
            batch.reward[b] + c.gamma * batch.mask[b] * mixed(target_mixer, target_v[b], batch.next_state[b])
        ).item()
        for b in rows
    ]
    q_loss = mean((total - y) ** 2 for total, y in zip(totals, targets, strict=True))

    # 3. policy
    terms, weights = [], []
    for b in rows:
        w, _ = linear_mixer(target_mixer, batch.state[b])
        for i in agents:
            exponent = c.beta * w[i].item() * (target_q[b, i].item() - v[b, i].item())
            weights.append(min(math.exp(exponent), c.weight_cap))
            action_mask = batch.action_mask[b, i] if own.spec.discrete else None
            log_prob = data_log_prob(own, own.layers("actor"), seen[b, i], batch.action[b, i], i, action_mask)
            terms.append(-weights[-1] * log_prob)
    policy_loss = mean(terms)

    norms = own.step(policy=(policy_loss, "actor"), q=(q_loss, "q", "mixer"), v=(v_loss, "v"))
    for name in ("q", "v", "mixer"):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "q_loss": q_loss,
        "v_loss": v_loss,
        "policy_loss": policy_loss,
        "q_total": mean(totals),
        "target_q_total": sum(targets) / len(targets),
        "weight": sum(weights) / len(weights),
        **norms,
    }


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Every agent's action."""
    return greedy_team(own, own.layers("actor"), past[-1])
