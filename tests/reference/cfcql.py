"""CFCQL: the class's text and sections 2 to 6 of its specification."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, log_softmax, mean, mlp
from tests.reference.decomposition import (
    Episode,
    episodes,
    lambda_returns,
    next_actions,
    outputs,
    partly,
    with_target,
)
from tests.reference.deterministic import used
from tests.reference.harness import DOUBLE, Case, Replica, Seen
from tests.reference.networks import Qmix, batch_norm, batch_norm_deployed, numbers

WEIGHT = {"cql_weight": [1.0, 0.3], "target_period": 2}
SAMPLES = {"samples": 3, "sample_std": [0.2, 0.5], "target_noise": [0.05, 0.3], "action_penalty": [1e-3, 0.2]}
DISCRETE = {**WEIGHT, "td_lambda": [0.6, 0.2], "temperature": [0.5, 2.0]}

FLOOR = 1e-5  # added to both probabilities in K, as in the authors' code

CASES = [
    Case("continuous", {**WEIGHT, **SAMPLES, "policy_period": 2, "target_period": 0}),
    Case("continuous", {**WEIGHT, **SAMPLES, "policy_period": 1, "other_actions": "next"}),
    Case(
        "continuous",
        {
            **WEIGHT,
            **SAMPLES,
            **{"policy_period": 2, "policy_samples": False, "batch_norm": True},
            **{"target_period": 0, "target_steps": "critic"},
        },
    ),
    Case("continuous", {**WEIGHT, **SAMPLES, "policy_period": 2, "backup": "partial", "replaced": 2}),
    Case("continuous", {**WEIGHT, **SAMPLES, "policy_period": 2, "backup": "partial", "replaced": 3}),
    Case("continuous", {**WEIGHT, **SAMPLES, "policy_period": 2, "backup": "soft"}),
    Case("discrete", {**DISCRETE, "batch_size": 4}),
    Case("discrete", {**DISCRETE, "history": "mlp", "agent_weights": "argmax", "target_period": 0}),
    Case("discrete", {**DISCRETE, "last_action": False, "agent_weights": "uniform", "sequence_length": 3}),
    Case("discrete", {**DISCRETE, "behavior_updates": 2, "memory_relu": True, "sequence_length": 3}),
    Case("discrete", {**DISCRETE, "history": "mlp", "backup": "partial"}),
    Case("discrete", {**DISCRETE, "backup": "partial", "replaced": 2, "batch_size": 4}),
    Case("discrete", {**DISCRETE, "backup": "partial", "replaced": 3, "batch_size": 4}),
    Case("discrete", {**DISCRETE, "backup": "partial", "value_normalization": True, "sequence_length": 3}),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update; targets are copied at every ``target_period``-th, or come closer where it is 0."""
    c = own.config
    own.memory["updates"] = own.memory.get("updates", 0) + 1
    metrics, followed = (discrete if own.spec.discrete else continuous)(own, batch)
    comes_closer = own.spec.discrete or c.target_steps == "critic" or policy_moves(own)
    for target, online in followed.items():
        if c.target_period == 0 and comes_closer:
            own.soft_update(target, online, c.tau)
        elif c.target_period and own.memory["updates"] % c.target_period == 0:
            own.hard_update(target, online)
    return metrics


# ---- discrete ----------------------------------------------------------------------------------------------


def prepare(own: Replica, dataset: Any, batches: Iterator[Any]) -> None:
    """Clone the behavior first, if asked for."""
    del dataset
    if own.spec.discrete:
        for _ in range(own.config.behavior_updates):
            own.step(behavior=(clone_loss(own, episodes(next(batches))), "behavior"))


def behavior(own: Replica, episode: Episode) -> list[Tensor]:
    """Log probabilities ``[N, A]`` of the behavior policy in every step."""
    rows = outputs(own, own.layers("behavior"), episode.obs, episode.action)
    return [log_softmax(rows[t], episode.action_mask[t]) for t in episode.steps]


