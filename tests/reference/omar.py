"""OMAR: the class's text and sections 2 to 4 of its specification; discrete actions after the class's text alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, linear_mixer, log_softmax, mean, mixed, mlp, one_hot
from tests.reference.decomposition import push_down
from tests.reference.deterministic import nearest, used
from tests.reference.harness import DOUBLE, Case, Replica, Seen
from tests.reference.networks import (
    batch_norm,
    batch_norm_deployed,
    numbers,
    over_time,
    qmix,
    sequences,
)

WEIGHTS = {"omar_coe": [0.7, 0.2], "cql_alpha": [1.0, 3.0]}
SEARCH = {"cql_samples": 3, "search_samples": 8, "search_elites": 3, "search_std": [2.0, 0.6]}
NEAR: dict[str, Any] = {"prioritize": "joint_action", "steepness": [4.0, 0.9]}
PENALTY = {"cql_sigma": [0.2, 0.5], "action_penalty": [1e-3, 0.3]}
ALONE = {"hidden": 24, **WEIGHTS, **SEARCH, **PENALTY}

MIN_STD = 1e-6  # keeps a search going whose candidates agree

CASES = [
    Case("continuous", ALONE),
    Case("continuous", {**ALONE, "search": "softmax", "search_rounds": 3, "policy_samples": False}),
    Case("continuous", {**ALONE, "input_norm": "batch"}),
    Case("continuous", {**ALONE, "mixed": True}, agent_rewards=False),
    Case("continuous", {**ALONE, "mixed": True, "input_norm": "batch", "search_rounds": 3}),
    Case("continuous", {**ALONE, **NEAR, "candidates": 3}),
    Case("continuous", {**ALONE, **NEAR, "mixed": True}, agent_rewards=False),
    Case("discrete", WEIGHTS),
    Case("discrete", {**WEIGHTS, "history": "rnn", "memory_relu": True, "mixed": True, "imitation": "mse"}),
    Case("discrete", {**WEIGHTS, "history": "rnn", "target_period": 2, "policy_gradient": "coma"}),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """The critics' step, then the policy's with the new critics, then the targets."""
    return (discrete if own.spec.discrete else continuous)(own, batch)


# ---- continuous --------------------------------------------------------------------------------------------


def distances(own: Replica, batch: Any) -> list[float]:
    """Of every transition's joint action from the target policies'."""
    gaps = (policy(own, "target_actor", batch.obs) - batch.action).abs() * used(own)
    return [float(row.sum() / used(own).sum()) for row in gaps]


def continuous(own: Replica, batch: Any) -> dict[str, Any]:
    """Twin critics and a deterministic policy; every agent alone, or one linear mixer."""
    c, trained = own.config, ("q", "mixer") if own.config.mixed else ("q",)
    near: dict[str, Any] = {}
    if c.prioritize == "joint_action":
        batch, near = nearest(own, batch, distances(own, batch))
    targets = targets_of(own, batch)
    action = policy(own, "actor", batch.obs)
    td, push, values = critic_losses(own, batch, action, targets)
    norms = own.step(critic=(td + c.cql_alpha * push, *trained))
    policy_loss = policy_loss_of(own, batch, action)
    norms |= own.step(policy=(policy_loss, "actor"))
    for name in ("actor", *trained):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        **near,
        "critic/loss": td,
        "critic/penalty": push,
        "policy/loss": policy_loss,
        "critic/mean": mean(values),
        "critic/target": mean(y for row in targets for y in row),
        **norms,
    }


def targets_of(own: Replica, batch: Any) -> list[list[Tensor]]:
    """y of every sample: one for each agent, or one for the team."""
    c, found = own.config, []
    action = policy(own, "target_actor", batch.next_obs)
    least = critics(own, "target_q", batch.next_obs, action.unsqueeze(0))[:, 0].min(0).values.detach()
    for b in range(len(batch.mask)):
        discount = c.gamma * batch.mask[b]
        if c.mixed:
            after = mixed(own.layers("target_mixer"), least[b], batch.next_state[b])
            found.append([(batch.reward[b] + discount * after).detach()])
        else:
            found.append([r + discount * q for r, q in zip(batch.agent_reward[b], least[b], strict=True)])
    return found


def critic_losses(
    own: Replica, batch: Any, action: Tensor, targets: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Squared errors and penalty, summed over critics and agents, and the first critic's fitted values."""
    samples, agents = len(targets), range(own.spec.n_agents)
    q = critics(own, "q", batch.obs, batch.action.unsqueeze(0))[:, 0]
    actions, density = penalty_samples(own, batch, action)
    sampled = torch.cat([critics(own, "q", batch.obs, kind) for kind in actions], dim=1)
    errors, gaps, first = [], [], []
    if own.config.mixed:
        mixer = linear_mixer(own.layers("mixer"), batch.state)
    for j in (0, 1):
        for b in range(samples):
            w, fitted = torch.ones(len(agents), dtype=DOUBLE), list(q[j, b])
            if own.config.mixed:
                w, bias = (x[b] for x in mixer)
                fitted = [(w * q[j, b]).sum() + bias]
            errors += [(value - y) ** 2 for value, y in zip(fitted, targets[b], strict=True)]
            first += fitted if j == 0 else []
            for i in agents:
                exponents = w[i] * sampled[j, :, b, i] - density[:, b, i]
                gaps.append(exponents.exp().sum().log() - w[i] * q[j, b, i])
    return torch.stack(errors).sum() / samples, torch.stack(gaps).sum() / samples, first


