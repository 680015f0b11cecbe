"""Double Q-learning targets of value-decomposition teams, and a memory of earlier values that lifts them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


class ValueMemory:
    """What a team's values were before it is fine-tuned: targets are lifted towards them (OVMSE, arXiv 2410.19450).

    With Q_off the remembered value of the batch's actions, a target y becomes
    ``(1 - weight) y + weight max(Q_off, y)``; the regression on it has the gradient of the paper's sum of two losses.
    A target so never falls, early updates cannot unlearn, and larger targets are still learned.

    Args:
        team: is copied and never changes.

    Attributes:
        weight: from 0 (no memory) to 1.
    """

    def __init__(self, team: QTeam) -> None:
        self.team = copy.deepcopy(team).requires_grad_(False)
        self.weight = 1.0

    @torch.no_grad()
    def lift(self, target: Tensor, batch: Batch, state: Tensor | None) -> Tensor:
        """Lifted targets, like ``target [R, B, L]``; ``state [R, B, L, S]`` is the mixer's, None without one."""
        taken = chosen(self.team(batch)[:, :, :-1], batch.action)
        remembered = self.team.total(taken, state)
        return torch.lerp(target, torch.maximum(remembered, target), self.weight)


@runtime_checkable
class RemembersValues(Protocol):
    """What a method has whose targets a memory can lift; ``memory`` is None but while it is fine-tuned."""

    team: QTeam
    memory: ValueMemory | None


def team_targets(
    team: QTeam,
    target: QTeam,
    batch: Batch,
    gamma: Tensor,
    trace: Tensor | None = None,
    allowed: Tensor | None = None,
    memory: ValueMemory | None = None,
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
        memory: lifts the targets; None: nothing does.
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
        if memory is not None:
            y = memory.lift(y, batch, now)
    return TeamTargets(every, taken, total, y)
