"""What the references of MAPPO and HAPPO share: specification ``behavior_policies``, sections MAPPO and HAPPO.

Rows are the M = E T team steps of a rollout, copy by copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, log_softmax, mlp, one_hot
from tests.reference.harness import DOUBLE, Replica, Seen

COLLECTING = {"num_envs": 2, "rollout": 6}
SETTINGS = {
    **COLLECTING,
    "batch_size": 6,
    "epochs": 2,
    "gae_lambda": [0.95, 0.6],
    "clip": [0.02, 0.2],
    "entropy": [0.0, 0.1],
    "huber": [0.4, 10.0],
    "value_decay": [0.9, 0.99999],
}
BOUNDS = {"bound_weight": [0.3, 2.0], "mean_bound": [1e-3, 4e-3]}  # of means, which start near 0
NEVER_VARIED = dict.fromkeys(("num_envs", "rollout", "restart"), "no part of the update")
ADAM_EPS = 1e-5


# ---- networks --------------------------------------------------------------------------------------------


def network(own: Replica, module: str, x: Tensor, *member: int) -> Tensor:
    """Layer normalization of the input, two hidden ReLU layers, linear output; ``[M, in] -> [M, out]``."""
    scale, offset = (own.values[f"{module}.norm.{name}"][member] for name in ("scale", "offset"))
    centered = x - x.mean(-1, keepdim=True)
    variance = (centered**2).mean(-1, keepdim=True)
    return mlp(own.layers(module, *member), centered / (variance + 1e-5).sqrt() * scale + offset)


def actor_output(own: Replica, obs: Tensor, i: int) -> Tensor:
    """Means or logits of agent i, ``[M, O] -> [M, A]``; by its own network where every agent has one."""
    x = torch.cat((obs, one_hot(i, own.spec.n_agents).expand(len(obs), -1)), dim=-1)
    if own.named("nets.actor.net.network"):
        return network(own, "nets.actor.net.network", x, i)
    return network(own, "nets.actor.net", x)


def deviations(own: Replica, i: int) -> Tensor:
    """Standard deviations of agent i's own dimensions."""
    raw = own.values["nets.actor.raw_std"][i, : own.spec.action_sizes[i]]
    return own.config.std_y * torch.sigmoid(raw / own.config.std_x)


def log_prob_and_entropy(own: Replica, x: SimpleNamespace, i: int) -> tuple[Tensor, Tensor]:
    """Of agent i's actions, ``[M]`` each."""
    output = actor_output(own, x.obs[:, i], i)
    if own.spec.discrete:
        log_p = [
            log_softmax(out, action_mask)
            for out, action_mask in zip(output, x.action_mask[:, i], strict=True)
        ]
        chosen = [p[int(action)] for p, action in zip(log_p, x.action[:, i], strict=True)]
        entropy = [
            -(p[action_mask].exp() * p[action_mask]).sum()
            for p, action_mask in zip(log_p, x.action_mask[:, i], strict=True)
        ]
        return torch.stack(chosen), torch.stack(entropy)
    std = deviations(own, i)
    z = (x.action[:, i, : len(std)] - output[:, : len(std)]) / std
    log_prob = (-0.5 * z**2 - std.log() - 0.5 * math.log(2.0 * math.pi)).sum(-1)
    return log_prob, (std.log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum().expand(len(z))


def value(own: Replica, state: Tensor) -> Tensor:
    """The critic's output, on the scale of normalized returns: ``[M, S] -> [M]``."""
    return network(own, "nets.critic", state)[:, 0]


# ---- returns ---------------------------------------------------------------------------------------------


def return_scale(own: Replica) -> tuple[float, float]:
    """Mean and deviation of the returns so far: debiased, with a variance of at least 0.01."""
    weight, first, second = (float(x) for x in own.values["nets.value_norm.moments"])
    mean = first / weight if weight else 0.0
    variance = second / weight - mean**2 if weight else 0.0
    return mean, math.sqrt(max(variance, 0.01))


def observe(own: Replica, returns: Tensor) -> None:
    """Take a rollout's returns into the running moments."""
    decay = own.config.value_decay
    batch = torch.stack((torch.ones((), dtype=DOUBLE), returns.mean(), (returns**2).mean()))
    moments = own.values["nets.value_norm.moments"]
    moments.copy_(decay * moments + (1.0 - decay) * batch)


def advantages(own: Replica, rollout: Any, now: Tensor, after: Tensor) -> Tensor:
    """Generalized advantage estimates ``[E, T]`` from the values of each step's state and of what it led to."""
    c, found = own.config, torch.zeros_like(rollout.reward)
    num_envs, steps = rollout.reward.shape
    for e in range(num_envs):
        following = 0.0
        for t in reversed(range(steps)):
            delta = rollout.reward[e, t] + c.gamma * rollout.mask[e, t] * after[e, t] - now[e, t]
            over = bool(rollout.ends[e, t])
            following = delta + (0.0 if over else c.gamma * c.gae_lambda * following)
            found[e, t] = following
    return found


@torch.no_grad()
def experience(own: Replica, rollout: Any) -> tuple[SimpleNamespace, float]:
    """Rows that the losses are made of, under the parameters that made the rollout; and the explained variance."""
    shape = rollout.reward.shape
    x = SimpleNamespace(
        obs=rollout.obs.flatten(0, 1), state=rollout.state.flatten(0, 1), action=rollout.action.flatten(0, 1)
    )
    if own.spec.discrete:
        x.action_mask = rollout.action_mask.flatten(0, 1)
    x.old_value = value(own, x.state)
    mean, deviation = return_scale(own)
    now = mean + deviation * x.old_value
    after = mean + deviation * value(own, rollout.next_state.flatten(0, 1))
    advantage = advantages(own, rollout, now.view(shape), after.view(shape)).flatten()
    returns = advantage + now
    observe(own, returns)
    mean, deviation = return_scale(own)
    x.target = (returns - mean) / deviation
    x.advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-5)
    agents = range(own.spec.n_agents)
    x.old_log_prob = torch.stack([log_prob_and_entropy(own, x, i)[0] for i in agents], dim=1)
    x.compound = torch.ones_like(advantage)
    explained = 1.0 - float(advantage.var(correction=0) / returns.var(correction=0))
    return x, explained


