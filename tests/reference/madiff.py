"""MADiff: specification ``madiff`` with the departures of the method's text, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, log_softmax, mean, mlp, one_hot
from tests.reference.deterministic import used
from tests.reference.harness import DOUBLE, Case, Replica, Seen

SMALL: dict[str, Any] = {
    "batch_size": 4,
    "heads": 2,
    "layers": 2,
    "sequence_length": 2,
    "diffusion_steps": 6,
    "eval_steps": 3,
    "guidance": [1.2, 0.0],
    "condition_dropout": [0.25, 0.9],
}
ALONE: dict[str, Any] = {"mode": "decentralized", "sequence_length": 3, "predicts": "window"}

CASES = [
    Case("continuous", SMALL),
    Case("continuous", {**SMALL, **ALONE, "target": "p90"}),
    Case("continuous", {**SMALL, "target": "above", "batch_size": 2, "predicts": "window"}),
    Case("discrete", {**SMALL, "layers": 1, "heads": 4, "diffusion_steps": 9, "eval_steps": 1}),
    Case("discrete", {**SMALL, "target": "p90", "batch_size": 2}),
    Case("discrete", {**SMALL, **ALONE, "target": "above"}),
]


def prepare(own: Replica, data: Any, batches: Iterator[Any]) -> None:
    """Scales of observations, and what the returns say."""
    del batches
    obs = torch.from_numpy(data.obs).to(DOUBLE)
    low, high = obs.amin(0), obs.amax(0)
    own.values["scaling.middle"] = (low + high) / 2
    own.values["scaling.spread"] = torch.where(high > low, (high - low) / 2, torch.ones_like(low))
    reward = torch.from_numpy(data.reward).to(DOUBLE)
    team = reward.mean(-1) if reward.ndim > 1 else reward
    episodes = zip(data.starts, data.lengths, strict=True)
    returns = torch.stack([team[first : first + steps].sum() for first, steps in episodes])
    largest = returns.max()
    target = {
        "max": largest,
        "above": largest + 0.2 * largest.abs(),
        "p90": torch.quantile(returns, 0.9),
    }
    own.values["returns.scale"], own.values["returns.target"] = returns.abs().max(), target[own.config.target]


def kept(own: Replica) -> list[float]:
    """Share of the data's variance at every level."""
    levels, found, product = own.config.diffusion_steps, [], 1.0

    def signal(k: int) -> float:
        return math.cos((k / levels + 0.008) / 1.008 * math.pi / 2) ** 2

    for k in range(levels):
        product *= 1.0 - min(1.0 - signal(k + 1) / signal(k), 0.999)
        found.append(product)
    return found


def real(own: Replica, i: int) -> Tensor:
    """1 for dimensions that agent i's observation has."""
    return (torch.arange(own.spec.obs_size) < own.spec.obs_sizes[i]).to(DOUBLE)


def scaled(own: Replica, obs: Tensor) -> Tensor:
    """``[N, O]``."""
    return (obs - own.values["scaling.middle"]) / own.values["scaling.spread"]


def attended(own: Replica, name: str, rows: list[Tensor]) -> list[Tensor]:
    """Attention of all agents over all agents."""
    heads, found = own.config.heads, []
    three = [mlp(own.layers(f"{name}.qkv"), row).reshape(3, heads, -1) for row in rows]
    for query, _, _ in three:
        seen = []
        for h in range(heads):
            scores = torch.stack([query[h] @ key[h] for _, key, _ in three]) / math.sqrt(len(query[h]))
            weight = torch.softmax(scores, 0)
            seen.append(sum(w * value[h] for w, (_, _, value) in zip(weight, three, strict=True)))
        out = mlp(own.layers(f"{name}.out"), torch.cat(seen))
        found.append(own.values[f"{name}.weight"] * out)
    return found


def predicted(
    own: Replica, module: str, x: Tensor, known: Sequence[float], level: int, to_go: Tensor, told: float
) -> Tensor:
    """Noise in the windows ``[N, H, O]`` of one sample."""
    n, time = own.spec.n_agents, level / own.config.diffusion_steps
    angles = [math.pi * 2**k * time for k in range(4)]
    about = [time, *(math.sin(a) for a in angles), *(math.cos(a) for a in angles), float(to_go) * told, told]
    rows = []
    for i in range(n):
        flag = torch.tensor([known[i], *about], dtype=DOUBLE)
        rows.append(mlp(own.layers(f"{module}.planner.enter"), x[i].flatten(), flag, one_hot(i, n)))
    for k in range(own.config.layers):
        added = attended(own, f"{module}.planner.attention.{k}", rows)
        rows = [row + more for row, more in zip(rows, added, strict=True)]
        rows = [row + mlp(own.layers(f"{module}.planner.networks.{k}"), torch.relu(row)) for row in rows]
    out = [mlp(own.layers(f"{module}.planner.leave"), torch.relu(row)) for row in rows]
    found = torch.stack(out).reshape(x.shape)
    if own.config.predicts == "noise":
        return found
    share = kept(own)[level]
    return (x - math.sqrt(share) * found) / math.sqrt(1.0 - share)


