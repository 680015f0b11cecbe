"""LOMAQ: locality-based value decomposition, learned offline with a conservative penalty.

Zohar, Mannor, Tennenholtz, "Locality Matters: A Scalable Value Decomposition Approach for Cooperative Multi-Agent
Reinforcement Learning", AAAI 2022, arXiv 2109.10632. Agents are the nodes of a known graph and have rewards of their
own, which depend on their neighborhood only. Each agent's value is a monotone mixture of the utilities of the agents
within distance k, and learns from its own reward, so that who earned what does not become harder to tell with more
agents. N_k(i) are the agents within distance k of i, itself included; a bar is a target network:

1. values:  Q_i = F_i({u_j(o_j, a_j) : j in N_k(i)}, s), monotone in every u_j
2. rewards: r~_i = sum_{j in N_d(i)} r_j / |N_d(j)|
3. TD:      y_i = r~_i + gamma mask F̄_i({ū_j(o'_j, a*_j)}, s'),  a*_j = argmax over legal actions of u_j(o'_j)
            L_TD = mean_i (Q_i - y_i)^2
4. penalty: L_CQL = mean_i [log sum_a exp u_i(o_i, a) - u_i(o_i, a_i)]

One step follows L_TD + cql_weight L_CQL. Agents share the utilities' network, which reads their number; F_i are
QMIX's networks, one per agent. Acting needs the agent's own utilities only.

Continuous actions are an extension of ours: OMIGA (arXiv 2307.11620), which learns in-sample, with local mixers in
the place of its own. Agent i's mixer is linear, F_i(X) = sum_{j in N_k(i)} w_ij X_j + b_i, and reads the observations
of N_k(i) only, not the state, w_ij >= 0. The team's value is the mean of all F_i, in which agent j has the weight
W_j = sum_i w_ij / N. With agents sharing the networks of Q, V and policy, and rewards as in 2:

5. Q:       y_i = r~_i + gamma mask F̄_i({V̄_j(o'_j)}),   L_Q = mean_i (F_i({Q_j(o_j, a_j)}) - y_i)^2
6. weights: z_j = W̄_j (Q̄_j(o_j, a_j) - V_j(o_j)) / alpha, clipped to [-10, 10]; only V carries gradient
7. V:       L_V = mean_j [exp(z_j) + W̄_j V_j / alpha]
8. policy:  L_π = -mean_j [exp(z_j) log pi_j(a_j | o_j)]

Policy, Q with mixers, and V take a step each. OMIGA's shift of the exponent in 7, which scales V's gradient, is left
out.

The paper's method learns online. Offline, step 4 is ours, and so are the sizes. The graph is a setting, because tasks
do not state one: ``graph = "line"`` or ``"ring"`` in the order of the agents, or ``"complete"``; ``reach`` is k and
``reward_reach`` d. The release's default makes F_i monotone by a penalty on its slopes and without the state; here it
is monotone by construction (its other option). Its decomposition of a team's reward into local ones is left out:
where the data have only the team's reward, every agent is given that. With ``loss = "global"`` the mean of all Q_i is
compared with the team's reward instead, as in value decomposition, to show what locality brings
(benchmarks/studies/lomaq.py). ``history = "rnn"`` lets the utilities, or the policies, read the episode so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, as_transitions, row_fields, step_fields
from marlzoo.config import (
    ASSIGNED_LATER,
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    History,
    Natural,
    NonNegative,
    Positive,
)
from marlzoo.modules.layers import MLP, Linear, chosen, with_agent_id
from marlzoo.modules.policies import Policy
from marlzoo.modules.teams import AgentNet, QNetworkConfig, StochasticActor
from marlzoo.objectives import (
    TargetMemory,
    data_likelihood,
    data_value,
    detached,
    double_q,
    effective_sample_size,
    exponent_quantiles,
    masked_logsumexp,
    mean_over,
)
from marlzoo.replicas import Init
from marlzoo.spec import ActionKind, Spec

Graph = Literal["line", "ring", "complete"]
Z_BOUND = 10.0


@dataclass(frozen=True)
class LOMAQConfig(Config):
    """Settings of LOMAQ; the graph belongs to the task."""

    graph: Graph = "line"  # who is next to whom, in the order of the agents
    reach: Natural = 1  # k: distance of the agents whose utilities make a value
    reward_reach: Natural = 0  # d: distance over which rewards are shared out
    loss: Literal["local", "global"] = "local"  # every agent's own error, or that of the team's value
    cql_weight: NonNegative = 1.0  # weight of the conservative penalty (discrete)
    # strength of the pull towards the data (continuous)
    alpha: Positive = field(default=10.0, metadata=ASSIGNED_LATER)
    tau: Fraction = 0.005  # rate at which the targets follow, where they are not copied
    target_period: Natural = 200  # updates between copies of the targets; 0: follow with rate tau
    hidden: Count = 64  # width of the utilities' (Q's, V's, policy's) hidden layers, or of their memory
    mixer_hidden: Count = 32  # hidden units of the networks that make the mixers' weights
    mixer_embed: Count = 32  # hidden units of the mixers (discrete)
    history: History = "mlp"  # act on the observation, or on the episode so far
    grad_clip: Positive = 10.0  # bound on the gradient norm


# Where actions are continuous: OMIGA's sizes, targets and bound on the gradient.
CONTINUOUS: Mapping[str, Any] = {"hidden": 256, "mixer_hidden": 64, "target_period": 0, "grad_clip": 1.0}


class LocalMixers(nn.Module):
    """One monotone mixer per agent, which sees the utilities of its neighborhood.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        near: ``[N, N]``, 1 where the mixer of agent i sees agent j.
        embed: hidden units of a mixer.
        hidden: hidden units of the networks that make its weights from the state.
    """

    near: Tensor

    def __init__(self, init: Init, spec: Spec, near: Tensor, embed: int, hidden: int) -> None:
        super().__init__()
        n = spec.n_agents
        size = spec.state_size
        self.first = MLP(init, (size, hidden, n * embed), stack=(n,))
        self.first_bias = Linear(init, size, embed, stack=(n,))
        self.last = MLP(init, (size, hidden, embed), stack=(n,))
        self.value = MLP(init, (size, embed, 1), stack=(n,))
        self.embed = embed
        self.register_buffer("near", near, persistent=False)

    def forward(self, utilities: Tensor, state: Tensor) -> Tensor:
        """Every agent's value ``[R, ..., N]`` of ``utilities [R, ..., N]`` in ``state [R, ..., S]``."""
        seen = state.unsqueeze(1)
        n = len(self.near)
        near = self.near.view(n, *(1,) * (state.ndim - 2), n, 1)
        first = self.first(seen).abs().unflatten(-1, (n, self.embed)) * near  # [R, N, ..., N, E]
        mixed = utilities.unsqueeze(1).unsqueeze(-2) @ first  # [R, N, ..., 1, E]
        hidden = F.elu(mixed + self.first_bias(seen).unsqueeze(-2))
        last = self.last(seen).abs().unsqueeze(-1)  # [R, N, ..., E, 1]
        weighted = (hidden @ last).squeeze(-1).squeeze(-1)
        total: Tensor = weighted + self.value(seen).squeeze(-1)
        return total.movedim(1, -1)


