"""EQL: exponential Q-learning, in-sample learning with a reverse-KL value regularizer.

Xu, Jiang, Li, Yang, Wang, Chan, Zhan, "Offline RL with No OOD Actions: In-Sample Learning via Implicit Value
Regularization", ICLR 2023, arXiv 2303.15810; the single-agent ancestor of OMIGA, whose loss of V it has where values
are mixed. What it shares with SQL, of the same paper, stands in ``_ivr``: the forms for teams, step 3, the order of
steps, and departures from the authors' code. With sg for stopped gradients, u = min_j Q̄_j(o, a):

1. V:       x = min((u - V) / alpha, 5), m = sg max(max x, -1);   L_V = mean [exp(x - m) + exp(-m) V / alpha]
2. policy:  L_π = -mean min(exp((u - V) / alpha), weight_cap) log π(a | o), with the new V

At the minimum of L_V the weights exp((u - V) / alpha) have mean 1; the release multiplies their exponent by 10:
``weight = "code"``. The bound of 5 is the release's, not the paper's: samples beyond it do not pull V up, so where
all are V falls without end and the policy clones the data; where values differ by much more than 5 alpha take
``x_cap = inf``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import Positive
from marlzoo.modules.policies import Policy
from marlzoo.objectives import exponential_weights
from marlzoo.spec import Spec

from . import _ivr


@dataclass(frozen=True)
class EQLConfig(_ivr.IVRConfig):
    """Settings of EQL; α = 2 is the authors' for locomotion."""

    alpha: Positive = 2.0  # strength of the pull towards the data (paper: α)
    x_cap: Positive = 5.0  # bound on V's exponent x (inf: none)


class EQL(Algorithm):
    """EQL for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: EQLConfig
    config_class = EQLConfig
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
        x = torch.minimum(advantage / alpha, self.hyperparameter("x_cap", 3))
        m = x.detach().amax((1, 2), keepdim=True).clamp(min=-1.0)
        return torch.exp(x - m) + torch.exp(-m) * v / alpha

    def _weight(self, advantage: Tensor) -> Tensor:
        factor = 10.0 if self.config.weight == "code" else 1.0
        alpha = self.hyperparameter("alpha", 3)
        return exponential_weights(factor * advantage, alpha, self.hyperparameter("weight_cap", 3))
