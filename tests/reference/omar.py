"""OMAR: the class's text and sections 2 to 4 of its specification; discrete actions after the class's text alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, linear_mixer, log_softmax, mean, mlp, one_hot
from tests.reference.decomposition import push_down
from tests.reference.deterministic import used
from tests.reference.harness import DOUBLE, Case, Replica, Seen
from tests.reference.networks import numbers, over_time, qmix_mixer, sequences

WEIGHTS = {"omar_coe": [0.7, 0.2], "cql_alpha": [1.0, 3.0]}
SEARCH = {"cql_samples": 3, "search_samples": 8, "search_elites": 3, "search_std": [2.0, 0.6]}
PENALTY = {"cql_sigma": [0.2, 0.5], "action_penalty": [1e-3, 0.3]}
ALONE = {"hidden": 24, **WEIGHTS, **SEARCH, **PENALTY}

CASES = [
    Case("continuous", ALONE),
    Case("continuous", {**ALONE, "search": "softmax", "search_rounds": 3, "policy_samples": False}),
    Case("continuous", {**ALONE, "input_norm": "batch"}),
    Case("continuous", {**ALONE, "mixed": True}, agent_rewards=False),
    Case("continuous", {**ALONE, "mixed": True, "input_norm": "batch", "search_rounds": 3}),
    Case("discrete", WEIGHTS),
    Case("discrete", {**WEIGHTS, "history": "rnn", "mixed": True, "imitation": "mse"}),
    Case("discrete", {**WEIGHTS, "history": "rnn", "target_period": 2, "policy_gradient": "coma"}),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """The critics' step, then the policy's with the new critics, then the targets."""
    return (discrete if own.spec.discrete else continuous)(own, batch)


# ---- continuous --------------------------------------------------------------------------------------------


def continuous(own: Replica, batch: Any) -> dict[str, Any]:
    """Twin critics and a deterministic policy; every agent alone, or one linear mixer."""
    c, rows, agents = own.config, range(len(batch.mask)), range(own.spec.n_agents)

    # 1. target
    after = policy(own, "target_actor", batch.next_obs)
    following = critics(own, "target_q", batch.next_obs, after.unsqueeze(0))[:, 0]
    q = critics(own, "q", batch.obs, batch.action.unsqueeze(0))[:, 0]
    action = policy(own, "actor", batch.obs)
    actions, density = penalty_samples(own, batch, action)
    sampled = critics(own, "q", batch.obs, actions)

    # 2. critics
    td, push = torch.zeros((), dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
    y: dict[tuple[int, ...], float] = {}
    for b in rows:
        if c.mixed:
            w, bias = linear_mixer(own.layers("target_mixer"), batch.next_state[b])
            total = (w * following[:, b].min(0).values).sum().item() + bias.item()
            y[b,] = float(batch.reward[b]) + c.gamma * float(batch.mask[b]) * total
            continue
        for i in agents:
            least = following[:, b, i].min().item()
            y[b, i] = float(batch.agent_reward[b, i]) + c.gamma * float(batch.mask[b]) * least
    values = []
    for j in (0, 1):
        errors, gaps = [], []
        for b in rows:
            w = torch.ones(len(agents), dtype=DOUBLE)
            if c.mixed:
                w, bias = linear_mixer(own.layers("mixer"), batch.state[b])
                values.append((w * q[j, b]).sum() + bias)
                errors.append((values[-1] - y[b,]) ** 2)
            else:
                values += list(q[j, b])
                errors += [(q[j, b, i] - y[b, i]) ** 2 for i in agents]
            for i in agents:
                exponents = w[i] * sampled[j, :, b, i] - density[:, b, i]
                gaps.append(exponents.exp().sum().log() - w[i] * q[j, b, i])
        td, push = td + sum(errors) / len(rows), push + sum(gaps) / len(rows)
    trained = ("q", "mixer") if c.mixed else ("q",)
    norms = own.step(critic=(td + c.cql_alpha * push, *trained))

    # 3. search
    with torch.no_grad():
        best = (elites if c.search == "cem" else softmax_means)(own, batch)
        judged = critics(own, "q", batch.obs, torch.stack((action, best)), 1)[0]
    value = critics(own, "q", batch.obs, action.unsqueeze(0))[0, 0]

    # 4. policy
    pulls, sizes = [], []
    for b in rows:
        for i in agents:
            size = own.spec.action_sizes[i]
            aim = best[b, i] if judged[1, b, i] > judged[0, b, i] else action[b, i].detach()
            pulls.append(((action[b, i, :size] - aim[:size]) ** 2).mean())
            sizes.append((action[b, i, :size] ** 2).mean())
    policy_loss = (
        c.omar_coe * mean(pulls) - (1.0 - c.omar_coe) * value.mean() + c.action_penalty * mean(sizes)
    )
    norms |= own.step(policy=(policy_loss, "actor"))

    for name in ("actor", *trained):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "td_loss": td,
        "penalty": push,
        "policy_loss": policy_loss,
        "q": mean(values[: len(values) // 2]),
        "target_q": sum(y.values()) / len(y),
        **norms,
    }


def normalized(own: Replica, module: str, x: Tensor, *agent: int) -> Tensor:
    """Batch normalization ``[..., in]`` by the input's own statistics, which also move the running ones."""
    if own.config.input_norm == "none":
        return x
    rows = x.reshape(-1, x.shape[-1])
    count, centre = len(rows), rows.mean(0)
    variance = ((rows - centre) ** 2).mean(0)
    with torch.no_grad():
        moving = {"running_mean": centre, "running_var": variance * count / (count - 1)}
        for name, now in moving.items():
            running = own.values[f"{module}.{name}"][agent]
            running.copy_(0.9 * running + 0.1 * now)
    scale, offset = (own.values[f"{module}.{name}"][agent] for name in ("scale", "offset"))
    return (x - centre) / (variance + 1e-5).sqrt() * scale + offset


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


