"""B3C: specification ``b3c``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from marlzoo.data.dataset import Dataset
from tests.reference import policies
from tests.reference.blocks import gaussian_actor, mean, mlp
from tests.reference.harness import DOUBLE, Case, Replica, Seen
from tests.reference.networks import Qmix, numbers

WEIGHTS: dict[str, Any] = {"w": [1.0, 4.0], "w_bc": [1.0, 0.3], "c_clip": [1.0, 0.1]}
WIDE = {"q": 2.0, "target_q": 3.0, "target_mixer": 2.0}

CASES = [
    Case("continuous", WEIGHTS, WIDE),
    Case(
        "continuous",
        WEIGHTS | {"mixer": "monotone", "normalizer": "abs_mean", "c_clip": [math.inf, 0.1]},
        WIDE,
    ),
    Case("continuous", WEIGHTS | {"mixer": "vdn", "cap": "return", "c_clip": [0.2, 0.4]}, WIDE),
    Case("continuous", WEIGHTS | {"timeout_is_terminal": True, "gamma": 0.9}, WIDE, agent_rewards=False),
    Case("continuous", WEIGHTS, {"q": 1e-9, "mixer": 1e-9}),  # the normalizer's lower bound
]


def prepare(own: Replica, dataset: Dataset, batches: Iterator[Any]) -> None:
    """The bootstrap's cap: the largest discounted return-to-go, or the largest undiscounted episode return."""
    del batches
    rewards = dataset.reward.astype("float64").reshape(len(dataset.reward), -1).mean(1)
    ends = [*dataset.starts[1:], len(rewards)]
    candidates = []
    for start, end in zip(dataset.starts, ends, strict=True):
        steps = rewards[start : end - 1]  # the last row of an episode holds no step
        if own.config.cap == "return":
            candidates.append(float(sum(steps)))
            continue
        to_go = 0.0 if ended(own, dataset, end - 2) else beyond(own, steps)
        candidates.append(to_go)
        for reward in reversed(steps):
            candidates.append(float(reward) + own.config.gamma * candidates[-1])
    own.values["best"] = torch.tensor(max(candidates), dtype=DOUBLE)


def ended(own: Replica, dataset: Dataset, step: int) -> bool:
    """Whether nothing comes after an episode's last step."""
    return bool(dataset.terminal[step] or (own.config.timeout_is_terminal and dataset.truncated[step]))


def beyond(own: Replica, rewards: Sequence[float]) -> float:
    """Return of an episode that goes on for ever with the mean reward of its second half."""
    half = rewards[len(rewards) // 2 :]
    return float(sum(half)) / len(half) / (1.0 - own.config.gamma)


def total(own: Replica, prefix: str, obs: Tensor, action: Tensor, state: Tensor) -> list[Tensor]:
    """Q_tot of every sample."""
    q = mlp(own.layers(f"{prefix}q", 0), obs, numbers(obs), action)[..., 0]
    if own.config.mixer == "vdn":
        return [sum(row) for row in q]
    monotone = own.config.mixer == "monotone"
    return [Qmix(own, f"{prefix}mixer", s, monotone)(row) for row, s in zip(q, state, strict=True)]


def sample(own: Replica, obs: Tensor, noise: Tensor) -> Tensor:
    """``tanh(mean + std noise) [B, N, A]``; an agent's superfluous dimensions are zero."""
    mu, log_std = gaussian_actor(own.layers("actor"), obs, numbers(obs))
    drawn = torch.tanh(mu + log_std.exp() * noise)
    used = [[d < size for d in range(own.spec.action_size)] for size in own.spec.action_sizes]
    return drawn * torch.tensor(used)


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Both losses from the same parameters, both steps, targets of Q and mixer."""
    c, rows = own.config, range(len(batch.obs))

    following = sample(own, batch.next_obs, batch.noise["next"])
    bootstrap = total(own, "target_", batch.next_obs, following, batch.next_state)
    highest = math.inf if math.isinf(c.c_clip) else c.c_clip * own.values["best"].item()
    capped = [value.detach().clamp(max=highest) for value in bootstrap]
    targets = [batch.reward[b] + c.gamma * batch.mask[b] * capped[b] for b in rows]
    totals = total(own, "", batch.obs, batch.action, batch.state)
    q_loss = mean((totals[b] - targets[b]) ** 2 for b in rows)

    action = sample(own, batch.obs, batch.noise["now"])
    values = total(own, "", batch.obs, action, batch.state)
    size = mean(values).abs() if c.normalizer == "mean" else mean(value.abs() for value in values)
    squares = []
    for b in rows:
        for i, dimensions in enumerate(own.spec.action_sizes):
            squares.append(mean((action[b, i, d] - batch.action[b, i, d]) ** 2 for d in range(dimensions)))
    bc_loss = mean(squares)
    policy_loss = -c.w * mean(values) / max(size.item(), 1e-6) + c.w_bc * bc_loss

    critics = ("q",) if c.mixer == "vdn" else ("q", "mixer")
    norms = own.step(policy=(policy_loss, "actor"), q=(q_loss, *critics))
    for name in critics:
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "q/loss": q_loss,
        "policy/loss": policy_loss,
        "policy/bc_loss": bc_loss,
        "q/total": mean(totals),
        "q/target_total": mean(targets),
        "q/clipped": sum(float(value >= highest) for value in capped) / len(capped),
        **norms,
    }


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Every agent's squashed mean."""
    return policies.act(own, "actor", past)
