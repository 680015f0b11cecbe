"""MADDPG+CQL: deterministic policies with twin joint critics and a conservative penalty, for continuous actions.

Multi-agent DDPG (Lowe et al. 2017, arXiv 1706.02275) with the penalty of conservative Q-learning (Kumar et al. 2020,
arXiv 2006.04779), as in OG-MARL (Formanek et al. 2023, arXiv 2302.00521). The agents share a policy that reads their
episode so far; critics read the state and everyone's action (``variant = "iddpg_cql"``: only the agent's own action,
and its number). A bar is a target network:

1. target:  y    = r_i + gamma mask min_j Q̄_j(s', pī(o'_1) .. pī(o'_n))
2. TD_j     = 1/2 mean (Q_j(s, a) - y)^2
3. penalty: CQL_j = mean [log sum_k exp(Q_j(s, u_k) - l_k) - Q_j(s, a)]
            Ten team actions u_k each: uniform on the box; clip(pi(o) + eps, -1, 1); clip(pi(o') + eps, -1, 1), all
            evaluated at s; eps ~ N(0, sigma^2). l_k is the log density of the agent's own part of u_k.
4. critics: L_Q  = 1/2 sum_j (TD_j + w CQL_j)
5. policy:  L_pi = -mean min_j Q_j(s, pi(o_i), a_-i) + 1e-3 mean pi(o_i)^2, the others' actions from the data

Both losses are taken before any step; the targets follow with rate tau.

Departures from published code, and the option that restores it:

* Each critic's penalty has its own log-sum-exp. OG-MARL's PyTorch port gives the second critic the first one's, which
  pushes Q_2 up on the data without bound; it also copies one twin into the other. Neither is offered.
* The paper-time branch takes reward and end of the episode one step late; not offered.
* Sequences lie within one episode; OG-MARL's straddle them, and a time limit bootstraps into the next; not offered.
* OG-MARL clips gradient norms of ``iddpg_cql`` at 10 and none of ``maddpg_cql``: ``grad_clip = 10``.
* The PyTorch port steps the critics before it takes the policy's loss, and follows the first critic:
  ``policy_after_critic = True``, ``policy_q = "q1"``.

Options off by default: ``cql_logprob_scope = "joint"`` takes l_k over all agents' parts, since all are drawn;
``critic_agent_id`` tells joint critics the agent's number (without it agents with rewards of their own learn the
rewards' mean); ``history = "mlp"`` learns from transitions. ``backup = "partial"`` keeps the data's next actions in
the target but for those of ``replaced`` random agents, which the target policy chooses (partial action replacement,
arXiv 2511.07629): where behavior factorizes, the distance from the data grows linearly with that number. Steps whose
next action is cut off have no target then, unless all agents are replaced. ``backup = "soft"`` mixes the targets of
0 to N replaced agents with weights exp(-u_k / mean_k u_k), u_k the critics' deviation (SPaCQL's idea with our weights
and twins for its ten critics).

``prioritize = "joint_action"`` (PJAP, "Coordination Failure in Cooperative Offline MARL", arXiv 2407.01343) learns
from rows whose joint action lies near the present policies', because step 5 takes the others' actions from the data:
agents otherwise adapt to partners that the data have and the team no longer is. With mu the target policies,

    d = mean |mu(o_i) - a_i| over agents, dimensions and steps,   p = clip(exp(-(k d)^2), 1e-4, 1),

and rows are drawn with probability in proportion to p^.99 from ``candidates`` times as many uniform ones. The authors
keep priorities in their buffer and renew those of one uniform batch per update; here all candidates' are fresh. There
is no importance correction, on purpose. Their steepness k is 4 for most data, .5 to 8 for others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import (
    Batch,
    as_sequences,
    known_actions,
    row_fields,
    step_count,
)
from marlzoo.config import ASSIGNED_LATER, Config, Count, Fraction, Natural, NonNegative, Positive
from marlzoo.modules.critics import TeamCritics
from marlzoo.modules.policies import Policy
from marlzoo.modules.teams import TeamActor
from marlzoo.objectives import (
    TargetMemory,
    action_size,
    all_replacements,
    backup_form,
    data_value,
    detached,
    mean_over,
    near_rows,
    partial_replacement,
    penalty_samples,
    require_agents,
    sampled_logsumexp,
    saturation,
    soft_backup,
)
from marlzoo.replicas import Kind
from marlzoo.spec import Spec


@dataclass(frozen=True)
class MADDPGCQLConfig(Config):
    """Settings of MADDPG+CQL; the defaults are OG-MARL's."""

    variant: Literal["maddpg_cql", "iddpg_cql"] = "maddpg_cql"  # critics read all actions, or the agent's own
    cql_weight: NonNegative = 5.0  # w; 0 is MADDPG with twin critics
    cql_samples: Count = 10  # team actions of each of the three classes
    cql_sigma: Positive = 0.2  # spread of the samples around the policy's actions
    cql_logprob_scope: Literal["own", "joint"] = "own"  # whose part of a sample its density counts
    critic_agent_id: bool = False  # let joint critics read the agent's number
    policy_q: Literal["min", "q1"] = "min"  # which critic the policy follows
    policy_after_critic: bool = False  # the policy's loss sees the critics after their step
    action_penalty: NonNegative = 1e-3  # weight of the policy's mean squared action
    tau: Fraction = 0.01  # rate at which the targets follow
    hidden: Count = 64  # width of the policy's hidden layers, or of its memory
    critic_hidden: Count = 128  # width of the critics' hidden layers
    memory_relu: bool = True  # a ReLU between the memory and the last layer
    history: Literal["rnn", "mlp"] = "rnn"  # act on the episode so far, or on the observation
    lr: Positive = 1e-3  # step size of Adam
    batch_size: Count = 32  # sequences (or transitions) per update and replica
    sequence_length: Natural = 20  # steps per sequence
    backup: Literal["policy", "partial", "soft"] = field(
        default="policy", metadata=ASSIGNED_LATER
    )  # next actions in the target: the policy's, or the data's but for some agents, or for all numbers of these
    replaced: Natural = field(default=1, metadata=ASSIGNED_LATER)  # how many agents' (partial)
    prioritize: Literal["uniform", "joint_action"] = field(
        default="uniform", metadata=ASSIGNED_LATER
    )  # which rows to learn from
    steepness: NonNegative = field(default=4.0, metadata=ASSIGNED_LATER)  # k of the priorities (joint_action)
    candidates: Count = field(
        default=8, metadata=ASSIGNED_LATER
    )  # rows that each is chosen from (joint_action)