def policy_loss_of(own: Replica, batch: Any, action: Tensor) -> Tensor:
    """Distance from the aim, value, and size of the policy's actions.

    The aim is the search's best action where its value in the search exceeds that of the policy's action.
    """
    c, pulls, sizes = own.config, [], []
    value = critics(own, "q", batch.obs, action.unsqueeze(0))[0, 0]
    with torch.no_grad():
        best, score = (elites if c.search == "cem" else softmax_means)(own, batch)
    for b in range(len(action)):
        for i, size in enumerate(own.spec.action_sizes):
            aim = best[b, i] if score[b, i] > value[b, i] else action[b, i].detach()
            pulls.append(((action[b, i, :size] - aim[:size]) ** 2).mean())
            sizes.append((action[b, i, :size] ** 2).mean())
    return c.omar_coe * mean(pulls) - (1.0 - c.omar_coe) * value.mean() + c.action_penalty * mean(sizes)


def normalized(own: Replica, module: str, x: Tensor, *agent: int) -> Tensor:
    """By the statistics of the batch, where asked for."""
    return x if own.config.input_norm == "none" else batch_norm(own, module, x, *agent)


def policy(own: Replica, module: str, obs: Tensor) -> Tensor:
    """Actions ``[B, N, A]``, zero in dimensions that an agent lacks."""
    x = torch.cat((obs, numbers(obs)), dim=-1)
    if own.config.mixed:
        found = mlp(own.layers(module), normalized(own, f"{module}.norm", x))
    else:
        name, agents = f"{module}.network.norm", range(own.spec.n_agents)
        rows = [mlp(own.layers(module, i), normalized(own, name, x[:, i], i)) for i in agents]
        found = torch.stack(rows, dim=1)
    return torch.tanh(found) * used(own)


def critics(own: Replica, module: str, obs: Tensor, action: Tensor, members: int = 2) -> Tensor:
    """Values ``[members, K, B, N]`` of actions ``[K, B, N, A]``."""
    seen = torch.cat((obs, numbers(obs)), dim=-1).expand(len(action), -1, -1, -1)
    x, name = torch.cat((seen, action), dim=-1), f"{module}.norm"
    if own.config.mixed:
        x = normalized(own, name, x)
        return torch.stack([mlp(own.layers(module, j), x)[..., 0] for j in range(members)])
    agents = range(own.spec.n_agents)
    inputs = [normalized(own, name, x[:, :, i], i) for i in agents]
    return torch.stack(
        [
            torch.stack([mlp(own.layers(module, j, i), inputs[i])[..., 0] for i in agents], dim=-1)
            for j in range(members)
        ]
    )