class LocalLinearMixers(nn.Module):
    """One linear mixer per agent, made from the observations of its neighborhood.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        near: ``[N, N]``, 1 where the mixer of agent i sees agent j.
        hidden: width of a mixer's hidden layer.
    """

    near: Tensor

    def __init__(self, init: Init, spec: Spec, near: Tensor, hidden: int) -> None:
        super().__init__()
        n = spec.n_agents
        self.body = Linear(init, n * spec.obs_size, hidden, stack=(n,))
        self.weight = Linear(init, hidden, n, stack=(n,))
        self.bias = Linear(init, hidden, 1, stack=(n,))
        self.register_buffer("near", near, persistent=False)

    def coefficients(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """w and b of every agent's mixer, ``[R, B, N, N]`` and ``[R, B, N]``, in ``obs [R, B, N, O]``."""
        near = self.near.unsqueeze(1)  # [N, 1, N]
        visible = near.repeat_interleave(obs.shape[-1], -1)
        hidden = F.relu(self.body(obs.flatten(-2).unsqueeze(1) * visible))  # [R, N, B, H]
        weight = self.weight(hidden).abs() * near
        return weight.movedim(1, -2), self.bias(hidden).squeeze(-1).movedim(1, -1)

    def forward(self, values: Tensor, obs: Tensor) -> Tensor:
        """Every agent's mixture ``[R, B, N]`` of ``values [R, B, N]`` in ``obs [R, B, N, O]``."""
        weight, bias = self.coefficients(obs)
        return (weight @ values.unsqueeze(-1)).squeeze(-1) + bias


class LOMAQ(Algorithm):
    """LOMAQ of Zohar et al. 2022, and our form for continuous actions; see the module's text."""

    config: LOMAQConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = LOMAQConfig
    actions: ClassVar[tuple[ActionKind, ...]] = ("continuous", "discrete")
    presets: ClassVar = {
        "mamujoco": CONTINUOUS,  # a robot's agents are its joints or limbs, in the order of the body
        "mpe": {**CONTINUOUS, "graph": "complete"},
        "smac": {**MLP_TRANSITIONS, "graph": "complete"},
        "smac-recurrent": {**RECURRENT_SEQUENCES, "graph": "complete"},
    }
    variants: ClassVar = {
        "continuous": (
            {"graph": "ring", "reach": 0, "reward_reach": 1, "loss": "global", "target_period": 0},
            {"history": "rnn", "sequence_length": 6, "graph": "complete"},
        ),
        "discrete": (
            {"graph": "ring", "reward_reach": 1, "loss": "global", "target_period": 0},
            {"history": "rnn", "sequence_length": 6, "graph": "complete"},
        ),
    }
    shares: Tensor

    def build(self, spec: Spec) -> None:
        """Utilities (or Q, V and policy) and mixers, and targets."""
        c = self.config
        recurrent = c.history == "rnn"
        self.sampling = "sequence" if recurrent else "transition"
        near = neighborhoods(c.graph, spec.n_agents, c.reach).to(self.device, self.dtype)
        around = neighborhoods(c.graph, spec.n_agents, c.reward_reach).to(self.device, self.dtype)
        self.register_buffer("shares", around / around.sum(0), persistent=False)  # [N, N], columns sum to 1
        if not spec.discrete:
            self._build_in_sample(spec, near)
            return
        self.fields = row_fields(recurrent, "obs", "state", "action_mask", "action", "agent_reward", "mask")
        shape = QNetworkConfig(c.hidden, recurrent, relu=c.memory_relu)
        self.agents = AgentNet(self.init, spec, shape)
        self.mixers = LocalMixers(self.init, spec, near, c.mixer_embed, c.mixer_hidden)
        self.target_agents = self.make_target(self.agents)
        self.target_mixers = self.make_target(self.mixers)
        self.add_optimizer(q=(self.agents, self.mixers))

    def _build_in_sample(self, spec: Spec, near: Tensor) -> None:
        c = self.config
        h = c.hidden
        recurrent = c.history == "rnn"
        self.fields = step_fields(recurrent, "obs", "action", "agent_reward", "mask")
        n_in = spec.obs_size + spec.n_agents
        self.actor = StochasticActor(self.init, spec, h, recurrent=recurrent, relu=c.memory_relu)
        self.q = MLP(self.init, (n_in + spec.action_size, h, h, 1))
        self.v = MLP(self.init, (n_in, h, h, 1))
        self.linear_mixers = LocalLinearMixers(self.init, spec, near, c.mixer_hidden)
        self.target_q = self.make_target(self.q)
        self.target_v = self.make_target(self.v)
        self.target_linear_mixers = self.make_target(self.linear_mixers)
        self.add_optimizer(policy=self.actor, q=(self.q, self.linear_mixers), v=self.v)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the losses, batch means and gradient norms, each [R]."""
        return self._learn_utilities(batch) if self.spec.discrete else self._learn_in_sample(batch)

    def _learn_utilities(self, batch: Batch) -> dict[str, Tensor]:
        """Steps 1 to 4."""
        c = self.config
        batch = as_sequences(batch)
        state = batch.state
        filled = batch.filled

        # 1. Values
        every = self.agents(batch)
        utility = chosen(every[:, :, :-1], batch.action)
        q = self.mixers(utility, state[:, :, :-1])

        # 2. and 3. Rewards and TD
        with torch.no_grad():
            best = double_q(every, self.target_agents(batch), batch.action_mask)[:, :, 1:]
            carry = (self.hyperparameter("gamma", 3) * batch.mask).unsqueeze(-1)
            local = batch.agent_reward @ self.shares.mT
            y = local + carry * self.target_mixers(best, state[:, :, 1:])
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        error = q - y if c.loss == "local" else (q - y).mean(-1, keepdim=True)
        td_loss = mean_over(error.square(), filled)

        # 4. Penalty
        excess = masked_logsumexp(every[:, :, :-1], batch.action_mask[:, :, :-1]) - utility
        penalty = mean_over(excess, filled)

        norms = self.step(q=td_loss + self.hyperparameter("cql_weight") * penalty)
        tau = self.hyperparameter("tau")
        self.hard_update(self.target_agents, self.agents, c.target_period, tau, "q")
        self.hard_update(self.target_mixers, self.mixers, c.target_period, tau, "q")
        means = {"q/mean": mean_over(q, filled), "q/target": mean_over(y, filled)}
        found = {"q/loss": td_loss, "q/penalty": penalty, **means}
        return detached(found) | data_value(q, filled) | norms

    def _learn_in_sample(self, batch: Batch) -> dict[str, Tensor]:
        """Steps 5 to 8."""
        alpha = self.hyperparameter("alpha", 3)
        sequences = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        obs = with_agent_id(batch.obs)

        # 5. Q
        with torch.no_grad():
            v_next = self.target_v(with_agent_id(batch.next_obs)).squeeze(-1)
            carry = (self.hyperparameter("gamma", 2) * batch.mask).unsqueeze(-1)
            local = batch.agent_reward @ self.shares.mT
            y = local + carry * self.target_linear_mixers(v_next, batch.next_obs)
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        q = self.linear_mixers(self.q(obs, batch.action).squeeze(-1), batch.obs)
        error = q - y if self.config.loss == "local" else (q - y).mean(-1, keepdim=True)
        q_loss = mean_over(error.square(), real)

        # 6. Weights
        with torch.no_grad():
            w, _ = self.target_linear_mixers.coefficients(batch.obs)
            w = w.mean(-2)  # over the mixers that an agent's value is in
            judged = self.target_q(obs, batch.action).squeeze(-1)
        v = self.v(obs).squeeze(-1)
        raw = w * (judged - v) / alpha
        z = raw.clamp(-Z_BOUND, Z_BOUND)

        # 7. V
        v_loss = mean_over(z.exp() + w * v / alpha, real)

        # 8. Policy
        weight = z.detach().exp()
        log_prob = self.data_log_prob(self.actor.of_batch(sequences, obs), batch)
        policy_loss = -mean_over(weight * log_prob, real)

        norms = self.step(policy=policy_loss, q=q_loss, v=v_loss)
        tau = self.hyperparameter("tau")
        for target, online in (
            (self.target_q, self.q),
            (self.target_v, self.v),
            (self.target_linear_mixers, self.linear_mixers),
        ):
            self.hard_update(target, online, self.config.target_period, tau, "q")
        losses = {"q/loss": q_loss, "v/loss": v_loss, "policy/loss": policy_loss}
        means = {"q/mean": mean_over(q, real), "q/target": mean_over(y, real)}
        seen = data_value(q, real) | effective_sample_size(weight, real)
        seen |= exponent_quantiles(raw, real) | data_likelihood(log_prob, real)
        return detached(losses | means) | seen | norms

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        if not self.spec.discrete:
            local = self.q(with_agent_id(batch.obs), batch.action).squeeze(-1)
            mixed: Tensor = self.linear_mixers(local, batch.obs)
            return mixed
        utility = chosen(self.agents(batch)[:, :, :-1], batch.action)
        values: Tensor = self.mixers(utility, batch.state[:, :, :-1])
        return values

    def policy(self) -> Policy:
        """Discrete: the best legal action by the agent's own utility. Continuous: tanh of the clipped mean."""
        return self.agents.policy() if self.spec.discrete else self.actor.policy()


def neighborhoods(graph: Graph, n_agents: int, distance: int) -> Tensor:
    """``[N, N]``: 1 where two agents are within a distance of each other in the graph, else 0."""
    index = torch.arange(n_agents)
    apart = (index[:, None] - index).abs()
    if graph == "ring":
        apart = torch.minimum(apart, n_agents - apart)
    elif graph == "complete":
        apart = apart.clamp(max=1)
    return (apart <= distance).double()