def penalty_samples(own: Replica, batch: Any, action: Tensor) -> tuple[Tensor, Tensor]:
    """Actions ``[K, B, N, A]`` that the penalty pushes down, and the logarithms of their densities ``[K, B, N]``."""
    c, here = own.config, used(own)
    uniform = (2.0 * batch.noise["uniform"] - 1.0) * here
    density = (-math.log(2.0) * here.sum(-1)).expand(uniform.shape[:-1])
    if not c.policy_samples:
        return uniform, density
    actions, densities = [uniform], [density]
    centres = [action.detach(), policy(own, "actor", batch.next_obs).detach()]
    for centre, noise in zip(centres, batch.noise["normal"], strict=True):
        eps = c.cql_sigma * noise
        actions.append((centre + eps).clamp(-1.0, 1.0) * here)
        log_normal = -0.5 * (eps / c.cql_sigma) ** 2 - math.log(c.cql_sigma) - 0.5 * math.log(2.0 * math.pi)
        densities.append((log_normal * here).sum(-1))
    return torch.cat(actions), torch.cat(densities)


def elites(own: Replica, batch: Any) -> Tensor:
    """Cross-entropy method: the best action of the last round and of the elites before it, ``[B, N, A]``."""
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
                centre = kept[:, b, i].mean(0)
                variance = ((kept[:, b, i] - centre) ** 2).sum(0) / (c.search_elites - 1)
                fresh[:, b, i] = centre + (variance.sqrt() + 1e-6) * drawn[:, b, i]
        fresh = fresh.clamp(-1.0, 1.0) * used(own)
        candidates = torch.cat((fresh, kept))
        scores = torch.cat((critics(own, "q", batch.obs, fresh, 1)[0], kept_scores))
    return best_of(candidates, scores)


def softmax_means(own: Replica, batch: Any) -> Tensor:
    """Means weighted by the softmax of the values; the best action of the last round, ``[B, N, A]``."""
    c = own.config
    centre, spread = torch.zeros_like(batch.action), torch.full_like(batch.action, c.search_std)
    for drawn in batch.noise["search"]:
        candidates = (centre + spread * drawn).clamp(-1.0, 1.0) * used(own)
        scores = critics(own, "q", batch.obs, candidates, 1)[0]
        weight = torch.softmax(scores, dim=0).unsqueeze(-1)
        centre = (weight * candidates).sum(0)
        spread = ((candidates - centre) ** 2).mean(0).sqrt() + 1e-6
    return best_of(candidates, scores)


def ranked(candidates: Tensor, scores: Tensor) -> list[int]:
    """Numbers of candidates ``[K, A]`` by falling score ``[K]``; a tie between different ones would be luck."""
    order = sorted(range(len(scores)), key=lambda k: -scores[k].item())
    for k, following in pairwise(order):
        apart = bool((candidates[k] - candidates[following]).abs().max() > 1e-9)
        assert not apart or scores[k] - scores[following] > 1e-12, (
            "two actions are equally good; widen the critics"
        )
    return order


def best_of(candidates: Tensor, scores: Tensor) -> Tensor:
    """The candidate with the largest score for every sample and agent, ``[B, N, A]``."""
    best = torch.zeros_like(candidates[0])
    for b in range(scores.shape[1]):
        for i in range(scores.shape[2]):
            best[b, i] = candidates[ranked(candidates[:, b, i], scores[:, b, i])[0], b, i]
    return best


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
            now = qmix_mixer(own, "team.mixer", now, seq.state[b, t])
            after = qmix_mixer(own, "target_team.mixer", after, seq.state[b, t + 1]).detach()
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
            action_mask, a, q = seq.action_mask[b, t, i], seq.action[b, t, i], every[b, t, i]
            log_pi, best = log_softmax(logits[b, t, i], action_mask), best_legal(q, action_mask)
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
        "td_loss": td,
        "penalty": push,
        "policy_loss": policy_loss,
        "q": mean(values),
        "target_q": mean(targets),
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
            scale, offset, centre, variance = (
                own.values[f"{name}.norm.{part}"][agent]
                for part in ("scale", "offset", "running_mean", "running_var")
            )
            row = (row - centre) / (variance + 1e-5).sqrt() * scale + offset
        found.append(torch.tanh(mlp(own.layers("actor", *agent), row)))
    return found
