"""OMSD: policies that follow the joint value and, agent after agent, the score of the data given the agents before.

"Offline Multi-agent Reinforcement Learning via Sequential Score Decomposition", arXiv 2505.05968 (version 3).
Teams in the data may have several conventions. Keeping each agent near its own marginal of the data mixes them: for n
agents and two symmetric conventions the product of the marginals is at total-variation distance 1 - 2^(1-n) from the
joint behavior. The score of the joint behavior splits without loss into one part per agent,

    grad log mu(a | s) = sum_i grad log mu(a_i | s, a_1 .. a_{i-1}),

so that every policy is kept near the data *given what the agents before it do now*. With levels k of noise, a_k of
the squared-cosine schedule, sigma_k = sqrt(1 - a_k) and a bar for target networks:

1. First stage, ``model_updates`` updates of centralized critics (IQL) and of the behavior's noise model:
   V:         L_V   = mean expectile_tau(min_j Q̄_j(s, a) - V(s))
   critics:   L_Q   = mean (Q_j(s, a) - r - gamma mask V(s'))^2
   behavior:  L_eps = mean (eps_theta(a_i^k, k | s, a_{<i}, i) - eps)^2,   a_i^k = sqrt(a_k) a_i + sigma_k eps
2. Second stage, deterministic policies of the agents' own observations, a = (pi_1(o_1) .. pi_n(o_n)):
   pull_i   = w_k (eps_theta(a_i^k, k | s, a_{<i}, i) - eps) / sigma_k,  constant to the gradient
   L_pi_i   = mean [ -Q(s, a) / mean |Q| + score_weight pull_i . a_i ]

-eps_theta / sigma_k estimates the score of the noised data; subtracting eps lowers the variance only. k is one of the
``score_levels`` lowest levels, w_k is sigma_k^2 or 1, Q the mean of the twins. Gradients reach agent i's own policy
only. Agents take turns in a fixed order, one per update, so that an agent sees the agents before it as they are after
their step (``in_turn``). The first ``warm_start`` updates of the policies follow the pull alone: agent 1 settles on
one convention and the others follow. Execution is decentralized: every agent reads its own observation and acts at
once, with one call of its network; no noise is drawn and no denoising steps are made.

No code was published. Ours are: the value over its mean size, which makes the weight dimensionless (the paper has a
temperature beta, .001 for expert to .3 for random data; 1 / beta weighs the score); the warm start; turns over
updates instead of within a minibatch; the agents' number as input of one noise model for all; numbers of levels; and
``model_updates``, which are fewer than the paper's 100,000 to 500,000. Policies end where the noise model says that
the data are, whatever the value, and with few updates of few transitions that lies beside them.
``conditional = False`` drops the condition on the agents before, which leaves the marginal scores that the paper
argues against. With one agent the method is SRPO (Chen et al. 2024, arXiv 2310.07297).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm, Stage
from marlzoo.batch import Batch
from marlzoo.config import Config, Count, Fraction, Natural, NonNegative, Positive
from marlzoo.errors import ConfigError
from marlzoo.modules.critics import Ensemble, ValueNet
from marlzoo.modules.diffusion import NoiseModel, Schedule
from marlzoo.modules.layers import MLP, PerAgent, one_hot, with_agent_id
from marlzoo.modules.policies import Policy, SquashedPolicy
from marlzoo.objectives import action_error, data_value, detached, expectile, mean_over, saturation
from marlzoo.replicas import Kind
from marlzoo.spec import Spec


@dataclass(frozen=True)
class OMSDConfig(Config):
    """Settings of OMSD; sizes of the networks are the paper's."""

    model_updates: Count = 20_000  # first updates, of critics and behavior only
    warm_start: Natural = 1000  # first updates of the policies, that follow the score alone
    score_weight: NonNegative = 1.0  # weight of the score, beside the value over its mean size
    conditional: bool = True  # scores given the agents before (False: marginal scores, an ablation)
    in_turn: bool = True  # policies step one after another (False: all at once)
    expectile: Fraction = 0.7  # expectile of the value network
    diffusion_steps: Count = 50  # levels of noise
    score_levels: Count = 15  # lowest levels, of which the score is taken
    level_weight: Literal["variance", "constant"] = "variance"  # w_k: sigma_k^2, or 1
    tau: Fraction = 0.005  # rate at which the critics' target follows
    hidden: Count = 256  # width of all hidden layers
    layers: Count = 3  # residual layers of the noise model
    batch_size: Count = 256  # transitions per update and replica
    lr: Positive = 3e-4  # step size of Adam