def penalty_samples(own: Replica, batch: Any, action: Tensor) -> tuple[list[Tensor], Tensor]:
    """What the penalty pushes down: classes of actions ``[K, B, N, A]``, and all log densities ``[K, B, N]``."""
    c, here = own.config, used(own)
    uniform = (2.0 * batch.noise["uniform"] - 1.0) * here
    density = (-math.log(2.0) * here.sum(-1)).expand(uniform.shape[:-1])
    if not c.policy_samples:
        return [uniform], density
    actions, densities = [uniform], [density]
    centers = [action.detach(), policy(own, "actor", batch.next_obs).detach()]
    for center, noise in zip(centers, batch.noise["normal"], strict=True):
        eps = c.cql_sigma * noise
        actions.append((center + eps).clamp(-1.0, 1.0) * here)
        log_normal = -0.5 * (eps / c.cql_sigma) ** 2 - math.log(c.cql_sigma) - 0.5 * math.log(2.0 * math.pi)
        densities.append((log_normal * here).sum(-1))
    return actions, torch.cat(densities)


def elites(own: Replica, batch: Any) -> tuple[Tensor, Tensor]:
    """Cross-entropy method: best action of the last round and the elites before it, and its value."""
    c, noise = own.config, batch.noise["search"]
    candidates = (c.search_std * noise[0]).clamp(-1.0, 1.0) * used(own)
    scores = critics(own, "q", batch.obs, candidates, 1)[0]
    for drawn in noise[1:]:
        kept, kept_scores = torch.zeros_like(drawn[: c.search_elites]), scores[: c.search_elites].clone()
        fresh = torch.zeros_like(drawn)
        for b in range(scores.shape[1]):
            for i in range(scores.shape[2]):
                order = ranked(candidates[:, b, i], scores[:, b, i])[: c.search_elites]
                kept[:, b, i], kept_scores[:, b, i] = candidates[order, b, i], scores[order, b, i]
                center = kept[:, b, i].mean(0)
                variance = ((kept[:, b, i] - center) ** 2).sum(0) / (c.search_elites - 1)
                fresh[:, b, i] = center + (variance.sqrt() + MIN_STD) * drawn[:, b, i]
        fresh = fresh.clamp(-1.0, 1.0) * used(own)
        candidates = torch.cat((fresh, kept))
        scores = torch.cat((critics(own, "q", batch.obs, fresh, 1)[0], kept_scores))
    return best_of(candidates, scores)


def softmax_means(own: Replica, batch: Any) -> tuple[Tensor, Tensor]:
    """Means weighted by the softmax of the values: the last round's best action, and its value."""
    c = own.config
    center, spread = torch.zeros_like(batch.action), torch.full_like(batch.action, c.search_std)
    for drawn in batch.noise["search"]:
        candidates = (center + spread * drawn).clamp(-1.0, 1.0) * used(own)
        scores = critics(own, "q", batch.obs, candidates, 1)[0]
        weight = torch.softmax(scores, dim=0).unsqueeze(-1)
        center = (weight * candidates).sum(0)
        spread = ((candidates - center) ** 2).mean(0).sqrt() + MIN_STD
    return best_of(candidates, scores)


def ranked(candidates: Tensor, scores: Tensor) -> list[int]:
    """Numbers of candidates ``[K, A]`` by falling score ``[K]``; a tie between different ones would be luck."""
    values, order = scores.tolist(), scores.argsort(descending=True).tolist()
    for k, following in pairwise(order):
        if values[k] - values[following] <= 1e-12:
            apart = bool((candidates[k] - candidates[following]).abs().max() > 1e-9)
            assert not apart, "two actions are equally good; widen the critics"
    return order