def inverse(own: Replica, module: str, before: Tensor, after: Tensor, i: int) -> Tensor:
    """Action or logits of agent i."""
    return mlp(own.layers(f"{module}.inverse"), before, after, one_hot(i, own.spec.n_agents))


def overwritten(own: Replica, x: Tensor, present: Tensor, known: Sequence[float]) -> Tensor:
    """Windows with the first rows that are known, and nothing in padding."""
    x = x.clone()
    for i in range(own.spec.n_agents):
        if known[i]:
            x[i, 0] = present[i]
        x[i] = x[i] * real(own, i)
    return x


def knowledge(own: Replica, owner: int) -> list[float]:
    """Whose first row is known."""
    n = own.spec.n_agents
    return [1.0] * n if own.config.mode == "centralized" else [float(i == owner) for i in range(n)]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Planner and inverse dynamics; the slow model."""
    c, n, drawn, a = own.config, own.spec.n_agents, batch.noise, kept(own)
    squares, count, errors = torch.zeros((), dtype=DOUBLE), 0, []
    for b, filled in enumerate(batch.filled):
        length = int(filled.sum())
        obs = torch.stack([scaled(own, row) for row in batch.obs[b]])  # [H, N, O]
        level = int(drawn["level"][b] * c.diffusion_steps)
        told = float(drawn["told"][b] >= c.condition_dropout)
        known = knowledge(own, int(drawn["owner"][b] * n) if "owner" in drawn else 0)
        eps, window = drawn["noise"][b], obs.transpose(0, 1)
        x = math.sqrt(a[level]) * window + math.sqrt(1.0 - a[level]) * eps
        x = overwritten(own, x, window[:, 0], known)
        x[:, length + 1 :] = 0.0  # the planner must not read a row that the episode does not have
        to_go = batch.reward[b, 0] / own.values["returns.scale"]
        found = predicted(own, "model", x, known, level, to_go, told)
        for i in range(n):
            for row in range(0 if not known[i] else 1, length + 1):
                size = own.spec.obs_sizes[i]
                squares = squares + ((found[i, row, :size] - eps[i, row, :size]) ** 2).sum()
                count += size
        for t in range(length):
            for i in range(n):
                out = inverse(own, "model", obs[t, i], obs[t + 1, i], i)
                if own.spec.discrete:
                    errors.append(-log_softmax(out, batch.action_mask[b, t, i])[int(batch.action[b, t, i])])
                else:
                    size = own.spec.action_sizes[i]
                    errors.append(((out[:size] - batch.action[b, t, i, :size]) ** 2).mean())
    losses = {"model/diffusion_loss": squares / count, "model/inverse_loss": mean(errors)}
    norms = own.step(model=((losses["model/diffusion_loss"] + losses["model/inverse_loss"]) / 2, "model"))
    own.soft_update("slow", "model", c.tau)
    return {**losses, **norms}


def planned(own: Replica, present: Tensor, known: Sequence[float]) -> Tensor:
    """A plan ``[N, H, O]`` without noise."""
    c, a = own.config, kept(own)
    to_go = own.values["returns.target"] / own.values["returns.scale"]
    gaps = (c.diffusion_steps - 1) / max(c.eval_steps - 1, 1)
    levels = [round(c.diffusion_steps - 1 - k * gaps) for k in range(c.eval_steps)]
    x = torch.zeros(own.spec.n_agents, c.sequence_length + 1, own.spec.obs_size, dtype=DOUBLE)
    x = overwritten(own, x, present, known)
    for place, k in enumerate(levels):
        eps = [predicted(own, "slow", x, known, k, to_go, told) for told in (0.0, 1.0)]
        noise = eps[0] + c.guidance * (eps[1] - eps[0])
        clean = ((x - math.sqrt(1.0 - a[k]) * noise) / math.sqrt(a[k])).clamp(-1.0, 1.0)
        if place + 1 == len(levels):
            x = clean
        else:
            rest, after = (x - math.sqrt(a[k]) * clean) / math.sqrt(1.0 - a[k]), a[levels[place + 1]]
            x = math.sqrt(after) * clean + math.sqrt(1.0 - after) * rest
        x = overwritten(own, x, present, known)
    return x


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Actions of the plan's first step; decentralized, of every agent's own plan."""
    now, chosen = past[-1], list[Any]()
    present = scaled(own, now.obs)
    present = torch.stack([present[i] * real(own, i) for i in range(own.spec.n_agents)])
    for i in range(own.spec.n_agents):
        plan = planned(own, present, knowledge(own, i))
        out = inverse(own, "slow", present[i], plan[i, 1], i)
        if now.action_mask is not None:
            chosen.append(best_legal(out, now.action_mask[i]))
        else:
            chosen.append(out.clamp(-1.0, 1.0) * used(own)[i])
    return chosen
