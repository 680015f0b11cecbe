"""HATRPO: specification ``hatrpo``; the Fisher matrix is written out from the scores of the policy's outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from tests.reference import ppo
from tests.reference.blocks import log_softmax
from tests.reference.harness import DOUBLE, Case, Replica
from tests.reference.online import rollouts

NEVER_VARIED = ppo.NEVER_VARIED
ACTOR = "nets.actor"

# Few steps of conjugate gradients: later ones, near the solution, multiply the rounding.
SEARCH = {"kl_threshold": [0.004, 0.1], "backtrack": [0.8, 0.4], "line_search": 4, "accept": [0.5, 0.97]}
SEARCH |= {"cg_steps": 3, "rollout": 4, "batch_size": 4}
ROLLOUT = {name: value for name, value in ppo.SETTINGS.items() if name != "entropy"} | SEARCH

CASES = [
    Case(
        "continuous",
        ROLLOUT | {"damping": [0.1, 0.6], "std_x": [1.0, 2.0], "std_y": [0.5, 0.9]},
        agent_rewards=False,
    ),
    Case("continuous", ROLLOUT | {"epochs": 1, "lr_decay": True, "cg_steps": 2}, agent_rewards=False),
    Case("discrete", ROLLOUT | {"epochs": 1, "damping": [0.1, 0.6]}, agent_rewards=False),
    Case(
        "discrete",
        ROLLOUT | {"epochs": 1, "lr_decay": True, "cg_steps": 2, "line_search": 3},
        agent_rewards=False,
    ),
]


def make_batches(learner: Algorithm, updates: int) -> Iterator[Batch]:
    """Rollouts of random experience."""
    return rollouts(learner, updates)


# ---- one agent's policy ------------------------------------------------------------------------------------


def own_gradient(own: Replica, value: Tensor, i: int) -> Tensor:
    """With respect to all of agent i's parameters, as one vector."""
    return torch.cat([g[i].flatten() for g in own.gradients(value, ACTOR)])


def move(own: Replica, i: int, start: list[Tensor], step: Tensor) -> None:
    """Agent i's parameters become ``start + step``."""
    offset = 0
    with torch.no_grad():
        for name, value in zip(own.named(ACTOR), start, strict=True):
            part = step[offset : offset + value.numel()].view_as(value)
            own.values[name][i] = value + part
            offset += value.numel()


def distributions(own: Replica, x: SimpleNamespace, i: int) -> list[Any]:
    """Of every row: log probabilities of the legal actions, or means and deviations."""
    output = ppo.actor_output(own, x.obs[:, i], i)
    if own.spec.discrete:
        return [log_softmax(out, mask)[mask] for out, mask in zip(output, x.action_mask[:, i], strict=True)]
    std = ppo.deviations(own, i)
    return [(out[: len(std)], std) for out in output]


def divergence(own: Replica, before: list[Any], after: list[Any]) -> float:
    """Mean KL of the old policy to the new one."""
    found = []
    for old, new in zip(before, after, strict=True):
        if own.spec.discrete:
            found.append(float((old.exp() * (old - new)).sum()))
            continue
        (mu_o, std_o), (mu_n, std_n) = old, new
        terms = std_o**2 / std_n**2 + (mu_o - mu_n) ** 2 / std_n**2 - 1.0 - torch.log(std_o**2 / std_n**2)
        found.append(float(0.5 * terms.sum()))
    return sum(found) / len(found)


def fisher_matrix(own: Replica, x: SimpleNamespace, i: int) -> Tensor:
    """Mean over rows of the expected outer product of scores; of a Gaussian, by its mean and deviation."""
    outputs, factors = [], []
    rows = distributions(own, x, i)
    for row in rows:
        if own.spec.discrete:
            outputs += list(row)
            factors += [math.exp(0.5 * log_p.item()) for log_p in row]
            continue
        for mu, std in zip(*row, strict=True):
            outputs += [mu, std]
            factors += [1.0 / std.item(), math.sqrt(2.0) / std.item()]
    values = [own.values[name] for name in own.named(ACTOR)]
    one_each = torch.eye(len(outputs), dtype=DOUBLE)
    found = torch.autograd.grad(
        torch.stack(outputs), values, one_each, retain_graph=True, is_grads_batched=True, allow_unused=True
    )
    parts = [
        torch.zeros(len(outputs), *v.shape, dtype=DOUBLE) if g is None else g
        for v, g in zip(values, found, strict=True)
    ]
    scores = torch.cat([part[:, i].flatten(1) for part in parts], dim=1)
    scores = torch.tensor(factors, dtype=DOUBLE).unsqueeze(1) * scores
    return scores.T @ scores / len(rows)


