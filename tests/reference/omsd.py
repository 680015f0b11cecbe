"""OMSD: specification ``omsd`` with the departures of the method's text, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import linear, mean, mlp, one_hot, with_id
from tests.reference.deterministic import used
from tests.reference.harness import DOUBLE, Case, Replica, Seen

SMALL: dict[str, Any] = {"layers": 2, "expectile": [0.7, 0.9], "score_weight": [1.0, 0.3]}
WIDE = {"actor": 2.0, "behavior": 1.5}

CASES = [
    Case(
        "continuous",
        {**SMALL, "model_updates": 2, "warm_start": 1, "diffusion_steps": 7, "score_levels": 4},
        WIDE,
    ),
    Case("continuous", {**SMALL, "model_updates": 1, "warm_start": 0, "level_weight": "constant"}, WIDE),
    Case(
        "continuous",
        {"model_updates": 2, "warm_start": 1, "in_turn": False, "conditional": False, "score_levels": 9},
        WIDE,
    ),
]


def kept(levels: int) -> list[float]:
    """Share of the data's variance at every level of the squared-cosine schedule."""

    def signal(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    found, product = [], 1.0
    for k in range(levels):
        product *= 1.0 - min(1.0 - signal((k + 1) / levels) / signal(k / levels), 0.999)
        found.append(product)
    return found


def predicted(own: Replica, state: Tensor, team: Tensor, i: int, level: int, noise: Tensor) -> Tensor:
    """Noise that the model sees in agent i's noised action, given the actions of those before it."""
    n, share = own.spec.n_agents, kept(own.config.diffusion_steps)[level]
    before = [team[j] if j < i and own.config.conditional else torch.zeros_like(team[j]) for j in range(n)]
    x = (math.sqrt(share) * team[i] + math.sqrt(1.0 - share) * noise) * used(own)[i]
    t = level / own.config.diffusion_steps
    angles = [math.pi * 2**k * t for k in range(4)]
    time = torch.tensor([t, *(math.sin(a) for a in angles), *(math.cos(a) for a in angles)], dtype=DOUBLE)
    enter, *residual, leave = own.layers("behavior")
    y = linear(enter, torch.cat((state, *before, one_hot(i, n), x, time)))
    for layer in residual:
        y = y + linear(layer, torch.relu(y))
    return linear(leave, torch.relu(y))


def value(own: Replica, state: Tensor) -> Tensor:
    """V of a state."""
    return mlp(own.layers("v"), state)[0]


def critic(own: Replica, module: str, k: int, state: Tensor, team: Tensor) -> Tensor:
    """Twin k's value of a joint action."""
    return mlp(own.layers(module, k), state, team.flatten())[0]


def update_model(own: Replica, batch: Any) -> dict[str, Any]:
    """Value, critics and noise model."""
    c, n, noise = own.config, own.spec.n_agents, batch.noise
    v_loss, critic_loss, behavior, targets = [], [], [], []
    for b in range(len(batch.reward)):
        state, team = batch.state[b], batch.action[b]
        y = (batch.reward[b] + c.gamma * batch.mask[b] * value(own, batch.next_state[b])).detach()
        least = torch.minimum(*(critic(own, "target_q", k, state, team) for k in (0, 1))).detach()
        error = least - value(own, state)
        v_loss.append((1.0 - c.expectile if error < 0 else c.expectile) * error**2)
        critic_loss.append(mean((critic(own, "q", k, state, team) - y) ** 2 for k in (0, 1)))
        targets.append(y)
        for i in range(n):
            level, eps = int(noise["level"][b, i] * c.diffusion_steps), noise["noise"][b, i]
            gap = predicted(own, state, team, i, level, eps) - eps
            behavior.append(mean(gap[d] ** 2 for d in range(own.spec.action_sizes[i])))
    losses = {"v/loss": mean(v_loss), "critic/loss": mean(critic_loss), "behavior/loss": mean(behavior)}
    norms = own.step(
        v=(losses["v/loss"], "v"),
        critic=(losses["critic/loss"], "q"),
        behavior=(losses["behavior/loss"], "behavior"),
    )
    own.soft_update("target_q", "q", c.tau)
    return {**losses, "critic/target_total": mean(targets), **norms}


def policy(own: Replica, obs: Tensor, i: int) -> Tensor:
    """Agent i's action, padding included."""
    return torch.tanh(mlp(own.layers("actor", i), with_id(obs[i], i, own.spec.n_agents)))


def policy_parts(own: Replica, batch: Any, i: int, team: Tensor) -> tuple[list[Tensor], ...]:
    """Of agent i in every sample: pull times action, its size, and the value (with gradient to agent i only)."""
    c, towards, sizes, values = own.config, [], [], []
    for b in range(len(batch.obs)):
        mine = policy(own, batch.obs[b], i) * used(own)[i]
        joint = torch.stack([mine if j == i else team[b, j] for j in range(own.spec.n_agents)])
        level, eps = int(batch.noise["level"][b, i] * c.score_levels), batch.noise["noise"][b, i]
        sigma = math.sqrt(1.0 - kept(c.diffusion_steps)[level])
        weight = sigma**2 if c.level_weight == "variance" else 1.0
        found = predicted(own, batch.state[b], joint.detach(), i, level, eps)
        pull = (weight * (found - eps) / sigma * used(own)[i]).detach()
        towards.append((pull * mine).sum())
        sizes.append((pull**2).sum().sqrt())
        values.append(mean(critic(own, "q", k, batch.state[b], joint) for k in (0, 1)))
    return towards, sizes, values


def update_policies(own: Replica, batch: Any) -> dict[str, Any]:
    """The policy whose turn it is, or all from the same parameters."""
    c, n = own.config, own.spec.n_agents
    made = own.memory.get("made", 0)
    own.memory["made"] = made + 1
    agents, warm = [made % n] if c.in_turn else list(range(n)), made < c.warm_start
    team = torch.stack([torch.stack([policy(own, obs, i) for i in range(n)]) for obs in batch.obs]).detach()
    team = team * used(own)
    parts = [policy_parts(own, batch, i, team) for i in agents]
    every = [q for _, _, values in parts for q in values]
    size = mean(q.detach().abs() for q in every)
    loss = torch.zeros((), dtype=DOUBLE)
    for towards, _, values in parts:
        loss = loss + c.score_weight * mean(towards) - (0.0 if warm else mean(values) / size)
    norm = step_rows(own, loss, agents)
    told = {"policy/pull": mean(x for _, sizes, _ in parts for x in sizes), "critic/total": mean(every)}
    return {"policy/loss": loss, "grad_norm/policy": norm, **told}


def step_rows(own: Replica, loss: Tensor, agents: list[int]) -> float:
    """Adam on the policies of some agents, whose steps count on their own; the norm is that of all together."""
    names = own.named("actor")
    gradients = own.gradients(loss, "actor")
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    factor = min(1.0, own.config.grad_clip / (norm + 1e-6))
    counts = own.memory.setdefault("counts", [0] * own.spec.n_agents)
    moments = own.memory.setdefault(
        "moments", [(torch.zeros_like(g), torch.zeros_like(g)) for g in gradients]
    )
    for i in agents:
        counts[i] += 1
        for name, gradient, (first, second) in zip(names, gradients, moments, strict=True):
            g = factor * gradient[i]
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            m, v = first[i] / (1.0 - 0.9 ** counts[i]), second[i] / (1.0 - 0.999 ** counts[i])
            with torch.no_grad():
                own.values[name][i] -= own.config.lr * m / (v.sqrt() + 1e-8)
    return norm


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Critics and behavior first, then the policies."""
    done = own.memory.get("updates", 0)
    own.memory["updates"] = done + 1
    return update_model(own, batch) if done < own.config.model_updates else update_policies(own, batch)


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Every agent's own policy."""
    return [policy(own, past[-1].obs, i) for i in range(own.spec.n_agents)]
