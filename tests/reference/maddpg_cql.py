"""MADDPG+CQL: specification ``maddpg_cql``, sections 2 to 4."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import mean
from tests.reference.deterministic import act, actor_outputs, critic, nearest_sequences, used
from tests.reference.harness import Case, Replica
from tests.reference.networks import sequences

__all__ = ["CASES", "act", "update"]

PENALTY: dict[str, Any] = {"cql_weight": [5.0, 0.7], "cql_sigma": [0.2, 0.5], "cql_samples": 3}
PENALTY |= {"action_penalty": [0.1, 0.001]}
SHORT: dict[str, Any] = {"sequence_length": 3, "batch_size": 4}
MLP: dict[str, Any] = {"history": "mlp"}
PARTIAL: dict[str, Any] = {"backup": "partial"}
SOFT: dict[str, Any] = {"backup": "soft"}
NEAR: dict[str, Any] = {"prioritize": "joint_action", "steepness": [4.0, 0.9]}
WIDE = {"actor": 1.5, "q": 1.5, "target_q": 2.0}

CASES = [
    Case("continuous", PENALTY | SHORT | {"memory_relu": False}, WIDE),
    Case("continuous", PENALTY | SHORT | {"critic_agent_id": True, "policy_after_critic": True}, WIDE),
    Case("continuous", PENALTY | MLP | {"cql_logprob_scope": "joint", "policy_q": "q1"}, WIDE),
    Case("continuous", PENALTY | MLP | PARTIAL, WIDE),
    Case("continuous", PENALTY | SHORT | PARTIAL | {"replaced": 2}, WIDE),
    Case("continuous", PENALTY | SHORT | PARTIAL | {"replaced": 3}, WIDE),
    Case("continuous", PENALTY | MLP | SOFT, WIDE),
    Case("continuous", PENALTY | SHORT | SOFT, WIDE),
    Case("continuous", PENALTY | MLP | {"variant": "iddpg_cql", "cql_logprob_scope": "joint"}, WIDE),
    Case("continuous", PENALTY | MLP | {"variant": "iddpg_cql", "cql_samples": 1}, WIDE),
    Case("continuous", PENALTY | SHORT | NEAR | {"candidates": 3}, WIDE),
    Case("continuous", PENALTY | MLP | NEAR, WIDE),
]


def values(own: Replica, module: str, member: int, rows: Any, action: Tensor, others: Any = None) -> Tensor:
    """One critic's values of all agents."""
    return critic(own, module, member, rows, action, others, own.config.critic_agent_id)


def samples(own: Replica, policy: Tensor, noise: Any) -> tuple[Tensor, Tensor]:
    """Team actions ``[3 K, B, L, N, A]`` and the log density of each agent's part ``[3 K, B, L, N]``.

    Args:
        own: the replica.
        policy: its actions in all L + 1 rows.
        noise: ``uniform`` and ``normal``.
    """
    sigma, present = own.config.cql_sigma, used(own)
    actions, densities = [], []
    for uniform in noise["uniform"]:
        actions.append((2.0 * uniform - 1.0) * present)
        densities.append((present * math.log(0.5)).sum(-1).expand(uniform.shape[:-1]))
    for around, drawn in zip((policy[:, :-1], policy[:, 1:]), noise["normal"], strict=True):
        for normal in drawn:
            epsilon = sigma * normal
            actions.append((around + epsilon).clamp(-1.0, 1.0) * present)
            normal_density = -0.5 * (epsilon / sigma) ** 2 - math.log(sigma * math.sqrt(2.0 * math.pi))
            densities.append((present * normal_density).sum(-1))
    return torch.stack(actions).detach(), torch.stack(densities)


def known(batch: Any, rows: Any, b: int, t: int) -> bool:
    """Whether a step has a target made of the data's next action."""
    return hasattr(batch, "next_action") or (b, t + 1) in rows.steps or not rows.mask[b, t]


def replace_some(own: Replica, batch: Any, rows: Any, following: Tensor, count: int) -> Tensor:
    """The data's next actions, but for ``count`` agents with the smallest random numbers."""
    found = following.clone()
    for b, t in rows.steps:
        order = batch.noise["subset"][b, t].argsort().tolist()
        for i in order[count:]:
            if hasattr(batch, "next_action"):
                found[b, t, i] = batch.next_action[b, i]
            elif (b, t + 1) in rows.steps:
                found[b, t, i] = rows.action[b, t + 1, i]
    return found


