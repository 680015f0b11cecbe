"""B3C: behavior cloning regularization with critic clipping (arXiv 2501.18138, AAMAS 2026).

A factored critic with centralized policy gradients (FACMAC) plus cloning; bounding the bootstrap by the best return
in the data keeps the critic from diverging, so the policy may listen to it more. Continuous actions. The agents share
their networks, whose inputs carry the agent's one-hot number. With a bar for target networks (policies have none):

1. Q:       y = r + gamma m min(Q̄_tot(s', a'), c_clip cap), a' ~ π;   L_Q = mean (Q_tot(s, a) - sg y)^2
2. policy:  L_π = -w mean Q_tot(s, ã) / |sg mean Q_tot(s, ã)| + w_bc mean (ã - a)^2, ã ~ π for all agents together

Both losses are taken before any step; the targets of Q and mixer follow with rate tau.

Departures from the authors' code, and the option that restores it:

* the cap is the largest *discounted* return-to-go in the data. Theirs is the largest undiscounted episode return,
  which with long episodes is far above every attainable value and with negative rewards below legitimate ones:
  ``cap = "return"``.
* targets bootstrap through time limits, so the cap looks beyond them: an episode that a limit (or a recording's end)
  cut is taken to go on for ever with the mean reward of its second half. The return up to the limit would saturate
  every target of short episodes (a quarter of the value after 25 steps with gamma = 0.99). With
  ``timeout_is_terminal = True`` nothing comes after a limit, as in theirs; a recording's end stays one.
* the normalizer is |mean Q|, bounded below by 1e-6; ``normalizer = "abs_mean"`` takes mean |Q| as TD3+BC does, which
  does not vanish where values of both signs cancel.
* the off-by-one in their loader's sum over an episode is left out: it counts a reward of the next episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import Config, Count, Fraction, NonNegative, Positive
from marlzoo.errors import DataError
from marlzoo.modules.critics import ActionValues
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.policies import Policy, TanhGaussianActor, TanhGaussianPolicy, tanh_gaussian_sample
from marlzoo.modules.teams import MonotonicMixer, SumMixer
from marlzoo.objectives import action_error, data_value, mean_over, saturation
from marlzoo.replicas import Kind
from marlzoo.spec import Spec


@dataclass(frozen=True)
class B3CConfig(Config):
    """Settings of B3C; the defaults are the authors'."""

    w: NonNegative = 1.0  # weight of the critic in the policy's loss; clipping bears larger ones
    w_bc: NonNegative = 1.0  # weight of cloning
    c_clip: Positive = 1.0  # factor of the cap (inf: no clipping, which is FACMAC+BC)
    cap: Literal["return_to_go", "return"] = "return_to_go"  # what bounds the bootstrap
    normalizer: Literal["mean", "abs_mean"] = "mean"  # scale of Q in the policy's loss
    mixer: Literal["free", "monotone", "vdn"] = "free"  # weights of any sign, non-negative ones, or a sum
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of policy and Q
    mixer_embed: Count = 32  # hidden units of the mixer
    mixer_hidden: Count = 64  # hidden units of the networks that make its weights
    grad_clip: Positive = 1.0  # bound on the gradient norm of each of the two groups


