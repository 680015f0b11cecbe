"""Double Q-learning targets of value-decomposition teams."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marlzoo.batch import Batch
from marlzoo.modules.distributions import chosen
from marlzoo.modules.value_decomposition import QTeam
from marlzoo.objectives.losses import double_q
from marlzoo.objectives.returns import td_lambda


@dataclass(frozen=True)
class TeamTargets:
    """Values and targets of a batch in the layout of sequences.

    Args:
        every: all agents' values of all actions in all rows, ``[R, B, L + 1, N, A]``.
        taken: those of the batch's actions, ``[R, B, L, N]``.
        total: the team's, ``[R, B, L]`` (agents' own without a mixer).
        target: TD(lambda) target of ``total`` by double Q-learning, without gradient.
    """

    every: Tensor
    taken: Tensor
    total: Tensor
    target: Tensor


def team_targets(
    team: QTeam,
    target: QTeam,
    batch: Batch,
    gamma: Tensor,
    trace: Tensor | None = None,
    allowed: Tensor | None = None,
) -> TeamTargets:
    """The team's values, and targets from the best actions valued by the target team.

    Without a mixer every agent has its own value, reward and target: an axis N more than said here.

    Args:
        team: that learns.
        target: that follows it.
        batch: from :func:`marlzoo.objectives.sequences.as_sequences`.
        gamma: ``[R, 1, 1]``.
        trace: lambda of the target ``[R, 1, 1]``; None: one step.
        allowed: actions to choose the best from, ``[R, B, L + 1, N, A]`` bool; None: the legal ones.
    """
    every, mixed = team(batch), team.mixer is not None
    reward, state = (batch.reward, batch.state) if mixed else (batch.agent_reward, None)
    now, later = (None, None) if state is None else (state[:, :, :-1], state[:, :, 1:])
    taken = chosen(every[:, :, :-1], batch.action)
    total = team.total(taken, now)
    with torch.no_grad():
        best = double_q(every, target(batch), batch.action_mask if allowed is None else allowed)
        if trace is None:
            carry = gamma * batch.mask if mixed else (gamma * batch.mask).unsqueeze(-1)
            y = reward + carry * target.total(best[:, :, 1:], later)
        else:
            y = td_lambda(reward, target.total(best, state), batch.mask, batch.filled, gamma, trace)
    return TeamTargets(every, taken, total, y)
