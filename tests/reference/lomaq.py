"""LOMAQ: specification ``lomaq`` with the departures of the method's text, in plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, log_softmax, mean, mlp
from tests.reference.harness import DOUBLE, Case, Replica, Seen
from tests.reference.networks import over_time, sequences

SMALL: dict[str, Any] = {"cql_weight": [1.0, 0.3], "target_period": 2}
RNN: dict[str, Any] = {"history": "rnn", "sequence_length": 3, "batch_size": 4, "memory_relu": True}

CASES = [
    Case("discrete", SMALL),
    Case("discrete", {**SMALL, "graph": "ring", "reach": 0, "reward_reach": 1, "loss": "global"}),
    Case("discrete", {**SMALL, "graph": "complete", "target_period": 0}),
    Case("discrete", {**SMALL, **RNN, "reward_reach": 1}),
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
            local = total(
                rows.agent_reward[b, t, j] / len(near(own, j, c.reward_reach))
                for j in near(own, i, c.reward_reach)
            )
            follow = value(own, "target_mixers", i, after, rows.state[b, t + 1]).detach()
            y = local + c.gamma * rows.mask[b, t] * follow
            q = value(own, "mixers", i, taken, rows.state[b, t])
            gaps.append(q - y)
            values.append(q)
            targets.append(y)
            legal = rows.action_mask[b, t, i]
            penalties.append(-log_softmax(every[b, t, i], legal)[int(rows.action[b, t, i])])
        errors += [gap**2 for gap in gaps] if c.loss == "local" else [mean(gaps) ** 2]
    td_loss, penalty = mean(errors), mean(penalties)
    norms = own.step(q=(td_loss + c.cql_weight * penalty, "agents", "mixers"))
    for name in ("agents", "mixers"):
        if not c.target_period:
            own.soft_update(f"target_{name}", name, c.tau)
        elif own.optimizers["q"].count % c.target_period == 0:
            own.hard_update(f"target_{name}", name)
    means = {"q/mean": mean(values), "q/target": mean(targets)}
    return {"q/loss": td_loss, "q/penalty": penalty, **means, **norms}


def total(terms: Any) -> Tensor:
    """Plain sum of scalars."""
    return sum(terms, torch.zeros((), dtype=DOUBLE))


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's best legal action by its own utility."""
    obs = torch.stack([seen.obs for seen in past]).unsqueeze(0)
    found = over_time(own, own.layers("agents"), obs)[0, -1]
    mask = past[-1].action_mask
    assert mask is not None
    return [best_legal(found[i], mask[i]) for i in range(own.spec.n_agents)]
