"""MATD3: deterministic policies and twin centralized critics, off-policy (online).

Ackermann et al., "Reducing Overestimation Bias in Multi-Agent Domains Using Double Centralized Critics", 2019, arXiv
1910.01465; OMAR's and CFCQL's data in the particle world and on HalfCheetah were recorded with it. Every agent has a
policy of its own, the critics see the state and all actions. A bar is a target network:

1. collect: a_i = clip(π_i(o_i) + noise N(0, 1), -1, 1); uniform actions during the first ``warmup`` team steps
2. target:  a'_i = clip(π̄_i(o_i^(k)) + clip(eps, -c, c), -1, 1), eps ~ N(0, smoothing_sigma^2)
            y    = sum_{j<k} gamma^j r_j + gamma^k mask min_j Q̄_j(s^(k), a'),   k = ``n_step``, fewer at an end
3. critics: L_Q  = sum_j mean (Q_j(s, a) - y)^2
4. policy:  L_π  = -mean Q_1(s, π_1(o_1) .. π_n(o_n)) + action_penalty mean_i u_i^2,   π_i = tanh u_i,
            every ``policy_delay``-th update; the targets follow then too

The policies ascend Q_1 together: as each is evaluated at the others' present actions and has weights of its own, this
is the gradient of n losses in which the others' actions are held. The reward is the team's.

Departures from HARL's code, and the option that restores it:

* the others' actions in step 4 are their policies' present ones; HARL's MATD3 takes them from the replay:
  ``other_actions = "replay"``.
* actions start near zero and their penalty keeps tanh from saturating, both as in MADDPG's and OMAR's code, whose
  weight of the penalty is 0.001. The particle world's preset takes 0.3: with less, policies stick in a corner here.
* half as many updates per step of the environment as HARL's: ``learn_steps``.
* actions enter unscaled; all agents step at once, HATD3's take turns (not offered); the bootstrap ends at a terminal
  state only, also within n steps.

Shapes: batches are sequences of ``n_step`` steps, ``obs [R, B, n_step + 1, N, O]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import Count, Fraction, NonNegative, Positive, ReplayConfig
from marlzoo.modules.critics import TeamCritics
from marlzoo.modules.policies import Policy, SquashedPolicy, smoothed_action
from marlzoo.modules.teams import TeamActor
from marlzoo.objectives import action_error, detached
from marlzoo.replicas import Kind, ReplicaRandom
from marlzoo.spec import Spec


@dataclass(frozen=True)
class MATD3Config(ReplayConfig):
    """Settings of MATD3; the defaults are HARL's."""

    noise: NonNegative = 0.1  # standard deviation of the exploration noise
    smoothing_sigma: NonNegative = 0.2  # noise on the target policy's action
    smoothing_clip: NonNegative = 0.5  # bound of that noise
    policy_delay: Count = 2  # critic steps per policy step
    action_penalty: NonNegative = 1e-3  # weight of the mean square of actions before tanh
    other_actions: Literal["present", "replay"] = "present"  # of the others in the policies' loss
    n_step: Count = 5  # steps of reward in the target
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of the policies' and critics' two hidden layers
    lr: Positive = 5e-4  # step size of the policies' Adam
    critic_lr: Positive = 1e-3  # step size of the critics' Adam
    batch_size: Count = 1000  # starts of n-step sequences per update and replica


