"""MAIQL: implicit Q-learning with one critic for the team, mixed from the agents' values.

As in the release of MOMA-PPO (Barde et al., AAMAS 2024, arXiv 2305.17198); for a single agent it is IQL (Kostrikov
et al., ICLR 2022). Two mixing networks give weights of any sign: M_Q from joint observation and action, M_V from the
joint observation, ``Q_tot^j = sum_i w_i Q_i^j + b``, ``V_tot = sum_i w^V_i V_i + b^V``. With twin Q, a bar for
targets (of Q and M_Q; the minimum over the twins is taken per agent, before mixing), m = 0 after a terminal step:

1. V:       u = Q̄_tot - V_tot;                 L_V = mean |expectile - 1(u < 0)| u^2      (V_i and M_V)
2. policy:  u with the new V, no gradient;      L_π = -mean min(exp(beta u), weight_cap) sum_i log π_i(a_i | o_i)
3. Q:       y = r + gamma m V_tot(o');          L_Q = sum_j mean (y - Q_tot^j)^2           (Q_i^j and M_Q)

V steps first, then policy and Q, then the targets follow with rate tau. The weight is the team's, but the policy that
is fitted is still a product of the agents': credit is better assigned than by independent IQL, agreement is not.

Departures from the authors' code, and the option that restores it:

* agents share their networks; theirs has one set per agent: ``share_agents = False``.
* no encoder of the past: policies see the observation. Theirs reads the last ten pairs of observation and action
  through attention by default; not offered.
* actions are clipped to within 1e-7 of the box where their likelihood is taken, as in all methods here. Theirs are
  clipped to within 1e-5, in the critics too, which moves the fitted mode where many lie on the bounds:
  ``action_margin = 1e-5``.
* rewards are as the data have them; theirs are scaled for some datasets. Gradients are clipped per group, theirs per
  network. Not offered.

Options: ``history = "rnn"`` (ours) lets the policy read the episode so far, the values the observation in both forms;
``weights = "agent"`` weights each agent by its own share ``w_i Q̄_i + b - (w^V_i V_i + b^V)`` (an option of
the release); ``abs_weights`` makes the mixing weights non-negative (ours), which the policies, extracted by weighted
cloning, do not need. Discrete actions (ours): one Q per action, one-hot joint actions, log π over the legal ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_transitions, step_fields
from marlzoo.config import MLP_TRANSITIONS, RECURRENT_SEQUENCES, Count, Positive
from marlzoo.modules.critics import ActionValues, ValueNet, joint_action
from marlzoo.modules.layers import MLP, with_agent_id
from marlzoo.modules.policies import Policy
from marlzoo.objectives import (
    TargetMemory,
    data_likelihood,
    data_value,
    effective_sample_size,
    expectile,
    exponential_weights,
    mean_over,
)
from marlzoo.spec import Spec

from .iql import IQLConfig, clipped, policy_network


@dataclass(frozen=True)
class MAIQLConfig(IQLConfig):
    """Settings of MAIQL; the defaults are the authors'."""

    mixer_hidden: Count = 256  # width of both hidden layers of the mixing networks
    weights: Literal["team", "agent"] = "team"  # the policy's weight: one for all, or each agent's share
    abs_weights: bool = False  # non-negative mixing weights
    grad_clip: Positive = 1.0  # bound on the gradient norm of each of the three groups


