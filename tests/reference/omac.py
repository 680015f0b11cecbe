"""OMAC: the realisation of its specification, with OMIGA's networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.reference import policies
from tests.reference.blocks import (
    action_values,
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
    Case("continuous", {"history": "rnn", "sequence_length": 3}),
    Case("discrete", {"history": "rnn", "memory_relu": True}),
    Case("continuous", {"history": "rnn", "memory_relu": True, "sequence_length": 2, "batch_size": 3}),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update: three losses from the same parameters, three steps, three targets."""
    batch = policies.steps(batch)
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
    totals, after = mixed(mixer, q, batch.state), mixed(target_mixer, target_v, batch.next_state)
    targets = [(batch.reward[b] + c.gamma * batch.mask[b] * after[b]).item() for b in rows]
    q_loss = mean((total - y) ** 2 for total, y in zip(totals, targets, strict=True))

    # 3. policy
    w, _ = linear_mixer(target_mixer, batch.state)
    log_probs = policies.data_log_probs(own, policies.heads(own, "actor", batch), batch)
    terms, weights = [], []
    for b in rows:
        for i in agents:
            exponent = c.beta * w[b, i].item() * (target_q[b, i].item() - v[b, i].item())
            weights.append(min(math.exp(exponent), c.weight_cap))
            terms.append(-weights[-1] * log_probs[b, i])
    policy_loss = mean(terms)

    norms = own.step(policy=(policy_loss, "actor"), q=(q_loss, "q", "mixer"), v=(v_loss, "v"))
    for name in ("q", "v", "mixer"):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "q/loss": q_loss,
        "v/loss": v_loss,
        "policy/loss": policy_loss,
        "q/total": mean(totals),
        "q/target_total": sum(targets) / len(targets),
        "weight/mean": sum(weights) / len(weights),
        **norms,
    }


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's action."""
    return policies.act(own, "actor", past)
