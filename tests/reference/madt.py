"""MADT: specification ``madt`` with the departures of the method's text, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.reference.blocks import (
    best_legal,
    linear,
    log_softmax,
    mean,
    one_hot,
    tanh_gaussian_log_density,
    with_id,
)
from tests.reference.deterministic import used
from tests.reference.harness import DOUBLE, Case, Replica, Seen

SMALL: dict[str, Any] = {"heads": 2, "layers": 1, "batch_size": 2, "sequence_length": 3}
JOINT: dict[str, Any] = {"joint": True, "hidden": 16, "heads": 4, "sequence_length": 2}

CASES = [
    Case("continuous", SMALL),
    Case("continuous", {**SMALL, **JOINT, "tokens": "action", "target": "p90"}),
    Case("continuous", {**SMALL, "tokens": "obs", "target": "above", "sequence_length": 2}),
    Case("discrete", {**SMALL, "sequence_length": 0, "target": "above"}),
    Case("discrete", {**SMALL, **JOINT, "tokens": "action"}),
    Case("discrete", {**SMALL, "layers": 2, "tokens": "obs", "target": "p90", "sequence_length": 2}),
]
NEVER_VARIED = {"eval_mode": "how the policy is evaluated; without noise both take the best action"}
COUNT = {"return": 3, "action": 2, "obs": 1}


def prepare(own: Replica, data: Any, batches: Iterator[Any]) -> None:
    """Scale and target from the episodes' returns."""
    del batches
    reward = data.reward.astype(np.float64)
    team = reward.mean(-1) if reward.ndim > 1 else reward
    episodes = zip(data.starts, data.lengths, strict=True)
    returns = [sum(float(r) for r in team[first : first + steps]) for first, steps in episodes]
    target = {
        "max": max(returns),
        "above": max(returns) + 0.2 * abs(max(returns)),
        "p90": float(np.quantile(returns, 0.9)),
    }
    own.values["returns.scale"] = torch.tensor(max(abs(r) for r in returns), dtype=DOUBLE)
    own.values["returns.target"] = torch.tensor(target[own.config.target], dtype=DOUBLE)


def normal(own: Replica, name: str, x: Tensor) -> Tensor:
    """Layer normalization of one token."""
    center = x.mean()
    spread = ((x - center) ** 2).mean()
    return (x - center) / torch.sqrt(spread + 1e-5) * own.values[f"{name}.scale"] + own.values[
        f"{name}.offset"
    ]


def turned(rows: Tensor, place: int) -> Tensor:
    """Pairs (d, d + half) of each row rotated by ``place`` times a rate that falls with d."""
    first, second = rows.chunk(2, dim=-1)
    half = first.shape[-1]
    angles = torch.tensor([place * 10_000.0 ** (-d / half) for d in range(half)], dtype=DOUBLE)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def block(own: Replica, name: str, tokens: list[Tensor], steps: list[int]) -> list[Tensor]:
    """One block over a sequence."""
    heads, context = own.config.heads, own.config.sequence_length or own.spec.horizon
    parts: list[list[Tensor]] = [[], [], []]  # queries, keys, values [heads, D]
    for place, token in enumerate(tokens):
        three = linear(own.layers(f"{name}.qkv")[0], normal(own, f"{name}.before", token)).chunk(3)
        for k, part in enumerate(three):
            rows = part.reshape(heads, -1)
            parts[k].append(turned(rows, place) if k < 2 else rows)
    found = []
    for p, token in enumerate(tokens):
        visible = [s for s in range(p + 1) if steps[p] - steps[s] < context]
        query, keys, values = parts[0][p], *(torch.stack([parts[k][s] for s in visible]) for k in (1, 2))
        scores = (query * keys).sum(-1) / math.sqrt(query.shape[-1])  # [visible, heads]
        seen = (torch.softmax(scores, 0).unsqueeze(-1) * values).sum(0)
        x = token + linear(own.layers(f"{name}.out")[0], seen.flatten())
        inner = torch.nn.functional.gelu(
            linear(own.layers(f"{name}.up")[0], normal(own, f"{name}.between", x))
        )
        found.append(x + linear(own.layers(f"{name}.down")[0], inner))
    return found