def passes(own: Replica, rollout: Any, x: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """The rows of one gradient step after another: in every epoch all of them, in random order."""
    size = own.config.batch_size
    for numbers in rollout.noise["order"]:
        order = sorted(range(len(numbers)), key=lambda row: float(numbers[row]))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield SimpleNamespace(**{name: column[rows] for name, column in vars(x).items()})


# ---- losses ----------------------------------------------------------------------------------------------


def beyond(own: Replica, x: SimpleNamespace, i: int) -> Tensor:
    """Mean over rows of the squared excess of agent i's means over the bound; 0 for discrete actions."""
    if own.spec.discrete:
        return torch.zeros((), dtype=DOUBLE)
    total = torch.zeros((), dtype=DOUBLE)
    means = actor_output(own, x.obs[:, i], i)
    for dimension in range(own.spec.action_sizes[i]):
        above = torch.relu(means[:, dimension] - own.config.mean_bound)
        below = torch.relu(-means[:, dimension] - own.config.mean_bound)
        total = total + (above**2 + below**2).mean()
    return total


def surrogate(own: Replica, x: SimpleNamespace, i: int) -> tuple[Tensor, Tensor]:
    """``M min(rho A, clip(rho, 1 - eps, 1 + eps) A)`` and the entropy of agent i, ``[M]`` each."""
    c = own.config
    log_prob, entropy = log_prob_and_entropy(own, x, i)
    ratio = (log_prob - x.old_log_prob[:, i]).exp()
    plain = ratio * x.advantage
    bounded = ratio.clamp(1.0 - c.clip, 1.0 + c.clip) * x.advantage
    return x.compound * torch.minimum(plain, bounded), entropy


def huber(error: Tensor, delta: float) -> Tensor:
    """``e^2 / 2`` up to ``delta``, then linear."""
    size = error.abs()
    return torch.where(size <= delta, error**2 / 2.0, delta * (size - delta / 2.0))


def value_loss(own: Replica, x: SimpleNamespace) -> Tensor:
    """The larger loss of the value and of the value clipped to the neighborhood of the old one."""
    c, v = own.config, value(own, x.state)
    near = x.old_value + (v - x.old_value).clamp(-c.clip, c.clip)
    return torch.maximum(huber(v - x.target, c.huber), huber(near - x.target, c.huber)).mean()


def step_size(own: Replica, rollout: Any) -> float:
    """``lr``, falling linearly to zero over the training where ``lr_decay``."""
    return own.config.lr * (1.0 - float(rollout.progress) if own.config.lr_decay else 1.0)


def average_deviation(own: Replica) -> Tensor | float:
    """Of all agents' own dimensions; 0 where actions are discrete."""
    if own.spec.discrete:
        return 0.0
    return torch.cat([deviations(own, i).detach() for i in range(own.spec.n_agents)]).mean()


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Every agent's mean, clipped to the box, or its best legal action."""
    found, action_mask = [], past[-1].action_mask
    for i in range(own.spec.n_agents):
        output = actor_output(own, past[-1].obs[i : i + 1], i)[0]
        found.append(
            output.clamp(-1.0, 1.0)
            if action_mask is None
            else torch.tensor(best_legal(output, action_mask[i]))
        )
    return found