class MADDPGCQL(Algorithm):
    """MADDPG+CQL for continuous actions; see the module's text."""

    config: MADDPGCQLConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = MADDPGCQLConfig
    actions = ("continuous",)
    unread = ("bound_margin",)
    presets: ClassVar = {"mamujoco": {}, "mpe": {}}
    variants: ClassVar = {
        "continuous": (
            {"history": "mlp", "critic_agent_id": True, "cql_logprob_scope": "joint", "backup": "partial"},
            {"variant": "iddpg_cql", "history": "mlp", "policy_after_critic": True, "policy_q": "q1"},
            {"history": "mlp", "backup": "soft"},
            {"sequence_length": 4, "prioritize": "joint_action", "candidates": 2},
        )
    }

    def build(self, spec: Spec) -> None:
        """Policy, twin critics, and the targets of both."""
        c = self.config
        recurrent = c.history == "rnn"
        self.sampling = "sequence" if recurrent else "transition"
        self.length = step_count(recurrent, c.sequence_length, self.name)
        require_agents(self.name, c.replaced, spec)
        self.backup = backup_form(c.backup, c.replaced, spec)
        following = ("next_action",) if self.backup != "policy" and not recurrent else ()
        self.fields = (*row_fields(recurrent, "obs", "state", "action", "agent_reward", "mask"), *following)
        self.actor = TeamActor(self.init, spec, c.hidden, recurrent, relu=c.memory_relu)
        self.q = TeamCritics(
            self.init,
            spec,
            (c.critic_hidden, c.critic_hidden),
            "joint" if c.variant == "maddpg_cql" else "state",
            agent_id=c.critic_agent_id,
        )
        self.target_actor = self.make_target(self.actor)
        self.target_q = self.make_target(self.q)
        self.add_optimizer(policy=self.actor, critic=self.q)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """What the penalty's team actions are made of."""
        c = self.config
        one = (c.batch_size, self.length, self.spec.n_agents, self.spec.action_size)
        found: dict[str, tuple[Kind, tuple[int, ...]]] = {
            "uniform": ("uniform", (c.cql_samples, *one)),
            "normal": ("normal", (2, c.cql_samples, *one)),
        }
        if self.backup != "policy":
            found["subset"] = ("uniform", one[:-1])
        if c.prioritize == "joint_action":
            found["row"] = ("uniform", (c.batch_size,))
        return found

    @property
    def batch_rows(self) -> int:
        """Rows that an update learns from, or chooses them from."""
        c = self.config
        return c.batch_size * (c.candidates if c.prioritize == "joint_action" else 1)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the losses, batch means and gradient norms, each [R]."""
        c = self.config
        batch = as_sequences(batch)
        used = self.action_dimensions
        nearness: dict[str, Tensor] = {}
        if c.prioritize == "joint_action":
            team = torch.tanh(self.target_actor(batch)[:, :, :-1])
            batch, nearness = near_rows(batch, team, used, self.hyperparameter("steepness", 2))
        obs = batch.obs[:, :, :-1]
        state = batch.state[:, :, :-1]
        filled = batch.filled
        policy = torch.tanh(self.actor(batch)) * used  # [R, B, L + 1, N, A]

        # 1. Target
        with torch.no_grad():
            q_after, usable = self._next_values(batch)
            y = batch.agent_reward + (self.hyperparameter("gamma", 3) * batch.mask).unsqueeze(-1) * q_after
            if self.memory is not None:
                y = self.memory.lift(y, batch)

        # 2. TD
        q = self.q(obs, state, batch.action)
        td = mean_over(0.5 * (q - y.unsqueeze(1)).square().mean(1), usable)

        # 3. Penalty
        samples, log_density = self._samples(batch, policy.detach())
        q_sampled = self.q(obs.unsqueeze(1), state.unsqueeze(1), samples)  # [R, 2, 3 K, B, L, N]
        excess = sampled_logsumexp(q_sampled, log_density.unsqueeze(1), dim=2) - q
        penalty = mean_over(excess.mean(1), filled)

        # 4. and 5. Critics and policy
        losses = {"critic": td + self.hyperparameter("cql_weight") * penalty}
        if c.policy_after_critic:
            norms = self.step(**losses)
            losses = {"policy": self._policy_loss(batch, policy[:, :, :-1])}
        else:
            losses["policy"] = self._policy_loss(batch, policy[:, :, :-1])
            norms = {}
        norms |= self.step(**losses)
        self.soft_update(self.target_actor, self.actor, self.hyperparameter("tau"))
        self.soft_update(self.target_q, self.q, self.hyperparameter("tau"))
        metrics = {"critic/loss": td, "critic/penalty": penalty, "policy/loss": losses["policy"]}
        means = {"critic/mean": mean_over(q[:, 0], filled), "critic/target": mean_over(y, usable)}
        common = data_value(q[:, 0], filled)
        common |= saturation(policy[:, :, :-1], used, filled)
        return detached(metrics | means) | common | nearness | norms

    def _next_values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values of the next step ``[R, B, L, N]``, and 1 for steps that have one ``[R, B, L]``."""
        c = self.config
        obs = batch.obs[:, :, 1:]
        state = batch.state[:, :, 1:]
        after = torch.tanh(self.target_actor(batch)[:, :, 1:]) * self.action_dimensions
        usable = batch.filled
        if self.backup != "policy":
            known, usable = known_actions(batch)
            logged = known[:, :, 1:]
            subset = batch.noise["subset"]
            if self.backup == "soft":
                team = all_replacements(after, logged, subset)
                return soft_backup(self.target_q(obs.unsqueeze(1), state.unsqueeze(1), team)), usable
            after = partial_replacement(after, logged, subset, c.replaced)
        return self.target_q(obs, state, after).amin(1), usable

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        values: Tensor = self.q(batch.obs[:, :, :-1], batch.state[:, :, :-1], batch.action)
        return values.amin(1)

    def policy(self) -> Policy:
        """Tanh of the network's output."""
        return self.actor.policy()

    @torch.no_grad()
    def _samples(self, batch: Batch, policy: Tensor) -> tuple[Tensor, Tensor]:
        """The penalty's team actions [R, 3 K, B, L, N, A] and their log densities [R, 3 K, B, L, N]."""
        noise = batch.noise
        sigma = self.hyperparameter("cql_sigma")
        now = policy[:, :, :-1]
        after = policy[:, :, 1:]
        actions, density = penalty_samples(
            now, after, noise["uniform"], noise["normal"], sigma, self.action_dimensions
        )
        if self.config.cql_logprob_scope == "joint":
            density = density.sum(-1, keepdim=True)
        return actions, density

    def _policy_loss(self, batch: Batch, action: Tensor) -> Tensor:
        """The policy's loss, [R]."""
        joint = (batch.obs[:, :, :-1], batch.state[:, :, :-1], action, batch.action)
        q = self.q(*joint).amin(1) if self.config.policy_q == "min" else self.q.first(*joint)
        size = action_size(action, self.action_dimensions)
        return mean_over(self.hyperparameter("action_penalty", 4) * size - q, batch.filled)