def best_of(candidates: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate with the largest score for every sample and agent ``[B, N, A]``, and that score ``[B, N]``."""
    best, score = torch.zeros_like(candidates[0]), torch.zeros_like(scores[0])
    for b in range(scores.shape[1]):
        for i in range(scores.shape[2]):
            k = ranked(candidates[:, b, i], scores[:, b, i])[0]
            best[b, i], score[b, i] = candidates[k, b, i], scores[k, b, i]
    return best, score


# ---- discrete ----------------------------------------------------------------------------------------------


def discrete(own: Replica, batch: Any) -> dict[str, Any]:
    """One critic with double Q-learning and the exact penalty, and a softmax policy over legal actions."""
    c, seq, agents = own.config, sequences(batch), range(own.spec.n_agents)
    every = over_time(own, own.layers("team.agents"), seq.obs)
    target = over_time(own, own.layers("target_team.agents"), seq.obs).detach()
    errors, gaps, values, targets = [], [], [], []
    for b, t in seq.steps:
        best = [best_legal(every[b, t + 1, i], seq.action_mask[b, t + 1, i]) for i in agents]
        after = torch.stack([target[b, t + 1, i, best[i]] for i in agents])
        now = torch.stack([every[b, t, i, seq.action[b, t, i]] for i in agents])
        reward = torch.as_tensor(seq.reward[b, t] if c.mixed else seq.agent_reward[b, t])
        if c.mixed:
            now = qmix(own, "team.mixer", now, seq.state[b, t])
            after = qmix(own, "target_team.mixer", after, seq.state[b, t + 1]).detach()
        y = reward + c.gamma * seq.mask[b, t] * after
        errors.append(((now - y) ** 2).mean())
        values.append(now.mean())
        targets.append(y.mean())
        gaps += [push_down(every[b, t, i], seq.action[b, t, i], seq.action_mask[b, t, i]) for i in agents]
    td, push = mean(errors), mean(gaps)
    norms = own.step(critic=(td + c.cql_alpha * push, "team"))

    every = over_time(own, own.layers("team.agents"), seq.obs).detach()
    logits = over_time(own, own.layers("actor_net"), seq.obs)
    terms = []
    for b, t in seq.steps:
        for i in agents:
            legal, a, q = seq.action_mask[b, t, i], seq.action[b, t, i], every[b, t, i]
            log_pi, best = log_softmax(logits[b, t, i], legal), best_legal(q, legal)
            pi = log_pi.exp()
            pull, gain = -log_pi[best], (pi * q).sum()
            if c.imitation == "mse":
                pull = ((pi - one_hot(best, len(q))) ** 2).mean()
            if c.policy_gradient == "coma":
                gain = (q[a] - gain.detach()) * log_pi[a]
            terms.append(c.omar_coe * pull - (1.0 - c.omar_coe) * gain)
    policy_loss = mean(terms)
    norms |= own.step(policy=(policy_loss, "actor_net"))

    own.memory["steps"] = own.memory.get("steps", 0) + 1
    if c.target_period == 0:
        own.soft_update("target_team", "team", c.tau)
    elif own.memory["steps"] % c.target_period == 0:
        own.hard_update("target_team", "team")
    return {
        "critic/loss": td,
        "critic/penalty": push,
        "policy/loss": policy_loss,
        "critic/mean": mean(values),
        "critic/target": mean(targets),
        **norms,
    }


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """The policy's action (batch normalization by the running statistics), or its best legal action."""
    now, agents = past[-1], range(own.spec.n_agents)
    if now.action_mask is not None:
        logits = over_time(own, own.layers("actor_net"), torch.stack([seen.obs for seen in past]))[-1]
        return [best_legal(logits[i], now.action_mask[i]) for i in agents]
    x, found = torch.cat((now.obs, numbers(now.obs)), dim=-1), []
    for i in agents:
        name, agent = ("actor", ()) if own.config.mixed else ("actor.network", (i,))
        row = x[i]
        if own.config.input_norm == "batch":
            row = batch_norm_deployed(own, f"{name}.norm", row, *agent)
        found.append(torch.tanh(mlp(own.layers("actor", *agent), row)))
    return found
