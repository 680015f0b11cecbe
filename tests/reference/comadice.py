"""ComaDICE: the losses of its specification as implemented, with the q of before the update in the loss of nu."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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

ALPHA = {"alpha": [10.0, 0.8]}

CASES = [
    Case("continuous", ALPHA),
    Case(
        "continuous", {**ALPHA, "divergence": "chi2", "bound_margin": [0.1, 0.0]}, shift={"nu": 0.4}
    ),  # x below -1
    Case("continuous", {"alpha": [10.0, 2.0], "divergence": "kl", "omega_cap": [1.2, math.inf]}),
    Case("discrete", {**ALPHA, "omega_cap": [2.0, 1.1]}),
    Case("discrete", {**ALPHA, "divergence": "chi2", "omega_cap": [0.9, math.inf]}),
    Case("continuous", {**ALPHA, "history": "rnn", "sequence_length": 3}),
    Case("discrete", {**ALPHA, "history": "rnn", "memory_relu": True}),
    Case("discrete", {"alpha": [10.0, 2.0], "divergence": "kl"}),
    Case(
        "continuous",
        {**ALPHA, "history": "rnn", "memory_relu": True, "sequence_length": 2, "batch_size": 3},
    ),
]


def ratio(divergence: str, x: Tensor) -> Tensor:
    """r, the inverse of f'."""
    if divergence == "kl":
        return (x - 1.0).exp()
    if divergence == "chi2":
        return x + 1.0 if x > -1.0 else 0.0 * x
    return x + 1.0 if x >= 0.0 else x.exp()


def cost(divergence: str, x: float) -> float:
    """g(x) = f(r(x))."""
    if divergence == "kl":
        return (x - 1.0) * math.exp(x - 1.0)
    if divergence == "chi2" or x >= 0.0:
        return 0.5 * x**2
    return math.exp(x) * (x - 1.0) + 1.0


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update: Q and nu from the same parameters, then the weights and the policy with the new nu."""
    batch = policies.steps(batch)
    c, rows, agents = own.config, range(len(batch.reward)), range(own.spec.n_agents)
    seen, following = with_ids(batch.obs), with_ids(batch.next_obs)
    q, target_q = (action_values(own, own.layers(name, 0), batch) for name in ("q", "target_q"))
    mixer, target_mixer = own.layers("mixer"), own.layers("target_mixer")
    (lambda_v,), (lambda_e,) = (own.named(name) for name in ("lambda_v", "lambda_e"))

    # 1. Q
    target_nu = mlp(own.layers("target_nu"), following)[..., 0]
    totals, after = mixed(mixer, q, batch.state), mixed(target_mixer, target_nu, batch.next_state)
    targets = [(batch.reward[b] + c.gamma * batch.mask[b] * after[b]).item() for b in rows]
    q_loss = mean((total - y) ** 2 for total, y in zip(totals, targets, strict=True))

    # 2. nu
    nu, multiplier = mlp(own.layers("nu"), seen)[..., 0], own.values[lambda_v].squeeze()
    terms = []
    w, _ = linear_mixer(mixer, batch.state)
    for b in rows:
        for i in agents:
            e = w[b, i].item() * (q[b, i].item() - nu[b, i])
            x = (e - multiplier) / c.alpha
            terms.append(-c.alpha * cost(c.divergence, x.item()))
            terms[-1] = terms[-1] + ratio(c.divergence, x) * (e.item() - multiplier)
    first = [nu[b, i] for b in rows for i in agents if batch.first[b] > 0.0]
    start = mean(first) if first else torch.zeros(())
    nu_loss = (1.0 - c.gamma) * start + mean(terms) + multiplier

    norms = own.step(q=(q_loss, "q", "mixer"), nu=(nu_loss, "nu"), lambda_v=(nu_loss, "lambda_v"))

    # 3. weights, with the new nu
    nu, multiplier = mlp(own.layers("nu"), seen)[..., 0], own.values[lambda_e].squeeze()
    omega = torch.zeros(len(rows), len(agents), dtype=nu.dtype)
    w, _ = linear_mixer(target_mixer, batch.state)
    for b in rows:
        for i in agents:
            x = (w[b, i] * (target_q[b, i] - nu[b, i]) - multiplier) / c.alpha
            omega[b, i] = ratio(c.divergence, x).item()

    # 4. and 5.
    log_probs = policies.data_log_probs(own, policies.heads(own, "actor", batch), batch)
    lambda_loss = multiplier * (1.0 - sum(omega.flatten().tolist()) / omega.numel())
    terms = []
    for b in rows:
        for i in agents:
            together = sum(min(weight, c.omega_cap) for weight in omega[b].tolist())
            terms.append(-together * log_probs[b, i])
    policy_loss = mean(terms)
    norms |= own.step(policy=(policy_loss, "actor"), lambda_e=(lambda_loss, "lambda_e"))

    for name in ("q", "nu", "mixer"):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "q/loss": q_loss,
        "nu/loss": nu_loss,
        "policy/loss": policy_loss,
        "q/total": mean(totals),
        "weight/omega": omega.mean(),
        **norms,
    }


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's action."""
    return policies.act(own, "actor", past)
