"""TD3+BC for teams: a deterministic policy that follows its critic and the data at once.

Fujimoto, Gu, "A Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2021, arXiv 2106.06860; its
multi-agent forms as in OG-MARL (Formanek et al. 2023, arXiv 2302.00521) and MOMA-PPO's baselines. What the twin
critics read is the ``variant``:

* ``independent`` (ITD3+BC): (o_i, a_i); every agent has networks of its own.
* ``iddpg_bc`` (IDDPG+BC):   (s, a_i, number); agents share policy and critics.
* ``maddpg_bc`` (MADDPG+BC): (s, a_1 .. a_n, number); likewise.

A bar is a target network, sg a stopped gradient:

1. target:  a'_i = clip(pī(o'_i) + clip(eps, -c, c), -1, 1), eps ~ N(0, sigma^2)
            y    = r_i + gamma mask min_j Q̄_j(., a')
2. critics: L_Q  = 1/2 sum_j mean (Q_j(., a) - y)^2
3. policy:  L_pi = -lambda mean Q_1(., pi(o_i)) + mean (pi(o_i) - a_i)^2,   lambda = alpha / sg mean |Q_1|
            every ``policy_delay``-th update, after the critics' step; the targets follow then too. A joint critic
            takes the other agents' actions from the data.

Discrete actions enter the critics as one-hot vectors: a' and pi(o_i) are straight-through Gumbel-softmax samples over
the legal actions, and the data's part of L_pi is -log pi(a_i | o_i).

With ``prioritize = "joint_action"`` (PJAP, arXiv 2407.01343; continuous actions) an update learns from rows whose
joint action lies near the target policies', chosen as in ``maddpg_cql``.

Departures from published code, and the option that restores it:

* The gradient through mean |Q| is stopped. OG-MARL's present code lets it through, so that where all values have one
  sign the critic's part has no gradient at all and the method is behavior cloning; not offered.
* The twins start independently; OG-MARL's PyTorch port copies one into the other, so that they never differ.
* OG-MARL: ``history = "rnn"``, ``memory_relu = True``, ``policy_q = "min"``, ``smoothing_sigma = 0``,
  ``policy_delay = 1``, ``action_penalty = 1e-3``; its critics have layers of 128: ``critic_hidden``. In TensorFlow it
  takes both losses before any step (``policy_after_critic = False``); its PyTorch port takes the policy's after the
  critics' step.
* MOMA-PPO sums the data's part over action dimensions: ``bc_reduce = "sum"``.
* offpymarl's discrete form leaves terminal steps out, and counts padding in the data's part; not offered.
* The original method standardizes observations; here the data say what they hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, row_fields, step_count
from marlzoo.config import (
    ASSIGNED_LATER,
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    NonNegative,
    Positive,
)
from marlzoo.modules.critics import Reads, TeamCritics
from marlzoo.modules.layers import one_hot
from marlzoo.modules.policies import Policy, categorical_log_prob, mask_logits, smoothed_action
from marlzoo.modules.teams import TeamActor
from marlzoo.objectives import (
    TargetMemory,
    action_error,
    action_size,
    data_likelihood,
    data_value,
    detached,
    mean_over,
    near_rows,
    require_continuous,
    saturation,
    straight_through,
)
from marlzoo.replicas import Kind
from marlzoo.spec import Spec

READS: dict[str, Reads] = {"independent": "own", "iddpg_bc": "state", "maddpg_bc": "joint"}
# OMAR's settings of the particle world, with which its paper's TD3+BC was run.
MPE = {"lr": 0.01, "hidden": 64, "critic_hidden": 64, "batch_size": 1024, "tau": 0.01, "gamma": 0.95}


@dataclass(frozen=True)
class TD3BCConfig(Config):
    """Settings of TD3+BC; the defaults are the paper's."""

    variant: Literal["independent", "iddpg_bc", "maddpg_bc"] = "iddpg_bc"  # what critics read, who shares
    alpha: NonNegative = 2.5  # weight of the critic against the data; 0 is behavior cloning
    smoothing_sigma: NonNegative = 0.2  # noise on the target policy's action (continuous)
    smoothing_clip: NonNegative = 0.5  # bound of that noise
    policy_delay: Count = 2  # critic steps per policy step
    policy_q: Literal["q1", "min"] = "q1"  # which critic the policy follows
    policy_after_critic: bool = True  # the policy's loss sees the critics after their step
    bc_reduce: Literal["mean", "sum"] = "mean"  # over action dimensions, in the data's part (continuous)
    action_penalty: NonNegative = 0.0  # weight of the policy's mean squared action (continuous)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of the policy's hidden layers, or of its memory
    critic_hidden: Count = 256  # width of the critics' hidden layers
    history: Literal["mlp", "rnn"] = "mlp"  # act on the observation, or on the episode so far
    lr: Positive = 3e-4  # step size of Adam
    batch_size: Count = 256  # transitions (or sequences) per update and replica
    prioritize: Literal["uniform", "joint_action"] = field(
        default="uniform", metadata=ASSIGNED_LATER
    )  # which rows to learn from (continuous)
    steepness: NonNegative = field(default=4.0, metadata=ASSIGNED_LATER)  # k of the priorities (joint_action)
    candidates: Count = field(
        default=8, metadata=ASSIGNED_LATER
    )  # rows that each is chosen from (joint_action)


