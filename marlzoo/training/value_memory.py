"""Memory of a team's values before fine-tuning."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from marlzoo.batch import Batch
from marlzoo.objectives import TargetMemory


@runtime_checkable
class RemembersValues(Protocol):
    """Protocol of methods whose targets a value memory can raise; ``memory`` is None unless fine-tuning."""

    memory: TargetMemory | None

    def data_values(self, batch: Batch) -> Tensor:
        """Values of the actions of the batch that ``update`` lifts with, in the shape of its targets."""


class ValueMemory:
    """A team's values before fine-tuning, to which targets are raised (OVMSE, arXiv 2410.19450).

    With Q_off the remembered value of the batch's actions, a target y becomes
    ``(1 - weight) y + weight max(Q_off, y)``; the regression on it has the gradient of the paper's sum of two losses.
    A target so never falls, early updates cannot unlearn, and larger targets are still learned. The paper remembers
    the team's value under a mixer; methods whose agents have critics of their own remember each agent's, and of
    several critics the least.

    Args:
        offline: the learner as it was before; it never changes.

    Attributes:
        weight: from 0 (no memory) to 1.
    """

    def __init__(self, offline: RemembersValues) -> None:
        self.offline = offline
        self.weight = 1.0

    @torch.no_grad()
    def lift(self, target: Tensor, batch: Batch) -> Tensor:
        """Lifted targets, like ``target``, which is that of the batch's actions."""
        remembered = self.offline.data_values(batch)
        return torch.lerp(target, torch.maximum(remembered, target), self.weight)