def solve(matrix: Tensor, b: Tensor, steps: int) -> Tensor:
    """Conjugate gradients from zero."""
    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    for _ in range(steps):
        size = r @ r
        if size <= 1e-10:
            break
        alpha = size / (p @ matrix @ p)
        x, r = x + alpha * p, r - alpha * matrix @ p
        p = r + (r @ r) / size * p
    return x


def surrogate(own: Replica, x: SimpleNamespace, i: int) -> tuple[Tensor, Tensor]:
    """``mean rho M A``, and the ratios."""
    log_prob, _ = ppo.log_prob_and_entropy(own, x, i)
    ratio = (log_prob - x.old_log_prob[:, i]).exp()
    return (ratio * x.compound * x.advantage).mean(), ratio.detach()


def agent_step(own: Replica, x: SimpleNamespace, i: int) -> tuple[dict[str, float], Tensor]:
    """Move agent i within its trust region; returns metrics and the ratios after it."""
    c = own.config
    start = [own.values[name].detach()[i].clone() for name in own.named(ACTOR)]
    old_value, _ = surrogate(own, x, i)
    g = own_gradient(own, old_value, i)
    damped = fisher_matrix(own, x, i) + c.damping * torch.eye(len(g), dtype=DOUBLE)
    direction = solve(damped, g, c.cg_steps)
    full = math.sqrt(c.kl_threshold / (0.5 * float(direction @ damped @ direction))) * direction
    expected = float(g @ full)
    before = [
        row.detach() if own.spec.discrete else tuple(part.detach().clone() for part in row)
        for row in distributions(own, x, i)
    ]
    for k in range(c.line_search):
        scale = c.backtrack**k
        move(own, i, start, scale * full)
        with torch.no_grad():
            value, ratio = surrogate(own, x, i)
            kl = divergence(own, before, distributions(own, x, i))
        gain = float(value - old_value.detach())
        if kl < c.kl_threshold and gain / (scale * expected) > c.accept and gain > 0.0:
            return {
                "policy/kl": kl,
                "policy/accepted": 1.0,
                "policy/step_scale": scale,
                "policy/gain": gain,
            }, ratio
    move(own, i, start, 0.0 * full)
    return dict.fromkeys(
        ("policy/kl", "policy/accepted", "policy/step_scale", "policy/gain"), 0.0
    ), torch.ones_like(x.advantage)


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update from one rollout: the agents one after another, and the critic."""
    x, explained = ppo.experience(own, batch)
    lr, deviation, turns = ppo.step_size(own, batch), ppo.average_deviation(own), batch.noise["turns"]
    n, told = (
        own.spec.n_agents,
        dict.fromkeys(("policy/kl", "policy/accepted", "policy/step_scale", "policy/gain"), 0.0),
    )
    for i in sorted(range(n), key=lambda agent: float(turns[agent])):
        metrics, ratio = agent_step(own, x, i)
        x.compound = x.compound * ratio
        told = {name: told[name] + metrics[name] / n for name in told}
    for rows in ppo.passes(own, batch, x):
        value_loss = ppo.value_loss(own, rows)
        critic = own.step({"critic": lr}, ppo.ADAM_EPS, critic=(value_loss, "nets.critic"))
    return {
        "critic/explained_variance": explained,
        "policy/std": deviation,
        **told,
        "critic/loss": value_loss,
        "policy/compound_ratio": x.compound.mean(),
        **critic,
    }


act = ppo.act
