"""SQL: sparse Q-learning, in-sample learning with a chi-square-like value regularizer.

Xu, Jiang, Li, Yang, Wang, Chan, Zhan, "Offline RL with No OOD Actions: In-Sample Learning via Implicit Value
Regularization", ICLR 2023, arXiv 2303.15810. What it shares with EQL, of the same paper, stands in ``_ivr``: the
forms for teams, step 3, the order of steps, and departures from the authors' code. With u = min_j Q̄_j(o, a):

1. V:       z = 1 + (u - V) / (2 alpha);   L_V = mean [1(z > 0) z^2 + V / alpha]
2. policy:  L_π = -mean min(max(z, 0), weight_cap) log π(a | o), with the new V

At the minimum of L_V the weights max(z, 0) have mean 1; they are zero for bad samples. The release's weight is
max(u - V, 0) instead: ``weight = "code"``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.modules.policies import Policy
from marlzoo.spec import Spec

from . import _ivr


@dataclass(frozen=True)
class SQLConfig(_ivr.IVRConfig):
    """Settings of SQL; α = 1 is the authors' for locomotion."""


class SQL(Algorithm):
    """SQL for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: SQLConfig
    config_class = SQLConfig
    actions = ("continuous", "discrete")
    presets: ClassVar = _ivr.PRESETS
    variants: ClassVar = _ivr.VARIANTS

    def build(self, spec: Spec) -> None:
        """Policy, twin Q, V and perhaps a mixer."""
        self.nets = _ivr.build(self, self.config, spec)

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Find the rewards' factor in the data."""
        _ivr.fit_reward_scale(self.nets, self.config, data)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all three losses; metrics are the losses, batch means and gradient norms, each [R]."""
        return _ivr.update(self, self.nets, self.config, batch, self._value_loss, self._weight)

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the best legal action."""
        return self.nets.actor.policy()

    def _value_loss(self, advantage: Tensor, v: Tensor) -> Tensor:
        alpha = self.hyperparameter("alpha", 3)
        z = 1.0 + advantage / (2.0 * alpha)
        return z.clamp(min=0.0).square() + v / alpha

    def _weight(self, advantage: Tensor) -> Tensor:
        if self.config.weight == "code":
            return advantage.clamp(min=0.0)
        return (1.0 + advantage / (2.0 * self.hyperparameter("alpha", 3))).clamp(min=0.0)
