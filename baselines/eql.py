"""EQL: exponential Q-learning, in-sample learning with a reverse-KL value regulariser.

Xu, Jiang, Li, Yang, Wang, Chan, Zhan, "Offline RL with No OOD Actions: In-Sample Learning via Implicit Value
Regularization", ICLR 2023, arXiv 2303.15810; a method for one agent, and the single-agent ancestor of OMIGA. The
versions for teams are ours: every agent for itself with the team's reward (``mixing = "none"``), or OMIGA's linear
mixer of Q and V (``"linear"``; with it the loss of V is OMIGA's), where all local values below are multiplied by the
agent's weight w_i(s). The agents share their networks, whose inputs carry the agent's one-hot number. With twin Q, a
bar for targets, sg for stopped gradients, u = min_j Q̄_j(o, a):

1. V:       x = min((u - V) / alpha, 5), m = sg max(max x, -1);   L_V = mean [exp(x - m) + exp(-m) V / alpha]
2. policy:  L_π = -mean min(exp((u - V) / alpha), weight_cap) log π(a | o), with the new V
3. Q:       y = r + gamma m V(o'), no gradient;   L_Q = sum_j mean (Q_j(o, a) - y)^2

At the minimum of L_V the weights exp((u - V) / alpha) have mean 1. The bound of 5 is the release's, not the paper's:
samples beyond it do not pull V up, so where all are V falls without end and the policy clones the data; where values
differ by much more than 5 alpha take ``x_cap = inf``. V steps first, then policy and Q, then the targets
of Q (and of the mixer) follow with rate tau.

Departures from the authors' code, and the option that restores it:

* the policy's weight is the paper's ratio; the release multiplies the exponent by 10: ``weight = "code"``.
* networks, tanh-Gaussian policy and constant step size are OMIGA's, so that the family's members differ in their
  losses only. What belongs to the release's single-agent benchmarks is left out: layer normalisation of V, a Gaussian
  with a state-independent width, cosine decay of the policy's step size, scaling of rewards.

Discrete actions (ours): one Q per action, log π over the legal actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.config import Positive
from marlzoo.data.sampler import Batch
from marlzoo.losses import exponential_weights
from marlzoo.policy import Policy
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

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all three losses; metrics are the losses, batch means and gradient norms, each [R]."""
        return _ivr.update(self, self.nets, self.config, batch, self._value_loss, self._weight)

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the best legal action."""
        return self.nets.actor.policy()

    def _value_loss(self, advantage: Tensor, v: Tensor) -> Tensor:
        alpha = self.setting("alpha", 3)
        x = torch.minimum(advantage / alpha, self.setting("x_cap", 3))
        m = x.detach().amax((1, 2), keepdim=True).clamp(min=-1.0)
        return torch.exp(x - m) + torch.exp(-m) * v / alpha

    def _weight(self, advantage: Tensor) -> Tensor:
        factor = 10.0 if self.config.weight == "code" else 1.0
        return exponential_weights(
            factor * advantage, self.setting("alpha", 3), self.setting("weight_cap", 3)
        )