class TD3BC(Algorithm):
    """TD3+BC for continuous and discrete actions; see the module's text."""

    config: TD3BCConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class: ClassVar[type[Config]] = TD3BCConfig
    actions = ("continuous", "discrete")
    unread = ("bound_margin",)
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": MPE,
        "smac": MLP_TRANSITIONS,
        "smac-recurrent": {**RECURRENT_SEQUENCES, "critic_hidden": 128},
    }
    variants: ClassVar = {
        kind: (
            {"variant": "independent", "policy_after_critic": False, "policy_q": "min"},
            {"variant": "maddpg_bc", "history": "rnn", "sequence_length": 6, "policy_delay": 1},
            *({"variant": "maddpg_bc", "prioritize": "joint_action", "candidates": 2},)
            * (kind == "continuous"),
        )
        for kind in actions
    }

    def build(self, spec: Spec) -> None:
        """Policy, twin critics, and the targets of both."""
        c = self.config
        require_continuous(self.name, c.prioritize, spec)
        recurrent = c.history == "rnn"
        self.sampling = "sequence" if recurrent else "transition"
        self.length = step_count(recurrent, c.sequence_length, self.name)
        reads = READS[c.variant]
        own = c.variant == "independent"
        state = () if own else ("state",)
        self.fields = row_fields(recurrent, "obs", "action", "agent_reward", "mask", "action_mask", *state)
        self.actor = TeamActor(self.init, spec, c.hidden, recurrent, own, relu=c.memory_relu)
        self.q = TeamCritics(self.init, spec, (c.critic_hidden, c.critic_hidden), reads, own)
        self.target_actor = self.make_target(self.actor)
        self.target_q = self.make_target(self.q)
        self.add_optimizer(policy=self.actor, critic=self.q)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Of the target's action, and of the policy's where actions are discrete."""
        shape = (self.config.batch_size, self.length, self.spec.n_agents, self.spec.action_size)
        if self.spec.discrete:
            return {"next": ("uniform", shape), "now": ("uniform", shape)}
        near = self.config.prioritize == "joint_action"
        return {"next": ("normal", shape), **({"row": ("uniform", shape[:1])} if near else {})}

    @property
    def batch_rows(self) -> int:
        """Rows that an update learns from, or chooses them from."""
        c = self.config
        return c.batch_size * (c.candidates if c.prioritize == "joint_action" else 1)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the losses, batch means and gradient norms, each [R]."""
        c = self.config
        batch = as_sequences(batch)
        nearness: dict[str, Tensor] = {}
        if c.prioritize == "joint_action":
            team = torch.tanh(self.target_actor(batch)[:, :, :-1])
            batch, nearness = near_rows(
                batch, team, self.action_dimensions, self.hyperparameter("steepness", 2)
            )
        obs = batch.obs[:, :, :-1]
        filled = batch.filled
        state = batch.state[:, :, :-1] if batch.has("state") else None

        # 1. Target
        with torch.no_grad():
            after = self._smoothed(self.target_actor(batch)[:, :, 1:], batch)
            state_after = batch.state[:, :, 1:] if batch.has("state") else None
            q_after = self.target_q(batch.obs[:, :, 1:], state_after, after).amin(1)
            y = batch.agent_reward + (self.hyperparameter("gamma", 3) * batch.mask).unsqueeze(-1) * q_after
            if self.memory is not None:
                y = self.memory.lift(y, batch)

        # 2. Critics
        data = self._data_actions(batch)
        q = self.q(obs, state, data)
        critic_loss = mean_over((q - y.unsqueeze(1)).square().mean(1), filled)

        # 3. Policy
        norms = self.step(critic=critic_loss) if c.policy_after_critic else {}
        due = self.due("critic", c.policy_delay, ahead=0 if c.policy_after_critic else 1)
        policy_loss, metrics = self._policy_loss(batch, obs, state, data)
        norms |= self.step_if(due, policy=policy_loss)
        if not c.policy_after_critic:
            norms |= self.step(critic=critic_loss)
        tau = self.hyperparameter("tau") * due
        self.soft_update(self.target_actor, self.actor, tau)
        self.soft_update(self.target_q, self.q, tau)
        losses = {"critic/loss": critic_loss, "policy/loss": policy_loss}
        means = {"critic/mean": mean_over(q[:, 0], filled), "critic/target": mean_over(y, filled)}
        value = data_value(q[:, 0], filled)
        return detached(losses | means | metrics) | value | nearness | norms

    def policy(self) -> Policy:
        """Continuous: tanh of the network's output. Discrete: the most probable legal action."""
        return self.actor.policy()

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        state = batch.state[:, :, :-1] if batch.has("state") else None
        values: Tensor = self.q(batch.obs[:, :, :-1], state, self._data_actions(batch))
        return values.amin(1)

    def _data_actions(self, batch: Batch) -> Tensor:
        """The data's actions as critics read them, [R, B, L, N, A]."""
        if self.spec.discrete:
            return one_hot(batch.action, self.spec.action_size, self.dtype)
        return batch.action.clamp(-1.0, 1.0)

    def _smoothed(self, out: Tensor, batch: Batch) -> Tensor:
        """The target policy's action with noise, [R, B, L, N, A]."""
        noise = batch.noise["next"]
        if self.spec.discrete:
            return straight_through(out, batch.action_mask[:, :, 1:], noise)
        sigma = self.hyperparameter("smoothing_sigma", 5)
        clip = self.hyperparameter("smoothing_clip", 5)
        return smoothed_action(torch.tanh(out), noise, sigma, clip) * self.action_dimensions

    def _policy_loss(
        self, batch: Batch, obs: Tensor, state: Tensor | None, data: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss, and as metrics the data's part of it and lambda (mean over agents), each [R]."""
        c = self.config
        filled = batch.filled
        used = self.action_dimensions
        out = self.actor(batch)[:, :, :-1]
        if self.spec.discrete:
            action_mask = batch.action_mask[:, :, :-1]
            action = straight_through(out, action_mask, batch.noise["now"])
            cloning = -categorical_log_prob(mask_logits(out, action_mask), batch.action)
        else:
            action = torch.tanh(out) * used
            cloning = action_error(action, data, used)
            cloning = cloning * used.sum(-1) if c.bc_reduce == "sum" else cloning
        joint = (obs, state, action, data)
        q = self.q(*joint).amin(1) if c.policy_q == "min" else self.q.first(*joint)
        real = filled.unsqueeze(-1)
        size = (q.detach().abs() * real).sum((1, 2)) / real.sum((1, 2))  # [R, N]: mean |Q| of every agent
        if c.variant != "independent":
            size = size.mean(-1, keepdim=True).expand_as(size)
        scale = self.hyperparameter("alpha", 2) / size.clamp_min(1e-8)
        loss = cloning - scale[:, None, None] * q
        if not self.spec.discrete:
            loss = loss + self.hyperparameter("action_penalty", 4) * action_size(action, used)
        metrics = {"policy/bc_loss": mean_over(cloning, filled), "policy/lambda": scale.mean(-1)}
        if self.spec.discrete:
            metrics |= data_likelihood(-cloning, filled)
        else:
            metrics |= saturation(action, used, filled)
        return mean_over(loss, filled), metrics
