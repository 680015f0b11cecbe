"""LOMAQ: specification ``lomaq`` with the departures of the method's text, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference import policies
from tests.reference.blocks import best_legal, log_softmax, mean, mlp, with_ids
from tests.reference.harness import DOUBLE, Case, Replica, Seen
from tests.reference.networks import over_time, sequences

SMALL: dict[str, Any] = {"cql_weight": [1.0, 0.3], "target_period": 2}
RNN: dict[str, Any] = {"history": "rnn", "sequence_length": 3, "batch_size": 4, "memory_relu": True}
LOCAL: dict[str, Any] = {"alpha": [10.0, 0.4], "target_period": 2}
WIDE = {"q": 3.0, "target_q": 3.0, "target_linear_mixers": 2.0, "actor": 1.5}  # z meets its bounds

CASES = [
    Case("discrete", SMALL),
    Case("discrete", {**SMALL, "graph": "ring", "reach": 0, "reward_reach": 1, "loss": "global"}),
    Case("discrete", {**SMALL, "graph": "complete", "target_period": 0}),
    Case("discrete", {**SMALL, **RNN, "reward_reach": 1}),
    Case("continuous", LOCAL, WIDE),
    Case("continuous", {**LOCAL, "graph": "ring", "reach": 0, "reward_reach": 1, "loss": "global"}, WIDE),
    Case("continuous", {**LOCAL, "graph": "complete", "target_period": 0, "bound_margin": [0.1, 0.0]}, WIDE),
    Case("continuous", {**LOCAL, **RNN, "reward_reach": 1}, WIDE),
]


def distance(own: Replica, i: int, j: int) -> int:
    """Edges between two agents."""
    n, apart = own.spec.n_agents, abs(i - j)
    return {"line": apart, "ring": min(apart, n - apart), "complete": min(apart, 1)}[own.config.graph]


def near(own: Replica, i: int, reach: int) -> list[int]:
    """Agents within a distance of agent i."""
    return [j for j in range(own.spec.n_agents) if distance(own, i, j) <= reach]


def value(own: Replica, name: str, i: int, utilities: Sequence[Tensor], state: Tensor) -> Tensor:
    """``F_i``: QMIX's network of the utilities of agent i's neighborhood."""
    parts = {part: own.layers(f"{name}.{part}", i) for part in ("first", "first_bias", "last", "value")}
    first = mlp(parts["first"], state).reshape(own.spec.n_agents, -1).abs()
    inner = mlp(parts["first_bias"], state)
    for j in near(own, i, own.config.reach):
        inner = inner + utilities[j] * first[j]
    hidden = torch.nn.functional.elu(inner)
    return (hidden * mlp(parts["last"], state).abs()).sum() + mlp(parts["value"], state)[0]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update of the form for the task's actions."""
    return learn_utilities(own, batch) if own.spec.discrete else learn_in_sample(own, policies.steps(batch))


def follow(own: Replica, *names: str) -> None:
    """Copy or track the targets."""
    c = own.config
    for name in names:
        if not c.target_period:
            own.soft_update(f"target_{name}", name, c.tau)
        elif own.optimizers["q"].count % c.target_period == 0:
            own.hard_update(f"target_{name}", name)


def local_reward(own: Replica, rewards: Tensor, i: int) -> Tensor:
    """Agent i's share of ``rewards [N]``."""
    reach = own.config.reward_reach
    return total(rewards[j] / len(near(own, j, reach)) for j in near(own, i, reach))


def learn_utilities(own: Replica, batch: Any) -> dict[str, Any]:
    """Values of all agents, each from its own reward; the targets."""
    c, rows, agents = own.config, sequences(batch), range(own.spec.n_agents)
    every = over_time(own, own.layers("agents"), rows.obs)
    frozen = over_time(own, own.layers("target_agents"), rows.obs).detach()
    errors, penalties, values, targets = [], [], [], []
    for b, t in rows.steps:
        taken = [every[b, t, i, int(rows.action[b, t, i])] for i in agents]
        best = [best_legal(every[b, t + 1, i], rows.action_mask[b, t + 1, i]) for i in agents]
        after = [frozen[b, t + 1, i, best[i]] for i in agents]
        gaps = []
        for i in agents:
            following = value(own, "target_mixers", i, after, rows.state[b, t + 1]).detach()
            y = local_reward(own, rows.agent_reward[b, t], i) + c.gamma * rows.mask[b, t] * following
            q = value(own, "mixers", i, taken, rows.state[b, t])
            gaps.append(q - y)
            values.append(q)
            targets.append(y)
            legal = rows.action_mask[b, t, i]
            penalties.append(-log_softmax(every[b, t, i], legal)[int(rows.action[b, t, i])])
        errors += [gap**2 for gap in gaps] if c.loss == "local" else [mean(gaps) ** 2]
    td_loss, penalty = mean(errors), mean(penalties)
    norms = own.step(q=(td_loss + c.cql_weight * penalty, "agents", "mixers"))
    follow(own, "agents", "mixers")
    means = {"q/mean": mean(values), "q/target": mean(targets)}
    return {"q/loss": td_loss, "q/penalty": penalty, **means, **norms}


