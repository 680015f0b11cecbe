"""OMIGA: specification sections 2 to 4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tests.reference import policies
from tests.reference.blocks import linear_mixer, mean, mixed, mlp, taken, with_ids
from tests.reference.harness import Case, Replica, Seen

ALPHA = {"alpha": [10.0, 0.7]}
WIDE = {"q": 3.0, "target_q": 3.0, "target_mixer": 1.5, "actor": 1.5}  # z meets its bounds
RELU = {"history": "rnn", "memory_relu": True, "sequence_length": 2, "batch_size": 3}

CASES = [
    Case("continuous", ALPHA, WIDE),
    Case("continuous", {**ALPHA, "z_clip": "linear"}, WIDE),
    Case("continuous", {"z_clip": "none", "alpha": [10.0, 3.0], "timeout_is_terminal": False}, WIDE),
    Case("continuous", {**ALPHA, "v_from_target": False, "bound_margin": [0.1, 0.0]}, {**WIDE, "actor": 3.0}),
    Case("continuous", {**ALPHA, "global_weights": False, "weight_cap": [1.1, 2.0]}, WIDE),
    Case("discrete", ALPHA, WIDE),
    Case("discrete", {**ALPHA, "mask_train_logits": True, "stabilize_v": False, "z_clip": "linear"}, WIDE),
    Case("discrete", {**ALPHA, "smac_done": "state_equal", "v_from_target": False}, shift={"v": 0.6}),
    Case("continuous", {**ALPHA, "history": "rnn", "sequence_length": 3}, WIDE),
    Case("discrete", {**ALPHA, "history": "rnn", "memory_relu": True}, WIDE),
    Case("continuous", {**ALPHA, **RELU, "stabilize_v": False}, WIDE),
    Case("continuous", {**ALPHA, "smac_done": "state_equal"}, WIDE),
    Case("discrete", {**ALPHA, "global_weights": False, "z_clip": "none", "weight_cap": [1.1, 2.0]}, WIDE),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update: three losses from the same parameters, three steps, three targets."""
    batch = policies.steps(batch)
    c, rows, agents = own.config, range(len(batch.reward)), range(own.spec.n_agents)
    seen, following = with_ids(batch.obs), with_ids(batch.next_obs)
    q, target_q = (values_of_data(own, name, batch) for name in ("q", "target_q"))
    v, target_v = mlp(own.layers("v"), seen)[..., 0], mlp(own.layers("target_v"), following)[..., 0]

    # 1. Q
    totals = mixed(own.layers("mixer"), q, batch.state)
    after, targets = mixed(own.layers("target_mixer"), target_v, batch.next_state), []
    for b in rows:
        goes_on = batch.mask[b]
        if c.smac_done == "state_equal":
            goes_on = 0.0 if bool((batch.state[b] == batch.next_state[b]).all()) else 1.0
        targets.append((batch.reward[b] + c.gamma * goes_on * after[b]).detach())
    q_loss = mean((total - y) ** 2 for total, y in zip(totals, targets, strict=True))

    # 2. z, and the other term of V's loss
    judge, weigher = (target_q, "target_mixer") if c.v_from_target else (q, "mixer")
    z: dict[tuple[int, int], Tensor] = {}
    share: dict[tuple[int, int], Tensor] = {}
    w, _ = linear_mixer(own.layers(weigher), batch.state)
    for b in rows:
        for i in agents:
            weight = w[b, i].item() if c.global_weights else 1.0
            z[b, i] = weight * (judge[b, i].item() - v[b, i]) / c.alpha
            share[b, i] = weight * v[b, i] / c.alpha

    # 3. V
    bounded = {k: x if c.z_clip == "none" else x.clamp(-10.0, 10.0) for k, x in z.items()}
    shift = max(-1.0, *(x.item() for x in bounded.values())) if c.stabilize_v else 0.0
    terms = []
    for k, x in bounded.items():
        exponential = (x - shift).exp()
        if c.z_clip == "linear" and z[k] > 10.0:
            exponential = math.exp(10.0 - shift) * (1.0 + z[k] - 10.0)
        terms.append(exponential + math.exp(-shift) * share[k])
    v_loss = mean(terms)

    # 4. policy
    log_probs = policies.data_log_probs(own, policies.heads(own, "actor", batch), batch, c.mask_train_logits)
    policy_loss = mean(-min(math.exp(x.item()), c.weight_cap) * log_probs[k] for k, x in bounded.items())

    norms = own.step(policy=(policy_loss, "actor"), q=(q_loss, "q", "mixer"), v=(v_loss, "v"))
    for name in ("q", "v", "mixer"):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "q/loss": q_loss,
        "v/loss": v_loss,
        "policy/loss": policy_loss,
        "q/total": mean(totals),
        "q/target_total": mean(targets),
        "weight/exponent_max": max(x.item() for x in z.values()),
        **norms,
    }


def values_of_data(own: Replica, module: str, batch: Any) -> Tensor:
    """Values ``[B, N]`` of the data's actions."""
    layers, seen = own.layers(module), with_ids(batch.obs)
    if not own.spec.discrete:  # the action stands between observation and number
        size = own.spec.obs_size
        return mlp(layers, seen[..., :size], batch.action, seen[..., size:])[..., 0]
    return taken(mlp(layers, seen), batch.action)


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's action."""
    return policies.act(own, "actor", past)
