"""What SQL and EQL share: specification ``ivr_sql_eql``, "Losses" and "MARL versions"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tests.reference.blocks import linear_mixer, mean
from tests.reference.harness import Replica, Seen
from tests.reference.in_sample import Pair, Team

WIDE = {"nets.actor": 2.0, "nets.target_q": 2.0}

ValueLoss = Callable[[list[Tensor], list[Tensor]], Tensor]
Weight = Callable[[float], float]


def update(own: Replica, batch: Any, value_loss: ValueLoss, weight: Weight) -> dict[str, Any]:
    """V steps first, then policy and Q, then the targets.

    Args:
        own: the replica.
        batch: of transitions.
        value_loss: of all local ``u - V`` and all local V.
        weight: of the policy, before its cap, from one local ``u - V``.
    """
    c, team = own.config, Team(own, "nets.")
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
        "v_loss": v_loss,
        "policy_loss": policy_loss,
        "q_loss": q_loss,
        "target_q": target,
        "weight": sum(weights.values()) / len(weights),
        **norms,
    }


def local_scales(own: Replica, batch: Any, pairs: Sequence[Pair]) -> dict[Pair, float]:
    """By what local values are multiplied: the target mixer's weights, or 1 without mixing."""
    if own.config.mixing == "none":
        return dict.fromkeys(pairs, 1.0)
    mixer = own.layers("nets.target_mixer")
    weights = [linear_mixer(mixer, state)[0] for state in batch.state]
    return {(b, i): weights[b][i].item() for b, i in pairs}


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
    after, losses, targets = team.v(batch.next_obs), [], []
    for b in range(len(batch.obs)):
        w, bias = linear_mixer(own.layers("nets.target_mixer"), batch.next_state[b])
        following = sum(w[i] * after[b, i] for i in team.agents) + bias
        y = batch.reward[b] + own.config.gamma * batch.mask[b] * following
        w, bias = linear_mixer(own.layers("nets.mixer"), batch.state[b])
        totals = [sum(w[i] * values[b, i] for i in team.agents) + bias for values in q]
        losses.append(sum((total - y.detach()) ** 2 for total in totals))
        targets.append(y)
    return mean(losses), mean(targets)


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's mode."""
    return Team(own, "nets.").act(past)
