"""MABCQ: specification ``mabcq_decentralized``, and the choices in the method's docstring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.bcq_ma import best_allowed
from tests.reference.blocks import linear, log_softmax, mean, mlp, with_id
from tests.reference.deterministic import data_action
from tests.reference.harness import DOUBLE, Case, Replica, Seen

WEIGHTS: dict[str, Any] = {"deviation": [1.0, 0.6], "normalization": [1.0, 0.4], "reward_shift": [0.0, 0.7]}
WEIGHTS |= {"weight_min": [0.2, 0.0], "weight_max": [5.0, 1.3], "batch_size": 6}
LEARNED: dict[str, Any] = {"density_samples": 2}
SAMPLES: dict[str, Any] = {"target_samples": 2, "phi": [0.05, 0.3], "min_weight": [0.75, 0.4]}
WIDE = {"q": 2.0, "target_q": 2.0, "vae": 1.5, "mean": 2.0}

CASES = [
    Case("continuous", WEIGHTS | LEARNED | SAMPLES, WIDE),
    Case("continuous", WEIGHTS | SAMPLES | {"density": "counts"}, WIDE),
    Case("discrete", WEIGHTS | LEARNED | {"threshold": [0.3, 0.8]}, {"action_q": 2.0, "mean": 2.0}),
    Case("discrete", WEIGHTS | {"density": "counts"}, {"action_q": 2.0, "mean": 2.0}),
]
NEVER_VARIED = {"eval_samples": "how many candidates the policy draws when it is given random numbers"}


def encode(own: Replica, vae: str, i: int, condition: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of agent i's latent."""
    hidden = torch.relu(mlp(own.layers(f"{vae}.encoder.network", i), condition, x))
    (mean_head,), (log_std_head,) = (own.layers(f"{vae}.{head}.network", i) for head in ("mean", "log_std"))
    return linear(mean_head, hidden), linear(log_std_head, hidden).clamp(-4.0, 15.0)


def divergence(mu: Tensor, log_std: Tensor) -> Tensor:
    """KL to the standard normal, of every dimension."""
    return -0.5 * (1.0 + 2.0 * log_std - mu**2 - (2.0 * log_std).exp())


def decode(own: Replica, i: int, seen: Tensor, latent: Tensor) -> Tensor:
    """An action of all dimensions."""
    return torch.tanh(mlp(own.layers("vae.decoder.network", i), seen, latent))


def perturbed(own: Replica, module: str, i: int, seen: Tensor, action: Tensor) -> Tensor:
    """``clip(a + phi tanh f(o, a), -1, 1)``, zero in dimensions that the agent lacks."""
    moved = action + own.config.phi * torch.tanh(
        mlp(own.layers(f"{module}.network.network", i), seen, action)
    )
    inside = moved.clamp(-1.0, 1.0)
    return torch.where(torch.arange(len(inside)) < own.spec.action_sizes[i], inside, torch.zeros_like(inside))


def twins(own: Replica, module: str, i: int, seen: Tensor, action: Tensor) -> list[Tensor]:
    """Both values of one action."""
    return [mlp(own.layers(f"{module}.members", k, i), seen, action)[0] for k in (0, 1)]


# ---- one agent's rows --------------------------------------------------------------------------------------


def log_normal(own: Replica, i: int, output: Tensor, change: Tensor) -> Tensor:
    """Log density of an observation's change, over the entries that agent i has."""
    size = own.spec.obs_sizes[i]
    mu, log_std = (part[:size] for part in output.chunk(2))
    log_std = log_std.clamp(-5.0, 2.0)
    z = (change[:size] - mu) / log_std.exp()
    return (-0.5 * z**2 - log_std - 0.5 * math.log(2.0 * math.pi)).sum()