def read(own: Replica, entries: Sequence[tuple[float, Tensor, Tensor, int]]) -> list[Tensor]:
    """Outputs for the actions of entries (scaled return-to-go, observation, action before, step) of one sequence."""
    tokens, steps, count = [], [], COUNT[own.config.tokens]
    for to_go, obs, last, step in entries:
        parts = [linear(own.layers("model.obs")[0], obs)]
        if count > 1:
            parts.append(linear(own.layers("model.action")[0], last))
        if count > 2:
            parts.insert(
                0, linear(own.layers("model.to_go")[0], torch.as_tensor(to_go, dtype=DOUBLE).reshape(1))
            )
        tokens += [torch.tanh(part) for part in parts]
        steps += [step] * count
    for k in range(own.config.layers):
        tokens = block(own, f"model.transformer.blocks.{k}", tokens, steps)
    last_ones = [
        normal(own, "model.transformer.norm", tokens[k]) for k in range(count - 1, len(tokens), count)
    ]
    return [linear(own.layers("model.head")[0], token) for token in last_ones]


def outputs(own: Replica, to_go: Sequence[float], obs: Tensor, action: Sequence[Any]) -> list[list[Tensor]]:
    """Of every step and agent: ``obs [T, N, O]``; ``action[t][i]`` as the model reads it, where there is one."""
    n, length = own.spec.n_agents, len(obs)
    nothing = torch.zeros(own.spec.action_size, dtype=DOUBLE)
    if own.config.joint:
        flat = [nothing, *(a for row in action for a in row)]
        entries = [
            (to_go[t], with_id(obs[t, i], i, n), flat[t * n + i], t) for t in range(length) for i in range(n)
        ]
        found = read(own, entries)
        return [found[t * n : (t + 1) * n] for t in range(length)]
    columns = []
    for i in range(n):
        before = [nothing, *(row[i] for row in action)]
        entries = [(to_go[t], with_id(obs[t, i], i, n), before[t], t) for t in range(length)]
        columns.append(read(own, entries))
    return [[column[t] for column in columns] for t in range(length)]


def encoded(own: Replica, action: Any) -> Tensor:
    """One-hot where discrete."""
    return one_hot(int(action), own.spec.action_size) if own.spec.discrete else action


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Likelihood of the data's actions."""
    likelihoods, scale = [], float(own.values["returns.scale"])
    for b, filled in enumerate(batch.filled):
        length = int(filled.sum())
        action = [[encoded(own, a) for a in row] for row in batch.action[b, :length]]
        to_go = [float(r) / scale for r in batch.reward[b, :length]]
        found = outputs(own, to_go, batch.obs[b, :length], action)
        for t in range(length):
            for i in range(own.spec.n_agents):
                if own.spec.discrete:
                    log_p = log_softmax(found[t][i], batch.action_mask[b, t, i])
                    likelihoods.append(log_p[int(batch.action[b, t, i])])
                    continue
                mu, log_std = found[t][i].chunk(2)
                size = own.spec.action_sizes[i]
                density = tanh_gaussian_log_density(mu, log_std.clamp(-5.0, 2.0), batch.action[b, t, i], size)
                likelihoods.append(density)
    loss = -mean(likelihoods)
    return {"policy/loss": loss, **own.step(policy=(loss, "model"))}


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Best legal actions or modes, reading the window (the whole episode) at once; in turn where ``joint``."""
    n, now = own.spec.n_agents, past[-1]
    past = past[-(own.config.sequence_length or len(past)) :]
    to_go = [float(own.values["returns.target"] / own.values["returns.scale"])] * len(past)
    obs = torch.stack([seen.obs for seen in past])
    before = [[encoded(own, a) for a in seen.action] for seen in past[:-1] if seen.action is not None]
    nothing = torch.zeros(own.spec.action_size, dtype=DOUBLE)
    chosen: list[Any] = []
    for i in range(n):
        present = [*(encoded(own, a) for a in chosen), *[nothing] * (n - len(chosen))]
        out = outputs(own, to_go, obs, [*before, present])[-1][i]
        if now.action_mask is not None:
            chosen.append(best_legal(out, now.action_mask[i]))
        else:
            chosen.append(torch.tanh(out.chunk(2)[0].clamp(-9.0, 9.0)) * used(own)[i])
    return chosen
