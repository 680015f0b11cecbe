"""Shared by MAPPO, HAPPO and HATRPO: settings, networks, advantages and clipped losses.

Sources of the defaults: from the official code of both papers (MAPPO's, and HAPPO's in HARL) come the clipping by
0.2, the Huber loss's 10, lambda 0.95, ValueNorm's decay 0.99999, Adam's 1e-5, gradient norms of 10, layers of 64, the
step size's linear decay and the form of the standard deviation. The sizes of a rollout (128 copies, 64 steps), of a
gradient step's batch, 8 passes, the step size 1e-3 and no entropy bonus are ours, chosen for lockstep copies on few
cores on this package's tasks.

Nothing in PPO's loss keeps a Gaussian's mean inside the box: samples beyond it are all executed as the bound. The
cost of means beyond ``mean_bound``, off by default, is ours: data of a policy that has it seldom lie on the bounds.

Agents without a choice, such as dead units, count in the means of loss and entropy; the official code leaves them
out. Their own part has no gradient (the only legal action keeps probability 1), so that they only make the others'
part smaller, which Adam undoes but for its epsilon and the bound on the norm. Advantages are the team's, one per
step; they are normalized by their mean and their unbiased standard deviation (a sum over M - 1; the official code's
is over M), plus 1e-5.

Shapes: R replicas, E copies, T steps, M = E T team steps, B steps per gradient step, N agents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from marlzoo.baselines._ppo_networks import ValueNorm, huber
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Rollout, gae, take_rows
from marlzoo.config import Config, Count, Fraction, NonNegative, Positive
from marlzoo.errors import ConfigError
from marlzoo.modules.policies import CategoricalPolicy, Policy
from marlzoo.replicas import Kind, ReplicaRandom

from ._ppo_networks import PPOActor, PPOGaussianPolicy, PPONet


@dataclass(frozen=True)
class RolloutConfig(Config):
    """Settings of rollouts, networks and the critic; ``batch_size`` counts the team steps of one gradient step."""

    batch_size: Count = 2048  # team steps per gradient step; must divide copies * rollout
    lr: Positive = 1e-3  # step size of Adam at the start
    lr_decay: bool = True  # whether the step size falls linearly to zero over the training
    grad_clip: Positive = 10.0  # bound on the gradient norm, for the actor and for the critic
    hidden: Count = 64  # width of the two hidden layers
    num_envs: Count = 128  # copies of the environment per replica
    rollout: Count = 64  # steps of each copy between two updates
    restart: Count = 100  # updates after which all environments are reset; checkpoints are saved there
    epochs: Count = 8  # passes over a rollout
    gae_lambda: Fraction = 0.95  # λ of the advantage estimate
    clip: Positive = 0.2  # ε, bound on the change of the probability ratio and of the value
    huber: Positive = 10.0  # δ, error beyond which the value loss is linear
    value_decay: Fraction = 0.99999  # decay of the return's running mean and mean square
    std_x: Positive = 1.0  # x in std = sigmoid(raw / x) * y; raw starts at x
    std_y: Positive = 0.5  # y, the largest standard deviation


@dataclass(frozen=True)
class PPOConfig(RolloutConfig):
    """Settings that MAPPO and HAPPO share."""

    entropy: NonNegative = 0.0  # c_H, weight of the entropy bonus
    bound_weight: NonNegative = 0.0  # c_b, cost of means of continuous actions beyond mean_bound
    mean_bound: Positive = 1.0  # b; samples beyond the box, [-1, 1], are executed clipped


class PPONetworks(nn.Module):
    """Policy π(a_i | o_i), state value, and the running normalization of returns.

    Args:
        method: whose settings and seeds are used.
        config: its settings.
        own: every agent has a policy network of its own; otherwise they share one.

    Raises:
        ConfigError: a rollout does not divide into batches.
    """

    def __init__(self, method: Algorithm, config: RolloutConfig, own: bool = False) -> None:
        super().__init__()
        c = config
        spec = method.spec
        init = method.init
        if c.num_envs * c.rollout % c.batch_size:
            raise ConfigError(
                f"{method.name}: batch_size {c.batch_size} must divide copies * rollout = {c.num_envs * c.rollout}"
            )
        x = method.hyperparameter("std_x", 3)
        y = method.hyperparameter("std_y", 3)
        self.actor = PPOActor(init, spec, c.hidden, method.action_dimensions, x, y, own)
        self.critic = PPONet(init, spec.state_size, c.hidden, 1, gain=1.0)
        self.value_norm = ValueNorm(init, method.hyperparameter("value_decay"))

    def value(self, state: Tensor) -> Tensor:
        """Normalized state value, ``[R, ..., S] -> [R, ...]``."""
        return cast(Tensor, self.critic(state)).squeeze(-1)

    def policy(self) -> Policy:
        """Decentralized: each agent needs its own observation only."""
        return CategoricalPolicy(self.actor.net) if self.actor.discrete else PPOGaussianPolicy(self.actor)

    def explore(self, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom) -> Tensor:
        """Actions for the collector, a sample of π: ``[R, E, N, A]`` (may leave the box) or ``[R, E, N]``."""
        policy = self.policy()
        if isinstance(policy, PPOGaussianPolicy):
            return policy.sample(obs, random)  # acting would clip it, and its density is that of the sample
        return policy.act(obs, action_mask, random)


def noise(config: RolloutConfig) -> dict[str, tuple[Kind, tuple[int, ...]]]:
    """Numbers whose ranks are the order of the rollout's steps in each epoch."""
    return {"order": ("uniform", (config.epochs, config.num_envs * config.rollout))}