class MATD3(Algorithm):
    """MATD3 for continuous actions; see the module's text."""

    config: MATD3Config
    config_class = MATD3Config
    actions = ("continuous",)
    sampling = "online"
    unread = ("sequence_length", "memory_relu", "bound_margin")
    fields = ("obs", "state", "action", "reward", "mask")
    presets: ClassVar = {"mpe": {"hidden": 128, "n_step": 1, "action_penalty": 0.3}}
    variants: ClassVar = {"continuous": ({"n_step": 3, "policy_delay": 1, "other_actions": "replay"},)}

    def build(self, spec: Spec) -> None:
        """Policies, twin critics, and the targets of both."""
        h = self.config.hidden
        self.actor = TeamActor(self.init, spec, h, own=True, last_bound=3e-3)
        self.q = TeamCritics(self.init, spec, (h, h), "joint", agent_id=False)
        self.target_actor = self.make_target(self.actor)
        self.target_q = self.make_target(self.q)
        self.add_optimizer(lr={"critic": "critic_lr"}, policy=self.actor, critic=self.q)

    def sequences(self) -> tuple[int, bool]:
        """n steps from anywhere."""
        return self.config.n_step, True

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Of the target policy's actions."""
        return {"target": ("normal", (self.config.batch_size, self.spec.n_agents, self.spec.action_size))}

    def explore(
        self, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom, fresh: Tensor
    ) -> Tensor:
        """Uniform actions during the warm-up, then the policy's with noise, ``[R, E, N, A]``."""
        del fresh
        c = self.config
        if self.updates * c.num_envs * c.rollout < c.warmup:
            drawn = random.uniform(obs.shape[1], self.spec.n_agents, self.spec.action_size)
            return (2.0 * drawn - 1.0) * self.action_dimensions
        return self.policy().act(obs, action_mask, random)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the losses, batch means and gradient norms, each [R]."""
        used = self.action_dimensions
        obs = batch.obs[:, :, 0]
        state = batch.state[:, :, 0]

        # 2. Target
        with torch.no_grad():
            sigma = self.hyperparameter("smoothing_sigma", 4)
            clip = self.hyperparameter("smoothing_clip", 4)
            after = torch.tanh(self.target_actor.rows(batch.obs[:, :, -1]))
            after = smoothed_action(after, batch.noise["target"], sigma, clip) * used
            q_after = self.target_q(batch.obs[:, :, -1], batch.state[:, :, -1], after).amin(1)[..., 0]
            y = self.returns(batch) + self.discount(batch) * q_after

        # 3. Critics; without the agent's number they have one value for all agents
        q = self.q(obs, state, batch.action[:, :, 0])[..., 0]  # [R, 2, B]
        critic_loss = (q - y.unsqueeze(1)).square().sum(1).mean(1)
        norms = self.step(critic=critic_loss)

        # 4. Policies
        due = self.due("critic", self.config.policy_delay)
        out = self.actor.rows(obs)
        size = action_error(out, torch.zeros_like(out), used).flatten(1).mean(1)
        replayed = batch.action[:, :, 0] if self.config.other_actions == "replay" else None
        values = self.q.first(obs, state, torch.tanh(out) * used, replayed)  # [R, B, N]
        # With present actions all agents have the same value; with replayed ones each its own, of its own action.
        value = values[..., 0].mean(1) if replayed is None else values.sum(-1).mean(1)
        policy_loss = self.hyperparameter("action_penalty") * size - value
        norms |= self.step_if(due, policy=policy_loss)
        tau = self.hyperparameter("tau") * due
        self.soft_update(self.target_actor, self.actor, tau)
        self.soft_update(self.target_q, self.q, tau)
        metrics = {"critic/loss": critic_loss, "policy/loss": policy_loss}
        means = {"critic/mean": q[:, 0].mean(1), "critic/target": y.mean(1)}
        return detached(metrics | means) | norms

    def returns(self, batch: Batch) -> Tensor:
        """Discounted reward of the steps that are there, ``[R, B]``."""
        gamma = self.hyperparameter("gamma", 3) ** torch.arange(self.config.n_step, device=self.device)
        return (gamma * batch.reward * batch.filled).sum(-1)

    def discount(self, batch: Batch) -> Tensor:
        """gamma^k mask of what follows the last step, ``[R, B]``; rows beyond repeat that step."""
        return self.hyperparameter("gamma", 2) ** batch.filled.sum(-1) * batch.mask[:, :, -1]

    def policy(self) -> Policy:
        """tanh of the network's output; exploring with normal noise."""
        sigma = self.hyperparameter("noise", 3) * self.action_dimensions
        return SquashedPolicy(self.actor.network, sigma=sigma, used=self.action_dimensions)