class OMSD(Algorithm):
    """OMSD for continuous actions; see the module's text."""

    config: OMSDConfig
    config_class = OMSDConfig
    no_memory = "its critics no longer learn once its policies do"
    actions = ("continuous",)
    unread = ("sequence_length", "memory_relu", "bound_margin")
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "games": {
            **{"model_updates": 2000, "warm_start": 500, "lr": 1e-3, "hidden": 64},
            **{"score_weight": 3.0, "tau": 0.02},
        },
    }
    variants: ClassVar = {
        "continuous": ({"in_turn": False, "conditional": False, "level_weight": "constant"},),
    }

    def build(self, spec: Spec) -> None:
        """Critics and their target, value, noise model, and one policy per agent."""
        c = self.config
        n = spec.n_agents
        a = spec.action_size
        if c.score_levels > c.diffusion_steps:
            raise ConfigError(
                f"{self.name}: score_levels is {c.score_levels}, but there are {c.diffusion_steps} levels of noise; "
                "set it to at most diffusion_steps"
            )
        self.fields = ("obs", "state", "action", "reward", "mask", "next_state")
        self.q = Ensemble(self.init, (spec.state_size + n * a, c.hidden, c.hidden, 1))
        self.target_q = self.make_target(self.q)
        self.v = ValueNet(self.init, spec.state_size, c.hidden)
        self.schedule = Schedule(self.init, c.diffusion_steps)
        self.behavior = NoiseModel(self.init, spec.state_size + n * a + n, a, c.hidden, c.layers)
        sizes = (spec.obs_size + n, c.hidden, c.hidden, a)
        self.actor = PerAgent(MLP(self.init, sizes, stack=(n,)))
        self.add_optimizer(
            v=self.v, critic=self.q, behavior=self.behavior, policy=self.actor, rows={"policy": (n,)}
        )

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Levels, and noise at them, of every agent's action."""
        shape = (self.config.batch_size, self.spec.n_agents)
        return {"level": ("uniform", shape), "noise": ("normal", (*shape, self.spec.action_size))}

    def stages(self) -> tuple[Stage, ...]:
        """Critics and behavior, then the policies."""
        model = Stage(
            "critics and behavior", self.update_model, self.config.model_updates, ignores=("score_weight",)
        )
        return model, Stage("policies", self.update_policies)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the present stage; metrics are losses, batch means and gradient norms, each [R]."""
        return self.stage.update(batch)

    def policy(self) -> Policy:
        """Every agent's own: tanh of the network's output."""
        return SquashedPolicy(self.actor, used=self.action_dimensions)

    # Stage 1 ---------------------------------------------------------------------------------------------

    def update_model(self, batch: Batch) -> dict[str, Tensor]:
        """One step of value, critics and noise model."""
        joint = batch.action.flatten(-2)

        # 1. V
        with torch.no_grad():
            q_min = self.target_q(batch.state, joint).squeeze(-1).amin(1)
            y = batch.reward + self.hyperparameter("gamma", 2) * batch.mask * self.v(batch.next_state)
        v_loss = mean_over(expectile(q_min - self.v(batch.state), self.hyperparameter("expectile", 2)))

        # 2. Critics
        q = self.q(batch.state, joint).squeeze(-1)  # [R, 2, B]
        critic_loss = mean_over((q - y.unsqueeze(1)).square())

        # 3. Behavior
        agents = torch.arange(self.spec.n_agents, device=self.device)
        level = self._levels(batch, self.config.diffusion_steps)
        noise = batch.noise["noise"]
        team = batch.action.unsqueeze(2).expand(*level.shape, *batch.action.shape[-2:])
        found = self.predicted_noise(batch.state, team, agents, level, noise)
        behavior_loss = mean_over(action_error(found, noise, self.action_dimensions))

        norms = self.step(v=v_loss, critic=critic_loss, behavior=behavior_loss)
        self.soft_update(self.target_q, self.q, self.hyperparameter("tau"))
        losses = {"v/loss": v_loss, "critic/loss": critic_loss, "behavior/loss": behavior_loss}
        return detached(losses | {"critic/target_total": mean_over(y)}) | data_value(q[:, 0]) | norms

    # Stage 2 ---------------------------------------------------------------------------------------------

    def update_policies(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the policy whose turn it is, or of all."""
        agents, warm = self._turn()
        used = self.action_dimensions
        action = torch.tanh(self.actor(with_agent_id(batch.obs))) * used
        mine = one_hot(agents, self.spec.n_agents).bool().unsqueeze(-1)  # [K, N, 1]
        team = torch.where(mine, action.unsqueeze(2), action.detach().unsqueeze(2))  # [R, B, K, N, A]

        # 1. The score of each agent's action given those before
        level = self._levels(batch, self.config.score_levels).index_select(2, agents)
        pull = self.pull(batch.state, team, agents, level, batch.noise["noise"].index_select(2, agents))

        # 2. Value and policies
        states = batch.state.unsqueeze(2).expand(*team.shape[:3], -1)
        q = self.q(states, team.flatten(-2)).squeeze(-1).mean(1)  # [R, B, K]
        size = mean_over(q.detach().abs()).clamp_min(1e-6).view(-1, 1, 1)
        value = torch.where(warm, torch.zeros_like(q), q / size)
        towards = (pull * action.index_select(2, agents)).sum(-1)
        policy_loss = (self.hyperparameter("score_weight", 3) * towards - value).mean(1).sum(-1)

        moving = mine.any(0).squeeze(-1).expand(self.replicas, -1)
        norms = self.step_if(moving, policy=policy_loss)
        metrics = {"policy/loss": policy_loss, "policy/pull": mean_over(pull.square().sum(-1).sqrt())}
        metrics |= {"critic/total": mean_over(q)}
        return detached(metrics) | saturation(action, used) | norms

    @torch.no_grad()
    def pull(self, state: Tensor, team: Tensor, agents: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Against the score, ``[R, B, K, A]``: what is added to the loss's gradient towards the agents' actions."""
        found = self.predicted_noise(state, team, agents, level, noise)
        sigma = self.schedule.noise_size(level, noise.ndim)
        gap = (found - noise) * self.action_dimensions.index_select(0, agents)
        return gap * sigma if self.config.level_weight == "variance" else gap / sigma

    def predicted_noise(
        self, state: Tensor, team: Tensor, agents: Tensor, level: Tensor, noise: Tensor
    ) -> Tensor:
        """What the noise model makes of K agents' noised actions, ``[R, B, K, A]``.

        Args:
            state: ``[R, B, S]``.
            team: joint action beside each of the K agents, ``[R, B, K, N, A]``.
            agents: whose actions are noised, int64 ``[K]``.
            level: int64 ``[R, B, K]``.
            noise: ``[R, B, K, A]``.
        """
        n = self.spec.n_agents
        where = agents.unsqueeze(-1)
        number = one_hot(agents, n, self.dtype)
        own = (team * number.unsqueeze(-1)).sum(3)
        known = torch.arange(n, device=self.device) < where if self.config.conditional else where < 0
        before = (team * known.unsqueeze(-1)).flatten(-2)
        shape = (*level.shape, -1)
        context = torch.cat((state.unsqueeze(2).expand(shape), before, number.expand(shape)), dim=-1)
        x = self.schedule.noised(own, noise, level) * self.action_dimensions.index_select(0, agents)
        found: Tensor = self.behavior(context, x, self.schedule.time(level, noise))
        return found

    def _levels(self, batch: Batch, levels: int) -> Tensor:
        """One of the lowest ``levels`` for every agent's action, int64 ``[R, B, N]``."""
        return (batch.noise["level"] * levels).long()

    def _turn(self) -> tuple[Tensor, Tensor]:
        """The agents that step now, int64 ``[K]``, and whether the policies still follow the score alone."""
        n = self.spec.n_agents
        steps = self._optimizers["policy"].count[0]  # replicas are in step
        if not self.config.in_turn:
            return torch.arange(n, device=self.device), steps[0] < self.config.warm_start
        made = steps.sum()
        return torch.remainder(made, n).long().unsqueeze(0), made < self.config.warm_start