def passes(rollout: Rollout, config: RolloutConfig) -> Iterator[Tensor]:
    """Rows ``[R, B]`` of one gradient step after another: all of them in every epoch, in random order."""
    for order in rollout.noise["order"].argsort(-1).unbind(1):  # an order per replica and epoch
        yield from torch.split(order, config.batch_size, dim=1)


def take_experience(experience: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Each replica's ``rows [R, B]`` of all fields ``[R, M, ...]``."""
    return {name: take_rows(value, rows) for name, value in experience.items()}


@torch.no_grad()
def experience(
    method: Algorithm, nets: PPONetworks, rollout: Rollout
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the losses need, each ``[R, M, ...]``, under the parameters that made the rollout; and metrics."""
    norm = nets.value_norm
    value = nets.value(rollout.state)
    next_value = nets.value(rollout.next_state)
    advantage = gae(
        rollout.reward,
        norm.denormalize(value),
        norm.denormalize(next_value),
        rollout.mask,
        rollout.ends,
        method.hyperparameter("gamma", 2),
        method.hyperparameter("gae_lambda", 2),
    )
    target = advantage + norm.denormalize(value)  # returns R = A + V
    norm.observe(target)
    deviation, mean = torch.std_mean(advantage, dim=(1, 2), keepdim=True)
    known: dict[str, Tensor] = {
        "obs": rollout.obs,
        "state": rollout.state,
        "action": rollout.action,
        "value": value,
        "advantage": (advantage - mean) / (deviation + 1e-5),
        "target": norm.normalize(target),
    }
    if rollout.has("action_mask"):
        known["action_mask"] = rollout.action_mask
    flat = {name: tensor.flatten(1, 2) for name, tensor in known.items()}
    flat["log_prob"], _ = nets.actor.log_prob(flat["obs"], flat["action"], flat.get("action_mask"))
    explained = 1.0 - advantage.var(dim=(1, 2)) / target.var(dim=(1, 2)).clamp_min(1e-8)
    return flat, {"critic/explained_variance": explained, "policy/std": nets.actor.mean_std()}


def policy_loss(
    method: Algorithm, nets: PPONetworks, x: dict[str, Tensor], agent: Tensor | None = None
) -> Tensor:
    """L_π = -mean(min(ρ A, clip(ρ, 1 ± ε) A) + c_H H - c_b max(|μ| - b, 0)²), ``[R]``.

    With ``agent [R]`` that agent's alone. The last term is for continuous actions only.
    """
    out = nets.actor.mean(x["obs"], agent)
    log_prob, entropy = nets.actor.log_prob_of(out, x["action"], x.get("action_mask"), agent)
    advantage = x["advantage"] if agent is not None else x["advantage"].unsqueeze(-1)
    ratio = torch.exp(log_prob - x["log_prob"])
    eps = method.hyperparameter("clip", log_prob.ndim)
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1.0 - eps, 1.0 + eps) * advantage)
    gain = surrogate + method.hyperparameter("entropy", log_prob.ndim) * entropy
    if not nets.actor.discrete and any(config.bound_weight for config in method.configs):  # type: ignore[attr-defined]
        beyond = nets.actor.excess(out, method.hyperparameter("mean_bound", out.ndim), agent)
        gain = gain - method.hyperparameter("bound_weight", log_prob.ndim) * beyond
    return -gain.flatten(1).mean(1)


def value_loss(method: Algorithm, nets: PPONetworks, x: dict[str, Tensor]) -> Tensor:
    """Mean of the larger Huber loss of the plain and of the clipped value, normalized scale, ``[R]``."""
    value = nets.value(x["state"])
    eps = method.hyperparameter("clip", 2)
    delta = method.hyperparameter("huber", 2)
    clipped = x["value"] + (value - x["value"]).clamp(-eps, eps)
    plain = huber(value - x["target"], delta)
    return torch.maximum(plain, huber(clipped - x["target"], delta)).mean(1)
