"""ICQ-MA: the class's text, with the networks of its specification.

Said in neither: a terminal transition's next row, whose action is a dummy, has no part in the critic's weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import (
    best_legal,
    gaussian_actor,
    linear,
    linear_mixer,
    mean,
    mlp,
    one_hot,
    taken,
    tanh_gaussian_log_density,
)
from tests.reference.harness import DOUBLE, Case, Replica, Seen
from tests.reference.networks import gru_net, numbers, sequences

BASE = {
    "policy_temperature": [0.1, 0.7],
    "critic_temperature": [2.0, 50.0],
    "critic_lr": [2e-3, 5e-3],
    "target_period": 2,
}
TWINS = {
    **BASE,
    "policy_after_critic": False,
    "n_critics": 2,
    "mixer": "linear",
    "critic_sees_state": False,
    "target_period": 0,
}
RNN = {**BASE, "history": "rnn", "td_lambda": [0.75, 0.3]}
TIME = {**RNN, "critic_steps": "time", "mask_softmax": False}

CASES = [
    Case("continuous", BASE),
    Case("continuous", {**TWINS, "bound_margin": [0.1, 0.0]}),
    Case("continuous", {**RNN, "mixer_bias": True, "policy_weight": "k_inside", "sequence_length": 3}),
    Case("discrete", {**BASE, "epsilon": [0.3, 0.0], "policy_weight": "k_inside"}),
    Case("discrete", {**RNN, "memory_relu": True, "last_action": False, "n_critics": 2, "mixer_bias": True}),
    # Some time steps have a target in no sequence, and the targets' period is no multiple of an update's steps.
    Case("discrete", {**TIME, "target_period": 7, "batch_size": 4}),
    Case("discrete", {**TWINS, "batch_size": 4}),
    Case("continuous", {**TIME, "memory_relu": True, "sequence_length": 3, "batch_size": 3}),
    Case("continuous", {**BASE, "mask_softmax": False}),
]
NEVER_VARIED = {"eval_mode": "how the policy is evaluated; without noise both take the best action"}


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Targets, the critic's step or steps, then the policy's."""
    c, seq = own.config, sequences(batch)
    if hasattr(batch, "next_action"):  # a transition: its next action is known
        action = torch.cat((seq.action, batch.next_action.unsqueeze(1)), dim=1)
        filled, followed = torch.ones(len(action), 1, dtype=DOUBLE), seq.mask
    else:
        filled, action = seq.filled, torch.cat((seq.action, seq.action[:, -1:]), dim=1)
        followed = torch.cat((filled[:, 1:], torch.zeros(len(filled), 1, dtype=DOUBLE)), dim=1)
    length = filled.shape[1]
    known = [(b, t) for b, t in seq.steps if followed[b, t] or not seq.mask[b, t]]

    if hasattr(seq, "filled") and not c.mask_softmax:
        clear_padding(seq, action, filled)
    policy_loss, largest = policy_loss_of(own, seq, filled)
    first = values(own, "critic.0", seq, seq.action)[0][0]
    q_total = mean(team_value(own, "critic.1", seq.state[step], first[step]) for step in seq.steps)

    # 1. Critic
    returns = lambda_returns(own, seq, action, filled, followed, known)
    q_loss = critic_loss(own, seq, known, returns)
    groups = [known]
    if c.critic_steps == "time":
        groups = [[(b, t) for b, t in known if t == time] for time in range(length)]
    norms: dict[str, float] = {}
    steps_made = before = own.memory.get("critic steps", 0)
    for steps in groups:
        if steps:
            loss = critic_loss(own, seq, steps, returns)
            norms |= own.step(lr={"critic": c.critic_lr}, critic=(loss, "critic"))
            steps_made += 1
    # 2. Policy
    if c.policy_after_critic:
        policy_loss, largest = policy_loss_of(own, seq, filled)
    norms |= own.step(policy=(policy_loss, "actor"))

    if c.target_period == 0:
        own.soft_update("target", "critic", c.tau)
    elif steps_made // c.target_period > before // c.target_period:
        own.hard_update("target", "critic")
    own.memory["critic steps"] = steps_made
    return {
        "critic/loss": q_loss,
        "policy/loss": policy_loss,
        "critic/total": q_total,
        "critic/target_total": mean(returns[step] for step in known),
        "weight/max": largest,
        **norms,
    }


def clear_padding(seq: Any, action: Tensor, filled: Tensor) -> None:
    """Zeros for what follows an episode's final row, and for actions from that row on; no action is legal there."""
    for b, length in enumerate(filled.sum(1).long().tolist()):
        for name in ("obs", "state", "action_mask"):
            if hasattr(seq, name):  # continuous actions have no mask
                getattr(seq, name)[b, length + 1 :] = 0
        for rows in (seq.action, action):
            rows[b, length:] = 0