def mixed_over_numbers(own: Replica, batch: Any, rows: Any, following: Tensor) -> Tensor:
    """SPaCQL's mixture of targets with 0 to N replaced agents, by the twins' disagreement."""
    after, least, spread = (rows.obs[:, 1:], rows.state[:, 1:]), [], []
    for count in range(own.spec.n_agents + 1):
        team = replace_some(own, batch, rows, following, count)
        first, second = (values(own, "target_q", j, after, team) for j in (0, 1))
        least.append(torch.minimum(first, second))
        spread.append((first - second).abs() / math.sqrt(2.0))
    scale = torch.stack(spread).mean(0)
    weight = torch.stack([torch.exp(-u / scale) for u in spread])
    return (weight * torch.stack(least)).sum(0) / weight.sum(0)


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Critics and policy, both losses from the same parameters unless told otherwise; all targets."""
    c, near = own.config, dict[str, Any]()
    if c.prioritize == "joint_action":
        batch, near = nearest_sequences(own, batch)
    rows, present = sequences(batch), used(own)
    keeping = c.backup == "partial" and c.replaced < own.spec.n_agents
    entries = [(b, t, i) for b, t in rows.steps for i in range(own.spec.n_agents)]
    now, after = (rows.obs[:, :-1], rows.state[:, :-1]), (rows.obs[:, 1:], rows.state[:, 1:])

    following = torch.tanh(actor_outputs(own, "target_actor", rows.obs)[:, 1:]) * present
    if c.backup == "soft":
        least = mixed_over_numbers(own, batch, rows, following)
    else:
        if keeping:
            following = replace_some(own, batch, rows, following, c.replaced)
        least = torch.minimum(*(values(own, "target_q", j, after, following) for j in (0, 1)))
    targets = {
        (b, t, i): (rows.agent_reward[b, t, i] + c.gamma * rows.mask[b, t] * least[b, t, i]).detach()
        for b, t, i in entries
    }

    policy = torch.tanh(actor_outputs(own, "actor", rows.obs)) * present
    drawn, density = samples(own, policy, batch.noise)
    if c.cql_logprob_scope == "joint":
        density = density.sum(-1, keepdim=True).expand_as(density)
    td, penalty, taken = [], [], []
    plain = c.backup == "policy" or (c.backup == "partial" and not keeping)
    usable = entries if plain else [(b, t, i) for b, t, i in entries if known(batch, rows, b, t)]
    for j in (0, 1):
        q = values(own, "q", j, now, rows.action)
        pushed = torch.logsumexp(values(own, "q", j, now, drawn) - density, dim=0)
        td.append(mean(0.5 * (targets[entry] - q[entry]) ** 2 for entry in usable))
        penalty.append(mean(pushed[entry] - q[entry] for entry in entries))
        taken.append(mean(q[entry] for entry in entries))
    critic_loss = 0.5 * sum(td[j] + c.cql_weight * penalty[j] for j in (0, 1))

    def policy_loss() -> Tensor:
        action = (torch.tanh(actor_outputs(own, "actor", rows.obs)) * present)[:, :-1]
        q = values(own, "q", 0, now, action, rows.action)
        if c.policy_q == "min":
            q = torch.minimum(q, values(own, "q", 1, now, action, rows.action))
        sizes = own.spec.action_sizes
        squares = [mean(action[b, t, i, d] ** 2 for d in range(sizes[i])) for b, t, i in entries]
        return -mean(q[entry] for entry in entries) + c.action_penalty * mean(squares)

    if c.policy_after_critic:
        norms = own.step(critic=(critic_loss, "q"))
        improvement = policy_loss()
        norms |= own.step(policy=(improvement, "actor"))
    else:
        improvement = policy_loss()
        norms = own.step(critic=(critic_loss, "q"), policy=(improvement, "actor"))
    for name in ("actor", "q"):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "critic/loss": 0.5 * sum(td),
        "critic/penalty": 0.5 * sum(penalty),
        "policy/loss": improvement,
        "critic/mean": taken[0],
        "critic/target": mean(targets[entry] for entry in usable),
        **near,
        **norms,
    }