class MAIQL(Algorithm):
    """MAIQL for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: MAIQLConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = MAIQLConfig
    actions = ("continuous", "discrete")
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": MLP_TRANSITIONS,
        "smac-recurrent": RECURRENT_SEQUENCES,
    }
    _agent: ClassVar = {"weights": "agent", "abs_weights": True, "share_agents": False}
    variants: ClassVar = {
        "continuous": (_agent,),
        "discrete": (_agent, {"history": "rnn", "sequence_length": 6}),
    }

    def build(self, spec: Spec) -> None:
        """Policy, twin Q, V and both mixers; targets of Q and its mixer."""
        c = self.config
        own = not c.share_agents
        n = spec.n_agents
        h = c.mixer_hidden
        self.fields = step_fields(c.history == "rnn", "obs", "action", "reward", "mask", "action_mask")
        self.actor = policy_network(self, c, spec)
        self.q = ActionValues(self.init, spec, c.hidden, members=2, per_agent=own)
        self.v = ValueNet(self.init, spec.obs_size + n, c.hidden, n if own else 0)
        self.q_mixer = MLP(self.init, (n * (spec.obs_size + spec.action_size), h, h, n + 1))
        self.v_mixer = MLP(self.init, (n * spec.obs_size, h, h, n + 1))
        self.target_q = self.make_target(self.q)
        self.target_q_mixer = self.make_target(self.q_mixer)
        self.add_optimizer(policy=self.actor, q=(self.q, self.q_mixer), v=(self.v, self.v_mixer))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all three losses; metrics are the losses, batch means and gradient norms, each [R]."""
        sequences = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        batch = clipped(self, batch)
        obs = with_agent_id(batch.obs)
        joint = joint_action(batch.action, self.spec, self.dtype)

        # 1. V
        with torch.no_grad():
            w, b = self._mix(self.target_q_mixer, batch.obs, joint)
            q_local = w * self.target_q(obs, batch.action).amin(1)
            q_total = q_local.sum(-1) + b
        v_total, _ = self._v(batch.obs)
        v_loss = mean_over(expectile(q_total - v_total, self.hyperparameter("expectile", 2)), real)
        norms = self.step(v=v_loss)

        # 2. Policy
        with torch.no_grad():
            v_total, v_share = self._v(batch.obs)
            u = (q_total - v_total).unsqueeze(-1)
            if self.config.weights == "agent":
                u = q_local + b.unsqueeze(-1) - v_share
            exponent = self.hyperparameter("beta", 3) * u
            weight = exponential_weights(exponent, 1.0, self.hyperparameter("weight_cap", 3))
        log_prob = self.data_log_prob(self.actor.of_batch(sequences, obs), batch)
        policy_loss = -mean_over((weight * log_prob).sum(-1), real)

        # 3. Q
        with torch.no_grad():
            v_next, _ = self._v(batch.next_obs)
            y = batch.reward + self.hyperparameter("gamma", 2) * batch.mask * v_next
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        q = self._team_values(obs, batch)
        q_loss = mean_over((q - y.unsqueeze(1)).square().sum(1), real)

        norms |= self.step(policy=policy_loss, q=q_loss)
        self.soft_update(self.target_q, self.q, self.hyperparameter("tau"))
        self.soft_update(self.target_q_mixer, self.q_mixer, self.hyperparameter("tau"))
        losses = {"q/loss": q_loss.detach(), "v/loss": v_loss.detach(), "policy/loss": policy_loss.detach()}
        common = data_value(q[:, 0], real) | effective_sample_size(weight, real)
        common |= data_likelihood(log_prob, real)
        means = {"q/target_total": mean_over(y, real), "weight/mean": mean_over(weight, real)}
        return {**losses, **means, **common, **norms}

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the best legal action."""
        return self.actor.policy()

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        return self._team_values(with_agent_id(batch.obs), batch).amin(1)

    def _team_values(self, obs: Tensor, batch: Batch) -> Tensor:
        """Q_tot of the data's actions by both critics, ``[R, 2, B]``; ``obs`` with the agents' numbers."""
        w, b = self._mix(self.q_mixer, batch.obs, joint_action(batch.action, self.spec, self.dtype))
        local: Tensor = w.unsqueeze(1) * self.q(obs, batch.action)
        return local.sum(-1) + b.unsqueeze(1)

    def _mix(self, mixer: MLP, obs: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``[R, B, N]`` and bias ``[R, B]`` from the joint observation and what else it reads."""
        out = mixer(obs.flatten(-2), *more)
        weight = out[..., :-1]
        return weight.abs() if self.config.abs_weights else weight, out[..., -1]

    def _v(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """V_tot ``[R, B]``, and every agent's ``w^V_i V_i + b^V`` ``[R, B, N]``."""
        w, b = self._mix(self.v_mixer, obs)
        local = w * self.v(with_agent_id(obs))
        return local.sum(-1) + b, local + b.unsqueeze(-1)
