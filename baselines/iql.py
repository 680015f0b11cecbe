"""Independent IQL: implicit Q-learning (Kostrikov et al., ICLR 2022), run by every agent for itself.

As in the release of MOMA-PPO (Barde et al., AAMAS 2024, arXiv 2305.17198). Each agent learns from its own
observation, action and reward (the team's, where there is only one); the agents share their networks, whose inputs
carry the agent's one-hot number. With twin Q, a bar for their targets, m = 0 after a terminal step:

1. V:       u = min_j Q̄_j(o, a) - V(o);          L_V = mean |expectile - 1(u < 0)| u^2
2. policy:  u with the new V, no gradient;        L_π = -mean min(exp(beta u), weight_cap) log π(a | o)
3. Q:       y = r + gamma m V(o'), no gradient;   L_Q = sum_j mean (y - Q_j(o, a))^2

V steps first, then policy and Q, then the targets of Q follow with rate tau. Actions outside the data are never
evaluated, but each policy is fitted to the product of the data's marginals: what the team agreed on is lost.

Departures from the authors' code, and the option that restores it:

* agents share their networks; theirs has one set per agent: ``share_agents = False``.
* ``beta = 0`` makes every weight 1, which is behavior cloning (their separate BC).
* no encoder of the past: policies see the observation. Theirs reads the last ten pairs of observation and action
  through attention by default; not offered.
* actions are clipped to within 1e-7 of the box where their likelihood is taken, as in all methods here. Theirs are
  clipped to within 1e-5, in the critics too, which moves the fitted mode where many lie on the bounds:
  ``action_margin = 1e-5``.
* rewards are as the data have them; theirs are scaled for some datasets. Gradients are clipped per group, theirs per
  network. Not offered.
* their driver cannot reach this method (an assertion stops it); ours runs.

``history = "rnn"`` (ours) lets the policy read the episode so far; Q and V read the observation in both forms.
Discrete actions (ours): one Q per action, log π over the legal actions; nothing else changes.
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
from marlzoo.modules.teams import StochasticActor
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

LOG_STD_BOUNDS = (-6.0, 0.0)  # of the authors' policy


@dataclass(frozen=True)
class IQLConfig(Config):
    """Settings of independent IQL, and those that MAIQL shares; the defaults are the authors' of both."""

    expectile: Fraction = 0.7  # 0.5 gives the mean of the data's values, towards 1 their maximum
    beta: NonNegative = 3.0  # inverse temperature of the policy's weights
    weight_cap: Positive = 100.0  # bound on the policy's weights
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of policy, Q and V
    action_margin: Fraction = (
        0.0  # clip the data's continuous actions to within this of the box (0: to the box)
    )
    history: History = field(
        default="mlp", metadata=ASSIGNED_LATER
    )  # act on the observation, or on the episode so far
    share_agents: bool = True  # one set of networks for all agents, told apart by their number
    batch_size: Count = 256  # transitions per update and replica
    lr: Positive = 3e-4  # step size of Adam


class IQL(Algorithm):
    """Independent IQL for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: IQLConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class: ClassVar[type[IQLConfig]] = IQLConfig
    actions = ("continuous", "discrete")
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": MLP_TRANSITIONS,
        "smac-recurrent": RECURRENT_SEQUENCES,
    }
    variants: ClassVar = {
        "continuous": ({"share_agents": False, "action_margin": 1e-5},),
        "discrete": ({"share_agents": False}, {"history": "rnn", "sequence_length": 6}),
    }

    def build(self, spec: Spec) -> None:
        """Policy, twin Q and V; target of Q."""
        c = self.config
        own = not c.share_agents
        self.fields = step_fields(c.history == "rnn", "obs", "action", "agent_reward", "mask", "action_mask")
        self.actor = policy_network(self, c, spec)
        self.q = ActionValues(self.init, spec, c.hidden, members=2, per_agent=own)
        self.v = ValueNet(self.init, spec.obs_size + spec.n_agents, c.hidden, spec.n_agents if own else 0)
        self.target_q = self.make_target(self.q)
        self.add_optimizer(policy=self.actor, q=self.q, v=self.v)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all three losses; metrics are the losses, batch means and gradient norms, each [R]."""
        sequences = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        batch = clipped(self, batch)
        obs = with_agent_id(batch.obs)

        # 1. V
        q_min = self.target_q(obs, batch.action).amin(1)
        v = self.v(obs)
        v_loss = mean_over(expectile(q_min - v, self.hyperparameter("expectile", 3)), real)
        norms = self.step(v=v_loss)

        # 2. Policy
        with torch.no_grad():
            u = q_min - self.v(obs)
            exponent = self.hyperparameter("beta", 3) * u
            weight = exponential_weights(exponent, 1.0, self.hyperparameter("weight_cap", 3))
        log_prob = self.data_log_prob(self.actor.of_batch(sequences, obs), batch)
        policy_loss = -mean_over(weight * log_prob, real)

        # 3. Q
        with torch.no_grad():
            v_next = self.v(with_agent_id(batch.next_obs))
            y = batch.agent_reward + self.hyperparameter("gamma", 3) * batch.mask.unsqueeze(-1) * v_next
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        q = self.q(obs, batch.action)
        q_loss = mean_over((q - y.unsqueeze(1)).square().sum(1), real)

        norms |= self.step(policy=policy_loss, q=q_loss)
        self.soft_update(self.target_q, self.q, self.hyperparameter("tau"))
        losses = {"q/loss": q_loss.detach(), "v/loss": v_loss.detach(), "policy/loss": policy_loss.detach()}
        common = data_value(q[:, 0], real) | effective_sample_size(weight, real)
        common |= data_likelihood(log_prob, real)
        means = {"q/target": mean_over(y, real), "weight/mean": mean_over(weight, real)}
        return {**losses, **means, **common, **norms}

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the best legal action."""
        return self.actor.policy()

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        values: Tensor = self.q(with_agent_id(batch.obs), batch.action)
        return values.amin(1)


def policy_network(method: Algorithm, config: IQLConfig, spec: Spec) -> StochasticActor:
    """The agents' policy of observations as in ``spec``; with a memory the method learns from sequences."""
    recurrent = config.history == "rnn"
    if recurrent:
        method.sampling = "sequence"
    return StochasticActor(
        method.init,
        spec,
        config.hidden,
        LOG_STD_BOUNDS,
        per_agent=not config.share_agents,
        recurrent=recurrent,
        relu=config.memory_relu,
    )


def clipped(method: Algorithm, batch: Batch) -> Batch:
    """The batch with continuous actions within ``action_margin`` of the box, where some replica asks for it."""
    if method.spec.discrete or not any(config.action_margin for config in method.configs):  # type: ignore[attr-defined]
        return batch
    bound = 1.0 - method.hyperparameter("action_margin", batch.action.ndim)
    action = torch.minimum(torch.maximum(batch.action, -bound), bound)
    return Batch.of(batch.noise, **{**batch.tensors(), "action": action})
