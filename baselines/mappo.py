"""MAPPO: proximal policy optimization for teams, with a centralized critic (online).

Yu et al., "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games", NeurIPS 2022, arXiv 2103.01955.
Agents share one policy π(a_i | o_i, i), told apart by a one-hot number; the critic V(s) sees the state. From a
rollout of E copies and T steps:

    δ_t  = r_t + γ m_t V(s'_t) - V(s_t)            m_t = 0 where the task ended, 1 where the time limit did
    A_t  = δ_t + γ λ (1 - e_t) A_{t+1}             e_t = 1 where the episode was over for any reason
    R_t  = A_t + V(s_t)
    ρ_i  = exp(Σ_dims log π(a_i | o_i) - log π_old(a_i | o_i))
    L_π  = -mean_i min(ρ_i Â, clip(ρ_i, 1 ± ε) Â) - c_H H          Â = (A - mean A) / (std A + 1e-5)
           + c_b mean_i Σ_dims max(|μ_i| - b, 0)²                  μ: means of continuous actions; c_b = 0 by default
    L_V  = mean max(h(V - R), h(V_old + clip(V - V_old, ±ε) - R))  h: Huber; V and R in ValueNorm's scale

Continuous actions follow a plain Gaussian whose samples may leave [-1, 1]: the collector executes them
clipped, the loss uses the sample. Its standard deviation is sigmoid(raw / x) y, one raw number per agent and
dimension, x at the start. All inputs pass a layer normalization; weights start orthogonal.

Departures from the authors' code: ValueNorm takes in each rollout once, not once per gradient step; the agent's
number joins the observation before the normalization; no recurrence; environments are reset every ``restart``
updates, which makes a resumed training exact; the cost of means beyond ``mean_bound`` (b) is an option of ours, with
weight ``bound_weight`` (c_b).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, Rollout
from marlzoo.modules.policies import Policy
from marlzoo.replicas import Kind, ReplicaRandom
from marlzoo.spec import ActionKind, Spec

from . import _ppo


@dataclass(frozen=True)
class MAPPOConfig(_ppo.PPOConfig):
    """Settings of MAPPO; ``_ppo`` says where the defaults come from."""


class MAPPO(Algorithm):
    """MAPPO of Yu et al. 2022; see the module's text."""

    config_class = MAPPOConfig
    config: MAPPOConfig
    actions: ClassVar[tuple[ActionKind, ...]] = ("continuous", "discrete")
    sampling = "online"
    unread = ("sequence_length", "memory_relu", "bound_margin")
    fields = ("obs", "state", "action", "reward", "mask", "next_state")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def build(self, spec: Spec) -> None:
        """Actor, critic, running normalization of returns."""
        self.nets = _ppo.PPONetworks(self, self.config)
        self.add_optimizer(policy=self.nets.actor, critic=self.nets.critic, eps=1e-5)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Several epochs of minibatches over one rollout (:class:`marlzoo.batch.Rollout`)."""
        rollout = cast(Rollout, batch)
        if self.config.lr_decay:
            self.scale_learning_rates(1.0 - rollout.progress)
        experience, metrics = _ppo.experience(self, self.nets, rollout)
        for rows in _ppo.passes(rollout, self.config):
            x = _ppo.take_experience(experience, rows)
            policy_loss = _ppo.policy_loss(self, self.nets, x)
            value_loss = _ppo.value_loss(self, self.nets, x)
            norms = self.step(policy=policy_loss, critic=value_loss)
        return metrics | {"policy/loss": policy_loss.detach(), "critic/loss": value_loss.detach()} | norms

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """The order of the rollout's steps."""
        return _ppo.noise(self.config)

    def policy(self) -> Policy:
        """Decentralized: each agent needs its own observation only."""
        return self.nets.policy()

    def explore(
        self, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom, fresh: Tensor
    ) -> Tensor:
        """A sample of π; continuous ones may leave the box."""
        del fresh
        return self.nets.explore(obs, action_mask, random)
