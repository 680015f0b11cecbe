"""SQL: sparse Q-learning, in-sample learning with a chi-square-like value regulariser.

Xu, Jiang, Li, Yang, Wang, Chan, Zhan, "Offline RL with No OOD Actions: In-Sample Learning via Implicit Value
Regularization", ICLR 2023, arXiv 2303.15810; a method for one agent. The versions for teams are ours: every agent
for itself with the team's reward (``mixing = "none"``), or OMIGA's linear mixer of Q and V (``"linear"``), where all
local values below are multiplied by the agent's weight w_i(s). The agents share their networks, whose inputs carry
the agent's one-hot number. With twin Q, a bar for targets, u = min_j Q̄_j(o, a):

1. V:       z = 1 + (u - V) / (2 alpha);   L_V = mean [1(z > 0) z^2 + V / alpha]
2. policy:  L_π = -mean min(max(z, 0), weight_cap) log π(a | o), with the new V
3. Q:       y = r + gamma m V(o'), no gradient;   L_Q = sum_j mean (Q_j(o, a) - y)^2

At the minimum of L_V the weights max(z, 0) have mean 1; they are zero for bad samples. V steps first, then policy and
Q, then the targets of Q (and of the mixer) follow with rate tau.

Departures from the authors' code, and the option that restores it:

* the policy's weight is the paper's ratio; the release uses max(u - V, 0): ``weight = "code"``.
* networks, tanh-Gaussian policy and constant step size are OMIGA's, so that the family's members differ in their
  losses only. What belongs to the release's single-agent benchmarks is left out: layer normalisation of V, a Gaussian
  with a state-independent width, cosine decay of the policy's step size, scaling of rewards.

Discrete actions (ours): one Q per action, log π over the legal actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.data.sampler import Batch
from marlzoo.policy import Policy
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

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all three losses; metrics are the losses, batch means and gradient norms, each [R]."""
        return _ivr.update(self, self.nets, self.config, batch, self._value_loss, self._weight)

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the best legal action."""
        return self.nets.actor.policy()

    def _value_loss(self, advantage: Tensor, v: Tensor) -> Tensor:
        alpha = self.setting("alpha", 3)
        z = 1.0 + advantage / (2.0 * alpha)
        return z.clamp(min=0.0).square() + v / alpha

    def _weight(self, advantage: Tensor) -> Tensor:
        if self.config.weight == "code":
            return advantage.clamp(min=0.0)
        return (1.0 + advantage / (2.0 * self.setting("alpha", 3))).clamp(min=0.0)
