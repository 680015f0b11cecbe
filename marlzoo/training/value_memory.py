"""A memory of what a team's values were before it is fine-tuned."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from marlzoo.batch import Batch
from marlzoo.modules.layers import chosen
from marlzoo.modules.teams import QTeam
from marlzoo.objectives import TargetMemory


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
    memory: TargetMemory | None