# ---- values ------------------------------------------------------------------------------------------------


def values(own: Replica, module: str, seq: Any, action: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Every critic's values of the actions of the first T rows ``[B, T, N]``, and of all actions ``[B, T, N, A]``."""
    rows = action.shape[1]
    inputs = [seq.obs[:, :rows], numbers(seq.obs[:, :rows])]
    if own.config.critic_sees_state:
        inputs.insert(0, seq.state[:, :rows].unsqueeze(2).expand(-1, -1, own.spec.n_agents, -1))
    found = []
    for k in range(own.config.n_critics):
        layers = own.layers(module, k)
        if own.spec.discrete:
            heads = mlp(layers, *inputs)
            every = heads[..., 1:] + heads[..., :1]
            found.append((taken(every, action), every))
        else:
            value = mlp(layers, *inputs, action)[..., 0]
            found.append((value, value))
    return found


def mixer(own: Replica, module: str, state: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[N]`` and bias in one state."""
    if own.config.mixer == "linear":
        return linear_mixer(own.layers(module), state)
    first, last, *bias = own.layers(module)
    n = own.spec.n_agents
    w1, w2 = linear(first, state).abs().reshape(n, -1), linear(last, state).abs()
    raw = (w1 * w2).sum(-1)
    return raw / raw.sum(), linear(bias[0], state)[0] if bias else torch.zeros((), dtype=DOUBLE)


def team_value(own: Replica, module: str, state: Tensor, q: Tensor) -> Tensor:
    """``sum_i k_i(s) q_i + b(s)``."""
    k, bias = mixer(own, module, state)
    return (k * q).sum() + bias


# ---- losses ------------------------------------------------------------------------------------------------


def softmax_weights(scores: Sequence[float], valid: Sequence[bool], temperature: float) -> list[float]:
    """``B softmax(score / temperature)`` over the valid samples; the others weigh nothing."""
    top = max((s for s, v in zip(scores, valid, strict=True) if v), default=0.0)
    raw = [math.exp((s - top) / temperature) if v else 0.0 for s, v in zip(scores, valid, strict=True)]
    return [x * sum(valid) / sum(raw) if sum(raw) else 0.0 for x in raw]


def lambda_returns(
    own: Replica, seq: Any, action: Tensor, filled: Tensor, followed: Tensor, known: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Tensor]:
    """G of every step that has a target."""
    c, (samples, length) = own.config, filled.shape
    per_critic = [value for value, _ in values(own, "target.0", seq, action)]
    totals = [
        [
            min(team_value(own, "target.1", seq.state[b, t], q[b, t]).item() for q in per_critic)
            for t in range(length + 1)
        ]
        for b in range(samples)
    ]
    u = [[0.0] * (length + 1) for _ in range(samples)]
    for t in range(length + 1):
        valid = [valid_row(own, filled, followed, seq.mask, b, t) for b in range(samples)]
        weights = softmax_weights([totals[b][t] for b in range(samples)], valid, c.critic_temperature)
        for b in range(samples):
            u[b][t] = weights[b] * totals[b][t]
    found = {}
    for b in range(samples):
        following = u[b][length]
        for t in reversed(range(length)):
            if (b, t) in known:
                trace = c.td_lambda if hasattr(seq, "filled") else 0.0
                after = (1.0 - trace) * u[b][t + 1] + trace * following
                following = float(seq.reward[b, t]) + c.gamma * float(seq.mask[b, t]) * after
                found[b, t] = torch.tensor(following, dtype=DOUBLE)
            else:
                following = u[b][t]
    return found


def valid_row(own: Replica, filled: Tensor, followed: Tensor, mask: Tensor, b: int, t: int) -> bool:
    """Whether a row takes part in the weights over the batch."""
    if not own.config.mask_softmax:
        return True
    if t < filled.shape[1]:
        return bool(filled[b, t])
    return bool(filled[b, t - 1] and followed[b, t - 1])


def smallest(found: Sequence[Tensor]) -> Tensor:
    """The minimum over critics, element by element."""
    least = found[0]
    for other in found[1:]:
        least = torch.where(other < least, other, least)
    return least


def critic_loss(
    own: Replica, seq: Any, steps: Sequence[tuple[int, int]], returns: dict[tuple[int, int], Tensor]
) -> Tensor:
    """Mean squared error over these steps, summed over the critics."""
    terms = []
    for q, _ in values(own, "critic.0", seq, seq.action):
        for b, t in steps:
            terms.append((team_value(own, "critic.1", seq.state[b, t], q[b, t]) - returns[b, t]) ** 2)
    return own.config.n_critics * mean(terms)


def policy_loss_of(own: Replica, seq: Any, filled: Tensor) -> tuple[Tensor, float]:
    """The weighted likelihood of the data's actions, and the largest weight."""
    c, (samples, length), agents = own.config, filled.shape, range(own.spec.n_agents)
    log_pi, pi = likelihoods(own, seq)
    per_critic = values(own, "critic.0", seq, seq.action)
    q, every = smallest([v for v, _ in per_critic]), smallest([v for _, v in per_critic])
    terms, largest = [], 0.0
    for t in range(length):
        valid = [bool(filled[b, t]) or not c.mask_softmax for b in range(samples)]
        k = [mixer(own, "critic.1", seq.state[b, t])[0] for b in range(samples)]
        for i in agents:
            scores = []
            for b in range(samples):
                advantage = q[b, t, i]
                if own.spec.discrete:
                    advantage = advantage - (pi[b, t, i] * every[b, t, i]).sum()
                if c.policy_weight == "k_inside":
                    advantage = k[b][i] * advantage
                scores.append(advantage.item())
            weights = softmax_weights(scores, valid, c.policy_temperature)
            for b in range(samples):
                weight = weights[b] * (1.0 if c.policy_weight == "k_inside" else k[b][i].item())
                largest = max(largest, weight)
                if filled[b, t]:
                    terms.append(-weight * log_pi[b, t, i])
    return mean(terms), largest


def outputs(own: Replica, obs: Tensor, action: Tensor) -> Tensor:
    """What the policy's network says in T rows, ``obs [B, T, N, O] -> [B, T, N, out]``, continuous: mean, log std.

    ``action``: of these rows, or all but the last of them.
    """
    c, layers, parts = own.config, own.layers("actor"), [obs, numbers(obs)]
    if c.history == "rnn":
        if own.spec.discrete and c.last_action:
            parts.insert(1, previous_actions(own, obs.shape[1], action))
        inputs = torch.cat(parts, dim=-1).movedim(1, 0)
        return gru_net(layers, inputs, rectified=c.memory_relu).movedim(0, 1)
    return mlp(layers, *parts) if own.spec.discrete else torch.cat(gaussian_actor(layers, *parts), dim=-1)


def previous_actions(own: Replica, rows: int, action: Tensor) -> Tensor:
    """One-hot actions of the step before ``[B, rows, N, A]``, zeros in the first."""
    size, n = own.spec.action_size, own.spec.n_agents
    shown = torch.zeros(len(action), rows, n, size, dtype=DOUBLE)
    for b in range(len(action)):
        for t in range(1, rows):
            for i in range(n):
                shown[b, t, i] = one_hot(int(action[b, t - 1, i]), size)
    return shown


def likelihoods(own: Replica, seq: Any) -> tuple[Tensor, Tensor]:
    """log pi of the data's actions ``[B, L, N]``, and all probabilities (discrete)."""
    c, length = own.config, seq.action.shape[1]
    out = outputs(own, seq.obs[:, :length], seq.action)
    if own.spec.discrete:
        pi = (1.0 - c.epsilon) * torch.softmax(out, dim=-1) + c.epsilon / own.spec.action_size
        pi = torch.where(seq.action_mask[:, :length], pi, torch.zeros((), dtype=DOUBLE))
        total = pi.sum(-1, keepdim=True)
        pi = pi / torch.where(total > 0.0, total, torch.ones((), dtype=DOUBLE))
        chosen = taken(pi, seq.action)  # zero only where padding holds an illegal action
        return torch.where(chosen > 0.0, chosen, torch.ones((), dtype=DOUBLE)).log(), pi.detach()
    mu, log_std = out.chunk(2, dim=-1)
    log_std = log_std.clamp(-5.0, 2.0)
    found = torch.zeros(seq.action.shape[:-1], dtype=DOUBLE)
    for b, t in seq.steps:
        for i, size in enumerate(own.spec.action_sizes):
            place = (mu[b, t, i], log_std[b, t, i], seq.action[b, t, i])
            found[b, t, i] = tanh_gaussian_log_density(*place, size, c.bound_margin)
    return found, found.detach()


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """The squashed mean, or the best legal action."""
    obs = torch.stack([seen.obs for seen in past]).unsqueeze(0)
    before = [seen.action for seen in past[:-1] if seen.action is not None]
    out = outputs(own, obs, torch.stack(before).unsqueeze(0) if before else obs[:, :0])[0, -1]
    action_mask = past[-1].action_mask
    if action_mask is not None:
        return [best_legal(out[i], action_mask[i]) for i in range(own.spec.n_agents)]
    return list(torch.tanh(out[..., : own.spec.action_size].clamp(-9.0, 9.0)))