def linear_mixer(own: Replica, name: str, i: int, obs: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """Weight of every neighbor's value in agent i's mixture, and the bias; ``obs [N, O]``."""
    body, weight, bias = (own.layers(f"{name}.{part}", i) for part in ("body", "weight", "bias"))
    known = near(own, i, own.config.reach)
    seen = torch.cat([obs[j] if j in known else torch.zeros_like(obs[j]) for j in range(len(obs))])
    hidden = torch.relu(mlp(body, seen))
    weights = mlp(weight, hidden)
    return {j: weights[j].abs() for j in known}, mlp(bias, hidden)[0]


def learn_in_sample(own: Replica, rows: Any) -> dict[str, Any]:
    """Q, V and policy in-sample, weighted by what the mixers make of an agent's value."""
    c, agents, samples = own.config, range(own.spec.n_agents), range(len(rows.mask))
    seen, following = with_ids(rows.obs), with_ids(rows.next_obs)
    q, target_q = (mlp(own.layers(name), seen, rows.action)[..., 0] for name in ("q", "target_q"))
    v, target_v = mlp(own.layers("v"), seen)[..., 0], mlp(own.layers("target_v"), following)[..., 0]

    errors, values, targets, z = [], [], [], {}
    for b in samples:
        gaps = []
        for i in agents:
            w, bias = linear_mixer(own, "linear_mixers", i, rows.obs[b])
            mine = bias + total(w[j] * q[b, j] for j in w)
            w, bias = linear_mixer(own, "target_linear_mixers", i, rows.next_obs[b])
            after = (bias + total(w[j] * target_v[b, j] for j in w)).detach()
            y = local_reward(own, rows.agent_reward[b], i) + c.gamma * rows.mask[b] * after
            gaps.append(mine - y)
            values.append(mine)
            targets.append(y)
        errors += [gap**2 for gap in gaps] if c.loss == "local" else [mean(gaps) ** 2]
        mixers = [linear_mixer(own, "target_linear_mixers", i, rows.obs[b])[0] for i in agents]
        for j in agents:
            weight = sum(float(w.get(j, torch.zeros(())).detach()) for w in mixers) / len(mixers)
            z[b, j] = (weight, weight * (float(target_q[b, j].detach()) - v[b, j]) / c.alpha)
    q_loss = mean(errors)
    v_loss = mean(x.clamp(-10.0, 10.0).exp() + weight * v[k] / c.alpha for k, (weight, x) in z.items())
    log_probs = policies.data_log_probs(own, policies.heads(own, "actor", rows), rows)
    answers = {k: math.exp(min(max(float(x.detach()), -10.0), 10.0)) for k, (_, x) in z.items()}
    policy_loss = mean(-answer * log_probs[k] for k, answer in answers.items())

    norms = own.step(policy=(policy_loss, "actor"), q=(q_loss, "q", "linear_mixers"), v=(v_loss, "v"))
    follow(own, "q", "v", "linear_mixers")
    losses = {"q/loss": q_loss, "v/loss": v_loss, "policy/loss": policy_loss}
    return {**losses, "q/mean": mean(values), "q/target": mean(targets), **norms}


def total(terms: Any) -> Tensor:
    """Plain sum of scalars."""
    return sum(terms, torch.zeros((), dtype=DOUBLE))


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's best legal action by its own utility, or its policy's action."""
    if not own.spec.discrete:
        return policies.act(own, "actor", past)
    obs = torch.stack([seen.obs for seen in past]).unsqueeze(0)
    found = over_time(own, own.layers("agents"), obs)[0, -1]
    mask = past[-1].action_mask
    assert mask is not None
    return [best_legal(found[i], mask[i]) for i in range(own.spec.n_agents)]