def clone_loss(own: Replica, team: Sequence[Episode]) -> Tensor:
    """Negative log likelihood of the data's actions."""
    terms = []
    for episode in team:
        for row, action in zip(behavior(own, episode), episode.action, strict=True):
            terms += [-row[i, a] for i, a in enumerate(action)]
    return mean(terms)


def discrete(own: Replica, batch: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """QMIX with one counterfactual penalty per agent."""
    c, team = own.config, episodes(batch)
    errors, penalties, totals, fitted = [], [], [], []
    for b, episode in enumerate(team):
        values = outputs(own, own.layers("team.agents"), episode.obs, episode.action)
        returns = returns_of(own, episode, values, *replacement(own, batch, b))
        likely = [row.exp().detach() for row in behavior(own, episode)]
        for t in episode.steps:
            taken = torch.stack([values[t][i, a] for i, a in enumerate(episode.action[t])])
            mixer = Qmix(own, "team.mixer", episode.state[t])
            total = mixer(taken)
            if t < len(returns):
                errors.append(0.5 * (total - returns[t]) ** 2)
                fitted.append(float(total.detach()))
            push, divergence = counterfactuals(mixer, values[t], taken, episode.action_mask[t], likely[t])
            weights = agent_weights(own, divergence)
            penalties.append(sum(w * x for w, x in zip(weights, push, strict=True)) - total)
            totals.append(total)
    td, penalty, cloning = mean(errors), mean(penalties), clone_loss(own, team)
    if c.value_normalization:
        center = sum(fitted) / len(fitted)
        td = td / (sum(abs(total - center) for total in fitted) / len(fitted) + 1e-6) ** 2
    losses = {"q": (td + c.cql_weight * penalty, "team")}
    if c.behavior_updates == 0:
        losses["behavior"] = (cloning, "behavior")
    norms = own.step(**losses)
    metrics = {"q/loss": td, "q/penalty": penalty, "behavior/loss": cloning, "q/total": mean(totals), **norms}
    return metrics, {"target": "team"}


def replacement(own: Replica, batch: Any, b: int) -> tuple[Any, Any]:
    """The data's next actions of sample b and the agents' random numbers, where some keep the data's action."""
    if own.config.backup == "policy" or own.config.replaced == own.spec.n_agents:
        return None, None
    return next_actions(batch)[b], batch.noise["subset"][b, 0]


def returns_of(
    own: Replica, episode: Episode, values: Sequence[Tensor], following_actions: Any, uniform: Any
) -> list[Tensor]:
    """TD(lambda) of the target team's value of the actions that are best by the online values, or some of them."""
    target = outputs(own, own.layers("target.agents"), episode.obs, episode.action)
    following = []
    for t in range(1, len(episode.obs)):
        best = [best_legal(values[t][i], episode.action_mask[t][i]) for i in range(own.spec.n_agents)]
        chosen = [target[t][i, a] for i, a in enumerate(best)]
        if following_actions and following_actions[t - 1] is not None:
            chosen = partly(chosen, target[t], following_actions[t - 1], uniform, own.config.replaced)
        following.append(Qmix(own, "target.mixer", episode.state[t])(torch.stack(chosen)).detach())
    count = with_target(episode, following_actions) if following_actions else len(episode.action)
    if count == 0:
        return []
    parts = episode.reward[:count], episode.goes_on[:count], following[:count]
    return lambda_returns(*parts, own.config.gamma, own.config.td_lambda)


def counterfactuals(
    mixer: Qmix, values: Tensor, taken: Tensor, action_mask: Tensor, likely: Tensor
) -> tuple[list[Tensor], list[float]]:
    """LSE_i and K_i of every agent: the others keep the data's actions."""
    push, divergence = [], []
    for i in range(len(values)):
        legal, found = [a for a in range(values.shape[1]) if action_mask[i, a]], []
        for a in legal:
            joint = torch.stack([values[i, a] if k == i else taken[k] for k in range(len(taken))])
            found.append(mixer(joint))
        push.append(torch.logsumexp(torch.stack(found), dim=0))
        mu = [math.exp((x - push[-1]).item()) for x in found]
        pairs = [(p + FLOOR, likely[i, a].item() + FLOOR) for p, a in zip(mu, legal, strict=True)]
        divergence.append(sum(p * math.log(p / q) for p, q in pairs))
    return push, divergence


def agent_weights(own: Replica, divergence: Sequence[float]) -> list[float]:
    """lambda_i."""
    n, kind = len(divergence), own.config.agent_weights
    if kind == "uniform":
        return [1.0 / n] * n
    if kind == "argmax":
        return [float(k == max(range(n), key=lambda i: divergence[i])) for k in range(n)]
    raw = [math.exp(own.config.temperature * k) for k in divergence]
    return [x / sum(raw) for x in raw]


# ---- continuous --------------------------------------------------------------------------------------------


def continuous(own: Replica, batch: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """One central twin critic, a deterministic policy per agent that steps in every ``policy_period``-th update."""
    c, rows, agents = own.config, range(len(batch.reward)), range(own.spec.n_agents)

    # 1. TD
    after = policies(own, "target_actor", batch.next_obs) + c.target_noise * batch.noise["target"]
    after = after.clamp(-1.0, 1.0) * used(own)
    following = next_values(own, batch, after).detach()
    y = [batch.reward[b] + c.gamma * batch.mask[b] * following[b] for b in rows]
    q = critics(own, "q", batch.state, batch.action)
    td = sum(mean((q[k, b] - y[b]) ** 2 for b in rows) for k in (0, 1))

    # 2. and 3. penalty
    own_actions, density, others = samples_of(own, batch)
    joint = torch.stack([replaced(others, own_actions, i) for i in agents], dim=2)  # [K, B, agent, N, A]
    judged = critics(own, "q", batch.state.unsqueeze(1), joint)
    penalty = torch.zeros((), dtype=DOUBLE)
    for k in (0, 1):
        terms = []
        for b in rows:
            lse = [torch.logsumexp(judged[k, :, b, i] - density[:, b, i], dim=0) for i in agents]
            terms.append(mean(lse) - q[k, b])
        penalty = penalty + mean(terms)
    norms = own.step(q=(td + c.cql_weight * penalty, "q"))

    # 4. policy
    action = policies(own, "actor", batch.obs)
    alone = torch.stack([replaced(batch.action, action, i) for i in agents], dim=1)
    value = critics(own, "q", batch.state.unsqueeze(1), alone)[0]
    sizes = [(action[:, i, :size] ** 2).mean() for i, size in enumerate(own.spec.action_sizes)]
    policy_loss = -value.mean() + c.action_penalty * sum(sizes)
    norms |= own.step(moves=policy_moves(own), policy=(policy_loss, "actor"))
    metrics = {
        "q/loss": td,
        "q/penalty": penalty,
        "policy/loss": policy_loss,
        "q/total": q[0].mean(),
        "q/target_total": mean(y),
        **norms,
    }
    return metrics, {"target_q": "q", "target_actor": "actor"}


def policy_moves(own: Replica) -> bool:
    """Whether this update is one of the policies' steps."""
    return bool(own.memory["updates"] % own.config.policy_period == 0)


def normalized(own: Replica, module: str, x: Tensor, *agent: int) -> Tensor:
    """By the statistics of the batch, where asked for."""
    return x if not own.config.batch_norm else batch_norm(own, module, x, *agent)


def policies(own: Replica, module: str, obs: Tensor) -> Tensor:
    """Actions ``[B, N, A]``, zero in dimensions that an agent lacks."""
    x = torch.cat((obs, numbers(obs)), dim=-1)
    rows = []
    for i in range(own.spec.n_agents):
        rows.append(mlp(own.layers(module, i), normalized(own, f"{module}.network.norm", x[:, i], i)))
    return torch.tanh(torch.stack(rows, dim=1)) * used(own)


def next_values(own: Replica, batch: Any, policy: Tensor) -> Tensor:
    """Values ``[B]`` of the next step, where some agents may keep the data's next action."""
    c, agents = own.config, own.spec.n_agents

    def twins(count: int) -> Tensor:
        team = batch.next_action.clone()
        for b, order in enumerate(batch.noise["subset"].argsort(-1).tolist()):
            for i in order[:count]:
                team[b, i] = policy[b, i]
        return critics(own, "target_q", batch.next_state, team)

    if c.backup == "policy" or (c.backup == "partial" and c.replaced == own.spec.n_agents):
        return critics(own, "target_q", batch.next_state, policy).min(0).values
    if c.backup == "partial":
        return twins(c.replaced).min(0).values
    every = [twins(count) for count in range(agents + 1)]
    spread = [(q[0] - q[1]).abs() / math.sqrt(2.0) for q in every]
    scale = torch.stack(spread).mean(0)
    weight = torch.stack([torch.exp(-u / scale) for u in spread])
    return (weight * torch.stack([q.min(0).values for q in every])).sum(0) / weight.sum(0)


def critics(own: Replica, module: str, state: Tensor, action: Tensor) -> Tensor:
    """Both critics' values ``[2, ...]`` of joint actions ``[..., N, A]``, ``state [..., S]``."""
    joint = action.flatten(-2)
    x = normalized(own, f"{module}.norm", torch.cat((state.expand(*joint.shape[:-1], -1), joint), dim=-1))
    return torch.stack([mlp(own.layers(module, k), x)[..., 0] for k in (0, 1)])


def replaced(others: Tensor, action: Tensor, agent: int) -> Tensor:
    """``others [..., N, A]`` with one agent's entry from ``action``."""
    columns = [
        action[..., k, :] if k == agent else others[..., k, :].expand_as(action[..., k, :])
        for k in range(others.shape[-2])
    ]
    return torch.stack(columns, dim=-2)


def samples_of(own: Replica, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Actions ``[K, B, N, A]``, the logarithms of their densities, and what the others do beside them."""
    c, here = own.config, used(own)
    uniform = (2.0 * batch.noise["uniform"] - 1.0) * here
    density = (-math.log(2.0) * here.sum(-1)).expand(uniform.shape[:-1])
    data = batch.action.expand_as(uniform)
    if not c.policy_samples:
        return uniform, density, data
    actions, densities, others = [uniform], [density], [data, data, data]
    if c.other_actions == "next":
        others[2] = batch.next_action.expand_as(uniform)
    for obs, noise in zip((batch.obs, batch.next_obs), batch.noise["policy"], strict=True):
        center, eps = policies(own, "actor", obs).detach(), c.sample_std * noise
        actions.append((center + eps).clamp(-1.0, 1.0) * here)
        log_normal = -0.5 * (eps / c.sample_std) ** 2 - math.log(c.sample_std) - 0.5 * math.log(2.0 * math.pi)
        densities.append((log_normal * here).sum(-1))
    return torch.cat(actions), torch.cat(densities), torch.cat(others)


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """The policy's action (batch normalization by the running statistics), or the best legal action by its values."""
    now, agents = past[-1], range(own.spec.n_agents)
    if now.action_mask is not None:
        before = [seen.action for seen in past[:-1] if seen.action is not None]
        values = outputs(own, own.layers("team.agents"), [seen.obs for seen in past], before)[-1]
        return [best_legal(values[i], now.action_mask[i]) for i in agents]
    x, found = torch.cat((now.obs, numbers(now.obs)), dim=-1), []
    for i in agents:
        row = x[i]
        if own.config.batch_norm:
            row = batch_norm_deployed(own, "actor.network.norm", row, i)
        found.append(torch.tanh(mlp(own.layers("actor", i), row)))
    return found
