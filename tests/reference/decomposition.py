"""Teams of agents with action values of their own, and what joins them: networks with memory, mixers, targets.

For IQL+CQL, QMIX+CQL and online QMIX: specification ``iql_cql_qmix_cql``, sections 2 and 3. Sequences are taken apart
into their real steps first, so padding cannot enter anything here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import Layers, best_legal, mlp, one_hot
from tests.reference.harness import DOUBLE, Replica, Seen
from tests.reference.networks import Qmix, gru_net

GOLDEN_RATIO = (1.0 + math.sqrt(5.0)) / 2.0


@dataclass
class Episode:
    """Real steps of one sample; ``obs``, ``action_mask`` and ``state`` hold the row after the last step too."""

    obs: list[Tensor]
    action_mask: list[Tensor]
    state: list[Tensor]
    action: list[Tensor]
    reward: list[Tensor]
    goes_on: list[float]

    @property
    def steps(self) -> range:
        """Of the steps that have an action."""
        return range(len(self.action))


def episodes(batch: Any) -> list[Episode]:
    """Sequences without their padding; transitions are episodes of one step. Rewards are ``[N]`` or scalars."""
    rewards = batch.agent_reward if hasattr(batch, "agent_reward") else batch.reward
    found = []
    for b in range(len(batch.action)):
        if hasattr(batch, "filled"):
            length = int(batch.filled[b].sum())
            rows, steps = range(length + 1), range(length)
            obs, action_mask = [batch.obs[b, t] for t in rows], [batch.action_mask[b, t] for t in rows]
            state = [batch.state[b, t] for t in rows] if hasattr(batch, "state") else []
            action, reward = [batch.action[b, t] for t in steps], [rewards[b, t] for t in steps]
            goes_on = [float(batch.mask[b, t]) for t in steps]
        else:
            obs, action_mask = (
                [batch.obs[b], batch.next_obs[b]],
                [batch.action_mask[b], batch.next_action_mask[b]],
            )
            state = [batch.state[b], batch.next_state[b]] if hasattr(batch, "state") else []
            action, reward, goes_on = [batch.action[b]], [rewards[b]], [float(batch.mask[b])]
        found.append(Episode(obs, action_mask, state, action, reward, goes_on))
    return found


def next_actions(batch: Any) -> list[list[Tensor | None]]:
    """The data's action ``[N]`` after every step of every sample; None where a sample is cut before it."""
    found: list[list[Tensor | None]] = []
    for b, episode in enumerate(episodes(batch)):
        if hasattr(batch, "next_action"):
            found.append([batch.next_action[b]])
        else:
            found.append([*episode.action[1:], None])
    return found


def partly(
    best: Sequence[Tensor], values: Tensor, logged: Tensor, uniform: Tensor, count: int
) -> list[Tensor]:
    """``best`` of the ``count`` agents with the smallest numbers, the others' value ``[N, A]`` of what is logged."""
    chosen = sorted(range(len(best)), key=lambda i: float(uniform[i]))[:count]
    return [best[i] if i in chosen else values[i][int(logged[i])] for i in range(len(best))]


def with_target(episode: Episode, logged: Sequence[Tensor | None]) -> int:
    """How many steps have a target made of the data's next actions: all but the one before a cut."""
    cut = logged[-1] is None and episode.goes_on[-1] > 0
    return len(episode.action) - int(cut)


# ---- networks --------------------------------------------------------------------------------------------


def outputs(own: Replica, layers: Layers, obs: Sequence[Tensor], action: Sequence[Tensor]) -> list[Tensor]:
    """Outputs ``[N, A]`` of the agents' shared network in all rows, with what it remembers of the episode so far.

    Args:
        own: with ``history`` and, where that is ``rnn``, ``last_action`` in its configuration.
        layers: encoder, input part and memory part of the GRU, head; without memory an MLP's.
        obs: ``[N, O]`` of every row.
        action: ``[N]`` of the rows before the last.
    """
    n, size = own.spec.n_agents, own.spec.action_size
    numbers = torch.eye(n, dtype=DOUBLE)
    if own.config.history == "mlp":
        return [mlp(layers, x, numbers) for x in obs]
    inputs = []
    for t, seen in enumerate(obs):
        parts = [seen]
        if own.config.last_action:
            none = torch.zeros(n, size, dtype=DOUBLE)
            parts.append(torch.stack([one_hot(int(a), size) for a in action[t - 1]]) if t else none)
        inputs.append(torch.cat((*parts, numbers), dim=-1))
    return list(gru_net(layers, torch.stack(inputs), rectified=own.config.memory_relu))