def world(
    own: Replica, i: int, row: tuple[Tensor, Tensor], noise: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """Negative evidence bound per entry, and the log density by importance sampling."""
    condition, change = row
    layers = own.layers("world.decoder.network", i)
    mu, log_std = encode(own, "world", i, condition, change)
    log_p = log_normal(own, i, mlp(layers, condition, mu + log_std.exp() * noise), change)
    bound = log_p - divergence(mu, log_std).sum()
    terms = []
    for eps in samples:
        z = mu + log_std.exp() * eps
        prior = (-0.5 * z**2).sum()
        proposal = (-0.5 * eps**2 - log_std).sum()
        terms.append(log_normal(own, i, mlp(layers, condition, z), change) + prior - proposal)
    log_density = torch.logsumexp(torch.stack(terms), 0) - math.log(len(terms))
    return -bound / own.spec.obs_sizes[i], log_density.detach()


@torch.no_grad()
def next_value(own: Replica, batch: Any, b: int, i: int) -> Tensor:
    """Of the best action that the behavior allows, zero where the episode ended."""
    c, n = own.config, own.spec.n_agents
    seen = with_id(batch.next_obs[b, i], i, n)
    if own.spec.discrete:
        values, targets, logits = (
            mlp(own.layers(f"{name}.network", i), seen) for name in ("action_q", "target_action_q", "clone")
        )
        return batch.mask[b] * targets[best_allowed(own, values, logits, batch.next_action_mask[b, i])]
    judged = []
    for noise in batch.noise["target"][:, b, i]:
        action = perturbed(own, "target_perturb", i, seen, decode(own, i, seen, noise.clamp(-0.5, 0.5)))
        low, high = sorted(twins(own, "target_q", i, seen, action), key=float)
        judged.append(c.min_weight * low + (1.0 - c.min_weight) * high)
    return batch.mask[b] * max(judged, key=float)


def behavior_loss(own: Replica, batch: Any, b: int, i: int) -> Tensor:
    """Cloning, or the autoencoder's loss."""
    seen = with_id(batch.obs[b, i], i, own.spec.n_agents)
    if own.spec.discrete:
        logits = mlp(own.layers("clone.network", i), seen)
        return -log_softmax(logits, batch.action_mask[b, i])[batch.action[b, i]]
    mu, log_std = encode(own, "vae", i, seen, batch.action[b, i])
    copied = decode(own, i, seen, mu + log_std.exp() * batch.noise["encode"][b, i])
    size = own.spec.action_sizes[i]
    error = ((copied - batch.action[b, i])[:size] ** 2).mean()
    return error + 0.5 * divergence(mu, log_std).mean()


def taken(own: Replica, batch: Any, b: int, i: int) -> list[Tensor]:
    """The critics' values of the data's action."""
    seen = with_id(batch.obs[b, i], i, own.spec.n_agents)
    if own.spec.discrete:
        return [mlp(own.layers("action_q.network", i), seen)[batch.action[b, i]]]
    return twins(own, "q", i, seen, batch.action[b, i])


def counted(batch: Any, b: int, i: int) -> Tensor:
    """Log share of the rows that went on like row b among those that began like it."""
    same = [
        k
        for k in range(len(batch.obs))
        if torch.equal(batch.obs[k, i], batch.obs[b, i])
        and torch.equal(batch.action[k, i], batch.action[b, i])
    ]
    both = [k for k in same if torch.equal(batch.next_obs[k, i], batch.next_obs[b, i])]
    return torch.tensor(math.log(len(both) / len(same)), dtype=DOUBLE)


def weights(
    own: Replica, values: list[Tensor], expected: list[Tensor], log_p: list[Tensor]
) -> tuple[list[float], float]:
    """Of one agent's rows; and the mean size of the deviation."""
    c, count = own.config, len(values)
    center = sum(map(float, values)) / count
    spread = math.sqrt(sum((float(v) - center) ** 2 for v in values) / (count - 1))
    relative = [
        (float(v) - float(m)) / (abs(float(m)) + 0.01 * spread) for v, m in zip(values, expected, strict=True)
    ]
    raw = [
        max(0.0, 1.0 + c.deviation * d) * math.exp(-c.normalization * float(p))
        for d, p in zip(relative, log_p, strict=True)
    ]
    average = sum(raw) / count
    found = [max(c.weight_min, min(c.weight_max, w / average)) for w in raw]
    return found, sum(map(abs, relative)) / count


def log_densities(own: Replica, batch: Any, i: int) -> tuple[list[Tensor], list[Tensor]]:
    """Of all rows of agent i, and the losses of what they come from."""
    rows, c = range(len(batch.obs)), own.config
    if c.density == "counts":
        return [counted(batch, b, i) for b in rows], []
    actions, found, losses = data_action(own, batch.action), [], []
    for b in rows:
        condition = torch.cat((with_id(batch.obs[b, i], i, own.spec.n_agents), actions[b, i]))
        row = (condition, batch.next_obs[b, i] - batch.obs[b, i])
        loss, log_p = world(own, i, row, batch.noise["world"][b, i], batch.noise["density"][:, b, i])
        losses.append(loss)
        found.append(log_p)
    center = mean(found)
    return [(p - center).clamp(-math.log(5.0), math.log(5.0)) for p in found], losses


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """All losses from the same parameters, agent by agent."""
    c, rows, n = own.config, range(len(batch.obs)), own.spec.n_agents
    actions = data_action(own, batch.action)
    behavior, means, densities, q_terms, policy, following, sizes = (list[Any]() for _ in range(7))
    for i in range(n):
        values = [next_value(own, batch, b, i) for b in rows]
        expected = [
            mlp(own.layers("mean.network", i), with_id(batch.obs[b, i], i, n), actions[b, i])[0] for b in rows
        ]
        log_p, density_losses = log_densities(own, batch, i)
        weight, size = weights(own, values, [m.detach() for m in expected], log_p)
        densities += density_losses
        following += values
        sizes.append(size)
        for b in rows:
            behavior.append(behavior_loss(own, batch, b, i))
            means.append((expected[b] - values[b]) ** 2)
            y = batch.agent_reward[b, i] + c.reward_shift + c.gamma * values[b]
            q_terms.append(weight[b] * sum((q - y) ** 2 for q in taken(own, batch, b, i)))
            if not own.spec.discrete:
                seen = with_id(batch.obs[b, i], i, n)
                decoded = decode(own, i, seen, batch.noise["policy"][b, i].clamp(-0.5, 0.5)).detach()
                policy.append(-twins(own, "q", i, seen, perturbed(own, "perturb", i, seen, decoded))[0])
    losses = {"behavior": mean(behavior), "mean": mean(means), "q": mean(q_terms)}
    groups: dict[str, tuple[Any, ...]] = {"mean": (losses["mean"], "mean")}
    if densities:
        losses["density"] = mean(densities)
        groups["density"] = (losses["density"], "world")
    if own.spec.discrete:
        groups |= {"behavior": (losses["behavior"], "clone"), "q": (losses["q"], "action_q")}
    else:
        losses["policy"] = mean(policy)
        groups |= {"behavior": (losses["behavior"], "vae"), "q": (losses["q"], "q")}
        groups["policy"] = (losses["policy"], "perturb")
    norms = own.step(**groups)
    for name in ("action_q",) if own.spec.discrete else ("q", "perturb"):
        own.soft_update(f"target_{name}", name, c.tau)
    told = {f"{name}/loss": loss for name, loss in losses.items()}
    return {**told, "mean/next_value": mean(following), "mean/deviation": sum(sizes) / n, **norms}


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """The perturbed action of the latent's mean, or the best action that the clone allows."""
    found: list[Any] = []
    for i, obs in enumerate(past[-1].obs):
        seen = with_id(obs, i, own.spec.n_agents)
        if own.spec.discrete:
            values, logits = (mlp(own.layers(f"{name}.network", i), seen) for name in ("action_q", "clone"))
            assert past[-1].action_mask is not None
            found.append(best_allowed(own, values, logits, past[-1].action_mask[i]))
        else:
            latent = torch.zeros(2 * own.spec.action_size, dtype=DOUBLE)
            found.append(perturbed(own, "perturb", i, seen, decode(own, i, seen, latent)))
    return found