class B3C(Algorithm):
    """B3C for continuous actions (tanh-Gaussian); see the module's text."""

    config: B3CConfig
    config_class = B3CConfig
    actions = ("continuous",)
    unread = ("sequence_length", "memory_relu", "bound_margin")
    fields: tuple[str, ...] = ("obs", "state", "action", "reward", "mask", "next_obs", "next_state")
    presets: ClassVar = {"mamujoco": {}, "mpe": {}}
    variants: ClassVar = {
        "continuous": (
            {"mixer": "monotone", "cap": "return", "normalizer": "abs_mean"},
            {"mixer": "vdn"},
        )
    }
    best: Tensor

    def build(self, spec: Spec) -> None:
        """Policy, Q and mixer; targets of the last two. The cap is read from the data by ``prepare``."""
        c = self.config
        self.actor = TanhGaussianActor(self.init, spec.obs_size + spec.n_agents, c.hidden, spec.action_size)
        self.q = ActionValues(self.init, spec, c.hidden)
        self.mixer: SumMixer | MonotonicMixer = SumMixer()
        if c.mixer != "vdn":
            sizes = (spec.state_size, spec.n_agents, c.mixer_embed, c.mixer_hidden)
            self.mixer = MonotonicMixer(self.init, *sizes, monotone=c.mixer == "monotone")
        self.target_q = self.make_target(self.q)
        self.target_mixer = self.make_target(self.mixer)
        best = torch.full((self.replicas,), torch.inf, device=self.device, dtype=self.dtype)
        self.register_buffer("best", best)
        self.add_optimizer(policy=self.actor, q=(self.q, self.mixer))

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Find each replica's cap in its data."""
        found: dict[tuple[int, float], float] = {}  # replicas mostly share data and discount
        for replica, (dataset, config) in enumerate(zip(data, self.configs, strict=True)):
            key = (id(dataset), config.gamma)
            if key not in found:
                if self.config.cap == "return":
                    found[key] = float(dataset.returns.max())
                else:
                    found[key] = best_return_to_go(dataset, config.gamma, not config.timeout_is_terminal)
            self.best[replica] = found[key]

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Of the policy's samples, now and next."""
        shape = (self.config.batch_size, self.spec.n_agents, self.spec.action_size)
        return {"now": ("normal", shape), "next": ("normal", shape)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of both losses; metrics are the losses, batch means and gradient norms, each [R]."""
        obs = with_agent_id(batch.obs)
        next_obs = with_agent_id(batch.next_obs)

        # 1. Q
        with torch.no_grad():
            after = self.target_q(next_obs, self._sample(next_obs, batch.noise["next"]))[:, 0]
            cap = self.hyperparameter("c_clip", 2) * self.best.view(-1, 1)
            # No clipping is none where the best return is negative, too.
            cap = cap.masked_fill(self.hyperparameter("c_clip", 2).isinf(), torch.inf)
            q_next = torch.minimum(self.target_mixer(after, batch.next_state), cap)
            y = batch.reward + self.hyperparameter("gamma", 2) * batch.mask * q_next
        q_total = self.mixer(self.q(obs, batch.action)[:, 0], batch.state)
        q_loss = mean_over((q_total - y).square())

        # 2. Policy
        sampled = self._sample(obs, batch.noise["now"])
        q_policy = self.mixer(self.q(obs, sampled)[:, 0], batch.state)
        scale = q_policy.detach()
        scale = mean_over(scale.abs()) if self.config.normalizer == "abs_mean" else mean_over(scale).abs()
        cloning = mean_over(action_error(sampled, batch.action, self.action_dimensions))
        value = mean_over(q_policy) / scale.clamp_min(1e-6)
        policy_loss = self.hyperparameter("w_bc") * cloning - self.hyperparameter("w") * value

        norms = self.step(policy=policy_loss, q=q_loss)
        self.soft_update(self.target_q, self.q, self.hyperparameter("tau"))
        self.soft_update(self.target_mixer, self.mixer, self.hyperparameter("tau"))
        losses = {
            "q/loss": q_loss.detach(),
            "policy/loss": policy_loss.detach(),
            "policy/bc_loss": cloning.detach(),
        }
        means = {"q/total": mean_over(q_total.detach()), "q/target_total": mean_over(y)}
        clipped = {"q/clipped": mean_over((q_next == cap).to(self.dtype))}  # share of targets at the cap
        bounds = saturation(sampled, self.action_dimensions)
        return losses | means | clipped | data_value(q_total) | bounds | norms

    def policy(self) -> Policy:
        """Tanh of the clipped mean."""
        return TanhGaussianPolicy(self.actor, self.action_dimensions)

    def _sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Reparameterised actions ``[R, B, N, A]``, zero in padded dimensions."""
        mean, log_std = self.actor(obs)
        return tanh_gaussian_sample(mean, log_std, noise, self.action_dimensions)


def best_return_to_go(data: Any, gamma: float, beyond_limits: bool = False) -> float:
    """The largest discounted sum of team rewards from any row to the end of its episode.

    Episodes that a recording's end cut go on with the mean reward of their second half for ever.

    Args:
        data: its rewards; the mean over agents where there is one per agent.
        gamma: discount.
        beyond_limits: let episodes that reached a time limit go on too.

    Raises:
        DataError: an episode does not end, and ``gamma`` is 1.
    """
    reward = data.reward.astype(np.float64)
    reward = reward.mean(1) if reward.ndim == 2 else reward
    best = -np.inf
    to_go = np.zeros(data.episodes)
    last = data.starts + data.lengths - 1
    goes_on = ~data.terminal[last] & (~data.truncated[last] | beyond_limits)
    if goes_on.any():
        if gamma == 1.0:
            raise DataError(
                f"{data.card.title}: with gamma = 1 what follows a time limit or a recording's end has no bound, and "
                "B3C needs one; set a gamma below 1, or timeout_is_terminal = True if no recording was cut"
            )
        half = data.starts + data.lengths // 2
        tail = np.array([reward[low : high + 1].mean() for low, high in zip(half, last, strict=True)])
        to_go = np.where(goes_on, tail / (1.0 - gamma), 0.0)
        best = float(to_go[goes_on].max())
    for t in range(int(data.lengths.max()) - 1, -1, -1):
        running = data.lengths > t
        to_go[running] = reward[data.starts[running] + t] + gamma * to_go[running]
        best = max(best, float(to_go[running].max()))
    return best