def team_value(own: Replica, module: str, state: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    """Q_tot in one state as a function of the agents' values: their sum (VDN), or QMIX's."""
    if own.config.mixer == "vdn":
        return lambda values: torch.stack(list(values)).sum()
    mixer = Qmix(own, f"{module}.mixer", state)
    return lambda values: mixer(torch.stack(list(values)))


# ---- targets ---------------------------------------------------------------------------------------------


def lambda_returns(
    reward: Sequence[Tensor], goes_on: Sequence[float], value: Sequence[Tensor], gamma: float, trace: float
) -> list[Tensor]:
    """``G_t = r_t + gamma goes_on_t ((1 - lambda) U_{t+1} + lambda G_{t+1})``, and U beyond the last step.

    Args:
        reward: of every step, ``[N]`` where agents learn alone.
        goes_on: 0 where the task ended.
        value: U of all rows after the first, like ``reward``.
        gamma: discount.
        trace: lambda.
    """
    found: list[Tensor] = []
    following = value[-1]
    for t in reversed(range(len(reward))):
        mixed = (1.0 - trace) * value[t] + trace * following
        following = reward[t] + gamma * goes_on[t] * mixed
        found.insert(0, following.detach())
    return found


def double_q(values: Tensor, target_values: Tensor, action_mask: Tensor) -> list[Tensor]:
    """Each agent's target value of the action that is best by its online values, both ``[N, A]``."""
    chosen = [best_legal(q, action_mask[i]) for i, q in enumerate(values)]
    return [q[chosen[i]] for i, q in enumerate(target_values)]


def taken(values: Tensor, action: Tensor) -> list[Tensor]:
    """Each agent's value of its own action, of ``[N, A]``."""
    return [q[int(action[i])] for i, q in enumerate(values)]


def update_target(own: Replica, updates: int) -> None:
    """The target team becomes a copy after every ``target_period``-th update, or comes closer after each."""
    if own.config.target_period == 0:
        own.soft_update("target", "team", own.config.tau)
    elif updates % own.config.target_period == 0:
        own.hard_update("target", "team")


# ---- conservative penalties ------------------------------------------------------------------------------


def push_down(values: Tensor, action: Tensor, allowed: Tensor) -> Tensor:
    """``log sum_{a allowed} exp q_a - q_action``."""
    weights = [values[a].exp() for a in range(len(values)) if allowed[a]]
    return sum(weights, torch.zeros((), dtype=DOUBLE)).log() - values[int(action)]


def random_team_actions(action_mask: Tensor, uniform: Tensor, step: int) -> list[Tensor]:
    """K team actions, each agent's drawn from its legal ones.

    Args:
        action_mask: ``[N, A]``.
        uniform: ``[K, N]`` on [0, 1); step t of a sequence uses it turned by t golden ratios.
        step: t.
    """
    found = []
    for row in uniform:
        team = []
        for i, u in enumerate(row):
            choices = [a for a in range(action_mask.shape[1]) if action_mask[i, a]]
            turned = (float(u) + step * GOLDEN_RATIO) % 1.0
            team.append(choices[int(turned * len(choices))])
        found.append(torch.tensor(team))
    return found


# ---- deployment ------------------------------------------------------------------------------------------


def greedy_team(own: Replica, layers: Layers, past: Sequence[Seen]) -> list[Tensor]:
    """Every agent's best legal action, given the episode so far."""
    obs, action = [seen.obs for seen in past], [seen.action for seen in past[:-1] if seen.action is not None]
    values, action_mask = outputs(own, layers, obs, action)[-1], past[-1].action_mask
    assert action_mask is not None
    return [torch.tensor(best_legal(q, action_mask[i])) for i, q in enumerate(values)]
