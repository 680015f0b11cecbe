"""OMAC-style coupled value factorization for offline cooperative multi-agent RL.

After Wang and Zhan, "Offline Multi-Agent Reinforcement Learning with Coupled Value Factorization", AAMAS 2023,
arXiv 2306.08900. No code was published, and only the abstract served as source: the factorization into local values
and a shared one, coupled between V and Q, learned in-sample. The rest is our realisation, with OMIGA's networks.

One mixer gives weights ``w_i(s) >= 0`` and a shared value ``v_sh(s)`` for both factorizations, so that the team's
advantage is the weighted sum of the local ones and the shared part cancels:

    Q_tot = sum_i w_i q_i(o_i, a_i) + v_sh,    V_tot = sum_i w_i v_i(o_i) + v_sh

With a bar for target networks and u_i = q̄_i - v_i:

1. V:       L_V = mean |expectile - 1(u_i < 0)| u_i^2, gradient in v only
2. Q:       L_Q = mean (Q_tot - y)^2, y = r + gamma mask V̄_tot(s')            (q, w and v_sh)
3. policy:  L_π = -mean min(exp(beta w̄_i u_i), weight_cap) log π_i(a_i | o_i)

All three losses are taken before any step; the targets of q, v and mixer follow with rate tau. Unlike OMIGA it has
an expectile in place of the exponential loss of V, and v_sh in both Q and V. ``history = "rnn"`` lets the policy read
the episode so far; values read the observation in both forms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_transitions, step_fields
from marlzoo.config import (
    ASSIGNED_LATER,
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    History,
    NonNegative,
    Positive,
)
from marlzoo.modules.critics import ActionValues, ValueNet
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.policies import Policy
from marlzoo.modules.teams import LinearMixer, StochasticActor
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


@dataclass(frozen=True)
class OMACConfig(Config):
    """Settings of the OMAC-style learner; sizes and optimizer are OMIGA's."""

    expectile: Fraction = 0.8  # 0.5 gives the mean of the local values, towards 1 their in-sample maximum
    beta: NonNegative = 5.0  # inverse temperature of the policy's weights
    weight_cap: Positive = 100.0  # bound on the policy's weights
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of policy, q and v
    history: History = field(
        default="mlp", metadata=ASSIGNED_LATER
    )  # act on the observation, or on the episode so far
    mixer_hidden: Count = 64  # width of the mixer's hidden layer
    grad_clip: Positive = 1.0  # bound on the gradient norm of each of the three groups


class OMAC(Algorithm):
    """OMAC-style learner for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: OMACConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = OMACConfig
    actions = ("continuous", "discrete")
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": MLP_TRANSITIONS,
        "smac-recurrent": RECURRENT_SEQUENCES,
    }
    variants: ClassVar = {"discrete": ({"history": "rnn", "sequence_length": 6},)}

    def build(self, spec: Spec) -> None:
        """Policy, q, v and the mixer of both; targets of the last three."""
        c = self.config
        recurrent = c.history == "rnn"
        if recurrent:
            self.sampling = "sequence"
        self.fields = step_fields(recurrent, "obs", "state", "action", "reward", "mask", "action_mask")
        self.actor = StochasticActor(self.init, spec, c.hidden, recurrent=recurrent, relu=c.memory_relu)
        self.q = ActionValues(self.init, spec, c.hidden)
        self.v = ValueNet(self.init, spec.obs_size + spec.n_agents, c.hidden)
        self.mixer = LinearMixer(self.init, spec.state_size, c.mixer_hidden, spec.n_agents)
        self.target_q = self.make_target(self.q)
        self.target_v = self.make_target(self.v)
        self.target_mixer = self.make_target(self.mixer)
        self.add_optimizer(policy=self.actor, q=(self.q, self.mixer), v=self.v)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all three losses; metrics are the losses, batch means and gradient norms, each [R]."""
        sequences = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        obs = with_agent_id(batch.obs)

        # 1. V
        u = self.target_q(obs, batch.action)[:, 0] - self.v(obs)
        v_loss = mean_over(expectile(u, self.hyperparameter("expectile", 3)), real)

        # 2. Q
        with torch.no_grad():
            v_next = self.target_v(with_agent_id(batch.next_obs))
            v_total_next = self.target_mixer(v_next, batch.next_state)
            y = batch.reward + self.hyperparameter("gamma", 2) * batch.mask * v_total_next
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        q = self.q(obs, batch.action)[:, 0]
        q_total = self.mixer(q, batch.state)
        q_loss = mean_over((q_total - y).square(), real)

        # 3. Policy
        with torch.no_grad():
            w, _ = self.target_mixer.coefficients(batch.state)
            exponent = self.hyperparameter("beta", 3) * w * u
            weight = exponential_weights(exponent, 1.0, self.hyperparameter("weight_cap", 3))
        log_prob = self.data_log_prob(self.actor.of_batch(sequences, obs), batch)
        policy_loss = -mean_over(weight * log_prob, real)

        norms = self.step(policy=policy_loss, q=q_loss, v=v_loss)
        tau = self.hyperparameter("tau")
        self.soft_update(self.target_q, self.q, tau)
        self.soft_update(self.target_v, self.v, tau)
        self.soft_update(self.target_mixer, self.mixer, tau)
        losses = {"q/loss": q_loss.detach(), "v/loss": v_loss.detach(), "policy/loss": policy_loss.detach()}
        means = {"q/total": mean_over(q_total.detach(), real), "q/target_total": mean_over(y, real)}
        common = data_value(q_total, real) | effective_sample_size(weight, real)
        common |= data_likelihood(log_prob, real)
        return {**losses, **means, "weight/mean": mean_over(weight, real), **common, **norms}

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the best legal action."""
        return self.actor.policy()

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        values: Tensor = self.mixer(self.q(with_agent_id(batch.obs), batch.action)[:, 0], batch.state)
        return values
