"""What SQL and EQL share: specification ``ivr_sql_eql``, "Losses" and "MARL versions"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from marlzoo.data.dataset import Dataset
from tests.reference import policies
from tests.reference.blocks import linear_mixer, mean, mixed
from tests.reference.harness import DOUBLE, Replica, Seen
from tests.reference.in_sample import Pair, Team

WIDE = {"nets.actor": 2.0, "nets.target_q": 2.0}

ValueLoss = Callable[[list[Tensor], list[Tensor]], Tensor]
Weight = Callable[[float], float]


def prepare(own: Replica, dataset: Dataset, batches: Iterator[Any]) -> None:
    """The factor of the rewards: 1000 over the spread of the episodes' returns."""
    del batches
    if own.config.reward_scaling == "none":
        return
    rewards = dataset.reward.astype("float64").reshape(len(dataset.reward), -1).mean(1)
    ends = [*dataset.starts[1:], len(rewards)]
    # The last row of an episode holds no step.
    returns = [float(rewards[start : end - 1].sum()) for start, end in zip(dataset.starts, ends, strict=True)]
    own.values["nets.reward_scale"] = torch.tensor(1000.0 / (max(returns) - min(returns)), dtype=DOUBLE)


def update(own: Replica, batch: Any, value_loss: ValueLoss, weight: Weight) -> dict[str, Any]:
    """V steps first, then policy and Q, then the targets.

    Args:
        own: the replica.
        batch: of transitions.
        value_loss: of all local ``u - V`` and all local V.
        weight: of the policy, before its cap, from one local ``u - V``.
    """
    batch = policies.steps(batch)
    c, team, factor = own.config, Team(own, "nets."), own.values["nets.reward_scale"].item()
    batch.reward, batch.agent_reward = (
        factor * getattr(batch, name, torch.zeros(())) for name in ("reward", "agent_reward")
    )
    pairs = [(b, i) for b in range(len(batch.obs)) for i in team.agents]
    judged = team.least_target_q(batch.obs, batch.action)
    scale = local_scales(own, batch, pairs)

    v = team.v(batch.obs)
    v_loss = value_loss([scale[k] * (judged[k] - v[k]) for k in pairs], [scale[k] * v[k] for k in pairs])
    norms = own.step(v=(v_loss, "nets.v"))

    v = team.v(batch.obs)
    log_probs = team.log_probs(batch)
    weights = {k: min(weight(scale[k] * (judged[k] - v[k]).item()), c.weight_cap) for k in pairs}
    policy_loss = mean(-weights[k] * log_probs[k] for k in pairs)

    mixed = c.mixing == "linear"
    q_loss, target = (team_q if mixed else local_q)(own, team, batch)
    critics = ("nets.q", "nets.mixer") if mixed else ("nets.q",)
    norms |= own.step(policy=(policy_loss, "nets.actor"), q=(q_loss, *critics))

    own.soft_update("nets.target_q", "nets.q", c.tau)
    if mixed:
        own.soft_update("nets.target_mixer", "nets.mixer", c.tau)
    return {
        "v/loss": v_loss,
        "policy/loss": policy_loss,
        "q/loss": q_loss,
        "q/target": target,
        "weight/mean": sum(weights.values()) / len(weights),
        **norms,
    }


def local_scales(own: Replica, batch: Any, pairs: Sequence[Pair]) -> dict[Pair, float]:
    """By what local values are multiplied: the target mixer's weights, or 1 without mixing."""
    if own.config.mixing == "none":
        return dict.fromkeys(pairs, 1.0)
    mixer = own.layers("nets.target_mixer")
    weights, _ = linear_mixer(mixer, batch.state)
    return {pair: weights[pair].item() for pair in pairs}


def local_q(own: Replica, team: Team, batch: Any) -> tuple[Tensor, Tensor]:
    """Loss of every agent's own Q, and the mean target."""
    q = [team.q("q", twin, batch.obs, batch.action) for twin in (0, 1)]
    after, losses, targets = team.v(batch.next_obs), [], []
    for b in range(len(batch.obs)):
        for i in team.agents:
            y = batch.agent_reward[b, i] + own.config.gamma * batch.mask[b] * after[b, i]
            losses.append(sum((values[b, i] - y.detach()) ** 2 for values in q))
            targets.append(y)
    return mean(losses), mean(targets)


def team_q(own: Replica, team: Team, batch: Any) -> tuple[Tensor, Tensor]:
    """Loss of the mixed Q, and the mean target."""
    q = [team.q("q", twin, batch.obs, batch.action) for twin in (0, 1)]
    following = mixed(own.layers("nets.target_mixer"), team.v(batch.next_obs), batch.next_state)
    totals, losses, targets = [mixed(own.layers("nets.mixer"), values, batch.state) for values in q], [], []
    for b in range(len(batch.obs)):
        y = batch.reward[b] + own.config.gamma * batch.mask[b] * following[b]
        losses.append(sum((total[b] - y.detach()) ** 2 for total in totals))
        targets.append(y)
    return mean(losses), mean(targets)


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's mode."""
    return Team(own, "nets.").act(past)
