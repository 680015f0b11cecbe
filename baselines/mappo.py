"""MAPPO: proximal policy optimisation for teams, with a centralised critic (online).

Yu et al. 2022, "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games". Agents share one policy
π(a_i | o_i, i), told apart by a one-hot number; the critic V(s) sees the state. From a rollout of E copies and
T steps:

    δ_t  = r_t + γ m_t V(s'_t) - V(s_t)            m_t = 0 where the task ended, 1 where the time limit did
    A_t  = δ_t + γ λ (1 - e_t) A_{t+1}             e_t = 1 where the episode was over for any reason
    R_t  = A_t + V(s_t)
    ρ_i  = exp(Σ_dims log π(a_i | o_i) - log π_old(a_i | o_i))
    L_π  = -mean_i min(ρ_i Â, clip(ρ_i, 1 ± ε) Â) - c_H H          Â = (A - mean A) / (std A + 1e-5)
    L_V  = mean max(h(V - R), h(V_old + clip(V - V_old, ±ε) - R))  h: Huber; V and R in ValueNorm's scale

Continuous actions follow a plain Gaussian whose samples may leave [-1, 1]: the collector executes them
clipped, the loss uses the sample. Its standard deviation is sigmoid(raw / x) y, one raw number per agent and
dimension, x at the start. All inputs pass a layer normalisation; weights start orthogonal.

Departures from the authors' code: ValueNorm takes in each rollout once, not once per gradient step; the agent's
number joins the observation before the normalisation; no recurrence; copies start anew every ``restart``
updates, which makes a resumed training exact.

Shapes: R replicas, E copies, T steps, M = E T team steps, B steps per gradient step, N agents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.config import Config, Count, Fraction, NonNegative, Positive
from marlzoo.data.sampler import Batch
from marlzoo.errors import ConfigError
from marlzoo.online import Rollout
from marlzoo.onpolicy import Actor, GaussianPolicy, Net, ValueNorm, gae, huber, take_rows
from marlzoo.policy import CategoricalPolicy, Policy
from marlzoo.random import Kind, ReplicaRandom
from marlzoo.spec import ActionKind, Spec


@dataclass(frozen=True)
class MAPPOConfig(Config):
    """Settings of MAPPO; ``batch_size`` counts the team steps of one gradient step."""

    batch_size: Count = 2048  # team steps per gradient step; must divide copies * rollout
    lr: Positive = 1e-3  # step size of Adam at the start
    lr_decay: bool = True  # whether the step size falls linearly to zero over the training
    grad_clip: Positive = 10.0  # bound on the gradient norm, for the actor and for the critic
    hidden: Count = 64  # width of the two hidden layers
    copies: Count = 128  # copies of the environment per replica
    rollout: Count = 64  # steps of each copy between two updates
    restart: Count = 100  # updates after which all copies start anew; checkpoints lie there
    epochs: Count = 8  # passes over a rollout
    gae_lambda: Fraction = 0.95  # λ of the advantage estimate
    clip: Positive = 0.2  # ε, bound on the change of the probability ratio and of the value
    entropy: NonNegative = 0.0  # c_H, weight of the entropy bonus
    huber: Positive = 10.0  # δ, error beyond which the value loss is linear
    value_decay: Fraction = 0.99999  # decay of the return's running mean and mean square
    std_x: Positive = 1.0  # x in std = sigmoid(raw / x) * y; raw starts at x
    std_y: Positive = 0.5  # y, the largest standard deviation


class MAPPO(Algorithm):
    """MAPPO of Yu et al. 2022; see the module's text."""

    config_class = MAPPOConfig
    config: MAPPOConfig
    actions: ClassVar[tuple[ActionKind, ...]] = ("continuous", "discrete")
    sampling = "online"
    fields = ("obs", "state", "action", "reward", "mask", "next_state")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def build(self, spec: Spec) -> None:
        """Actor, critic, running normalisation of returns."""
        c = self.config
        if c.copies * c.rollout % c.batch_size:
            raise ConfigError(
                f"mappo: batch_size {c.batch_size} must divide copies * rollout = {c.copies * c.rollout}"
            )
        self.actor = Actor(
            self.init,
            spec,
            c.hidden,
            self.action_dimensions,
            self.setting("std_x", 3),
            self.setting("std_y", 3),
        )
        self.critic = Net(self.init, spec.state_size, c.hidden, 1, gain=1.0)
        self.value_norm = ValueNorm(self.init, self.setting("value_decay"))
        self.optimise(policy=self.actor, critic=self.critic, eps=1e-5)
        self.initial_lr = self.setting("lr").clone()

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Several epochs of minibatches over one rollout (:class:`marlzoo.online.Rollout`)."""
        rollout = cast(Rollout, batch)
        if self.config.lr_decay:
            for optimiser in self._optimisers.values():
                optimiser.lr = self.initial_lr * (1.0 - rollout.progress)
        experience, metrics = self.experience(rollout)
        for order in rollout.noise["order"].argsort(-1).unbind(1):  # a random order per replica and epoch
            for rows in torch.split(order, self.config.batch_size, dim=1):
                x = {name: take_rows(value, rows) for name, value in experience.items()}
                policy_loss, value_loss = self.policy_loss(x), self.value_loss(x)
                norms = self.step(policy=policy_loss, critic=value_loss)
        return metrics | {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()} | norms

    @torch.no_grad()
    def experience(self, rollout: Rollout) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the losses need, each ``[R, M, ...]``, under the parameters that made the rollout."""
        value, next_value = self.value(rollout.state), self.value(rollout.next_state)
        advantage = gae(
            rollout.reward,
            self.value_norm.denormalise(value),
            self.value_norm.denormalise(next_value),
            rollout.mask,
            rollout.ends,
            self.setting("gamma", 2),
            self.setting("gae_lambda", 2),
        )
        target = advantage + self.value_norm.denormalise(value)  # returns R = A + V
        self.value_norm.observe(target)
        deviation, mean = torch.std_mean(advantage, dim=(1, 2), keepdim=True)
        known: dict[str, Tensor] = {
            "obs": rollout.obs,
            "state": rollout.state,
            "action": rollout.action,
            "value": value,
            "advantage": (advantage - mean) / (deviation + 1e-5),
            "target": self.value_norm.normalise(target),
        }
        if rollout.has("legal"):
            known["legal"] = rollout.legal
        flat = {name: tensor.flatten(1, 2) for name, tensor in known.items()}
        flat["log_prob"], _ = self.actor.log_prob(flat["obs"], flat["action"], flat.get("legal"))
        explained = 1.0 - advantage.var(dim=(1, 2)) / target.var(dim=(1, 2)).clamp_min(1e-8)
        return flat, {"explained_variance": explained, "std": self.actor.mean_std()}

    def policy_loss(self, x: dict[str, Tensor]) -> Tensor:
        """L_π = -mean min(ρ A, clip(ρ, 1 ± ε) A) - c_H H, ``[R]``."""
        log_prob, entropy = self.actor.log_prob(x["obs"], x["action"], x.get("legal"))  # [R, B, N]
        ratio, eps = torch.exp(log_prob - x["log_prob"]), self.setting("clip", 3)
        advantage = x["advantage"].unsqueeze(-1)
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(1.0 - eps, 1.0 + eps) * advantage)
        return -(surrogate + self.setting("entropy", 3) * entropy).mean((1, 2))

    def value_loss(self, x: dict[str, Tensor]) -> Tensor:
        """Mean of the larger Huber loss of the plain and of the clipped value, normalised scale, ``[R]``."""
        value, eps, delta = self.value(x["state"]), self.setting("clip", 2), self.setting("huber", 2)
        clipped = x["value"] + (value - x["value"]).clamp(-eps, eps)
        plain = huber(value - x["target"], delta)
        return torch.maximum(plain, huber(clipped - x["target"], delta)).mean(1)

    def value(self, state: Tensor) -> Tensor:
        """Normalised state value, ``[R, ..., S] -> [R, ...]``."""
        return cast(Tensor, self.critic(state)).squeeze(-1)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Numbers whose ranks are the order of the rollout's steps in each epoch."""
        return {"order": ("uniform", (self.config.epochs, self.config.copies * self.config.rollout))}

    def policy(self) -> Policy:
        """Decentralised: each agent needs its own observation only."""
        return CategoricalPolicy(self.actor.net) if self.spec.discrete else GaussianPolicy(self.actor)

    def explore(self, obs: Tensor, legal: Tensor | None, random: ReplicaRandom) -> Tensor:
        """Actions for the collector, a sample of π: ``[R, E, N, A]`` (may leave the box) or ``[R, E, N]``."""
        policy = self.policy()
        return (
            policy.sample(obs, random)
            if isinstance(policy, GaussianPolicy)
            else policy.act(obs, legal, random)
        )
